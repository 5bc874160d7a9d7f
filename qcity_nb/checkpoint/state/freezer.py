"""From live buffers to copies: what is copied when, and what is proved to be unchanged.

For each buffer the freezer remembers the last names of its slices. A slice that did not change last time, or whose
counter (torch's ``_version``) did not change, is hashed in place; if the hash is the old one, it is not copied. Any
other slice is copied at once, at the speed of memory, and hashed later from the copy. Counters and guesses decide only
which of the two is done first. That a slice is unchanged is always proved by the hash, since fused optimizers,
``.data`` writes and numpy aliases change memory without changing a counter.

*Lazily*, a thread does the same while the next forward and backward pass reads the same weights: only for parameters
and optimizer state of torch optimizers in the state, whose steps wait for it (``optimizer_gate``). Sources:
docs/design.md, "The checkpoint engine"; CheckFreq (FAST '21) for copies that overlap with the next iteration.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

from qcity_nb.checkpoint.digest import name_of
from qcity_nb.checkpoint.memory import PAGE, Arena, Span, available_bytes, copy, view_at
from qcity_nb.checkpoint.state.frozen_buffer import Content, Frozen, SmallBuffer, slices_of
from qcity_nb.checkpoint.state.optimizer_gate import Gate
from qcity_nb.checkpoint.state.pickling import Dumped

__all__ = ["SMALL_BYTES", "Freezer", "Lazily", "CaptureBuffer"]

SMALL_BYTES = 64 * 1024
"""Smaller buffers are copied at once, one by one."""
_PARALLEL_BYTES = 16 << 20
"""From this size on, two threads share the work."""
_FORGET_AFTER = 32
"""A buffer that did not occur in so many captures is forgotten."""
_MEMORY_SHARE = 0.9
"""An arena uses at most this share of the free memory."""

Lazily = Literal["never", "gated", "all"]


@dataclass(slots=True, eq=False)
class _Known:
    """A buffer as it was in the last capture."""

    names: list[str]
    cold: bytearray
    """By slice: 1 if it did not change last time."""
    hint: int
    seen: int = 0


@dataclass(slots=True, eq=False)
class CaptureBuffer:
    """One capture's memory: in use until ``release``."""

    arena: Arena | None = None
    copied: threading.Event = field(default_factory=threading.Event)
    """Set when the live state may change in any way."""
    watch: list[tuple[tuple[Any, ...], int]] = field(default_factory=list)
    trouble: BaseException | None = None
    is_spoiled: bool = False
    """The live state changed while it was copied lazily: this capture must be discarded."""
    is_live: bool = False
    """Memory was short: large buffers were not copied, and the live state must not change until all is written."""
    keep: Any = None
    release: Callable[[], None] = lambda: None


