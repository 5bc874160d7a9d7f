"""The page of a store's runs: its HTML.

    Reader(store).read()  →  Shown, …  →  listing(…) or single(…)

The page is one document without scripts or outside references, and it reloads itself. Every text in it is escaped. It
shows nothing that ``qcity show`` does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from urllib.parse import quote

from qcity_nb.cli.page_reader import Shown
from qcity_nb.clock import iso_now
from qcity_nb.views.run_view import panel_html
from qcity_nb.views.words import ago, event_row, when

__all__ = ["listing", "single"]

REFRESH_S = 15
CARDS = 8
"""So many runs are shown in full, the unfinished ones first; the table has all runs."""
TAIL = 12
LONG_TAIL = 200


# --- HTML

_STYLE = """
:root { color-scheme: light dark; --line: rgba(128,128,128,.3); --faint: rgba(128,128,128,.95) }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto 4rem; padding: 0 1rem }
h1 { font-size: 1.35rem; margin: 0 }
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: .2rem 1rem; margin-bottom: 1.2rem }
header p { margin: 0; color: var(--faint); font-size: .9rem; overflow-wrap: anywhere }
.wide { overflow-x: auto; margin-bottom: 1.5rem }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums }
th { text-align: left; font-weight: 500; color: var(--faint) }
th, td { padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); white-space: nowrap }
th.number, td.number { text-align: right; padding-right: 1.8rem }
a { color: inherit; text-underline-offset: .2em }
section { margin: 0 0 1.6rem }
.qcity-panel { max-width: none !important }
.journal { margin: .4rem 0 0; font-size: .82rem; font-family: ui-monospace, monospace }
.journal td { padding: .1rem .9rem .1rem 0; border: 0; vertical-align: top }
.journal td:last-child { white-space: normal; overflow-wrap: anywhere; width: 100% }
.journal td:first-child, .journal td:nth-child(2) { color: var(--faint) }
summary { cursor: pointer; color: var(--faint); font-size: .85rem; margin-top: .4rem }
@media (max-width: 40rem) {
  .journal tr { display: block; margin-bottom: .35rem }
  .journal td { display: inline; padding: 0 .4rem 0 0 }
}
.trouble { border-left: 3px solid #bf8700; padding: .2rem .7rem; margin: 0 0 1rem; overflow-wrap: anywhere }
"""
_COLOURS = {
    "running": "#3b82f6",
    "succeeded": "#2da44e",
    "failed": "#e5484d",
    "gave up": "#e5484d",
    "stopped": "#bf8700",
}


def _document(title: str, body: Sequence[str]) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="refresh" content="{REFRESH_S}"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>{''.join(body)}</body></html>"
    )


def _header(title: str, notes: Sequence[str], troubles: Sequence[str]) -> str:
    lines = "".join(f"<p>{escape(note)}</p>" for note in notes if note)
    warnings = "".join(f'<p class="trouble">{escape(trouble)}</p>' for trouble in troubles if trouble)
    return f"<header><h1>{title}</h1>{lines}</header>{warnings}"


def _row(shown: Shown, base: str) -> str:
    head = shown.head
    newest = head.checkpoint if head else None
    colour = _COLOURS.get(shown.state, "currentColor")
    cells = [
        f'<td><a href="{base}{quote(shown.run)}">{escape(shown.run)}</a></td>',
        f'<td><span style="color:{colour}">\u25cf</span> {escape(shown.state)}</td>',
        f"<td>{escape(shown.host) or '-'}</td>",
        f'<td class="number">{head.term if head else "-"}</td>',
        f'<td class="number">{newest.step if newest else "-"}</td>',
        f"<td>{escape(ago(newest.at)) if newest else '-'}</td>",
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _journal_html(shown: Shown, limit: int) -> str:
    # The page of one run alone has a line for each cell.
    history = [event for event in shown.journal if limit > TAIL or event.data.get("status") != "completed"]
    rows = [event_row(event) for event in history[-limit:]]
    if not rows:
        return ""
    lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in reversed(rows))
    left = len(shown.journal) - len(rows)
    summary = f"journal, newest first{f'; {left} more lines' if left else ''}"
    return f'<details open><summary>{summary}</summary><table class="journal">{lines}</table></details>'


def _card(shown: Shown, limit: int) -> str:
    if shown.view is None:
        return f'<section><p class="trouble">{escape(shown.run)}: {escape(shown.trouble)}</p></section>'
    return f"<section>{panel_html(shown.view)}{_journal_html(shown, limit)}</section>"


def listing(shown: Sequence[Shown], *, address: str, notes: Sequence[str] = (), troubles: Sequence[str] = ()) -> str:
    """All runs in a table, and the unfinished ones (else the newest one) in full.

    Args:
        notes, troubles: lines for the top.
    """
    body = [_header("qcity", [address, *notes, f"{when(iso_now())} UTC"], troubles)]
    if shown:
        head = "<th>run</th><th>state</th><th>host</th><th class='number'>attempt</th><th class='number'>step</th>"
        rows = "".join(_row(each, "run/") for each in shown)
        body.append(f'<div class="wide"><table><tr>{head}<th>saved</th></tr>{rows}</table></div>')
        in_full = [each for each in shown if each.head is None or each.head.state == "running"][:CARDS] or shown[:1]
        body += [_card(each, TAIL) for each in in_full]
    else:
        body.append("<p>No runs in this store yet.</p>")
    return _document("qcity", body)


def single(shown: Shown, *, address: str, notes: Sequence[str] = (), troubles: Sequence[str] = ()) -> str:
    """One run, with more of its journal."""
    title = f'<a href="../">qcity</a> / {escape(shown.run)}'
    body = [_header(title, [address, *notes, f"{when(iso_now())} UTC"], troubles), _card(shown, LONG_TAIL)]
    return _document(f"{shown.run} - qcity", body)
