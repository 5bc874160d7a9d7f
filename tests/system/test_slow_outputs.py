"""A kernel on a busy machine, whose outputs come long after the cell's reply: the host's fault, if it is one at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from silent_world import UserProject

pytestmark = [pytest.mark.kill, pytest.mark.timeout(180)]

LATE = """
import os, time
kernel = get_ipython().kernel
send = kernel.session.send
def hold(stream, kind, *args, **kwargs):
    # Once the reply is sent, the thread that sends outputs and the end of the cell is held up.
    sent = send(stream, kind, *args, **kwargs)
    if kind == "execute_reply":
        kernel.session.send = send
        kernel.iopub_thread.schedule(lambda: time.sleep({seconds}))
    return sent
if sum(name.startswith("late") for name in os.listdir()) < {times}:
    open(f"late {{time.time_ns()}}", "w").close()
    kernel.session.send = hold
print("shown")
"""
SHORT = "import qcity_nb.engine.engine as engine\nengine.IOPUB_S = 1\n"


def test_outputs_that_come_after_six_seconds_are_there(tmp_path: Path) -> None:
    project = UserProject(tmp_path / "mine")
    project.notebook("train.ipynb", [LATE.format(seconds=6, times=1), "print('after')"])
    code, text = project.qcity("run", "train.ipynb")
    assert code == 0, text
    assert project.shown() == "shown\nafter\n"
    (head,) = project.heads()
    assert (head.state, head.term) == ("succeeded", 1)


def test_outputs_that_do_not_come_are_the_host_s_failure(tmp_path: Path) -> None:
    """The run does not end for good: the next attempt runs the cell again."""
    project = UserProject(tmp_path / "mine")
    project.write("lib/sitecustomize.py", SHORT)
    project.notebook("train.ipynb", ["print('before')", LATE.format(seconds=4, times=2), "print('after')"])
    code, text = project.qcity("run", "train.ipynb", PYTHONPATH=str(project.folder / "lib"))
    assert code == 0, text
    assert project.shown() == "before\nshown\nafter\n"
    (head,) = project.heads()
    assert (head.state, head.term) == ("succeeded", 3)
    assert text.count("CellTimeoutError") >= 1
