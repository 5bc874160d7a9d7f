"""The tracker contract over MLflow's SQLite store, a real MLflow server and JSON lines, and what is MLflow's own."""

from __future__ import annotations

import http.client
import os
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import json_lines
import pytest

from qcity_nb.errors import TrackerUnavailable, UsageError
from qcity_nb.records import Row
from qcity_nb.testing.contracts.tracker_contract import Stored, TrackerContract, make_rows
from qcity_nb.tracking import open_tracker
from qcity_nb.tracking.mlflow import MlflowTracker

HERE = Path(__file__).parents[2]

OLD_CALLS = {
    f"/api/2.0/mlflow/{name}"
    for name in (
        "experiments/get-by-name",
        "experiments/create",
        "runs/search",
        "runs/get",
        "runs/create",
        "runs/update",
        "runs/delete",
        "runs/log-batch",
    )
}
"""What an MLflow 2.0 server has."""


class MlflowContract(TrackerContract):
    """Reads the database itself, not through mlflow."""

    def database(self, uri: str) -> Path:
        raise NotImplementedError

    def stored(self, uri: str, run_id: str) -> Stored:
        connection = sqlite3.connect(f"file:{self.database(uri)}?mode=ro", uri=True, timeout=20)
        try:
            rows = connection.execute(
                "SELECT key, CASE WHEN is_nan THEN NULL ELSE value END, timestamp, step FROM metrics"
                " WHERE run_uuid = ?",
                (run_id,),
            ).fetchall()
            (status,) = connection.execute("SELECT status FROM runs WHERE run_uuid = ?", (run_id,)).fetchone()
            return Stored(
                rows=sorted((k, "nan" if v is None else repr(float(v)), t, s) for k, v, t, s in rows),
                status=status,
                params=dict(connection.execute("SELECT key, value FROM params WHERE run_uuid = ?", (run_id,))),
                tags=dict(connection.execute("SELECT key, value FROM tags WHERE run_uuid = ?", (run_id,))),
            )
        finally:
            connection.close()

    def count_runs(self, uri: str, run: str) -> int:
        connection = sqlite3.connect(f"file:{self.database(uri)}?mode=ro", uri=True, timeout=20)
        try:
            query = """SELECT count(*) FROM tags JOIN runs ON runs.run_uuid = tags.run_uuid
                       WHERE tags.key = 'qcity.run' AND tags.value = ? AND runs.lifecycle_stage = 'active'"""
            return int(connection.execute(query, (run,)).fetchone()[0])
        finally:
            connection.close()


class TestDatabase(MlflowContract):
    @pytest.fixture
    def uri(self, mlflow_database: Callable[..., str]) -> str:
        return mlflow_database()

    def database(self, uri: str) -> Path:
        return Path(uri.removeprefix("sqlite:///"))


class TestServer(MlflowContract):
    @pytest.fixture
    def uri(self, mlflow_uri: str) -> str:
        return mlflow_uri

    @pytest.fixture(autouse=True)
    def _folder(self, mlflow_folder: Path) -> None:
        self.folder = mlflow_folder

    def database(self, uri: str) -> Path:
        return self.folder / "server.db"


class TestJsonLines(TrackerContract):
    @pytest.fixture
    def uri(self, tmp_path: Path) -> str:
        return f"jsonl://{tmp_path}/metrics"

    def stored(self, uri: str, run_id: str) -> Stored:
        return json_lines.stored(Path(uri.removeprefix("jsonl://")) / run_id)

    def count_runs(self, uri: str, run: str) -> int:
        runs = json_lines.runs(Path(uri.removeprefix("jsonl://")))
        return sum(json_lines.stored(folder).tags["qcity.run"] == run for folder in runs)


