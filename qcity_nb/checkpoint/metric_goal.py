"""Which values of a metric are better, for `on_best` and `keep_best`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from qcity_nb.errors import UsageError

__all__ = ["Goal", "Mode", "goal"]

Mode = Literal["max", "min"]

_LOW = re.compile(r"loss|error|perplexity|mse(?![a-z])|mae(?![a-z])|(?<![a-z])err(?![a-z])", re.IGNORECASE)
"""Names of metrics for which lower is better; short ones only as words, else ``referral_rate`` would be an error."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A metric, and whether its highest or its lowest value is the best."""

    metric: str
    mode: Mode

    def is_better(self, value: float, than: float | None) -> bool:
        """Is ``value`` strictly better? A NaN never is; any number is better than nothing (``None``)."""
        if math.isnan(value):
            return False
        if than is None:
            return True
        return value > than if self.mode == "max" else value < than

    def best(self, values: Iterable[float | None]) -> float | None:
        """The best value; ``None`` if there is no number."""
        best: float | None = None
        for value in values:
            if value is not None and self.is_better(value, best):
                best = value
        return best


def goal(metric: str, mode: Mode | None = None) -> Goal:
    """The goal for a metric's name and a mode.

    Args:
        mode: ``"max"`` or ``"min"``; ``None``: ``"min"`` if the name contains loss, error, perplexity, or one of the
            words err, mse, rmse, mae; else ``"max"``.
    Raises:
        UsageError: the name is empty, or the mode is unknown.
    """
    if not isinstance(metric, str) or not metric.strip():
        raise UsageError(f"{metric!r} names no metric: give the name that city.log uses, such as 'acc'")
    if mode not in ("max", "min", None):
        raise UsageError(f"mode={mode!r}: 'max', 'min', or None to decide by the metric's name")
    return Goal(metric, mode or ("min" if _LOW.search(metric) else "max"))
