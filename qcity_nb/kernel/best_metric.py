"""The best value of each metric that a loop's ``every`` looks at (`on_best`)."""

from __future__ import annotations

import threading
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from qcity_nb.checkpoint.metric_goal import Goal

__all__ = ["BestMetrics"]


@dataclass(slots=True)
class _BestRecord:
    best: float | None = None
    """The best at any boundary of the loop that was saved."""
    seen: float | None = None
    """The best since the last boundary. It is saved too: covered rows of an inner loop are not logged again."""
    best_seen: float | None = None
    """What ``seen`` was when the present boundary was reached."""


class BestMetrics:
    """The best values of each loop and goal.

    ``note_value`` may be called from any thread, the other methods only from the thread that runs the cell.
    """

    def __init__(self) -> None:
        self.metrics: frozenset[str] = frozenset()
        """The metrics whose values ``note_value`` needs."""
        self._records: dict[str, dict[Goal, _BestRecord]] = {}
        self._running: set[str] = set()
        self._lock = threading.Lock()

    def begin(self, loop: str, goals: Iterable[Goal], *, is_new: bool) -> None:
        """Start to follow the loop with that key; a new pass has no best value yet."""
        known = {} if is_new else self._records.get(loop, {})
        records = {goal: known.get(goal) or _BestRecord() for goal in goals}
        with self._lock:
            self._records.pop(loop, None)
            self._running.discard(loop)
            if records:
                self._records[loop] = records
                self._running.add(loop)
            self._listen()

    def end(self, loop: str) -> None:
        """Stop following the loop."""
        with self._lock:
            self._running.discard(loop)
            self._listen()

    def _listen(self) -> None:
        self.metrics = frozenset(goal.metric for loop in self._running for goal in self._records[loop])

    def note_value(self, metric: str, value: float) -> None:
        """Note a logged row of a metric in ``metrics``."""
        with self._lock:
            for loop in self._running:
                for goal, record in self._records[loop].items():
                    if goal.metric == metric and goal.is_better(value, record.seen):
                        record.seen = value

    def collect(self, loop: str) -> tuple[dict[Goal, float], dict[Goal, float]]:
        """At a boundary: the best values since the previous boundary, and the best at all saved boundaries."""
        with self._lock:
            records = self._records.get(loop, {})
            for record in records.values():
                record.best_seen, record.seen = record.seen, None
            return (
                {goal: record.best_seen for goal, record in records.items() if record.best_seen is not None},
                {goal: record.best for goal, record in records.items() if record.best is not None},
            )

    def keep(self, loop: str) -> None:
        """Note that the present boundary is about to be saved."""
        for goal, record in self._records.get(loop, {}).items():
            record.best = goal.best((record.best, record.best_seen))

    def encode(self, loops: Container[str]) -> dict[str, Any]:
        """The best values of these loops, for a manifest."""
        with self._lock:
            return {
                loop: {f"{goal.mode} {goal.metric}": [record.best, record.seen] for goal, record in records.items()}
                for loop, records in self._records.items()
                if loop in loops
            }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go back to what a manifest holds; no loop runs."""
        with self._lock:
            self._running.clear()
            self._records = {loop: dict(map(_best_record, items.items())) for loop, items in saved.items()}
            self._listen()


def _best_record(item: tuple[str, list[float | None]]) -> tuple[Goal, _BestRecord]:
    mode, _, metric = item[0].partition(" ")
    best, seen = item[1]
    return Goal(metric, "min" if mode == "min" else "max"), _BestRecord(best=best, seen=seen)
