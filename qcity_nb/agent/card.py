"""What a run shows to people who look at its store: a page in Markdown, and its curve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from qcity_nb.records import Head, Row
from qcity_nb.tracking.curve import Point, loss_file, thinned

__all__ = ["Series", "page"]

POINTS = 2000
"""So many points of a metric are kept: more than its picture has."""


class Series:
    """The metrics of a run, thinned as they grow."""

    def __init__(self) -> None:
        self._points: dict[str, list[Point]] = {}

    def add(self, rows: Sequence[Row]) -> None:
        """More rows."""
        for row in rows:
            points = self._points.setdefault(row.key, [])
            points.append((row.step, row.value))
            if len(points) > 2 * POINTS:
                points[:] = thinned(points, POINTS)

    @property
    def metrics(self) -> Mapping[str, Sequence[Point]]:
        """By name, in the order in which they were first logged."""
        return self._points

    @property
    def main(self) -> str:
        """The one to show: the first whose name says loss, or the first of all; empty: there is none."""
        return next((key for key in self._points if "loss" in key.lower()), next(iter(self._points), ""))


def page(head: Head, *, store: str, series: Series, deaths: Sequence[int]) -> dict[str, bytes]:
    """The files, by name.

    Args:
        store: its address, as people write it.
        deaths: the steps that the run had reached whenever it died.
    """
    key = series.main
    picture = loss_file(series.metrics[key], deaths, name=f"{key} over steps") if key else ""
    newest = head.checkpoint
    facts = [
        ("notebook", f"`{head.notebook}`"),
        ("state", head.state),
        ("attempts", str(head.epoch)),
        ("step", str(newest.step) if newest else "-"),
        ("newest checkpoint", newest.at if newest else "-"),
        *((name, _number(points[-1][1])) for name, points in list(series.metrics.items())[:8]),
    ]
    lines = [
        "---",
        "tags:",
        "- qcity-nb",
        "---",
        "",
        f"# {head.run}",
        "",
        "A run of a notebook that outlives its hosts, kept by qcity_nb: its checkpoints, journal, metrics and executed",
        "notebook. The branch is written by whichever host holds the run; do not edit it by hand.",
        "",
        *([f"![{key} over steps](loss.svg)", ""] if picture else []),
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in facts),
        "",
        "## Go on with it",
        "",
        "    pip install qcity-nb",
        f"    qcity show {head.run} --state {store}",
        f"    qcity resume {head.run} --state {store}",
        "",
        "In a notebook, on any host, with the same parameters:",
        "",
        "```python",
        "import qcity_nb as qcity",
        "",
        f'city = qcity.up(state="{store}")',
        "```",
        "",
        f"`qcity checkpoints export {head.run} newest model.safetensors --state {store}` takes the weights out.",
        "Checkpoints hold pickles: load them only if you trust who can write to this repository.",
        "",
    ]
    files = {"README.md": "\n".join(lines).encode()}
    if picture:
        files["loss.svg"] = picture.encode()
    return files


def _number(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else str(value)
