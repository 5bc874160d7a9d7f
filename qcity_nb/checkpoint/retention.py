"""Which published checkpoints are kept: the newest, one of each so many steps, the best, and those with a name.

A pure function of small records. A checkpoint that was not selected once is deleted, so it must never be selected
later. "The first of each K steps" and "the best so far" are rules that never return to an older checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from qcity_nb.checkpoint.metric_goal import Goal, Mode, goal
from qcity_nb.codec import Record
from qcity_nb.errors import UsageError

__all__ = ["MAX_KEPT", "MAX_LAST", "Candidate", "Keep", "check_name", "keep_of", "names_left", "select"]

MAX_KEPT = 200
"""The run record names each kept checkpoint and is written with each heartbeat: about 250 bytes each, 50 kB in all."""
MAX_LAST = 100
MAX_NAME = 100
"""Characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What the selection needs to know about one checkpoint."""

    seq: int
    step: int
    value: float | None = None
    """Value of the metric ``Keep.best``; a NaN counts as none."""
    name: str = ""
    """Not empty: it is kept permanently."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep(Record):
    """What to keep.

    Raises:
        UsageError: a number is out of range, or the mode is unknown.
    """

    last: int = 3
    """How many of the newest: a reader falls back to them."""
    every: int | None = None
    """The first checkpoint of each so many steps (of equal ``step // every``)."""
    best: str | None = None
    """The checkpoint with the best value of this metric; if several are equal, the oldest."""
    best_mode: Mode | None = None
    """``None``: by the metric's name, see ``metric_goal.goal``."""

    def __post_init__(self) -> None:
        if type(self.last) is not int or not 1 <= self.last <= MAX_LAST:
            raise UsageError(f"keep_last = {self.last!r}: a whole number from 1 to {MAX_LAST} is needed")
        if self.every is not None and (type(self.every) is not int or self.every < 1):
            raise UsageError(f"keep_every = {self.every!r}: a whole number of steps, 1 or more, is needed")
        if self.best is not None:
            goal(self.best, self.best_mode)

    @property
    def goal(self) -> Goal | None:
        """The goal of ``best``."""
        return goal(self.best, self.best_mode) if self.best is not None else None


def keep_of(last: int, every: int | None, best: str) -> Keep:
    """From the settings ``keep_last``, ``keep_every`` and ``keep_best`` (``"acc"``, or ``"fid:min"`` with a mode).

    Raises:
        UsageError: one of them is out of range.
    """
    metric, colon, mode = best.rpartition(":")
    if colon and mode in ("max", "min"):
        return Keep(last=last, every=every, best=metric, best_mode="max" if mode == "max" else "min")
    return Keep(last=last, every=every, best=best or None)


def select(candidates: Iterable[Candidate], keep: Keep, *, limit: int = MAX_KEPT) -> list[Candidate]:
    """Those to keep, newest first.

    If they are more than ``limit``, those of ``every`` are dropped, oldest first; then ``last`` shrinks, though the
    newest is always kept. A named one is never dropped: see ``names_left``.

    Args:
        candidates: in any order; no two with the same ``seq``.
    """
    newest = sorted(candidates, key=lambda candidate: -candidate.seq)
    named = {candidate.seq for candidate in newest if candidate.name}
    # Places are counted as if no checkpoint were kept for two reasons. Otherwise, when one loses its second reason,
    # there would be more places for ``every``, and a checkpoint that is already deleted would be selected.
    places = limit - len(named) - _reserved(keep)
    last = min(keep.last, max(places, 1))
    selected = named | {candidate.seq for candidate in newest[:last]}
    places_left = max(places - last, 0)
    regular = [seq for seq in _firsts(newest, keep.every) if seq not in selected]
    best = _best(newest, keep.goal)
    selected |= {*regular[:places_left], *best}
    return [candidate for candidate in newest if candidate.seq in selected]


def _reserved(keep: Keep) -> int:
    return 1 if keep.best is not None else 0


def _firsts(newest: list[Candidate], every: int | None) -> list[int]:
    """The first checkpoint of each so many steps, newest first."""
    if every is None:
        return []
    first = {candidate.step // every: candidate.seq for candidate in newest}  # the oldest comes last, and wins
    return sorted(first.values(), reverse=True)


def _best(newest: list[Candidate], aim: Goal | None) -> set[int]:
    if aim is None:
        return set()
    best: Candidate | None = None
    for candidate in reversed(newest):
        if candidate.value is not None and aim.is_better(candidate.value, best.value if best is not None else None):
            best = candidate
    return {best.seq} if best is not None else set()


def names_left(named: int, keep: Keep, *, limit: int = MAX_KEPT) -> int:
    """How many more checkpoints can be named if ``named`` have a name."""
    return max(limit - keep.last - _reserved(keep) - named, 0)


def check_name(name: str) -> str:
    """``name``, if it is valid for a checkpoint.

    Raises:
        UsageError: it is empty, too long, or has characters that cannot be printed.
    """
    if not isinstance(name, str) or not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise UsageError(f"checkpoint(name={name!r}): 1 to {MAX_NAME} printable characters are needed")
    return name
