"""Supervision: what CPU time keeper, attempt and sidecar take during a run that keeps one core busy.

A notebook with a numpy loop, `every="10s"`, heartbeats and tracker on, under `qcity run`; its peer is the same notebook
without qcity_nb under plain papermill, its noise floor papermill again. Imports are paid once a run, however long it
is, so they are told apart from what supervision takes while the loop runs: the second half has none. The same without
a tracker says how much of that half is MLflow's, and a process that only opens the tracker what that costs once.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import measure
import nbformat
from measure import Budget, Report, interleave, pairwise, spread
from relaunch import descendants

BUDGET = 1.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")

CELL = """
import json, os, time
import numpy as np
supervised = bool(os.environ.get("QCITY_MAILBOX"))
weights = np.ones((300, 300))
items = range({items})
if supervised:
    import qcity_nb as qcity
    city = qcity.up()
    items = city.loop(items, {{"weights": weights}}, every="10s")
def turn():
    global weights
    for _ in range(8):
        weights = weights @ weights
        weights /= np.abs(weights).max()
def tell(name):
    with open(name + ".new", "w") as file:
        json.dump([time.monotonic(), time.process_time()], file)
    os.rename(name + ".new", name)
turn()
tell("began")
for i in items:
    turn()
    if supervised:
        city.log(step=i, norm=float(weights[0, 0]))
tell("ended")
"""


def ticks(pid: int) -> int:
    """CPU ticks of a process; those of the children that it has waited for come on top."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(fields[11]) + int(fields[12])


def role(pid: int) -> str:
    """Which part of an attempt a process is."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return "other"
    parts = {
        "ipykernel": "kernel",
        "qcity_nb.sidecar": "sidecar",
        "engine.attempt": "attempt",
        "qcity_nb.cli": "keeper",
    }
    return next((name for word, name in parts.items() if word in command), "other")


@dataclass(slots=True)
class Watch:
    """CPU seconds by part, up to the loop's begin and while it ran."""

    wall_s: float = 0.0
    start: dict[str, float] = field(default_factory=dict)
    loop: dict[str, float] = field(default_factory=dict)
    late: dict[str, float] = field(default_factory=dict)
    """While its second half ran, all imports done."""


def read_time(file: Path) -> float | None:
    """When the loop began or ended."""
    with contextlib.suppress(FileNotFoundError):
        return float(json.loads(file.read_text())[0])
    return None


def supervised(folder: Path) -> Watch:
    """One `qcity run`, its processes looked at 5 times a second."""
    for name in ("began", "ended"):
        (folder / name).unlink(missing_ok=True)
    command = [sys.executable, "-m", "qcity_nb.cli", "run", "busy.ipynb", "--fresh"]
    with (folder / "log").open("wb") as log:
        keeper = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=measure.environment())
    watch = Watch()
    parts: dict[int, str] = {}
    newest: dict[int, int] = {}
    at_begin: dict[int, int] | None = None
    history: list[tuple[float, dict[int, int]]] = []

    def sums(of: dict[int, int]) -> dict[str, float]:
        cpu_s: dict[str, float] = {}
        for pid, value in of.items():
            cpu_s[parts[pid]] = cpu_s.get(parts[pid], 0.0) + value / TICKS_PER_S
        return cpu_s

    while keeper.poll() is None:
        for pid in [keeper.pid, *descendants(keeper.pid)]:
            if parts.get(pid, "other") == "other":
                parts[pid] = role(pid)
            newest[pid] = max(newest.get(pid, 0), ticks(pid))
        if at_begin is None and (folder / "began").exists():
            at_begin = dict(newest)
            watch.start = sums(at_begin)
        if at_begin is not None and not watch.loop:
            history.append((time.monotonic(), dict(newest)))
            if (folder / "ended").exists():
                watch.loop = sums({pid: value - at_begin.get(pid, 0) for pid, value in newest.items()})
                middle_s = (history[0][0] + history[-1][0]) / 2
                half = next(then for at_s, then in history if at_s >= middle_s)
                watch.late = sums({pid: value - half.get(pid, 0) for pid, value in newest.items()})
        time.sleep(0.2)
    began, ended = read_time(folder / "began"), read_time(folder / "ended")
    if keeper.returncode or began is None or ended is None or not watch.loop:
        raise RuntimeError(f"qcity run ended with {keeper.returncode}:\n{(folder / 'log').read_text()[-2000:]}")
    watch.wall_s = ended - began
    return watch


OPEN = """
import os, time
from qcity_nb.tracking import open_tracker
tracker = open_tracker("sqlite:///" + os.path.abspath("opened.db"))
began = time.process_time()
tracker.prepare()
tracker.start("run-1", experiment="bench", params={}, tags={})
print(time.process_time() - began)
"""


def opening(folder: Path) -> float:
    """CPU seconds of the sidecar's first call of the tracker: mlflow's import, a new database, a run in it."""
    return float(measure.run([sys.executable, "-c", OPEN], cwd=folder).out.split()[-1])


def plain(folder: Path) -> float:
    """Wall seconds of the loop under papermill alone."""
    measure.run([sys.executable, "-m", "papermill", "busy.ipynb", "out.ipynb", "--no-progress-bar"], cwd=folder)
    began, ended = read_time(folder / "began"), read_time(folder / "ended")
    assert began is not None
    assert ended is not None
    return ended - began


