"""All benchmarks, one after the other: prints their tables and rewrites the results in README.md.

python benchmarks/run_all.py            # on an idle machine: 20 to 40 minutes, and two hours for checkpoint
python benchmarks/run_all.py --quick    # a smoke: writes nothing, its numbers mean nothing
python benchmarks/run_all.py up relaunch  # these alone: the sections of the others stay as they are
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import measure
from measure import Budget, Report

HERE = Path(__file__).resolve().parent
NAMES = (
    "import_time",
    "up",
    "relaunch",
    "log_call",
    "supervision",
    "dvc_fetch",
    "hub",
    "checkpoint",
    "cells",
    "namespace",
)
BEGIN, END = "<!-- results: written by run_all.py -->", "<!-- end of results -->"


def run_benchmark(name: str, folder: Path, *, quick: bool) -> Report:
    """Run one benchmark in a process of its own."""
    file = folder / f"{name}.json"
    command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(file), *(["--quick"] if quick else [])]
    subprocess.run(command, check=True, env=measure.environment())
    return measure.load(file)


def commit() -> str:
    """The checkout's commit, and whether it was clean."""
    try:
        name = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True)
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=HERE, capture_output=True, text=True)
    except FileNotFoundError:
        return "unknown"
    return name.stdout.strip() + (" with changes" if dirty.stdout.strip() else "")


def measured(load: float) -> str:
    """When, where, and at which commit."""
    where = f"at commit {commit()}, on {measure.machine()}"
    return measure.wrapped(f"Measured {datetime.now(UTC):%Y-%m-%d} {where} Load average before: {load:.1f}.")


def results(reports: list[Report], *, load: float) -> str:
    """The section between the markers."""
    lines = [measured(load), "", "| budget | measured | limit | |", "|---|---|---|---|"]
    lines += [budget_row(budget) for report in reports for budget in report.budgets]
    return "\n".join([*lines, "", *(report.markdown() for report in reports)])


def budget_row(budget: Budget) -> str:
    """Its line in the table of all budgets."""
    sign = "≥" if budget.at_least else "≤"
    met = "met" if budget.is_met else "**missed**"
    return (
        f"| {budget.what} | {budget.measured:,.3g} {budget.unit} | {sign} {budget.limit:,.3g} {budget.unit} | {met} |"
    )


def replaced(page: str, report: Report, when: str) -> str:
    """The page with one benchmark's section and budgets new, and a line there that says when it was measured."""
    head, _, rest = page.partition(BEGIN)
    old, _, tail = rest.partition(END)
    title = f"### {report.title}"
    parts = re.split(r"(?m)^(?=### )", old)
    kept = [part.rstrip() for part in parts[1:] if part.partition("\n")[0] != title]
    lines = parts[0].rstrip().splitlines()
    table = max((n for n, line in enumerate(lines) if line.startswith("|")), default=len(lines) - 1)
    for budget in report.budgets:
        row = budget_row(budget)
        places = [n for n, line in enumerate(lines) if line.startswith(f"| {budget.what} |")]
        if places:
            lines[places[0]] = row
        else:
            table += 1
            lines.insert(table, row)
    mine = report.markdown().strip().replace(title, f"{title}\n\n{when}", 1)
    section = "\n\n".join(["\n".join(lines).strip(), *kept, mine])
    return f"{head}{BEGIN}\n\n{section}\n\n{END}{tail}"


def rewrite(page: str, section: str) -> str:
    """The page with another section between its markers."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    assert BEGIN in page, "README.md has lost its markers"
    assert END in rest, "README.md has lost its markers"
    return f"{head}{BEGIN}\n\n{section.rstrip()}\n\n{END}{tail}"


def main() -> int:
    """Run what is asked for, and write it into README.md."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; default: all")
    parser.add_argument("--rounds", type=int, default=0, help="at most so many rounds of each")
    parser.add_argument("--quick", action="store_true", help="a smoke: few rounds, nothing written")
    args = parser.parse_args()
    if unknown := set(args.names) - set(NAMES):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    if args.rounds:
        os.environ["BENCH_ROUNDS"] = str(args.rounds)
    load, began = os.getloadavg()[0], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="qcity-bench-") as folder:
        reports = [run_benchmark(name, Path(folder), quick=args.quick) for name in args.names or NAMES]
    page = HERE / "README.md"
    text = page.read_text(encoding="utf-8")
    if args.names:
        for report in reports:
            text = replaced(text, report, measured(load))
    else:
        text = rewrite(text, results(reports, load=load))
    if not args.quick:
        page.write_text(text, encoding="utf-8")
    print(f"{len(reports)} benchmarks in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
