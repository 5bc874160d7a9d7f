"""`qcity run` on notebooks that go wrong, and Ctrl-C: one clear line, the documented exit code, a run that resumes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted_run import Snapshot, attempt_pids, environment, eventually, head_of
from tiers import nightly_but

from qcity_nb.run.processes import process_state
from qcity_nb.testing.chaos import Plan

pytestmark = [pytest.mark.kernel, pytest.mark.kill, pytest.mark.timeout(240)]

LOOP = """
import time
from pathlib import Path
import qcity_nb as qcity
city = qcity.up()
state = {"total": [0.0]}
for i in city.loop(range(count), state, every=1):
    with Path("executed").open("a") as file:
        file.write(f"{i}\\n")
    state["total"][0] += 0.1 * i
    city.log(total=state["total"][0])
    time.sleep(pause)
print(state["total"][0])
"""
UNSAVABLE = """
import qcity_nb as qcity
city = qcity.up()
for i in city.loop(range(3), {"model": [1.0], "source": (n for n in range(3))}):
    print("ran", i)
"""
DATA = """
import qcity_nb as qcity
city = qcity.up()
print(city.data["data.csv"])
"""


class Project:
    """A directory with one notebook, and the commands that were started in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / ".qcity/store"
        (folder / "pyproject.toml").write_text('[tool.qcity]\nproject = "bad"\ntracking = ""\n')
        self.started: list[subprocess.Popen[str]] = []

    def write(self, source: str) -> None:
        def code(text: str, *tags: str, name: str) -> dict[str, object]:
            fields: dict[str, object] = {
                "cell_type": "code",
                "source": text,
                "outputs": [],
                "execution_count": None,
                "id": name,
            }
            return {**fields, "metadata": {"tags": list(tags)}}

        cells = [code("count = 10\npause = 0.05", "parameters", name="params"), code(source, name="work")]
        self.folder.joinpath("train.ipynb").write_text(
            json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
        )

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "qcity_nb.cli", *arguments],
            cwd=self.folder,
            env=environment(ttl_s=3.0, **environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(self, *arguments: str, **environ: str) -> tuple[int, str, str]:
        process = self.start("run", "train.ipynb", *arguments, **environ)
        out, err = process.communicate(timeout=90)
        return process.returncode, out, err

    @property
    def attempts(self) -> list[str]:
        return [p.name.removesuffix(".spec.json") for p in self.folder.glob(".qcity/local/attempts/*.spec.json")]

    @property
    def pids(self) -> list[int]:
        return [pid for attempt in self.attempts for pid in attempt_pids(attempt)]

    @property
    def executed(self) -> list[int]:
        file = self.folder / "executed"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def end(self) -> None:
        for process in self.started:
            process.kill()
            process.communicate()
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path)
    yield made
    made.end()


def test_state_that_cannot_be_saved_is_named_before_the_first_iteration(project: Project) -> None:
    project.write(UNSAVABLE)
    code, _, err = project.run()
    assert code == 7, err
    last = err.splitlines()[-1]
    assert "StateRefused" in last
    assert "source" in last, "it names the variable"
    assert "generator" in last, "it says why"
    assert "Traceback" not in err
    assert "ran 0" not in next(project.folder.glob(".qcity/executed/*.ipynb")).read_text()
    project.write(LOOP)
    code, _, err = project.run()
    assert code == 0, err


def test_data_with_the_wrong_md5(project: Project) -> None:
    project.write(DATA)
    good = b"a,b\n1,2\n"
    md5 = hashlib.md5(good).hexdigest()
    (project.folder / "data.csv.dvc").write_text(
        f"outs:\n- md5: {md5}\n  size: {len(good)}\n  hash: md5\n  path: data.csv\n"
    )
    remote = project.folder / "remote"
    (project.folder / ".dvc").mkdir()
    (project.folder / ".dvc/config").write_text(f"[core]\n    remote = here\n['remote \"here\"']\n    url = {remote}\n")
    stored = remote / "files/md5" / md5[:2] / md5[2:]
    stored.parent.mkdir(parents=True)
    stored.write_bytes(good.replace(b"1", b"7"))
    code, _, err = project.run()
    assert code == 8, err
    last = err.splitlines()[-1]
    assert "DataError" in last
    assert "md5" in last
    assert "data.csv" in last
    assert "Traceback" not in err
    stored.write_bytes(good)
    code, _, err = project.run()
    assert code == 0, err


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c(times: int, project: Project) -> None:
    project.write(LOOP)
    command = project.start("run", "train.ipynb", "-p", "count", "100")
    eventually(lambda: len(project.executed) >= 3)
    if times == 2:
        # An iteration that does not end: only the second Ctrl-C ends it.
        kernel = [pid for pid in project.pids if b"ipykernel" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert len(kernel) == 1
        os.kill(kernel[0], signal.SIGSTOP)
    command.send_signal(signal.SIGINT)
    if times == 2:
        eventually(lambda: head_of(project.store).desired.state == "stopped")
        command.send_signal(signal.SIGINT)
    out, err = command.communicate(timeout=60)
    assert command.returncode == 130, err
    head = head_of(project.store)
    assert f"`qcity resume {head.run}` resumes it" in out
    assert "Traceback" not in err
    assert (head.state, head.holder) == ("stopped", None) or times == 2
    assert project.pids == [], "an orphan"
    if times == 1:
        assert head.checkpoint is not None
        assert head.checkpoint.step == len(project.executed), "the final checkpoint has all that was finished"
    begun = len(project.executed)
    resumed = project.start("resume", head.run)
    out, err = resumed.communicate(timeout=90)
    assert resumed.returncode == 0, err
    assert len(project.executed) <= 100 + (times == 2), project.executed
    assert project.executed[begun] >= begun - 1
    assert head_of(project.store).state == "succeeded"


def test_sigterm_to_the_attempt_drains_and_is_relaunched(project: Project) -> None:
    project.write(LOOP)
    command = project.start("run", "train.ipynb", "-p", "count", "40")
    eventually(lambda: len(project.executed) >= 3)
    (attempt,) = project.attempts
    recorded = json.loads((project.folder / f".qcity/local/attempts/{attempt}.json").read_text())
    os.kill(recorded["pid"], signal.SIGTERM)
    _, err = command.communicate(timeout=90)
    assert command.returncode == 0, err
    assert len(project.attempts) == 2
    assert project.executed == list(range(40)), "it resumed from the boundary at which it was stopped"


@pytest.mark.parametrize("point", nightly_but(["cell.after"], ["cell.before", "cell.after"]))
def test_an_engine_stopped_between_cells(point: str, project: Project) -> None:
    """The crash points that only an engine hits: the whole attempt is stopped there, replaced, and woken."""
    project.write(LOOP)
    plan = Plan(log=str(project.folder / "hits"), at={point: [2]}, action="stop")
    command = project.start("run", "train.ipynb", QCITY_CHAOS=plan.dumps())
    eventually(lambda: any(process_state(pid) == "T" for pid in project.pids))
    first = project.attempts[0]
    _, err = command.communicate(timeout=90)
    assert command.returncode == 0, err
    before = Snapshot.take(project.store)
    assert head_of(project.store).term == 2
    for pid in attempt_pids(first):
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: not attempt_pids(first))
    after = Snapshot.take(project.store)
    assert after.heads == before.heads
    assert before.files.items() <= after.files.items(), "the zombie deleted or replaced objects"
    # An upload that the stop cut in two may still arrive, under names that no head knows.
    assert all("/t1-" in name for name in after.files.keys() - before.files.keys())
    assert "attempt 2" in (project.folder / f".qcity/local/attempts/{first}.log").read_text()
