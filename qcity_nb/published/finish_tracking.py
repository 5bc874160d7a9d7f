"""Finish the tracking of a run that has ended: send the remaining rows and close it. Usually a keeper does it."""

from __future__ import annotations

from dataclasses import replace

from qcity_nb.ports import Store
from qcity_nb.published.send_rows import FINAL, send_covered
from qcity_nb.records import Head
from qcity_nb.run.lease import amend, read
from qcity_nb.tracking import open_tracker

__all__ = ["finish_tracking"]


def finish_tracking(store: Store, run: str, *, tracking: str, experiment: str) -> None:
    """Send the rows that the tracker lacks, and give its run the final status of the run record.

    Any number of processes may do this at once: rows are sent exactly as logged, and the statuses agree.

    Args:
        tracking: the tracker's address, if the run record does not name one yet.
    Raises:
        TrackerUnavailable: try again later; nothing is lost.
        StoreUnavailable: the same.
    """
    head = read(store, run).head
    status = FINAL.get(head.state)
    uri = head.tracked.uri or tracking
    if status is None or head.holder is not None or not uri:
        return
    tracker = open_tracker(uri)
    if tracker is None:
        return
    tags = {"qcity.attempts": str(head.term), "qcity.made": head.created}
    run_id = tracker.start(run, experiment=experiment, params=head.parameters, tags=tags)
    drained = send_covered(store, head, tracker, run_id, after=head.tracked.drained_seq, allowed=lambda: True)
    tracker.end(run_id, status)

    def note(now: Head) -> Head:
        # A run that was resumed meanwhile is left to its new holder; what was sent stays valid.
        if now.holder is not None or now.state != head.state:
            return now
        tracked = replace(now.tracked, uri=uri, run_id=run_id, drained_seq=drained, status=status)
        return replace(now, tracked=tracked)

    amend(store, run, note)
