"""Machines that tests may kill: a workload, a supervisor that runs it again, and what must be true at the end."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import json_lines
import nbformat

from qcity_nb.kernel.output_recorder import PANEL_MIME
from qcity_nb.records import Head
from qcity_nb.run import lease
from qcity_nb.stores import open_store
from qcity_nb.testing import chaos

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
HEARTBEAT_S, TTL_S, PUBLISH_S = 0.2, 1.5, 0.3
"""Small, so that a test is short; ttl is the design's five publish intervals."""
ITERATIONS = 12
ATTEMPTS = 6
"""More deaths than any plan holds mean that the run does not get on."""


CELLS = (
    """# A first cell, which is run again: it says that an attempt begins.
import os
from train import *
note('try 0')
print('imported')""",
    """random.seed(5)
np.random.seed(6)
state, step = numpy_state()
city = qcity.up()
city.log(begun=1.0)
city.panel()
print('before the loop', state['t'])""",
    """print('the loop begins')
for i in city.loop(range(ITERATIONS), state=state, every=1):
    note(f'start {i}')
    loss = step()
    city.log(loss=loss, third=float(i // 3))
    city.log(third=float(i // 3))
    print(f'{i}: {loss!r}')
    if i % 4 == 3:
        display({'text/plain': f'after {i + 1}', 'text/html': f'<b>{i + 1}</b>'}, raw=True)
    time.sleep(0.06)
    note(f'done {i}')
print('the loop has ended')""",
    "city.log(ended=2.0)\ncome_to(state, [random.random(), float(np.random.random())])\ndigest(state)",
)
"""The workload as a notebook: streams, displays, a panel of ours, and a last result."""


def notebook() -> Any:
    """The notebook; the same ids each time, so that it is the same notebook."""
    cells = [nbformat.v4.new_code_cell(source, id=f"cell-{n}") for n, source in enumerate(CELLS)]
    cells[0].metadata["tags"] = ["qcity-rerun"]
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python"}})


def outputs(data: str) -> list[list[Any]]:
    """What each cell of an executed notebook shows, our own displays and the pieces of streams aside."""
    shown: list[list[Any]] = []
    for cell in nbformat.reads(data, as_version=4).cells:
        mine: list[Any] = []
        for output in cell.outputs:
            if PANEL_MIME in output.get("data", {}):
                continue
            if output.output_type == "stream":
                if mine and mine[-1][0] == output.name:
                    mine[-1] = (output.name, mine[-1][1] + output.text)
                else:
                    mine.append((output.name, output.text))
            else:
                mine.append((output.output_type, dict(output.data)))
        shown.append(mine)
    return shown


