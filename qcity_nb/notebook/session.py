"""The kernel's side of an attempt: rows, contexts and loops, and the checkpoints that cover them.

Nothing here talks to the store: a checkpoint goes to the local tier, and the agent takes it from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qcity_nb import errors, points
from qcity_nb.checkpoint.capture import Captured, capture, capture_generators
from qcity_nb.checkpoint.encode import decode_state, encode_state
from qcity_nb.checkpoint.local import LocalTier
from qcity_nb.checkpoint.manifest import Context, Encoded, LoopRecord, Manifest
from qcity_nb.checkpoint.pack import digest
from qcity_nb.clock import Clock, SystemClock, iso_now
from qcity_nb.errors import CheckpointError, LeaseLost, RunStopped, UsageError
from qcity_nb.notebook.outputs import Recorder
from qcity_nb.records import Row
from qcity_nb.run import journal
from qcity_nb.run.desk import Desk, Status, is_alive
from qcity_nb.tracking.outbox import decode_rows, encode_rows

__all__ = ["Loop", "Scope", "Session"]

LOOK_S = 0.05
"""How often the desk is looked at from inside a hot loop."""
OUTPUT_CHUNK = 64 * 1024


@dataclass(slots=True)
class Scope:
    """Where rows are logged: a cell, or one iteration of a loop. Counts what was logged there."""

    key: str
    iteration: int
    step: int
    skip: int = 0
    """Rows that a checkpoint already covers: code that runs again up to it does not log them twice."""
    rows: int = 0
    loops: int = 0
    """Loops begun here: the ordinal of the next one."""


@dataclass(slots=True)
class Loop:
    """One loop, as the kernel knows it."""

    key: str
    name: str
    total: int | None = None
    done: int = 0
    count: int = 0
    passes: int = 1
    finished: bool = False
    state: object = None
    touched: bool = False
    """Begun in this kernel."""
    left: bool = False
    """Its iterator was closed before the end: by ``break``, or by an exception."""
    parent: Loop | None = None
    has_inner: bool = False
    """An inner loop was seen: its checkpoints need this one's state at every boundary."""
    has_sequence: bool = False
    """Two inner loops were seen in one iteration: the second's checkpoints need the first's final state."""
    snap: tuple[Captured | None, Captured] | None = None
    """State and generators at its present boundary, while they are not yet in the tier."""
    saved_state: Encoded | None = None
    saved_generators: Encoded | None = None
    is_fresh: bool = False
    """Whether the snap or what is saved belongs to the present boundary."""
    outputs: list[tuple[str, bytes]] = field(default_factory=list)
    """Recorded outputs: digest and, while not yet in the tier, content."""
    out_from: int = 0
    started_s: float = 0.0
    started_done: int = 0

    def record(self) -> LoopRecord:
        """As it goes into a manifest."""
        return LoopRecord(
            key=self.key,
            name=self.name,
            done=self.done,
            count=self.count,
            total=self.total,
            finished=self.finished,
            passes=self.passes,
            state=self.saved_state,
            generators=self.saved_generators,
            outputs=tuple(name for name, _ in self.outputs),
        )


def _loop_of(record: LoopRecord) -> Loop:
    return Loop(
        key=record.key,
        name=record.name,
        total=record.total,
        done=record.done,
        count=record.count,
        passes=record.passes,
        finished=record.finished,
        saved_state=record.state,
        saved_generators=record.generators,
        is_fresh=record.generators is not None,
        outputs=[(name, b"") for name in record.outputs],
    )


