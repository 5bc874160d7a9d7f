"""The benchmarks run, parse and report: a smoke, which says nothing of how large the numbers are."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tiers import nightly_but

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"

pytestmark = pytest.mark.kill


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


FAKE = """
import sys, tempfile
from pathlib import Path
sys.path.insert(0, {folder!r})
import numpy as np
import checkpoint_engines, checkpoint_turn

class Fake(checkpoint_engines.Engine):
    kept = {{}}
    def copied(self, arrays):
        return {{name: array.copy() for name, array in arrays.items()}}
    def save(self, state):
        Fake.kept = self.copied(state.arrays()) if {fault!r} != "copies late" else state.arrays()
    def wait(self):
        pass
    def tidy(self):
        Fake.kept = self.copied(Fake.kept)
    def restore(self, state):
        for name, array in state.arrays().items():
            if {fault!r} != "restores nothing":
                np.copyto(array, Fake.kept[name])

checkpoint_engines.ENGINES["fake"] = ("fake", Fake)
spec = dict(engine="fake", kind="tensors", size=8_000_000, share=0.05, saves=1, records=1, prove=True)
with tempfile.TemporaryDirectory() as folder:
    checkpoint_turn.saved(spec, Path(folder))
"""


@pytest.mark.parametrize("fault", nightly_but(["copies late"], ["", "copies late", "restores nothing"]))
def test_an_engine_that_saves_something_else_is_refused(fault: str) -> None:
    code = FAKE.format(folder=str(FOLDER), fault=fault)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, "restored something else" in done.stderr) == (bool(fault), bool(fault)), done.stderr


@pytest.mark.parametrize("name", nightly_but(["import_time"], ["import_time", "up", "log_call", "hub", "checkpoint"]))
@pytest.mark.timeout(300)
def test_a_smoke_gives_numbers(name: str, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--quick", "--json", str(file)]
    # Each of the fourteen turns of the checkpoint engines is a process that imports torch, some jax too.
    done = subprocess.run(command, capture_output=True, text=True, timeout=280 if name == "checkpoint" else 110)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(file.read_text(encoding="utf-8"))
    assert report["budgets"]
    assert report["numbers"]
    measured = [*report["numbers"].values(), *(budget["measured"] for budget in report["budgets"])]
    assert all(math.isfinite(value) and value > 0 for value in measured), report
    assert all(len(row) == len(report["columns"]) for row in report["rows"])
    assert f"### {report['title']}" in done.stdout


def test_every_benchmark_is_run_and_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    run_all = load("run_all", monkeypatch)
    parts = {"measure", "run_all", "checkpoint_turn", "checkpoint_engines", "checkpoint_states", "namespace_turn"}
    parts.add("versions")  # beside an earlier commit, which only a person can name
    scripts = {file.stem for file in FOLDER.glob("*.py")} - parts
    assert set(run_all.NAMES) == scripts
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}.py`" in page for name in scripts)
    section = "measured\n"
    changed = run_all.rewrite(page, section)
    assert "\nmeasured\n" in changed
    assert changed.count(run_all.BEGIN) == changed.count(run_all.END) == 1
    assert run_all.rewrite(changed, section) == changed
    with pytest.raises(AssertionError, match="markers"):
        run_all.rewrite("no markers", section)


def test_statistics_are_taken_pair_by_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    measure = load("measure", monkeypatch)
    order: list[str] = []

    def contestant(name: str, value: float) -> float:
        order.append(name)
        return value

    samples = measure.interleave({"a": lambda: contestant("a", 1.0), "b": lambda: contestant("b", 2.0)}, rounds=2)
    assert order == ["a", "b", "b", "a", "a", "b"], "in turning order, after a round that does not count"
    assert samples == {"a": [1.0, 1.0], "b": [2.0, 2.0]}
    ratio = measure.pairwise([1.0, 9.0, 4.0], [2.0, 3.0, 4.0])
    assert (ratio.median, ratio.low, ratio.high, ratio.n) == (1.0, 0.5, 3.0, 3)


def test_a_missed_budget_says_by_how_much_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    measure = load("measure", monkeypatch)
    missed = measure.Budget(what="up", limit=0.5, measured=1.0, unit="s", why="A slow disk.")
    assert not missed.is_met
    assert "missed 2 times over**. A slow disk." in missed.text()
    floor = measure.Budget(what="drain", limit=3000.0, measured=1000.0, unit="rows/s", at_least=True)
    assert not floor.is_met
    assert "missed 3 times over" in floor.text()
    assert measure.Budget(what="lost", limit=0, measured=0, unit="rows").is_met
    assert "**missed**" in measure.Budget(what="lost", limit=0, measured=3, unit="rows").text()


def test_one_benchmark_rewrites_its_own_section_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    run_all = load("run_all", monkeypatch)
    measure = sys.modules["measure"]

    def report(title: str, value: float) -> Any:
        budget = measure.Budget(what=f"budget of {title}", limit=1.0, measured=value, unit="s")
        return measure.Report(name=title, title=title, columns=("a",), rows=[(f"{value} s",)], budgets=[budget])

    page = run_all.rewrite(
        f"# Head\n\n{run_all.BEGIN}\nold\n{run_all.END}\n\ntail\n",
        run_all.results([report("One", 0.5), report("Two", 0.6)], load=0.1),
    )
    once = run_all.replaced(page, report("Two", 2.0), "Measured later.")
    assert "| 0.6 s |" not in once
    assert once.count("### Two\n\nMeasured later.\n") == once.count("### One\n") == 1
    rows = [line for line in once.splitlines() if line.startswith("| budget of")]
    assert rows == ["| budget of One | 0.5 s | ≤ 1 s | met |", "| budget of Two | 2 s | ≤ 1 s | **missed** |"]
    assert run_all.replaced(once, report("Two", 2.0), "Measured later.") == once
    third = run_all.replaced(once, report("Three", 0.1), "Measured later.")
    assert [line for line in third.splitlines() if line.startswith("| budget of")][:2] == rows
    assert third.index("### Two") < third.index("### Three") < third.index("tail")
    assert third.startswith("# Head\n\n")