class Freezer:
    """Copies states one after the other and remembers them. Not thread-safe."""

    def __init__(self) -> None:
        self.gate = Gate()
        self._known: dict[tuple[int, int], _Known] = {}
        self._turn = 0
        self._idle: list[Arena] = []
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self.arena_bytes = 0
        """Memory in arenas now."""

    # -- memory

    def _arena(self, size: int, *, may_stream: bool) -> Arena | None:
        """An arena of ``size`` bytes or more; None if memory is short and ``may_stream``."""
        with self._lock:
            self._idle.sort(key=lambda idle: idle.size)
            fitting = next((idle for idle in self._idle if idle.size >= size), None)
            arena = fitting or (self._idle[-1] if self._idle else Arena())
            if arena in self._idle:
                self._idle.remove(arena)
        before = arena.size
        if before < size:
            arena.release()
            free = available_bytes()
            if may_stream and free is not None and size > free * _MEMORY_SHARE:
                self.arena_bytes -= before
                return None
        try:
            arena.begin(size)
        except MemoryError:
            self.arena_bytes -= before
            if not may_stream:
                raise
            return None
        self.arena_bytes += arena.size - before
        return arena

    def _give_back(self, arena: Arena) -> None:
        with self._lock:
            if arena in self._idle:
                return
            self._idle.append(arena)
            # One spare arena is enough: more would waste memory.
            for spare in sorted(self._idle, key=lambda idle: idle.size)[:-1]:
                self._idle.remove(spare)
                self.arena_bytes -= spare.size
                spare.release()

    def close(self) -> None:
        """Free all memory."""
        self.gate.close()
        if self._pool is not None:
            self._pool.shutdown(wait=True)
            self._pool = None
        with self._lock:
            for arena in self._idle:
                self.arena_bytes -= arena.size
                arena.release()
            self._idle.clear()
        self._known.clear()

    # -- freezing

    def freeze(
        self, dumped: Dumped, *, stored: Collection[str], lazily: Lazily, may_stream: bool
    ) -> tuple[list[Content], CaptureBuffer]:
        """Freeze the buffers of a state.

        Args:
            stored: names that need not be copied again: those of the newest checkpoint.
            lazily: which buffers may be copied later: ``gated``, those that only a hooked optimizer changes.
            may_stream: if memory is short, copy nothing (``CaptureBuffer.is_live``): the caller writes first.
        Returns: the buffers in order, and the memory that they use. The state may change once
            ``CaptureBuffer.copied`` is set; before that only a hooked optimizer's step may follow, which waits.
        """
        self._turn += 1
        large = [span for span in dumped.spans if span.size >= SMALL_BYTES]
        capture_buffer = CaptureBuffer(keep=dumped.keep)
        buffers: list[Content] = []
        jobs: list[tuple[Span, Frozen]] = []
        if large:
            arena_bytes = sum(-(-span.size // PAGE) * PAGE for span in large)
            capture_buffer.arena = self._arena(arena_bytes, may_stream=may_stream)
            capture_buffer.is_live = capture_buffer.arena is None
        for span in dumped.spans:
            if span.size < SMALL_BYTES:
                buffers.append(SmallBuffer(_bytes(span)))
                continue
            frozen = Frozen(span.size)
            buffers.append(frozen)
            if capture_buffer.arena is not None:
                frozen.base = capture_buffer.arena.allocate(span.size)
                frozen.keep = capture_buffer.arena
                jobs.append((span, frozen))
            else:
                _leave_live(span, frozen)
        arena = capture_buffer.arena
        if arena is not None:
            if any(span.device is not None for span in large):
                from qcity_nb.checkpoint.state import gpu

                arena.pin(gpu.pin)
            capture_buffer.release = lambda: self._give_back(arena)
        try:
            gated = self.gate.select_gated(dumped.optimizers, lazily, jobs) - {id(span) for span in dumped.at_once}
            later = [job for job in jobs if id(job[0]) in gated]
            now = [job for job in jobs if id(job[0]) not in gated]
            plans = self._plan(jobs)
            self._work(now, plans, stored)
        except BaseException:  # a device may fail, Ctrl-C may come: the next capture needs the memory
            capture_buffer.release()
            raise
        if later:
            capture_buffer.watch = [(span.watch, span.hint) for span, _ in later if span.hint >= 0]
            self.gate.close_for(capture_buffer)
            self._workers().submit(self._later, capture_buffer, later, plans, stored)
        else:
            capture_buffer.copied.set()
        for key in [key for key, known in self._known.items() if self._turn - known.seen > _FORGET_AFTER]:
            del self._known[key]
        return buffers, capture_buffer

    def _plan(self, jobs: list[tuple[Span, Frozen]]) -> dict[int, _Known | None]:
        """What is known of each buffer; also sets where each buffer reports its names."""
        plans: dict[int, _Known | None] = {}
        for span, frozen in jobs:
            key = span.address, span.size
            known = self._known.get(key) if span.device is None else None
            plans[id(span)] = known
            if known is not None:
                known.seen = self._turn
            frozen.learn = _Learner(self._known, key, known, span.hint, self._turn) if span.device is None else _nothing
        return plans

    def _workers(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="qcity-copy")
        return self._pool

    def _work(self, jobs: list[tuple[Span, Frozen]], plans: dict[int, _Known | None], stored: Collection[str]) -> None:
        total = sum(span.size for span, _ in jobs)
        if total < _PARALLEL_BYTES or len(jobs) < 2:
            _freeze_all(jobs, plans, stored)
            return
        cut, reached = 0, 0
        while reached < total // 2:
            reached += jobs[cut][0].size
            cut += 1
        other: Future[None] = self._workers().submit(_freeze_all, jobs[cut:], plans, stored)
        _freeze_all(jobs[:cut], plans, stored)
        other.result()

    def _later(
        self,
        capture_buffer: CaptureBuffer,
        jobs: list[tuple[Span, Frozen]],
        plans: dict[int, _Known | None],
        stored: Collection[str],
    ) -> None:
        try:
            _freeze_all(jobs, plans, stored)
            capture_buffer.is_spoiled = any(
                sum(tensor._version for tensor in tensors) != hint for tensors, hint in capture_buffer.watch
            )
        except BaseException as error:  # noqa: BLE001 - raised when the capture is used
            capture_buffer.trouble = error
        finally:
            capture_buffer.watch.clear()
            capture_buffer.keep = None
            capture_buffer.copied.set()
            self.gate.open_for(capture_buffer)


def _nothing(names: list[str]) -> None:
    """Remember nothing of a buffer on a device: it is copied to the host before it can be hashed."""


class _Learner:
    """Remembers a buffer's names once they are known."""

    __slots__ = ("_all", "_before", "_hint", "_key", "_turn")

    def __init__(
        self,
        known: dict[tuple[int, int], _Known],
        key: tuple[int, int],
        before: _Known | None,
        hint: int,
        turn: int,
    ) -> None:
        self._all, self._key, self._before, self._hint, self._turn = known, key, before, hint, turn

    def __call__(self, names: list[str]) -> None:
        before = self._before
        cold = bytearray(len(names))
        if before is not None:
            for index, name in enumerate(names):
                cold[index] = name == before.names[index]
        self._all[self._key] = _Known(names=list(names), cold=cold, hint=self._hint, seen=self._turn)


def _bytes(span: Span) -> bytes:
    if span.device is None:
        return bytes(view_at(span.address, span.size)) if span.size else b""
    host = span.device.cpu()
    return bytes(view_at(host.data_ptr(), span.size))


def _leave_live(span: Span, frozen: Frozen) -> None:
    if span.device is not None:
        host = span.device.cpu()  # one buffer at a time would need a second pass over the device
        frozen.base, frozen.keep = host.data_ptr(), host
    else:
        frozen.base, frozen.keep = span.address, span.keep
    frozen.fresh[:] = b"\1" * len(frozen.fresh)


def _freeze_all(jobs: list[tuple[Span, Frozen]], plans: dict[int, _Known | None], stored: Collection[str]) -> None:
    on_device = [job for job in jobs if job[0].device is not None]
    for span, frozen in jobs:
        if span.device is None:
            _freeze(span, frozen, plans[id(span)], stored)
    if on_device:
        from qcity_nb.checkpoint.state import gpu

        gpu.fetch([(span.device, frozen.base, span.size) for span, frozen in on_device])
        for _, frozen in on_device:
            frozen.fresh[:] = b"\1" * len(frozen.fresh)


def _freeze(span: Span, frozen: Frozen, known: _Known | None, stored: Collection[str]) -> None:
    count = len(frozen.fresh)
    is_still = known is not None and 0 <= span.hint == known.hint
    if known is None or not (is_still or any(known.cold)):
        copy(frozen.base, span.address, span.size)
        frozen.fresh[:] = b"\1" * count
        return
    begin = -1
    for index, (at, length) in enumerate(slices_of(span.size)):
        if is_still or known.cold[index]:
            name = name_of(view_at(span.address + at, length))
            frozen.names[index] = name
            if name == known.names[index] and name in stored:
                if begin >= 0:
                    copy(frozen.base + begin, span.address + begin, at - begin)
                    begin = -1
                continue
        frozen.fresh[index] = 1
        if begin < 0:
            begin = at
    if begin >= 0:
        copy(frozen.base + begin, span.address + begin, span.size - begin)
