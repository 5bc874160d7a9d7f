"""Which local checkpoints an attempt resumes from: those of the attempts that its run record names, and no others."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from checkpoint_run import RUN, CheckpointRun

from qcity_nb.checkpoint.storage.local_tier import LocalTier
from qcity_nb.checkpoint.storage.tier_folders import list_tiers, split_name, tier_path
from qcity_nb.errors import CheckpointCorrupt
from qcity_nb.records import Head, Holder
from qcity_nb.run import lease
from qcity_nb.sidecar.restore import Restored, make_tier, restore
from qcity_nb.stores.memory import MemoryStore

STATE = {"x": {"w": [1.0]}}


@pytest.fixture
def run(tmp_path: Path) -> CheckpointRun:
    """Checkpoint 1 is published, 2 lies in the local tier alone."""
    run = CheckpointRun(MemoryStore(), tmp_path)
    run.save(STATE)
    run.save(STATE, publish=False)
    return run


def begin(run: CheckpointRun, head: Head | None = None, attempt: str = "b") -> tuple[Restored, LocalTier]:
    """What the next attempt restores on the same host."""
    if head is None:
        me = Holder(attempt=attempt, host="local")
        head = lease.acquire(run.store, RUN, me, declared_dead=run.head().seen).head
    troubles: list[str] = []
    tier = make_tier(run.local, head, attempt, troubles.append)
    restored = restore(run.store, head, run.local, term=head.term, tier=tier)
    return replace(restored, trouble=(*troubles, *restored.trouble)), tier


def test_the_dead_attempts_own_tier_continues(run: CheckpointRun) -> None:
    restored, tier = begin(run)
    assert (restored.source, restored.seq, restored.trouble) == ("local", 2, ())
    assert restored.manifest is not None
    assert restored.manifest.run_id == run.head().id == tier.run_id


def test_a_run_of_the_same_name_in_another_store_has_another_id_and_place(run: CheckpointRun, tmp_path: Path) -> None:
    other = lease.create(MemoryStore(), Head(run=RUN, key="k", project="p", notebook="train.ipynb"))
    assert other.id != run.head().id
    assert list_tiers(run.local, RUN, other.id) == []
    restored, _ = begin(run, replace(other, term=1))
    assert (restored.source, restored.manifest) == ("", None)


@pytest.mark.parametrize("way", ["its path", "its attempt"])
def test_a_tier_that_is_put_in_the_way_is_refused_in_words(way: str, run: CheckpointRun, tmp_path: Path) -> None:
    """Of another run under this one's path, or of an attempt that the run record does not name."""
    if way == "its path":
        other = CheckpointRun(MemoryStore(), tmp_path / "other")
        for _ in range(5):
            other.save(STATE, publish=False)
        shutil.rmtree(run.tier.path)
        shutil.copytree(other.tier.path, run.tier.path)
    else:
        run.tier.path.rename(run.tier.path.with_name("1-z"))
    restored, _ = begin(run)
    assert (restored.source, restored.seq) == ("store", 1)
    assert len(restored.trouble) == 1
    assert "is not used: " in restored.trouble[0]


def test_an_attempt_begins_in_a_new_directory(run: CheckpointRun) -> None:
    planted = tier_path(run.local, RUN, 2, run_id=run.head().id, attempt="b")
    shutil.copytree(run.tier.path, planted)
    restored, tier = begin(run)
    assert tier.path == planted
    assert (restored.source, tier.seqs()) == ("local", [2])
    assert "existed before this attempt began" in restored.trouble[0]
    assert "unused-2-b" in restored.trouble[0]


def test_a_store_that_was_put_back_does_not_get_what_was_published_since(run: CheckpointRun) -> None:
    copy = run.head()
    run.save(STATE)
    run.save(STATE, publish=False)
    acquired = replace(copy, term=2, attempts=copy.list_attempts("b"))
    restored, _ = begin(run, acquired)
    assert (restored.source, restored.seq) == ("store", 1)
    assert "the store was put back" in restored.trouble[0]


def test_two_attempts_with_one_term_write_to_two_directories(run: CheckpointRun) -> None:
    """The store was put back while the first one ran."""
    head = replace(run.head(), term=2)
    paths = {make_tier(run.local, head, attempt, print).path for attempt in ("b", "c")}
    assert len(paths) == 2


def test_a_published_checkpoint_of_another_id_is_refused(run: CheckpointRun, tmp_path: Path) -> None:
    head = replace(run.release(), id="0123456789abcdef")
    restored, _ = begin(run, replace(head, term=2))
    assert restored.manifest is None
    assert "it belongs to the run" in restored.trouble[0]


def test_a_run_record_of_an_older_version_finds_its_tiers(tmp_path: Path) -> None:
    store = MemoryStore()
    head = Head(run=RUN, key="k", project="p", notebook="train.ipynb", term=1)
    tier = LocalTier(tier_path(tmp_path, RUN, 1), term=1)
    run = CheckpointRun(store, tmp_path / "made")
    tier.save(replace(run.save(STATE, publish=False), run_id="", objects={}, loops=()), {}, b"")
    fresh = make_tier(tmp_path, replace(head, term=2), f"{RUN}-b", print)
    assert fresh.path == tmp_path / "runs" / RUN / "2-b"
    restored = restore(store, replace(head, term=2), tmp_path, term=2, tier=fresh)
    assert (restored.source, restored.seq, restored.trouble) == ("local", 1, ())


def test_a_run_record_names_the_attempts_since_its_newest_checkpoint() -> None:
    store = MemoryStore()
    lease.create(store, Head(run="r", key="k", project="p", notebook="n"))
    for n in range(30):
        held = lease.acquire(store, "r", Holder(attempt=f"a{n}", host="local"))
        held.release()
    attempts = lease.read(store, "r").head.attempts
    assert attempts == {str(n + 1): f"a{n}" for n in range(14, 30)}


@pytest.mark.parametrize(
    "name", ["train-1a2b3c-1.0123456789abcdef0123", "train-1a2b3c-1", "a.b", "a.b.0123456789abcdef"]
)
def test_a_folder_gives_its_run_and_id(name: str) -> None:
    run, run_id = split_name(name)
    assert name == (f"{run}.{run_id}" if run_id else run)
    assert bool(run_id) is name.endswith(("cdef", "0123"))


def test_a_damaged_note_of_what_was_published_is_no_proof(run: CheckpointRun) -> None:
    (run.tier.path / "published").write_bytes(b"\xff")
    restored, _ = begin(run)
    assert restored.source == "store"
    assert "what of it was published is not known" in restored.trouble[0]


def test_a_local_checkpoint_without_its_id_is_not_of_this_run(run: CheckpointRun) -> None:
    plain = LocalTier(run.tier.path, term=1)
    with pytest.raises(CheckpointCorrupt):
        plain.load(9)
    plain.save(replace(plain.load(2), seq=9), {}, b"")
    restored, _ = begin(run)
    assert (restored.source, len(restored.trouble)) == ("store", 1)
