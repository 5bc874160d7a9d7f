"""A new run never takes another run's state: executions are counted, results and rows are those of the notebook."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from scripted_run import attempt_pids, environment, events, eventually, head_of
from tiers import nightly_but

from qcity_nb.errors import UsageError
from qcity_nb.published.read import published_rows
from qcity_nb.stores import open_store
from qcity_nb.tracking.outbox import decode_rows

pytestmark = [pytest.mark.kernel, pytest.mark.kill, pytest.mark.timeout(240)]

COUNT = 6
LOOP = """
from pathlib import Path
import qcity_nb as qcity
city = qcity.up()
state = {"weights": [0.0]}
for i in city.loop(range(6), state, every=1):
    with Path("executed").open("a") as file:
        file.write(f"{i}\\n")
    state["weights"][0] += START + i
    city.log(weights=state["weights"][0])
Path("result").write_text(repr(state["weights"][0]))
"""
OTHER = """
from pathlib import Path
import qcity_nb as qcity
lines = Path("executed").open("a")
totals = {"count": 0}
for word in qcity.up().loop("abcdef", totals, every=1):
    totals["count"] += len(word)
    print(word, file=lines, flush=True)
"""
SLOW = "    import time; time.sleep(0.3)\n    city.log("


class Folder:
    """A directory with a notebook that trains from the weight ``start``, and a store."""

    def __init__(self, path: Path, start: float, *, store: str = ".qcity/store", local: Path | None = None) -> None:
        self.path = path
        self.store = path / store
        self.environ = {"QCITY_LOCAL_DIR": str(local)} if local is not None else {}
        path.mkdir(parents=True, exist_ok=True)
        self.write(LOOP.replace("START", repr(start)))

    def write(self, source: str) -> None:
        cell: dict[str, object] = {"cell_type": "code", "source": source, "outputs": [], "execution_count": None}
        cell |= {"id": "work", "metadata": {}}
        content = json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
        (self.path / "train.ipynb").write_text(content)

    def start(self, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "qcity_nb.cli", "run", "train.ipynb", "--store", str(self.store), *options]
        return subprocess.Popen(
            command,
            cwd=self.path,
            env={**environment(QCITY_TRACKING="none"), **self.environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *options: str) -> tuple[int, str]:
        process = self.start(*options)
        output, _ = process.communicate(timeout=120)
        return process.returncode, output

    def executed(self) -> list[str]:
        """The iterations that were begun since the last call."""
        file = self.path / "executed"
        lines = file.read_text().split() if file.exists() else []
        file.unlink(missing_ok=True)
        return lines

    def check(self, start: float, *, executed: list[int] | None = None) -> None:
        """The newest run has the weights and rows of an undisturbed one, and ran these iterations."""
        values = [sum((start + i for i in range(n + 1)), 0.0) for n in range(COUNT)]
        assert self.executed() == [str(i) for i in (range(COUNT) if executed is None else executed)]
        assert (self.path / "result").read_text() == repr(values[-1])
        (self.path / "result").unlink()
        run = open_store(str(self.store)).runs()[-1]
        head = head_of(self.store, run)
        assert head.state == "succeeded"
        rows = decode_rows(b"".join(published_rows(open_store(str(self.store)), head, 0).values()))
        assert [(row.step, row.value) for row in rows] == list(enumerate(values))


def kill(folder: Folder, process: subprocess.Popen[str]) -> None:
    """The command, and all processes of its attempts."""
    process.kill()
    process.communicate()
    for file in (folder.path / ".qcity/local/attempts").glob("*.spec.json"):
        for pid in attempt_pids(file.name.removesuffix(".spec.json")):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def published_seq(folder: Folder) -> int:
    runs = open_store(str(folder.store)).runs() if folder.store.exists() else []
    checkpoint = head_of(folder.store, runs[0]).checkpoint if runs else None
    return checkpoint.seq if checkpoint else 0


def succeeds(folder: Folder, start: float, **options: list[int]) -> None:
    code, output = folder.run()
    assert code == 0, output
    folder.check(start, **options)
    run = open_store(str(folder.store)).runs()[-1]
    run_id = head_of(folder.store, run).id
    assert [event.data["id"] for event in events(folder.store, run) if event.kind == "lease"] == [run_id] != [""]


def test_another_store_and_a_removed_store_begin_anew(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "p", 1.0)
    succeeds(folder, 1.0)
    folder.store = tmp_path / "other"
    succeeds(folder, 1.0)
    shutil.rmtree(folder.store)
    succeeds(folder, 1.0)


def test_two_projects_of_one_directory_name_share_a_local_directory(tmp_path: Path) -> None:
    first, second = (Folder(tmp_path / name / "content", start, local=tmp_path / "local") for name, start in NAMES)
    succeeds(first, 1.0)
    succeeds(second, 20.0)


NAMES = (("a", 1.0), ("b", 20.0))


def test_two_stores_at_once(tmp_path: Path) -> None:
    folders = [Folder(tmp_path / name / "content", start, local=tmp_path / "local") for name, start in NAMES]
    processes = [folder.start() for folder in folders]
    for folder, process, (_, start) in zip(folders, processes, NAMES, strict=True):
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
        folder.check(start)


@pytest.mark.nightly
def test_a_store_put_back_from_an_older_copy_resumes_from_what_it_has(tmp_path: Path) -> None:
    """The copy was made while the first attempt ran; that attempt has published more since, and ended."""
    folder = Folder(tmp_path / "p", 1.0)
    folder.write(LOOP.replace("START", "1.0").replace("    city.log(", SLOW))
    process = folder.start()
    eventually(lambda: published_seq(folder) >= 2, what="the second checkpoint")
    shutil.copytree(folder.store, tmp_path / "copy")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    folder.check(1.0)
    shutil.rmtree(folder.store)
    shutil.copytree(tmp_path / "copy", folder.store)
    done = head_of(folder.store).checkpoint
    assert done is not None
    code, output = folder.run()
    assert code == 0, output
    folder.check(1.0, executed=list(range(done.step, COUNT)))
    troubles = [str(event.data["message"]) for event in events(folder.store) if event.kind == "trouble"]
    assert any("the store was put back" in message for message in troubles)


@pytest.mark.parametrize("way", nightly_but(["empty machine"], ["same machine", "empty machine", "other path"]))
def test_a_killed_run_resumes(way: str, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "a" / "content", 1.0)
    folder.store = tmp_path / "store"
    folder.write(LOOP.replace("START", "1.0").replace("    city.log(", SLOW))
    process = folder.start()
    eventually(lambda: published_seq(folder) >= 2, what="the second checkpoint")
    kill(folder, process)
    before = folder.executed()
    target = folder
    if way != "same machine":
        place = "content" if way == "empty machine" else "other/content"
        target = Folder(tmp_path / "b" / place, 1.0)
        shutil.copy(folder.path / "train.ipynb", target.path / "train.ipynb")
        target.store = folder.store
    code, output = target.run()
    assert code == 0, output
    assert len(open_store(str(folder.store)).runs()) == 1
    after = [int(line) for line in (target.path / "executed").read_text().split()]
    assert 1 <= after[0] <= len(before)
    target.check(1.0, executed=list(range(after[0], COUNT)))


def test_the_second_project_called_content_is_refused_by_name(tmp_path: Path) -> None:
    first, second = (Folder(tmp_path / name / "content", 1.0) for name in "ab")
    first.store = second.store = tmp_path / "store"
    first.write(LOOP.replace("START", "1.0").replace("    city.log(", SLOW))
    process = first.start()
    eventually(lambda: published_seq(first) >= 1, what="the first checkpoint")
    kill(first, process)
    (run,) = open_store(str(first.store)).runs()
    second.write(OTHER)
    code, output = second.run()
    assert code == UsageError.exit_code, output
    for text in (run, head_of(first.store, run).created, "--name", "--fresh"):
        assert text in output
    assert second.executed() == []
    code, output = second.run("--name", "words")
    assert code == 0, output
    assert second.executed() == list("abcdef")
