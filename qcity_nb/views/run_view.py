"""What people see of a run: pure functions from a view record to HTML and to text.

The HTML is one element without scripts, style sheets or outside references. It takes its colours from the page
(``currentColor``, and Jupyter's own variables if there are any), so it fits light and dark themes. It stays readable
if a viewer strips the styles of a saved notebook.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from qcity_nb.views.curve import CHANGE, Change, Point, loss_svg

__all__ = ["LoopView", "PanelView", "Saved", "loss_svg", "panel_html", "text"]

SHOWN_METRICS = 6
SHOWN_MESSAGES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopView:
    """How far a loop is."""

    name: str
    done: int
    total: int | None = None
    """``None``: unknown."""
    rate: float | None = None
    """Iterations a second."""
    eta_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A checkpoint that exists."""

    seq: int
    step: int
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelView:
    """Everything that the panel shows, at one moment."""

    run: str
    state: str = "running"
    """``running``, ``succeeded``, ``failed`` or ``stopped``."""
    host: str = ""
    evidence: str = ""
    """How the host was recognised."""
    term: int = 0
    attempt: str = ""
    holder: str = ""
    """Who may publish; empty: this attempt."""
    lease: str = ""
    """``held``, ``waiting``, ``suspended``, ``lost``, …"""
    loops: tuple[LoopView, ...] = ()
    local: Saved | None = None
    published: Saved | None = None
    rows_waiting: int = 0
    rows_drained: int = 0
    metrics: Mapping[str, Sequence[Point]] = field(default_factory=dict)
    deaths: tuple[int, ...] = ()
    """The steps that the run had reached whenever it died."""
    changes: tuple[Change, ...] = ()
    """What changed on the way (the notebook, the items, the environment), each with the step."""
    store: str = ""
    tracker: str = ""
    messages: tuple[str, ...] = ()
    at: str = ""
    """The time of this view, for people; ages count from there."""


_STATES = {"running": "#3b82f6", "succeeded": "#2da44e", "failed": "#e5484d", "stopped": "#bf8700"}
_GOOD_LEASES = ("", "held", "ended")
"""Not shown: the state, or a message, says it."""
_FAINT = "opacity:.68"
_RULE = "1px solid var(--jp-border-color2, rgba(128,128,128,.32))"
_MONO = "font-family:var(--jp-code-font-family, ui-monospace, monospace);font-size:.92em"


def panel_html(view: PanelView) -> str:
    """The panel as one ``<div>``; every text of the view is escaped."""
    parts = [_header(view), *(_loop(loop) for loop in view.loops), _curves(view), _details(view), _messages(view)]
    return (
        f'<div class="qcity-panel" style="box-sizing:border-box;max-width:46rem;border:{_RULE};'
        "border-radius:8px;padding:10px 14px 8px;margin:2px 0;"
        "font-family:var(--jp-ui-font-family, system-ui, sans-serif);"
        f'font-size:13px;line-height:1.45;font-variant-numeric:tabular-nums">{"".join(parts)}</div>'
    )


def text(view: PanelView) -> str:
    """The same in a few lines of plain text."""
    lines = [f"qcity {view.run}: {view.state}{_where(view)}"]
    for loop in view.loops:
        lines.append(f"  {loop.name}: {_progress(loop)}")
    last = [f"{name} {_number(points[-1][1])}" for name, points in view.metrics.items() if points]
    if last:
        lines.append("  " + ", ".join(last))
    if view.deaths:
        lines.append(f"  died at step {', '.join(map(str, view.deaths))}")
    lines += [f"  from step {step}: {text}" for step, text in view.changes]
    lines += [f"  {name}: {value}" for name, value in _rows(view)]
    lines += [f"  ! {message}" for message in view.messages[-SHOWN_MESSAGES:]]
    return "\n".join(lines)


def _where(view: PanelView) -> str:
    words = [f"on {view.host}" if view.host else "", f"attempt {view.term}" if view.term else ""]
    if view.lease not in _GOOD_LEASES:
        words.append(f"lease {view.lease}")
    if view.holder:
        words.append(f"held by {view.holder}")
    return "".join(f", {word}" for word in words if word)


def _header(view: PanelView) -> str:
    colour = _STATES.get(view.state, "currentColor")
    chips, warning = [], ""
    if view.host:
        title = f' title="{escape(view.evidence, quote=True)}"' if view.evidence else ""
        chips.append(f"<span{title}>{escape(view.host)}</span>")
    if view.term:
        title = f' title="{escape(view.attempt, quote=True)}"' if view.attempt else ""
        chips.append(f"<span{title}>attempt {view.term:d}</span>")
    if view.lease not in _GOOD_LEASES:
        warning = f'<b style="color:{_STATES["failed"]}">lease {escape(view.lease)}</b>'
    if view.holder:
        chips.append(f"held by {escape(view.holder)}")
    return (
        '<div style="display:flex;flex-wrap:wrap;align-items:center;gap:2px 10px">'
        f'<span style="width:9px;height:9px;border-radius:50%;background:{colour};flex:none"></span>'
        f'<b style="font-size:1.08em;overflow-wrap:anywhere">{escape(view.run)}</b> '
        f'<span style="color:{colour};font-weight:600">{escape(view.state)}</span> '
        f'<span style="margin-left:auto">{warning} '
        f'<span style="{_FAINT}">{" · ".join(chips)}</span></span></div>'
    )


