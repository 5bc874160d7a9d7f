"""The metrics of a run before this attempt, for the panel, so that its curves are complete."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from itertools import islice

from qcity_nb import codec
from qcity_nb.checkpoint.storage.local_tier import LocalTier
from qcity_nb.errors import QcityError
from qcity_nb.published.read import published_rows
from qcity_nb.run.lease import Lease
from qcity_nb.run.mailbox import Mailbox
from qcity_nb.tracking.outbox import decode_rows
from qcity_nb.views.curve import Point, thin_out
from qcity_nb.views.series import Series

__all__ = ["begin", "send_metric_history"]

POINTS = 500
"""Points per metric: as many as its curve in the panel shows."""
KEYS = 64
"""Metrics at most: the panel shows fewer."""
TRIES = 3
"""A publish may replace an object while it is read; then the newest run record is read."""


def begin(lease: Lease, tier: LocalTier, mailbox: Mailbox) -> None:
    """Run ``send_metric_history`` in a daemon thread: nothing waits for a picture."""
    threading.Thread(target=send_metric_history, args=(lease, tier, mailbox), name="earlier", daemon=True).start()


def send_metric_history(lease: Lease, tier: LocalTier, mailbox: Mailbox) -> None:
    """Write the metrics of earlier attempts to the mailbox, thinned out; if they cannot be read, do nothing."""
    for _ in range(TRIES):
        with contextlib.suppress(QcityError, codec.DecodeError, ValueError, OSError):
            if metrics := _read_earlier(lease, tier):
                mailbox.write_earlier({key: thin_out(points, POINTS) for key, points in islice(metrics.items(), KEYS)})
            return


def _read_earlier(lease: Lease, tier: LocalTier) -> Mapping[str, Sequence[Point]]:
    head = lease.head
    published = head.checkpoint.seq if head.checkpoint else 0
    last = int((tier.path / "seq").read_text(encoding="ascii"))
    local = [tier.rows(seq) for seq in range(published + 1, last + 1)]
    blocks = published_rows(lease.store, head, 0)
    series = Series()
    for rows in (*(blocks[seq] for seq in sorted(blocks) if seq <= last), *local):
        series.add(decode_rows(rows))
    return series.metrics
