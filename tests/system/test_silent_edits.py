"""Notebooks and scripts that are edited between two attempts, as users write and run them."""

from __future__ import annotations

from pathlib import Path

import pytest
from silent_world import UserProject

pytestmark = [pytest.mark.kill, pytest.mark.timeout(240)]

NOTEBOOK = [
    "import os, sys, time\nimport qcity_nb as qcity\ncity = qcity.up()",
    "lr = 0.5  # the learning rate",
    '''
def loss_of(w):
    """How far it is."""
    return abs(w[0] - 8)
''',
    """
warm = {"w": [0.0]}
for n in city.loop(range(2), warm, every=1):
    warm["w"][0] += 2
""",
    """
state = {"w": list(warm["w"])}
for n in city.loop(range(6), state, every=1):
    state["w"][0] += lr
    city.log(loss=loss_of(state["w"]))
    if n == 2 and not os.path.exists("stopped"):
        open("stopped", "w").close()
        os.system(f"{sys.executable} -m qcity_nb.cli stop {city.run}")
        while not city.session.sidecar.look(now=True).stop:
            time.sleep(0.01)
print("w", *state["w"])
""",
]

SCRIPT = """
import os
import qcity_nb as qcity

city = qcity.up(run="train")
lr = 0.5

def train(state, rate):
    for n in city.loop(range(6), state, every=1):
        if os.environ.get("DIE") == str(n):
            os.kill(os.getpid(), 9)
        state["w"] += rate
    print("w", state["w"])

train({"w": 0.0}, lr)
city.finish()
"""


@pytest.fixture
def project(tmp_path: Path) -> UserProject:
    return UserProject(tmp_path / "mine")


def begin(project: UserProject, cells: list[str]) -> None:
    """Run the notebook until its second loop has done three of six iterations; the run is then resumed with edits."""
    project.notebook("train.ipynb", cells)
    code, text = project.qcity("run", "train.ipynb")
    assert code == 4, text


def edited(cell: int, old: str, new: str) -> list[str]:
    assert old in NOTEBOOK[cell]
    return [*NOTEBOOK[:cell], NOTEBOOK[cell].replace(old, new), *NOTEBOOK[cell + 1 :]]


def resume(project: UserProject, cells: list[str]) -> str:
    project.notebook("train.ipynb", cells)
    code, text = project.qcity("run", "train.ipynb")
    assert code == 0, text
    return text


def changes(project: UserProject) -> list[str]:
    return [event.data["message"] for event in project.events("changed")]


@pytest.mark.kernel
def test_an_edited_learning_rate(project: UserProject) -> None:
    begin(project, NOTEBOOK)
    resume(project, edited(1, "0.5", "0.25"))
    (text,) = changes(project)
    assert "lr = 0.5 → lr = 0.25; the new code runs from step 3 on" in text
    assert 'city.loop(…, changed="restart")' in text
    assert f"qcity: {text}" in project.shown()
    assert "w 6.25" in project.shown()
