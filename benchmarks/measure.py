"""What all benchmarks share: runs taken in turn, medians and spreads, ratios pair by pair, CPU of whole processes.

    samples = interleave({"qcity_nb": ours, "again": ours, "mlflow": theirs}, rounds=7)
    ratio = pairwise(samples["qcity_nb"], samples["mlflow"])

A number from another day, machine or load is no peer: every comparison here is made in the same run, the contestants
one after the other in every round, in turning order. The *noise floor* is the same thing measured against itself,
in the same way: a difference smaller than that is none.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

__all__ = [
    "Budget",
    "Report",
    "Spread",
    "Usage",
    "command_line",
    "interleave",
    "machine",
    "pairwise",
    "run",
    "spread",
    "wrapped",
]

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("qcity-nb", "mlflow", "dvc", "dagshub", "metaflow", "papermill", "nbclient", "jupyter_client", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Median, smallest and largest of what was measured."""

    median: float
    low: float
    high: float
    n: int

    def text(self, *, scale: float = 1.0, digits: int = 2, unit: str = "") -> str:
        """As it goes into a table: median, then low and high."""
        values = (self.median * scale, self.low * scale, self.high * scale)
        middle, low, high = (f"{value:,.{digits}f}" for value in values)
        tail = f" {unit}" if unit else ""
        return f"{middle}{tail}" if self.n == 1 else f"{middle}{tail} ({low}–{high})"  # noqa: RUF001  # a range


def spread(values: Sequence[float]) -> Spread:
    """Summarise at least one value."""
    return Spread(median=statistics.median(values), low=min(values), high=max(values), n=len(values))


def pairwise(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """The ratio ours / theirs, round by round: what slows both down in a round does not show."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])


def interleave(contestants: Mapping[str, Callable[[], float]], *, rounds: int, warm: int = 1) -> dict[str, list[float]]:
    """Run each contestant once a round, in turning order; the first ``warm`` rounds are not counted.

    ``BENCH_ROUNDS`` in the environment is an upper bound on the rounds.
    """
    rounds = min(rounds, int(os.environ.get("BENCH_ROUNDS") or rounds))
    names = list(contestants)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(warm + rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            value = contestants[name]()
            if turn >= warm:
                samples[name].append(value)
    return samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a process took, the children that it waited for included."""

    wall_s: float
    cpu_s: float
    out: str


def environment(**more: str) -> dict[str, str]:
    """The environment of a measured process: this checkout's package, one thread for BLAS, no telemetry."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    quiet = {
        "PYTHONPATH": path,
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "PYTHONWARNINGS": "ignore",
        "TQDM_DISABLE": "1",
        "GIT_PYTHON_REFRESH": "quiet",
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QCITY_")}
    return {**kept, **quiet, **more}


def run(
    command: Sequence[str], *, cwd: Path | None = None, code: int = 0, environ: Mapping[str, str] | None = None
) -> Usage:
    """Run a command to its end.

    Args:
        code: the exit code it must have; negative: killed by that signal.
        environ: added to its environment.
    Returns: wall and CPU seconds (``wait4``), and its standard output.
    Raises:
        RuntimeError: another exit code; the message ends with what it wrote.
    """
    began = time.perf_counter()
    child = subprocess.Popen(
        command, cwd=cwd, env=environment(**(environ or {})), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert child.stdout is not None
    out = child.stdout.read().decode(errors="replace")
    _, status, used = os.wait4(child.pid, 0)
    wall_s = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != code:
        raise RuntimeError(f"{' '.join(command[:4])} … ended with {child.returncode}:\n{out[-3000:]}")
    return Usage(wall_s=wall_s, cpu_s=used.ru_utime + used.ru_stime, out=out)


def python(code: str, *, cwd: Path | None = None, exit_code: int = 0) -> Usage:
    """Run Python code in a fresh interpreter of this environment."""
    return run([sys.executable, "-c", code], cwd=cwd, code=exit_code)


def is_installed(name: str) -> bool:
    """Is a peer here? What is not installed is reported as that, never left out in silence."""
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """One line of the design's table, held against what was measured."""

    what: str
    limit: float
    measured: float
    unit: str
    at_least: bool = False
    """The limit is a floor, not a ceiling."""
    why: str = ""
    """Said where the budget is missed."""

    @property
    def is_met(self) -> bool:
        """Within the budget?"""
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit

    def text(self) -> str:
        """One line for people; a missed budget says by how much and why."""
        sign = "≥" if self.at_least else "≤"
        text = f"{self.what}: {self.measured:,.3g} {self.unit} (budget {sign} {self.limit:,.3g} {self.unit})"
        if self.is_met:
            return f"{text}: met"
        if not self.limit or not self.measured:
            return f"{text}: **missed**" + (f". {self.why}" if self.why else "")
        times = self.limit / self.measured if self.at_least else self.measured / self.limit
        return f"{text}: **missed {times:.2g} times over**" + (f". {self.why}" if self.why else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One benchmark's outcome."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    budgets: list[Budget]
    notes: list[str] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)
    """The same for programs."""

    def markdown(self) -> str:
        """A section of the results page."""
        lines = [f"### {self.title}", "", "| " + " | ".join(self.columns) + " |", "|" + "---|" * len(self.columns)]
        lines += ["| " + " | ".join(row) + " |" for row in self.rows]
        if self.budgets:
            lines += ["", *(wrapped(f"- {budget.text()}") for budget in self.budgets)]
        if self.notes:
            lines += ["", *map(wrapped, self.notes)]
        return "\n".join(lines) + "\n"


def wrapped(text: str) -> str:
    """A paragraph or an item of a list in lines that a page may have (`tests/docs/test_words.py`)."""
    indent = "  " if text.startswith("- ") else ""
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def machine() -> str:
    """What this was measured on, in one line: no names, no paths."""
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} not installed" if name != "qcity-nb" else "qcity-nb from the checkout")
    cores = len(os.sched_getaffinity(0))
    head = f"{cores} cores, {ram:.0f} GiB RAM, {platform.system()} {platform.machine()}"
    return f"{head}; Python {platform.python_version()}, {', '.join(versions)}."


def command_line(measure: Callable[[bool], Report]) -> None:
    """A benchmark's ``main``: ``--quick`` for a smoke, ``--json FILE`` for programs; the table on standard output."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a smoke: few rounds, numbers worth nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report here too")
    args = parser.parse_args()
    report = measure(args.quick)
    print(report.markdown())
    if args.json:
        args.json.write_text(json.dumps(asdict(report)), encoding="utf-8")


def load(path: Path) -> Report:
    """A report as ``--json`` wrote it."""
    data = json.loads(path.read_text(encoding="utf-8"))
    data["budgets"] = [Budget(**each) for each in data["budgets"]]
    data["rows"] = [tuple(row) for row in data["rows"]]
    data["columns"] = tuple(data["columns"])
    return Report(**data)