def _loop(loop: LoopView) -> str:
    share = min(1.0, loop.done / loop.total) if loop.total else None
    bar = ""
    if share is not None:
        colour = _STATES["succeeded"] if share >= 1 else _STATES["running"]
        bar = (
            '<div style="height:5px;border-radius:3px;background:rgba(128,128,128,.22);margin-top:3px">'
            f'<div style="height:5px;border-radius:3px;background:{colour};width:{100 * share:.1f}%"></div>'
            "</div>"
        )
    return (
        '<div style="margin-top:8px">'
        '<div style="display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 12px">'
        f"<span>{escape(loop.name)}</span> "
        f'<span style="{_FAINT}">{escape(_progress(loop))}</span></div>{bar}</div>'
    )


def _progress(loop: LoopView) -> str:
    words = [f"{loop.done:,d} / {loop.total:,d}" if loop.total is not None else f"{loop.done:,d} done"]
    if loop.total:
        words.append(f"{100 * min(1.0, loop.done / loop.total):.0f}%")
    if loop.rate is not None and loop.rate > 0 and math.isfinite(loop.rate):
        words.append(f"{_number(loop.rate)}/s" if loop.rate >= 0.2 else f"{_span(1 / loop.rate)} each")
    if loop.eta_s is not None and loop.done != loop.total:
        words.append(f"{_span(loop.eta_s)} left")
    return " · ".join(words)


def _curves(view: PanelView) -> str:
    cards = []
    for name, points in list(view.metrics.items())[:SHOWN_METRICS]:
        if not points:
            continue
        step, value = points[-1]
        cards.append(
            '<div style="flex:1 1 13rem;min-width:0">'
            '<div style="display:flex;justify-content:space-between;gap:8px;margin-bottom:2px">'
            f'<span style="overflow:hidden;text-overflow:ellipsis;white-space:nowrap">{escape(name)}</span> '
            f'<b title="step {step:d}">{_number(value)}</b></div>'
            f"{loss_svg(points, view.deaths, view.changes, name=f'{name} over steps')}</div>"
        )
    hidden = len(view.metrics) - SHOWN_METRICS
    if hidden > 0:
        cards.append(f'<div style="{_FAINT};align-self:flex-end">and {hidden} more</div>')
    if not cards:
        return ""
    return f'<div style="display:flex;flex-wrap:wrap;gap:10px 22px;margin-top:10px">{"".join(cards)}</div>'


def _rows(view: PanelView) -> list[tuple[str, str]]:
    """Names and values of the details in the lower part."""
    rows = []
    saved = [("local", view.local), ("published", view.published)]
    words = [f"{name} #{s.seq:d} at step {s.step:d}, {_span(s.age_s)} ago" for name, s in saved if s]
    if words:
        rows.append(("checkpoint", " · ".join(words)))
    if view.rows_waiting or view.rows_drained:
        rows.append(("metric rows", f"{view.rows_drained:,d} sent to the tracker · {view.rows_waiting:,d} waiting"))
    if view.store:
        rows.append(("store", view.store))
    if view.tracker:
        rows.append(("tracker", view.tracker))
    if view.at:
        rows.append(("as of", view.at))
    return rows


def _details(view: PanelView) -> str:
    cells = []
    for name, value in _rows(view):
        is_address = name in ("store", "tracker")
        style = f"{_MONO};overflow-wrap:anywhere" if is_address else "overflow-wrap:anywhere"
        cells.append(f'<span style="{_FAINT}">{name}</span> <span style="{style}">{escape(value)}</span>')
    if view.deaths:
        steps = ", ".join(map(str, view.deaths))
        dash = '<span style="border-left:2px dashed #e5484d;margin-right:6px"></span>'
        cells.insert(0, f'<span style="{_FAINT}">died</span> <span>{dash}at step {steps}</span>')
    dash = f'<span style="border-left:2px dotted {CHANGE};margin-right:6px"></span>'
    for step, text in view.changes:
        cells.append(f'<span style="{_FAINT}">changed</span> <span>{dash}from step {step:d}: {escape(text)}</span>')
    if not any(cells):
        return ""
    return (
        '<div style="display:grid;grid-template-columns:max-content 1fr;gap:1px 14px;'
        f'margin-top:9px;padding-top:7px;border-top:{_RULE}">{"".join(cells)}</div>'
    )


def _messages(view: PanelView) -> str:
    return "".join(
        f'<div style="margin-top:6px;padding:3px 9px;border-left:3px solid {_STATES["stopped"]};'
        f'overflow-wrap:anywhere">{escape(message)}</div>'
        for message in view.messages[-SHOWN_MESSAGES:]
    )


def _number(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value)}"
    return f"{value:.4g}"


def _span(seconds: float) -> str:
    """A duration for people: ``4 s``, ``3 min``, ``2.5 h``, ``3 d``."""
    if not math.isfinite(seconds) or seconds < 0:
        return "?"
    for limit, unit_s, unit, digits in ((90, 1, "s", 0), (5400, 60, "min", 0), (172_800, 3600, "h", 1)):
        if seconds < limit:
            return f"{seconds / unit_s:.{1 if seconds < 1 else digits}f} {unit}"
    return f"{seconds / 86_400:.1f} d"
