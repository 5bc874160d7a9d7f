"""Send the rows that published checkpoints cover to the tracker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from qcity_nb import crashpoints
from qcity_nb.ports import Store, Tracker
from qcity_nb.published.read import published_rows
from qcity_nb.records import Head, Row
from qcity_nb.tracking.mlflow import ID_TAG, MADE_TAG
from qcity_nb.tracking.outbox import decode_rows

__all__ = ["FINAL", "Part", "identity_tags", "send_covered"]


FINAL: dict[str, Literal["FINISHED", "FAILED", "KILLED"]] = {
    "succeeded": "FINISHED",
    "failed": "FAILED",
    "stopped": "KILLED",
}
"""The tracker's status for a run that has ended, by the run's state."""


SLICE = 2000
"""How many rows are sent at a time; progress is remembered after each slice."""


def identity_tags(head: Head) -> dict[str, str]:
    """The tags by which the tracker finds the run again, and how many attempts it has had."""
    made = {MADE_TAG: head.created, "qcity.attempts": str(head.term)}
    return {**made, ID_TAG: head.id} if head.id else made


@dataclass(slots=True)
class Part:
    """How many of the rows that the run record does not yet count as drained were sent. Only this process knows it.

    Sending rows again costs MLflow several times as much as the first time, and more with every row that it has.
    Starting a checkpoint of 100,000 rows over after each failure might never end.
    """

    first: int = 0
    """The checkpoint whose rows are sent first."""
    rows: int = 0
    """How many rows, from the first one of that checkpoint on, were sent."""


def send_covered(
    store: Store,
    head: Head,
    tracker: Tracker,
    run_id: str,
    *,
    after: int,
    allowed: Callable[[], bool],
    sent: Callable[[int, int], None] = lambda seq, rows: None,
    part: Part | None = None,
    damaged: Callable[[str], None] = lambda what: None,
) -> int:
    """Send all rows of the published checkpoints after ``after``.

    Args:
        run_id: the tracker's own id for the run.
        allowed: asked before each slice; if false, sending ends.
        sent: called with a checkpoint's number and how many rows were sent up to it.
        damaged: called with what cannot be decoded: it is not sent.
        part: of an earlier call of this process for the same tracker's run; it is changed.
    Returns: the newest checkpoint whose rows were all sent.
    Raises:
        TrackerUnavailable: some rows may have arrived; sending them again changes nothing.
    """
    newest = head.checkpoint.seq if head.checkpoint else 0
    if newest <= after:
        return after
    before = after
    part = part or Part()
    blocks = published_rows(store, head, after, damaged)
    seqs = [seq for seq in sorted(blocks) if seq <= newest]
    while seqs:
        # Many small blocks are sent together; a failure then repeats at most one slice.
        rows: list[Row] = []
        if part.first != seqs[0]:
            part.first, part.rows = seqs[0], 0
        while seqs and (not rows or len(rows) < SLICE):
            after = seqs.pop(0)
            rows += decode_rows(blocks[after])
        while part.rows < len(rows):
            if not allowed():
                return before
            piece = rows[part.rows : part.rows + SLICE]
            crashpoints.hit("drain.before")
            tracker.send(run_id, piece)
            crashpoints.hit("drain.after")
            part.rows += len(piece)
        before = after
        sent(after, len(rows))
    return newest
