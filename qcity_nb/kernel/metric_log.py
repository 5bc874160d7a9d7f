"""The logged rows that no checkpoint covers yet, and how many rows the newest checkpoint covers in each scope.

A row's identity is (loop, iteration, ordinal). Code that is re-run up to a loop (an outer body, the cell) logs the
same rows again: as many of them as the checkpoint covers there are skipped. See docs/design.md, "Metrics".
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qcity_nb.checkpoint.storage.manifest import Context, Manifest
from qcity_nb.errors import UsageError
from qcity_nb.kernel.best_metric import BestMetrics
from qcity_nb.records import Row

__all__ = ["Batch", "DefaultSteps", "MetricLog", "RowScope"]

CELL = "cell:"
MAIN = "main"
"""The scope of a plain script."""
ASIDE = "~"
"""Ends the key of a scope that holds the rows of other threads."""
SHOWN_KEYS = 64
SHOWN_POINTS = 2000
"""Kept for the panel: this many metrics, each with between half and all of this many points."""

_Line = tuple[str, float, int, int, str, int, int]
"""The fields of a ``Row`` in order; records are made only when rows are saved."""


@dataclass(slots=True, eq=False)
class RowScope:
    """Where rows are logged: a cell, or one iteration of a loop. Counts the rows logged there."""

    key: str
    iteration: int
    step: int
    skip: int = 0
    """Rows that a checkpoint covers: code that is re-run up to it does not log them twice."""
    rows: int = 0
    calls: dict[str, int] = field(default_factory=dict)
    """How many loops have begun here, by name; the empty name counts loops without one."""
    aside: RowScope | None = None
    """Rows of other threads: their order varies, and must not shift the ordinals of the cell's own rows."""


