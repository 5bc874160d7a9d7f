"""The page of a store's runs: what is read for it, and its HTML.

    Reader(store).read()  →  Shown, …  →  listing(…) or single(…)

The page is one document without scripts or outside references; it loads itself again. Every text in it is escaped, and
it shows nothing that ``qcity show`` does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from urllib.parse import quote

from qcity_nb import codec
from qcity_nb.agent.adopt import published_rows
from qcity_nb.cli_doctor import masked
from qcity_nb.cli_progress import state_of
from qcity_nb.cli_view import ago, event_row, events, since, when
from qcity_nb.clock import Clock, SystemClock, iso_now
from qcity_nb.errors import QcityError, StoreError
from qcity_nb.notebook.view import PanelView, Saved, panel_html
from qcity_nb.ports import Store
from qcity_nb.records import Event, Head
from qcity_nb.run import lease
from qcity_nb.tracking.curve import Point
from qcity_nb.tracking.outbox import decode_rows

__all__ = ["Reader", "Shown", "listing", "single"]

REFRESH_S = 15
ENDED_EVERY_S = 60.0
"""A run that has ended may be resumed, so it is read again, but not at every turn: a remote store counts calls."""
CARDS = 8
"""So many runs are shown whole, those under way first; all of them stand in the table."""
TAIL = 12
LONG_TAIL = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One run, as the page shows it."""

    run: str
    head: Head | None = None
    """``None``: it cannot be read; ``trouble`` says why."""
    view: PanelView | None = None
    host: str = ""
    """Where the newest attempt is, or was."""
    story: tuple[Event, ...] = ()
    trouble: str = ""

    @property
    def state(self) -> str:
        """For people."""
        return state_of(self.head) if self.head else "unreadable"


@dataclass(slots=True)
class _Known:
    """What was read of one run, so that only what is new is read again."""

    read_s: float
    shown: Shown
    outbox: str = ""
    newest: int = 0
    rows: dict[str, list[Point]] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    journal: str = ""
    story: tuple[Event, ...] = ()


class Reader:
    """Reads the runs of a store, each no more often than need be.

    Args:
        every_s: answers are kept for so long, whoever asks.
    Does not promise: to be called from two threads at once.
    """

    def __init__(self, store: Store, *, every_s: float = 10.0, clock: Clock | None = None) -> None:
        self._store = store
        self._every_s = every_s
        self._clock = clock or SystemClock()
        self._known: dict[str, _Known] = {}
        self._shown: list[Shown] = []
        self._read_s = float("-inf")
        self.trouble = ""
        """Why the newest reading failed; what is shown is older then."""

    @property
    def address(self) -> str:
        """The store's."""
        return masked(self._store.address)

    def read(self) -> list[Shown]:
        """The runs: those under way first, then the newest."""
        now_s = self._clock.now_s()
        if now_s - self._read_s < self._every_s:
            return self._shown
        self._read_s = now_s
        try:
            names = self._store.runs()
            found = [self._one(name, now_s) for name in names]
            found.sort(key=lambda shown: shown.head.created if shown.head else "", reverse=True)
            self._shown = sorted(found, key=lambda shown: shown.head is None or shown.head.state != "running")
            self._known = {name: self._known[name] for name in names if name in self._known}
            self.trouble = ""
        except StoreError as error:
            self.trouble = str(error)
        return self._shown

    def _one(self, run: str, now_s: float) -> Shown:
        known = self._known.get(run)
        if known is not None and known.shown.head is not None:
            is_ended = known.shown.head.state != "running"
            if is_ended and now_s - known.read_s < ENDED_EVERY_S:
                return known.shown
        try:
            head = lease.read(self._store, run).head
            known = known or _Known(read_s=now_s, shown=Shown(run=run))
            self._rows(known, head)
            if known.journal != head.journal:
                known.journal, known.story = head.journal, tuple(events(self._store, run, head))
        except (QcityError, codec.DecodeError) as error:
            return Shown(run=run, trouble=str(error))
        known.read_s = now_s
        known.shown = _shown(head, known)
        self._known[run] = known
        return known.shown

    def _rows(self, known: _Known, head: Head) -> None:
        if known.outbox == head.outbox:
            return
        blocks = published_rows(self._store, head, known.newest)
        for seq in sorted(blocks):
            rows = decode_rows(blocks[seq])
            known.counts[seq] = len(rows)
            for row in rows:
                known.rows.setdefault(row.key, []).append((row.step, row.value))
        known.outbox, known.newest = head.outbox, max([known.newest, *blocks])


