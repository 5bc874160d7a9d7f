"""The page: what it shows, that it shows nothing else, how often it reads, and who gets it."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from qcity_nb import cli, settings
from qcity_nb.cli.page import CONNECTIONS, KeeperThread, PageServer, _Handler
from qcity_nb.cli.page_html import listing, single
from qcity_nb.cli.page_reader import ENDED_EVERY_S, Reader
from qcity_nb.errors import StoreUnavailable, UsageError
from qcity_nb.ports import Source
from qcity_nb.records import CheckpointRef, DesiredState, Event, Failure, Head, Holder, Row, Tracked
from qcity_nb.run import journal, lease
from qcity_nb.stores import open_store
from qcity_nb.stores.memory import MemoryStore
from qcity_nb.testing.clock import ManualClock
from qcity_nb.tracking.outbox import encode_rows

EVIL = "<script>alert('&\"')</script>"


def rows(seq: int, values: Mapping[str, float], step: int) -> bytes:
    decoded = [
        Row(key=key, value=value, timestamp_ms=step, step=step, loop="l", iteration=step, ordinal=0)
        for key, value in values.items()
    ]
    return b'{"seq":%d}\n' % seq + encode_rows(decoded)


def event(kind: str, term: int, **data: object) -> bytes:
    return journal.encode_event(Event(kind=kind, at="2026-11-24T10:00:00+00:00", term=term, attempt="a", data=data))


def segment(lines: bytes, folder: str) -> tuple[str, bytes]:
    made = journal.append("", lines, folder=folder, term=1, read=lambda name: b"")
    return made.name, made.data


def begin(store: MemoryStore, run: str = "train-1", **changes: object) -> Head:
    outbox = segment(b"".join(rows(n, {"loss": 1 / n}, n) for n in range(1, 6)), "outbox")
    history = segment(
        event("launched", 0, host="local", reason="first attempt")
        + event("lease", 1, host="local", step=0)
        + event("cell", 1, index=3, status="completed")
        + event("died", 1, host="local", reason="killed by signal 9")
        + event("lease", 2, host="hf-jobs:t4-small", step=3),
        "journal",
    )
    fields: dict[str, object] = {
        "key": run,
        "project": "p",
        "notebook": "n.ipynb",
        "term": 2,
        "created": "2026-11-24T10:00:00+00:00",
        "checkpoints": (CheckpointRef(name="c", digest="d", seq=5, term=2, step=5, at="2026-11-24T10:00:00+00:00"),),
        "tracked": Tracked(uri="https://mlflow.example", run_id="1", drained_seq=4),
        "outbox": outbox[0],
        "journal": history[0],
        **changes,
    }
    return lease.create(store, Head(run=run, **fields), files=dict([outbox, history]))  # type: ignore[arg-type]


class Counting(MemoryStore):
    """Counts what is asked of it, and can fall silent."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock=clock)
        self.reads: list[str] = []
        self.is_down = False

    def runs(self) -> list[str]:
        if self.is_down:
            raise StoreUnavailable("the store is silent")
        return super().runs()

    def read(self, run: str):  # type: ignore[no-untyped-def]
        self.reads.append(run)
        return super().read(run)

    def get(self, run: str, name: str) -> bytes:
        self.reads.append(name.partition("/")[0])
        return super().get(run, name)

    def publish(
        self,
        run: str,
        head: bytes,
        *,
        expect: str | None,
        files: Mapping[str, Source] | None = None,
        drop: Sequence[str] = (),
        page: Mapping[str, bytes] | None = None,
    ) -> str:
        return super().publish(run, head, expect=expect, files=files, drop=drop, page=page)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(clock: ManualClock) -> Counting:
    return Counting(clock)


# --- what it shows


def test_a_run_is_shown_with_all_that_is_asked_for(store: Counting, clock: ManualClock) -> None:
    begin(store, holder=Holder(attempt="train-1-x", host="hf-jobs:t4-small"))
    [shown] = Reader(store, clock=clock).read()
    assert (shown.run, shown.state, shown.host) == ("train-1", "running", "hf-jobs:t4-small")
    page = listing([shown], address="memory:x")
    for words in ("train-1", "running", "hf-jobs:t4-small", "attempt 2", "published #5 at step 5", "<polyline"):
        assert words in page
    assert "died at step 3" in page
    assert "4 sent to the tracker · 1 waiting" in page
    assert "killed by signal 9" in page
    assert "status: completed" not in page, "cell by cell is for who looks at one run"
    assert "status: completed" in single(shown, address="memory:x")
    assert '<meta http-equiv="refresh" content="15">' in page


