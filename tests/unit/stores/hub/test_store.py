"""What only the store on the Hub has: its storage, its pace, its time limits, Xet."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import hub_stores
import pytest

from qcity_nb.errors import Conflict, StoreUnavailable
from qcity_nb.stores.hub import client
from qcity_nb.stores.hub import store as hub
from qcity_nb.stores.hub.store import HubStore
from qcity_nb.testing.clock import ManualClock
from qcity_nb.testing.contracts.at_hub import heads_of
from qcity_nb.testing.emulators.hub.server import HubServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    with hub_stores.serve(tmp_path_factory.mktemp("hub")) as server:
        yield server


@pytest.fixture
def store(server: HubServer) -> Iterator[HubStore]:
    yield hub_stores.new_store(server, clock=ManualClock())
    server.faults.clear()


def commits(store: HubStore, run: str = "r") -> int:
    api, repo = hub_stores.api_of(store)
    return len(api.list_repo_commits(repo, revision=f"run/{run}"))


def test_a_long_history_is_squashed_while_others_write(
    store: HubStore, server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the run record nor its version changes, and a writer with an older tip continues."""
    monkeypatch.setattr(hub, "SQUASH_AFTER", 6)
    version = store.publish("r", b"0", expect=None, files={"packs/t1-0-x.pack": b"0" * 1000})
    for number in range(1, 5):
        version = store.publish("r", b"%d" % number, expect=version)
        store.reclaim("r")
    assert commits(store) > 4, "squashed too early"
    version = store.publish("r", b"5", expect=version)
    rival = HubStore(store._repository.address)
    seen = rival.read("r")
    assert seen is not None
    store.reclaim("r")
    assert commits(store) == 1
    stamped = HubStore(store._repository.address).read("r")
    assert stamped is not None
    assert (stamped.data, stamped.version) == (b"5", version) == (seen.data, seen.version)
    assert rival.publish("r", b"6", expect=version) != version, "its parent is gone, its version is not"
    assert store.get("r", "packs/t1-0-x.pack") == b"0" * 1000
    assert store.names("r") == ["packs/t1-0-x.pack"]


