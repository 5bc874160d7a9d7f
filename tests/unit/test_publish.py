"""Publishing from the local tier when replies are lost: what follows stands on what did land."""

from __future__ import annotations

from pathlib import Path

import pytest

from qcity_nb.agent.adopt import load_published, manifest_of, published_rows
from qcity_nb.agent.publish import Publisher
from qcity_nb.checkpoint.capture import capture
from qcity_nb.checkpoint.encode import encode_state
from qcity_nb.checkpoint.local import LocalTier
from qcity_nb.checkpoint.manifest import LoopRecord, Manifest
from qcity_nb.errors import StoreUnavailable
from qcity_nb.records import Head, Holder, Row
from qcity_nb.run import lease
from qcity_nb.run.desk import Desk
from qcity_nb.stores.memory import MemoryStore
from qcity_nb.testing.clock import ManualClock
from qcity_nb.testing.faults import FaultyStore
from qcity_nb.tracking.outbox import encode_rows

RUN = "r-1"


class Counted(MemoryStore):
    """Counts how often its objects are listed."""

    listed = 0

    def names(self, run: str) -> list[str]:
        """See ``ports.Store``."""
        self.listed += 1
        return super().names(run)


def named(store: MemoryStore) -> set[str]:
    """Every object that the head and its manifests name."""
    head = lease.read(store, RUN).head
    names = {head.journal, head.outbox, head.executed, *(ref.name for ref in head.checkpoints)} - {""}
    for ref in head.checkpoints:
        names |= {each.pack for each in manifest_of(store, RUN, ref).objects.values()}
    return names


def test_beats_tidy_after_a_checkpoint_and_then_list_nothing(tmp_path: Path) -> None:
    store = Counted("tidy")
    lease.create(store, Head(run=RUN, key="k", project="p", notebook="n.ipynb"))
    held = lease.acquire(store, RUN, Holder(attempt="a", host="local"), clock=ManualClock())
    tier = LocalTier(tmp_path / "tier", epoch=1)
    publisher = Publisher(held, Desk(tmp_path / "desk").open(), tier, published=None)
    for seq in range(1, 8):
        publisher.publish(save(tier, seq))
    assert set(store.names(RUN)) - named(store), "what the newest publish dropped stays for one more"
    publisher.publish(None)
    publisher.publish(None)
    assert set(store.names(RUN)) == named(store)
    before = store.listed
    for _ in range(5):
        publisher.publish(None)
    assert store.listed == before


def save(tier: LocalTier, seq: int) -> Manifest:
    """A checkpoint with one object that stays from the second one on, and one that changes."""
    fixed, content = encode_state(capture({"fixed": [min(seq, 2)] * 1000}))
    state, more = encode_state(capture({"n": [seq]}))
    loops = (
        LoopRecord(key="a", name="a", done=seq, count=seq, state=fixed, generators=fixed),
        LoopRecord(key="b", name="b", done=seq, count=seq, state=state, generators=state),
    )
    row = Row(key="loss", value=1.0 * seq, timestamp_ms=seq, step=seq, loop="a", iteration=seq, ordinal=0)
    manifest = Manifest(run=RUN, epoch=1, seq=seq, step=seq, loops=loops)
    return tier.save(manifest, {**content, **more}, encode_rows([row]))


def test_a_checkpoint_after_a_lost_reply_stands_on_the_one_that_landed(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore("publish"), rate=0)
    clock = ManualClock()
    lease.create(store, Head(run=RUN, key="k", project="p", notebook="n.ipynb"))
    held = lease.acquire(store, RUN, Holder(attempt="a", host="local"), clock=clock)
    tier = LocalTier(tmp_path / "tier", epoch=1)
    publisher = Publisher(held, Desk(tmp_path / "desk").open(), tier, published=None)
    publisher.publish(save(tier, 1))
    second = save(tier, 2)
    store.inject("lost")
    for _ in range(12):
        store.inject("unread")
    with pytest.raises(StoreUnavailable):
        publisher.publish(second)
    store.clear()
    publisher.publish(second)
    publisher.publish(save(tier, 3))
    head = lease.read(store, RUN).head
    assert [ref.seq for ref in head.checkpoints] == [3, 2, 1]
    manifest, _, trouble = load_published(store, head, tmp_path / "incoming")
    assert trouble == []
    assert manifest is not None
    assert manifest.seq == 3
    assert sorted(published_rows(store, head, 0)) == [1, 2, 3]
