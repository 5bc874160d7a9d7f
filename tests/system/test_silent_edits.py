"""Notebooks and scripts that are edited between two attempts, as users write and run them."""

from __future__ import annotations

import json
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
    print(n, file=open("ran", "a"))
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
def test_an_edited_learning_rate_is_named_before_anything_runs_and_in_the_notebook(project: UserProject) -> None:
    begin(project, NOTEBOOK)
    shown = resume(project, edited(1, "0.5", "0.25"))
    assert "the loop in cell 5 was edited: lr = 0.5 → lr = 0.25;" in shown
    (text,) = changes(project)
    assert "lr = 0.5 → lr = 0.25; the new code runs from step 3 on" in text
    assert 'city.loop(…, changed="restart")' in text
    assert f"qcity: {text}" in project.shown()
    assert "w 6.25" in project.shown()


@pytest.mark.kernel
def test_an_edit_that_does_not_count_says_nothing(project: UserProject) -> None:
    begin(project, NOTEBOOK)
    cells = edited(2, "How far it is.", "The distance.")
    cells[1] = "# slower\nlr = .5"
    cells[4] = cells[4].replace("every=1", "every=2").replace('print("w"', 'print("the w"')
    shown = resume(project, cells)
    assert "was edited" not in shown
    assert changes(project) == []
    assert "w 7.0" in project.shown()


@pytest.mark.kernel
def test_a_finished_loop_is_not_rerun_unless_the_user_says_so(project: UserProject) -> None:
    begin(project, NOTEBOOK)
    cells = edited(3, "+= 2", "+= 3")
    resume(project, cells)
    texts = changes(project)
    assert any("its body; it is finished and is not re-run" in text for text in texts), texts
    assert "w 7.0" in project.shown(), "the first loop's old result"
    assert (project.folder / "ran").read_text().split() == list("012345")


@pytest.mark.kernel
def test_restart_begins_a_finished_loop_anew(project: UserProject) -> None:
    begin(project, NOTEBOOK)
    cells = edited(3, "+= 2", "+= 3")
    cells[3] = cells[3].replace("every=1", 'every=1, changed="restart"')
    cells[4] = cells[4].replace("every=1", 'every=1, changed="restart"')
    cells[1] = "lr = 0.25"
    resume(project, cells)
    texts = changes(project)
    assert any("its body; it begins anew" in text for text in texts), texts
    assert any("lr = 0.5 → lr = 0.25; it begins anew" in text for text in texts), texts
    assert "w 7.5" in project.shown()


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("edit", "minor"), [(False, 4), (False, 5), (True, 4)], ids=["as it was", "new ids at each reading", "and edited"]
)
def test_a_notebook_whose_cells_lost_their_ids(project: UserProject, edit: bool, minor: int) -> None:
    begin(project, NOTEBOOK)
    cells = edited(4, "+= lr", "+= 2 * lr") if edit else ["# a comment\n" + cell for cell in NOTEBOOK]
    project.notebook("train.ipynb", cells)
    document = json.loads((project.folder / "train.ipynb").read_text())
    for cell in document["cells"]:
        del cell["id"]
    project.write("train.ipynb", json.dumps({**document, "nbformat_minor": minor}))
    code, shown = project.qcity("run", "train.ipynb")
    assert code == 0, shown
    texts = changes(project)
    if edit:
        assert any("has no cell any more: its rows up to step 3 come from" in text for text in texts), texts
        assert "w 10.0" in project.shown(), "it began anew, and says so"
    else:
        assert texts == [], "nothing is lost"
        assert (project.folder / "ran").read_text().split() == list("012345"), "it continued"
        assert "w 7.0" in project.shown()


@pytest.mark.parametrize(
    ("old", "new", "phrase"),
    [("lr = 0.5", "lr = 0.25", "lr = 0.5 → lr = 0.25"), ("+= rate", "+= 2 * rate", "its body")],
)
def test_an_edited_script(project: UserProject, old: str, new: str, phrase: str) -> None:
    project.write("train.py", SCRIPT)
    assert project.run("train.py", DIE="3")[0] == -9
    project.write("train.py", SCRIPT.replace(old, new))
    code, shown = project.run("train.py")
    assert code == 0, shown
    assert f"was edited since it was saved: {phrase}; the new code runs from step 3 on" in shown
    (event,) = project.events("changed")
    assert event.data["what"] == "notebook"
    (head,) = project.heads()
    assert head.state == "succeeded"


def test_an_edited_script_begins_anew_once(project: UserProject) -> None:
    project.write("train.py", SCRIPT)
    assert project.run("train.py", DIE="3")[0] == -9
    project.write("train.py", SCRIPT.replace("lr = 0.5", "lr = 0.25").replace("every=1", 'every=1, changed="restart"'))
    assert project.run("train.py", DIE="2")[0] == -9
    code, shown = project.run("train.py")
    assert code == 0, shown
    assert "w 1.5" in shown, "the third attempt continued"


def test_a_script_with_other_comments_says_nothing(project: UserProject) -> None:
    project.write("train.py", SCRIPT)
    assert project.run("train.py", DIE="3")[0] == -9
    project.write("train.py", SCRIPT.replace("lr = 0.5", "# the rate\nlr: float = 5e-1") + "print('the end')\n")
    code, shown = project.run("train.py")
    assert code == 0, shown
    assert "qcity:" not in shown
    assert "w 3.0" in shown
