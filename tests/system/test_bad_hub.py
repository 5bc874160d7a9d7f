"""What a user of the Hub may do wrong, and what the Hub may do to a run: one clear line, nothing lost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from huggingface_hub import HfApi
from scripted_run import Script, environment, events, eventually, head_of
from tiers import nightly_but

from qcity_nb.errors import StoreRefused
from qcity_nb.published.read import published_rows
from qcity_nb.run.mailbox import Mailbox
from qcity_nb.stores import open_store
from qcity_nb.testing.emulators.hub.accounts import Users
from qcity_nb.testing.emulators.hub.server import HubServer
from qcity_nb.testing.emulators.hub.web import User
from qcity_nb.tracking.outbox import decode_rows

pytestmark = [pytest.mark.kill, pytest.mark.timeout(240)]

COUNT = 40
TOTAL = repr(sum((0.1 * i for i in range(COUNT)), 0.0))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    users = Users(
        {
            "alice-writes": User("alice", "write", ("lab",)),
            "alice-reads": User("alice", "read"),
            "bob-writes": User("bob", "write"),
        }
    )
    with HubServer(tmp_path / "hub", users=users) as server:
        yield server


@pytest.fixture
def publish(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes a run in a repository, with a token."""

    def publish(repo: str, token: str | None) -> None:
        if token is None:
            monkeypatch.delenv("HF_TOKEN")
        else:
            monkeypatch.setenv("HF_TOKEN", token)
        open_store(f"hf://{repo}?endpoint={server.url}").publish("r", b"{}", expect=None)

    return publish


def test_no_token(publish: Callable[..., None]) -> None:
    with pytest.raises(StoreRefused, match=r"hf://alice/runs: .*without a token.*`hf auth login`"):
        publish("alice/runs", None)


def test_a_token_that_nobody_knows(publish: Callable[..., None]) -> None:
    with pytest.raises(StoreRefused, match="does not accept this token"):
        publish("alice/runs", "stale")


def test_a_token_that_may_only_read(publish: Callable[..., None], server: HubServer) -> None:
    with pytest.raises(StoreRefused, match=r"forbidden: .*role is 'read'.*may write"):
        publish("alice/runs", "alice-reads")
    publish("alice/runs", "alice-writes")
    with pytest.raises(StoreRefused, match="role is 'read'"):
        publish("alice/runs2", "alice-reads")
    store = open_store(f"hf://alice/runs?endpoint={server.url}")
    assert store.runs() == ["r"], "it may look"
    stamped = store.read("r")
    assert stamped is not None
    with pytest.raises(StoreRefused, match="role is 'read'"):
        store.publish("r", b"{}", expect=stamped.version)
    assert store.usage("r").objects == 0


def test_a_repository_of_another_kind(publish: Callable[..., None], server: HubServer) -> None:
    api = HfApi(endpoint=server.url, token="alice-writes")
    api.create_repo("alice/data", repo_type="dataset")
    api.create_repo("alice/app", repo_type="space", space_sdk="docker")
    with pytest.raises(StoreRefused, match=r"is a dataset: write hf://datasets/alice/data"):
        publish("alice/data", "alice-writes")
    with pytest.raises(StoreRefused, match="is a space, which cannot be a store"):
        publish("alice/app", "alice-writes")
    publish("datasets/alice/data", "alice-writes")


def test_somebody_elses_repository(publish: Callable[..., None], server: HubServer) -> None:
    HfApi(endpoint=server.url, token="bob-writes").create_repo("bob/private", private=True)
    HfApi(endpoint=server.url, token="bob-writes").create_repo("bob/public", private=False)
    for repo in ("bob/private", "bob/not-there"):
        with pytest.raises(
            StoreRefused, match=rf"hf://{repo}: no such repository, or none that alice, whose token this is, may see"
        ):
            publish(repo, "alice-writes")
    with pytest.raises(StoreRefused, match="forbidden"):
        publish("bob/public", "alice-writes")
    publish("lab/runs", "alice-writes")


