"""Which items a loop has done, so that a resumed loop notices if they are no longer the same.

A digest is taken before an item is handed out, since the body may change it. Plain values (numbers, texts, paths, and
small containers of these) count by content. Everything else counts by its type, shape and dtype, and is never read a
second time. Only lists, tuples, ranges and one-dimensional arrays are compared before the loop resumes; other iterables
are compared while their finished items are consumed again. Does not promise: to notice a change of items that are not
plain, or of a lazy sequence whose length stays the same.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import Any

__all__ = ["ItemRecord"]

NAMED = 256
"""So many items have a digest of their own, so that the first that differs can be named."""
_DIGITS = 6
_NODES = 200
_TEXT = 4096
_LONG = 100_000
"""Of a longer text or bytes only so much counts, and the length."""
COMPARE_S = 2.0
"""A comparison that takes longer is given up."""


class ItemRecord:
    """The finished items of one pass of a loop."""

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        values = values or {}
        self.total: int | None = values.get("total")
        self.done = int(values.get("done", 0))
        self.are_plain = bool(values.get("plain", True))
        """Do all finished items count by content?"""
        self._chain = bytes.fromhex(values.get("chain", ""))
        self._first = str(values.get("first", ""))
        self._next: tuple[bytes, bool] | None = None

    def values(self) -> dict[str, Any]:
        """What a checkpoint keeps of it; under 2 KB."""
        return {
            "total": self.total,
            "done": self.done,
            "plain": self.are_plain,
            "chain": self._chain.hex(),
            "first": self._first,
        }

    def hand_out(self, item: object) -> None:
        """Note an item that is about to be handed out."""
        content = _plain(item)
        self._next = (content, True) if content is not None else (_shape(item), False)

    def finish(self) -> None:
        """Note that the item handed out last is finished."""
        if self._next is None:
            return
        content, is_plain = self._next
        self._next = None
        self.are_plain &= is_plain
        self._chain = hashlib.blake2b(self._chain + content, digest_size=8).digest()
        if self.done < NAMED:
            self._first += self._chain.hex()[:_DIGITS]
        self.done += 1

    def add(self, item: object) -> None:
        """Note a finished item."""
        self.hand_out(item)
        self.finish()

    def difference(self, source: object, name: str) -> str:
        """How the finished items of ``source`` differ from those that were done; empty: they do not, or nobody knows.

        Args:
            source: what the loop is to iterate over now; it is read only if that has no effect.
        """
        total = len(source) if isinstance(source, list | tuple | range) else None
        if total is not None and total < self.done:
            return f"{self.done} items of city.loop {name!r} are done, and there are only {total} now"
        is_array = hasattr(source, "__array_interface__") and getattr(source, "ndim", 0) == 1
        if not self.are_plain or not (total is not None or is_array):
            return ""
        again = ItemRecord()
        until = time.monotonic() + COMPARE_S
        for n in range(self.done):
            again.add(source[n])  # type: ignore[index]
            if n % 1024 == 1023 and time.monotonic() > until:
                return ""
        return self.differs(again, name)

    def differs(self, again: ItemRecord, name: str) -> str:
        """How the items of ``again``, the first of the loop, differ from those that were done; empty: they do not."""
        for n in range(0, min(len(self._first), len(again._first)), _DIGITS):
            if self._first[n : n + _DIGITS] != again._first[n : n + _DIGITS]:
                return f"item {n // _DIGITS} of city.loop {name!r} is done, and is another one now"
        if again.done == self.done and again._chain != self._chain:
            return f"some of the {self.done} items of city.loop {name!r} that are done are other ones now"
        if again.done < self.done:
            return f"{self.done} items of city.loop {name!r} are done, and there are only {again.done} now"
        return ""


def _plain(item: object) -> bytes | None:
    """The content of a plain value; ``None``: it is not one, or large."""
    if type(item) is int:  # a range's items
        return b"i%d" % item
    left = [_NODES]
    text = _content(item, left)
    return None if text is None else text.encode("utf-8", "surrogatepass")


def _content(item: object, left: list[int]) -> str | None:
    left[0] -= 1
    if left[0] < 0:
        return None
    if item is None or type(item) in (bool, int, float, complex):
        return f"{type(item).__name__[0]}{item!r}"
    if isinstance(item, str | bytes):
        if len(item) <= _TEXT:
            return f"{type(item).__name__[0]}{item!r}"
        head = item[:_LONG].encode("utf-8", "surrogatepass") if isinstance(item, str) else item[:_LONG]
        return f"{type(item).__name__[0]}#{len(item)}{hashlib.blake2b(head, digest_size=8).hexdigest()}"
    if isinstance(item, PurePath):
        return f"p{item.as_posix()!r}"
    if type(item).__module__ == "numpy" and getattr(item, "shape", None) == () and hasattr(item, "item"):  # a scalar
        return _content(item.item(), left)
    if is_dataclass(item) and not isinstance(item, type):
        return _parts(type(item).__qualname__, [getattr(item, each.name) for each in fields(item)], left)
    if isinstance(item, dict):
        return _parts("d", [part for pair in item.items() for part in pair], left)
    if isinstance(item, list | tuple):
        return _parts("l" if isinstance(item, list) else "t", item, left)
    return None


def _parts(kind: str, parts: Iterable[object], left: list[int]) -> str | None:
    texts = []
    for part in parts:
        text = _content(part, left)
        if text is None:
            return None
        texts.append(text)
    return f"{kind}({','.join(texts)})"


def _shape(item: object) -> bytes:
    """What can be known of an item without reading it."""
    parts = item if isinstance(item, list | tuple) and len(item) <= 16 else (item,)
    return "|".join(
        f"{type(part).__qualname__}{getattr(part, 'shape', '')}{getattr(part, 'dtype', '')}" for part in parts
    ).encode()
