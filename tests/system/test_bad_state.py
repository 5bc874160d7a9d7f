"""State that is full, damaged or gone: one clear line, its exit code, nothing lost, and the next run resumes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from full_disk import install
from scripted_run import Script, environment, events, eventually, head_of, metrics

from qcity_nb.published.read import published_rows
from qcity_nb.stores import open_store
from qcity_nb.tracking.outbox import decode_rows

pytestmark = [pytest.mark.kill, pytest.mark.timeout(240)]

COUNT = 30
TOTAL = repr(sum((0.1 * i for i in range(COUNT)), 0.0))


@pytest.fixture
def scripts(tmp_path: Path) -> Iterator[Callable[..., Script]]:
    """Makes scripts over one store; by default of one project with one local tier."""
    made: list[Script] = []

    def make(name: str = "work", **changes: object) -> Script:
        script = Script(tmp_path / name, tmp_path / "store", count=COUNT)
        for key, value in changes.items():
            setattr(script, key, value)
        made.append(script)
        return script.start()

    yield make
    for script in made:
        script.kill()


def has_done(script: Script, count: int) -> None:
    eventually(lambda: len(script.executed) >= count, what=f"iteration {count}")


def ended_well(script: Script, *, term: int) -> None:
    """It finished, with the result and the rows of an undisturbed run."""
    assert script.wait() == 0, script.output
    assert script.output.splitlines()[-1] == f"finished {TOTAL}"
    head = head_of(script.store)
    assert (head.term, head.state) == (term, "succeeded")
    rows = decode_rows(b"".join(published_rows(open_store(str(script.store)), head, 0).values()))
    assert [row.step for row in rows] == list(range(COUNT)), "each row exactly once"


def test_a_store_that_vanishes_for_a_while(scripts: Callable[..., Script], tmp_path: Path) -> None:
    script = scripts()
    has_done(script, 5)
    script.store.rename(tmp_path / "away")
    has_done(script, 15)
    assert not script.store.exists(), "nothing was made in its place"
    (tmp_path / "away").rename(script.store)
    ended_well(script, term=1)
    assert script.executed == list(range(COUNT))


def test_a_store_that_is_full_for_a_while(scripts: Callable[..., Script], tmp_path: Path) -> None:
    full = tmp_path / "store.full"
    path = f"{install(tmp_path / 'site')}{os.pathsep}{environment()['PYTHONPATH']}"
    script = scripts(environ={"PYTHONPATH": path, "FULL_DISK": str(tmp_path / "store")})
    has_done(script, 5)
    full.touch()
    has_done(script, COUNT)
    newest = head_of(script.store).checkpoint
    assert newest is not None
    assert newest.step < COUNT, "the disk was not full"
    status = next((script.folder / ".qcity/local/attempts").glob("*/status.json"))
    eventually(lambda: "the disk is full" in status.read_text())
    full.unlink()
    ended_well(script, term=1)


@pytest.mark.parametrize("begun", [0, 5])
def test_a_full_local_disk(begun: int, scripts: Callable[..., Script], tmp_path: Path) -> None:
    local = tmp_path / "work/.qcity/local"
    full = local.with_name("local.full")
    path = f"{install(tmp_path / 'site')}{os.pathsep}{environment()['PYTHONPATH']}"
    environ = {"PYTHONPATH": path, "FULL_DISK": str(local)}
    if not begun:
        full.parent.mkdir(parents=True)
        full.touch()
    script = scripts(environ=environ)
    if begun:
        has_done(script, begun)
        full.touch()
    assert script.wait() == 7, script.output
    last = script.output.splitlines()[-1]
    assert last.startswith("CheckpointError: ")
    assert "No space left on device" in last
    assert "Traceback" not in script.output
    full.unlink()
    again = scripts(environ=environ)
    ended_well(again, term=2 if begun else 1)
    assert len(again.executed) <= COUNT + 1, "no more than the iteration in flight is run again"


Damage = Callable[[Path, int], None]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def cut(path: Path, at: int) -> None:
    path.write_bytes(path.read_bytes()[:at])


def remove(path: Path, _: int) -> None:
    path.unlink()


def inside(manifest: dict[str, Any], pack: str) -> int:
    """Where an object of the manifest lies in the pack."""
    offset, size, *_ = next(iter(manifest["packs"][pack].values()))
    return int(offset) + int(size) // 2


@pytest.mark.parametrize(("kind", "damage"), [("packs", flip), ("packs", cut), ("packs", remove), ("checkpoints", cut)])
def test_a_damaged_published_checkpoint(kind: str, damage: Damage, scripts: Callable[..., Script]) -> None:
    script = scripts()
    eventually(lambda: script.executed and len(head_of(script.store).checkpoints) == 3)
    script.send(signal.SIGKILL)
    script.wait()
    shutil.rmtree(script.folder / ".qcity")
    head = head_of(script.store)
    newest, before = head.checkpoints[:2]
    files = script.store / "runs" / head.run / "files"
    if kind == "checkpoints":
        damage(files / newest.name, 100)
    else:
        manifest = json.loads((files / newest.name).read_bytes())
        pack = next(pack for pack in manifest["packs"] if f"/t1-{newest.seq}-" in pack)
        damage(files / pack, inside(manifest, pack))
    again = scripts()
    ended_well(again, term=2)
    messages = [str(event.data) for event in events(script.store) if event.kind == "trouble"]
    assert len(messages) == 1
    assert f"checkpoint {newest.seq} in" in messages[0]
    assert "falling back" in messages[0]
    went_on = [event.data for event in events(script.store) if event.kind == "lease"][-1]
    assert (went_on["seq"], went_on["source"]) == (before.seq, "store")


@pytest.mark.parametrize("damage", [flip, cut])
def test_a_damaged_local_checkpoint(damage: Damage, scripts: Callable[..., Script]) -> None:
    script = scripts()
    has_done(script, 8)
    script.send(signal.SIGKILL)
    script.wait()
    tier = next((script.folder / ".qcity/local/runs").glob("*/1-*"))
    newest = max(int(path.stem) for path in (tier / "checkpoints").glob("[0-9]*.json"))
    pack = f"t1-{newest}.pack"
    manifest = json.loads((tier / "checkpoints" / f"{newest}.json").read_bytes())["manifest"]
    damage(tier / "packs" / pack, inside(manifest, pack))
    ended_well(scripts(), term=2)


def heads(script: Script) -> list[Path]:
    folder = script.store / "runs" / open_store(str(script.store)).runs()[0] / "heads"
    return sorted(folder.iterdir(), key=lambda path: int(path.name))


def qcity(script: Script, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "qcity_nb.cli", *arguments, "--store", str(script.store)],
        cwd=script.folder,
        env=environment(ttl_s=script.ttl_s),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("which", ["newest", "all"])
def test_a_corrupt_head(which: str, scripts: Callable[..., Script]) -> None:
    script = scripts()
    has_done(script, 5)
    script.send(signal.SIGKILL)
    script.wait()
    run = open_store(str(script.store)).runs()[0]
    versions = heads(script)
    for path in versions[-1:] if which == "newest" else versions:
        cut(path, path.stat().st_size // 2)
    for command in ("show", "resume"):
        done = qcity(script, command, run)
        assert done.returncode == 6, done.stderr
        assert done.stderr.count("\n") == 1
        assert f"the run record of run '{run}'" in done.stderr
    again = scripts()
    assert again.wait() == 6, again.output
    last = again.output.splitlines()[-1]
    assert last.startswith("HeadCorrupt: ")
    assert "fresh" in last, "it says how to continue"
    assert heads(script)[-1] == versions[-1], "nothing was written"
    if which == "newest":
        # The version before is intact: without the damaged file the run continues.
        versions[-1].unlink()
        ended_well(scripts(), term=2)


class _Forward(socketserver.StreamRequestHandler):
    """One connection, passed on to the real server."""

    def handle(self) -> None:
        target: tuple[str, int] = self.server.target  # type: ignore[attr-defined]  # set by `forwarded`
        with socket.create_connection(target) as remote:

            def back() -> None:
                while data := remote.recv(65536):
                    self.wfile.write(data)

            thread = threading.Thread(target=back, daemon=True)
            thread.start()
            while data := self.rfile.read1(65536):
                remote.sendall(data)
            remote.shutdown(socket.SHUT_WR)
            thread.join(10)


@contextmanager
def forwarded(port: int, uri: str) -> Iterator[None]:
    """Answer on ``port`` with the server at ``uri``."""
    server = socketserver.ThreadingTCPServer(("127.0.0.1", port), _Forward)
    server.daemon_threads = True
    server.target = ("127.0.0.1", int(uri.rsplit(":", 1)[1]))  # type: ignore[attr-defined]  # for the handler
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def test_a_tracker_that_is_down(scripts: Callable[..., Script], mlflow_uri: str, mlflow_folder: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = scripts(tracking=f"http://127.0.0.1:{port}")
    ended_well(script, term=1)
    head = head_of(script.store)
    assert head.tracked.drained_seq == 0
    database = mlflow_folder / "server.db"
    assert metrics(database, head.run) == []
    done = qcity(script, "keep", "--once")
    assert done.returncode == 0, "one tracker that is down is no reason for a keeper to fail"
    assert "Traceback" not in done.stderr
    with forwarded(port, mlflow_uri):
        done = qcity(script, "keep", "--once")
        assert done.returncode == 0, done.stderr
    rows = metrics(database, head.run)
    assert [row[2] for row in rows if row[1] == "total"] == list(range(COUNT))
    assert [row[2] for row in rows if row[1] == "status"] == ["FINISHED"]
    assert head_of(script.store).tracked.status == "FINISHED"