def test_what_nothing_names_is_freed(store: HubStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs that this store dropped and no branch has any more; nobody else's content, and nothing young."""
    api, repo = hub_stores.api_of(store)
    monkeypatch.setattr(hub, "SQUASH_AFTER", 2)
    # A zero byte: until the branch has its rule for packs, what looks like text is stored as a regular file.
    files: dict[str, bytes | Path] = {f"packs/t1-{n}-x.pack": b"\0" + os.urandom(999) for n in range(3)}
    version = store.publish("r", b"0", expect=None, files=files)
    store.publish("other", b"0", expect=None, files={"packs/t1-9-x.pack": b"\0" + os.urandom(999)})
    api.upload_file(repo_id=repo, path_or_fileobj=b"\0" + os.urandom(999), path_in_repo="mine.bin")
    api.delete_file("mine.bin", repo)
    version = store.publish("r", b"1", expect=version, drop=["packs/t1-0-x.pack", "packs/t1-1-x.pack"])
    used = store.usage("r")
    assert (used.objects, used.size_bytes, used.held_bytes) == (1, 1000, 2000)
    store.read("r")
    store.reclaim("r")
    assert commits(store) == 1
    assert store.usage("r").held_bytes == 2000, "they are young: a commit may be on its way for which they were sent"
    monkeypatch.setattr(hub, "ERASE_AFTER_S", -3600.0)
    version = store.publish("r", b"2", expect=version)
    store.publish("r", b"3", expect=version)
    store.read("r")
    store.reclaim("r")
    assert store.usage("r").held_bytes == 0
    left = {content.filename for content in api.list_lfs_files(repo)}
    assert {"files/packs/t1-2-x.pack", "files/packs/t1-9-x.pack", "mine.bin"} <= left
    assert store.get("r", "packs/t1-2-x.pack") == files["packs/t1-2-x.pack"]


@pytest.mark.parametrize("when", ["before its tip is read", "before its commit"])
def test_a_run_that_somebody_else_makes_meanwhile(
    store: HubStore, server: HubServer, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Between the look and the reading of a branch's tip: a commit on that tip would replace the other's run record."""
    rival = HubStore(store._repository.address)
    store.publish("first", b"", expect=None)
    tip, calls = store._repository.tip, 0

    def late(branch: str) -> str:
        nonlocal calls
        calls += 1
        if calls == (1 if when == "before its tip is read" else 2):
            rival.publish("r", b"theirs", expect=None)
        return tip(branch)

    if when == "before its commit":
        server.faults.set("commit-412")
    monkeypatch.setattr(store._repository, "tip", late)
    with pytest.raises(Conflict):
        store.publish("r", b"ours", expect=None)
    assert calls == (1 if when == "before its tip is read" else 2)
    stamped = rival.read("r")
    assert stamped is not None
    assert stamped.data == b"theirs"
    assert heads_of(store, "r") == [b"theirs"]


def test_a_spent_rate_limit_closes_the_store_until_its_time(store: HubStore, server: HubServer) -> None:
    clock = store._repository._client._clock
    assert isinstance(clock, ManualClock)
    store.publish("r", b"0", expect=None)
    server.faults.retry_s = 7
    server.faults.set("rate-429")
    with pytest.raises(StoreUnavailable, match="rate limit") as caught:
        store.read("r")
    assert caught.value.retry_after_s == 7
    struck = len(server.faults.struck)
    with pytest.raises(StoreUnavailable, match="next request in 7 s") as caught:
        store.read("r")
    clock.advance(5)
    with pytest.raises(StoreUnavailable) as caught:
        store.names("r")
    assert caught.value.retry_after_s == pytest.approx(2)
    clock.advance(2.1)
    assert store.read("r") is not None
    assert len(server.faults.struck) == struck, "it was left alone meanwhile"


def test_a_hub_that_does_not_answer_has_a_time_limit(
    store: HubStore, server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = store.publish("r", b"0", expect=None)
    monkeypatch.setattr(client, "ANSWER_S", 0.3)
    gate = threading.Event()

    def stand_still(**event: object) -> None:
        gate.wait(20)

    remove = server.faults.on("commit.landed", stand_still)
    try:
        # It landed, and the reply never came: the store finds that out by itself.
        newer = store.publish("r", b"1", expect=version)
    finally:
        gate.set()
        remove()
    monkeypatch.undo()
    stamped = store.read("r")
    assert stamped is not None
    assert (stamped.data, stamped.version) == (b"1", newer)


_OVER_XET = """
import os, sys
from pathlib import Path
from qcity_nb.stores import open_store
store, folder = open_store(sys.argv[1]), Path(sys.argv[2])
content = os.urandom(3_000_000)
(folder / "source").write_bytes(content)
version = store.publish("r", b"0", expect=None, files={"packs/t1-1-x.pack": folder / "source", "small": b"s"})
changed = content[:1_500_000] + os.urandom(1000) + content[1_500_000:]
(folder / "changed").write_bytes(changed)
store.publish("r", b"1", expect=version, files={"packs/t1-2-x.pack": folder / "changed"}, drop=["packs/t1-1-x.pack"])
fresh = open_store(sys.argv[1])
fresh.fetch("r", "packs/t1-2-x.pack", folder / "back")
assert (folder / "back").read_bytes() == changed == fresh.get("r", "packs/t1-2-x.pack")
assert fresh.names("r") == ["packs/t1-2-x.pack", "small"]
[info] = store._repository.infos(["files/packs/t1-2-x.pack"], "run/r")
assert info.xet_hash, "it went over plain LFS"
print("done")
"""


def test_over_xet(server: HubServer, tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "HF_HUB_DISABLE_XET"}
    command = [sys.executable, "-c", _OVER_XET, hub_stores.fresh_address(server), str(tmp_path)]
    done = subprocess.run(command, env=environ, text=True, capture_output=True, timeout=100)
    assert done.stdout == "done\n", done.stderr
