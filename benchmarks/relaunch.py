"""Killed → the next iteration running, local host, beyond what a kernel takes to start.

A real `qcity run`: keeper, attempt, sidecar, kernel. It is killed twice: the kernel alone, and everything of the
attempt at once (all but the keeper). Peer: Metaflow, whose `resume` is called the moment the kill has landed, so its
time holds no detection at all. papermill never resumes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import measure
import nbformat
from measure import Budget, Report, interleave, pairwise, spread

BUDGET_S = 2.0
SETTLED = 12
"""Iterations of 0.1 s that an attempt gets before it is killed; then its start is over."""

LOOP = """
import os, time
import numpy as np
import qcity_nb as qcity
city = qcity.up()
state = {"weights": np.zeros(1000)}
"""
BODY = """
for i in city.loop(range(100_000), state, every=1):
    with open("ticks", "a") as file:
        file.write(f"{time.monotonic_ns()} {os.getpid()} {i}\\n")
    city.log(loss=float(i))
    state["weights"] += 1
    time.sleep(0.1)
"""
FLOW = """
import os, time
from metaflow import FlowSpec, step

def tick(i):
    with open(os.environ["TICKS"], "a") as file:
        file.write(f"{time.monotonic_ns()} {os.getpid()} {i}\\n")

class Chain(FlowSpec):
    @step
    def start(self):
        tick(0)
        self.next(self.second)
    @step
    def second(self):
        tick(1)
        time.sleep(60 if os.environ.get("FIRST") else 0)
        self.next(self.end)
    @step
    def end(self):
        pass

if __name__ == "__main__":
    Chain()
"""


def ticks(file: Path) -> list[tuple[int, int, int]]:
    """Iterations begun: when (monotonic ns), by which process, which."""
    with contextlib.suppress(FileNotFoundError):
        lines = file.read_text().splitlines()
        return [(int(a), int(b), int(c)) for a, b, c in (line.split() for line in lines) if c]
    return []


def wait_for(file: Path, *, beside: set[int], count: int = 1, within_s: float = 60) -> list[tuple[int, int, int]]:
    """The iterations of a process not in ``beside``, once there are ``count``."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        new_ticks = [tick for tick in ticks(file) if tick[1] not in beside]
        if len(new_ticks) >= count:
            return new_ticks
        time.sleep(0.005)
    raise RuntimeError(f"no iteration began within {within_s} s")


def descendants(pid: int) -> list[int]:
    """All processes below a process, itself not included."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    pids, todo = [], [pid]
    while todo:
        new = children.get(todo.pop(), [])
        pids += new
        todo += new
    return pids


@contextlib.contextmanager
def running(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`qcity run` of the loop, ended with all that it started."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(LOOP), nbformat.v4.new_code_cell(BODY)])
    nbformat.write(notebook, folder / "loop.ipynb")
    (folder / "pyproject.toml").write_text('[tool.qcity]\nproject = "bench"\n')
    with (folder / "log").open("wb") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "qcity_nb.cli", "run", "loop.ipynb"],
            cwd=folder,
            stdout=log,
            stderr=log,
            env=measure.environment(),
        )
    try:
        yield keeper
    finally:
        below = descendants(keeper.pid)
        for pid in [keeper.pid, *below]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        keeper.wait()


class Qcity:
    """One run that is killed again and again."""

    def __init__(self, folder: Path, keeper: subprocess.Popen[bytes]) -> None:
        self.file = folder / "ticks"
        self.keeper = keeper
        self.dead: set[int] = set()
        self.repeated: list[int] = []

    def killed(self, *, whole: bool) -> float:
        """Kill, and return the seconds until the next iteration began."""
        before = wait_for(self.file, beside=self.dead, count=SETTLED)
        kernel = before[-1][1]
        victims = descendants(self.keeper.pid) if whole else [kernel]
        at_ns = time.monotonic_ns()
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.dead.add(kernel)
        after = wait_for(self.file, beside=self.dead)[0]
        last = max(tick[2] for tick in ticks(self.file) if tick[1] == kernel)
        self.repeated.append(last - after[2] + 1)
        assert after[2] in (last, last + 1), f"killed in iteration {last}, resumed with {after[2]}"
        return (after[0] - at_ns) / 1e9


def kernel_start() -> float:
    """Seconds from a bare kernel's start to its first reply, and no longer."""
    from jupyter_client.manager import KernelManager

    manager = KernelManager(kernel_name="python3")
    began = time.perf_counter()
    manager.start_kernel(env=measure.environment())
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    took_s = time.perf_counter() - began
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    return took_s


