"""What the panel shows: the session and the sidecar's status as one view."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qcity_nb.clock import iso_now
from qcity_nb.kernel.session import Session
from qcity_nb.run.mailbox import Status
from qcity_nb.views.run_view import LoopView, PanelView, Saved

if TYPE_CHECKING:
    from qcity_nb.hosts.detect import DetectedHost
    from qcity_nb.views.curve import Point

__all__ = ["loop_views", "view_of"]


def loop_views(session: Session) -> tuple[LoopView, ...]:
    """The progress of each loop that has begun here; of inner loops while they run."""
    now = session.clock.now_s()
    shown = [loop for loop in session.loops.values() if loop in session.open or (loop.touched and not loop.parent)]
    views = []
    for loop in shown:
        spent_s = now - loop.started_s
        did = loop.done - loop.started_done
        rate = did / spent_s if did and spent_s > 0 and not loop.finished else None
        eta_s = (loop.total - loop.done) / rate if rate and loop.total is not None else None
        views.append(LoopView(name=loop.name, done=loop.done, total=loop.total, rate=rate, eta_s=eta_s))
    return tuple(views)


def _end_reason(status: Status) -> str:
    """Why this attempt is over, if the state does not say it."""
    if status.state == "ended":
        return {
            "succeeded": "",
            "failed": "",
            "stopped": "",
            "running": "released: the next attempt resumes from here",
        }.get(status.reason, status.reason)
    return status.reason


def _metrics(session: Session) -> dict[str, tuple[Point, ...]]:
    before, since = session.sidecar.earlier(), session.metric_log.series()
    return {key: (*before.get(key, ()), *since.get(key, ())) for key in (*before, *since)}


def view_of(session: Session, host: DetectedHost) -> PanelView:
    """The panel's present view."""
    status = session.sidecar.look(now=True)
    now = session.clock.now_s()
    manifest = session.manifest
    local = published = None
    if manifest is not None:
        local = Saved(seq=manifest.seq, step=manifest.step, age_s=now - session.saved_at_s)
    if status.published_seq:
        age_s = max(0.0, now - status.published_at_s) if status.published_at_s > 0 else 0.0
        published = Saved(seq=status.published_seq, step=status.published_step, age_s=age_s)
    lease = "suspended" if status.state == "held" and now > status.until_s else status.state
    return PanelView(
        run=status.run,
        state=status.reason
        if status.state == "ended" and status.reason in ("succeeded", "failed", "stopped")
        else "running",
        host=host.name,
        evidence=host.evidence,
        term=status.term,
        attempt=session.sidecar.mailbox.path.name,
        lease=lease,
        loops=loop_views(session),
        local=local,
        published=published,
        rows_waiting=len(session.metric_log.pending),
        rows_drained=status.drained_rows,
        metrics=_metrics(session),
        deaths=tuple(session.history.deaths),
        changes=tuple((int(each["step"]), str(each["text"])) for each in session.history.changes),
        store=status.store,
        tracker=status.tracking,
        messages=tuple(text for text in (status.message, status.stop, _end_reason(status)) if text),
        at=f"{iso_now()[:19].replace('T', ' ')} UTC",
    )
