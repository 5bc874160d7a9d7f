"""The Hub emulator as a process: restarts, kills, the command that serves it, and what it does not know."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from hub_world import HubWorld, ask, client
from huggingface_hub import CommitOperationAdd as Add
from huggingface_hub import HfApi

from qcity_nb import cli
from qcity_nb.errors import UsageError
from qcity_nb.testing.emulators.hub.accounts import Users
from qcity_nb.testing.emulators.hub.emulator import Options
from qcity_nb.testing.emulators.hub.server import HubServer
from qcity_nb.testing.emulators.hub.web import User

ROOT = Path(__file__).parents[5]


def commit(server: HubServer, path: str, data: bytes, repo: str = "user/r") -> str:
    return str(client(server).create_commit(repo, [Add(path, data)], commit_message=path).oid)


# --- the server


def test_unknown_routes_are_404_and_logged(hub: HubWorld, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="qcity_nb.testing.emulators.hub"):
        for method, path in (("GET", "/api/fly"), ("POST", "/api/models"), ("PATCH", hub.api_url("/settings"))):
            reply = ask(path if path.startswith("http") else hub.url(path), method)
            assert reply.status == 404
            assert reply.headers["x-qcity-emulator"] == "1"
            assert f"no route for {method}" in caplog.messages[-1]
    assert all("hub emulator" in message for message in caplog.messages)


def test_the_storage_answers_nothing_of_the_hub(hub: HubWorld) -> None:
    assert ask(f"{hub.server.hub.storage_url}/api/whoami-v2").status == 404


def test_a_bug_is_a_500_and_is_logged(hub: HubWorld, caplog: pytest.LogCaptureFixture) -> None:
    def fail(**details: object) -> None:
        raise RuntimeError("planted")

    hub.faults.on("commit.begin", fail)
    with caplog.at_level(logging.ERROR, logger="qcity_nb.testing.emulators.hub"):
        reply = ask(hub.api_url("/commit/main"), "POST", body=b"")
    assert reply.status == 500
    assert "planted" in caplog.text
    assert "planted" not in reply.body.decode()


def test_a_connection_is_used_again(hub: HubWorld) -> None:
    """After errors too, whose bodies nobody read."""
    with httpx2.Client(headers={"Authorization": "Bearer any"}) as http:
        ports = set()
        for path, body in (("/api/whoami-v2", None), ("/api/fly", b"x" * 10_000), ("/api/whoami-v2", None)):
            reply = http.request("POST" if body else "GET", hub.url(path), content=body)
            stream = reply.extensions["network_stream"]
            ports.add(stream.get_extra_info("client_addr"))
        assert len(ports) == 1


def test_a_file_without_content_keeps_the_connection(hub: HubWorld) -> None:
    hub.api.upload_file(path_or_fileobj=b"", path_in_repo="empty", repo_id=hub.repo)
    port = int(hub.server.url.rpartition(":")[2])
    asked = (
        f"GET /{hub.repo}/resolve/main/empty HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer any\r\n\r\n".encode()
    )
    with socket.create_connection(("127.0.0.1", port), timeout=20) as line, line.makefile("rb") as answers:
        for _ in range(3):
            line.sendall(asked)
            assert answers.readline() == b"HTTP/1.1 200 OK\r\n"
            while answers.readline() != b"\r\n":
                pass


def test_chunked_bodies(hub: HubWorld) -> None:
    lines = [json.dumps({"key": "header", "value": {"summary": "s"}}).encode(), b"\n"]
    value = {"path": "a.txt", "content": "hello", "encoding": "utf-8"}
    lines.append(json.dumps({"key": "file", "value": value}).encode())
    with httpx2.Client(headers={"Authorization": "Bearer any"}) as http:
        assert http.post(hub.api_url("/commit/main"), content=iter(lines)).status_code == 200
    assert hub.api.file_exists(hub.repo, "a.txt")


def test_a_malformed_request_ends_its_connection_alone(hub: HubWorld) -> None:
    port = int(hub.server.url.rpartition(":")[2])
    for data in (b"nonsense\r\n\r\n", b"POST /api/repos/create HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
            line.sendall(data)
            received = b"".join(iter(lambda: line.recv(4096), b""))
        assert b"Hub emulator (not the Hugging Face Hub)" in received or not received
    assert ask(hub.url("/api/whoami-v2")).status == 200


def test_answers_carry_the_address_that_was_asked(hub: HubWorld) -> None:
    other = hub.server.url.replace("127.0.0.1", "localhost")
    reply = ask(f"{other}/api/repos/create", "POST", body=b'{"name": "%b-l"}' % hub.repo[5:].encode())
    assert reply.json()["url"].startswith(f"{other}/user/")


def test_stop_does_not_wait_for_idle_clients(tmp_path: Path) -> None:
    server = HubServer(tmp_path / "hub").start()
    with httpx2.Client() as http:
        assert http.get(f"{server.url}/api/whoami-v2").status_code == 401
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 10
        with pytest.raises(httpx2.TransportError):
            http.get(f"{server.url}/api/whoami-v2")


def test_one_server_a_folder(tmp_path: Path) -> None:
    with HubServer(tmp_path / "hub") as server:
        with pytest.raises(UsageError, match="another emulator is running"):
            HubServer(tmp_path / "hub")
        with pytest.raises(OSError, match="in use"):
            HubServer(tmp_path / "other", port=int(server.url.rpartition(":")[2]))
    HubServer(tmp_path / "hub").start().stop()
    HubServer(tmp_path / "other").start().stop()


# --- restarts


def test_everything_survives_a_restart(hub_server: HubServer, tmp_path: Path) -> None:
    data, options = os.urandom(250), Options(part_size=100)
    with HubServer(tmp_path / "hub", options=options) as server:
        api = client(server)
        api.create_repo("r", private=True)
        api.create_branch("user/r", branch="run/x")
        oid = commit(server, "a.bin", data)
        storage = server.hub.storage_url
        # An upload in parts that is under way: its addresses are good after the restart.
        other = os.urandom(250)
        body = {"oid": hashlib.sha256(other).hexdigest(), "size": 250}
        answer = ask(
            f"{server.url}/user/r.git/info/lfs/objects/batch",
            "POST",
            body=json.dumps({"operation": "upload", "transfers": ["multipart"], "objects": [body]}).encode(),
        )
        upload = answer.json()["objects"][0]["actions"]["upload"]
        etags = [ask(upload["header"]["00001"], "PUT", body=other[:100], token=None).headers["etag"]]
        port = int(server.url.rpartition(":")[2])
    (tmp_path / "hub" / "incoming" / "left-over").write_bytes(b"x")
    with HubServer(tmp_path / "hub", port=port, options=options) as server:
        api = client(server)
        assert server.hub.storage_url == storage
        assert not (tmp_path / "hub" / "incoming" / "left-over").exists()
        assert api.model_info("user/r").sha == oid
        assert {branch.name for branch in api.list_repo_refs("user/r").branches} == {"main", "run/x"}
        file = api.hf_hub_download("user/r", "a.bin", cache_dir=tmp_path / "cache")
        assert Path(file).read_bytes() == data
        for number, part in (("00002", other[100:200]), ("00003", other[200:])):
            etags.append(ask(upload["header"][number], "PUT", body=part, token=None).headers["etag"])
        parts = [{"partNumber": number, "etag": etag} for number, etag in enumerate(etags, 1)]
        done = json.dumps({"oid": body["oid"], "parts": parts}).encode()
        assert ask(upload["href"], "POST", body=done, token=None).status == 200
        commit(server, "b.bin", other)


SERVE = [sys.executable, "-c", "import sys; from qcity_nb.cli import main; sys.exit(main())", "hub", "serve"]


@contextlib.contextmanager
def serving(folder: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """`qcity hub serve` in a process of its own: the process, the address, what it printed first."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*SERVE, "--dir", str(folder), *(words or ["--any-token"])],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            lines = [process.stdout.readline() for _ in range(4)]
            match = re.search(r"http://127\.0\.0\.1:\d+", lines[0])
            assert match is not None, (lines, process.stderr and process.stderr.read())
            # Its log must be read, or it stops when the pipe is full.
            reader = threading.Thread(target=lambda: process.stderr and process.stderr.read(), daemon=True)
            reader.start()
            yield process, match[0], lines
        finally:
            if process.poll() is None:
                process.kill()


