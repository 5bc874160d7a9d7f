"""A second `up()`, and calls after `finish()`: the open run is the one that was asked for, or the user is told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from silent_world import UserProject

pytestmark = [pytest.mark.kill, pytest.mark.timeout(180)]

TRY = """
import qcity_nb as qcity
from qcity_nb.errors import UsageError

def refused(call):
    try:
        call()
    except UsageError as error:
        print("refused:", error)
    else:
        print("NOT REFUSED")
"""


@pytest.fixture
def project(tmp_path: Path) -> UserProject:
    return UserProject(tmp_path / "mine")


def script(project: UserProject, text: str) -> str:
    project.write("train.py", TRY + text)
    code, shown = project.run("train.py")
    assert code == 0, shown
    assert "NOT REFUSED" not in shown
    return shown


def rows(project: UserProject) -> dict[str, int]:
    """The step of each run's newest checkpoint."""
    return {head.notebook: head.checkpoint.step if head.checkpoint else 0 for head in project.heads()}


def test_two_experiments_in_one_script_are_not_mixed(project: UserProject) -> None:
    text = """
city = qcity.up(run="exp1")
for epoch in city.loop(range(3), None, every=1):
    city.log(loss=epoch)
city = qcity.up(run="exp2")
"""
    project.write("train.py", TRY + text)
    code, shown = project.run("train.py")
    assert code == 1
    assert "UsageError: qcity.up(run='exp2'): run 'exp1-" in shown
    assert "city.finish()" in shown
    assert list(rows(project)) == ["exp1"]
    project.write(
        "train.py",
        TRY
        + text.replace(
            'city = qcity.up(run="exp2")',
            """
city.finish()
city = qcity.up(run="exp2")
for epoch in city.loop(range(5), None, every=1):
    city.log(loss=epoch)
city.finish()
""",
        ),
    )
    code, shown = project.run("train.py")
    assert code == 0, shown
    assert rows(project) == {"exp1": 3, "exp2": 5}


def test_the_same_arguments_give_the_same_city(project: UserProject) -> None:
    script(
        project,
        """
import threading
city = qcity.up(run="exp", params={"lr": 1}, heartbeat="500ms")
for other in (
    qcity.up(),
    qcity.up(run="exp"),
    qcity.up(heartbeat=0.5, params={"lr": 1}),
    qcity.up(store=".qcity/store", take_over=True),
):
    assert other is city
refused(lambda: qcity.up(params={"lr": 1.0}))
refused(lambda: qcity.up(hartbeat=2))
city.finish()
others = []
threads = [threading.Thread(target=lambda: others.append(qcity.up(run="threads"))) for _ in range(4)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
assert len(others) == 4 and len(set(map(id, others))) == 1
""",
    )
    assert sorted(rows(project)) == ["exp", "threads"]


def test_after_finish_every_call_says_what_to_write(project: UserProject) -> None:
    shown = script(
        project,
        """
city = qcity.up(run="exp")
begun, waiting = city.loop(range(3), None), city.loop(range(3), None, name="second")
next(begun)
city.log(loss=1)
city.finish()
for call in (
    lambda: city.log(loss=2),
    lambda: city.loop(range(3), None),
    lambda: city.checkpoint(),
    lambda: city.finish(),
    lambda: next(begun),
    lambda: next(waiting),
):
    refused(call)
again = qcity.up(run="exp")
assert again.run != city.run, "Run all again begins a new run"
refused(lambda: city.log(loss=3))
third = qcity.up(run="exp", fresh=True)
fourth = qcity.up(run="exp", fresh=True)
assert len({again.run, third.run, fourth.run}) == 3
refused(lambda: third.log(loss=4))
fourth.log(loss=5)
fourth.hand_over()
refused(lambda: fourth.log(loss=6))
back = qcity.up(run="exp")
assert back.run == fourth.run
back.finish()
""",
    )
    refusals = [line for line in shown.splitlines() if line.startswith("refused:")]
    assert len(refusals) == 9
    assert all("qcity.up()" in line for line in refusals)
    assert sorted(head.state for head in project.heads()) == ["running", "running", "succeeded", "succeeded"]
    assert not [head.holder for head in project.heads() if head.holder is not None], "runs that were left are released"


def test_rows_and_loops_of_a_run_that_another_one_replaces_are_kept(project: UserProject) -> None:
    script(
        project,
        """
city = qcity.up(run="exp")
for epoch in city.loop(range(5), {"x": [0]}, every=100):
    if epoch == 3:
        break
city.log(after=1)
second = qcity.up(run="exp", fresh=True)
second.finish()
""",
    )
    first = project.heads()
    assert max(head.checkpoint.step for head in first if head.checkpoint) >= 3


def test_after_a_lost_lease_the_same_call_says_so(project: UserProject) -> None:
    project.write("taker.py", 'import qcity_nb as qcity\nqcity.up(run="exp", take_over=True).finish()\n')
    script(
        project,
        """
import subprocess, sys, time
from qcity_nb.errors import LeaseLost
city = qcity.up(run="exp")
subprocess.run([sys.executable, "taker.py"], check=True, stdin=subprocess.DEVNULL)
until = time.monotonic() + 20
while city.is_up and time.monotonic() < until:
    time.sleep(0.02)
try:
    city.log(loss=1)
except LeaseLost as error:
    print("lost:", error)
else:
    print("NOT REFUSED")
assert qcity.up(run="other").run != city.run
refused(lambda: city.log(loss=1))
""",
    )


@pytest.mark.kernel
def test_under_the_engine_arguments_that_cannot_hold_are_named_and_finish_ends_nothing(project: UserProject) -> None:
    setup = """
import os
import qcity_nb as qcity
city = qcity.up(run="mine", name="n", params={"lr": 1}, store="other", tracking="http://localhost:9", fresh=True)
assert qcity.up(run="yours", store="other") is city
qcity.up(store="third", session_limit="2h")
state = {"total": 0}
"""
    work = """
for epoch in city.loop(range(6), state, every=1):
    state["total"] += 1
    city.log(total=state["total"])
    if epoch == 2 and not os.path.exists("died"):
        open("died", "w").close()
        os.kill(os.getpid(), 9)
"""
    project.notebook(
        "train.ipynb", [setup, work, "city.finish()", work.replace("range(6)", "range(2)"), "print(state)"]
    )
    code, text = project.qcity("run", "train.ipynb", QCITY_SNAPSHOT_TIME_SHARE="1000")
    assert code == 0, text
    shown = project.shown()
    assert "{'total': 8}" in shown
    assert len(re.findall(r"qcity\.up\(store='other'\) has no effect", shown)) == 1
    assert len(re.findall(r"qcity\.up\(tracking='http://localhost:9'\) has no effect", shown)) == 1
    assert len(re.findall(r"qcity\.up\(store='third'\) has no effect", shown)) == 1
    assert "session_limit" not in shown
    assert "run=" not in shown
    assert {event.data["what"] for event in project.events("changed")} == {"arguments"}
    assert not (project.folder / "other").exists()


@pytest.mark.kernel
def test_under_the_engine_an_unknown_setting_is_an_error(project: UserProject) -> None:
    project.notebook("train.ipynb", ["import qcity_nb as qcity\ncity = qcity.up()\nqcity.up(hartbeat=2)"])
    code, text = project.qcity("run", "train.ipynb")
    assert code == 2, text
    assert "no setting is named 'hartbeat'" in text
