"""Resuming at the cell where it died: what runs, what is skipped, what is restored, and what the messages say."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
from resume_world import DIED, Cell, ResumeWorld

pytestmark = [pytest.mark.kernel, pytest.mark.kill, pytest.mark.timeout(240)]


@pytest.fixture
def world(tmp_path: Path) -> ResumeWorld:
    return ResumeWorld(tmp_path / "p")


@pytest.mark.each_python
def test_finished_cells_are_skipped_and_show_what_they_showed(world: ResumeWorld) -> None:
    world.write(
        "import numpy as np\nrng = np.random.default_rng(3)\na = np.arange(6.0)\nhalf = a[:3]\nprint(rng.random())",
        "from IPython.display import HTML, display\nhandle = display(HTML('<b>one</b>'), display_id='x')\na.sum()",
        "def total():\n    return float(a.sum() + shift)\nshift = 1\nimport sys; print('to stderr', file=sys.stderr)",
        "half += 10\nhandle.update(HTML('<b>two</b>'))\ndie('here')\nprint(rng.random(), total())",
        "shift = 100\nprint(total(), np.shares_memory(half, a), np.random.random() < 1)\nIn[-2].count('die')",
    )
    world.attempt(code=DIED)
    world.attempt()
    died = world.shown()
    assert world.ran() == [1, 1, 1, 1, 2, 1]
    assert world.counts() == [1, 2, 3, 4, 5, 6]
    assert [event.data["skipped"] for event in world.events("cells")] == [4]

    calm = ResumeWorld(world.folder.parent / "calm")
    calm.write(*[cell.source.partition("\n")[2] for cell in world.book.cells[1:]])
    (calm.folder / "deaths/here").touch()
    calm.attempt()
    assert died[:-1] == calm.shown()[:-1], "the last cell asks for the history, which a new kernel does not have"
    assert died[-1][0] == calm.shown()[-1][0]
    statuses = [cell.metadata.papermill["status"] for cell in world.book.cells]
    assert statuses == ["completed"] * 6


def test_an_edited_cell_runs_again_with_all_that_follow_and_nothing_before(world: ResumeWorld) -> None:
    world.write(
        "x = [1]", "x.append(2)\nprint(x)", "x.append(3)\ny = 'left over'", "die('here')\nprint(x, 'y' in dir())"
    )
    world.attempt(code=DIED)
    path = world.folder / "in.ipynb"
    book = nbformat.read(path, as_version=4)
    book.cells[3].source = book.cells[3].source.replace("append(3)\ny = 'left over'", "append(4)")
    nbformat.write(book, path)
    world.attempt()
    assert world.ran() == [1, 1, 1, 2, 2]
    assert world.shown()[2:] == [["[1, 2]\n"], [], ["[1, 2, 4] False\n"]], "x is what it was before the edited cell"


@pytest.mark.each_python
def test_a_cell_that_failed_runs_again_and_those_before_do_not(world: ResumeWorld) -> None:
    world.write("data = 'dear'", "print(data)\nassert Path('mended').exists()", "print('on')")
    world.attempt(code=1)
    assert world.shown()[2] == ["dear\n", "AssertionError: "]
    (world.folder / "mended").touch()
    head = world.head
    assert head.state == "running", "the failure may be the host's: the next attempt tells"
    assert head.checkpoint is not None
    assert head.checkpoint.cells == 2
    world.attempt()
    assert world.ran() == [1, 1, 2, 1]


def test_a_failure_that_comes_again_is_known_for_the_same_though_cells_were_skipped(world: ResumeWorld) -> None:
    """Passing over is no progress: else a run that cannot get on would be tried for ever."""
    world.write("g = (n for n in range(3))\nnext(g)", "x = 1", "next(g)\nraise ValueError('always')")
    world.attempt(code=1)
    world.attempt(code=1)
    head = world.head
    assert head.failure is not None
    assert head.failure.times == 2, "no checkpoint came between"
    assert world.ran() == [1, 2, 2, 2], "the generator was re-created, and all cells since were re-run"


@pytest.mark.each_python
def test_what_cannot_be_saved_is_re_created_where_it_is_needed(world: ResumeWorld) -> None:
    world.write(
        "import threading\ndata = list(range(5))\nunused = threading.Thread(target=print)",
        "numbers = (n * n for n in data)\nprint(next(numbers))",
        "print(next(numbers))\nlater = 'kept'; _ = Path('kept').write_text(later)",
        "die('here')\nprint(next(numbers), later)",
        "print(sum(numbers))",
    )
    world.attempt(code=DIED)
    world.attempt()
    assert world.ran() == [1, 1, 2, 2, 2, 1]
    assert world.shown() == [[], [], ["0\n"], ["1\n"], ["4 kept\n"], ["25\n"]]
    (again,) = world.events("again")
    assert again.data["message"].startswith("numbers could not be saved: re-run from cell 3 on, 0.")
    assert again.data["message"].endswith(", Path(…).write_text (cell 4)")


@pytest.mark.nightly
def test_no_finished_loop_runs_again_for_it(world: ResumeWorld) -> None:
    """It would yield nothing, and leave nothing beside its state."""
    world.write(
        "import qcity_nb as qcity\ncity = qcity.up()\nnumbers = (n for n in range(5))",
        "seen = []\nfor n in city.loop(range(3), None):\n    seen.append(next(numbers))",
        "die('here')\nprint(seen)",
        "next(numbers)",
    )
    world.attempt(code=DIED)
    stderr = world.attempt(code=1)
    assert world.ran() == [1, 1, 1, 2, 1]
    assert world.shown()[3] == ["[0, 1, 2]\n"]
    assert "VariableLost: numbers (a generator)" in stderr
    (lost,) = world.events("lost")
    assert lost.data["message"] == "numbers could not be saved, and a loop has finished since"


def test_what_cannot_be_saved_and_is_not_needed_is_an_error_that_says_so(world: ResumeWorld) -> None:
    world.write(
        "import threading\nworker = threading.Thread(target=print)",
        "def use(name):\n    return globals()[name]",
        "die('here')\nuse('wor' + 'ker').name",
    )
    world.attempt(code=DIED)
    stderr = world.attempt(code=1)
    assert world.ran() == [1, 1, 1, 2]
    assert "VariableLost" in stderr
    assert "worker" in world.shown()[3][0]
    assert "Thread" in world.shown()[3][0]


@pytest.mark.nightly
def test_a_tagged_cell_runs_again_in_each_kernel_under_its_number(world: ResumeWorld) -> None:
    world.write(Cell("made = Path('p').resolve()\nprint('again')", ("qcity-rerun",)), "x = 1", "die('here')\nprint(x)")
    world.attempt(code=DIED)
    world.attempt()
    assert world.ran() == [1, 2, 1, 2]
    assert world.counts() == [1, 2, 3, 4]


@pytest.mark.nightly
def test_a_cell_without_a_snapshot_runs_again(world: ResumeWorld) -> None:
    world.write("x = 1", Cell("x += 1", ("qcity-skip-snapshot", "qcity-onec")), "die('here')\nprint(x)")
    world.attempt(code=DIED)
    world.attempt()
    assert world.events("tag")[0].data["message"].startswith("cell 3: ")
    assert world.ran() == [1, 1, 2, 2]
    assert world.shown()[3] == ["2\n"]


def test_packages_are_installed_on_a_new_machine_before_the_variables_come_back(world: ResumeWorld) -> None:
    folder = world.folder / "elsewhere"
    module = folder / "wanted.py"
    folder.mkdir()
    world.write(
        "import sys",
        "%pip --version",
        f"Path({str(module)!r}).write_text('class Thing: n = 7')\nsys.path.insert(0, {str(folder)!r})",
        "import wanted\nit = wanted.Thing()",
        "die('here')\nprint(it.n)",
    )
    world.attempt(code=DIED)
    world.attempt()
    assert "pip" in "".join(world.shown()[2])
    assert world.ran()[3:5] == [1, 1]
    executed = [event.data["index"] for event in world.events("cell") if event.term == 2]
    assert executed == [5], "the same machine has it"


def test_a_cell_that_must_not_run_twice_asks(world: ResumeWorld) -> None:
    world.write("x = 1", Cell("print('sent')\ndie('here')", ("qcity-once",)), "print('after', x)")
    world.attempt(code=DIED)
    stderr = world.attempt(code=1)
    assert "cell 3 must not run twice (qcity-once), and began at 20" in stderr
    assert world.ran() == [1, 1, 1]
    assert (world.head.state, world.head.desired.state) == ("stopped", "stopped")
    resume = [sys.executable, "-m", "qcity_nb.cli", "resume", world.head.run]
    asked = world.run(*resume)
    assert asked.returncode == 2
    assert "--once done" in asked.stderr
    assert world.run(*resume, "--once", "done", "--detach", "--json").returncode == 0
    world.until(lambda: world.head.is_over)
    assert world.head.state == "succeeded"
    assert world.ran() == [1, 1, 1, 1]


@pytest.mark.nightly
def test_once_it_has_ended_it_is_skipped(world: ResumeWorld) -> None:
    world.write(Cell("print('sent')", ("qcity-once",)), "g = (n for n in range(3))", "die('here')\nprint(next(g))")
    world.attempt(code=DIED)
    world.attempt()
    assert world.ran() == [1, 1, 2, 2]
    assert world.shown()[1] == ["sent\n"]


@pytest.mark.parametrize(("language", "hides"), [("R", False), ("python", True)])
def test_a_kernel_without_snapshots_runs_all_cells_and_says_so(world: ResumeWorld, language: str, hides: bool) -> None:
    spec = world.folder / "data/kernels/other"
    spec.mkdir(parents=True)
    program = (
        "import sys\n"
        + ("sys.modules['qcity_nb'] = None\n" if hides else "")
        + ("from ipykernel.kernelapp import launch_new_instance\nlaunch_new_instance()")
    )
    argv = [sys.executable, "-c", program, "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "other", "language": language}))
    world.kernel = "other"
    world.write("x = 1", "die('here')\nprint(x)")
    world.attempt(code=DIED, JUPYTER_PATH=str(world.folder / "data"))
    world.attempt(JUPYTER_PATH=str(world.folder / "data"))
    assert world.ran() == [2, 2, 2]
    assert world.shown()[2] == ["1\n"]
    (event, _) = world.events("no-snapshots")
    assert "all cells are re-run after a death" in event.data["message"]


def test_a_snapshot_that_cannot_be_loaded_costs_the_time_and_not_the_run(world: ResumeWorld) -> None:
    (world.folder / "gone.py").write_text("class Thing:\n    n = 7\n")
    world.write("x = 5", "import gone\nit = gone.Thing()", "die('here')\nprint(x)", "del it\nprint('on')")
    world.attempt(code=DIED)
    (world.folder / "gone.py").unlink()
    (world.folder / "gone.py").write_text("")
    world.attempt()
    assert world.ran() == [1, 1, 1, 2, 1]
    (cells,) = world.events("cells")
    assert any("it" in note and "Thing" in note for note in cells.data["notes"])


@pytest.mark.each_python
def test_a_damaged_snapshot_means_all_cells_run_again(world: ResumeWorld) -> None:
    world.write("x = 5", "die('here')\nprint(x)")
    world.attempt(code=DIED)
    for pack in (world.folder / ".qcity").rglob("*.pack"):
        data = bytearray(pack.read_bytes())
        data[len(data) // 2] ^= 1
        pack.chmod(0o600)
        pack.write_bytes(data)
    world.attempt()
    assert world.shown()[2] == ["5\n"]


@pytest.mark.nightly
def test_a_snapshot_waits_for_cells_that_take_longer_and_that_is_reported(world: ResumeWorld) -> None:
    many = "many = [f'{n:x}' for n in range(2_000_000)]"
    world.write("x = 5", many, "y = x + 1", "die('here')\nprint(x, y, len(many))")
    world.attempt(code=DIED, QCITY_SNAPSHOT_TIME_SHARE="")  # what it is by default
    (postponed,) = world.events("postponed")
    assert "it waits for cells that take longer" in postponed.data["message"]
    world.attempt(QCITY_SNAPSHOT_TIME_SHARE="")
    assert world.ran() == [1, 1, 2, 2, 2]
    assert world.shown()[4] == ["5 6 2000000\n"]


@pytest.mark.nightly  # it waits for what is slow
def test_a_snapshot_that_takes_longer_than_the_cells_before_it_waits(world: ResumeWorld) -> None:
    many = "many = [f'{n:x}' for n in range(500_000)]"
    pause = "import time; time.sleep(6); many[0]"  # saves up more than the list takes
    world.write(many, pause, "quick = 1", "slow = time.sleep(4)", "die('here')\nprint(quick, slow)")
    world.attempt(code=DIED, QCITY_SNAPSHOT_TIME_SHARE="0.5")
    world.attempt(QCITY_SNAPSHOT_TIME_SHARE="0.5")
    assert world.ran()[:3] == [1, 1, 1]
    assert world.ran()[4:] == [1, 2]
    waiting = {event.data["index"] for event in world.events("postponed")}
    assert (2 in waiting, 3 in waiting, 4 in waiting) == (False, True, False), "not worth it after the quick cell"


@pytest.mark.nightly
def test_a_kernel_that_dies_of_a_snapshot_has_finished_the_cell(world: ResumeWorld) -> None:
    reduce = "    def __reduce__(self):\n        die('here')\n        return (list, ())\n"
    evil = f"class Evil:\n{reduce}evil = Evil()\nprint('made')"
    world.write("x = [5]", evil, "print(x, evil)")
    world.attempt(code=DIED)
    statuses = [cell.metadata.papermill["status"] for cell in world.book.cells]
    assert statuses == ["completed", "completed", "completed", "pending"]
    assert world.shown()[2] == ["made\n"]
    world.attempt()
    assert world.ran() == [1, 1, 2, 1], "the cell that has no snapshot after it is re-run"
    assert world.shown()[3][0].startswith("[5] ")


@pytest.mark.nightly
def test_no_snapshots_where_none_are_wanted(world: ResumeWorld) -> None:
    with (world.folder / "pyproject.toml").open("a") as file:
        file.write("snapshot_time_share = 0\n")
    world.write("x = 5", "die('here')\nprint(x)")
    world.attempt(code=DIED, QCITY_SNAPSHOT_TIME_SHARE="")
    world.attempt(QCITY_SNAPSHOT_TIME_SHARE="")
    assert world.ran() == [2, 2, 2]


@pytest.mark.nightly
def test_who_may_not_have_the_run_leaves_the_output_alone(world: ResumeWorld) -> None:
    lines = ("import time", "open('up', 'w').close()", "for _ in range(1200):", "    if not os.path.exists('over'):")
    world.write("\n".join([*lines, "        time.sleep(0.05)"]))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(world.attempt)
        try:
            world.until((world.folder / "up").exists)
            before = (world.folder / "out.ipynb").read_bytes()
            assert "RunHeld" in world.attempt(code=1)
            assert (world.folder / "out.ipynb").read_bytes() == before
        finally:
            (world.folder / "over").touch()
        first.result(timeout=60)
    assert world.ran() == [1, 1]


@pytest.mark.nightly
def test_widgets_of_finished_cells_are_still_in_the_notebook(world: ResumeWorld) -> None:
    pytest.importorskip("ipywidgets", reason="ipywidgets is in the extra `local`")
    world.write(
        "import ipywidgets as w\nbar = w.IntProgress(0, 0, 9)\nw.VBox([bar, w.HTML('<b>on</b>')])",
        "bar.value = 7",
        "die('here')",
    )
    world.attempt(code=DIED)
    world.attempt()
    assert world.ran() == [1, 1, 1, 2]
    states = world.book.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
    (shown,) = next(cell for cell in world.book.cells if "VBox" in cell.source).outputs
    box = states[shown.data["application/vnd.jupyter.widget-view+json"]["model_id"]]["state"]
    bar, text = (states[child.removeprefix("IPY_MODEL_")]["state"] for child in box["children"])
    assert (bar["value"], text["value"]) == (7, "<b>on</b>")
    assert box["layout"].removeprefix("IPY_MODEL_") in states
