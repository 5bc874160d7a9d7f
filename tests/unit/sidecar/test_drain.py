"""Sending rows to a tracker that fails now and then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import pytest

from qcity_nb.errors import TrackerUnavailable
from qcity_nb.published.send_rows import SLICE, Part, send_covered
from qcity_nb.records import CheckpointRef, Head, Row
from qcity_nb.run import journal, lease
from qcity_nb.stores.memory import MemoryStore
from qcity_nb.tracking.outbox import encode_rows

RUN = "r-1"
SIZES = (3, 4 * SLICE + 7, 2, 5)


class Failing:
    """A tracker that stores what it is sent, then fails at these calls though it has stored half."""

    uri = "failing:"

    def __init__(self, *at: int) -> None:
        self.at = at
        self.calls = 0
        self.rows: list[Row] = []

    def prepare(self) -> None:
        """See ``ports.Tracker``."""

    def start(self, run: str, *, experiment: str, params: Mapping[str, object], tags: Mapping[str, str]) -> str:
        """See ``ports.Tracker``."""
        return "t"

    def send(self, run_id: str, rows: Sequence[Row]) -> None:
        """See ``ports.Tracker``."""
        self.calls += 1
        if self.calls in self.at:
            self.rows += rows[: len(rows) // 2]
            raise TrackerUnavailable("no answer in time")
        self.rows += rows

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """See ``ports.Tracker``."""

    def end(self, run_id: str, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        """See ``ports.Tracker``."""


def row(index: int) -> Row:
    return Row(key="loss", value=0.5, timestamp_ms=index, step=index, loop="a", iteration=index, ordinal=0)


def world(name: str) -> tuple[MemoryStore, Head, list[Row]]:
    """A store whose outbox has one checkpoint of many slices among small ones."""
    store = MemoryStore(name)
    rows: list[Row] = []
    lines = b""
    for seq, size in enumerate(SIZES, 1):
        block = [row(len(rows) + n) for n in range(size)]
        rows += block
        lines += b'{"seq":%d}\n' % seq + encode_rows(block)
    segment = journal.append("", lines, folder="outbox", term=1, read=lambda name: b"")
    ref = CheckpointRef(name="c", digest="d", seq=len(SIZES), term=1, step=1, size_bytes=1, at="")
    head = Head(run=RUN, key="k", project="p", notebook="n.ipynb", outbox=segment.name, checkpoints=(ref,))
    lease.create(store, head, files={segment.name: segment.data})
    return store, head, rows


def test_a_failure_in_a_large_checkpoint_repeats_a_slice_of_it_and_loses_nothing() -> None:
    store, head, rows = world("drain-fails")
    tracker = Failing(3, 4, 7)
    part = Part()
    after = 0
    done: list[int] = []
    for _ in range(10):
        try:
            after = send_covered(
                store,
                head,
                tracker,
                "t",
                after=after,
                allowed=lambda: True,
                sent=lambda seq, count: done.append(seq),
                part=part,
            )
            break
        except TrackerUnavailable:
            after = done[-1] if done else 0
    assert after == len(SIZES)
    assert set(tracker.rows) == set(rows)
    assert len(tracker.rows) - len(rows) <= len(tracker.at) * SLICE, "no more than a slice for each failure"


def test_a_lease_that_ends_in_a_large_checkpoint_ends_the_sending_after_a_slice() -> None:
    store, head, _ = world("drain-lease")
    tracker = Failing()
    answers = iter([True, True, False])
    assert send_covered(store, head, tracker, "t", after=0, allowed=lambda: next(answers)) == 0
    assert len(tracker.rows) == 2 * SLICE


@pytest.mark.parametrize("after", range(len(SIZES)))
def test_what_is_drained_is_not_sent_again(after: int) -> None:
    store, head, rows = world(f"drain-after-{after}")
    tracker = Failing()
    assert send_covered(store, head, tracker, "t", after=after, allowed=lambda: True) == len(SIZES)
    assert tracker.rows == rows[sum(SIZES[:after]) :]
