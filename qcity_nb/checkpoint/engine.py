"""The checkpoint engine: captures in the caller's thread, hashes and writes in a thread of its own.

    capture ── copied into the arena, or proved unchanged ──▶ the caller continues
       └─▶ writer thread: hash → what the previous checkpoint does not have → pack → manifest ──▶ durable

One save at a time: the arena is in use until it is written, so that one arena bounds the memory. A save that becomes
due before that waits or is skipped.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Protocol

from qcity_nb.checkpoint.buffer import Buffer
from qcity_nb.checkpoint.encode import Discarded
from qcity_nb.checkpoint.state.capture import Captured, capture
from qcity_nb.checkpoint.state.freezer import CaptureBuffer, Freezer, Lazily
from qcity_nb.checkpoint.state.structure import Structure
from qcity_nb.checkpoint.storage.local_tier import LocalTier
from qcity_nb.checkpoint.storage.manifest import Manifest

__all__ = ["PendingCheckpoint", "Engine", "Saving", "UsedMemory"]

_NICE = 10
"""The writer has a lower priority than the training."""

PendingCheckpoint = Callable[[], tuple[Manifest, Mapping[str, Buffer], bytes]]
"""Makes a checkpoint from what was captured: manifest, objects, rows. Called in the writer thread."""


class UsedMemory(Protocol):
    """Memory that a save needs until it is written: of one ``Captured``, or of several that share it."""

    @property
    def buffer(self) -> CaptureBuffer | None:
        """The memory, if a freezer allocated it."""

    def release(self) -> None:
        """Called when the save no longer needs it."""


class Saving:
    """A save in progress."""

    def __init__(self) -> None:
        self._future: Future[Manifest] | None = None
        self._used: Sequence[UsedMemory] = ()
        self.new_bytes = 0
        """Bytes of the objects that were written, once the save is done."""
        self.cpu_s = 0.0
        """CPU time of hashing and writing, once the save is done."""

    def done(self) -> bool:
        """Has it ended, successfully or not?"""
        return self._future is None or self._future.done()

    def wait_copied(self) -> None:
        """Wait until the live state may be changed in any way."""
        for captured in self._used:
            if captured.buffer is not None:
                captured.buffer.copied.wait()

    def wait(self, timeout_s: float | None = None) -> Manifest:
        """Wait until the checkpoint is durable.

        Raises:
            CheckpointError: the disk is full or cannot be written to; the previous checkpoint is untouched.
            Discarded: the state was changed while it was copied lazily; nothing was written.
            TimeoutError: it took longer than ``timeout_s``.
        """
        assert self._future is not None
        return self._future.result(timeout_s)


class Engine:
    """Saves into one local tier. Not thread-safe, except for ``wait_copied``."""

    def __init__(self, tier: LocalTier, *, writer: Executor | None = None) -> None:
        """Save into ``tier``, in a thread of its own or in ``writer``, which must run one task at a time."""
        self.tier = tier
        self.freezer = Freezer()
        self._copying: Captured | None = None
        self._saving: Saving | None = None
        self._writer = writer

    @property
    def is_busy(self) -> bool:
        """Is a save still being written?"""
        return self._saving is not None and not self._saving.done()

    def capture(
        self,
        state: object,
        *,
        lazily: Lazily = "gated",
        may_stream: bool = False,
        structure: Structure | None = None,
    ) -> Captured:
        """Freeze ``state``. Waits for the previous save, whose memory it reuses.

        Args:
            may_stream: the caller submits it before it continues, so nothing need be copied if memory is short.
            structure: the state's loop, see ``capture``.
        Raises:
            StateRefused: a variable cannot be saved.
        """
        self.wait_copied()
        self.finish()
        captured = capture(
            state,
            self.freezer,
            stored=self.tier.stored.keys(),
            lazily=lazily,
            may_stream=may_stream,
            structure=structure,
        )
        self._copying = captured
        return captured

    def wait_copied(self) -> None:
        """Wait until the live state may be changed in any way."""
        captured = self._copying
        if captured is not None and captured.buffer is not None:
            captured.buffer.copied.wait()

    def finish(self) -> None:
        """Wait until nothing is being written; its ``Saving`` has the result."""
        if self._saving is not None and self._saving._future is not None:
            with contextlib.suppress(Exception):
                self._saving.wait()

    def submit(self, draft: PendingCheckpoint, used: Sequence[UsedMemory]) -> Saving:
        """Write a checkpoint in the background. The memory of ``used`` is free again when it is done.

        If memory was too short for a copy, it is written before this returns.
        """
        self.finish()
        if self._writer is None:
            self._writer = ThreadPoolExecutor(1, thread_name_prefix="qcity-save", initializer=_give_way)
        saving = self._saving = Saving()
        saving._used = used
        saving._future = self._writer.submit(self._write, saving, draft, used)
        self._writer.submit(self.tier.prune)  # unlinking a gigabyte takes half a second: no caller should wait for that
        if any(captured.buffer is not None and captured.buffer.is_live for captured in used):
            self.finish()
        return saving

    def _write(self, saving: Saving, draft: PendingCheckpoint, used: Sequence[UsedMemory]) -> Manifest:
        began_s = time.thread_time()
        try:
            manifest, objects, rows = draft()
            before = self.tier.stored
            saved = self.tier.save(manifest, objects, rows, prune=False)
            saving.new_bytes = sum(ref.size_bytes for name, ref in saved.objects.items() if name not in before)
            return saved
        except Discarded:
            self.freezer.gate.is_trusted = False
            raise
        finally:
            for captured in used:
                if captured.buffer is not None:
                    captured.buffer.copied.wait()  # a failed draft may not have waited for all of them
                captured.release()
            saving._used = ()
            saving.cpu_s = time.thread_time() - began_s

    def close(self) -> None:
        """Finish a save that is in progress, and free all memory."""
        self.wait_copied()
        if self._writer is not None:
            self._writer.shutdown(wait=True)
            self._writer = None
        self.freezer.close()


def _give_way() -> None:
    with contextlib.suppress(OSError, AttributeError):  # only Linux has priorities of threads
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