@pytest.mark.kill
@pytest.mark.parametrize("after", [3, 11])
def test_kill_9_loses_no_commit_that_was_answered(hub_server: HubServer, tmp_path: Path, after: int) -> None:
    """And one that was not answered is there whole, or not at all."""
    answered: list[str] = []
    repo = "user/r"
    with serving(tmp_path / "hub") as (process, url, _):
        from huggingface_hub import HfApi

        api = HfApi(endpoint=url, token="any")
        api.create_repo("r")
        enough = threading.Event()

        def work(number: int) -> None:
            own = HfApi(endpoint=url, token="any")
            # AttributeError: the client's get_session() gives None if another thread's failed call closes the session
            # between its two looks at it.
            with contextlib.suppress(httpx2.TransportError, RuntimeError, AttributeError):
                for turn in range(1000):
                    files = [Add(f"{number}/{turn}.txt", b"t"), Add(f"{number}/{turn}.bin", os.urandom(20_000))]
                    own.create_commit(repo, files, commit_message=f"{number}/{turn}")
                    answered.append(f"{number}/{turn}")
                    if len(answered) >= after:
                        enough.set()

        with pytest.MonkeyPatch.context() as patch:
            workers = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(3)]
            for worker in workers:
                worker.start()
            assert enough.wait(60)
            patch.setattr("time.sleep", lambda seconds: None)  # the client waits before it tries again
            os.kill(process.pid, signal.SIGKILL)
            process.wait(20)
            for worker in workers:
                worker.join(60)
    with HubServer(tmp_path / "hub") as server:
        api = client(server)
        titles = [commit.title for commit in api.list_repo_commits(repo)]
        files = set(api.list_repo_files(repo))
        assert set(titles) - {"initial commit"} >= set(answered)
        assert len(titles) == len(set(titles))
        assert files == {".gitattributes"} | {
            f"{title}{end}" for title in titles if title != "initial commit" for end in (".txt", ".bin")
        }
        folder = Path(api.snapshot_download(repo, cache_dir=tmp_path / "cache"))
        assert all((folder / name).stat().st_size == 20_000 for name in files if name.endswith(".bin"))