@dataclass(slots=True)
class World:
    """A store and a tracker that outlive every machine, and the machine of the day."""

    root: Path
    tracking: str
    project: str = "killed"
    machine: int = 0
    codes: list[int] = field(default_factory=list)
    strikes: list[int] = field(default_factory=list)
    """How many points had been hit when each attempt ended."""
    is_torch: bool = False
    is_notebook: bool = False
    every: int = 1
    published: list[int] = field(default_factory=list)
    """The step that the store was at when each machine was dead."""

    @property
    def store(self) -> Path:
        """Not on any machine."""
        return self.root / "store"

    @property
    def here(self) -> Path:
        """The machine's own disk: the project's working directory and the local tier."""
        return self.root / f"machine-{self.machine}"

    @property
    def log(self) -> Path:
        """Which iterations were begun and ended."""
        return self.root / "executions"

    @property
    def hits(self) -> Path:
        """The crash points that were hit."""
        return self.root / "hits"

    @property
    def final(self) -> Path:
        """What the workload came to."""
        return self.root / "final.json"

    def environ(self, plan: chaos.Plan) -> dict[str, str]:
        """The environment of whatever runs on this machine."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("QCITY_", "KILL_", "MLFLOW_"))
        }
        return {
            **kept,
            "PYTHONPATH": os.pathsep.join([str(ROOT), kept.get("PYTHONPATH", "")]),
            "QCITY_STORE": str(self.store),
            "QCITY_LOCAL_DIR": str(self.here / "local"),
            "QCITY_TRACKING": self.tracking,
            "QCITY_HEARTBEAT": str(HEARTBEAT_S),
            "QCITY_TTL": str(TTL_S),
            "QCITY_PUBLISH": str(PUBLISH_S),
            "QCITY_CHAOS": plan.dumps(),
            "KILL_LOG": str(self.log),
            "KILL_FINAL": str(self.final),
            "KILL_NODE": f"machine-{self.machine}" if self.machine else "",
            "KILL_TORCH": "1" if self.is_torch else "",
            "KILL_EVERY": str(self.every),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }

    def build(self) -> Path:
        """A fresh machine: a clone of the project, nothing else."""
        work = self.here / "work"
        if not work.exists():
            work.mkdir(parents=True)
            (work / "pyproject.toml").write_text(f'[tool.qcity]\nproject = "{self.project}"\n')
            shutil.copy(HERE / "kill_workload.py", work / "train.py")
            nbformat.write(notebook(), work / "train.ipynb")
        return work

    def bury(self) -> None:
        """The machine is dead: its directories are gone, and the next one has another name."""
        shutil.rmtree(self.here)
        self.machine += 1

    def attempt(self, plan: chaos.Plan) -> int:
        """One try of the script, or of ``qcity run``, on the machine; its exit code, negative for a signal."""
        work = self.build()
        command = ["-m", "qcity_nb.cli", "run", "train.ipynb"] if self.is_notebook else ["train.py"]
        with (self.root / "output").open("ab") as output:
            done = subprocess.run(
                [sys.executable, *command],
                cwd=work,
                env=self.environ(plan),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=False,
                timeout=80,
            )
        self.codes.append(done.returncode)
        self.strikes.append(len(chaos.hits(self.hits)))
        return done.returncode

    def head(self) -> Head | None:
        """The run's head, if it was made yet."""
        store = open_store(str(self.store))
        runs = store.runs()
        assert len(runs) <= 1, f"one run was expected, {runs} were made"
        return lease.read(store, runs[0]).head if runs else None

    def supervise(self, plan: chaos.Plan, *, is_machine_dead: bool) -> None:
        """Run the script until its run has succeeded; after each death on the same machine, or on the next one."""
        for _ in range(ATTEMPTS):
            code = self.attempt(plan)
            if code == 0:
                break
            if is_machine_dead:
                wait_gone(self.root)  # nothing of a dead machine is left to write
                self.bury()
            head = self.head()
            self.published.append(head.checkpoint.step if head and head.checkpoint else 0)
            if head is not None and head.is_over:
                break  # it died after its end
        else:
            raise AssertionError(f"not done after {ATTEMPTS} attempts: {self.codes}\n{self.tail()}")

    @property
    def struck(self) -> list[str]:
        """The points at which the plan struck."""
        return [name for name, _ in chaos.struck(self.hits)]

    def tail(self) -> str:
        """What people need to see when it went wrong."""
        parts = [f"exit codes {self.codes}, hits {len(chaos.hits(self.hits))}"]
        if (self.root / "output").exists():
            parts.append((self.root / "output").read_text()[-3000:])
        for log in sorted(self.root.glob("machine-*/local/attempts/*/sidecar.log")):
            parts.append(f"{log.parent.name}: {log.read_text()[-1500:]}")
        for status in sorted(self.root.glob("machine-*/local/attempts/*/status.json")):
            parts.append(f"{status.parent.name}: {status.read_text()}")
        return "\n".join(parts)


def world_in(root: Path, template: Path | None = None, *, is_torch: bool = False, is_notebook: bool = False) -> World:
    """A world with an empty tracker of its own.

    Args:
        template: an MLflow database to copy. Without it the tracker is of JSON lines: an agent then starts without
            mlflow, whose import costs more than the whole of such a run.
    """
    tracking = f"jsonl://{root / 'tracked'}"
    if template is not None:
        shutil.copyfile(template, root / "mlflow.db")
        tracking = f"sqlite:///{root / 'mlflow.db'}"
    return World(root=root, tracking=tracking, is_torch=is_torch, is_notebook=is_notebook)


