"""A metric's series, thinned for a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qcity_nb.records import Row
from qcity_nb.views.curve import Point, thin_out

__all__ = ["Series"]


POINTS = 2000
"""How many points of a metric are kept: more than its curve shows."""


class Series:
    """The metrics of a run, thinned as they grow."""

    def __init__(self) -> None:
        self._points: dict[str, list[Point]] = {}

    def add(self, rows: Sequence[Row]) -> None:
        """Add rows."""
        for row in rows:
            points = self._points.setdefault(row.key, [])
            points.append((row.step, row.value))
            if len(points) > 2 * POINTS:
                points[:] = thin_out(points, POINTS)

    @property
    def metrics(self) -> Mapping[str, Sequence[Point]]:
        """The points of each metric by name, in the order in which the metrics were first logged."""
        return self._points

    @property
    def main(self) -> str:
        """The metric to show: the first with ``loss`` in its name, else the first of all; empty: there is none."""
        return next((key for key in self._points if "loss" in key.lower()), next(iter(self._points), ""))