def write(folder: Path, items: int) -> None:
    """The notebook, for so many iterations."""
    cells = [nbformat.v4.new_code_cell(CELL.format(items=items))]
    spec = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=spec), folder / "busy.ipynb")


def measured(quick: bool) -> Report:
    """Runs in turn; the loop's length is set by a first plain one."""
    aim_s = 4.0 if quick else 60.0
    watches: list[Watch] = []
    untracked: list[Watch] = []
    with tempfile.TemporaryDirectory(prefix="qcity-bench-") as name:
        folder = Path(name)
        bare = folder / "untracked"
        bare.mkdir()
        (folder / "pyproject.toml").write_text('[tool.qcity]\nproject = "bench"\n')
        (bare / "pyproject.toml").write_text('[tool.qcity]\nproject = "bench"\ntracking = ""\n')
        write(folder, 300)
        items = max(300, int(300 * aim_s / plain(folder)))
        write(folder, items)
        write(bare, items)
        opened_s = opening(folder)

        def ours(where: Path, into: list[Watch]) -> float:
            into.append(supervised(where))
            return into[-1].wall_s

        contestants = {
            "qcity": lambda: ours(folder, watches),
            "untracked": lambda: ours(bare, untracked),
            "plain": lambda: plain(folder),
            "again": lambda: plain(folder),
        }
        samples = interleave(contestants, rounds=1 if quick else 2, warm=0)
    around = ("keeper", "attempt", "sidecar", "other")

    def total(parts: dict[str, float], names: tuple[str, ...]) -> float:
        return sum(parts.get(name, 0.0) for name in names)

    rows = []
    for part in ("kernel", *around[:3]):
        share = spread([100 * watch.loop.get(part, 0.0) / sum(watch.loop.values()) for watch in watches])
        steady = [
            spread([100 * watch.late.get(part, 0.0) / sum(watch.late.values()) for watch in of])
            for of in (watches, untracked)
        ]
        rows.append(
            (
                part,
                spread([watch.start.get(part, 0.0) for watch in watches]).text(unit="s"),
                spread([watch.loop.get(part, 0.0) for watch in watches]).text(unit="s"),
                share.text(digits=2, unit="%"),
                *(each.text(digits=2, unit="%") for each in steady),
            )
        )

    def share_of(parts: dict[str, float]) -> float:
        return 100 * total(parts, around) / sum(parts.values())

    whole = spread([share_of(watch.loop) for watch in watches])
    late = spread([share_of(watch.late) for watch in watches])
    without = spread([share_of(watch.late) for watch in untracked])
    once = spread([total(watch.start, around) for watch in watches])
    # The loop's length at which all of it, the tracker's opening included, is 1%.
    cpu_per_s = spread([sum(watch.late.values()) / (watch.wall_s / 2) for watch in watches]).median
    spare = (BUDGET - late.median) / 100 * cpu_per_s
    enough = f"met from {opened_s / spare:.0f} s on" if spare > 0 else "not met by longer runs either"
    slower = pairwise(samples["qcity"], samples["plain"])
    floor = pairwise(samples["again"], samples["plain"])
    budget = Budget(
        what=f"supervision while a loop of {spread(samples['plain']).median:.0f} s runs",
        limit=BUDGET,
        measured=whole.median,
        unit="% of CPU",
        why=f"{opened_s:.2g} s of CPU is what the sidecar's import of mlflow and a new database take, once a run; once "
        f"that is done it takes {late.median:.2g}%: for a loop of this kind the budget is {enough}.",
    )
    rows_per_s = items / spread(samples["qcity"]).median
    steadily = Budget(
        what=f"supervision once its imports are done, {rows_per_s:.0f} rows/s logged",
        limit=BUDGET,
        measured=late.median,
        unit="% of CPU",
        why=f"Without a tracker it is {without.median:.2g}%: the rest is MLflow's, for each row that it stores.",
    )
    return Report(
        name="supervision",
        title="Supervision",
        columns=(
            "process",
            "CPU before the loop, once a run",
            "CPU while the loop ran",
            "share of that",
            "in its second half",
            "that without a tracker",
        ),
        rows=rows,
        budgets=[budget, steadily],
        notes=[
            f"Around the kernel: {once.text(unit='s')} of CPU before the loop (imports, once a run), "
            f"{whole.text(digits=2, unit='%')} while it ran, {late.text(digits=2, unit='%')} in its second half "
            f"({without.text(digits=2, unit='%')} without a tracker). Opening the tracker alone, which is mlflow's "
            f"import and a new SQLite database: {opened_s:.2f} s of CPU. The loop beside the same under papermill: "
            f"{slower.text(digits=3, unit='x')}; papermill beside itself (noise floor): "
            f"{floor.text(digits=3, unit='x')}."
        ],
        numbers={
            "share_percent": whole.median,
            "late_percent": late.median,
            "untracked_percent": without.median,
            "opening_s": opened_s,
            "slowdown": slower.median,
            "noise": floor.median,
        },
    )


if __name__ == "__main__":
    measure.command_line(measured)
