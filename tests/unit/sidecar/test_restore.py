"""What a fresh host resumes from: the store, over a line that breaks, beside an attempt that does not know it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checkpoint_run import RUN, CheckpointRun, restored

from qcity_nb.errors import StoreUnavailable
from qcity_nb.records import Head
from qcity_nb.sidecar.restore import Restored
from qcity_nb.stores.memory import MemoryStore


class Watched(MemoryStore):
    """Counts fetches; fails the one of number ``cut``, and lets the one of number ``hold`` wait."""

    def __init__(self) -> None:
        super().__init__("watched")
        self.fetched: list[str] = []
        self._counting = threading.Lock()
        self.cut = self.hold = 0
        self.is_held, self.go_on = threading.Event(), threading.Event()

    def fetch(self, run: str, name: str, path: Path) -> None:
        with self._counting:
            self.fetched.append(name)
            number = len(self.fetched)
        if number == self.cut:
            raise StoreUnavailable("cut off")
        super().fetch(run, name, path)
        if number == self.hold:
            self.is_held.set()
            assert self.go_on.wait(20)


@pytest.fixture
def store() -> Watched:
    return Watched()


@pytest.fixture
def head(store: Watched, tmp_path: Path) -> Head:
    """Three checkpoints; the newest needs the packs of all three."""
    run = CheckpointRun(store, tmp_path / "first")
    states = {name: {"x": np.random.default_rng(0).random(200_000)} for name in "abc"}
    for name in "abc":
        states[name]["x"] = np.random.default_rng(1).random(200_000) + ord(name)
        run.save(states)
    return run.release()


def is_whole(fresh: Restored, store: Watched) -> None:
    assert fresh.manifest is not None
    assert (fresh.manifest.seq, fresh.source, fresh.trouble) == (3, "store", ())


def test_each_pack_is_fetched_once(store: Watched, head: Head, tmp_path: Path) -> None:
    is_whole(restored(store, head, tmp_path / "fresh"), store)
    assert len(store.fetched) == len(set(store.fetched)) == 3
    assert not list((tmp_path / "fresh").rglob("incoming*/*")), "nothing of it stays"


def test_what_a_cut_off_download_brought_is_not_fetched_again(store: Watched, head: Head, tmp_path: Path) -> None:
    store.cut = 2
    with pytest.raises(StoreUnavailable):
        restored(store, head, tmp_path / "fresh")
    assert len(list((tmp_path / "fresh").rglob("incoming/*"))) in (1, 2), "the third may not have been begun"
    is_whole(restored(store, head, tmp_path / "fresh"), store)
    assert len(store.fetched) == 4, "each once, and the one that failed again"


def test_two_attempts_of_one_host_do_not_take_each_others_packs(store: Watched, head: Head, tmp_path: Path) -> None:
    """One was superseded while it fetched, and does not know it; the other one is done first, and tidies up."""
    store.hold = 2
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(restored, store, replace(head, term=head.term + 1), tmp_path / "fresh")
        assert store.is_held.wait(20)
        is_whole(restored(store, head, tmp_path / "fresh"), store)
        store.go_on.set()
        is_whole(slow.result(timeout=20), store)


def test_a_damaged_pack_falls_back_to_what_is_whole(store: Watched, head: Head, tmp_path: Path) -> None:
    newest = max(name for name in store.names(RUN) if name.startswith("packs/t1-3-"))
    kept = store._runs[RUN].files
    kept[newest] = kept[newest][:100] + bytes([kept[newest][100] ^ 1]) + kept[newest][101:]
    fresh = restored(store, head, tmp_path / "fresh")
    assert fresh.manifest is not None
    assert (fresh.manifest.seq, fresh.seq) == (2, 3)
    assert "checkpoint 3" in fresh.trouble[0]
