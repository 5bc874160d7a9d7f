"""Groups of variables in the order in which they are loaded, their bytes read ahead in a thread.

Reading waits for the disk and checks digests, loading makes objects: beside each other, the longer of the two is what a
restore takes. Groups of few bytes come first: what has to be made of them is made while the large ones are read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from qcity_nb.checkpoint import landing
from qcity_nb.checkpoint.capture import Captured

__all__ = ["Landing", "landed"]

_AHEAD_BYTES = 1 << 30
"""So much may lie there before it is loaded. Most of it stays anyway, as the arrays' memory; texts and what goes to a
device do not."""


class Landing(Protocol):
    """A group's memory: the bytes of its buffers, read and verified."""

    def result(self) -> list[Any]:
        """Wait for it. Raises what reading raised."""


_Name = TypeVar("_Name")


def landed(groups: Iterable[tuple[_Name, Captured]]) -> Iterator[tuple[_Name, Captured, Landing]]:
    """Each group once more with its memory, those of few bytes first.

    Close it: a thread may be reading when the caller has had enough.
    """
    waiting = deque(sorted(groups, key=lambda group: sum(buffer.size for buffer in group[1].buffers)))
    begun: deque[tuple[_Name, Captured, int, Future[list[Any]]]] = deque()
    ahead = 0
    pool = ThreadPoolExecutor(1, thread_name_prefix="qcity-ahead")
    try:
        while waiting or begun:
            while waiting and (not begun or ahead + waiting[0][1].size_bytes <= _AHEAD_BYTES):
                name, captured = waiting.popleft()
                begun.append((name, captured, captured.size_bytes, pool.submit(_land, captured)))
                ahead += captured.size_bytes
            name, captured, size, future = begun.popleft()
            yield name, captured, future
            ahead -= size
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _land(captured: Captured) -> list[Any]:
    return landing.land(captured.skeleton, captured.buffers).memory
