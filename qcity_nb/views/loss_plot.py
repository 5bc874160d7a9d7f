"""The loss as a PNG, with a line at each death."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from qcity_nb.errors import UsageError
from qcity_nb.views.curve import Point

__all__ = ["save_loss_plot"]


def save_loss_plot(
    path: Path,
    series: Mapping[str, Sequence[Point]],
    deaths: Sequence[int] | Mapping[int, str] = (),
    title: str = "",
) -> Path:
    """Draw the curves over their steps, with a labelled vertical line at every death.

    Draws without a display and without pyplot, so neither the notebook's own figures nor its back end change.

    Args:
        path: where the PNG goes; its directory is made. An older file is replaced completely or not at all.
        series: points by the curve's name.
        deaths: the steps at which the run died, or a label for each such step.
    Returns: ``path``.
    Raises:
        UsageError: matplotlib is not installed; the message has the install line.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(f'a plot needs matplotlib ({error}): pip install "qcity-nb[local]"') from None

    figure = Figure(figsize=(9, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, points in series.items():
        ordered = sorted(points, key=lambda point: point[0])
        marker = "o" if len(ordered) == 1 else ""
        axes.plot([p[0] for p in ordered], [p[1] for p in ordered], label=name, linewidth=1.8, marker=marker)
    labels = deaths if isinstance(deaths, Mapping) else dict.fromkeys(deaths, "killed")
    steps = [step for points in series.values() for step, _ in points] + list(labels)
    near = 0.03 * (max(steps) - min(steps)) if steps else 0.0
    top, row, before = axes.get_xaxis_transform(), 0, None
    for step, label in sorted(labels.items()):
        # A label close to another one starts lower, so that both can be read.
        row = (row + 1) % 3 if before is not None and step - before < near else 0
        before = step
        axes.axvline(step, color="#d1242f", linestyle="--", linewidth=1.2)
        axes.text(
            step,
            0.98 - 0.3 * row,
            f" {label} at {step}",
            transform=top,
            rotation=90,
            va="top",
            ha="right",
            fontsize=8,
            color="#d1242f",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.5},
        )
    axes.set_xlabel("step")
    axes.set_title(title, loc="left")
    axes.grid(visible=True, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if series:
        axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    figure.savefig(fresh, format="png")
    return fresh.replace(path)
