"""What papermill and pickle do not survive, row by row, and the test that shows what we make of it.

papermill and nbclient:

    the kernel is killed in a cell                     system/test_papermill_ways.py::test_options_mean_what_they_mean_in_papermill_also_after_a_death
    papermill is killed                                system/test_failure_table.py::test_what_a_papermill_that_ends_leaves_and_how_it_goes_on
    papermill is terminated                            system/test_failure_table.py::test_what_a_papermill_that_ends_leaves_and_how_it_goes_on
    papermill is interrupted                           system/test_failure_table.py::test_what_a_papermill_that_ends_leaves_and_how_it_goes_on
    a host dies at any moment                          system/test_kill_cells.py::test_directory
    cells that never ran are called completed          system/test_failure_table.py::test_papermill_s_word_for_a_cell_is_not_taken
    a cell times out, and is called completed          system/test_papermill_ways.py::test_a_time_out_is_papermill_s_and_holds_for_the_cells_that_run
    a start wipes all outputs and saves                system/test_failure_table.py::test_each_kind_of_object_after_two_deaths
    the notebook is not written atomically             unit/engine/test_notebook_writer.py::test_a_write_that_is_cut_off_leaves_the_old_notebook
    on_cell_complete fires when a cell was sent        system/test_resume_plan.py::test_a_cell_that_failed_runs_again_and_those_before_do_not
    engines are found by their entry point             system/test_resume_plan.py::test_finished_cells_are_skipped_and_show_what_they_showed
    papermill is slow to import                        test_import_light.py::test_the_package_alone_loads_next_to_nothing
    no kernelspec: papermill with -k                   system/test_papermill_ways.py::test_options_mean_what_they_mean_in_papermill_also_after_a_death
    no kernelspec: qcity run                           system/test_bad_notebook.py::test_sigterm_to_the_attempt_drains_and_is_relaunched
    another language's kernel                          system/test_resume_plan.py::test_a_kernel_without_snapshots_runs_all_cells_and_says_so
    requests between cells leave no history            system/test_resume_plan.py::test_finished_cells_are_skipped_and_show_what_they_showed
    outputs before a mark, in order                    system/test_kernel_outputs.py::test_a_killed_notebook_shows_what_an_uninterrupted_one_shows

Objects in a new process, in a kernel and alone:

    open file                                          system/test_failure_table.py::test_each_kind_of_object_after_two_deaths
    open file, alone                                   unit/namespace/handlers/test_registry.py::test_files_are_reopened_where_they_were
    open file that is gone or another                  unit/namespace/handlers/test_registry.py::test_a_file_that_is_not_what_it_was_is_not_saved
    temp file, mmap, socket, zmq, cursor, Popen        system/test_failure_table.py::test_each_kind_of_object_after_two_deaths
    temp file, mmap, socket, Popen, alone              unit/namespace/handlers/test_registry.py::test_what_lives_in_one_process_is_not_saved
    Lock, RLock, Event, Condition, Queue               system/test_failure_table.py::test_each_kind_of_object_after_two_deaths
    locks, alone                                       unit/namespace/handlers/test_registry.py::test_locks_are_fresh_and_unlocked
    queues, alone                                      unit/namespace/handlers/test_registry.py::test_queues_keep_what_they_hold
    generator, coroutine, frame                        system/test_failure_table.py::test_each_kind_of_object_after_two_deaths
    generator that is needed: re-created               system/test_resume_plan.py::test_what_cannot_be_saved_is_re_created_where_it_is_needed
    Thread, executor, event loop                       system/test_failure_table.py::test_each_kind_of_object_after_two_deaths
    Thread that is used though it is lost              system/test_resume_plan.py::test_what_cannot_be_saved_and_is_not_needed_is_an_error_that_says_so
    sqlite file connection                             system/test_failure_table.py::test_each_kind_of_object_after_two_deaths
    sqlite file connection in a transaction            unit/namespace/handlers/test_registry.py::test_a_database_is_opened_again
    DataLoader and its iterator                        system/test_failure_table.py::test_each_kind_of_object_after_two_deaths
    torch.jit.script module                            system/test_failure_table.py::test_each_kind_of_object_after_two_deaths
    torch.jit.script module, alone                     unit/namespace/handlers/test_registry.py::test_torchscript_is_saved_its_own_way
    tensor with an autograd graph                      system/test_failure_table.py::test_each_kind_of_object_after_two_deaths
    ipywidgets                                         system/test_failure_table.py::test_each_kind_of_object_after_two_deaths
    ipywidgets, alone                                  unit/namespace/handlers/test_registry.py::test_widgets_are_not_saved
    lambda, partial, regex, figure, Linear, RNG, ...   system/test_failure_table.py::test_each_kind_of_object_after_two_deaths
    one bad object spoils the rest                     unit/namespace/test_snapshot.py::test_one_bad_variable_hinders_no_other
    functions see later assignments                    system/test_resume_plan.py::test_finished_cells_are_skipped_and_show_what_they_showed
    shared objects and memory                          unit/namespace/test_snapshot.py::test_what_is_shared_is_kept_together
    tied weights and their optimizer                   unit/namespace/test_snapshot.py::test_models_come_back_whole_with_their_optimizer
    a cell that must not run twice                     system/test_resume_plan.py::test_a_cell_that_must_not_run_twice_asks
    packages of an earlier machine                     system/test_resume_plan.py::test_packages_are_installed_on_a_new_machine_before_the_variables_come_back
"""  # noqa: E501  # a table: one row a line

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from resume_world import DIED, ROOT, ResumeWorld