def test_runs_under_way_come_first_then_the_newest(store: Counting, clock: ManualClock) -> None:
    begin(store, "old-1", created="2026-01-01T00:00:00+00:00", state="succeeded")
    begin(store, "new-1", created="2026-03-01T00:00:00+00:00", state="succeeded")
    begin(store, "mid-1", created="2026-02-01T00:00:00+00:00")
    store.publish("bad-1", b"rubbish", expect=None)
    shown = Reader(store, clock=clock).read()
    assert [each.run for each in shown] == ["mid-1", "new-1", "old-1", "bad-1"]
    page = listing(shown, address="a")
    assert page.count('class="qcity-panel"') == 1, "what has ended stands in the table alone"
    assert "bad-1: the run record of run" in page
    assert "No runs in this store yet." in listing([], address="a")
    ended = [each for each in shown if each.run == "old-1"]
    assert 'class="qcity-panel"' in listing(ended, address="a"), "where nothing runs, the newest one is shown"


def test_every_text_is_escaped(store: Counting, clock: ManualClock) -> None:
    history = segment(event(EVIL, 1, **{EVIL: EVIL}) + event("lease", 1, host=EVIL, step=0), "journal")
    outbox = segment(rows(1, {EVIL: 1.0}, 1), "outbox")
    lease.create(
        store,
        Head(
            run="train-1",
            key=EVIL,
            project=EVIL,
            notebook=EVIL,
            journal=history[0],
            outbox=outbox[0],
            holder=Holder(attempt=EVIL, host=EVIL),
            tracked=Tracked(uri=EVIL),
            failure=Failure(cause="notebook", signature="", message=EVIL, traceback=EVIL),
        ),
        files=dict([history, outbox]),
    )
    [shown] = Reader(store, clock=clock).read()
    around = {"address": EVIL, "notes": [EVIL], "troubles": [EVIL]}
    for page in (
        listing([shown], **around),  # type: ignore[arg-type]
        single(shown, **around),  # type: ignore[arg-type]
        listing([replace(shown, head=None, view=None, run=EVIL, trouble=EVIL)], **around),  # type: ignore[arg-type]
    ):
        assert "<script" not in page
        assert EVIL not in page
        parser = Tags()
        parser.feed(page)
        assert parser.open == []
        assert not {name for name in parser.attributes if name.startswith("on")}


