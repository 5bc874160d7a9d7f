"""The items of a loop: indexed if that gives the same items, else consumed again from the start."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

__all__ = ["Items"]

SLOW_SKIP_S = 1.0
"""If it takes longer than this to consume the finished items, a message says so."""


class Items:
    """Items that can be iterated from any position.

    Sequences, numpy arrays, and what Python itself would iterate by index (a torch data set) are indexed. For other
    objects ``[]`` may mean a label, a key or a column.
    """

    def __init__(self, source: Any) -> None:
        self.source = self._source = source
        try:
            self.total: int | None = len(source)
        except TypeError:  # no length, or one that it does not know (a loader over a stream)
            self.total = None
        self.is_indexed = self.total is not None and (
            isinstance(source, Sequence)
            or (hasattr(source, "__array_interface__") and hasattr(source, "__getitem__"))
            or (hasattr(source, "__getitem__") and not hasattr(source, "__iter__"))
        )

    def after(
        self, done: int, slow: Callable[[int], None], consumed: Callable[[Any], None] = lambda item: None
    ) -> Iterator[Any]:
        """The items after the first ``done``. Those are consumed before this returns.

        Args:
            consumed: called with each item that is consumed again.
            slow: called once if that takes longer than ``SLOW_SKIP_S``, with the number consumed so far.
        """
        if self.is_indexed:
            return self._indexed(done)
        values: Iterator[Any] = iter(self._source)
        until = time.monotonic() + SLOW_SKIP_S
        has_warned = False
        for n in range(done):
            try:
                consumed(next(values))
            except StopIteration:
                break
            if not has_warned and time.monotonic() > until:
                has_warned = True
                slow(n + 1)
        return values

    def _indexed(self, start: int) -> Iterator[Any]:
        index = start
        while index < len(self._source):
            try:
                value = self._source[index]
            except IndexError:  # how data sets without an iterator of their own signal their end
                return
            yield value
            index += 1
