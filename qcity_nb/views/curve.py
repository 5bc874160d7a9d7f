"""A metric's curve as a small SVG, with a dashed line where the run died."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

__all__ = ["CHANGE", "Change", "Point", "loss_file", "loss_svg", "thin_out"]

Change = tuple[int, str]
"""The step from which something is another one, and what: ``(40, "lr = 0.1 → 0.01")``."""
Point = tuple[int, float]
"""(step, value)"""

DEATH = "#e5484d"
CHANGE = "#8250df"
"""Readable on white and on black."""
CURVE = "var(--jp-brand-color1, #3b82f6)"


def thin_out(series: Sequence[Point], limit: int) -> list[Point]:
    """At most ``limit`` points with the same shape: of each stretch of steps, the lowest and the highest point stay.

    The points are returned in the order of their steps. The first, the last and every extreme are kept. A stretch
    without a finite value keeps one of its points, so that the line still breaks there.
    """
    ordered = sorted(series, key=lambda point: point[0])
    if len(ordered) <= limit:
        return ordered
    stretches = max(1, (limit - 2) // 2)
    kept = {0, len(ordered) - 1}
    for n in range(stretches):
        indexes = range(n * len(ordered) // stretches, (n + 1) * len(ordered) // stretches)
        finite = [i for i in indexes if math.isfinite(ordered[i][1])]
        if finite:
            kept.add(min(finite, key=lambda i: ordered[i][1]))
            kept.add(max(finite, key=lambda i: ordered[i][1]))
        else:
            kept.add(indexes[0])
    return [ordered[i] for i in sorted(kept)]


def loss_svg(
    series: Sequence[Point],
    deaths: Sequence[int] = (),
    changes: Sequence[Change] = (),
    *,
    name: str = "",
    width: int = 240,
    height: int = 48,
) -> str:
    """The curve, as wide as its place allows: a dashed line at every death, a dotted one at every change.

    Args:
        series: in any order; values that are not finite break the line.
        deaths: the steps that the run had reached when it died; those outside the series are at its edges.
        changes: what changed on the way, each with the step.
        name: what a screen reader says.
        width, height: of the drawing's own coordinates, and its natural size in pixels.
    Returns: one ``<svg>`` element without scripts or outside references; empty for a series without numbers.
    """
    points = thin_out(series, 2 * width)
    values = [value for _, value in points if math.isfinite(value)]
    if not values:
        return ""
    first, last = points[0][0], points[-1][0]
    low, high = min(values), max(values)
    pad = 4.0

    def x(step: float) -> float:
        share = (step - first) / (last - first) if last > first else 0.5
        return round(pad + min(1.0, max(0.0, share)) * (width - 2 * pad), 1)

    def y(value: float) -> float:
        # Halves first: the difference of two floats near the largest one is infinite.
        span = high / 2 - low / 2
        share = (value / 2 - low / 2) / span if span > 0 else 0.5
        return round(height - pad - share * (height - 2 * pad), 1)

    lines: list[list[str]] = [[]]
    for step, value in points:
        if math.isfinite(value):
            lines[-1].append(f"{x(step)},{y(value)}")
        elif lines[-1]:
            lines.append([])
    out = [
        f'<svg viewBox="0 0 {width} {height}" width="100%" height="{height}" preserveAspectRatio="none"'
        f' role="img" aria-label="{escape(name, quote=True)}" style="display:block;overflow:visible">'
    ]
    for at in deaths:
        out.append(
            f'<line x1="{x(at)}" x2="{x(at)}" y1="0" y2="{height}" stroke="{DEATH}" stroke-width="1.5"'
            f' stroke-dasharray="3 3" vector-effect="non-scaling-stroke">'
            f"<title>died at step {at:d}</title></line>"
        )
    for at, text in changes:
        out.append(
            f'<line x1="{x(at)}" x2="{x(at)}" y1="0" y2="{height}" stroke="{CHANGE}" stroke-width="1.5"'
            f' stroke-dasharray="1 3" vector-effect="non-scaling-stroke">'
            f"<title>from step {at:d}: {escape(text)}</title></line>"
        )
    for line in lines:
        if len(line) == 1:  # a line needs two ends; round caps make it a dot
            line = line * 2
        if line:
            out.append(
                f'<polyline points="{" ".join(line)}" fill="none" style="stroke:{CURVE}" stroke-width="1.75"'
                ' stroke-linejoin="round" stroke-linecap="round" vector-effect="non-scaling-stroke"/>'
            )
    out.append("</svg>")
    return "".join(out)


def loss_file(
    series: Sequence[Point], deaths: Sequence[int] = (), changes: Sequence[Change] = (), *, name: str = ""
) -> str:
    """The curve as a separate file, on white; empty for a series without numbers."""
    width, height = 720, 200
    drawn = loss_svg(series, deaths, changes, name=name, width=width, height=height)
    if not drawn:
        return ""
    opening, _, rest = drawn.partition(">")
    opening = opening.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ').replace('"100%"', f'"{width}"')
    paper = f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
    return f"{opening}>{paper}{rest.replace(CURVE, '#3b82f6')}\n"