class Tags(HTMLParser):
    """Whether all that is opened is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_no_password_in_an_address_is_shown(store: Counting, clock: ManualClock) -> None:
    begin(store, tracked=Tracked(uri="https://me:p4ss@mlflow.example"))
    [shown] = Reader(store, clock=clock).read()
    assert "p4ss" not in single(shown, address="a")
    assert "***@mlflow.example" in single(shown, address="a")


# --- how often it reads


def test_answers_are_kept_and_only_what_is_new_is_read(store: Counting, clock: ManualClock) -> None:
    begin(store)
    begin(store, "done-1", state="succeeded")
    reader = Reader(store, every_s=10, clock=clock)
    first = reader.read()
    assert sorted(set(store.reads)) == ["done-1", "journal", "outbox", "train-1"]
    store.reads.clear()
    assert reader.read() is first
    assert store.reads == []
    clock.advance(10)
    reader.read()
    assert store.reads == ["train-1"], "the run record alone; an ended run is not read yet"
    clock.advance(ENDED_EVERY_S)
    store.reads.clear()
    reader.read()
    assert sorted(store.reads) == ["done-1", "train-1"]


def test_new_rows_are_added_to_the_old(store: Counting, clock: ManualClock) -> None:
    head = begin(store)
    reader = Reader(store, every_s=0, clock=clock)
    reader.read()
    more = journal.append(
        head.outbox, rows(6, {"loss": 0.1}, 6), folder="outbox", term=2, read=lambda name: store.get("train-1", name)
    )
    lease.amend(store, "train-1", lambda now: replace(now, outbox=more.name), files={more.name: more.data})
    clock.advance(1)
    [shown] = reader.read()
    assert shown.view is not None
    assert [step for step, _ in shown.view.metrics["loss"]] == [1, 2, 3, 4, 5, 6]


def test_a_silent_store_leaves_the_last_page_and_says_so(store: Counting, clock: ManualClock) -> None:
    begin(store)
    reader = Reader(store, every_s=1, clock=clock)
    shown = reader.read()
    store.is_down = True
    clock.advance(2)
    assert reader.read() == shown
    assert reader.trouble == "the store is silent"
    store.is_down = False
    clock.advance(2)
    reader.read()
    assert reader.trouble == ""


def test_a_run_that_is_gone_is_gone_from_the_page(store: Counting, clock: ManualClock) -> None:
    begin(store)
    reader = Reader(store, every_s=0, clock=clock)
    assert len(reader.read()) == 1
    store.forget("train-1")
    clock.advance(1)
    assert reader.read() == []


# --- who gets it


@pytest.fixture
def server(store: Counting) -> Iterator[PageServer]:
    begin(store)
    with PageServer(("127.0.0.1", 0), Reader(store), troubles=lambda: ["a keeper's trouble"]) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server: PageServer, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()
    finally:
        connection.close()


def test_it_is_served(server: PageServer) -> None:
    status, headers, text = ask(server, "/")
    assert status == 200
    assert "train-1" in text
    assert "a keeper&#x27;s trouble" in text
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert headers["Cache-Control"] == "no-store"
    [link] = re.findall(r'href="(run/[^"]+)"', text)
    assert ask(server, f"/{link}")[0] == 200
    status, headers, text = ask(server, "/", "HEAD")
    assert (status, text) == (200, "")
    assert int(headers["Content-Length"]) > 1000
    assert server.url == f"http://127.0.0.1:{server.server_port}/"


@pytest.mark.parametrize("path", ["/run/other", "/run/", "/run/../etc/passwd", "/etc/passwd", "/run/train-1/x"])
def test_there_is_nothing_else(server: PageServer, path: str) -> None:
    assert ask(server, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_changed(server: PageServer, method: str) -> None:
    assert ask(server, "/", method)[0] == 501


def test_a_name_that_is_not_this_machine_s_reads_nothing(server: PageServer) -> None:
    assert ask(server, "/", Host="evil.example")[0] == 403
    assert ask(server, "/", Host=f"localhost:{server.server_port}")[0] == 200


@pytest.mark.parametrize("host", ["[", "[::1", "a b", "127.0.0.1:x", "", "127.0.0.1.evil.example", "[::ffff:1.2.3.4]"])
def test_a_malformed_name_is_an_answer_and_no_traceback(
    server: PageServer, host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(server, "/", Host=host)[0] in (400, 403)
    assert capsys.readouterr().err == ""


def test_connections_that_send_nothing_end_and_leave_room(server: PageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Handler, "timeout", 0.5)
    idle = [socket.create_connection(("127.0.0.1", server.server_port), timeout=30) for _ in range(CONNECTIONS)]
    with contextlib.ExitStack() as stack:
        for each in idle:
            stack.enter_context(each)
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as further:
            assert further.recv(1) == b"", "closed at once, or when those before it are"
        for each in idle:
            assert each.recv(1) == b""
    assert ask(server, "/")[0] == 200


def test_no_other_page_may_show_it_but_that_of_its_space(server: PageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "frame-ancestors 'none'" in ask(server, "/")[1]["Content-Security-Policy"]
    monkeypatch.setenv("SPACE_ID", "user/space")
    assert ask(server, "/")[1]["Content-Security-Policy"].endswith("frame-ancestors https://huggingface.co")


def test_for_everybody_any_name_will_do(store: Counting) -> None:
    with PageServer(("0.0.0.0", 0), Reader(store)) as server:
        assert not server.is_private
        assert server.url.startswith("http://127.0.0.1:")


def test_a_port_that_is_taken_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with PageServer(("127.0.0.1", 0), Reader(open_store(str(tmp_path / "s")))) as server:
        for port in (str(server.server_port), "70000"):
            assert cli.main(["page", "--port", port, "--store", str(tmp_path / "s")]) == 2
            output = capsys.readouterr().err
            assert "choose another --port" in output
            assert output.count("\n") == 1


# --- its keeper


def test_its_keeper_keeps_and_ends_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.qcity]\n")
    config = settings.load(tmp_path, {"heartbeat": "0.1s", "ttl": "1s"}, {})
    store = open_store(config.store)
    lease.create(store, Head(run="r-1", key="k", project="p", notebook="n", desired=DesiredState(hosts=("local",))))
    keeper = KeeperThread(store, config, ("hf-jobs",))
    looked = threading.Event()
    see = keeper._note.see

    def seen(outcome) -> None:  # type: ignore[no-untyped-def]
        see(outcome)
        looked.set()

    keeper._note.see = seen  # type: ignore[method-assign]
    keeper.start()
    assert looked.wait(30)
    keeper.ending.set()
    keeper.join(30)
    assert not keeper.is_alive()
    assert lease.read(store, "r-1").head.pending_launch is None, "the run does not name this machine"
    assert keeper.trouble == ""


def test_its_keeper_outlives_a_store_that_is_silent(store: Counting, tmp_path: Path) -> None:
    config = settings.load(tmp_path, {"heartbeat": "0.1s", "ttl": "1s"}, {})
    keeper = KeeperThread(store, config)
    asked = threading.Event()

    def keep(**_: object) -> None:
        asked.set()
        raise UsageError("no such thing")

    keeper._keeper.keep = keep  # type: ignore[method-assign,assignment]
    keeper.start()
    assert asked.wait(30)
    keeper.ending.set()
    keeper.join(30)
    assert keeper.trouble == "the keeper here: no such thing"
