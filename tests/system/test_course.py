"""Going on at the cell where it died: what runs, what is passed over, what comes back, and what is said."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
from course_world import DIED, Cell, Course

pytestmark = [pytest.mark.kernel, pytest.mark.kill, pytest.mark.timeout(240)]


@pytest.fixture
def course(tmp_path: Path) -> Course:
    return Course(tmp_path / "p")


def test_finished_cells_are_passed_over_and_show_what_they_showed(course: Course) -> None:
    course.write(
        "import numpy as np\nrng = np.random.default_rng(3)\na = np.arange(6.0)\nhalf = a[:3]\nprint(rng.random())",
        "from IPython.display import HTML, display\nhandle = display(HTML('<b>one</b>'), display_id='x')\na.sum()",
        "def total():\n    return float(a.sum() + shift)\nshift = 1\nimport sys; print('to stderr', file=sys.stderr)",
        "half += 10\nhandle.update(HTML('<b>two</b>'))\ndie('here')\nprint(rng.random(), total())",
        "shift = 100\nprint(total(), np.shares_memory(half, a), np.random.random() < 1)\nIn[-2].count('die')",
    )
    course.attempt(code=DIED)
    course.attempt()
    died = course.shown()
    assert course.ran() == [1, 1, 1, 1, 2, 1]
    assert course.counts() == [1, 2, 3, 4, 5, 6]
    assert [event.data["passed"] for event in course.events("cells")] == [4]

    calm = Course(course.folder.parent / "calm")
    calm.write(*[cell.source.partition("\n")[2] for cell in course.book.cells[1:]])
    (calm.folder / "deaths/here").touch()
    calm.attempt()
    assert died[:-1] == calm.shown()[:-1], "the last cell asks for the history, which a new kernel does not have"
    assert died[-1][0] == calm.shown()[-1][0]
    statuses = [cell.metadata.papermill["status"] for cell in course.book.cells]
    assert statuses == ["completed"] * 6


def test_an_edited_cell_runs_again_with_all_that_follow_and_nothing_before(course: Course) -> None:
    course.write(
        "x = [1]", "x.append(2)\nprint(x)", "x.append(3)\ny = 'left over'", "die('here')\nprint(x, 'y' in dir())"
    )
    course.attempt(code=DIED)
    path = course.folder / "in.ipynb"
    book = nbformat.read(path, as_version=4)
    book.cells[3].source = book.cells[3].source.replace("append(3)\ny = 'left over'", "append(4)")
    nbformat.write(book, path)
    course.attempt()
    assert course.ran() == [1, 1, 1, 2, 2]
    assert course.shown()[2:] == [["[1, 2]\n"], [], ["[1, 2, 4] False\n"]], "x is what it was before the edited cell"


def test_a_cell_that_failed_runs_again_and_those_before_do_not(course: Course) -> None:
    course.write("data = 'dear'", "print(data)\nassert Path('mended').exists()", "print('on')")
    course.attempt(code=1)
    assert course.shown()[2] == ["dear\n", "AssertionError: "]
    (course.folder / "mended").touch()
    head = course.head
    assert head.state == "running", "the failure may be the host's: the next attempt tells"
    assert head.checkpoint is not None
    assert head.checkpoint.cells == 2
    course.attempt()
    assert course.ran() == [1, 1, 2, 1]


def test_a_failure_that_comes_again_is_known_for_the_same_though_cells_were_passed_over(course: Course) -> None:
    """Passing over is no progress: else a run that cannot get on would be tried for ever."""
    course.write("g = (n for n in range(3))\nnext(g)", "x = 1", "next(g)\nraise ValueError('always')")
    course.attempt(code=1)
    course.attempt(code=1)
    head = course.head
    assert head.failure is not None
    assert head.failure.times == 2, "no checkpoint came between"
    assert course.ran() == [1, 2, 2, 2], "the generator was made again, and all since"


def test_what_cannot_be_saved_is_made_again_where_it_is_needed(course: Course) -> None:
    course.write(
        "import threading\ndata = list(range(5))\nunused = threading.Thread(target=print)",
        "numbers = (n * n for n in data)\nprint(next(numbers))",
        "print(next(numbers))\nlater = 'kept'; _ = Path('kept').write_text(later)",
        "die('here')\nprint(next(numbers), later)",
        "print(sum(numbers))",
    )
    course.attempt(code=DIED)
    course.attempt()
    assert course.ran() == [1, 1, 2, 2, 2, 1]
    assert course.shown() == [[], [], ["0\n"], ["1\n"], ["4 kept\n"], ["25\n"]]
    (again,) = course.events("again")
    assert again.data["message"].startswith("numbers cannot be saved: made again from cell 3 on, 0.")
    assert again.data["message"].endswith(", Path(…).write_text (cell 4)")


def test_no_finished_loop_runs_again_for_it(course: Course) -> None:
    """It would yield nothing, and leave nothing beside its state."""
    course.write(
        "import qcity_nb as qcity\ncity = qcity.up()\nnumbers = (n for n in range(5))",
        "seen = []\nfor n in city.loop(range(3), None):\n    seen.append(next(numbers))",
        "die('here')\nprint(seen)",
        "next(numbers)",
    )
    course.attempt(code=DIED)
    said = course.attempt(code=1)
    assert course.ran() == [1, 1, 1, 2, 1]
    assert course.shown()[3] == ["[0, 1, 2]\n"]
    assert "VariableLost: numbers (a generator)" in said
    (lost,) = course.events("lost")
    assert lost.data["message"] == "numbers cannot be saved, and a loop has finished since"


def test_what_cannot_be_saved_and_is_not_needed_is_an_error_that_says_so(course: Course) -> None:
    course.write(
        "import threading\nworker = threading.Thread(target=print)",
        "def use(name):\n    return globals()[name]",
        "die('here')\nuse('wor' + 'ker').name",
    )
    course.attempt(code=DIED)
    said = course.attempt(code=1)
    assert course.ran() == [1, 1, 1, 2]
    assert "VariableLost" in said
    assert "worker" in course.shown()[3][0]
    assert "Thread" in course.shown()[3][0]


def test_a_tagged_cell_runs_again_in_each_kernel_under_its_number(course: Course) -> None:
    course.write(Cell("made = Path('p').resolve()\nprint('again')", ("qcity-rerun",)), "x = 1", "die('here')\nprint(x)")
    course.attempt(code=DIED)
    course.attempt()
    assert course.ran() == [1, 2, 1, 2]
    assert course.counts() == [1, 2, 3, 4]


def test_a_cell_without_a_snapshot_runs_again(course: Course) -> None:
    course.write("x = 1", Cell("x += 1", ("qcity-skip-snapshot", "qcity-onec")), "die('here')\nprint(x)")
    course.attempt(code=DIED)
    course.attempt()
    assert course.events("tag")[0].data["message"].startswith("cell 3: ")
    assert course.ran() == [1, 1, 2, 2]
    assert course.shown()[3] == ["2\n"]


def test_packages_are_installed_on_a_new_machine_before_the_variables_come_back(course: Course) -> None:
    folder = course.folder / "elsewhere"
    wanted = folder / "wanted.py"
    folder.mkdir()
    course.write(
        "import sys",
        "%pip --version",
        f"Path({str(wanted)!r}).write_text('class Thing: n = 7')\nsys.path.insert(0, {str(folder)!r})",
        "import wanted\nit = wanted.Thing()",
        "die('here')\nprint(it.n)",
    )
    course.attempt(code=DIED)
    course.attempt()
    assert "pip" in "".join(course.shown()[2])
    assert course.ran()[3:5] == [1, 1]
    executed = [event.data["index"] for event in course.events("cell") if event.epoch == 2]
    assert executed == [5], "the same machine has it"


def test_a_cell_that_must_not_run_twice_asks(course: Course) -> None:
    course.write("x = 1", Cell("print('sent')\ndie('here')", ("qcity-once",)), "print('after', x)")
    course.attempt(code=DIED)
    said = course.attempt(code=1)
    assert "cell 3 must not run twice (qcity-once), and began at 20" in said
    assert course.ran() == [1, 1, 1]
    assert (course.head.state, course.head.wanted.state) == ("stopped", "stopped")
    resume = [sys.executable, "-m", "qcity_nb.cli", "resume", course.head.run]
    asked = course.run(*resume)
    assert asked.returncode == 2
    assert "--once done" in asked.stderr
    assert course.run(*resume, "--once", "done", "--detach", "--json").returncode == 0
    course.until(lambda: course.head.is_over)
    assert course.head.state == "succeeded"
    assert course.ran() == [1, 1, 1, 1]


def test_once_it_has_ended_it_is_passed_over(course: Course) -> None:
    course.write(Cell("print('sent')", ("qcity-once",)), "g = (n for n in range(3))", "die('here')\nprint(next(g))")
    course.attempt(code=DIED)
    course.attempt()
    assert course.ran() == [1, 1, 2, 2]
    assert course.shown()[1] == ["sent\n"]


@pytest.mark.parametrize(("language", "hides"), [("R", False), ("python", True)])
def test_a_kernel_without_snapshots_runs_all_cells_and_says_so(course: Course, language: str, hides: bool) -> None:
    spec = course.folder / "data/kernels/other"
    spec.mkdir(parents=True)
    program = (
        "import sys\n"
        + ("sys.modules['qcity_nb'] = None\n" if hides else "")
        + ("from ipykernel.kernelapp import launch_new_instance\nlaunch_new_instance()")
    )
    argv = [sys.executable, "-c", program, "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "other", "language": language}))
    course.kernel = "other"
    course.write("x = 1", "die('here')\nprint(x)")
    course.attempt(code=DIED, JUPYTER_PATH=str(course.folder / "data"))
    course.attempt(JUPYTER_PATH=str(course.folder / "data"))
    assert course.ran() == [2, 2, 2]
    assert course.shown()[2] == ["1\n"]
    (said, _) = course.events("no-snapshots")
    assert "cells run again after a death" in said.data["message"]


def test_a_snapshot_that_cannot_be_loaded_costs_the_time_and_not_the_run(course: Course) -> None:
    (course.folder / "gone.py").write_text("class Thing:\n    n = 7\n")
    course.write("x = 5", "import gone\nit = gone.Thing()", "die('here')\nprint(x)", "del it\nprint('on')")
    course.attempt(code=DIED)
    (course.folder / "gone.py").unlink()
    (course.folder / "gone.py").write_text("")
    course.attempt()
    assert course.ran() == [1, 1, 1, 2, 1]
    (cells,) = course.events("cells")
    assert any("it" in said and "Thing" in said for said in cells.data["said"])


def test_a_damaged_snapshot_means_all_cells_run_again(course: Course) -> None:
    course.write("x = 5", "die('here')\nprint(x)")
    course.attempt(code=DIED)
    for pack in (course.folder / ".qcity").rglob("*.pack"):
        data = bytearray(pack.read_bytes())
        data[len(data) // 2] ^= 1
        pack.chmod(0o600)
        pack.write_bytes(data)
    course.attempt()
    assert course.shown()[2] == ["5\n"]


def test_a_snapshot_waits_for_cells_that_take_longer_and_that_is_told(course: Course) -> None:
    many = "many = [f'{n:x}' for n in range(2_000_000)]"
    course.write("x = 5", many, "y = x + 1", "die('here')\nprint(x, y, len(many))")
    course.attempt(code=DIED, QCITY_SNAPSHOT_SHARE="")  # what it is by default
    (postponed,) = course.events("postponed")
    assert "it waits for cells that take longer" in postponed.data["message"]
    course.attempt(QCITY_SNAPSHOT_SHARE="")
    assert course.ran() == [1, 1, 2, 2, 2]
    assert course.shown()[4] == ["5 6 2000000\n"]


def test_a_snapshot_that_takes_longer_than_the_cells_behind_it_waits(course: Course) -> None:
    many = "many = [f'{n:x}' for n in range(500_000)]"
    pause = "import time; time.sleep(6); many[0]"  # saves up more than the list takes
    course.write(many, pause, "quick = 1", "slow = time.sleep(4)", "die('here')\nprint(quick, slow)")
    course.attempt(code=DIED, QCITY_SNAPSHOT_SHARE="0.5")
    course.attempt(QCITY_SNAPSHOT_SHARE="0.5")
    assert course.ran()[:3] == [1, 1, 1]
    assert course.ran()[4:] == [1, 2]
    waiting = {event.data["index"] for event in course.events("postponed")}
    assert (2 in waiting, 3 in waiting, 4 in waiting) == (False, True, False), "not worth it behind the quick cell"


def test_a_kernel_that_dies_of_a_snapshot_has_finished_the_cell(course: Course) -> None:
    reduce = "    def __reduce__(self):\n        die('here')\n        return (list, ())\n"
    evil = f"class Evil:\n{reduce}evil = Evil()\nprint('made')"
    course.write("x = [5]", evil, "print(x, evil)")
    course.attempt(code=DIED)
    statuses = [cell.metadata.papermill["status"] for cell in course.book.cells]
    assert statuses == ["completed", "completed", "completed", "pending"]
    assert course.shown()[2] == ["made\n"]
    course.attempt()
    assert course.ran() == [1, 1, 2, 1], "the cell that no snapshot stands behind runs again"
    assert course.shown()[3][0].startswith("[5] ")


def test_no_snapshots_where_none_are_wanted(course: Course) -> None:
    with (course.folder / "pyproject.toml").open("a") as file:
        file.write("snapshot_share = 0\n")
    course.write("x = 5", "die('here')\nprint(x)")
    course.attempt(code=DIED, QCITY_SNAPSHOT_SHARE="")
    course.attempt(QCITY_SNAPSHOT_SHARE="")
    assert course.ran() == [2, 2, 2]


def test_who_may_not_have_the_run_leaves_the_output_alone(course: Course) -> None:
    lines = ("import time", "open('up', 'w').close()", "for _ in range(1200):", "    if not os.path.exists('over'):")
    course.write("\n".join([*lines, "        time.sleep(0.05)"]))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(course.attempt)
        try:
            course.until((course.folder / "up").exists)
            before = (course.folder / "out.ipynb").read_bytes()
            assert "RunHeld" in course.attempt(code=1)
            assert (course.folder / "out.ipynb").read_bytes() == before
        finally:
            (course.folder / "over").touch()
        first.result(timeout=60)
    assert course.ran() == [1, 1]


def test_widgets_of_finished_cells_are_still_in_the_notebook(course: Course) -> None:
    pytest.importorskip("ipywidgets", reason="ipywidgets is in the extra `local`")
    course.write(
        "import ipywidgets as w\nbar = w.IntProgress(0, 0, 9)\nw.VBox([bar, w.HTML('<b>on</b>')])",
        "bar.value = 7",
        "die('here')",
    )
    course.attempt(code=DIED)
    course.attempt()
    assert course.ran() == [1, 1, 1, 2]
    states = course.book.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
    (shown,) = next(cell for cell in course.book.cells if "VBox" in cell.source).outputs
    box = states[shown.data["application/vnd.jupyter.widget-view+json"]["model_id"]]["state"]
    bar, text = (states[child.removeprefix("IPY_MODEL_")]["state"] for child in box["children"])
    assert (bar["value"], text["value"]) == (7, "<b>on</b>")
    assert box["layout"].removeprefix("IPY_MODEL_") in states
