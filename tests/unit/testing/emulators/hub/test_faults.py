"""The faults of the Hub emulator, each as the real client meets it, and the hooks that tell a test where it is."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import httpx2
import pytest
from hub_world import HubWorld, ask
from huggingface_hub import CommitOperationAdd as Add
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils._http import parse_ratelimit_headers

from qcity_nb.testing.emulators.hub.faults import COUNTED, EVENTS, VALUED, Faults


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client tries again at once, where it tries again at all."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def commit(hub: HubWorld, data: bytes = b"x", path: str = "a.txt", **more: Any) -> str:
    return str(hub.api.create_commit(hub.repo, [Add(path, data)], commit_message="m", **more).oid)


def status(error: pytest.ExceptionInfo[HfHubHTTPError]) -> int:
    return int(error.value.response.status_code)


# --- commits


def test_a_lost_reply(hub: HubWorld) -> None:
    before = hub.head()
    hub.faults.set("commit-lost")
    with pytest.raises(httpx2.RemoteProtocolError):
        commit(hub)
    assert hub.head() != before
    assert hub.faults.struck == ["commit-lost"]
    commit(hub, b"y")


@pytest.mark.parametrize(
    ("fault", "code", "lands"),
    [
        ("commit-500", 500, True),
        ("commit-500-before", 500, False),
        ("commit-412", 412, False),
        ("storage-full", 403, False),
    ],
)
def test_commits_that_fail(hub: HubWorld, fault: str, code: int, lands: bool) -> None:
    before = hub.head()
    hub.faults.set(fault, 2)
    for turn in range(2):
        with pytest.raises(HfHubHTTPError) as error:
            commit(hub, b"%d" % turn, parent_commit=hub.head())
        assert status(error) == code
    assert len(hub.api.list_repo_commits(hub.repo)) == (3 if lands else 1)
    assert (hub.head() != before) == lands
    commit(hub, b"at last")
    assert hub.faults.struck == [fault, fault]


def test_a_slow_commit_has_landed(hub: HubWorld) -> None:
    hub.faults.set("commit-slow", 60, times=1)
    landed = threading.Event()
    hub.faults.on("commit.landed", lambda **details: landed.set())
    before = hub.head()

    def send() -> None:
        with pytest.raises(httpx2.HTTPError):
            hub.api.create_commit(hub.repo, [Add("a.txt", b"x")], commit_message="m")

    # The client would wait for ever: the connection is cut under it when the test has seen what it came for.
    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    assert landed.wait(20)
    assert hub.head() != before
    hub.server.hub.stopping.set()
    thread.join(20)
    hub.server.hub.stopping.clear()
    assert not thread.is_alive()


# --- uploads


def test_a_cut_upload_is_sent_again(hub: HubWorld) -> None:
    data = os.urandom(300_000)
    hub.faults.set("upload-cut", kind="storage")
    commit(hub, data, "a.bin")
    assert hub.faults.struck == ["upload-cut"]
    (info,) = hub.api.get_paths_info(hub.repo, "a.bin")
    assert info.lfs.size == len(data)  # type: ignore[union-attr]


def test_an_upload_cut_for_good(hub: HubWorld) -> None:
    before = hub.head()
    hub.faults.set("upload-cut", float("inf"), kind="storage")
    with pytest.raises(RuntimeError, match=r"Error while uploading 'a\.bin'"):
        commit(hub, os.urandom(300_000), "a.bin")
    assert hub.head() == before


def test_a_commit_cut_on_its_way_in(hub: HubWorld) -> None:
    before = hub.head()
    hub.faults.set("upload-cut", kind="commit")
    with pytest.raises(httpx2.HTTPError):
        commit(hub, b"x" * 500_000)
    assert hub.head() == before


def test_a_slow_upload(hub: HubWorld) -> None:
    hub.faults.set("upload-slow", 400_000, kind="storage")
    began = time.monotonic()
    commit(hub, os.urandom(100_000), "a.bin")
    assert time.monotonic() - began >= 0.2
    hub.faults.clear("upload-slow")
    assert not hub.faults.is_set("upload-slow")


def test_uploads_tell_where_they_are(hub: HubWorld) -> None:
    events: list[tuple[str, str]] = []
    for event in EVENTS:
        hub.faults.on(event, lambda _event=event, **details: events.append((_event, details.get("kind", "commit"))))
    commit(hub, os.urandom(300_000), "a.bin")
    assert events == [
        ("upload.begin", "storage"),
        ("upload.half", "storage"),
        ("commit.begin", "commit"),
        ("upload.begin", "commit"),
        ("upload.half", "commit"),
        ("commit.landed", "commit"),
    ]


def test_a_hook_can_hold_a_commit_while_a_rival_gets_in(hub: HubWorld) -> None:
    """As a test orders two hosts."""
    rival: list[str] = []

    def once(**details: Any) -> None:
        remove()
        rival.append(commit(hub, b"rival"))

    remove = hub.faults.on("commit.begin", once)
    with pytest.raises(HfHubHTTPError, match="412"):
        commit(hub, b"mine", parent_commit=hub.head())
    assert rival == [hub.head()]


# --- every call


def test_error_500_once(hub: HubWorld) -> None:
    hub.faults.set("error-500")
    with pytest.raises(HfHubHTTPError) as error:
        hub.api.model_info(hub.repo)
    assert status(error) == 500
    assert hub.api.model_info(hub.repo).id == hub.repo


def test_a_fault_for_one_kind_of_route(hub: HubWorld) -> None:
    commit(hub)
    hub.faults.set("error-500", kind="resolve")
    assert hub.api.model_info(hub.repo).id == hub.repo
    assert ask(hub.url(f"/{hub.repo}/resolve/main/a.txt")).status == 500
    assert ask(hub.url(f"/{hub.repo}/resolve/main/a.txt")).status == 200
    hub.faults.set("error-500", kind="storage")
    commit(hub, os.urandom(100), "a.bin")  # which the client tries again
    assert hub.faults.struck == ["error-500", "error-500"]


def test_rate_429(hub: HubWorld) -> None:
    hub.faults.set("rate-429")
    hub.faults.retry_s = 7
    with pytest.raises(HfHubHTTPError, match="you have reached your 'api' rate limit") as error:
        hub.api.model_info(hub.repo)
    assert status(error) == 429
    limit = parse_ratelimit_headers(error.value.response.headers)
    assert limit is not None
    assert (limit.remaining, limit.reset_in_seconds, limit.window_seconds) == (0, 7, 300)
    assert error.value.response.headers["retry-after"] == "7"
    assert hub.api.model_info(hub.repo).id == hub.repo


def test_calls_that_the_client_retries_get_through(hub: HubWorld) -> None:
    hub.faults.set("rate-429", 2)
    assert list(hub.api.list_repo_tree(hub.repo))
    hub.faults.set("error-500", 2)
    assert list(hub.api.list_repo_tree(hub.repo))
    assert hub.faults.struck == ["rate-429"] * 2 + ["error-500"] * 2


def test_down(hub: HubWorld) -> None:
    hub.faults.set("down", float("inf"))
    for call in (hub.api.whoami, lambda: hub.api.model_info(hub.repo), lambda: commit(hub)):
        with pytest.raises(httpx2.TransportError):
            call()
    hub.faults.clear("down")
    assert hub.api.whoami()["name"] == "user"


def test_a_read_that_lags(hub: HubWorld) -> None:
    old = hub.head()
    new = commit(hub)
    hub.faults.set("stale-read", 2)
    assert hub.api.model_info(hub.repo).sha == old
    assert hub.api.list_repo_refs(hub.repo).branches[0].target_commit == old
    assert hub.api.model_info(hub.repo).sha == new
    assert hub.api.model_info(hub.repo, revision=new).sha == new
    hub.faults.set("stale-read", kind="resolve")
    assert hub.api.model_info(hub.repo).sha == new
    assert ask(hub.url(f"/{hub.repo}/resolve/main/a.txt")).status == 404
    assert ask(hub.url(f"/{hub.repo}/resolve/main/a.txt")).status == 200
    hub.faults.set("stale-read")
    newest = commit(hub, b"y", parent_commit=new)  # what writes is never fooled
    hub.api.create_branch(hub.repo, branch="b")
    assert hub.head("b") == newest
    assert hub.api.model_info(hub.repo).sha == new


def test_a_branch_that_never_moved_cannot_lag(hub: HubWorld) -> None:
    hub.faults.set("stale-read")
    assert hub.api.model_info(hub.repo).sha == hub.head()
    assert hub.faults.is_set("stale-read")


# --- rate limits


def test_limits_are_counted_and_told(hub: HubWorld) -> None:
    hub.options.rate_limits, hub.options.rate_window_s = {"api": 3}, 1000.0
    try:
        for left in (2, 1, 0):
            reply = ask(hub.api_url(""))
            assert reply.status == 200
            limit = parse_ratelimit_headers(reply.headers)
            assert limit is not None
            assert (limit.resource_type, limit.remaining, limit.limit, limit.window_seconds) == ("api", left, 3, 1000)
        refused = ask(hub.api_url(""))
        assert refused.status == 429
        assert int(refused.headers["retry-after"]) <= 1001
        assert ask(hub.url(f"/{hub.repo}/resolve/main/.gitattributes")).status == 200  # counted apart
        hub.options.rate_window_s = 0.0
        assert ask(hub.api_url("")).status == 200  # the window is over
    finally:
        hub.options.rate_limits = {}
    assert parse_ratelimit_headers(ask(hub.api_url("")).headers) is None


# --- the switches themselves


def test_every_fault_is_named_and_told() -> None:
    faults = Faults()
    for name in (*COUNTED, *VALUED):
        assert not faults.is_set(name)
        faults.set(name, 2)
        assert faults.is_set(name)
        assert faults.strike(name) == 2
    faults.clear()
    assert not any(faults.is_set(name) for name in (*COUNTED, *VALUED))


def test_counts_and_kinds() -> None:
    faults = Faults()
    faults.set("error-500", 2, kind="commit")
    assert faults.strike("error-500", "read") is None
    assert faults.strike("error-500", "commit") is not None
    assert faults.strike("error-500", "commit", only=True) is not None
    assert faults.strike("error-500", "commit") is None
    faults.set("upload-slow", 100, times=1)
    assert faults.strike("upload-slow", "storage", only=True) is None
    assert faults.strike("upload-slow", "storage") == 100
    assert faults.strike("upload-slow", "storage") is None


def test_what_cannot_be_set() -> None:
    with pytest.raises(ValueError, match="no fault is called 'commit-lots'; there are commit-lost"):
        Faults().set("commit-lots")
    for number in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="above 0"):
            Faults().set("down", number)
    with pytest.raises(ValueError, match=r"no event is called 'upload\.end'"):
        Faults().on("upload.end", print)


def test_threads_share_a_count() -> None:
    faults = Faults()
    hits: list[int] = []
    faults.set("down", 50)

    def work() -> None:
        hits.extend(1 for _ in range(20) if faults.strike("down") is not None)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(hits) == 50
