"""Sending the rows that published checkpoints cover to the tracker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from qcity_nb import crashpoints
from qcity_nb.ports import Store, Tracker
from qcity_nb.published.read import published_rows
from qcity_nb.records import Head, Row
from qcity_nb.tracking.outbox import decode_rows

__all__ = ["FINAL", "Part", "send_covered"]


FINAL: dict[str, Literal["FINISHED", "FAILED", "KILLED"]] = {
    "succeeded": "FINISHED",
    "failed": "FAILED",
    "stopped": "KILLED",
}
"""The tracker's status for a run that has ended, by the head's state."""


SLICE = 2000
"""Rows that are sent before the progress is remembered."""


@dataclass(slots=True)
class Part:
    """How far sending has come into what the head does not yet call drained; this process alone knows.

    A repeat costs MLflow several times a first sending, and more with every row that it has: to begin a checkpoint of
    100,000 rows anew after each failure might never come to an end.
    """

    first: int = 0
    """The checkpoint whose rows come first in it."""
    rows: int = 0


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
) -> int:
    """Send all rows of checkpoints after ``after`` that the head covers; returns the newest one sent.

    Args:
        part: of an earlier call of this process for the same tracker's run; changed.
    Raises:
        TrackerUnavailable: some rows may be there already; sending them again changes nothing.
    """
    newest = head.checkpoint.seq if head.checkpoint else 0
    if newest <= after:
        return after
    before = after
    part = part or Part()
    blocks = published_rows(store, head, after)
    seqs = [seq for seq in sorted(blocks) if seq <= newest]
    while seqs:
        # Many small blocks go together; a failure then repeats no more than a slice.
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
