"""The best values that the loops had of the metrics that their ``every`` looks at (`on_best`)."""

from __future__ import annotations

import threading
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from qcity_nb.checkpoint.metric_goal import Goal

__all__ = ["Bests"]


@dataclass(slots=True)
class _BestRecord:
    best: float | None = None
    """At any boundary of the loop that was saved."""
    seen: float | None = None
    """Since the last boundary. It is kept too: rows of an inner loop that are covered are not logged again."""
    best_seen: float | None = None
    """What was heard up to the present boundary."""


class Bests:
    """Marks of each loop and goal. ``hear`` may be called from any thread, the rest from the one that runs the cell."""

    def __init__(self) -> None:
        self.metrics: frozenset[str] = frozenset()
        """What to tell ``hear``."""
        self._records: dict[str, dict[Goal, _BestRecord]] = {}
        self._running: set[str] = set()
        self._lock = threading.Lock()

    def begin(self, loop: str, goals: Iterable[Goal], *, is_new: bool) -> None:
        """The loop of that key runs from here on; a new pass has no best yet."""
        known = {} if is_new else self._records.get(loop, {})
        marks = {goal: known.get(goal) or _BestRecord() for goal in goals}
        with self._lock:
            self._records.pop(loop, None)
            self._running.discard(loop)
            if marks:
                self._records[loop] = marks
                self._running.add(loop)
            self._listen()

    def end(self, loop: str) -> None:
        """The loop does not run any more."""
        with self._lock:
            self._running.discard(loop)
            self._listen()

    def _listen(self) -> None:
        self.metrics = frozenset(goal.metric for loop in self._running for goal in self._records[loop])

    def note_value(self, metric: str, value: float) -> None:
        """A row of a metric in ``metrics`` was logged."""
        with self._lock:
            for loop in self._running:
                for goal, mark in self._records[loop].items():
                    if goal.metric == metric and goal.is_better(value, mark.seen):
                        mark.seen = value

    def take(self, loop: str) -> tuple[dict[Goal, float], dict[Goal, float]]:
        """At a boundary: the best values since the boundary before, and those of the boundaries that were saved."""
        with self._lock:
            marks = self._records.get(loop, {})
            for mark in marks.values():
                mark.best_seen, mark.seen = mark.seen, None
            return (
                {goal: mark.best_seen for goal, mark in marks.items() if mark.best_seen is not None},
                {goal: mark.best for goal, mark in marks.items() if mark.best is not None},
            )

    def keep(self, loop: str) -> None:
        """The present boundary is about to be saved."""
        for goal, mark in self._records.get(loop, {}).items():
            mark.best = goal.best((mark.best, mark.best_seen))

    def encode(self, loops: Container[str]) -> dict[str, Any]:
        """The marks of these loops, for a manifest."""
        with self._lock:
            return {
                loop: {f"{goal.mode} {goal.metric}": [mark.best, mark.seen] for goal, mark in marks.items()}
                for loop, marks in self._records.items()
                if loop in loops
            }

    def restore(self, marks: Mapping[str, Any]) -> None:
        """Go back to what a manifest holds; no loop runs."""
        with self._lock:
            self._running.clear()
            self._records = {loop: dict(map(_best_record, found.items())) for loop, found in marks.items()}
            self._listen()


def _best_record(item: tuple[str, list[float | None]]) -> tuple[Goal, _BestRecord]:
    mode, _, metric = item[0].partition(" ")
    best, heard = item[1]
    return Goal(metric, "min" if mode == "min" else "max"), _BestRecord(best=best, seen=heard)