def test_the_command_line_says_it_in_one_line(server: HubServer, tmp_path: Path) -> None:
    def qcity(*arguments: str, token: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "qcity_nb.cli", *arguments],
            env={**environment(HF_ENDPOINT=server.url, HF_TOKEN=token), "HF_HOME": str(tmp_path)},
            cwd=tmp_path,
            text=True,
            capture_output=True,
        )

    for address, token, code, words in (
        ("hf://bob/private", "alice-writes", 6, "none that alice, whose token this is, may see"),
        ("hf://alice/runs", "", 6, "`hf auth login`"),
        ("hf://alice", "alice-writes", 2, "hf://user/repo"),
        ("hf://spaces/alice/app", "alice-writes", 2, "a Space cannot be a store"),
    ):
        done = qcity("ps", "--store", address, token=token)
        assert done.returncode == code, done.stderr
        assert done.stderr.startswith("qcity: ")
        assert done.stderr.count("\n") == 1, done.stderr
        assert words in done.stderr
        if token:
            assert token not in done.stdout + done.stderr


class Runs:
    """Scripts whose runs live on the server."""

    def __init__(self, server: HubServer, folder: Path) -> None:
        self.address = f"hf://alice/runs?endpoint={server.url}"
        self.folder = folder
        self.made: list[Script] = []

    def start(self, name: str = "work", **changes: Any) -> Script:
        store = cast(Path, self.address)
        environ = {"HF_TOKEN": "alice-writes"}
        script = Script(self.folder / name, store, count=COUNT, ttl_s=2.0, environ=environ, **changes)
        self.made.append(script)
        return script.start()


@pytest.fixture
def runs(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runs]:
    monkeypatch.setenv("HF_TOKEN", "alice-writes")
    made = Runs(server, tmp_path)
    yield made
    server.faults.clear()
    for script in made.made:
        script.kill()


def message_of(script: Script) -> str:
    desks = list((script.folder / ".qcity/local/attempts").glob("*"))
    return " ".join(Mailbox(folder).status().message for folder in desks if folder.is_dir())


def ended_well(script: Script, address: str) -> None:
    """It finished, with the result and the rows of an undisturbed run, and did nothing twice."""
    assert script.wait(within_s=120) == 0, script.output
    assert script.output.splitlines()[-1] == f"finished {TOTAL}"
    head = head_of(cast(Path, address))
    assert head.state == "succeeded"
    rows = decode_rows(b"".join(published_rows(open_store(address), head, 0).values()))
    assert [row.step for row in rows] == list(range(COUNT)), "each row exactly once"
    assert script.executed == list(range(COUNT))


@pytest.mark.parametrize("fault", nightly_but(["down"], ["down", "storage-full", "rate-429"]))
def test_the_loop_goes_on_while_the_hub_does_not(server: HubServer, runs: Runs, fault: str) -> None:
    """Longer than the lease: nobody else takes the run, so it resumes publishing when the Hub is back."""
    script = runs.start(pause_s=0.15)
    eventually(lambda: len(script.executed) >= 5, what="iteration 5")
    eventually(lambda: head_of(cast(Path, runs.address)).checkpoint, what="a first publish")
    server.faults.retry_s = 3
    server.faults.set(fault, float("inf"))
    eventually(lambda: message_of(script).startswith("store: "), what="a word about it in the panel")
    seen = len(script.executed)
    eventually(lambda: len(script.executed) >= seen + 20 or len(script.executed) == COUNT, what="20 more iterations")
    message = message_of(script)
    assert {"down": "hf://alice/runs", "storage-full": "storage", "rate-429": "rate limit"}[fault] in message, message
    server.faults.clear()
    ended_well(script, runs.address)
    assert message_of(script) == ""


def test_a_script_killed_while_the_hub_is_down_goes_on_here(server: HubServer, runs: Runs) -> None:
    script = runs.start(pause_s=0.1)
    eventually(lambda: len(script.executed) >= 5, what="iteration 5")
    server.faults.set("down", float("inf"))
    eventually(lambda: len(script.executed) >= 12, what="iteration 12")
    script.kill()
    done = len(script.executed)
    server.faults.clear()
    again = runs.start(pause_s=0.01)
    assert again.wait() == 0, again.output
    assert again.output.splitlines()[-1] == f"finished {TOTAL}"
    assert again.executed[done] in (done, done - 1), "all that was finished was on this host's own disk"
    assert [event.kind for event in events(cast(Path, runs.address))].count("lease") == 2