class Session:
    """One kernel's part in one attempt."""

    def __init__(
        self,
        desk: Desk,
        status: Status,
        *,
        revive: Callable[[], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.desk = desk
        self.clock = clock or SystemClock()
        self.recorder = Recorder()
        self.epoch = status.epoch
        self._revive = revive
        self._status = status
        self._looked_s = float("-inf")
        self._alive_s = 0.0
        folder = Path(status.tier)
        self.tier = LocalTier(folder, epoch=status.epoch)
        self.manifest: Manifest | None = self.tier.newest()
        self.seq = int((folder / "seq").read_text(encoding="ascii"))
        self.loops: dict[str, Loop] = {}
        self.open: list[Loop] = []
        self.committed: dict[tuple[str, int], int] = {}
        """Rows that checkpoints cover, per cell and iteration."""
        self.logged: dict[str, tuple[int, int]] = {}
        self.pending: list[Row] = []
        self.latest: dict[str, list[tuple[int, float]]] = {}
        """The newest values per metric, for the panel."""
        self.passes: dict[str, int] = {}
        self.save_s = 0.0
        """What the newest save took of the loop's time."""
        self.saved_at_s = self.clock.now_s()
        self.force = False
        self.listeners: list[Callable[[], None]] = []
        covered = folder / "covered.jsonl"
        self._covered = (
            {(row.key, row.loop, row.iteration, row.ordinal) for row in decode_rows(covered.read_bytes())}
            if covered.exists()
            else set()
        )
        self.deaths: list[int] = []
        """The steps that the run went on from, one for each time it died."""
        if self.manifest is not None:
            self.deaths = [*self.manifest.values.get("deaths", []), self.manifest.step]
        self._rewind()
        self.scopes: list[Scope] = [self._scope("main", 0, 0)]

    # -- looking at the desk ------------------------------------------------------------------------------

    def look(self, *, now: bool = False) -> Status:
        """The agent's status, read at most every 50 ms unless ``now``."""
        at = time.monotonic()
        if now or at - self._looked_s >= LOOK_S:
            self._looked_s = at
            self._status = self.desk.status()
            if at - self._alive_s >= 1.0:
                self._alive_s = at
                status = self._status
                if status.state == "held" and not is_alive(status.pid) and self._revive is not None:
                    self._revive()
        return self._status

    def check(self) -> None:
        """Raise if this attempt may not go on.

        Raises:
            LeaseLost: another attempt holds the run; the message names it.
        """
        status = self.look()
        if status.state in ("lost", "refused"):
            kind = getattr(errors, status.error, LeaseLost)
            raise kind(status.reason)

    # -- rows ---------------------------------------------------------------------------------------------

    def _scope(self, key: str, iteration: int, step: int) -> Scope:
        return Scope(key=key, iteration=iteration, step=step, skip=self.committed.get((key, iteration), 0))

    def log(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Keep one row per metric, timestamp fixed now; it travels with the checkpoint that covers it.

        Raises:
            UsageError: a value that is not a number.
            LeaseLost: see ``check``.
        """
        if time.monotonic() - self._looked_s >= LOOK_S:
            self.check()
        scope = self.scopes[-1]
        if step is None:
            step = scope.step
        stamp = self.clock.wall_ms()
        for key, value in metrics.items():
            try:
                number = float(value)
            except (TypeError, ValueError):
                raise UsageError(f"log({key}=…): a number is needed, not {type(value).__name__}") from None
            ordinal = scope.rows
            scope.rows += 1
            if ordinal < scope.skip:
                continue
            if self._covered and (key, scope.key, scope.iteration, ordinal) in self._covered:
                continue
            at = stamp
            last = self.logged.get(key)
            if last is not None:
                # MLflow takes two equal rows for one: at a step that was there before, time must move on.
                if step <= last[0] and at <= last[1]:
                    at = last[1] + 1
                self.logged[key] = (step if step > last[0] else last[0], at if at > last[1] else last[1])
            else:
                self.logged[key] = (step, at)
            self.pending.append(
                Row(
                    key=key,
                    value=number,
                    timestamp_ms=at,
                    step=step,
                    loop=scope.key,
                    iteration=scope.iteration,
                    ordinal=ordinal,
                )
            )
            series = self.latest.setdefault(key, [])
            series.append((step, number))
            if len(series) > 4000:
                del series[::2]

    # -- cells --------------------------------------------------------------------------------------------

    def start_cell(self, key: str) -> None:
        """A cell begins: ``key`` names it and its source."""
        self.recorder.start_cell()
        turn = self.passes.get(key, 0)
        self.passes[key] = turn + 1
        self.open.clear()
        self.scopes = [self._scope(key, turn, 0)]

    def end_cell(self, *, ok: bool) -> None:
        """A cell ended: what it logged is committed, or, if it failed, forgotten back to the last checkpoint."""
        if not ok:
            self._rewind()
            return
        unfinished = [loop for loop in self.open if loop.touched and not loop.finished]
        if unfinished:
            self.finish_loop(unfinished[0])
        elif self.pending:
            self.save("cell")
        self.open.clear()

    def _rewind(self) -> None:
        """Forget what no checkpoint covers."""
        manifest = self.manifest
        self.pending.clear()
        self.open.clear()
        touched = {key for key, loop in self.loops.items() if loop.touched}
        self.loops = {}
        self.committed = {}
        self.logged = {}
        if manifest is None:
            return
        for record in manifest.loops:
            loop = self.loops[record.key] = _loop_of(record)
            loop.touched = record.key in touched
        self.committed = {(c.key, c.iteration): c.rows for c in manifest.contexts}
        self.logged = {key: (pair[0], pair[1]) for key, pair in manifest.logged.items()}

    # -- loops --------------------------------------------------------------------------------------------

    def key_of(self, name: str | None) -> str:
        """The key of a loop that begins here: its name, or the ordinal of the call; behind its outer loop's key."""
        self.settle_left()
        scope = self.scopes[-1]
        ordinal = scope.loops
        scope.loops += 1
        own = name or f"{ordinal}"
        if self.open:
            return f"{self.open[-1].key}/{own}"
        return own if name else f"{scope.key.removeprefix('cell:').partition('#')[0]}:{own}"

    def settle_left(self) -> None:
        """Loops whose iterator was closed early and that a next loop follows: finished as they stand."""
        while self.open and self.open[-1].left:
            loop = self.open.pop()
            self.scopes.pop()
            if not loop.finished:
                loop.finished = True
                self.snapshot(loop)

    def snapshot(self, loop: Loop) -> None:
        """Freeze the loop's state and the generators at its present boundary."""
        points.hit("capture.before")
        loop.snap = (capture(loop.state) if loop.state is not None else None, capture_generators())
        loop.is_fresh = True
        if self.recorder.is_on and (piece := self.recorder.since(loop.out_from)):
            if loop.outputs and 0 < len(loop.outputs[-1][1]) < OUTPUT_CHUNK:
                _, last = loop.outputs.pop()
                piece = last[:-1] + b"," + piece[1:]
            loop.outputs.append((digest(piece), piece))
            loop.out_from = self.recorder.mark()
        points.hit("capture.after")

    def drop_inner(self, loop: Loop) -> None:
        """Inner loops belong to one outer iteration; of the last one only their count over the run stays."""
        prefix = loop.key + "/"
        for key, inner in list(self.loops.items()):
            if key.startswith(prefix):
                self.loops[key] = Loop(key=key, name=inner.name, count=inner.count)

    def finish_loop(self, loop: Loop) -> None:
        """A top-level loop is over: its final state is worth a checkpoint of its own; inner ones go with theirs."""
        loop.finished = True
        self.drop_inner(loop)
        outer = loop.parent
        if outer is not None and outer.done > outer.started_done and not outer.has_sequence:
            loop.is_fresh, loop.snap = False, None  # as before, nothing follows it in this iteration
            return
        self.snapshot(loop)
        if outer is None:
            self.save("loop finished", step=loop.count)

    def restored(self, loop: Loop) -> tuple[Captured | None, Captured | None]:
        """State and generators of a loop, out of the tier."""
        assert self.manifest is not None
        manifest = self.manifest
        read = lambda name: self.tier.read(manifest, name)  # noqa: E731  # two uses, one line
        state = decode_state(loop.saved_state, read) if loop.saved_state else None
        generators = decode_state(loop.saved_generators, read) if loop.saved_generators else None
        return state, generators

    def replay(self, loop: Loop) -> None:
        """Show again what the loop had shown up to its boundary."""
        assert self.manifest is not None
        for name, content in loop.outputs:
            self.recorder.replay(content or self.tier.read(self.manifest, name))

    # -- saving -------------------------------------------------------------------------------------------

    def can_save(self) -> bool:
        """Is every state that a checkpoint must hold known at the right boundary?"""
        if not all(loop.is_fresh for loop in self.open):
            return False
        return all(loop.is_fresh for loop in self.loops.values() if loop.touched and loop.finished)

    def _collect(self, loop: Loop, objects: dict[str, Any]) -> LoopRecord:
        """The loop's record, its content put into ``objects``."""
        if loop.snap is not None:
            state, generators = loop.snap
            loop.saved_state = None
            if state is not None:
                loop.saved_state, content = encode_state(state)
                objects.update(content)
            loop.saved_generators, content = encode_state(generators)
            objects.update(content)
        objects.update({name: content for name, content in loop.outputs if content})
        return loop.record()

    def save(self, reason: str, *, step: int | None = None) -> int:
        """Write a checkpoint of all loops, with the rows logged so far, to the local tier; returns its number.

        Raises:
            CheckpointError: the disk is full or cannot be written; nothing is lost of what was saved before.
        """
        began_s = self.clock.now_s()
        objects: dict[str, Any] = {}
        records = [self._collect(loop, objects) for loop in self.loops.values()]
        for scope in self.scopes:
            self.committed[scope.key, scope.iteration] = max(scope.rows, scope.skip)
        live = {(scope.key, scope.iteration) for scope in self.scopes}
        self.committed = {
            key: rows
            for key, rows in self.committed.items()
            if key in live or key[0].startswith("cell:") or key[0] == "main"
        }
        manifest = Manifest(
            run=self._status.run,
            epoch=self.epoch,
            seq=self.seq + 1,
            at=iso_now(),
            reason=reason,
            step=step if step is not None else max((loop.count for loop in self.loops.values()), default=0),
            loops=tuple(records),
            contexts=tuple(
                Context(key=key, iteration=iteration, rows=rows) for (key, iteration), rows in self.committed.items()
            ),
            objects={},
            logged=dict(self.logged),
            values={"deaths": self.deaths},
        )
        self.manifest = self.tier.save(manifest, objects, encode_rows(self.pending))
        self.seq += 1
        self.pending.clear()
        for loop in self.loops.values():
            loop.snap = None
            # Only the newest piece of output may still grow; the others live in the tier.
            loop.outputs = [
                (name, content if n == len(loop.outputs) - 1 else b"") for n, (name, content) in enumerate(loop.outputs)
            ]
        self.saved_at_s = self.clock.now_s()
        self.save_s = self.saved_at_s - began_s
        self.force = False
        for listener in self.listeners:
            listener()
        return self.seq

    def stop_if_asked(self) -> None:
        """At a boundary that was just saved: end here if somebody wants that.

        Raises:
            RunStopped: with the reason.
        """
        if reason := self.look().stop:
            raise RunStopped(reason)

    # -- asking the agent ---------------------------------------------------------------------------------

    def ask(self, op: Any, *, wait_s: float, **data: object) -> Mapping[str, Any]:
        """File a request and wait for the answer.

        Raises:
            StoreUnavailable: no answer in time; the agent goes on trying.
            QcityError: what the agent answered.
        """
        request = self.desk.ask(op, **data)
        until = time.monotonic() + wait_s
        while True:
            answer = self.desk.answered(request)
            if answer is not None:
                break
            self.check()
            status = self.look(now=True)
            if status.state == "ended" and self.desk.answered(request) is None:
                raise UsageError(f"this attempt has ended ({status.reason}); call qcity.up() again")
            if time.monotonic() > until:
                raise errors.StoreUnavailable(
                    status.message or f"no answer from the agent in {wait_s:g} s; it goes on trying"
                )
            time.sleep(0.02)
        if not answer.ok:
            raise getattr(errors, answer.error, CheckpointError)(answer.reason)
        return answer.data

    def note(self, kind: str, **data: object) -> None:
        """A line for the journal."""
        self.desk.note(journal.event(kind, epoch=self.epoch, attempt=self.desk.path.name, **data))
