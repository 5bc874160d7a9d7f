"""Groups of variables in the order in which they are loaded; threads read the large ones ahead.

Reading waits for the disk and checks digests, loading creates objects. In parallel, a restore takes as long as the
longer of the two. Small groups come first: they are loaded while the large ones are read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from qcity_nb.checkpoint.state import buffer_targets
from qcity_nb.checkpoint.state.capture import Captured

__all__ = ["ReadBuffers", "read_ahead"]

_LARGE_BYTES = 4 << 20
"""Groups with fewer bytes in buffers are read quickly."""
_AHEAD_BYTES = 1 << 30
"""So much may be read ahead. Most of it remains in use anyway, as the memory of arrays; strings and what is moved to a
device do not."""
_MOMENT_S = 0.015
"""Loading holds the GIL for as long as a stream takes: the first reads should start before."""

ReadBuffers = Callable[[], list[Any]]
"""Returns the memory of a group's buffers, read and verified. Raises what reading raised."""

_Name = TypeVar("_Name")


def read_ahead(groups: Iterable[tuple[_Name, Captured]]) -> Generator[tuple[_Name, Captured, ReadBuffers], None, None]:
    """Each group with its memory, small groups first.

    Close the generator: threads may still be reading when the caller stops.
    """
    sized = [(sum(buffer.size for buffer in captured.buffers), name, captured) for name, captured in groups]
    waiting = deque(sorted(sized, key=lambda group: group[0]))
    begun: deque[tuple[int, _Name, Captured, Future[list[Any]]]] = deque()
    ahead = 0
    # Two threads: small groups need not wait until all large ones are read.
    with _reader() as small, _reader() as large:
        try:
            while waiting or begun:
                is_idle = not any(size >= _LARGE_BYTES for size, *_ in begun)
                while waiting and (not begun or ahead + waiting[0][0] <= _AHEAD_BYTES):
                    size, name, captured = waiting.popleft()
                    future = (large if size >= _LARGE_BYTES else small).submit(_read, captured)
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


def _read(captured: Captured) -> list[Any]:
    return buffer_targets.read_buffers(captured.skeleton, captured.buffers).memory
