"""`%load_ext qcity_nb` in real kernels, driven as a front end does: finished cells are not re-run by hand."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from jupyter_client.manager import start_new_kernel
from resume_world import Cell, ResumeWorld

pytestmark = [pytest.mark.kernel, pytest.mark.kill, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
WAIT_S = 60

SETUP = """
import os, signal, time
os.environ["QCITY_SNAPSHOT_TIME_SHARE"] = "1000"  # a snapshot after each cell, however short
from qcity_nb.kernel.snapshot_budget import SnapshotBudget
from pathlib import Path
import qcity_nb as qcity
city = qcity.up(run="train")
def die(place):
    "Kills this kernel when the run comes here for the first time."
    mark = Path(os.environ["MARKS"], place)
    if not mark.exists():
        mark.touch()
        city.session.finish_save()  # the snapshot after the last cell is on the disk
        os.kill(os.getpid(), signal.SIGKILL)
def ran(cell):
    with open(Path(os.environ["MARKS"], "ran"), "a") as file:
        file.write(f"{cell}\\n")
%load_ext qcity_nb
"""


SHARED = SETUP + (
    "import qcity_nb.interactive.extension as extension\n"
    "def share(x):\n    extension._on._follower.finished_cells.budget = SnapshotBudget(x)  # 0: all are postponed\n"
)


@dataclass
class Shown:
    """What a cell showed."""

    number: int | None
    outputs: list[tuple[str, ...]]
    notes: list[str]
    """Our own lines."""

    @property
    def text(self) -> str:
        return "".join(output[-1] for output in self.outputs)


class Kernel:
    """A kernel and its front end."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self.manager, self.client = start_new_kernel(cwd=str(folder), env=environ)
        self.is_dead = False

    def run(self, source: str, cell_id: str, tags: tuple[str, ...] = ()) -> Shown:
        """Run one cell; ``is_dead`` says whether the kernel outlived it."""
        client = self.client
        content = {"code": source, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
        content["stop_on_error"] = False  # an old kernel would drop what comes shortly after
        message = client.session.msg("execute_request", content, metadata={"cellId": cell_id, "tags": list(tags)})
        client.shell_channel.send(message)
        mine = message["header"]["msg_id"]
        shown = Shown(None, [], [])
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            try:
                got = client.get_iopub_msg(timeout=0.2)
            except Empty:
                if not self.manager.is_alive():
                    self.is_dead = True
                    return shown
                continue
            if got["parent_header"].get("msg_id") != mine:
                continue
            kind, message_content = got["msg_type"], got["content"]
            if kind == "status" and message_content["execution_state"] == "idle":
                break
            self._note(shown, kind, message_content)
        while True:
            reply = client.get_shell_msg(timeout=WAIT_S)
            if reply["parent_header"]["msg_id"] == mine:
                break
        shown.number = reply["content"]["execution_count"]
        return shown

    def _note(self, shown: Shown, kind: str, content: dict[str, Any]) -> None:
        if kind == "stream":
            if shown.outputs and shown.outputs[-1][:1] == (content["name"],):
                content["text"] = shown.outputs.pop()[-1] + content["text"]
            shown.outputs.append((content["name"], content["text"]))
        elif kind == "clear_output":
            shown.outputs.clear()
        elif kind == "error":
            shown.outputs.append(("error", content["ename"], content["evalue"]))
        elif kind in ("display_data", "execute_result", "update_display_data"):
            plain = content["data"].get("text/plain", "")
            if plain.startswith("qcity: "):
                shown.notes.append(plain.removeprefix("qcity: "))
            else:
                number = str(content.get("execution_count", ""))
                display = content.get("transient", {}).get("display_id", "")
                shown.outputs.append((kind, number, display, json.dumps(content["data"], sort_keys=True)))

    def end(self) -> None:
        """Killed once what it has saved is on the disk; the request leaves no trace."""
        expression = {"saved": "city.session.finish_save()"}
        reply = self.client.execute_interactive("", silent=True, user_expressions=expression, timeout=WAIT_S)
        assert reply["content"]["user_expressions"]["saved"]["status"] == "ok"
        self.kill()

    def interrupt(self) -> None:
        """Ctrl-C; may be called in another thread, unlike the manager's own way."""
        os.kill(int(getattr(self.manager.provisioner, "pid", 0)), signal.SIGINT)

    def kill(self) -> None:
        """As a host's end does it."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@dataclass
class Frontend:
    """One store, and a fresh project directory for each host."""

    folder: Path
    hosts: int = 0
    kernels: list[Kernel] = field(default_factory=list)
    setup: str = SETUP

    @property
    def marks(self) -> Path:
        return self.folder / "marks"

    def host(self, **environ: str) -> Kernel:
        """A kernel on a new host."""
        self.marks.mkdir(exist_ok=True)
        self.hosts += 1
        here = self.folder / f"host{self.hosts}"
        here.mkdir()
        (here / "pyproject.toml").write_text(
            f'[tool.qcity]\nproject = "hand"\ntracking = ""\nstore = "{self.folder / "store"}"\n'
        )
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("QCITY_", "JPY_"))}
        path = os.pathsep.join([str(ROOT), inherited.get("PYTHONPATH", "")])
        settings = {"PYTHONPATH": path, "IPYTHONDIR": str(here / "ipython"), "MARKS": str(self.marks), "MPLBACKEND": ""}
        kernel = Kernel(here, {**inherited, **settings, **environ})
        self.kernels.append(kernel)
        return kernel

    def run_all(self, *cells: str | Cell, kernel: Kernel | None = None, **environ: str) -> list[Shown]:
        """Run all, on a new host; stops where the kernel dies or a cell fails. The first that is shown is the setup."""
        kernel = kernel or self.host(**environ)
        shown = []
        for place, cell in enumerate((self.setup, *cells)):
            source, tags = (cell, ()) if isinstance(cell, str) else (cell.source, cell.tags)
            shown.append(kernel.run(source.strip(), f"c{place}", tags))
            if kernel.is_dead or any(output[0] == "error" for output in shown[-1].outputs):
                break
        return shown

    def ran(self) -> dict[str, int]:
        """How often each cell ran."""
        return dict(Counter((self.marks / "ran").read_text().split()))


@pytest.fixture
def frontend(tmp_path: Path) -> Iterator[Frontend]:
    made = Frontend(tmp_path / "p")
    made.folder.mkdir()
    yield made
    for kernel in made.kernels:
        kernel.kill()


CELLS = (
    "import numpy as np\nrng = np.random.default_rng(3)\na = np.arange(6.0)\nhalf = a[:3]; ran('a')\nrng.random()",
    "from IPython.display import *\nran('b')\nhandle = display(HTML('<b>one</b>'), display_id='x')\na.sum()",
    "ran('c')\ndef total():\n    return float(a.sum() + shift)\n\nshift = 1\nprint('to stderr', file=os.sys.stderr)",
    "%%capture caught\nran('d')\nprint('caught')",
    "half += 10; ran('e')\nhandle.update(HTML('<b>two</b>'))\n(a.tolist(), caught.stdout)",
    "ran('f')\nprint('gone')\nclear_output()\ndisplay({'a/b': 'raw'}, raw=True)",
    "die('here')\nran('g'); print(rng.random(), total(), _6)",
    "shift = 100\nran('h'); print(total(), np.shares_memory(half, a), In[6][:8], sorted(Out))",
)


@pytest.mark.each_python
def test_run_all_after_a_death_shows_and_leaves_what_an_uninterrupted_run_does(
    frontend: Frontend, tmp_path: Path
) -> None:
    first = frontend.run_all(*CELLS)
    assert len(first) == 8
    again = frontend.run_all(*CELLS)
    calm = Frontend(tmp_path / "calm")
    calm.folder.mkdir()
    calm.marks.mkdir()
    (calm.marks / "here").touch()
    try:
        expected = calm.run_all(*CELLS)
    finally:
        for kernel in calm.kernels:
            kernel.kill()
    assert [cell.outputs for cell in again] == [cell.outputs for cell in expected]
    assert [cell.number for cell in again] == list(range(1, 10))
    assert frontend.ran() == dict.fromkeys("abcdefgh", 1)
    assert again[0].notes[0].startswith("run train-")
    assert ": 6 cells have finished in an earlier kernel: run them, and they are skipped" in again[0].notes[0]
    for cell in again[1:7]:
        assert cell.notes[-1].startswith("finished in an earlier kernel (took 0.")
    assert again[6].notes[0].startswith("variables restored as [7] left them (0.")
    assert [cell.notes for cell in again[7:]] == [[], []]


def test_an_edited_cell_runs_again_with_all_that_follow_and_nothing_before(frontend: Frontend) -> None:
    cells = ["ran('a'); x = [1]", "ran('b'); x.append(2)", "ran('c'); x.append(3); left = 1", "die('here'); ran('d')"]
    frontend.run_all(*cells)
    cells[2] = "ran('C'); x.append(4)"
    cells[3] = "ran('d'); print(x, 'left' in globals())"
    assert frontend.run_all(*cells)[-1].text == "[1, 2, 4] False\n"
    assert frontend.ran() == {"a": 1, "b": 1, "c": 1, "C": 1, "d": 1}


def test_a_cell_that_fails_is_mended_and_continues_and_those_before_do_not_run(frontend: Frontend) -> None:
    cells = [
        "ran('a'); x = [1]",
        "ran('b'); assert Path(os.environ['MARKS'], 'mended').exists()\nx.append(2)",
        "ran('c')\nx",
    ]
    shown = frontend.run_all(*cells)
    assert shown[-1].outputs == [("error", "AssertionError", "")]
    frontend.kernels[-1].end()
    (frontend.marks / "mended").touch()
    assert frontend.run_all(*cells)[-1].text == '{"text/plain": "[1, 2]"}'
    assert frontend.ran() == {"a": 1, "b": 2, "c": 1}


@pytest.mark.nightly
def test_cells_that_look_come_and_go(frontend: Frontend) -> None:
    cells = ["ran('a'); x = [1]", "x", "ran('b'); x.append(2)", "x, len(x)", "ran('c'); x.append(3)", "die('here')\nx"]
    frontend.run_all(*cells)
    kernel = frontend.host()
    shown = frontend.run_all(cells[0], cells[1], cells[2], "print(x)", cells[4], "x", cells[5], kernel=kernel)
    assert frontend.ran() == {"a": 1, "b": 1, "c": 1}
    assert [cell.text for cell in shown[2:]] == [
        '{"text/plain": "[1]"}', "", "[1, 2]\n", "", '{"text/plain": "[1, 2, 3]"}', '{"text/plain": "[1, 2, 3]"}'
    ]  # fmt: skip
    assert shown[4].notes[0].startswith("variables restored as [4] left them")


@pytest.mark.nightly
def test_a_cell_that_fails_in_between_does_not_count(frontend: Frontend) -> None:
    cells = ["ran('a'); x = [1]", "ran('b'); x.append(2)", "ran('c'); x.append(3)", "die('here')"]
    frontend.run_all(*cells)
    kernel = frontend.host()
    frontend.run_all(*cells[:1], kernel=kernel)
    assert kernel.run("x.append(9); own = 1; typo", "c8").outputs == [
        ("error", "NameError", "name 'typo' is not defined")
    ]
    assert kernel.run("x", "c9").text == '{"text/plain": "[1, 9]"}'
    assert [kernel.run(source, "c").notes[-1][:8] for source in cells[1:3]] == ["finished"] * 2
    assert kernel.run("x, own", "c9").text == '{"text/plain": "([1, 2, 3], 1)"}'
    assert frontend.ran() == {"a": 1, "b": 1, "c": 1}


@pytest.mark.each_python
def test_ctrl_c_while_cells_run_again(frontend: Frontend) -> None:
    frontend.setup = SETUP.replace("1000", "0")
    slow = (
        "ran('b'); x.append(2)\nif Path(os.environ['MARKS'], 'slow').exists():\n"
        "    Path(os.environ['MARKS'], 'at').touch(); time.sleep(30)"
    )
    allow = "e._on._follower.finished_cells.budget = SnapshotBudget({})"
    keep = f"import qcity_nb.interactive.extension as e; {allow.format('1e30')}; x = [1]"
    cells = [keep, allow.format("0"), slow, allow.format("1e30"), "die('here')"]
    frontend.run_all(*cells)
    (frontend.marks / "slow").touch()
    kernel = frontend.host()
    frontend.run_all(*cells[:3], kernel=kernel)
    interrupt = threading.Thread(target=when, args=(frontend.marks / "at", kernel.interrupt))
    interrupt.start()
    shown = kernel.run("ran('other'); x.append(5)", "c7")
    interrupt.join()
    assert shown.outputs[0][1] == "KeyboardInterrupt"
    assert shown.outputs[-1][-1] == "[4] has to be re-run first, and failed: run it, then this cell"
    (frontend.marks / "slow").unlink()
    kernel.run(cells[2], "c3")
    assert frontend.ran() == {"b": 3}
    assert kernel.run("x", "c9").text == '{"text/plain": "[1, 2, 2]"}', "it was interrupted after its first line"


SLOW = """
class Slow:
    n = 0
    def __getstate__(self):
        Path(os.environ["MARKS"], "at").touch()
        time.sleep(0.5)
        return {"n": self.n}
ran("a")
slow = Slow()
slow.n = 5
"""


def test_ctrl_c_while_a_snapshot_is_taken_loses_nothing(frontend: Frontend) -> None:
    kernel = frontend.host()
    kernel.run(frontend.setup.strip(), "c0")
    interrupt = threading.Thread(target=when, args=(frontend.marks / "at", kernel.interrupt))
    interrupt.start()
    shown = kernel.run(SLOW.strip(), "c1")
    interrupt.join()
    assert shown.notes == ["the interrupt came while the snapshot was taken; the snapshot is complete"]
    kernel.end()
    assert frontend.run_all(SLOW, "slow.n")[-1].text == '{"text/plain": "5"}'
    assert frontend.ran() == {"a": 1}


def when(file: Path, act: Callable[[], Any]) -> None:
    """Do that once the file is there."""
    end = time.monotonic() + WAIT_S
    while not file.exists() and time.monotonic() < end:
        time.sleep(0.02)
    act()


@pytest.mark.nightly
def test_a_finished_cell_that_is_run_once_more_runs_for_real(frontend: Frontend) -> None:
    cells = ["ran('a'); x = [1]", "ran('b'); x.append(2)", "ran('c'); x.append(3)"]
    frontend.run_all(*cells)
    frontend.kernels[-1].end()
    kernel = frontend.host()
    frontend.run_all(*cells[:2], kernel=kernel)
    assert kernel.run(cells[1], "c2").outputs == []
    assert kernel.run("x", "c9").text == '{"text/plain": "[1, 2, 2]"}'
    assert frontend.ran() == {"a": 1, "b": 2, "c": 1}
    kernel.end()
    shown = frontend.run_all(*cells[:2], cells[1], "x", cells[2])
    assert shown[-2].text == '{"text/plain": "[1, 2, 2]"}'
    assert frontend.ran() == {"a": 1, "b": 2, "c": 2}, "the chain is that of the newest kernel"


ELSEWHERE = SETUP.replace("%load", "if 'NODE' in os.environ:\n    import uuid; uuid.getnode = lambda: 7\n%load")


def test_packages_are_installed_on_another_machine_and_nothing_else_runs(frontend: Frontend) -> None:
    frontend.setup = ELSEWHERE
    cells = ("ran('a'); x = 1", "!{sys.executable} -m pip install --help > $MARKS/help; echo once >> $MARKS/installed",
             "ran('b'); x += 1", "die('here')\nx")  # fmt: skip
    frontend.run_all("import sys", *cells)
    frontend.run_all("import sys", *cells, NODE="7")
    frontend.kernels[-1].end()
    shown = frontend.run_all("import sys", *cells, NODE="7")
    assert shown[-1].text == '{"text/plain": "2"}'
    assert frontend.ran() == {"a": 1, "b": 1}
    assert (frontend.marks / "installed").read_text() == "once\nonce\n"


@pytest.mark.each_python
def test_a_loop_resumes_and_the_cells_before_it_do_not_run(frontend: Frontend) -> None:
    cells = (
        "ran('a'); state = {'n': 0}",
        "for n in city.loop(range(6), state, every=1):\n    ran(f'b{n}')\n    state['n'] += n\n    print(n)\n"
        "    if n == 3: die('here')",
        "ran('c'); print(state)",
    )
    assert len(frontend.run_all(*cells)) == 3
    shown = frontend.run_all(*cells)
    assert shown[2].text == "0\n1\n2\n3\n4\n5\n"
    assert shown[3].text == "{'n': 15}\n"
    assert frontend.ran() == {"a": 1, "b0": 1, "b1": 1, "b2": 1, "b3": 2, "b4": 1, "b5": 1, "c": 1}
    frontend.kernels[-1].end()
    again = frontend.run_all(*cells, "city.finish()")
    assert [cell.outputs for cell in again[1:4]] == [cell.outputs for cell in shown[1:]], (
        "a resumed cell is recorded whole"
    )
    assert frontend.ran()["c"] == 1
    frontend.kernels[-1].end()
    new = frontend.run_all(*cells)
    assert frontend.ran()["a"] == 2, "the run has ended: another begins"
    assert "cells that finish from here on" in new[0].notes[0]


def test_an_edited_loop_says_so_in_another_kernel_and_in_the_same_one(frontend: Frontend) -> None:
    cells = [
        "lr = 1",
        "state = {'w': 0}",
        "for n in city.loop(range(6), state, every=1):\n    state['w'] += lr\n    if n == 3: die('here')\n"
        "    assert n < 4 or 'mended' in globals()",
    ]
    frontend.run_all(*cells)
    edited = ["lr = 10  # faster", cells[1], "# a comment\n" + cells[2]]
    shown = frontend.run_all(*edited)
    (stream, text), error = shown[-1].outputs
    assert stream == "stderr"
    assert "'c3:0' was edited since it was saved: lr = 1 → lr = 10; the new code runs from step 3 on" in text
    assert error[1] == "AssertionError"
    kernel = frontend.kernels[-1]
    assert kernel.run("lr, mended = 100, True", "c1").outputs == []
    (output,) = kernel.run(edited[2], "c3").outputs
    assert "lr = 10 → lr = 100; the new code runs from step 4 on" in output[1], "what ran before it died is in the text"
    assert kernel.run("print(state)", "c4").text == "{'w': 213}\n"


@pytest.mark.nightly
def test_cells_without_a_snapshot_run_again_once_they_are_needed(frontend: Frontend) -> None:
    frontend.setup = SHARED
    cells = ("ran('a'); x = [1]", "share(0); ran('b'); x.append(2); print('b', x)", "ran('c')\nx.append(3)",
             "share(1e30); ran('d')\nx.append(4)", "die('here')")  # fmt: skip
    frontend.run_all(*cells)
    kernel = frontend.host()
    shown = frontend.run_all(*cells[:2], kernel=kernel)
    assert shown[2].text == "b [1, 2]\n"
    look = kernel.run("print(x)", "look")
    assert look.text == "b [1, 2]\n[1, 2]\n"
    assert [note.partition(" (")[0] for note in look.notes] == [
        "variables restored as [2] left them", "no snapshot after [3]: re-run here"
    ]  # fmt: skip
    assert kernel.run(cells[2], "c3").notes[0].startswith("finished")
    assert kernel.run(cells[3], "c4").notes[0].startswith("variables restored as [6] left them")
    assert kernel.run("x", "c5").text == '{"text/plain": "[1, 2, 3, 4]"}'
    assert frontend.ran() == {"a": 1, "b": 2, "c": 1, "d": 1}


@pytest.mark.nightly
def test_a_tagged_cell_runs_again_once_the_variables_are_back(frontend: Frontend) -> None:
    again = Cell("ran('b'); x.append(2); print('b', x)", ("qcity-rerun", "other"))
    cells = ("ran('a'); x = [1]", again, "ran('c'); x.append(3)", "die('here'); ran('d'); print(x)")
    assert frontend.run_all(*cells)[2].text == "b [1, 2]\n"
    shown = frontend.run_all(*cells)
    assert shown[2].notes[0].endswith("; qcity-rerun: it is re-run once the variables are restored")
    assert shown[3].text == "b [1, 2, 3, 2]\n"
    assert "tagged qcity-rerun: [3]: re-run here" in shown[3].notes
    assert shown[4].text == "[1, 2, 3, 2]\n"
    assert frontend.ran() == {"a": 1, "b": 2, "c": 1, "d": 1}


@pytest.mark.nightly
def test_a_tagged_cell_without_a_snapshot_runs_again_once(frontend: Frontend) -> None:
    frontend.setup = SHARED
    again = Cell("share(0); ran('b'); x.append(2)", ("qcity-rerun",))
    cells = ("ran('a'); x = [1]", again, "ran('c'); x.append(3)", "share(1e30); ran('d'); x.append(4)", "die('here')")
    frontend.run_all(*cells)
    kernel = frontend.host()
    frontend.run_all(*cells[:2], kernel=kernel)
    assert kernel.run("print(x)", "look").text == "[1, 2]\n"
    kernel.run(cells[2], "c3")
    look = kernel.run("print(x)", "look", ("hide-input",))
    assert look.text == "[1, 2, 3]\n"
    assert look.notes == ["no snapshot after [5]: re-run here"]
    assert kernel.run(cells[3], "c4").notes[-1].startswith("finished"), "what looks is no cell, whatever its other tags"
    assert frontend.ran() == {"a": 1, "b": 3, "c": 2, "d": 1}, "once before its snapshot, once after it"


@pytest.mark.nightly
def test_after_a_cell_tagged_so_no_snapshot_is_taken(frontend: Frontend) -> None:
    cells = ("ran('a'); x = [1]", Cell("ran('b'); x.append(2)", ("qcity-skip-snapshot",)), "die('here'); print(x)")
    frontend.run_all(*cells)
    shown = frontend.run_all(*cells)
    assert shown[1].notes[0].startswith("variables restored as [2] left them")
    assert shown[3].text == "[1, 2]\n"
    assert frontend.ran() == {"a": 1, "b": 2}


def test_a_cell_that_must_not_run_twice_is_refused(frontend: Frontend) -> None:
    once = Cell("ran('b'); die('here'); x.append(2)", ("qcity-once",))
    cells = ("ran('a'); x = [1]", once, "die('there'); ran('c'); print(x)")
    frontend.run_all(*cells)
    kernel = frontend.host()
    (_, kind, refused) = frontend.run_all(*cells, kernel=kernel)[2].outputs[0]
    assert kind == "InputRejected"
    assert "must not run twice (qcity-once), and began at 20" in refused
    assert "if not, remove the tag and run it" in refused
    kernel.run(once.source, "c2")  # a person checked, and removed the tag
    assert kernel.run(cells[2], "c3").number is None, "it dies there"
    shown = frontend.run_all(*cells)
    assert shown[2].notes[-1].startswith("finished in an earlier kernel"), "with the tag or without"
    assert shown[3].text == "[1, 2]\n"
    assert frontend.kernels[-1].run(once.source, "c2", once.tags).outputs[0][1] == "InputRejected"
    assert frontend.ran() == {"a": 1, "b": 2, "c": 1}


@pytest.mark.nightly
def test_a_cell_that_must_not_run_twice_and_ended_is_skipped(frontend: Frontend) -> None:
    cells = ("ran('a'); x = [1]", Cell("ran('b'); x.append(2)", ("qcity-once",)), "die('here'); ran('c'); print(x)")
    frontend.run_all(*cells)
    assert frontend.run_all(*cells)[3].text == "[1, 2]\n"
    assert frontend.ran() == {"a": 1, "b": 1, "c": 1}


def test_a_tag_that_is_not_there_is_said(frontend: Frontend) -> None:
    assert frontend.run_all(Cell("x = 1", ("qcity-onse",)))[1].notes == [
        "There is no tag qcity-onse: the tags are qcity-rerun, qcity-once, qcity-skip-snapshot."
    ]


def test_a_snapshot_that_cannot_be_read_means_that_the_cells_run_again(frontend: Frontend) -> None:
    cells = ("ran('a'); x = 5", "ran('b'); x += 1; print('b')", "die('here'); x")
    frontend.run_all(*cells)
    kernel = frontend.host()
    kernel.run(frontend.setup.strip(), "c0")
    for pack in frontend.folder.rglob("*.pack"):
        pack.chmod(0o600)
        pack.write_bytes(bytes(pack.stat().st_size))
    shown = [kernel.run(source, f"c{n + 1}") for n, source in enumerate(cells)]
    assert shown[1].text == "b\n"
    assert any("could not be restored" in note for note in shown[1].notes)
    assert shown[2].text == '{"text/plain": "6"}'
    assert frontend.ran() == {"a": 2, "b": 2}


@pytest.mark.nightly
def test_an_edit_before_the_extension_is_seen(frontend: Frontend) -> None:
    frontend.run_all("ran('a'); x = 5", "die('here')")
    frontend.setup = "rate = 2\n" + SETUP
    shown = frontend.run_all("ran('a'); x = 5")
    assert "1 cell has finished, but a cell before %load_ext is new or edited: all are re-run" in shown[0].notes[0]
    assert frontend.ran() == {"a": 2}


@pytest.mark.nightly
def test_what_the_setup_makes_and_cannot_be_saved_stays(frontend: Frontend) -> None:
    frontend.setup = (
        "import threading, itertools\nworker = threading.Thread(target=print)\nnumbers = (n for n in range(9))\n"
        + SETUP
    )
    frontend.run_all("ran('a'); first = next(numbers)", "die('here')")
    shown = frontend.run_all("ran('a'); first = next(numbers)", "print(first, worker.is_alive())", "next(numbers)")
    assert shown[2].text == "0 False\n"
    assert shown[3].outputs[0][1] == "VariableLost"
    assert frontend.ran() == {"a": 1}


@pytest.mark.nightly
def test_start_over(frontend: Frontend) -> None:
    frontend.run_all("ran('a')", "die('here')")
    kernel = frontend.host()
    shown = frontend.run_all(
        "ran('a')", "city = qcity.up(run='train', fresh=True)", "ran('b')", "x = 1; die('there')", kernel=kernel
    )
    assert shown[2].notes[0].startswith("run train-")
    assert frontend.ran() == {"a": 1, "b": 1}
    frontend.setup = SETUP.replace('"train"', '"train", fresh=True')
    frontend.run_all("ran('a')")
    assert frontend.ran()["a"] == 2


def test_where_the_run_cannot_be_determined_one_line_says_what_to_do(frontend: Frontend) -> None:
    kernel = frontend.host()
    frontend.marks.mkdir(exist_ok=True)
    shown = kernel.run("%load_ext qcity_nb", "c0")
    assert shown.text.startswith("UsageError: ") or shown.outputs[-1][0] == "error"
    text = shown.text + "".join(output[-1] for output in shown.outputs)
    assert 'qcity.up(run="train"); then %load_ext qcity_nb' in text
    assert kernel.run("import qcity_nb as qcity; city = qcity.up(run='train')", "c1").outputs == []
    assert kernel.run("%load_ext qcity_nb", "c2").notes[0].startswith("run train-")
    kernel.run("x = 1", "c3")
    assert kernel.run("%unload_ext qcity_nb", "c4").outputs == []
    left = kernel.run("ip = get_ipython(); print(ip.ast_transformers, len(ip.events.callbacks['pre_run_cell']))", "c5")
    assert left.text.startswith("[] 1")
    kernel.run("x = 2", "c6")
    kernel.end()
    cells = ["import qcity_nb as qcity; city = qcity.up(run='train')", "%load_ext qcity_nb", "x = 1", "x"]
    other = frontend.host()
    assert [other.run(source, f"c{n}") for n, source in enumerate(cells, 1)][-1].text == '{"text/plain": "1"}'


@pytest.mark.nightly
def test_under_the_engine_it_does_nothing(tmp_path: Path) -> None:
    world = ResumeWorld(tmp_path / "p")
    world.write("%load_ext qcity_nb", "x = 1\nprint(get_ipython().ast_transformers)", "die('here')\nprint(x)")
    world.attempt(code=138)
    world.attempt()
    assert world.shown()[1:] == [[], ["[]\n"], ["1\n"]]
    assert world.ran()[2:] == [0, 1, 2][1:]


@pytest.mark.nightly
def test_widgets_of_skipped_cells_show_their_text_and_live_when_run_again(frontend: Frontend) -> None:
    cells = (
        "ran('a'); x = [1]",
        "import ipywidgets\nran('b'); slider = ipywidgets.IntSlider(value=3)\nslider",
        "die('here')\nran('c'); print(x)",
    )
    view = "application/vnd.jupyter.widget-view+json"
    assert view in frontend.run_all(*cells)[2].text
    kernel = frontend.host()
    shown = frontend.run_all(*cells, kernel=kernel)
    assert shown[2].notes[-1].endswith("; its widgets are not live: run it again to get live ones")
    assert "IntSlider(value=3)" in shown[2].text
    assert view not in shown[2].text
    assert shown[1].notes[0].endswith("; run it again to execute it")
    assert view in kernel.run(cells[1], "c2").text
    assert kernel.run("slider.value + x[0]", "c4").text == '{"text/plain": "4"}'
    assert frontend.ran() == {"a": 1, "b": 2, "c": 1}


@pytest.mark.each_python
def test_settings_and_magics_of_skipped_cells_hold(frontend: Frontend) -> None:
    cells = (
        "%precision 2\nran('a')",
        "import sys, warnings; sys.setrecursionlimit(4321); warnings.filterwarnings('ignore', 'dull')",
        "die('here')\nwarnings.warn('dull'); print(sys.getrecursionlimit())\n1 / 3",
    )
    frontend.run_all(*cells)
    again = frontend.run_all(*cells)
    assert frontend.ran() == {"a": 1}
    assert again[3].text == '4321\n{"text/plain": "0.33"}'
    assert not any(kind == "stderr" for kind, *_ in again[3].outputs)