class DefaultSteps:
    """The steps of rows that name none: a loop's count, moved so that no metric's steps ever go back.

    Loops that repeat, in a function or in another cell, may log the same metrics. Each count begins at 0, so the steps
    of a loop that logs a metric of another one begin after that one's.
    """

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        loops: Mapping[str, list[int]] = (values or {}).get("loops", {})
        self.ends = {key: end for key, (_, end) in loops.items()}
        """One more than the highest step that a loop has logged at."""
        self._bases = {key: base for key, (base, _) in loops.items()}
        self._loops: dict[str, str] = dict((values or {}).get("metrics", {}))
        """The loop that was the last to log a metric."""

    def begin(self, loop: str, count: int) -> None:
        """A pass of the loop begins. The iteration in which the last one was left does not count, and has its step."""
        if loop in self.ends:
            self._move(loop, self.ends[loop] - count)

    def step(self, loop: str, count: int, metrics: Iterable[str]) -> int:
        """The step of rows that are logged in that iteration of the loop."""
        loops, ends = self._loops, self.ends
        for metric in metrics:
            other = loops.get(metric)
            if other != loop:
                if other is not None:
                    self._move(loop, ends[other] - count)
                loops[metric] = loop
        step = count + self._bases.get(loop, 0)
        if step >= ends.get(loop, 0):
            ends[loop] = step + 1
        return step

    def _move(self, loop: str, base: int) -> None:
        if base > self._bases.get(loop, 0):
            self._bases[loop] = base

    def values(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        needed = set(self._loops.values())
        loops = {key: [self._bases.get(key, 0), end] for key, end in self.ends.items() if key in needed}
        return {"loops": loops, "metrics": dict(self._loops)} if loops else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The rows that the next checkpoint covers."""

    rows: list[Row]
    contexts: dict[tuple[str, int], int]
    logged: dict[str, tuple[int, int]]
    steps: dict[str, Any]


class MetricLog:
    """Rows and scopes. ``log`` may be called from any thread, other methods only from the thread that runs the cell."""

    def __init__(self, wall_ms: Callable[[], int], covered: Iterable[Row] = ()) -> None:
        self.scopes: list[RowScope] = [RowScope(MAIN, 0, 0)]
        self.committed: dict[tuple[str, int], int] = {}
        """Rows that the newest checkpoint covers, by scope."""
        self._rerun: dict[tuple[str, int], int] = {}
        """Rows covered by the checkpoint that was restored, by scope, until the code has run past it.

        Rows of later checkpoints are not in it: a scope of the same name that begins after them is another one (an
        inner loop left by ``break`` has no count when the next outer iteration begins it again).
        """
        self.pending: list[_Line] = []
        self.bests = BestMetrics()
        """Gets every row, also those that a checkpoint covers."""
        self._wall_ms = wall_ms
        self._covered = {(row.key, row.loop, row.iteration, row.ordinal) for row in covered}
        """Rows that were published with a checkpoint that is now damaged."""
        self._logged: dict[str, tuple[int, int]] = {}
        self.default_steps = DefaultSteps()
        self.new_names: list[str] = []
        """Metrics that were logged for the first time in the run, until somebody has looked at them."""
        self._shown: dict[str, list[tuple[int, float]]] = {}
        self._turns: dict[str, int] = {}
        self._lock = threading.Lock()
        self._thread = threading.get_ident()

    # -- scopes

    def begin_scope(self, key: str, iteration: int, step: int) -> RowScope:
        """A scope that knows how many of its rows are covered already."""
        row_scope = RowScope(key, iteration, step, skip=self._rerun.get((key, iteration), 0))
        if (key + ASIDE, iteration) in self._rerun:
            self._side_scope(row_scope)
        return row_scope

    def note_iteration(self, key: str) -> None:
        """Note the end of a loop's iteration: rows logged from now on in its scope, or inside it, are new."""
        if not self._rerun:
            return
        self._rerun = {
            (known, turn): rows
            for (known, turn), rows in self._rerun.items()
            if known not in (key, key + ASIDE) and not known.startswith(key + "/")
        }

    def start_cell(self, key: str) -> None:
        """Start a cell. Its turn stays the same until it succeeds; a new kernel continues with the newest turn."""
        key = self._alias(key)
        self._thread = threading.get_ident()
        newest = max((turn for known, turn in self.committed if known == key), default=0)
        self.scopes = [self.begin_scope(key, self._turns.get(key, newest), 0)]

    def end_cell(self) -> None:
        """Note that the cell succeeded: if it is run again in this kernel, its rows are new."""
        cell = self.scopes[0]
        if cell.key != MAIN:
            self._turns[cell.key] = cell.iteration + 1

    def _alias(self, key: str) -> str:
        """The cell's key in a checkpoint: not all front ends send the cell's id."""
        if any(known == key for known, _ in self.committed):
            return key
        cell_id, _, source = key.removeprefix(CELL).rpartition("#")
        known = {name for name, _ in self.committed if name.startswith(CELL)}
        if cell_id:
            return CELL + source if CELL + source in known else key
        same = [name for name in known if name.endswith("#" + source)]
        return same[0] if len(same) == 1 else key

    # -- rows

    def log(self, metrics: Mapping[str, Any], step: int | None) -> None:
        """Keep one row per metric, with the present time.

        Raises:
            UsageError: a value that is not a number, a step that is not whole; nothing of the call is kept.
        """
        stamp = self._wall_ms()
        if step is not None and type(step) is not int:
            step = _whole_number(step)
        with self._lock:
            outer = row_scope = self.scopes[-1]
            if threading.get_ident() != self._thread:
                row_scope = self._side_scope(outer)
            if step is None:
                step = outer.step
                # Rows that a checkpoint covers moved the steps before it was made: they must not move them again.
                if len(self.scopes) > 1 and row_scope.rows + len(metrics) > row_scope.skip:
                    step = self.default_steps.step(outer.key, step, metrics)
            lines: list[_Line] = []
            ordinal, skip = row_scope.rows, row_scope.skip
            for key, value in metrics.items():
                number = value if type(value) is float else _number(key, value)
                if ordinal >= skip and not (
                    self._covered and (key, row_scope.key, row_scope.iteration, ordinal) in self._covered
                ):
                    lines.append(
                        (key, number, self._stamp(key, step, stamp), step, row_scope.key, row_scope.iteration, ordinal)
                    )
                ordinal += 1
            row_scope.rows = ordinal
            self.pending += lines
            if self.bests.metrics:
                for key in self.bests.metrics & metrics.keys():
                    self.bests.note_value(key, _number(key, metrics[key]))

    def _side_scope(self, row_scope: RowScope) -> RowScope:
        if row_scope.aside is None:
            key = row_scope.key + ASIDE
            covered = self._rerun.get((key, row_scope.iteration), 0)
            row_scope.aside = RowScope(key, row_scope.iteration, row_scope.step, skip=covered)
        return row_scope.aside

    def _stamp(self, key: str, step: int, now: int) -> int:
        """The time to log. MLflow drops equal rows, so at a step that was logged before it must be a later time."""
        last = self._logged.get(key)
        if last is None:
            self.new_names.append(key)
            self._logged[key] = (step, now)
            return now
        if step > last[0]:
            self._logged[key] = (step, now if now > last[1] else last[1])
            return now
        if now <= last[1]:
            now = last[1] + 1
        self._logged[key] = (last[0], now)
        return now

    # -- checkpoints

    def batch(self) -> Batch:
        """The rows that a checkpoint made now covers."""
        with self._lock:
            live = [part for row_scope in self.scopes for part in (row_scope, row_scope.aside) if part is not None]
            cells = {row_scope.key for row_scope in live}
            contexts = {
                (key, turn): rows
                for (key, turn), rows in self.committed.items()
                if rows and (key == MAIN or key.startswith(CELL)) and key not in cells
            }
            for row_scope in live:
                contexts[row_scope.key, row_scope.iteration] = max(row_scope.rows, row_scope.skip)
            rows = [
                Row(key=key, value=value, timestamp_ms=stamp, step=step, loop=loop, iteration=n, ordinal=ordinal)
                for key, value, stamp, step, loop, n, ordinal in self.pending
            ]
            steps = self.default_steps.values()
            return Batch(rows=rows, contexts=contexts, logged=dict(self._logged), steps=steps)

    def cover(self, batch: Batch) -> None:
        """Note that the checkpoint of this batch exists."""
        with self._lock:
            self.committed = batch.contexts
            del self.pending[: len(batch.rows)]
        for row in batch.rows:
            _show(self._shown, row.key, row.step, row.value)

    def rewind(self, manifest: Manifest | None) -> None:
        """Forget what the checkpoint does not cover."""
        contexts: tuple[Context, ...] = manifest.contexts if manifest is not None else ()
        with self._lock:
            self.pending.clear()
            self.committed = {(context.key, context.iteration): context.rows for context in contexts}
            self._rerun = dict(self.committed)
            self._logged = {key: (pair[0], pair[1]) for key, pair in manifest.logged.items()} if manifest else {}
            self.default_steps = DefaultSteps(manifest.values.get("steps") if manifest else None)
            for row_scope in self.scopes:
                row_scope.skip, row_scope.aside = self.committed.get((row_scope.key, row_scope.iteration), 0), None

    def series(self) -> dict[str, tuple[tuple[int, float], ...]]:
        """The metrics so far for the panel, with fewer points, rows that are not covered yet included."""
        with self._lock:
            pending = list(self.pending)
        shown = {key: list(points) for key, points in self._shown.items()}
        for key, value, _, step, *_ in pending:
            _show(shown, key, step, value)
        return {key: tuple(points) for key, points in shown.items()}


def _show(shown: dict[str, list[tuple[int, float]]], key: str, step: int, value: float) -> None:
    if key not in shown and len(shown) >= SHOWN_KEYS:
        return
    points = shown.setdefault(key, [])
    points.append((step, value))
    if len(points) > SHOWN_POINTS:
        del points[1:-1:2]


def _number(key: str, value: Any) -> float:
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        item = getattr(value, "item", None)  # torch warns when a tensor with gradients is made a float directly
        return float(item() if item is not None else value)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: torch, of a tensor with several elements
        raise UsageError(f"log({key}=…): a number is needed, not {_kind(value)}") from None


def _kind(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"{type(value).__name__} of shape {tuple(shape)}" if shape else type(value).__name__


def _whole_number(step: Any) -> int:
    try:
        return operator.index(step)
    except TypeError:
        if isinstance(step, float) and step.is_integer():
            return int(step)
        raise UsageError(f"log(step={step!r}): a whole number is needed") from None
