"""Chains: append-only lines, stored as a linked list of small segments. The journal and the outbox are chains.

The run record names the newest segment; a segment's first line names the previous one. A segment under 64 KiB is
rewritten with the new lines added instead of getting a successor, so a chain of n bytes has about n / 64 KiB segments.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from qcity_nb import codec
from qcity_nb.clock import iso_now
from qcity_nb.errors import Missing
from qcity_nb.records import Event

__all__ = [
    "SEGMENT_BYTES",
    "Segment",
    "append",
    "decode_events",
    "decode_lines",
    "encode_event",
    "event",
    "predecessor",
    "walk",
]

SEGMENT_BYTES = 64 * 1024

Read = Callable[[str], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """The new newest segment of a chain."""

    name: str
    data: bytes
    replaced: str
    """The segment whose lines are all in this one; nobody needs it once the run record names this one."""
    lost: str = ""
    """The segment that should be before this one and cannot be decoded: the chain begins anew."""


def _split(data: bytes) -> tuple[str, bytes]:
    first, _, rest = data.partition(b"\n")
    try:
        prev = json.loads(first)["prev"]
    except (ValueError, KeyError, TypeError) as error:
        raise codec.DecodeError(f"the first line of a segment names no predecessor: {error}") from None
    if not isinstance(prev, str):
        raise codec.DecodeError("the first line of a segment names no predecessor")
    return prev, rest


def predecessor(data: bytes) -> str:
    """The name of the segment before this one; empty for the first."""
    return _split(data)[0]


def append(tip: str, lines: bytes, *, folder: str, term: int, read: Read) -> Segment:
    """A chain's next segment, with ``lines`` (each ended by a newline) after all earlier lines.

    Args:
        tip: the newest segment's name, or empty for a new chain.
        folder: where segments of this chain live, such as ``journal``.
        read: content by name.
    """
    prev, before, replaced, lost = tip, b"", "", ""
    if tip:
        try:
            older, rest = _split(read(tip))
        except codec.DecodeError:
            prev, lost = "", tip
        else:
            if len(rest) < SEGMENT_BYTES:
                prev, before, replaced = older, rest, tip
    name = f"{folder}/t{term}-{uuid.uuid4().hex[:12]}.jsonl"
    first = json.dumps({"prev": prev}).encode() + b"\n"
    return Segment(name=name, data=first + before + lines, replaced=replaced, lost=lost)


def walk(
    tip: str,
    read: Read,
    *,
    until: Callable[[bytes], bool] = lambda lines: False,
    damaged: Callable[[str], None] = lambda segment: None,
) -> Iterator[bytes]:
    """The lines of a chain, oldest first, without their newlines.

    A segment that cannot be decoded counts as gone, and with it those before it.

    Args:
        until: called with a segment's lines; true if the segments before it are not needed.
        damaged: called with the name of a segment that cannot be decoded.
    Raises:
        Missing: a segment was replaced while reading; read the run record again and start over.
    """
    parts: list[bytes] = []
    seen: set[str] = set()
    while tip:
        seen.add(tip)
        try:
            prev, rest = _split(read(tip))
        except codec.DecodeError:
            damaged(tip)
            break
        parts.append(rest)
        if prev in seen:  # it follows itself
            damaged(prev)
            break
        tip = prev
        if until(rest):
            break
    for part in reversed(parts):
        yield from (line for line in part.split(b"\n") if line)


def event(kind: str, *, term: int, attempt: str = "", **data: object) -> Event:
    """An event that happens now."""
    return Event(kind=kind, at=iso_now(), term=term, attempt=attempt, data=data)


def encode_event(record: Event) -> bytes:
    """One line."""
    return codec.dumps(record) + b"\n"


def decode_events(tip: str, read: Read) -> list[Event]:
    """The journal, oldest first, as far as it can be decoded; empty where there is none, or segments are gone."""
    try:
        return list(decode_lines(walk(tip, read)))
    except Missing:
        return []


def decode_lines(lines: Iterable[bytes]) -> Iterator[Event]:
    """The events of these lines; those that are none are left out."""
    for line in lines:
        with contextlib.suppress(codec.DecodeError):
            yield codec.loads(Event, line)
