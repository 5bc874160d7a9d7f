"""Loops that forget something in their state, as new users write them: killed, they end as undisturbed, or it was said.

Said before the death, once, by name and with the line to write; with ``strict_state`` the run stops there instead.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from optional import HAS_TORCH
from silent_world import UserProject

pytestmark = [pytest.mark.kill, pytest.mark.timeout(180)]

HEAD = """
import os
import numpy as np
import qcity_nb as qcity

city = qcity.up(run="train")
"""

TAIL = """
    if os.environ.get("DIE") == str(epoch):
        os.kill(os.getpid(), 9)
print("result", {result})
city.finish()
"""

TORCH = """
import torch
torch.manual_seed(0)
x, y = torch.randn(64, 8), torch.randn(64, 1)
model = torch.nn.Linear(8, 1)
optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
for epoch in city.loop(range(8), state={state}, every=1):
    optimizer.zero_grad()
    loss = ((model(x) - y) ** 2).mean()
    loss.backward()
    optimizer.step()
"""

SCRIPTS = {
    "rebound": (
        """
w = np.zeros(3)
for epoch in city.loop(range(8), state={"w": w}, every=1):
    w = w + epoch
""",
        "w.tolist()",
        ("w", "w[...] = … in place of w = …"),
    ),
    "in place": (
        """
w = np.zeros(3)
for epoch in city.loop(range(8), state={"w": w}, every=1):
    w += epoch
""",
        "w.tolist()",
        None,
    ),
    "state bound again": (
        """
state = {"total": 0, "seen": ()}
for epoch in city.loop(range(8), state=state, every=1):
    state = {"total": state["total"] + epoch, "seen": (*state["seen"], epoch)}
""",
        "state",
        ("state", "state.update(…) in place of state = …"),
    ),
    "history": (
        """
w, history = np.zeros(3), []
for epoch in city.loop(range(8), state={"w": w}, every=1):
    w += epoch
    history.append(w.sum())
""",
        "sum(history)",
        ("history", 'state={"w": w, "history": history}'),
    ),
    "best": (
        """
w, best = np.zeros(3), 100.0
for epoch in city.loop(range(8), state={"w": w}, every=1):
    w += epoch - 2.5
    best = min(best, w.sum())
""",
        "best",
        ("best", 'state["best"] in place of best'),
    ),
    "optimizer": (
        TORCH.format(state='{"model": model}'),
        "model.weight.tolist()",
        ("optimizer", 'state={"model": model, "optimizer": optimizer}'),
    ),
    "model and optimizer": (
        TORCH.format(state='{"model": model, "optimizer": optimizer}'),
        "model.weight.tolist()",
        None,
    ),
}
ALWAYS = ("rebound",)

# Three loops that forget something. In each the kernel dies once.
NOTEBOOK = [
    "import os\nimport numpy as np\nimport qcity_nb as qcity\ncity = qcity.up()\nw, best, history = np.zeros(3), 0, []",
    """
def die(name, epoch):
    if epoch == 4 and not os.path.exists(name):
        open(name, "w").close()
        os.kill(os.getpid(), 9)
""",
    """
for epoch in city.loop(range(6), state={"w": w}, every=1):
    w = w + 1
    die("first", epoch)
print("w", w.tolist())
""",
    """
for epoch in city.loop(range(6), state={"history": history}, every=1):
    best = max(best, epoch % 3)
    history.append(best)
    die("second", epoch)
print("best", best)
""",
]


def result(text: str) -> str:
    (line,) = re.findall(r"^result (.+)$", text, re.MULTILINE)
    return str(line)


def write(project: UserProject, name: str, *, more: str = "") -> tuple[str, str] | None:
    source, value, expected = SCRIPTS[name]
    if "torch" in source and not HAS_TORCH:
        pytest.skip("needs torch: pip install torch==2.13.0")
    project.write("train.py", HEAD + source.replace("every=1", "every=1" + more) + TAIL.format(result=value))
    return expected


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.nightly) for name in SCRIPTS]
)
def test_a_killed_script_ends_as_undisturbed_or_it_was_said_before(name: str, tmp_path: Path) -> None:
    whole, killed = UserProject(tmp_path / "whole"), UserProject(tmp_path / "killed")
    write(whole, name)
    expected = write(killed, name)
    code, undisturbed = whole.run("train.py")
    assert code == 0, undisturbed
    code, first = killed.run("train.py", DIE="4")
    assert code == -9, first
    code, second = killed.run("train.py")
    assert code == 0, second
    assert "qcity:" not in second, "it is not said again"
    if expected is None:
        assert "qcity:" not in first + undisturbed
        assert result(second) == result(undisturbed)
        return
    variable, line = expected
    assert result(second) != result(undisturbed)
    (said,) = [each for each in first.splitlines() if each.startswith("qcity:")]
    assert f"`{variable}` is" in said
    assert line in said
    (change,) = killed.events("changed")
    assert change.data["what"] == "state"
    assert f"`{variable}`" in killed.qcity("show", "train")[1]


@pytest.mark.parametrize("where", ["argument", "up", "environment", "project"])
def test_a_strict_loop_raises_at_its_first_boundary(tmp_path: Path, where: str) -> None:
    project = UserProject(tmp_path / "mine")
    write(project, "rebound", more=", strict_state=True" if where == "argument" else "")
    script = (project.folder / "train.py").read_text()
    if where == "up":
        project.write("train.py", script.replace('run="train"', 'run="train", strict_state=True'))
    if where == "project":
        project.write("pyproject.toml", (project.folder / "pyproject.toml").read_text() + "strict_state = true\n")
    code, text = project.run("train.py", **({"QCITY_STRICT_STATE": "1"} if where == "environment" else {}))
    assert code == 1
    assert re.search(r"StateRefused: city\.loop .*`w` is bound anew", text)
    assert "result" not in text


@pytest.mark.kernel
def test_a_notebook_says_it_before_each_death_and_once(tmp_path: Path) -> None:
    project = UserProject(tmp_path / "mine")
    project.notebook("train.ipynb", NOTEBOOK)
    code, text = project.qcity("run", "train.ipynb")
    assert code == 0, text
    shown = project.shown()
    assert "w [6.0, 6.0, 6.0]" not in shown, "killed, it ends otherwise"
    assert shown.count("`w` is bound anew") == 1
    assert 'state["best"] in place of best' in shown
    assert [(each.data["what"], each.term) for each in project.events("changed")] == [("state", 1), ("state", 2)]


@pytest.mark.kernel
def test_under_the_engine_a_strict_run_stops_and_resumes_once_it_is_mended(tmp_path: Path) -> None:
    project = UserProject(tmp_path / "mine")
    strict = {"QCITY_STRICT_STATE": "true"}
    project.notebook("train.ipynb", NOTEBOOK)
    code, text = project.qcity("run", "train.ipynb", **strict)
    assert code == 4, text
    assert "`w` is bound anew" in text
    (head,) = project.heads()
    assert (head.state, head.term) == ("stopped", 1), "no keeper launches it again"
    right = [cell.replace("w = w + 1", "w += 1") for cell in NOTEBOOK[:3]]
    project.notebook("train.ipynb", right)
    code, text = project.qcity("run", "train.ipynb", **strict)
    assert code == 0, text
    assert "w [6.0, 6.0, 6.0]" in project.shown()