def processes(root: Path) -> dict[int, str]:
    """Every living process whose environment or command line names the world's directory."""
    command_of: dict[int, str] = {}
    path = str(root).encode()
    for folder in Path("/proc").glob("[0-9]*"):
        if int(folder.name) == os.getpid():
            continue
        try:
            command = (folder / "cmdline").read_bytes()
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if state not in "ZX" and (path in (folder / "environ").read_bytes() or path in command):
                command_of[int(folder.name)] = command.replace(b"\0", b" ").decode()
        except OSError:
            continue
    return command_of


def wait_gone(root: Path, *, within_s: float = 20.0) -> None:
    """Everything that the world started ends by itself."""
    until = time.monotonic() + within_s
    while left := processes(root):
        assert time.monotonic() < until, f"still there after {within_s:g} s: {left}"
        time.sleep(0.02)


Metrics = Counter[tuple[str, int, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracked:
    """What the tracker has of a world."""

    rows: Metrics
    params: Mapping[str, str]
    status: str


def tracked(tracking: str, experiment: str) -> Tracked:
    """The one run of the experiment, read from the files, or with MLflow's own client."""
    rows: Metrics = Counter()
    if tracking.startswith("jsonl://"):
        (folder,) = json_lines.runs(Path(tracking.removeprefix("jsonl://")))
        assert folder.parent.name == experiment
        found = json_lines.stored(folder)
        rows.update((key, step, float(value)) for key, value, _, step in found.rows)
        return Tracked(rows=rows, params=found.params, status=found.status)
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=tracking)
    experiment_ = client.get_experiment_by_name(experiment)
    assert experiment_ is not None, f"MLflow has no experiment {experiment}"
    runs = client.search_runs([experiment_.experiment_id])
    assert len(runs) == 1, f"one MLflow run was expected, there are {[run.data.tags for run in runs]}"
    for key in runs[0].data.metrics:
        rows.update((key, m.step, m.value) for m in client.get_metric_history(runs[0].info.run_id, key))
    return Tracked(rows=rows, params=runs[0].data.params, status=runs[0].info.status)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a run came to."""

    final: Any
    tracked: Tracked
    hits: list[tuple[str, int]]
    outputs: list[list[Any]]


def result(world: World) -> Result:
    """Everything that must not depend on who died when."""
    head = world.head()
    assert head is not None
    assert head.state == "succeeded", world.tail()
    assert head.holder is None
    return Result(
        final=json.loads(world.final.read_text()),
        tracked=tracked(world.tracking, world.project),
        hits=chaos.hits(world.hits),
        outputs=outputs(open_store(str(world.store)).get(head.run, head.executed).decode()) if head.executed else [],
    )


def uninterrupted(world: World) -> Result:
    """The workload with nobody killing it."""
    assert world.attempt(chaos.Plan(log=str(world.hits))) == 0, world.tail()
    wait_gone(world.root)
    return result(world)


def check(world: World, reference: Result, *, is_machine_dead: bool) -> None:
    """The promise: the same result, each row once, nobody left, no more work done again than allowed."""
    wait_gone(world.root)
    actual = result(world)
    assert actual.final == reference.final, f"weights or draws differ\n{world.tail()}"
    missing, extra = reference.tracked.rows - actual.tracked.rows, actual.tracked.rows - reference.tracked.rows
    assert not (missing | extra), f"missing {missing}, too many {extra}"
    assert actual.tracked.params == reference.tracked.params
    assert actual.tracked.status == "FINISHED"
    assert actual.outputs == reference.outputs, world.tail()
    check_executions(world, is_machine_dead=is_machine_dead)


def check_executions(world: World, *, is_machine_dead: bool) -> None:
    """Count what was executed.

    After a dead process, the next attempt begins with the iteration in flight or a later one: whatever was finished,
    which is when the next item was asked for and hence the next iteration begun, is never executed again.

    Only with ``every=1``. Otherwise a save is written while the loop continues, and the next one waits for it: after a
    dead process at most the iterations of two saves are executed again.

    After a dead machine it may go back by one publish interval. A publish takes the newest local checkpoint as it
    begins, so one that was confirmed holds at least everything that was saved before the publish before it was
    confirmed: nothing from before the last but one confirmed publish is executed again. In the log of crash points,
    which all processes append to, that is what had been saved (``local.after``) before the last but one
    ``publish.head.after`` that ends the publish of a checkpoint. Nor is anything that the store has.
    """
    attempts: list[list[tuple[str, int]]] = []
    for line in world.log.read_text().splitlines():
        word, number = line.split()
        if word == "try":
            attempts.append([])
        else:
            attempts[-1].append((word, int(number)))
    done = [number for attempt in attempts for word, number in attempt if word == "done"]
    assert sorted(set(done)) == list(range(max(done) + 1)), f"some iteration was never finished: {attempts}"
    reached, ended = 0, 0
    for n, attempt in enumerate(attempts):
        begun = [number for word, number in attempt if word == "start"]
        if begun:
            assert begun == list(range(begun[0], begun[0] + len(begun))), f"out of order: {attempts}"
            allowed = reached if world.every == 1 else reached - 2 * world.every
            assert begun[0] >= allowed, f"attempt {n} began with {begun[0]}; {allowed} was allowed: {attempts}"
        if not is_machine_dead:
            reached = max([reached, *begun])
            continue
        if n < len(world.published):
            published = world.published[n]
            hits = chaos.hits_by_thread(world.hits)[ended : world.strikes[n]]
            ended = world.strikes[n]
            must = _surely_published(hits, begun, is_first=reached == 0)
            assert published >= must, f"attempt {n} left {published} in the store, not {must}: {hits} {attempts}"
            reached = published


def _surely_published(hits: list[tuple[str, int, int]], begun: list[int], *, is_first: bool) -> int:
    """The iteration that the store must be at, by the rule of ``check_executions``."""
    if not begun:
        return 0
    kernel = next((pid for name, pid, _ in hits if name == "capture.before"), 0)
    saved: list[int] = []
    """How many checkpoints the kernel had saved when each publish was confirmed."""
    count, is_captured, sending, sender = 0, False, "", 0
    for name, pid, thread in hits:
        if pid == kernel:
            # Other saves, of rows logged outside loops, add no iteration.
            if name == "local.after" and is_captured:
                count, is_captured = count + 1, False
            is_captured = is_captured or name == "capture.after"
        elif name == "publish.pack":
            sending, sender = "packed", thread
        elif thread != sender:
            continue  # a beat, sent during a long upload: it confirms itself alone
        elif name == "publish.files.after" and sending:
            sending = "sent"
        elif name == "publish.head.after" and sending == "sent":
            sending = ""
            saved.append(count)
    if len(saved) < 2 or not saved[-2]:
        return 0
    # The first attempt saves once as the loop begins; every later save is that of one more iteration.
    return begun[0] + saved[-2] - (1 if is_first else 0)


def moments(rng: random.Random, quiet: Result, world: World, action: chaos.Action) -> chaos.Plan:
    """A plan that strikes at one of the quiet run's hits, and in a third of the cases again while that is mended.

    Writes of the run record alone are heartbeats, whose number depends on how fast this machine is; without them, a
    run has at
    least so many hits. So the n-th is always reached; which point it is may differ by a heartbeat.
    """
    counts = Counter(name for name, _ in quiet.hits)
    heartbeats = counts["publish.head.after"] + counts["publish.head.before"] - 2 * counts["publish.files.after"]
    sure = len(quiet.hits) - heartbeats
    kills: dict[str, chaos.Action] = {}
    if rng.random() < 1 / 3:
        first = rng.randint(1, sure * 2 // 3)
        kills[str(first + rng.randint(3, 20))] = action
    else:
        first = rng.randint(1, sure)
    kills[str(first)] = action
    return chaos.Plan(log=str(world.hits), kills=kills)
