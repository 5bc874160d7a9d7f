"""What cells show: after two killed kernels the executed notebook shows what an uninterrupted run's shows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from qcity_nb.kernel.panel import is_panel

pytestmark = [pytest.mark.kernel, pytest.mark.kill, pytest.mark.timeout(240)]

SETUP = """
import os, signal, sys
from pathlib import Path
import qcity_nb as qcity
from IPython.display import HTML, clear_output, display
city = qcity.up()
city.panel()

def die(place):
    "Kills this kernel when the run comes here for the first time."
    mark = Path("deaths", place)
    if mark.parent.exists() and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
"""

STREAMS = """
print("before")
handle = display("waiting", display_id=True)
for n in city.loop(range(5), None, every=1):
    print("epoch", n)
    print("warning", n, file=sys.stderr)
    display(HTML(f"<b>{n}</b>"))
    handle.update(f"at {n}" if n < 2 else "past one")
    if n == 1:
        inside = display("inside", display_id="fixed")
    if n == 3:
        display("inside, changed", display_id="fixed", update=True)
print("after")
"""

NESTED = """
for outer in city.loop(range(3), None, every=1):
    print("outer", outer)
    later = display(f"outer {outer}", display_id=True)
    for which in "ab":
        for inner in city.loop(range(3), None, every=1):
            print(which, inner, end="; ")
            later.update(f"outer {outer}: {which}{inner}")
            if (outer, which, inner) == (1, "b", 1):
                die("nested")
    print("end of", outer)
"""

CLEAR = """
print("cleared away")
for n in city.loop(range(6), None, every=1):
    if n % 2 == 0:
        clear_output(wait=True)
        display(HTML(f"<i>{n}</i>"))
    print("line", n)
"""

FIGURE = """
%matplotlib inline
import matplotlib.pyplot as plt
from tqdm import tqdm
for n in city.loop(range(3), None, every=1):
    plt.figure(figsize=(1, 1), dpi=30)
    plt.plot([0, n])
    plt.show()
    for _ in tqdm(range(2), mininterval=1e9, maxinterval=1e9, bar_format="{desc}{n}/{total}", desc=f"epoch {n} "):
        pass
    if n == 2:
        die("figure")
"""

EMPTY: dict[str, Any] = {"execution_count": None, "outputs": []}


def write(path: Path) -> None:
    cells: list[dict[str, Any]] = [
        {
            "cell_type": "code",
            "id": f"c{n}",
            "source": text.strip(),
            "execution_count": None,
            "metadata": {},
            "outputs": [],
        }
        for n, text in enumerate([SETUP, STREAMS, NESTED, CLEAR, FIGURE])
    ]
    notebook: Any = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}
    notebook["metadata"]["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.from_dict(notebook), path)


def attempt(folder: Path) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("QCITY_")}
    path = os.pathsep.join([str(root), environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "papermill", "--engine", "qcity", "in.ipynb", "out.ipynb", "--no-progress-bar"],
        cwd=folder,
        env={**environ, "PYTHONPATH": path, "IPYTHONDIR": str(folder / "ipython"), "MPLBACKEND": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def shown(folder: Path) -> list[list[dict[str, Any]]]:
    """The outputs of each cell, the panel's aside."""
    notebook: Any = nbformat.read(folder / "out.ipynb", as_version=4)
    return [[dict(output) for output in cell.outputs if not is_panel(output)] for cell in notebook.cells]


def make(folder: Path) -> Path:
    folder.mkdir()
    write(folder / "in.ipynb")
    (folder / "pyproject.toml").write_text('[tool.qcity]\nproject = "outputs"\ntracking = ""\n')
    return folder


@pytest.mark.each_python
def test_a_killed_notebook_shows_what_an_uninterrupted_one_shows(tmp_path: Path) -> None:
    calm, stormy = make(tmp_path / "calm"), make(tmp_path / "stormy")
    (stormy / "deaths").mkdir()
    done = attempt(calm)
    assert done.returncode == 0, done.stderr
    deaths = 0
    while (done := attempt(stormy)).returncode != 0:
        deaths += 1
        assert deaths <= 2, done.stderr
        assert len(list((stormy / "deaths").iterdir())) == deaths, done.stderr
    assert deaths == 2
    expected, actual = shown(calm), shown(stormy)
    assert [len(outputs) for outputs in expected[1:]] == [len(outputs) for outputs in actual[1:]]
    for number, (first, other) in enumerate(zip(expected, actual, strict=True)):
        assert other == first, f"cell {number}"
    assert any("image/png" in output.get("data", {}) for output in expected[4])
    assert "cleared away" not in str(expected[3])
    assert "past one" in str(expected[1])
