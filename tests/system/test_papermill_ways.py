"""papermill's own ways: the same options, run by papermill's engine, by ours, and by ours after a death."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
import pytest
from resume_world import KILL

from qcity_nb.records import Head
from qcity_nb.run import lease
from qcity_nb.stores import open_store
from qcity_nb.testing.chaos import Plan

pytestmark = [pytest.mark.kernel, pytest.mark.kill, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
DIED = 138

DIE = (
    KILL
    + """
import json, time
from pathlib import Path
FOLDER = Path(os.environ["WAYS_FOLDER"])
def ran(place):
    with (FOLDER / "ran").open("a") as file:
        file.write(place + " ")
def die(place):
    ran(place)
    if FOLDER.name == "killed" and not (FOLDER / place).exists():
        (FOLDER / place).touch()
        kill()
"""
)


def code(source: str, *tags: str) -> Any:
    return nbformat.v4.new_code_cell(source.strip(), metadata={"tags": list(tags)} if tags else {})


SPEC = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


_started: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def _ended() -> Iterator[None]:
    """A test that fails leaves no process."""
    yield
    for process in _started:
        process.kill()
        process.communicate()
    _started.clear()


class Place:
    """A directory with one notebook; its name says whether cells that ask for it die there."""

    def __init__(self, folder: Path, name: str, cells: list[Any], metadata: Mapping[str, Any] = SPEC) -> None:
        self.folder = folder / name
        self.folder.joinpath("sub").mkdir(parents=True)
        self.folder.joinpath("pyproject.toml").write_text('[tool.qcity]\nproject = "ways"\ntracking = ""\n')
        self.folder.joinpath("params.yaml").write_text("name: 'from file'\nwhen: 2020-01-02\n")
        for number, cell in enumerate(cells):
            cell["id"] = f"c{number}"
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=dict(metadata)), self.folder / "in.ipynb")
        self.engine = [] if name == "own" else ["--engine", "qcity"]

    def start(self, *options: str, stdin: str | None = None, **environ: str) -> subprocess.Popen[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("QCITY_")}
        inherited["PYTHONPATH"] = os.pathsep.join([str(ROOT), inherited.get("PYTHONPATH", "")])
        ours = {"IPYTHONDIR": str(self.folder / "ipython"), "MPLBACKEND": "", "WAYS_FOLDER": str(self.folder)}
        with (self.folder / stdin if stdin else Path(os.devnull)).open() as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "papermill", *self.engine, *options],
                cwd=self.folder,
                env={**inherited, **ours, **environ},
                stdin=file,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        _started.append(process)
        return process

    @property
    def ran(self) -> list[str]:
        return (self.folder / "ran").read_text().split()

    @property
    def head(self) -> Head:
        store = open_store(str(self.folder / ".qcity/store"))
        (run,) = store.runs()
        return lease.read(store, run).head

    def book(self, name: str = "out.ipynb") -> Any:
        return normal(json.loads((self.folder / name).read_text()))


def end(process: subprocess.Popen[str], exits: int = 0) -> tuple[str, str]:
    """What it said on stdout and stderr."""
    out, err = process.communicate(timeout=90)
    assert process.returncode == exits, (process.returncode, out[-3000:], err[-3000:])
    return out, err


def normal(book: Any) -> Any:
    """A notebook without what differs between any two runs: times, and ids that papermill draws."""
    for meta in [book["metadata"], *(cell["metadata"] for cell in book["cells"])]:
        saved = meta.get("papermill", {})
        if saved.get("status") in ("completed", "failed") and saved.get("duration") is not None:
            saved["duration"] = "some"
        for name in ("start_time", "end_time") + (() if "status" in saved else ("duration",)):
            saved.pop(name, None)
    for cell in book["cells"]:
        del cell["id"]
        cell["source"] = "".join(cell["source"])
        cell["metadata"].pop("execution", None)  # when its messages came
        for output in cell.get("outputs", []):
            text = "\n".join(output.get("traceback", []))
            output["traceback"] = re.sub(r"\x1b\[[0-9;]*m|ipykernel_\d+/\d+", "", text)
    return book


LOGGED = re.compile(
    r"(Executing|Ending) (Cell|notebook).*|\w+put Notebook:.*|Working.*|Passed unknown.*"
    r"|to stderr|.*from file.*|sub|'waiting'|\[0, .*|\(5, .*"
)


def log(err: str) -> list[str]:
    """What papermill logged, in no order: two streams of one cell overtake each other. Kernels say things too."""
    bars = r"Executing[^\r\n]*?\d+/\d+ \[[^]]*\]"
    return sorted(line for line in re.split(rf"\r|\n|{bars}", err) if LOGGED.fullmatch(line.strip()))


def bar(err: str) -> str:
    """The progress bar's last count."""
    return str(re.findall(r"(\d+/\d+) \[", err)[-1])


def statuses(book: Any) -> list[str]:
    return [cell["metadata"]["papermill"]["status"] for cell in book["cells"]]


