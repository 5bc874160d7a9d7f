"""How often a loop saves: the ``every`` argument.

    every=1 | "60s" | every_steps(100) | on_best("acc")        also with `&`; None is the default

A pace decides at each boundary, from one record of what is known there. Whatever it says, a save is due when the
host's session is about to end.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import NamedTuple

from qcity_nb.checkpoint.metric_goal import Goal, Mode, goal
from qcity_nb.errors import UsageError
from qcity_nb.settings import seconds

__all__ = ["Every", "Moment", "Pace", "every_steps", "every_time", "interval_s", "is_closing", "on_best", "pace"]

COST_SHARE = 0.01
"""By default saving may cost this share of the loop's time, and no more."""
AT_STAKE_S = 600.0
"""By default a run that has died before risks at most about this much work."""
MARGIN_S = 60.0
"""Left before the host's limit: the sidecar needs time to send the last checkpoint to the store."""
OVERRUN_S = 300.0
"""A session that outlives its limit by this much has another limit: a longer plan, a job with its own timeout."""


_NOTHING: Mapping[Goal, float] = MappingProxyType({})


class Moment(NamedTuple):
    """What is known at a boundary. A tuple: one is made at each, and a frozen dataclass takes five times as long."""

    iterations: int
    """Iterations of this loop that finished since its last save, whatever the reason for that save."""
    elapsed_s: float
    """Time since the last save ended."""
    cost_s: float
    """How long the last save stopped the loop."""
    failure_every_s: float | None = None
    """Mean time between failures of this run; ``None``: it has not died yet."""
    left_s: float | None = None
    """Time until the host ends this session; ``None``: no limit is known. Negative: the session outlived its limit."""
    longest_s: float = 0.0
    """The longest of the loop's newest iterations."""
    value: Mapping[Goal, float] = _NOTHING
    """The best value logged since the last boundary, for each goal of the pace."""
    best: Mapping[Goal, float] = _NOTHING
    """The best value at any boundary of this loop that was saved."""


@dataclass(frozen=True, slots=True, repr=False)
class Pace:
    """Decides at each boundary. Combine with ``|`` (either is enough) and ``&`` (both are needed)."""

    text: str
    """The expression that makes it."""
    rule: Callable[[Moment], bool]
    is_strict: bool = False
    """``every=1``: each boundary is saved, so no finished iteration is ever re-run.

    With ``|`` one strict part is enough, with ``&`` all must be.
    """
    waits: bool = False
    """A save that becomes due while the last one is still being written waits for it; else it is skipped."""
    goals: frozenset[Goal] = frozenset()
    """The metrics that it looks at."""

    def __repr__(self) -> str:
        return self.text

    def is_due(self, moment: Moment) -> bool:
        """Save now? Also when the session is about to end, whatever the pace is."""
        return self.rule(moment) or is_closing(moment)

    def __or__(self, other: Every) -> Pace:
        return _either(self, pace(other))

    def __ror__(self, other: Every) -> Pace:
        return _either(pace(other), self)

    def __and__(self, other: Every) -> Pace:
        return _both(self, pace(other))

    def __rand__(self, other: Every) -> Pace:
        return _both(pace(other), self)


Every = int | str | timedelta | Pace | None


def _either(first: Pace, second: Pace) -> Pace:
    return Pace(
        f"{first} | {second}",
        lambda moment: first.rule(moment) or second.rule(moment),
        is_strict=first.is_strict or second.is_strict,
        waits=first.waits or second.waits,
        goals=first.goals | second.goals,
    )


def _both(first: Pace, second: Pace) -> Pace:
    def bracketed(part: Pace) -> str:
        return f"({part})" if " | " in part.text else part.text

    return Pace(
        f"{bracketed(first)} & {bracketed(second)}",
        lambda moment: first.rule(moment) and second.rule(moment),
        is_strict=first.is_strict and second.is_strict,
        waits=first.waits or second.waits,
        goals=first.goals | second.goals,
    )


def is_closing(moment: Moment) -> bool:
    """Is this perhaps the last boundary before the host's limit?

    The rule: time left < the longest of the newest iterations + twice the cost of a save + 60 s. From then on it holds
    at every boundary, until the session has outlived its limit by five minutes, which shows that it has another one.
    """
    left_s = moment.left_s
    if left_s is None or left_s < -OVERRUN_S:
        return False
    return left_s < moment.longest_s + 2 * moment.cost_s + MARGIN_S


