"""A run that resumes with an edited file or another package: the user is told, or the run refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from silent_world import UserProject

pytestmark = [pytest.mark.kill, pytest.mark.timeout(180)]

SCRIPT = """
import os, sys
sys.path.insert(0, "lib")
import utils
import qcity_nb as qcity

city = qcity.up(run="train")
state = {"total": 0}
for epoch in city.loop(range(6), state, every=1):
    import fakepack  # only now, as libraries do
    state["total"] += utils.step
    city.log(total=state["total"])
    if os.environ.get("DIE") == str(epoch):
        os.kill(os.getpid(), 9)
print("total", state["total"])
city.finish()
"""

NOTEBOOK = [
    "import os, time\nimport utils\nimport qcity_nb as qcity\ncity = qcity.up()\nstate = {'total': 0}",
    """
for epoch in city.loop(range(6), state, every=1):
    state["total"] += utils.step
    city.log(total=state["total"])
    if epoch == 2 and not os.path.exists("died"):
        open("died", "w").close()
        open("utils.py", "w").write(open("edited.txt").read())
        os.kill(os.getpid(), 9)
print("total", state["total"])
""",
]


@pytest.fixture
def project(tmp_path: Path) -> UserProject:
    project = UserProject(tmp_path / "mine")
    project.write("train.py", SCRIPT)
    project.write("utils.py", "step = 1\n")
    install(project, "1.0")
    return project


def install(project: UserProject, version: str) -> None:
    """The package in another version, as pip would."""
    for metadata in project.folder.glob("lib/*.dist-info"):
        (metadata / "METADATA").unlink()
        metadata.rmdir()
    project.write("lib/fakepack/__init__.py", f"version = '{version}'\n")
    project.write(f"lib/fakepack-{version}.dist-info/METADATA", f"Name: fakepack\nVersion: {version}\n")


def test_nothing_changed_and_nothing_is_said(project: UserProject) -> None:
    code, text = project.run("train.py", DIE="2")
    assert code == -9, text
    project.write("train.py", "import json.tool, utils\n" + SCRIPT)  # another order of imports
    code, text = project.run("train.py")
    assert code == 0, text
    assert "total 6" in text
    assert "qcity:" not in text
    assert not project.events("changed")
    first, second = project.events("environment")
    assert first.data["files"].keys() == second.data["files"].keys() == {"utils.py"}


def test_an_edited_file_and_another_package_are_named_once_each(project: UserProject) -> None:
    assert project.run("train.py", DIE="2")[0] == -9
    project.write("utils.py", "step = 10\n")
    install(project, "2.0")
    code, text = project.run("train.py", DIE="4")
    assert code == -9
    assert text.count("utils.py was edited") == 1
    assert text.count("fakepack 1.0 → 2.0") == 1, "it was imported inside the loop"
    code, text = project.run("train.py")
    assert code == 0, text
    assert "qcity:" not in text, "the third attempt works as the second did"
    edited, updated = project.events("changed")
    assert (edited.data["what"], edited.data["step"]) == ("environment", 2)
    assert "fakepack" in updated.data["message"]
    code, text = project.qcity("show", "train")
    assert "utils.py was edited" in text


@pytest.mark.parametrize("where", ["argument", "environment", "project"])
def test_a_strict_run_refuses_and_can_be_resumed(project: UserProject, where: str) -> None:
    assert project.run("train.py", DIE="2")[0] == -9
    project.write("utils.py", "step = 10\n")
    environ = {"QCITY_STRICT_ENVIRONMENT": "1"} if where == "environment" else {}
    if where == "argument":
        project.write("train.py", SCRIPT.replace('run="train"', 'run="train", strict_environment=True'))
    if where == "project":
        project.write("pyproject.toml", (project.folder / "pyproject.toml").read_text() + "strict_environment = true\n")
    code, text = project.run("train.py", **environ)
    assert code == 1
    assert "Changed: the environment is not that of the checkpoint: utils.py was edited" in text
    assert "total" not in text.splitlines()[-1]
    assert [head.state for head in project.heads()] == ["stopped"]
    project.write("utils.py", "step = 1\n")
    code, text = project.run("train.py", **environ)
    assert code == 0, text
    assert "total 6" in text, "as if nothing had been"


@pytest.mark.kernel
def test_under_the_engine_it_is_in_the_notebook_and_the_journal(project: UserProject) -> None:
    project.notebook("train.ipynb", NOTEBOOK)
    project.write("edited.txt", "step = 10\n")
    code, text = project.qcity("run", "train.ipynb")
    assert code == 0, text
    assert "utils.py was edited" in project.shown()
    (change,) = project.events("changed")
    assert change.data["what"] == "environment"
    assert 0 < change.data["step"] <= 2


@pytest.mark.kernel
def test_under_the_engine_a_strict_run_stops_and_resumes(project: UserProject) -> None:
    project.notebook("train.ipynb", NOTEBOOK)
    project.write("edited.txt", "step = 10\n")
    code, text = project.qcity("run", "train.ipynb", QCITY_STRICT_ENVIRONMENT="true")
    assert code == 4, text
    assert "utils.py was edited" in text
    (head,) = project.heads()
    assert head.state == "stopped"
    project.write("utils.py", "step = 1\n")
    code, text = project.qcity("run", "train.ipynb", QCITY_STRICT_ENVIRONMENT="true")
    assert code == 0, text
    assert "total 6" in project.shown()
