"""The kernel's side of an attempt: cells, open loops, and the checkpoints that cover them.

Nothing here talks to the store: a checkpoint goes to the local tier, and the sidecar publishes it from there.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from qcity_nb.checkpoint.encode import Discarded, decode_state
from qcity_nb.checkpoint.engine import Engine, UsedMemory
from qcity_nb.checkpoint.state.capture import Captured
from qcity_nb.checkpoint.storage.local_tier import LocalTier
from qcity_nb.checkpoint.storage.manifest import Context, Encoded, Manifest
from qcity_nb.clock import Clock, SystemClock, iso_now
from qcity_nb.errors import QcityError, StoreUnavailable, UsageError
from qcity_nb.kernel.changes.environment_check import EnvironmentCheck
from qcity_nb.kernel.changes.loop_edits import LoopEdits
from qcity_nb.kernel.changes.run_history import ChangeKind, RunHistory
from qcity_nb.kernel.finished_cells import FinishedCells
from qcity_nb.kernel.interrupt import uninterrupted
from qcity_nb.kernel.loop_keys import key_of
from qcity_nb.kernel.loop_state import Loop
from qcity_nb.kernel.metric_log import MetricLog
from qcity_nb.kernel.output_recorder import Recorder
from qcity_nb.kernel.pending_save import PendingSave
from qcity_nb.kernel.sidecar_client import SidecarClient
from qcity_nb.run.mailbox import Mailbox, Status
from qcity_nb.tracking.outbox import decode_rows, encode_rows

__all__ = ["Session"]

NAMED_S = 60.0
"""How long a loop waits until the store has a named checkpoint."""


class Session:
    """One kernel's part in one attempt."""

    def __init__(
        self,
        mailbox: Mailbox,
        status: Status,
        *,
        revive: Callable[[], None] | None = None,
        clock: Clock | None = None,
        deadline_s: float | None = None,
    ) -> None:
        self.sidecar = SidecarClient(mailbox, status, revive=revive)
        self.run, self.term = status.run, status.term
        self.clock = clock or SystemClock()
        self.recorder = Recorder()
        folder = Path(status.tier)
        self.tier = LocalTier(folder, term=status.term, run_id=status.run_id)
        self.engine = Engine(self.tier)
        self._pending: PendingSave | None = None
        self._is_short = False
        self._is_reported = False
        """A checkpoint was finished, and the listeners have not been called yet."""
        self.manifest: Manifest | None = self.tier.newest()
        self.seq = int((folder / "seq").read_text(encoding="ascii"))
        covered = folder / "covered.jsonl"
        self.metric_log = MetricLog(self.clock.wall_ms, decode_rows(covered.read_bytes()) if covered.exists() else ())
        self.bests = self.metric_log.bests
        self.loops: dict[str, Loop] = {}
        self.open: list[Loop] = []
        """The running loops, outermost first."""
        self.finished_passes: dict[str, int] = {}
        """The passes that were finished in this kernel, by loop: if the cell is run again, a new pass begins."""
        self.entered = 0
        """How many loops have begun in this kernel."""
        self.cells: dict[str, str] = {}
        """The cell of this kernel that a loop's name belongs to."""
        self.cost_s = 0.0
        """How long captures stopped the loops since the newest save."""
        self.save_s = 0.0
        """How long the newest save stopped them, its captures included."""
        self.saved_at_s = self.clock.now_s()
        self.force = False
        """A checkpoint was asked for: the next boundary makes it."""
        self.label = ""
        """The name of the next checkpoint, which then stays in the store permanently."""
        self.deadline_s = deadline_s
        """When this host ends its session, on ``clock``; ``None``: not known."""
        self.listeners: list[Callable[[], None]] = []
        self.history = RunHistory.of(self.manifest, began_s=self.clock.now_s())
        self.environment = EnvironmentCheck(self.manifest.values if self.manifest is not None else {})
        self.loop_edits = LoopEdits()
        self.finished_cells: FinishedCells | None = None
        """The notebook's finished cells, if the engine or the extension follows its cells."""
        self.once: Mapping[str, str] = self.manifest.values.get("once", {}) if self.manifest is not None else {}
        """When cells that must not run twice began, by source."""
        self._rewind()

    # -- rows and cells -----------------------------------------------------------------------------------

    def log(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Keep one row per metric; it is stored with the checkpoint that covers it.

        Raises:
            UsageError: a value that is not a number.
            LeaseLost: another attempt holds the run.
        """
        self.sidecar.check()
        self.metric_log.log(metrics, step)
        self.sidecar.name_metrics(self.metric_log.new_names)

    def announce(self, kind: ChangeKind, text: str, *, step: int | None = None) -> None:
        """Tell people what changed: below the cell, in journal and tracker, and as a mark in the curves at ``step``."""
        at = step if step is not None else self.metric_log.scopes[-1].step
        self.sidecar.announce(kind, text, step=at)
        self.history.add_change(kind, text, step=at, term=self.term)

    @property
    def cell(self) -> tuple[str, str]:
        """The running cell's id, or its source's hash if it has none, and the hash of its source; empty in a script."""
        key = self.metric_log.scopes[0].key
        cell_id, _, source = key.removeprefix("cell:").rpartition("#")
        return (cell_id or source, source) if key.startswith("cell:") else (key, "")

    def start_cell(self, key: str) -> None:
        """Start a cell; ``key`` identifies it and its source."""
        self.recorder.start_cell()
        self.open.clear()
        self.metric_log.start_cell(key)

    def end_cell(self, *, ok: bool) -> None:
        """End the cell: commit what it did or, if it failed, go back to the last checkpoint."""
        if not ok:
            self.finish_save(quietly=True)
            self._rewind()
            return
        while self.open:  # their iterators still exist
            self.leave(self.open[0])
        if self.finished_cells is None or self.has_left:  # else the save after ``finished`` is enough
            self.commit("cell")
            self.finish_save()
        self.metric_log.end_cell()
        for loop in self.loops.values():
            if loop.finished and loop.touched:
                self.finished_passes[loop.key] = loop.passes

    def commit(self, reason: str) -> None:
        """Save rows, and loops left by ``break``, that no checkpoint covers yet; durable when this returns."""
        self.finish_save()
        if self.metric_log.pending or self.has_left:
            self.save(reason)
            self.finish_save()

    @property
    def has_left(self) -> bool:
        """Was a loop left early that is not finished in a checkpoint yet?"""
        return any(loop.left and not loop.finished for loop in self.loops.values())

    def _rewind(self) -> None:
        """Go back to the newest checkpoint: forget what it does not cover."""
        touched = {key for key, loop in self.loops.items() if loop.touched}
        records = self.manifest.loops if self.manifest is not None else ()
        for loop in self.loops.values():
            loop.drop_snap()
        self.open.clear()
        self.force = False
        self.label = ""
        self.bests.restore(self.manifest.values.get("best", {}) if self.manifest is not None else {})
        self.loops = {record.key: Loop.of(record) for record in records}
        for key, loop in self.loops.items():
            loop.touched = key in touched
            loop.has_inner = any(other.startswith(key + "/") for other in self.loops)
        self.metric_log.rewind(self.manifest)

    # -- loops --------------------------------------------------------------------------------------------

    def key_of(self, name: str | None) -> str:
        """The key of a loop that begins here (``loop_keys``).

        Raises:
            UsageError: another cell has a loop of that name.
        """
        return key_of(
            name,
            calls=self.metric_log.scopes[-1].calls,
            outer=self.open[-1].key if self.open else None,
            cell=self.cell,
            owners=self.cells,
            finished=self.finished_passes,
        )

    def enter(self, loop: Loop) -> None:
        """Start a loop, with the scope of its next iteration."""
        self.entered += 1
        if not self.open:
            self.recorder.is_recording = True
        loop.parent = self.open[-1] if self.open else None
        if loop.parent is not None:
            loop.parent.has_inner = True
        self.loops[loop.key] = loop
        self.open.append(loop)
        loop.row_scope = self.metric_log.begin_scope(loop.key, loop.count, loop.count)
        self.metric_log.scopes.append(loop.row_scope)

    def advance(self, loop: Loop) -> None:
        """Finish the loop's iteration, and all loops that are open inside it.

        Raises:
            UsageError: the loop no longer runs.
        """
        if loop not in self.open or loop.row_scope is None:
            raise UsageError(
                f"city.loop {loop.name!r} was left and cannot continue: its cell has ended, or another loop's"
                " iteration has; loops may be nested, not mixed"
            )
        self._close(loop)
        loop.advance()
        self.drop_inner(loop)
        self.open.append(loop)
        loop.row_scope = self.metric_log.begin_scope(loop.key, loop.count, loop.count)
        self.metric_log.scopes.append(loop.row_scope)

    def _close(self, loop: Loop) -> None:
        """Remove the loop, and the loops open inside it, from those that run."""
        assert loop.row_scope is not None
        del self.open[self.open.index(loop) :]
        if loop.row_scope in self.metric_log.scopes:
            del self.metric_log.scopes[self.metric_log.scopes.index(loop.row_scope) :]
        self.metric_log.note_iteration(loop.key)

    def drop_inner(self, loop: Loop) -> None:
        """Forget inner loops, which belong to one outer iteration; only their count over the run stays."""
        if loop.has_inner:
            prefix = loop.key + "/"
            for key, inner in self.loops.items():
                if key.startswith(prefix):
                    self.loops[key] = Loop(key=key, name=inner.name, count=inner.count, has_inner=inner.has_inner)

    def freeze(self, loop: Loop, *, at_once: bool = False, may_stream: bool = False) -> None:
        """Capture the loop at its present boundary; waits for the previous save, whose memory it uses.

        Args:
            at_once: nothing is copied lazily.
            may_stream: ``save`` follows before anything else, so if memory is short nothing need be copied.
        """
        began_s = self.clock.now_s()
        self.finish_save()
        is_short = loop.freeze(self.recorder, self.engine, at_once=at_once, may_stream=may_stream)
        if is_short and not self._is_short:
            self._is_short = True
            text = "there is too little memory for a copy of the state: the loop waits while each save is written"
            self.sidecar.note("short-memory", message=text)
            warnings.warn(text, stacklevel=4)
        if self.open:
            self.recorder.drop(min(running.out_from for running in self.open))
        self.cost_s += self.clock.now_s() - began_s

    def finish(self, loop: Loop) -> None:
        """Finish the loop, which ran to its end."""
        if loop not in self.open:
            self.advance(loop)  # raises
        self.drop_inner(loop)
        loop.finished = True
        self.freeze(loop, at_once=True)
        self.drop(loop)

    def leave(self, loop: Loop) -> None:
        """Close a loop left by ``break`` or by an exception; which of them it was shows at the cell's end."""
        if loop not in self.open:
            return
        try:
            self.freeze(loop, at_once=True)
        except Exception as error:  # noqa: BLE001 - raised when the loop is to be saved: a closing iterator cannot
            loop.trouble = error
        self.drop(loop)
        loop.left = True

    def drop(self, loop: Loop) -> None:
        """Stop the loop; it keeps its last boundary."""
        if loop in self.open:
            self._close(loop)
        if not self.open:
            self.recorder.is_recording = False

    def read_loop_state(self, loop: Loop) -> tuple[Captured | None, Captured | None]:
        """State and generators of a loop, from the local tier."""
        self.finish_save()
        return self.read(loop.saved_state), self.read(loop.saved_generators)

    def read(self, encoded: Encoded | None) -> Captured | None:
        """The content of that part of the newest checkpoint."""
        self.finish_save()
        manifest = self.manifest
        if encoded is None or manifest is None:
            return None
        return decode_state(encoded, self.tier.reader(manifest))

    def replay(self, loop: Loop) -> None:
        """Show again what the loop had shown up to its boundary."""
        self.finish_save()
        assert self.manifest is not None
        for piece in loop.outputs:
            self.recorder.replay(piece.content or self.tier.read(self.manifest, piece.name))
        loop.out_from = self.recorder.position()

    # -- saving -------------------------------------------------------------------------------------------

    def can_save(self) -> bool:
        """Is the state of every running loop known at its last boundary?"""
        return all(loop.is_fresh for loop in self.open)

    def save(self, reason: str, *, step: int | None = None, strict: bool = False) -> int:
        """Make a checkpoint of all loops, with the rows logged so far; returns its number.

        What is to be saved is captured when this returns; it is hashed and written in the background, and
        ``finish_save`` waits for that. Loops left by ``break`` are now finished: the code after them runs.

        Args:
            strict: it is in the local tier when this returns.
        Raises:
            StateRefused: the state of such a loop cannot be saved.
            CheckpointError: the disk is full or cannot be written (with ``strict`` now, without at the next call);
                earlier checkpoints are intact.
        """
        with uninterrupted():
            self.finish_save()
            self._save(reason, step)
        if strict or self.force or self.label:
            self.finish_save()
        if self.label:
            self._send_named()
        return self.seq

    def _values(self) -> dict[str, Any]:
        """The ``values`` of a manifest."""
        unfinished = {key for key, loop in self.loops.items() if not loop.finished}
        values = {
            **self.history.values(self.clock.now_s()),
            "environment": self.environment.check(self),
            "best": self.bests.encode(unfinished),
            "name": self.label,
            "once": dict(self.once),
        }
        return {key: value for key, value in values.items() if value or key == "deaths"}

    def _send_named(self) -> None:
        """Wait until the store has the checkpoint: the sidecar sends the newest, and the loop must not overtake it."""
        name, self.label, self.force = self.label, "", False
        try:
            self.sidecar.ask("flush", wait_s=NAMED_S)
        except StoreUnavailable as error:
            self.sidecar.note("trouble", message=f"checkpoint {name!r} is only on this host: {error}")
            warnings.warn(f"checkpoint {name!r} is only on this host and may be overtaken: {error}", stacklevel=4)

    def _save(self, reason: str, step: int | None) -> None:
        began_s = self.clock.now_s()
        for loop in [loop for loop in self.loops.values() if loop.left and not loop.finished]:
            if loop.trouble is not None:
                raise loop.trouble
            self.drop_inner(loop)
            loop.finished = True
        snapshots = [loop.snapshot() for loop in self.loops.values()]
        batch = self.metric_log.batch()
        base = Manifest(
            run=self.run,
            term=self.term,
            seq=self.seq + 1,
            at=iso_now(),
            reason=reason,
            step=step if step is not None else max((loop.count for loop in self.loops.values()), default=0),
            contexts=tuple(Context(key=key, iteration=n, rows=rows) for (key, n), rows in batch.contexts.items()),
            cells=self.manifest.cells if self.manifest is not None else (),
            logged=batch.logged,
            values=self._values() | ({"steps": batch.steps} if batch.steps else {}),
        )
        cell_snapshot = self.finished_cells.snapshot() if self.finished_cells is not None else None

        def write() -> tuple[Manifest, dict[str, Any], bytes]:
            objects: dict[str, Any] = {}
            loops = tuple(snapshot.record(objects) for snapshot in snapshots)
            cells = base.cells if cell_snapshot is None else cell_snapshot.record(objects)
            return replace(base, loops=loops, cells=cells), objects, encode_rows(batch.rows)

        parts = [part for loop in snapshots for part in (loop.state, loop.generators, loop.begun)]
        used: list[UsedMemory] = [part for part in parts if part is not None]
        used += cell_snapshot.used if cell_snapshot is not None else []
        self._pending = PendingSave(self.engine.submit(write, used), snapshots, batch)
        self.seq += 1
        self.saved_at_s = self.clock.now_s()
        self.save_s = self.cost_s + self.saved_at_s - began_s
        self.cost_s = 0.0

    @property
    def is_saving(self) -> bool:
        """Is a checkpoint still being written?"""
        return self._pending is not None and self.engine.is_busy

    def wait_saved(self, limit_s: float) -> None:
        """Wait until the checkpoint that is being written is on the disk, but no longer than that."""
        if self._pending is not None:
            with contextlib.suppress(Exception):  # ``finish_save`` raises it
                self._pending.saving.wait(limit_s)

    def finish_save(self, *, quietly: bool = False) -> None:
        """Wait for the checkpoint that is being written, and record it.

        Args:
            quietly: an error is only put into the journal: the caller goes back to the previous checkpoint anyway.
        Raises:
            CheckpointError: it could not be written.
        """
        if self._pending is not None:
            with uninterrupted():
                self._finish_save(self._pending, quietly=quietly)
            if self._is_reported:
                self._is_reported = False
                for listener in self.listeners:
                    listener()

    def _finish_save(self, pending: PendingSave, *, quietly: bool) -> None:
        began_s = self.clock.now_s()
        try:
            self.manifest = pending.saving.wait()
        except Discarded as error:
            self.sidecar.note("discarded", message=str(error))
            self._pending = None
            pending.give_back(self.finished_cells)
            return
        except BaseException as error:
            self._pending = None
            pending.give_back(self.finished_cells)
            if not (quietly and isinstance(error, QcityError)):
                raise
            self.sidecar.note("trouble", message=str(error))
            return
        self._pending = None
        self.metric_log.cover(pending.batch)
        for record, snapshot in zip(self.manifest.loops, pending.drafts, strict=True):
            snapshot.loop.mark_saved(record)
        if self.finished_cells is not None:
            self.finished_cells.mark_saved(self.manifest.cells)
        waited_s = self.clock.now_s() - began_s
        self.saved_at_s += waited_s
        # The writer's CPU time counts as if it had stopped the loop: on a busy machine it does.
        self.save_s += waited_s + pending.saving.cpu_s
        self._is_reported = True
        if self.force and not self.label:
            self.force = False
            self.sidecar.mailbox.ask("flush")  # the store gets the requested checkpoint too, but the loop does not wait
