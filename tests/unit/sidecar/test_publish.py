"""Publishing from the local tier when replies are lost: what follows stands on what did land."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from checkpoint_run import restored

from qcity_nb import codec
from qcity_nb.checkpoint.encode import encode_state
from qcity_nb.checkpoint.retention import Keep
from qcity_nb.checkpoint.state.capture import capture
from qcity_nb.checkpoint.storage.local_tier import LocalTier
from qcity_nb.checkpoint.storage.manifest import LoopRecord, Manifest
from qcity_nb.errors import StoreUnavailable
from qcity_nb.published.read import manifest_of, published_rows, reader
from qcity_nb.records import Head, Holder, Row
from qcity_nb.run import lease
from qcity_nb.run.mailbox import Mailbox
from qcity_nb.sidecar import publish
from qcity_nb.sidecar.publish import Publisher
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


def test_heartbeats_tidy_after_a_checkpoint_and_then_list_nothing(tmp_path: Path) -> None:
    store = Counted("tidy")
    lease.create(store, Head(run=RUN, key="k", project="p", notebook="n.ipynb"))
    held = lease.acquire(store, RUN, Holder(attempt="a", host="local"), clock=ManualClock())
    tier = LocalTier(tmp_path / "tier", term=1)
    publisher = Publisher(held, Mailbox(tmp_path / "mailbox").open(), tier, published=None)
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


def save(tier: LocalTier, seq: int, *, loss: float | None = None, name: str = "") -> Manifest:
    """A checkpoint with one object that stays from the second one on, and one that changes."""
    fixed, content = encode_state(capture({"fixed": [min(seq, 2)] * 1000}))
    state, more = encode_state(capture({"n": [seq]}))
    loops = (
        LoopRecord(key="a", name="a", done=seq, count=seq, state=fixed, generators=fixed),
        LoopRecord(key="b", name="b", done=seq, count=seq, state=state, generators=state),
    )
    row = Row(
        key="loss",
        value=1.0 * seq if loss is None else loss,
        timestamp_ms=seq,
        step=seq,
        loop="a",
        iteration=seq,
        ordinal=0,
    )
    values = {"name": name} if name else {}
    manifest = Manifest(run=RUN, term=1, seq=seq, step=seq, loops=loops, values=values)
    return tier.save(manifest, {**content, **more}, encode_rows([row]))


def test_a_checkpoint_after_a_lost_reply_stands_on_the_one_that_landed(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore("publish"), rate=0)
    clock = ManualClock()
    lease.create(store, Head(run=RUN, key="k", project="p", notebook="n.ipynb"))
    held = lease.acquire(store, RUN, Holder(attempt="a", host="local"), clock=clock)
    tier = LocalTier(tmp_path / "tier", term=1)
    publisher = Publisher(held, Mailbox(tmp_path / "mailbox").open(), tier, published=None)
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
    fresh = restored(store, head, tmp_path / "fresh")
    assert fresh.trouble == ()
    assert fresh.manifest is not None
    assert fresh.manifest.seq == 3
    assert sorted(published_rows(store, head, 0)) == [1, 2, 3]


def publishing(tmp_path: Path, keep: Keep) -> tuple[MemoryStore, LocalTier, Publisher]:
    """A store, a tier, and a publisher between them."""
    store = MemoryStore("retention")
    lease.create(store, Head(run=RUN, key="k", project="p", notebook="n.ipynb"))
    held = lease.acquire(store, RUN, Holder(attempt="a", host="local"), clock=ManualClock())
    tier = LocalTier(tmp_path / "tier", term=1)
    return store, tier, Publisher(held, Mailbox(tmp_path / "mailbox").open(), tier, published=None, keep=keep)


def test_what_retention_keeps_can_be_read_and_the_rest_is_deleted(tmp_path: Path) -> None:
    store, tier, publisher = publishing(tmp_path, Keep(last=2, every=5, best="loss"))
    losses = [9.0, 8.0, 1.0, 7.0, math.nan, 6.0, 2.0, 5.0, 3.0, 4.0, 1.0, 2.0]
    for seq, loss in enumerate(losses, start=1):
        publisher.publish(save(tier, seq, loss=loss, name="the fourth" if seq == 4 else ""))
    head = lease.read(store, RUN).head
    # 12 and 11 are the newest; 10, 5 and 1 begin five steps; 4 has a name; 3 is the first with the best loss.
    assert [ref.seq for ref in head.checkpoints] == [12, 11, 10, 5, 4, 3, 1]
    assert [ref.label for ref in head.checkpoints if ref.label] == ["the fourth"]
    assert [ref.values for ref in head.checkpoints if ref.seq in (5, 3)] == [{}, {"loss": 1.0}]
    assert codec.loads(Head, codec.dumps(head)) == head
    for ref in head.checkpoints:
        manifest = manifest_of(store, RUN, ref)
        read = reader(store, RUN, manifest, tmp_path / "incoming")
        assert all(read(digest) for digest in manifest.objects)
    # One more publish deletes what was garbage at this one.
    publisher.publish(None)
    stored = {int(name.split("-")[1]) for name in store.names(RUN) if name.startswith("checkpoints/")}
    assert stored == {ref.seq for ref in head.checkpoints}


def test_by_default_three_stay_and_no_value_is_stored(tmp_path: Path) -> None:
    store, tier, publisher = publishing(tmp_path, Keep())
    for seq in range(1, 6):
        publisher.publish(save(tier, seq))
    refs = lease.read(store, RUN).head.checkpoints
    assert [ref.seq for ref in refs] == [5, 4, 3]
    assert [(ref.label, ref.values) for ref in refs] == [("", {})] * 3


def test_a_name_for_which_there_is_no_room_is_told_and_the_checkpoint_published_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, tier, publisher = publishing(tmp_path, Keep(last=1))
    monkeypatch.setattr(publish, "names_left", lambda named, keep: 2 - named)
    for seq in range(1, 5):
        publisher.publish(save(tier, seq, name=f"n{seq}"))
    assert [(ref.seq, ref.label) for ref in lease.read(store, RUN).head.checkpoints] == [(4, ""), (2, "n2"), (1, "n1")]
    lines, _ = Mailbox(tmp_path / "mailbox").events_since(0)
    assert b"cannot be named 'n3'" in lines


def test_a_head_of_an_older_version_is_read(tmp_path: Path) -> None:
    store, tier, publisher = publishing(tmp_path, Keep(best="loss"))
    publisher.publish(save(tier, 1))
    plain = json.loads(codec.dumps(lease.read(store, RUN).head))
    for ref in plain["checkpoints"]:
        del ref["label"], ref["values"]
    old = codec.loads(Head, json.dumps(plain).encode())
    assert [(ref.label, ref.values) for ref in old.checkpoints] == [("", {})]