LOAD = """
# papermill_description=Loading
ran('load')
print(x, y, name, when, raw)
print('to stderr', file=sys.stderr)
"""
WAYS = [
    code("x = 1\ny = 2\nname = 'none'\nwhen = ''\nraw = ''", "parameters"),
    code(DIE + LOAD),
    nbformat.v4.new_markdown_cell("# text"),
    code("raise ValueError('never executed')", "skip-execution"),
    code("print(Path.cwd().name)\nran('error')\n1 / 0", "raises-exception"),
    code(""),
    code("""
handle = display('waiting', display_id='w')
def saved():
    try:
        cells = json.loads(Path('../out.ipynb').read_text())['cells']
    except ValueError:
        return []  # papermill itself writes in place
    counts = [len(cell.get('outputs', [])) for cell in cells]
    return counts if counts[7] else []
until = time.monotonic() + 30
while not (counts := saved()) and time.monotonic() < until:
    handle.update('waiting')
    time.sleep(0.05)
die('here')
handle.update('seen')
print(counts)
"""),
    code("x, y"),
]
OPTIONS = [
    *("in.ipynb", "out.ipynb", "-p", "x", "5", "-y", "y: [1, {a: null}]", "-f", "params.yaml", "-r", "raw", "07"),
    *("--report-mode", "--log-output", "--progress-bar", "--autosave-cell-every", "1", "--cwd", "sub"),
    *("--stdout-file", "stdout.txt", "--stderr-file", "stderr.txt", "-k", "python3", "-l", "python"),
]


def test_options_mean_what_they_mean_in_papermill_also_after_a_death(tmp_path: Path) -> None:
    own, calm, killed = (Place(tmp_path, name, WAYS, {}) for name in ("own", "calm", "killed"))
    first, second = own.start(*OPTIONS), calm.start(*OPTIONS)
    # The cell that may fail was asked to: the rest is executed, and then papermill calls it an error all the same.
    (_, err_own), (_, err_calm) = end(first, 1), end(second, 1)
    end(killed.start(*OPTIONS), DIED)
    partial = killed.book()
    assert statuses(partial) == ["completed"] * 7 + ["running", "pending"], "and papermill says completed"
    _, err = end(killed.start(*OPTIONS), 1)

    expected = own.book()
    assert calm.book() == expected
    actual = killed.book()
    for cell in (*expected["cells"], *actual["cells"]):
        if cell["cell_type"] != "code" or not cell["source"]:
            cell["metadata"].get("papermill", {}).pop("duration", None)  # papermill measures itself
    assert actual == expected
    assert killed.ran == ["load", "error", "here", "here"]

    assert expected["metadata"]["papermill"]["parameters"]["y"] == [1, {"a": None}]
    assert all(cell["metadata"]["jupyter"]["source_hidden"] for cell in actual["cells"] if cell["cell_type"] == "code")
    assert "5 [1, {'a': None}] from file 2020-01-02 07\n" in actual["cells"][3]["outputs"][0]["text"]
    assert "[0, 0, 2, 0, 0, 2, 0, 1, 0]" in str(actual["cells"][9]), "autosave showed what skipped cells had shown"

    raised = "papermill.exceptions.PapermillExecutionError"
    assert log(err_calm) == log(err_own)
    assert len(log(err_own)) == 28, log(err_own)
    assert err[err.index(raised) :] == err_calm[err_calm.index(raised) :]
    assert "Executing Loading" in err_calm
    assert "qcity: 5 cells finished in an earlier kernel: skipped" in err
    assert bar(err) == bar(err_calm) == bar(err_own) == "9/9"
    for name in ("stdout.txt", "stderr.txt"):
        # They are opened at their first line, where the notebook works.
        texts = {(place.folder / "sub" / name).read_text() for place in (own, calm, killed)}
        assert len(texts) == 1, texts
        assert texts != {""}
    assert {file.name for file in (killed.folder / "sub").iterdir()} == {"stdout.txt", "stderr.txt"}, "nothing else"


def test_an_error_stops_and_is_marked_and_the_same_file_goes_on(tmp_path: Path) -> None:
    """papermill writes its marks of an error into the notebook; here it is the input of the next attempt."""
    cells = [
        code(DIE + "ran('one')\nprint('one')"),
        code("die('two')\nprint('two')"),
        code("ran('three')\nprint('three')\nassert (FOLDER / 'mended').exists(), 'not yet'"),
        code("ran('four')\nprint('four')"),
    ]
    own, killed = (Place(tmp_path, name, cells) for name in ("own", "killed"))
    options = ["in.ipynb", "in.ipynb", "-p", "late", "1"]
    first, second = own.start(*options), killed.start(*options)
    (_, err_own), _ = end(first, 1), end(second, DIED)
    _, err = end(killed.start(*options), 1)
    expected = own.book("in.ipynb")
    assert "An Exception was encountered at" in expected["cells"][0]["source"]
    assert expected["metadata"]["papermill"]["exception"] is True
    assert killed.book("in.ipynb") == expected
    raised = [text[text.index("papermill.exceptions.PapermillExecutionError") :] for text in (err_own, err)]
    assert re.sub(r"\x1b\[[0-9;]*m|ipykernel_\d+", "", raised[0]) == re.sub(
        r"\x1b\[[0-9;]*m|ipykernel_\d+", "", raised[1]
    )
    for place in (own, killed):
        (place.folder / "mended").touch()
    first, second = own.start(*options), killed.start(*options)
    end(first)
    end(second)
    assert killed.book("in.ipynb") == own.book("in.ipynb")
    assert killed.ran == ["one", "two", "two", "three", "three", "four"]
    assert killed.head.state == "succeeded"


