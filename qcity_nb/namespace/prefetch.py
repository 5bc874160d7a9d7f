"""Groups of variables in the order in which they are loaded, the large ones read ahead in threads.

Reading waits for the disk and checks digests, loading makes objects: beside each other, the longer of the two is what a
restore takes. Groups of few bytes come first: what has to be made of them is made while the large ones are read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from qcity_nb.checkpoint.state import buffer_targets
from qcity_nb.checkpoint.state.capture import Captured

__all__ = ["Land", "read_ahead"]

_LARGE_BYTES = 4 << 20
"""Groups with fewer bytes beside their stream are soon there."""
_AHEAD_BYTES = 1 << 30
"""So much may lie there before it is loaded. Most of it stays anyway, as the arrays' memory; texts and what goes to a
device do not."""
_MOMENT_S = 0.015
"""Loading holds the interpreter for as long as a stream takes: the first reads are to be under way before."""

Land = Callable[[], list[Any]]
"""Gives the memory of a group's buffers, read and verified. Raises what reading raised."""

_Name = TypeVar("_Name")


def read_ahead(groups: Iterable[tuple[_Name, Captured]]) -> Generator[tuple[_Name, Captured, Land], None, None]:
    """Each group once more with its memory, those of few bytes first.

    Close it: threads may be reading when the caller has had enough.
    """
    sized = [(sum(buffer.size for buffer in captured.buffers), name, captured) for name, captured in groups]
    waiting = deque(sorted(sized, key=lambda group: group[0]))
    begun: deque[tuple[int, _Name, Captured, Future[list[Any]]]] = deque()
    ahead = 0
    # Two: what is small need not wait until all that is large is there.
    with _reader() as small, _reader() as large:
        try:
            while waiting or begun:
                is_idle = not any(size >= _LARGE_BYTES for size, *_ in begun)
                while waiting and (not begun or ahead + waiting[0][0] <= _AHEAD_BYTES):
                    size, name, captured = waiting.popleft()
                    future = (large if size >= _LARGE_BYTES else small).submit(_land, captured)
                    begun.append((size, name, captured, future))
                    ahead += size
                if is_idle:
                    wait([future for size, *_, future in begun if size >= _LARGE_BYTES], timeout=_MOMENT_S)
                size, name, captured, future = begun.popleft()
                yield name, captured, future.result
                ahead -= size
        finally:
            for *_, future in begun:
                future.cancel()


def _reader() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="qcity-ahead")


def _land(captured: Captured) -> list[Any]:
    return buffer_targets.land(captured.skeleton, captured.buffers).memory
