"""Which published checkpoints stay: the newest, one of every so many steps, the best, and those with a name.

Pure: small facts in, those to keep out. What is not selected once is never asked for again, because by then its
bytes are gone: so "the first of each K steps" and "the best so far" are rules whose answer never goes back to an
older one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from qcity_nb.checkpoint.metric_goal import Goal, Mode, goal
from qcity_nb.errors import UsageError

__all__ = ["MAX_KEPT", "MAX_LAST", "Candidate", "Keep", "check_name", "keep_of", "names_left", "select"]

MAX_KEPT = 200
"""The head names every kept checkpoint and is written with every beat: about 250 bytes for each, 50 kB in all."""
MAX_LAST = 100
MAX_NAME = 100
"""Characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What the choice needs to know of one checkpoint."""

    seq: int
    step: int
    value: float | None = None
    """Of the metric of ``Keep.best``; a NaN counts as none."""
    name: str = ""
    """Not empty: it stays for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """What is to stay.

    Raises:
        UsageError: a number that is out of range, or a mode that is none.
    """

    last: int = 3
    """The newest so many: what a reader falls back to."""
    every: int | None = None
    """The first checkpoint of each bucket of so many steps (``step // every``)."""
    best: str | None = None
    """The checkpoint with the best value of this metric; of equal ones the oldest."""
    best_mode: Mode | None = None
    """``None``: by the metric's name, see ``goal.goal``."""

    def __post_init__(self) -> None:
        if type(self.last) is not int or not 1 <= self.last <= MAX_LAST:
            raise UsageError(f"keep_last = {self.last!r}: a whole number from 1 to {MAX_LAST} is needed")
        if self.every is not None and (type(self.every) is not int or self.every < 1):
            raise UsageError(f"keep_every = {self.every!r}: a whole number of steps, 1 or more, is needed")
        if self.best is not None:
            goal(self.best, self.best_mode)

    @property
    def goal(self) -> Goal | None:
        """What is best."""
        return goal(self.best, self.best_mode) if self.best is not None else None


def keep_of(last: int, every: int | None, best: str) -> Keep:
    """From the settings ``keep_last``, ``keep_every`` and ``keep_best`` (``"acc"``, or ``"fid:min"`` with a mode).

    Raises:
        UsageError: one of them is out of range.
    """
    metric, mark, mode = best.rpartition(":")
    if mark and mode in ("max", "min"):
        return Keep(last=last, every=every, best=metric, best_mode="max" if mode == "max" else "min")
    return Keep(last=last, every=every, best=best or None)


def select(candidates: Iterable[Candidate], keep: Keep, *, limit: int = MAX_KEPT) -> list[Candidate]:
    """Those that stay, newest first.

    Where they were more than ``limit``, those of ``every`` thin out, oldest first; then ``last`` shrinks, though the
    newest always stays. A name is never given up: see ``names_left``.

    Args:
        candidates: in any order; no two of the same ``seq``.
    """
    newest = sorted(candidates, key=lambda one: -one.seq)
    named = {one.seq for one in newest if one.name}
    # Places are counted as if no checkpoint stayed for two reasons: when one such loses its second reason, the room for
    # those of ``every`` would grow again, and one that is gone would be asked for.
    places = limit - len(named) - _reserved(keep)
    last = min(keep.last, max(places, 1))
    kept = named | {one.seq for one in newest[:last]}
    room = max(places - last, 0)
    regular = [seq for seq in _firsts(newest, keep.every) if seq not in kept]
    best = _best(newest, keep.goal)
    kept |= {*regular[:room], *best}
    return [one for one in newest if one.seq in kept]


def _reserved(keep: Keep) -> int:
    return 1 if keep.best is not None else 0


def _firsts(newest: list[Candidate], every: int | None) -> list[int]:
    """The first of each bucket, newest first."""
    if every is None:
        return []
    first = {one.step // every: one.seq for one in newest}  # the oldest comes last, and stays
    return sorted(first.values(), reverse=True)


def _best(newest: list[Candidate], aim: Goal | None) -> set[int]:
    if aim is None:
        return set()
    found: Candidate | None = None
    for one in reversed(newest):
        if one.value is not None and aim.is_better(one.value, found.value if found is not None else None):
            found = one
    return {found.seq} if found is not None else set()


def names_left(named: int, keep: Keep, *, limit: int = MAX_KEPT) -> int:
    """How many more checkpoints can be given a name, where ``named`` have one."""
    return max(limit - keep.last - _reserved(keep) - named, 0)


def check_name(name: str) -> str:
    """``name``, if a checkpoint may be called so.

    Raises:
        UsageError: empty, too long, or with characters that are not printed.
    """
    if not isinstance(name, str) or not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise UsageError(f"checkpoint(name={name!r}): 1 to {MAX_NAME} printable characters are needed")
    return name
