"""The code of loops as a kernel reads it: from the frames of their calls, and what was executed before."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from qcity_nb.cells.loop_sources import differences, loops_in
from qcity_nb.kernel.changes.loop_code import LoopCodeReader

CELLS = [
    "lr = 0.1\ncount = 3",
    "def step(w):\n    return w - lr",
    "%%time\nw = 0\nfor n in city.loop(range(count), {'w': w}):\n    w = step(w)",
    "def train(rate, epochs=2):\n    half = rate / 2\n    for n in city.loop(range(epochs), {}):\n        half",
    "train(lr)",
    "for fold in range(2):\n    rate = lr * fold\n    for n in city.loop(range(2), {}):\n        use = rate",
    "[step(n) for n in city.loop([1, 2], {})]",
    "it = city.loop(range(2), {})\nfor n in it:\n    step(n)",
    "class Trainer:\n    def __init__(self, lr):\n        self.lr = lr\n"
    "    def fit(self, count):\n        for n in city.loop(range(count), {}):\n            self.lr",
    "Trainer(lr).fit(2)",
    "!echo an aside\nfor n in city.loop(range(2), {}):\n    step(n) + lr",
]

PROGRAM = """
import contextlib, io, json, sys
from IPython.core.interactiveshell import InteractiveShell
from qcity_nb.kernel.changes.loop_code import LoopCodeReader
reader, records = LoopCodeReader(), []
class City:
    def loop(self, items, state, **options):
        records.append(reader.read(sys._getframe(1)))
        return iter(items)
shell = InteractiveShell.instance()
shell.user_ns["city"] = City()
with contextlib.redirect_stdout(io.StringIO()):
    cells, reader.notebook = json.load(sys.stdin)
    for cell_id, source in cells:
        reader.begin_cell(shell, cell_id, is_running=False)
        assert shell.run_cell(source, store_history=True).success, source
print(json.dumps(records))
"""


def execute(tmp_path: Path, cells: list[tuple[str, str]], notebook: Sequence[str] = ()) -> list[dict[str, object]]:
    """The records of the loops that begin while these cells are executed in IPython."""
    pytest.importorskip("IPython")
    environ = {"PYTHONPATH": str(Path(__file__).parents[4]), "IPYTHONDIR": str(tmp_path), "PATH": "/bin:/usr/bin"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([cells, notebook]),
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    records: list[dict[str, object]] = json.loads(done.stdout.splitlines()[-1])
    return records


def test_a_kernel_reads_what_the_notebook_says(tmp_path: Path) -> None:
    records = execute(tmp_path, [(f"c{n}", cell) for n, cell in enumerate(CELLS)])
    assert all(records), "each loop was found in its source"
    static = loops_in(CELLS)
    assert len(static) == 7
    for record in records:
        assert any(not differences(code, record) for code in static), record


def test_only_the_newest_source_of_a_cell_counts(tmp_path: Path) -> None:
    loop = "for n in city.loop(range(1), {}):\n    use = cfg"
    cells = [("a", "cfg = {}"), ("b", "cfg['x'] = 1"), ("c", loop)]
    again = [("b", "cfg['x'] = 2"), ("b", "cfg['x'] = 1"), ("d", "print(cfg)"), ("c", loop)]
    first, last = execute(tmp_path, [*cells, *again])
    assert differences(first, last) == []
    first, last = execute(tmp_path, [*cells, ("b", "cfg['x'] = 2"), ("c", loop)])
    assert differences(first, last) == ["cfg"]


def test_where_the_notebook_is_known_it_counts_and_not_what_was_executed(tmp_path: Path) -> None:
    loop = "!true\nfor n in city.loop(range(1), {}):\n    use = lr"
    cells = [("s", "scratch = lr = 7"), ("c", loop)]
    (code,) = execute(tmp_path, cells, ["!ls\nlr = 0.1", loop])
    assert differences(loops_in(["lr = 0.1", loop])[0], code) == []
    (code,) = execute(tmp_path, cells)
    assert differences(loops_in(["lr = 0.1", loop])[0], code) == ["lr = 0.1 → lr = 7"]


def test_without_a_source_nothing_is_known() -> None:
    records = []

    class City:
        def loop(self, items: object) -> list[int]:
            records.append(LoopCodeReader().read(sys._getframe(1)))
            return []

    exec("for n in city.loop(range(3)):\n    pass", {"city": City()})
    assert records == [{}]
    assert LoopCodeReader().read(None) == {}