from qcity_nb.run.processes import is_alive

pytestmark = [pytest.mark.kernel, pytest.mark.kill, pytest.mark.timeout(180)]

Papermills = dict[str, tuple[ResumeWorld, subprocess.Popen[str]]]

TESTS = Path(__file__).parents[1]
HERE = "system/test_failure_table.py"


def rows() -> list[tuple[str, str, str]]:
    return re.findall(r"^ {4}(\S.*?)  +(\S+\.py)::(\w+)$", __doc__, re.MULTILINE)


def test_the_table_names_tests_that_there_are() -> None:
    listed = rows()
    assert len(listed) == sum(line.startswith("    ") for line in __doc__.splitlines())
    assert len({what for what, _, _ in listed}) == len(listed)
    for what, file, name in listed:
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name in names, f"{what}: {file} has no {name}"
    mine = {name for name in globals() if name.startswith("test_")} - {"test_the_table_names_tests_that_there_are"}
    assert mine == {name for _, file, name in listed if file == HERE}


# ------------------------------------------------------------------ papermill's ends

CALM = "import os, time\nfrom pathlib import Path\n_ = Path('pid').write_text(str(os.getpid()))"
LONG = """
_ = Path('begun').touch()
until = time.monotonic() + 60
while not Path('go').exists() and time.monotonic() < until:
    time.sleep(0.05)
"""


def is_gone(pid: int) -> bool:
    return not is_alive(pid)


def statuses(world: ResumeWorld) -> list[str]:
    return [cell.metadata.papermill["status"] for cell in world.book.cells]


@pytest.fixture
def papermills() -> Iterator[Papermills]:
    started: Papermills = {}
    yield started
    for _, process in started.values():
        process.kill()
        process.communicate()


SAVED = {"QCITY_SNAPSHOT_TIME_SHARE": "1000"}
"""A snapshot after each cell, however busy the machine is."""


