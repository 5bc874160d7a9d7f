"""Reads the runs of a store for the page, each no more often than needed."""

from __future__ import annotations

from dataclasses import dataclass, field

from qcity_nb import codec
from qcity_nb.clock import Clock, SystemClock
from qcity_nb.errors import QcityError, StoreError
from qcity_nb.ports import Store
from qcity_nb.published.read import events, published_rows
from qcity_nb.records import Event, Head
from qcity_nb.run import lease
from qcity_nb.tracking.outbox import decode_rows
from qcity_nb.views.attempts import describe_failed_launches
from qcity_nb.views.curve import Point
from qcity_nb.views.run_view import PanelView, Saved
from qcity_nb.views.words import mask, since, state_of

__all__ = ["Reader", "Shown"]


ENDED_EVERY_S = 60.0
"""A run that has ended may be resumed, so it is read again, but rarely: remote stores limit the number of calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One run, as the page shows it."""

    run: str
    head: Head | None = None
    """``None``: it cannot be read; ``trouble`` says why."""
    view: PanelView | None = None
    host: str = ""
    """Where the newest attempt is, or was."""
    journal: tuple[Event, ...] = ()
    trouble: str = ""

    @property
    def state(self) -> str:
        """For people."""
        return state_of(self.head) if self.head else "unreadable"


@dataclass(slots=True)
class _Known:
    """What was read of one run, so that only new objects are read."""

    read_s: float
    shown: Shown
    outbox: str = ""
    newest: int = 0
    rows: dict[str, list[Point]] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    journal: str = ""
    journal_events: tuple[Event, ...] = ()


class Reader:
    """Reads the runs of a store, each no more often than needed.

    Args:
        every_s: for so long the same answer is returned.
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
        """Why the newest reading failed; then older data is shown."""

    @property
    def address(self) -> str:
        """The store's."""
        return mask(self._store.address)

    def read(self) -> list[Shown]:
        """The runs: the unfinished ones first, then the newest."""
        now_s = self._clock.now_s()
        if now_s - self._read_s < self._every_s:
            return self._shown
        self._read_s = now_s
        try:
            names = self._store.runs()
            runs = [self._read_run(name, now_s) for name in names]
            runs.sort(key=lambda shown: shown.head.created if shown.head else "", reverse=True)
            self._shown = sorted(runs, key=lambda shown: shown.head is None or shown.head.state != "running")
            self._known = {name: self._known[name] for name in names if name in self._known}
            self.trouble = ""
        except StoreError as error:
            self.trouble = str(error)
        return self._shown

    def _read_run(self, run: str, now_s: float) -> Shown:
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
                known.journal, known.journal_events = head.journal, tuple(events(self._store, run, head))
        except (QcityError, codec.DecodeError) as error:
            return Shown(run=run, trouble=str(error))
        known.read_s = now_s
        known.shown = _to_shown(head, known)
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


def _to_shown(head: Head, known: _Known) -> Shown:
    newest, holder, pending_launch = head.checkpoint, head.holder, head.pending_launch
    hosts = [
        str(event.data["host"]) for event in known.journal_events if event.kind == "lease" and event.data.get("host")
    ]
    host = holder.host if holder else (hosts[-1] if hosts else "")
    deaths = [
        int(event.data.get("step", 0)) for event in known.journal_events if event.kind == "lease" and event.term > 1
    ]
    changes = {
        (int(event.data.get("step", 0)), str(event.data.get("message", "")))
        for event in known.journal_events
        if event.kind == "changed"
    }
    messages = []
    if pending_launch is not None and holder is None:
        messages.append(f"attempt {pending_launch.attempt} is being launched on {pending_launch.host}")
    if failed := describe_failed_launches(head, f"attempt {head.term or 1}"):
        messages.append(failed)
    if head.failure is not None and head.state != "succeeded":
        messages.append(head.failure.message)
    view = PanelView(
        run=head.run,
        state=state_of(head),
        host=host,
        term=head.term,
        attempt=holder.attempt if holder else "",
        published=Saved(seq=newest.seq, step=newest.step, age_s=max(0.0, since(newest.at) or 0.0)) if newest else None,
        rows_drained=sum(count for seq, count in known.counts.items() if seq <= head.tracked.drained_seq),
        rows_waiting=sum(count for seq, count in known.counts.items() if seq > head.tracked.drained_seq),
        metrics=known.rows,
        deaths=tuple(deaths),
        changes=tuple(sorted(changes)),
        tracker=mask(head.tracked.uri),
        messages=tuple(messages),
    )
    return Shown(run=head.run, head=head, view=view, host=host, journal=known.journal_events)