def metaflow_resume(folder: Path) -> float:
    """A flow of three steps, killed whole in the second; seconds from there to that step begun again."""
    (folder / "flow.py").write_text(FLOW)
    file = folder / "flow-ticks"
    file.unlink(missing_ok=True)
    env = measure.environment(TICKS=str(file), METAFLOW_USER="bench", METAFLOW_HOME=str(folder), METAFLOW_DEBUG="")
    command = [sys.executable, "flow.py", "--quiet"]
    quiet = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    first = subprocess.Popen([*command, "run"], env={**env, "FIRST": "1"}, start_new_session=True, **quiet)  # type: ignore[call-overload]  # one dict for both
    second = None
    try:
        while not any(tick[2] == 1 for tick in ticks(file)):
            time.sleep(0.005)
        victims = descendants(first.pid)
        at_ns = time.monotonic_ns()
        for pid in [first.pid, *victims]:
            os.kill(pid, signal.SIGKILL)
        first.wait()
        count = len(ticks(file))
        second = subprocess.Popen([*command, "resume"], env=env, start_new_session=True, **quiet)  # type: ignore[call-overload]
        until = time.monotonic() + 60
        while len(ticks(file)) == count:
            assert time.monotonic() < until, "metaflow did not resume"
            time.sleep(0.005)
        return (ticks(file)[-1][0] - at_ns) / 1e9
    finally:
        for process in (first, second):
            if process is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def measured(quick: bool) -> Report:
    """Kills in turn; each is held against the kernel start of the same round."""
    import jupyter_client  # noqa: F401  # so that its import is not in a kernel's start

    with tempfile.TemporaryDirectory(prefix="qcity-bench-") as name:
        folder = Path(name)
        with running(folder) as keeper:
            city = Qcity(folder, keeper)
            contestants = {
                "kernel": lambda: city.killed(whole=False),
                "attempt": lambda: city.killed(whole=True),
                "kernel start": kernel_start,
                "kernel start again": kernel_start,
            }
            if measure.is_installed("metaflow"):
                contestants["metaflow"] = lambda: metaflow_resume(folder)
            samples = interleave(contestants, rounds=1 if quick else 7, warm=0 if quick else 1)
    start = samples["kernel start"]
    kinds = {
        "kernel": "qcity_nb, the kernel SIGKILLed",
        "attempt": "qcity_nb, everything but the keeper SIGKILLed",
        "metaflow": "Metaflow local, SIGKILLed and resumed at once by hand",
        "kernel start": "a bare kernel's start (jupyter_client)",
        "kernel start again": "the same again (noise floor)",
    }
    rows, budgets, numbers = [], [], {}
    for kind, title in kinds.items():
        if kind not in samples:
            rows.append((title, "not installed", "", ""))
            continue
        values = samples[kind]
        beyond = [a - b for a, b in zip(values, start, strict=True)]
        is_ours = kind in ("kernel", "attempt")
        rows.append(
            (
                title,
                spread(values).text(unit="s"),
                "" if kind == "kernel start" else spread(beyond).text(unit="s"),
                pairwise(values, samples["metaflow"]).text(unit="x") if is_ours and "metaflow" in samples else "",
            )
        )
        numbers[kind.replace(" ", "_") + "_s"] = spread(values).median
        if is_ours:
            what = f"{kind} killed → next iteration, beyond kernel start"
            budgets.append(Budget(what=what, limit=BUDGET_S, measured=spread(beyond).median, unit="s"))
    rows.append(("papermill", "never: a killed run starts over by hand", "", ""))
    return Report(
        name="relaunch",
        title="Killed → next iteration",
        columns=("what", "kill → next iteration begun", "beyond a kernel's start", "beside Metaflow"),
        rows=rows,
        budgets=budgets,
        notes=[
            f"{len(city.repeated)} kills of one run with `every=1`; iterations begun again: at most "
            f"{max(city.repeated)} each, the one in flight. Metaflow's time holds no detection: nobody had to notice "
            "the death, and its unit of resume is a step, not an iteration."
        ],
        numbers=numbers,
    )


if __name__ == "__main__":
    measure.command_line(measured)
