"""Items that change between two attempts, repeated loops, and names of metrics, as users write them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from silent_world import UserProject

pytestmark = [pytest.mark.kill, pytest.mark.timeout(180)]

SCRIPT = """
import os
from pathlib import Path
import qcity_nb as qcity

city = qcity.up(run="files")
files = Path("files.txt").read_text().split()
state = {"done": []}
changed = os.environ.get("CHANGED")
for file in city.loop(files, state, every=1, name="files", changed=changed):
    if os.environ.get("DIE") == str(len(state["done"])):
        os.kill(os.getpid(), 9)
    state["done"].append(file)
    city.log(**{"size@1": len(file)})
print("done", *state["done"])
city.finish()
"""

# Under the engine the second attempt is another process of the same `qcity run`.
NOTEBOOK = [
    "import os\nimport qcity_nb as qcity\ncity = qcity.up()\nstate = {'done': []}",
    """
files = open("files.txt").read().split()
for file in city.loop(files, state, every=1, name="files", changed=os.environ.get("CHANGED")):
    if file == "c" and not os.path.exists("died"):
        open("died", "w").close()
        open("files.txt", "w").write("a x c d")
        os.kill(os.getpid(), 9)
    state["done"].append(file)
print("done", *state["done"])
""",
]

FOLDS = """
import os
import qcity_nb as qcity

city = qcity.up(run="folds", tracking="jsonl://" + os.path.abspath("metrics"))

def train(fold, state):
    for epoch in city.loop(range(3), state, every=1):
        if os.environ.get("DIE") == f"{fold}{epoch}":
            os.kill(os.getpid(), 9)
        state["loss"] = state.get("loss", 1.0) / 2
        city.log(loss=state["loss"])

for fold in range(3):
    train(fold, {})
city.finish()
"""


@pytest.fixture
def project(tmp_path: Path) -> UserProject:
    project = UserProject(tmp_path / "mine")
    project.write("files.py", SCRIPT)
    project.write("files.txt", "a b c d")
    return project


def test_a_changed_list_stops_until_the_user_has_decided(project: UserProject) -> None:
    assert project.run("files.py", DIE="2")[0] == -9
    project.write("files.txt", "a x c d")
    code, text = project.run("files.py")
    assert code != 0
    assert "Changed: item 1 of city.loop 'files' is done, and is another one now" in text
    (head,) = project.heads()
    assert head.state == "running", "it can be resumed"
    code, text = project.run("files.py", CHANGED="resume")
    assert code == 0, text
    assert "done a b c d" in text
    (change,) = project.events("changed")
    assert change.data["what"] == "items"


def test_a_changed_list_begins_anew_once_if_the_user_says_so(project: UserProject) -> None:
    assert project.run("files.py", DIE="2")[0] == -9
    project.write("files.txt", "a x c d")
    assert project.run("files.py", DIE="3", CHANGED="restart")[0] == -9
    code, text = project.run("files.py", CHANGED="restart")
    assert code == 0, text
    assert "done a x c d" in text
    assert len(project.events("changed")) == 1, "the third attempt continued"


def test_undisturbed_and_killed_with_the_same_list_is_the_same(project: UserProject) -> None:
    assert project.run("files.py", DIE="2")[0] == -9
    code, text = project.run("files.py")
    assert code == 0, text
    assert "done a b c d" in text
    assert "qcity:" not in text
    assert not project.events("changed")


@pytest.mark.kernel
def test_under_the_engine_the_run_is_stopped_and_can_be_resumed(project: UserProject) -> None:
    project.notebook("files.ipynb", NOTEBOOK)
    code, text = project.qcity("run", "files.ipynb")
    assert code == 4, text
    assert "item 1 of city.loop 'files' is done, and is another one now" in text
    assert 'changed="resume"' in text
    (head,) = project.heads()
    assert head.state == "stopped"
    assert head.term == 2, "no keeper launched it again and again"
    code, text = project.qcity("run", "files.ipynb", CHANGED="resume")
    assert code == 0, text
    assert "done a b c d" in project.shown()


def test_folds_draw_one_curve_and_a_kill_changes_nothing(project: UserProject) -> None:
    project.write("folds.py", FOLDS)
    assert project.run("folds.py", DIE="11")[0] == -9
    code, text = project.run("folds.py")
    assert code == 0, text
    (file,) = project.folder.glob("metrics/*/*/metrics.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert sorted(row["step"] for row in rows) == list(range(9)), rows
    assert [row["value"] for row in sorted(rows, key=lambda row: row["step"])] == [0.5, 0.25, 0.125] * 3