class Faulty:
    """A tracker with one planted fault."""

    def __init__(self, uri: str, fault: str) -> None:
        inner = open_tracker(uri)
        assert inner is not None
        self.inner, self.fault, self.calls = inner, fault, 0

    @property
    def uri(self) -> str:
        return self.inner.uri

    def prepare(self) -> None:
        self.inner.prepare()

    def start(self, run: str, *, experiment: str, params: Mapping[str, object], tags: Mapping[str, str]) -> str:
        if self.fault == "always a new run":
            self.calls += 1
            run = f"{run}-{self.calls}"
        return self.inner.start(run, experiment=experiment, params=params, tags=tags)

    def send(self, run_id: str, rows: Sequence[Row]) -> None:
        self.calls += 1
        if self.fault == "new timestamps":
            rows = [replace(row, timestamp_ms=row.timestamp_ms + self.calls) for row in rows]
        elif self.fault == "the last row lost":
            rows = rows[:-1]
        elif self.fault == "one value a step":
            rows = list({(row.key, row.step): row for row in rows}.values())
        elif self.fault == "single precision":
            rows = [replace(row, value=struct.unpack("f", struct.pack("f", row.value))[0]) for row in rows]
        self.inner.send(run_id, rows)

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        self.inner.tag(run_id, tags)

    def end(self, run_id: str, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        if self.fault != "the end not told":
            self.inner.end(run_id, status)


@pytest.mark.parametrize(
    ("fault", "test"),
    [
        ("always a new run", "test_two_clients_find_the_same_run"),
        ("new timestamps", "test_rows_arrive_and_an_exact_replay_adds_none"),
        ("the last row lost", "test_any_split_and_overlap_of_the_rows_stores_each_once"),
        ("one value a step", "test_one_step_may_have_several_values"),
        ("single precision", "test_rows_arrive_and_an_exact_replay_adds_none"),
    ],
)
@pytest.mark.parametrize("kind", [TestDatabase, TestJsonLines])
def test_a_broken_tracker_fails_the_contract(
    mlflow_database: Callable[..., str], tmp_path: Path, fault: str, test: str, kind: type[TrackerContract]
) -> None:
    uri = mlflow_database() if kind is TestDatabase else f"jsonl://{tmp_path}/metrics"
    suite = kind()
    suite.open = lambda uri: Faulty(uri, fault)  # type: ignore[method-assign]  # the fault is planted here
    with pytest.raises(AssertionError):
        getattr(suite, test)(uri, "broken")
    del suite.open
    getattr(suite, test)(uri, "sound")


def test_a_tracker_that_does_not_tell_the_end_fails_the_contract(mlflow_database: Callable[..., str]) -> None:
    suite = TestDatabase()
    suite.open = lambda uri: Faulty(uri, "the end not told")  # type: ignore[method-assign]  # as above
    with pytest.raises(AssertionError):
        suite.test_the_end_is_reported_and_a_later_start_reopens(mlflow_database(), "broken", "FAILED")


def mlflow(uri: str) -> MlflowTracker:
    tracker = open_tracker(uri)
    assert isinstance(tracker, MlflowTracker)
    return tracker


def begin(tracker: MlflowTracker, run: str) -> str:
    return tracker.start(run, experiment="own", params={"epochs": 3}, tags={})


class Proxy:
    """Stands between client and server: notes the calls, and loses replies on request."""

    def __init__(self, target: str) -> None:
        self.calls: list[str] = []
        self.lose: list[str] = []
        """Endings of paths; each loses one reply, after the server has done the work."""
        outer, host = self, urlsplit(target).netloc

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                path = urlsplit(self.path).path
                outer.calls.append(path)
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                connection = http.client.HTTPConnection(host, timeout=30)
                headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
                connection.request(self.command, self.path, body, headers)
                reply = connection.getresponse()
                data = reply.read()
                connection.close()
                for end in outer.lose:
                    if path.endswith(end):
                        outer.lose.remove(end)
                        self.close_connection = True
                        self.connection.shutdown(socket.SHUT_RDWR)
                        return
                self.send_response(reply.status)
                self.send_header("Content-Type", reply.headers.get("Content-Type", "application/json"))
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PATCH = handle_any  # noqa: N815  # the names that http.server looks for

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def proxy(mlflow_uri: str) -> Iterator[Proxy]:
    made = Proxy(mlflow_uri)
    yield made
    made.close()


def test_an_old_server_has_every_call_that_is_made(proxy: Proxy) -> None:
    tracker = mlflow(proxy.uri)
    run_id = begin(tracker, "old-server")
    tracker.send(run_id, make_rows(5))
    tracker.tag(run_id, {"a": "b"})
    tracker.end(run_id, "FINISHED")
    begin(tracker, "old-server")
    assert {"runs/log-batch", "runs/update"} <= {path.removeprefix("/api/2.0/mlflow/") for path in proxy.calls}
    assert set(proxy.calls) <= OLD_CALLS


@pytest.mark.parametrize("times", [1, 2])
def test_a_lost_reply_leaves_one_run_and_each_row_once(
    proxy: Proxy, mlflow_uri: str, mlflow_folder: Path, times: int
) -> None:
    suite = TestServer()
    suite.folder = mlflow_folder
    tracker, run = mlflow(proxy.uri), f"lost-reply-{times}"
    proxy.lose = ["runs/create"] * times
    try:
        run_id = begin(tracker, run)
    except TrackerUnavailable:
        assert times == 2, "one lost reply is repeated at once"
        run_id = begin(tracker, run)
    assert suite.count_runs(mlflow_uri, run) == 1
    proxy.lose = ["runs/log-batch"] * times
    rows = make_rows(10)
    try:
        tracker.send(run_id, rows)
    except TrackerUnavailable:
        assert times == 2
        tracker.send(run_id, rows)
    assert not proxy.lose
    assert len(suite.stored(mlflow_uri, run_id).rows) == 10


def test_a_store_that_takes_small_batches_only_gets_all_rows_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        """Answers in time for at most 500 rows."""

        def log_batch(self, run_id: str, metrics: Sequence[object], **_: object) -> None:
            if len(metrics) > 500:
                raise TimeoutError("timed out")

    tracker = MlflowTracker("http://nowhere.invalid")
    monkeypatch.setattr(tracker, "_connect", Slow)
    rows = [Row(key="a", value=1.0, timestamp_ms=n, step=n, loop="l", iteration=n, ordinal=0) for n in range(4000)]
    for _ in range(2):  # a slice each, and each begins with a batch that is too large
        with pytest.raises(TrackerUnavailable):
            tracker.send("r", rows)
        tracker.send("r", rows)


def test_a_smaller_batch_follows_a_failure(proxy: Proxy) -> None:
    tracker = mlflow(proxy.uri)
    run_id = begin(tracker, "smaller")
    proxy.lose = ["runs/log-batch"] * 4
    rows = make_rows(900)
    for _ in range(2):
        with pytest.raises(TrackerUnavailable):
            tracker.send(run_id, rows)
    proxy.calls.clear()
    tracker.send(run_id, rows)
    assert len(proxy.calls) == 4  # 250 each: what just failed is not tried again before a whole call has succeeded
    proxy.calls.clear()
    tracker.send(run_id, [replace(row, step=row.step + 10_000) for row in rows])
    assert len(proxy.calls) == 2  # 500, the rest


class Silent:
    """A listener that answers nothing, or one fixed reply."""

    def __init__(self, reply: bytes = b"") -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.reply = reply
        self.open: list[socket.socket] = []
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.open.append(connection)
            if self.reply:
                connection.recv(65536)
                connection.sendall(self.reply)
                connection.close()

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()
        for connection in self.open:
            connection.close()


REFUSALS = {
    "silent": b"",
    "500": b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "retry later": b"HTTP/1.1 429 Slow\r\nRetry-After: 300\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "a login page": b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\nConnection: close\r\n\r\n<html></html>",
    "forbidden": b"HTTP/1.1 403 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "not http": b"SSH-2.0-OpenSSH_9.2\r\n",
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_server_that_does_not_serve_is_reported_within_bounds_and_without_the_password(kind: str) -> None:
    server = Silent(REFUSALS[kind])
    before = dict(os.environ)
    try:
        tracker = mlflow(server.uri.replace("//", "//ada:s3cret@"))
        assert tracker.uri == server.uri
        start = time.monotonic()
        with pytest.raises(TrackerUnavailable) as caught:
            begin(tracker, "nowhere")
        spent = time.monotonic() - start
    finally:
        server.close()
    assert spent < 15, "10 s for the request, the rest for the import"
    message = str(caught.value)
    assert message.startswith(server.uri)
    assert "s3cret" not in message
    assert "ada" not in message
    assert "\n" not in message
    assert len(message) < 400
    assert caught.value.__cause__ is None
    assert dict(os.environ) == before


def test_a_server_that_is_down_is_reported_at_once(proxy: Proxy) -> None:
    tracker = mlflow(proxy.uri)
    run_id = begin(tracker, "down")
    with socket.create_server(("127.0.0.1", 0)) as free:
        gone = f"http://127.0.0.1:{free.getsockname()[1]}"
    start = time.monotonic()
    for call in (
        lambda: begin(mlflow(gone), "down"),
        lambda: mlflow(gone).send(run_id, make_rows(1)),
        lambda: mlflow(gone).tag(run_id, {"a": "b"}),
        lambda: mlflow(gone).end(run_id, "FINISHED"),
    ):
        with pytest.raises(TrackerUnavailable, match="is the server running"):
            call()
    assert time.monotonic() - start < 10


def test_nothing_is_printed_and_the_loggers_are_left_as_they_were(tmp_path: Path) -> None:
    code = f"""
import logging, os
from qcity_nb.tracking import open_tracker
before = dict(os.environ)
tracker = open_tracker("sqlite:///{tmp_path}/new/mlflow.db")
import sys
assert "mlflow" not in sys.modules, "opening must not import mlflow"
run_id = tracker.start("r", experiment="e", params={{}}, tags={{}})
tracker.end(run_id, "FINISHED")
assert logging.getLogger("mlflow").level == logging.INFO, logging.getLogger("mlflow").level
assert logging.getLogger().handlers == []
assert dict(os.environ) == before
"""
    env = {**os.environ, "PYTHONPATH": str(HERE)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mlflow.db", "new"]


@pytest.mark.nightly
def test_processes_that_start_at_once_share_one_whole_new_database(tmp_path: Path) -> None:
    path = tmp_path / "store" / "mlflow.db"
    code = f"""
import sys
from qcity_nb.tracking import open_tracker
sys.stdin.readline()
tracker = open_tracker("sqlite:///{path}")
tracker.start(sys.argv[1], experiment="e", params={{}}, tags={{}})
"""
    env = {**os.environ, "PYTHONPATH": str(HERE)}
    started = [
        subprocess.Popen([sys.executable, "-c", code, f"run-{n}"], env=env, stdin=subprocess.PIPE) for n in range(2)
    ]
    for process in started:
        process.communicate(b"\n")
        assert process.returncode == 0
    connection = sqlite3.connect(path)
    try:
        named = connection.execute("SELECT value FROM tags WHERE key = 'qcity.run' ORDER BY value").fetchall()
    finally:
        connection.close()
    assert named == [("run-0",), ("run-1",)]
    assert [item.name for item in path.parent.iterdir()] == ["mlflow.db"]


def test_the_whole_of_mlflow_is_asked_for_where_only_the_skinny_one_is(tmp_path: Path) -> None:
    code = f"""
import sys
sys.modules["sqlalchemy"] = None
from qcity_nb.errors import TrackerUnavailable
from qcity_nb.tracking import open_tracker
tracker = open_tracker("sqlite:///{tmp_path}/mlflow.db")
try:
    tracker.start("r", experiment="e", params={{}}, tags={{}})
except TrackerUnavailable as error:
    assert 'pip install "qcity-nb[local]"' in str(error), error
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(HERE)}, check=True)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_reported_at_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_bytes(b"not a database " * 100)
    start = time.monotonic()
    with pytest.raises(TrackerUnavailable, match="not a database"):
        begin(mlflow(f"sqlite:///{path}"), "r")
    assert time.monotonic() - start < 10
    assert path.read_bytes() == b"not a database " * 100


def test_a_place_that_cannot_be_written_is_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrackerUnavailable, match="file"):
        begin(mlflow(f"sqlite:///{tmp_path}/file/mlflow.db"), "r")


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "mlruns", "/tmp/mlruns", "ftp://u:s3cret@x", "sqlite:x.db"])
def test_addresses_that_cannot_keep_the_promise_are_refused(uri: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_tracker(uri)
    assert "s3cret" not in str(caught.value)


def test_no_address_means_no_tracker() -> None:
    assert open_tracker("") is None
    assert open_tracker("  ") is None


def test_a_deleted_experiment_is_named(mlflow_database: Callable[..., str]) -> None:
    from mlflow import MlflowClient

    uri = mlflow_database()
    tracker = mlflow(uri)
    begin(tracker, "r")
    client = MlflowClient(uri)
    deleted = client.get_experiment_by_name("own")
    assert deleted is not None
    client.delete_experiment(deleted.experiment_id)
    with pytest.raises(TrackerUnavailable, match="'own' is deleted"):
        begin(tracker, "r")