@pytest.mark.nightly
def test_a_time_out_is_papermill_s_and_holds_for_the_cells_that_run(tmp_path: Path) -> None:
    cells = [code(DIE + "ran('one')\ntime.sleep(0.5)"), code("ran('two')\ntime.sleep(60)"), code("ran('three')")]
    own, ours = (Place(tmp_path, name, cells) for name in ("own", "ours"))
    options = ["in.ipynb", "out.ipynb", "--no-progress-bar", "--execution-timeout", "3"]
    first, second = own.start(*options), ours.start(*options)
    (_, err_own), (_, err) = end(first, 1), end(second, 1)
    _, again = end(ours.start(*options), 1)
    for text in (err, again):
        assert "A cell timed out while it was being executed, after 3 seconds." in text
        start = "nbclient.exceptions.CellTimeoutError"
        assert text[text.index(start) :] == err_own[err_own.index(start) :]
    assert statuses(own.book()) == ["completed", "completed", "completed"], "papermill's word for it"
    assert statuses(ours.book()) == ["completed", "failed", "pending"]
    assert ours.ran == ["one", "two", "two"]
    failure = ours.head.failure
    assert failure is not None
    assert (failure.cause, failure.times) == ("notebook", 2)
    assert failure.message.startswith("cell 2: CellTimeoutError: A cell timed out")


def test_a_kernel_that_does_not_start_in_time_is_papermill_s_error(tmp_path: Path) -> None:
    own, ours = (Place(tmp_path, name, [code("1")]) for name in ("own", "ours"))
    spec = tmp_path / "kernels/slow"
    spec.mkdir(parents=True)
    argv = [sys.executable, "-c", "import time; time.sleep(60)", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "slow", "language": "python"}))
    options = ["in.ipynb", "out.ipynb", "-k", "slow", "--start-timeout", "1"]
    began_s = time.monotonic()
    first, second = (place.start(*options, JUPYTER_PATH=str(tmp_path)) for place in (own, ours))
    (_, err_own), (_, err) = end(first, 1), end(second, 1)
    assert time.monotonic() - began_s < 40
    (line,) = re.findall(r"(?m)^RuntimeError: .*in 1 seconds$", err_own)
    assert line in err
    head = ours.head
    assert (head.state, head.holder) == ("running", None), "the next attempt need not wait"


def test_pipes(tmp_path: Path) -> None:
    cells = [code(DIE + "ran('one')\nprint('one')"), code("die('two')\nprint('two')")]
    own, killed = (Place(tmp_path, name, cells) for name in ("own", "killed"))
    first, second = (place.start("-", "-", stdin="in.ipynb") for place in (own, killed))
    (out_own, err_own), (out, _) = end(first), end(second, DIED)
    assert out == "", "papermill writes there once, at the end"
    out, err = end(killed.start("-", "-", stdin="in.ipynb"))
    assert normal(json.loads(out)) == normal(json.loads(out_own))
    assert log(err) == log(err_own) == [], "papermill is silent there"
    assert killed.ran == ["one", "two", "two"]


def test_to_prepare_is_no_run(tmp_path: Path) -> None:
    own, ours = (Place(tmp_path, name, WAYS) for name in ("own", "ours"))
    options = ["in.ipynb", "out.ipynb", "-p", "x", "3", "--report-mode", "--prepare-only"]
    first, second = own.start(*options), ours.start(*options)
    end(first)
    end(second)
    assert ours.book() == own.book()
    assert not (ours.folder / ".qcity").exists()


@pytest.mark.each_python
def test_sys_exit_ends_the_notebook_well_also_when_the_end_was_cut_off(tmp_path: Path) -> None:
    cells = [
        code(DIE + "ran('one')\nfrom IPython.display import display"),
        code("ran('two')\nprint('enough')\nsys.exit()"),
        code("ran('three')"),
    ]
    own, ours = (Place(tmp_path, name, cells) for name in ("own", "ours"))
    plan = Plan(log=str(ours.folder / "hits"), at={"end.before": [1]}, action="host")
    options = ["in.ipynb", "out.ipynb", "--no-progress-bar"]
    first, second = own.start(*options), ours.start(*options, QCITY_CHAOS=plan.dumps())
    end(first)
    second.communicate(timeout=90)
    assert "end.before" in (ours.folder / "hits").read_text()
    end(ours.start(*options))
    assert ours.book() == own.book()
    assert own.ran == ["one", "two"]
    assert ours.ran == ["one", "two", "two"], "no snapshot is taken after the last cell"
    assert (ours.head.state, ours.head.failure) == ("succeeded", None)