def _shown(head: Head, known: _Known) -> Shown:
    newest, holder, intent = head.checkpoint, head.holder, head.intent
    hosts = [str(event.data["host"]) for event in known.story if event.kind == "lease" and event.data.get("host")]
    host = holder.host if holder else (hosts[-1] if hosts else "")
    deaths = [int(event.data.get("step", 0)) for event in known.story if event.kind == "lease" and event.epoch > 1]
    messages = []
    if intent is not None and holder is None:
        messages.append(f"attempt {intent.attempt} is being launched on {intent.host}")
    if head.failure is not None and head.state != "succeeded":
        messages.append(head.failure.message)
    view = PanelView(
        run=head.run,
        state=state_of(head),
        host=host,
        epoch=head.epoch,
        attempt=holder.attempt if holder else "",
        published=Saved(seq=newest.seq, step=newest.step, age_s=max(0.0, since(newest.at) or 0.0)) if newest else None,
        rows_drained=sum(count for seq, count in known.counts.items() if seq <= head.tracked.drained_seq),
        rows_waiting=sum(count for seq, count in known.counts.items() if seq > head.tracked.drained_seq),
        metrics=known.rows,
        deaths=tuple(deaths),
        tracker=masked(head.tracked.uri),
        messages=tuple(messages),
    )
    return Shown(run=head.run, head=head, view=view, host=host, story=known.story)


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
.story { margin: .4rem 0 0; font-size: .82rem; font-family: ui-monospace, monospace }
.story td { padding: .1rem .9rem .1rem 0; border: 0; vertical-align: top }
.story td:last-child { white-space: normal; overflow-wrap: anywhere; width: 100% }
.story td:first-child, .story td:nth-child(2) { color: var(--faint) }
summary { cursor: pointer; color: var(--faint); font-size: .85rem; margin-top: .4rem }
@media (max-width: 40rem) {
  .story tr { display: block; margin-bottom: .35rem }
  .story td { display: inline; padding: 0 .4rem 0 0 }
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
    said = "".join(f"<p>{escape(note)}</p>" for note in notes if note)
    wrong = "".join(f'<p class="trouble">{escape(trouble)}</p>' for trouble in troubles if trouble)
    return f"<header><h1>{title}</h1>{said}</header>{wrong}"


def _row(shown: Shown, base: str) -> str:
    head = shown.head
    newest = head.checkpoint if head else None
    colour = _COLOURS.get(shown.state, "currentColor")
    cells = [
        f'<td><a href="{base}{quote(shown.run)}">{escape(shown.run)}</a></td>',
        f'<td><span style="color:{colour}">\u25cf</span> {escape(shown.state)}</td>',
        f"<td>{escape(shown.host) or '-'}</td>",
        f'<td class="number">{head.epoch if head else "-"}</td>',
        f'<td class="number">{newest.step if newest else "-"}</td>',
        f"<td>{escape(ago(newest.at)) if newest else '-'}</td>",
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _story(shown: Shown, limit: int) -> str:
    # Cell by cell is for who looks at one run.
    told = [event for event in shown.story if limit > TAIL or event.data.get("status") != "completed"]
    rows = [event_row(event) for event in told[-limit:]]
    if not rows:
        return ""
    lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in reversed(rows))
    left = len(shown.story) - len(rows)
    what = f"journal, newest first{f'; {left} more lines' if left else ''}"
    return f'<details open><summary>{what}</summary><table class="story">{lines}</table></details>'


def _card(shown: Shown, limit: int) -> str:
    if shown.view is None:
        return f'<section><p class="trouble">{escape(shown.run)}: {escape(shown.trouble)}</p></section>'
    return f"<section>{panel_html(shown.view)}{_story(shown, limit)}</section>"


def listing(shown: Sequence[Shown], *, address: str, notes: Sequence[str] = (), troubles: Sequence[str] = ()) -> str:
    """All runs: a table, and those under way (else the newest one) whole.

    Args:
        notes, troubles: lines for the top.
    """
    body = [_header("qcity", [address, *notes, f"{when(iso_now())} UTC"], troubles)]
    if shown:
        head = "<th>run</th><th>state</th><th>host</th><th class='number'>epoch</th><th class='number'>step</th>"
        rows = "".join(_row(each, "run/") for each in shown)
        body.append(f'<div class="wide"><table><tr>{head}<th>saved</th></tr>{rows}</table></div>')
        whole = [each for each in shown if each.head is None or each.head.state == "running"][:CARDS] or shown[:1]
        body += [_card(each, TAIL) for each in whole]
    else:
        body.append("<p>No runs in this store yet.</p>")
    return _document("qcity", body)


def single(shown: Shown, *, address: str, notes: Sequence[str] = (), troubles: Sequence[str] = ()) -> str:
    """One run, with more of its journal."""
    title = f'<a href="../">qcity</a> / {escape(shown.run)}'
    body = [_header(title, [address, *notes, f"{when(iso_now())} UTC"], troubles), _card(shown, LONG_TAIL)]
    return _document(f"{shown.run} - qcity", body)
