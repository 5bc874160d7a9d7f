"""Webhooks of the Hub emulator: what they are told, and that they start jobs."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, JobInfo, WebhookWatchedItem
from huggingface_hub.errors import BadRequestError, HfHubHTTPError
from job_world import USER, emulator, log_of, over, shell, wait_for

from qcity_nb.testing.emulators.hub import delivery
from qcity_nb.testing.emulators.hub.accounts import Users
from qcity_nb.testing.emulators.hub.server import HubServer
from qcity_nb.testing.emulators.hub.web import User

REPO = "user/model"
WATCHED: list[dict[Any, Any] | WebhookWatchedItem] = [{"type": "user", "name": USER}]


class Listener:
    """An address of this machine that keeps what is posted to it."""

    def __init__(self) -> None:
        got: queue.Queue[tuple[str, dict[str, str], Any]] = queue.Queue()
        self.got = got
        self.status = 200
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                got.put((self.path, dict(self.headers), json.loads(body)))
                self.send_response(listener.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook?a=b"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def next(self) -> tuple[str, dict[str, str], Any]:
        return self.got.get(timeout=30)

    def event(self) -> tuple[str, str]:
        event = self.next()[2]["event"]
        return event["action"], event["scope"]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    with emulator(tmp_path / "hub") as (server, _):
        yield server


@pytest.fixture
def api(server: HubServer) -> HfApi:
    return HfApi(endpoint=server.url, token="hf_any")


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


def upload(api: HfApi, name: str = "file", repo: str = REPO) -> str:
    return api.upload_file(path_or_fileobj=name.encode(), path_in_repo=name, repo_id=repo).oid


def test_made_listed_changed_deleted(api: HfApi) -> None:
    made = api.create_webhook(url="http://127.0.0.1:9/x", watched=WATCHED, secret="s")
    assert (made.url, made.job, made.disabled) == ("http://127.0.0.1:9/x", None, False)
    assert made.watched == [WebhookWatchedItem(type="user", name=USER)]
    assert made.domains == ["repo", "discussion"]
    assert made.secret is None  # it is never said back
    assert api.get_webhook(made.id) == made
    assert api.list_webhooks() == [made]
    changed = api.update_webhook(
        made.id, url="http://localhost:9/y", watched=[WebhookWatchedItem(type="model", name=REPO)], domains=["repo"]
    )
    assert (changed.url, changed.domains) == ("http://localhost:9/y", ["repo"])
    assert changed.watched == [WebhookWatchedItem(type="model", name=REPO)]
    assert api.disable_webhook(made.id).disabled is True
    assert api.enable_webhook(made.id).disabled is False
    api.delete_webhook(made.id)
    assert api.list_webhooks() == []
    with pytest.raises(HfHubHTTPError, match="404"):
        api.get_webhook(made.id)


def test_what_is_reported(api: HfApi, listener: Listener) -> None:
    made = api.create_webhook(url=listener.url, watched=WATCHED, secret="hf_hook")
    api.create_repo(REPO)
    path, headers, payload = listener.next()
    assert (path, headers["X-Webhook-Secret"]) == ("/hook?a=b", "hf_hook")
    assert payload["event"] == {"action": "create", "scope": "repo"}
    assert payload["webhook"] == {"id": made.id, "version": 3}
    before = api.model_info(REPO).sha
    new = upload(api)
    _, _, payload = listener.next()
    assert payload["event"] == {"action": "update", "scope": "repo.content"}
    assert payload["updatedRefs"] == [{"ref": "refs/heads/main", "oldSha": before, "newSha": new}]
    repo = payload["repo"]
    assert (repo["type"], repo["name"], repo["private"], repo["headSha"]) == ("model", REPO, False, new)
    assert repo["url"] == {"web": f"{api.endpoint}/{REPO}", "api": f"{api.endpoint}/api/models/{REPO}"}
    api.create_branch(REPO, branch="run")
    assert listener.event() == ("update", "repo.content")
    api.update_repo_settings(REPO, private=True)
    _, _, payload = listener.next()
    assert (payload["event"]["scope"], payload["updatedConfig"]) == ("repo.config", {"private": True})
    api.delete_repo(REPO)
    assert listener.event() == ("delete", "repo")


def test_the_payload_is_as_the_client_reads_it(api: HfApi, listener: Listener) -> None:
    from huggingface_hub import WebhookPayload

    api.create_webhook(url=listener.url, watched=WATCHED)
    api.create_repo("user/space", repo_type="space", space_sdk="docker", space_secrets=[{"key": "K", "value": "hf_no"}])
    _, headers, payload = listener.next()
    assert "X-Webhook-Secret" not in headers
    assert "hf_no" not in json.dumps(payload)
    assert WebhookPayload.model_validate(payload).repo.type == "space"
    api.add_space_secret("user/space", "OTHER", "hf_no")
    _, _, payload = listener.next()
    assert payload["event"]["scope"] == "repo.config"
    assert "hf_no" not in json.dumps(payload)


def test_only_what_is_watched_is_reported(api: HfApi, listener: Listener) -> None:
    api.create_webhook(url=listener.url, watched=[{"type": "model", "name": REPO}], domains=["repo"])
    silent = api.create_webhook(url=listener.url + "&other", watched=WATCHED, domains=["discussion"])
    off = api.create_webhook(url=listener.url + "&off", watched=WATCHED)
    api.disable_webhook(off.id)
    api.create_repo("user/another")
    api.create_repo(REPO, repo_type="dataset")
    api.create_repo(REPO)
    path, _, payload = listener.next()
    assert (path, payload["repo"]["type"], payload["repo"]["name"]) == ("/hook?a=b", "model", REPO)
    api.enable_webhook(off.id)
    api.delete_webhook(silent.id)
    upload(api)
    assert {listener.next()[0] for _ in range(2)} == {"/hook?a=b", "/hook?a=b&off"}
    assert listener.got.empty()


def test_others_private_repositories_are_not_reported(tmp_path: Path, listener: Listener) -> None:
    users = Users({"hf_alice": User("alice", orgs=("acme",)), "hf_bob": User("bob")})
    with emulator(tmp_path / "hub", users=users) as (server, _):
        alice, bob = (HfApi(endpoint=server.url, token=token) for token in ("hf_alice", "hf_bob"))
        bob.create_webhook(url=listener.url, watched=[*WATCHED, {"type": "org", "name": "acme"}])
        alice.create_repo("acme/secret", private=True)
        alice.create_repo("acme/open")
        assert listener.next()[2]["repo"]["name"] == "acme/open"
        assert bob.list_webhooks() != []
        assert alice.list_webhooks() == []
        with pytest.raises(HfHubHTTPError, match="404"):
            alice.delete_webhook(bob.list_webhooks()[0].id)


def test_a_listener_that_fails_does_not_stop_the_rest(api: HfApi, listener: Listener) -> None:
    api.create_webhook(url="http://127.0.0.1:1/", watched=WATCHED)
    listener.status = 500
    made = api.create_webhook(url=listener.url, watched=WATCHED)
    api.create_repo(REPO)
    assert listener.event() == ("create", "repo")
    upload(api)
    assert listener.event() == ("update", "repo.content")
    assert api.get_webhook(made.id).disabled is False


def triggered(api: HfApi, count: int = 1) -> list[JobInfo]:
    def look() -> list[JobInfo]:
        jobs = [job for job in api.list_jobs(namespace=USER) if job.initiator and job.initiator.type == "webhook"]
        return jobs if len(jobs) >= count else []

    return wait_for(look, what="the job that the webhook starts")


def test_a_job_is_started(api: HfApi, tmp_path: Path) -> None:
    script = 'echo $WEBHOOK_REPO_TYPE $WEBHOOK_REPO_ID $WEBHOOK_SECRET $OLD $NEW; echo "$WEBHOOK_PAYLOAD"'
    source = shell(api, script, secrets={"OLD": "old"}, labels={"what": "hook"})
    over(api, source)
    made = api.create_webhook(job_id=source.id, watched=WATCHED, secret="hf_hook", secrets={"NEW": "hf_new"})
    assert made.url is None
    assert made.job is not None
    assert (made.job.command, made.job.docker_image) == (source.command, "python:3.12")
    assert list(made.job.secrets or ()) == ["NEW"]
    api.create_repo(REPO)
    [job] = triggered(api)
    assert over(api, job).status.stage == "COMPLETED"
    assert job.initiator is not None
    assert (job.initiator.id, job.labels) == (made.id, source.labels)
    first, payload = log_of(api, job)
    assert first == "model user/model hf_hook hf_new"
    assert json.loads(payload)["event"] == {"action": "create", "scope": "repo"}
    assert "WEBHOOK_PAYLOAD" not in str(job.environment)
    for file in (tmp_path / "hub").glob("hub.sqlite*"):
        assert b"hf_new" not in file.read_bytes()
    changed = api.update_webhook(made.id, job_id=source.id, watched=WATCHED, secrets={"NEW": "", "MORE": "x"})
    assert changed.job is not None
    assert list(changed.job.secrets or ()) == ["MORE"]


def test_no_credit_for_a_webhook_s_job(api: HfApi, server: HubServer) -> None:
    source = shell(api, "true")
    api.create_webhook(job_id=source.id, watched=WATCHED)
    server.faults.set("credit")
    api.create_repo(REPO)
    wait_for(lambda: server.faults.struck == ["credit"], what="the job that cannot be paid")
    upload(api)
    assert len(triggered(api)) == 1


def test_a_webhook_that_triggers_itself_ends(api: HfApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "DAILY_LIMIT", 2)
    source = shell(api, "true")
    api.create_webhook(job_id=source.id, watched=WATCHED)
    for number in range(4):
        api.create_repo(f"user/model-{number}")
    other = api.create_webhook(job_id=source.id, watched=[{"type": "model", "name": "user/last"}])
    api.create_repo("user/last")
    assert len(triggered(api, 3)) == 3
    by_other = [job for job in triggered(api) if job.initiator and job.initiator.id == other.id]
    assert len(by_other) == 1


@pytest.mark.parametrize(
    "more",
    [
        {"url": "http://127.0.0.1:9/", "watched": [{"type": "planet", "name": "x"}]},
        {"url": "http://127.0.0.1:9/", "watched": WATCHED, "domains": ["weather"]},
        {"url": "http://127.0.0.1:9/", "watched": WATCHED, "secret": "ü"},
    ],
)
def test_bad_input(api: HfApi, more: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError):
        api.create_webhook(**more)
    assert api.list_webhooks() == []


@pytest.mark.parametrize(
    "url", ["https://example.org/", "http://10.0.0.1/", "https://127.0.0.1/", "file:///etc/passwd"]
)
def test_nothing_leaves_this_machine(api: HfApi, url: str) -> None:
    with pytest.raises(HfHubHTTPError, match="this machine alone"):
        api.create_webhook(url=url, watched=WATCHED)


def test_webhooks_outlive_the_server(tmp_path: Path, listener: Listener) -> None:
    with emulator(tmp_path / "hub") as (_, api):
        api.create_webhook(url=listener.url, watched=WATCHED, secret="hf_kept")
    with emulator(tmp_path / "hub") as (_, api):
        api.create_repo(REPO)
        _, headers, _ = listener.next()
    assert headers["X-Webhook-Secret"] == "hf_kept"
    for file in (tmp_path / "hub").rglob("*"):
        assert file.is_dir() or b"hf_kept" not in file.read_bytes(), file
