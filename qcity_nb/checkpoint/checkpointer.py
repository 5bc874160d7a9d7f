"""Checkpoints of any state in a directory, without a run.

saver = Checkpointer("ckpt")
saver.restore(state)                      # False the first time
for step in range(steps):
    …
    if step % 100 == 0:
        saver.save(state, step=step)      # returns at memory speed, writes in the background
saver.close()
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from qcity_nb.checkpoint.encode import decode_state, encode_state
from qcity_nb.checkpoint.engine import Engine, Saving
from qcity_nb.checkpoint.state import capture as captures
from qcity_nb.checkpoint.storage.local_tier import KEEP, LocalTier
from qcity_nb.checkpoint.storage.manifest import Encoded, LoopRecord, Manifest
from qcity_nb.clock import iso_now
from qcity_nb.errors import CheckpointCorrupt, CheckpointError, UsageError

__all__ = ["Checkpointer", "load", "save"]

Mode = Literal["sync", "blocking", "lazy"]
_KEY = "state"


class Checkpointer:
    """Saves a state again and again into one directory; the newest complete checkpoint restores.

    One process writes a directory at a time; any number may read it.
    """

    def __init__(self, path: str | Path, *, keep: int = KEEP) -> None:
        """Open or begin a directory of checkpoints.

        Args:
            keep: how many of the newest checkpoints to keep.
        """
        self.path = Path(path)
        self._tier = LocalTier(self.path, term=1, keep=keep)
        self._engine = Engine(self._tier)
        self._seq = max(self._tier.seqs(), default=0)

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def save(self, state: object, *, step: int = 0, reason: str = "asked for", mode: Mode = "blocking") -> Saving:
        """Save ``state``: a dict of arrays, tensors, modules, optimizers, estimators, objects, or one such object.

        Args:
            mode: ``blocking`` returns when the state may change, and writes in the background. ``sync`` returns when
                the checkpoint is durable. ``lazy`` returns at once if a torch optimizer in the state can delay its
                step until the copy is done. What ``lazy`` copies later must not change otherwise before ``wait()``.
        Returns: a handle that tells when the checkpoint is durable. The next save waits for it.
        Raises:
            StateRefused: a variable cannot be saved; the message names it.
            CheckpointError: with ``sync``, the disk is full or cannot be written to.
        """
        if mode not in ("sync", "blocking", "lazy"):
            raise UsageError(f"save(mode={mode!r}): sync, blocking or lazy")
        captured = self._engine.capture(state, lazily="gated" if mode == "lazy" else "never", may_stream=True)
        self._seq += 1
        base = Manifest(run="", term=1, seq=self._seq, at=iso_now(), reason=reason, step=step)

        def draft() -> tuple[Manifest, Any, bytes]:
            encoded, objects = encode_state(captured)
            record = LoopRecord(key=_KEY, done=step, count=step, state=encoded)
            return replace(base, loops=(record,)), objects, b""

        saving = self._engine.submit(draft, [captured])
        if mode == "sync":
            saving.wait()
        return saving

    def finish(self) -> None:
        """Wait until nothing is being written; its ``Saving`` has the result."""
        self._engine.finish()

    def wait(self) -> None:
        """Wait until the state of the last ``save`` is copied, so that it may be changed in any way."""
        self._engine.wait_copied()

    def steps(self) -> list[int]:
        """The numbers of the existing checkpoints, oldest first."""
        return self._tier.seqs()

    def _candidates(self, number: int | None) -> Iterator[Manifest]:
        """The checkpoints to try, newest first."""
        self.finish()
        for seq in reversed(self._tier.seqs()) if number is None else (number,):
            try:
                yield self._tier.load(seq)
            except CheckpointCorrupt:
                if number is not None:
                    raise

    def restore(self, state: object, *, number: int | None = None) -> bool:
        """Fill ``state`` in place from the newest checkpoint that verifies; False if there is none.

        Args:
            number: restore this checkpoint and no other.
        Raises:
            CheckpointCorrupt: there are checkpoints and none of them verifies; ``state`` must then not be used.
            CheckpointError: the state does not fit; the message names the variable.
        """
        for manifest in self._candidates(number):
            try:
                with self._tier.open_reader(manifest) as read:
                    captures.restore(state, decode_state(_state_of(manifest), read))
                return True
            except CheckpointCorrupt:
                if number is not None:
                    raise
        if self._tier.seqs():
            raise CheckpointCorrupt(f"no checkpoint in {self.path} verifies")
        return False

    def load(self, *, number: int | None = None) -> Any:
        """The newest checkpoint that verifies, as new objects.

        Raises:
            CheckpointError: there is none, or a class that it needs is missing.
        """
        for manifest in self._candidates(number):
            try:
                with self._tier.open_reader(manifest) as read:
                    return captures.load(decode_state(_state_of(manifest), read))
            except CheckpointCorrupt:
                if number is not None:
                    raise
        raise CheckpointError(f"there is no checkpoint that verifies in {self.path}")

    def close(self) -> None:
        """Finish a save that is in progress, and free the memory."""
        self._engine.close()


def _state_of(manifest: Manifest) -> Encoded:
    state = next((loop.state for loop in manifest.loops if loop.key == _KEY), None)
    if state is None:
        raise CheckpointCorrupt(f"checkpoint {manifest.seq} holds no state of this kind: it belongs to a run")
    return state


_savers: dict[Path, Checkpointer] = {}
"""Of directories with saves in the background: the next save reuses their memory and what they know."""


def save(path: str | Path, state: object, *, step: int = 0, mode: Mode = "sync") -> Saving:
    """Save ``state`` as one more checkpoint in the directory ``path``.

    Args:
        mode: as ``Checkpointer.save``; with ``blocking`` and ``lazy`` the arena is kept for the next save into
            ``path``, and a save in progress is finished when Python exits.
    Returns: a handle that tells when it is durable, and when the state may change in any way.
    Raises:
        StateRefused, CheckpointError: as ``Checkpointer.save``.
    """
    key = Path(path).resolve()
    if mode == "sync" and key not in _savers:
        with Checkpointer(path) as saver:
            return saver.save(state, step=step, mode=mode)
    if key not in _savers:
        _savers[key] = Checkpointer(path)
    return _savers[key].save(state, step=step, mode=mode)


def load(path: str | Path, into: object = None) -> Any:
    """The newest checkpoint of the directory ``path``.

    Args:
        into: fill this state in place, and return it; without it, new objects are returned.
    Raises:
        CheckpointError: there is no checkpoint, none verifies, or it does not fit.
    """
    saver_in_use = _savers.get(Path(path).resolve())
    if saver_in_use is not None:
        saver_in_use.finish()
    with Checkpointer(path) as saver:
        if into is None:
            return saver.load()
        if not saver.restore(into):
            raise CheckpointError(f"there is no checkpoint in {path}")
        return into