# --- the command


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve(hub_server: HubServer, tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path / "hub", "--any-token", "--fault", "error-500=1") as (process, url, lines):
        assert "emulator, not the real Hub" in lines[0]
        assert lines[1:3] == [f"  export HF_ENDPOINT={url}\n", "  export HF_TOKEN=any\n"]
        assert ask(f"{url}/api/whoami-v2").status == 500
        assert ask(f"{url}/api/whoami-v2").json()["name"] == "user"
        process.send_signal(number)
        assert process.wait(20) == 0


def test_serve_with_users(hub_server: HubServer, tmp_path: Path) -> None:
    (tmp_path / "users.toml").write_text('[hf_secret]\nname = "alice"\n')
    with serving(tmp_path / "hub", "--users", str(tmp_path / "users.toml")) as (_, url, lines):
        assert "hf_secret" not in "".join(lines)
        assert ask(f"{url}/api/whoami-v2", token="hf_secret").json()["name"] == "alice"
        assert ask(f"{url}/api/whoami-v2", token="any").status == 401


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fault", "fly=1"], "no fault is called 'fly'; there are commit-lost"),
        (["--fault", "down=often"], "could not convert"),
        (["--fault", "down=0"], "above 0"),
        (["--users", "gone.toml"], "the users' file gone.toml cannot be read"),
        (["--dir", "/proc/no/such"], "cannot use"),
    ],
)
def test_bad_input_is_one_clear_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["hub", "serve", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_a_taken_port_is_one_clear_line(
    hub_server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["hub", "serve", "--port", hub_server.url.rpartition(":")[2]]) == 2
    assert "cannot use port" in capsys.readouterr().err


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["hub"], ["hub", "serve"]):
        with pytest.raises(SystemExit) as ended:
            cli.main([*words, "--help"])
        assert ended.value.code == 0
        text = capsys.readouterr().out
        assert "examples:" in text
        assert "emulator" in text


def test_any_token_is_one_user_unless_users_are_named() -> None:
    assert Users.anybody().find("anything") == User("user")
    assert Users.anybody().find("") is None
    assert Users({"a": User("alice")}).find("b") is None


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "[::1]:1"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "["}, 403),
        ({"Host": "127.0.0.1:x"}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:3000"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_no_website_can_use_it(hub_server: HubServer, headers: dict[str, str], status: int) -> None:
    for port in (hub_server._listener.server_port, hub_server._storage.server_port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request("GET", "/api/whoami-v2", headers={"Authorization": "Bearer any", **headers})
            answer = connection.getresponse().status
        finally:
            connection.close()
        assert answer == status if port == hub_server._listener.server_port else answer in (403, 404)
        assert (answer == 403) == (status == 403)


def test_its_token_is_random_and_lasts(tmp_path: Path) -> None:
    tokens = []
    for folder in ("a", "a", "b"):
        with serving(tmp_path / folder, "--port", "0") as (process, url, lines):
            match = re.search(r"HF_TOKEN=(hf_\S{30,})", "".join(lines))
            assert match is not None, lines
            tokens.append(match[1])
            for token, status in ((match[1], 200), ("any", 401), (match[1][:-1], 401)):
                headers = {"Authorization": f"Bearer {token}"}
                answer = httpx2.get(f"{url}/api/whoami-v2", headers=headers).status_code
                assert answer == status
            process.terminate()
            process.wait(20)
    assert tokens[0] == tokens[1] != tokens[2]
    assert (tmp_path / "a" / "token").stat().st_mode & 0o777 == 0o600


def test_jobs_find_a_relative_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with HubServer(Path("here"), end_jobs=True) as server:
        assert server.hub.folder == tmp_path / "here"
        api = HfApi(endpoint=server.url, token="any")
        job = api.run_job(image="python:3.12", command=["true"])
        deadline = time.monotonic() + 60
        while (stage := api.inspect_job(job_id=job.id).status.stage) not in ("COMPLETED", "ERROR"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert stage == "COMPLETED"