def interval_s(cost_s: float, failure_every_s: float | None) -> float:
    """The default time between two saves, by Young's and Daly's first-order rule: W = sqrt(2 · C · M).

    Args:
        cost_s: C, how long a save stops the loop.
        failure_every_s: M, the run's mean time between failures; ``None`` while it has not died.
    Returns: W, but at most ten minutes; and never so short that saving costs more than 1% of the loop's time, which
        takes precedence if both are impossible (a save of more than 6 s). While M is unknown, that 1% alone decides.
    Source: J. W. Young, "A first order approximation to the optimum checkpoint interval", CACM 17 (9), 1974;
        J. T. Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", FGCS 22 (3), 2006.
    """
    shortest_s = cost_s / COST_SHARE
    if failure_every_s is None:
        return shortest_s
    return max(shortest_s, min(math.sqrt(2 * cost_s * failure_every_s), AT_STAKE_S))


def every_steps(count: int) -> Pace:
    """Save when ``count`` iterations are finished since the loop's last save.

    Raises:
        UsageError: not a whole number, or less than 1.
    """
    if isinstance(count, bool) or not hasattr(count, "__index__"):
        raise UsageError(f"every_steps({count!r}): a whole number of iterations is needed")
    number = operator.index(count)
    if number < 1:
        raise UsageError(f"every_steps({number}): at least 1 iteration")
    return Pace(f"every_steps({number})", lambda moment: moment.iterations >= number, is_strict=number == 1, waits=True)


def every_time(wait: str | float | timedelta) -> Pace:
    """Save when this much time has passed since the last save: ``"60s"``, ``"5m"``, a timedelta, or seconds.

    Raises:
        UsageError: not a time, or negative.
    """
    wait_s = wait.total_seconds() if isinstance(wait, timedelta) else seconds(wait, name="every")
    if wait_s < 0:
        raise UsageError(f"every={wait}: a time cannot be negative")
    return Pace(f"every_time('{wait_s:g}s')", lambda moment: moment.elapsed_s >= wait_s)


def on_best(metric: str, mode: Mode | None = None) -> Pace:
    """Save when ``city.log`` got a better value since the last boundary than at any boundary that was saved.

    Args:
        metric: the name under which it is logged.
        mode: ``"max"``: higher is better; ``"min"``: lower. ``None`` decides by the name: ``"min"`` if it has loss,
            error, perplexity, or one of the words err, mse, rmse, mae; else ``"max"``.
    Raises:
        UsageError: no name, or another mode.
    Does not: count a NaN, or a value that equals the best one. The best value is in the checkpoint: after a relaunch
        it is what it was at the boundary that the loop resumes from. An inner loop starts without a best value in
        each outer iteration, and so does a new pass.
    """
    aim = goal(metric, mode)

    def is_better(moment: Moment) -> bool:
        value = moment.value.get(aim)
        return value is not None and aim.is_better(value, moment.best.get(aim))

    return Pace(f"on_best({metric!r}, {aim.mode!r})", is_better, waits=True, goals=frozenset({aim}))


_DEFAULT = Pace("None", lambda moment: moment.elapsed_s >= interval_s(moment.cost_s, moment.failure_every_s))


def pace(every: Every | float) -> Pace:
    """The pace that ``every`` means.

    Args:
        every: a whole number of iterations, a time, a pace, or ``None`` for the default (see ``interval_s``).
    Raises:
        UsageError: anything else.
    """
    if isinstance(every, Pace):
        return every
    if every is None:
        return _DEFAULT
    if isinstance(every, bool):
        raise UsageError(f"every={every} is not valid: give a number of iterations, a time such as '60s', or None")
    if isinstance(every, float):
        raise UsageError(f"every={every}: iterations are whole; a time is written as in '{every:g}s'")
    if isinstance(every, str | timedelta):
        return every_time(every)
    if not hasattr(every, "__index__"):
        what = f"the function {every.__name__}" if hasattr(every, "__name__") else repr(every)
        raise UsageError(
            f"every={what}: give a number of iterations, a time such as '60s', every_steps(…), every_time(…)"
            " or on_best(…)"
        )
    if operator.index(every) < 1:
        raise UsageError(f"every={every}: at least 1 iteration")
    return every_steps(every)