def start(world: ResumeWorld, *options: str, **more: str) -> subprocess.Popen[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("QCITY_")}
    path = os.pathsep.join([str(ROOT), environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "papermill", "--engine", "qcity", "in.ipynb", "out.ipynb", "--no-progress-bar"]
    return subprocess.Popen(
        [*command, *options],
        cwd=world.folder,
        env={
            **environ,
            "PYTHONPATH": path,
            "IPYTHONDIR": str(world.folder / "ipython"),
            "MPLBACKEND": "",
            **SAVED,
            **more,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_what_a_papermill_that_ends_leaves_and_how_it_goes_on(tmp_path: Path, papermills: Papermills) -> None:
    """Three at once, each ended in another way. papermill calls all cells completed when it is interrupted."""
    for name in ("SIGKILL", "SIGTERM", "SIGINT"):
        world = ResumeWorld(tmp_path / name, extra='stop_grace = "1s"\n')
        world.write("x = 1\nprint('kept')", LONG, "print('end', x)", first=CALM)
        papermills[name] = (world, start(world))
    for name, (world, process) in papermills.items():
        world.until((world.folder / "begun").exists)
        process.send_signal(getattr(signal, name))
    for name, (world, process) in papermills.items():
        _, err = process.communicate(timeout=60)
        assert process.returncode == {"SIGKILL": -signal.SIGKILL}.get(name, 1), (name, err)
        left = "running" if name == "SIGKILL" else "failed"
        assert statuses(world) == ["completed", "completed", left, "pending"], name
        assert world.shown()[1] == ["kept\n"], name
        pid = int((world.folder / "pid").read_text())
        world.until(partial(is_gone, pid))
        if name != "SIGKILL":
            assert f"RunStopped: {'terminated' if name == 'SIGTERM' else 'interrupted'}" in err
        (world.folder / "go").touch()
    for name, (world, _) in papermills.items():
        papermills[name] = (world, start(world))
    for name, (world, process) in papermills.items():
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, (name, err)
        assert world.ran() == [1, 1, 2, 1], name
        assert world.shown()[1:] == [["kept\n"], [], ["end 1\n"]], name
        assert world.head.state == "succeeded", name


def test_papermill_s_word_for_a_cell_is_not_taken(tmp_path: Path) -> None:
    """Its own engine says that all cells are completed, though the kernel died in the second."""
    world = ResumeWorld(tmp_path / "p")
    world.write("x = 1", "die('here')\nprint(x)")
    world.attempt("--engine", "nbclient", code=DIED)
    assert statuses(world) == ["completed"] * 3
    (world.folder / "out.ipynb").rename(world.folder / "in.ipynb")
    world.attempt()
    assert world.ran() == [2, 2, 2]
    assert world.shown()[2] == ["1\n"]


# ------------------------------------------------------------------ objects

IMPORTS = """
import asyncio, concurrent.futures, functools, importlib.util, logging, mmap, queue, re, socket, sqlite3, subprocess
import sys, tempfile, threading, warnings
import numpy as np, torch, zmq
from qcity_nb.errors import VariableLost
warnings.simplefilter('ignore')
"""
KEPT = """
print('made')
log = open('log.txt', 'w')
_ = log.write('one\\n')
base = sqlite3.connect('base.db')
with base:
    _ = base.execute('create table t (n)'), base.execute('insert into t values (7)')
data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.arange(4.0)), batch_size=2)
script = torch.jit.script(torch.nn.Linear(2, 1))
lock, rlock, event, condition = threading.Lock(), threading.RLock(), threading.Event(), threading.Condition()
_ = lock.acquire(), rlock.acquire(), event.set(), condition.acquire()
line = queue.Queue()
line.put('waits')
twice = lambda n: 2 * n
part, pattern, rng = functools.partial(int, base=2), re.compile('a+'), np.random.default_rng(3)
_ = rng.random()
net = torch.nn.Linear(2, 1)
optimizer = torch.optim.Adam(net.parameters())
logger = logging.getLogger('mine')
figure = axes = None
if importlib.util.find_spec('matplotlib'):
    from matplotlib.figure import Figure
    figure = Figure()
    axes = figure.subplots()
"""
LOST = """
def generate():
    yield 1
async def wait(): ...
lost_temp = tempfile.NamedTemporaryFile()
lost_mmap = mmap.mmap(-1, 10)
lost_socket = socket.socket()
lost_context = zmq.Context()
lost_zmq = lost_context.socket(zmq.PUB)
lost_cursor = base.cursor()
lost_popen = subprocess.Popen([sys.executable, '-c', ''])
lost_generator = generate()
lost_coroutine = wait()
lost_frame = sys._getframe()
lost_thread = threading.Thread(target=print)
lost_executor = concurrent.futures.ThreadPoolExecutor(1)
lost_loop = asyncio.new_event_loop()
lost_iterator = iter(data)
lost_loss = torch.ones(2, requires_grad=True) * 2
if importlib.util.find_spec('ipywidgets'):
    import ipywidgets
    lost_widget = ipywidgets.IntSlider()
"""
RETRY_FACTOR = "numbers = (n * n for n in range(5))\nnext(numbers)"
USE = """
_ = log.write('two\\n'), log.flush()
die('here')
log.close()
print(Path('log.txt').read_text().split(), base.execute('select n from t').fetchall(), [len(one[0]) for one in data])
print(script(torch.ones(1, 2)).shape, lock.acquire(timeout=1), rlock.acquire(timeout=1), event.is_set())
print(condition.acquire(timeout=1), line.get_nowait(), twice(4), part('101'), pattern.findall('baab'), rng.random())
print(optimizer.param_groups[0]['params'][0] is net.weight, logger is logging.getLogger('mine'))
print(figure is None or figure.axes == [axes])
print(list(numbers))
"""
LOSSES = """
said = {}
for kind in sorted(name[5:] for name in list(globals()) if name.startswith('lo' + 'st_')):
    try:
        said[kind] = repr(globals()['lo' + f'st_{kind}'])
    except VariableLost as error:
        said[kind] = str(error)
print(json.dumps(said))
"""
WHY = {
    "temp": "a temporary file goes with its process",
    "mmap": "map the file again",
    "socket": "a socket lives only in this process",
    "context": "its sockets live only in this process",
    "zmq": "a socket lives only in this process",
    "cursor": "a cursor belongs to a connection of this process",
    "popen": "handle of a process",
    "generator": "a generator's frame lives only in this process",
    "coroutine": "a coroutine's frame lives only in this process",
    "frame": "a frame lives only in this process",
    "thread": "a thread runs only in this process",
    "executor": "an executor's workers",
    "loop": "an event loop runs only in this process",
    "iterator": "StatefulDataLoader",
    "loss": "autograd graph",
    "widget": "front end",
}


@pytest.mark.nightly  # a minute; test_registry.py has each kind alone
def test_each_kind_of_object_after_two_deaths(tmp_path: Path, papermills: Papermills) -> None:
    """Restored, fresh, re-created or ``VariableLost``. The second death comes before the second kernel is there."""
    world = ResumeWorld(tmp_path / "p")
    world.write(IMPORTS, KEPT, LOST, RETRY_FACTOR, USE, "import json\n" + LOSSES)
    world.attempt(code=DIED)
    assert world.shown()[2] == ["made\n"]
    spec = world.folder / "data" / "kernels" / "idle"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(
        json.dumps({"argv": ["sleep", "50"], "display_name": "idle", "language": "python"})
    )
    second = start(world, "-k", "idle", JUPYTER_PATH=str(world.folder / "data"))
    papermills["second"] = (world, second)
    world.until(lambda: world.head.term == 2)
    second.kill()
    second.communicate()
    assert world.shown()[2] == ["made\n"], "papermill by itself would have wiped it when it starts"
    world.attempt()
    assert world.ran() == [1, 1, 1, 1, 2, 2, 1]
    shown = world.shown()
    assert shown[2] == ["made\n"]
    rng = np.random.default_rng(3)
    rng.random()
    assert shown[5][0].splitlines() == [
        "['one', 'two'] [(7,)] [2, 2]",
        "torch.Size([1, 1]) True True True",
        f"True waits 8 5 ['aa'] {rng.random()}",
        "True True",
        "True",
        "[1, 4, 9, 16]",
    ]
    outcome_of: dict[str, Any] = json.loads(shown[6][0])
    assert outcome_of.keys() | {"widget"} == WHY.keys()
    for kind, text in outcome_of.items():
        assert WHY[kind] in text, (kind, text)
        assert text.startswith(f"lost_{kind} (a "), text
        assert "is not here since the restart" in text
