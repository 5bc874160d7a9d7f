"""This checkout beside an earlier commit: demo, kills, stall and restore, in turn, in one run.

    python benchmarks/versions.py 2868f7a            # 5 minutes on an idle machine; a commit, tag or branch
    python benchmarks/versions.py 2868f7a --rounds 3

Each version runs from a checkout and an environment of its own, over the packages of this environment. The commit
measured against itself ("again") is the noise floor: a difference smaller than that is none.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sysconfig
import tempfile
import tomllib
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import measure
from measure import interleave, pairwise, spread

KILL = """
import json, os, signal, subprocess, sys, time
from pathlib import Path
import nbformat
CELLS = [{setup!r}, {body!r}]
nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS]), "loop.ipynb")
Path("pyproject.toml").write_text('[tool.qcity]\\nproject = "bench"\\n')
log = open("log", "wb")
keeper = subprocess.Popen([sys.executable, "-m", "qcity_nb.cli", "run", "loop.ipynb"], stdout=log, stderr=log)

def ticks():
    try:
        lines = Path("ticks").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [tuple(map(int, line.split())) for line in lines if len(line.split()) == 3]

def after(dead, count):
    until = time.monotonic() + 90
    while time.monotonic() < until:
        begun = [tick for tick in ticks() if tick[1] not in dead]
        if len(begun) >= count:
            return begun
        time.sleep(0.005)
    raise SystemExit("no iteration began: " + Path("log").read_text()[-2000:])

def below(pid):
    children = {{}}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        children.setdefault(parent, []).append(int(entry.name))
    pids, todo = [], [pid]
    while todo:
        new = children.get(todo.pop(), [])
        pids += new
        todo += new
    return pids

dead, took = set(), []
try:
    for whole in (False, True):
        kernel = after(dead, 12)[-1][1]
        victims = below(keeper.pid) if whole else [kernel]
        at_ns = time.monotonic_ns()
        for pid in victims:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        dead.add(kernel)
        first = after(dead, 1)[0]
        last = max(tick[2] for tick in ticks() if tick[1] == kernel)
        assert first[2] in (last, last + 1), (last, first)
        took.append((first[0] - at_ns) / 1e9)
finally:
    for pid in [keeper.pid, *below(keeper.pid)]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    keeper.wait()
print(json.dumps(took))
"""
"""Runs a loop under `qcity run` in the working directory; kills the kernel, then all of the attempt."""

SETUP = "import os, time\nimport numpy as np\nimport qcity_nb as qcity\ncity = qcity.up()\nw = {'w': np.zeros(1000)}"
BODY = """for i in city.loop(range(100_000), w, every=1):
    with open("ticks", "a") as file:
        file.write(f"{time.monotonic_ns()} {os.getpid()} {i}\\n")
    city.log(loss=float(i))
    w["w"] += 1
    time.sleep(0.1)
"""

STATE = """
import json, time
import numpy as np
from qcity_nb.checkpoint import Checkpointer, load
arrays = {f"a{n}": np.random.default_rng(n).random(1 << 20) for n in range(50)}
arrays["objects"] = [{"n": n, "text": str(n)} for n in range(20_000)]
stalls = []
with Checkpointer("ckpt", keep=1) as saver:
    saver.save(arrays, step=0).wait()
    for step in range(1, 4):
        for name, array in arrays.items():
            if name != "objects":
                array += 1
        began = time.perf_counter()
        saving = saver.save(arrays, step=step)
        stalls.append(time.perf_counter() - began)
        saving.wait()
        durable = time.perf_counter() - began
began = time.perf_counter()
load("ckpt")
print(json.dumps([sorted(stalls)[1], durable, time.perf_counter() - began]))
"""
"""400 MB of arrays, all changed, and 20,000 dictionaries: the loop's stall, durable, restored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A checkout with an interpreter that imports it."""

    checkout: Path
    python: Path

    def run(self, code: str) -> list[float]:
        """What a program prints as its last line."""
        with tempfile.TemporaryDirectory(prefix="qcity-versions-") as folder:
            used = measure.run(
                [str(self.python), "-c", code], cwd=Path(folder), environ={"PYTHONPATH": str(self.checkout)}
            )
        return [float(number) for number in json.loads(used.out.strip().splitlines()[-1])]

    def demo(self) -> float:
        """Seconds of `qcity demo`, which fails unless weights and rows are equal."""
        with tempfile.TemporaryDirectory(prefix="qcity-versions-") as folder:
            used = measure.run(
                [str(self.python), "-m", "qcity_nb.cli", "demo"],
                cwd=Path(folder),
                environ={"PYTHONPATH": str(self.checkout)},
            )
        return used.wall_s


def environment_over_this_one(checkout: Path, folder: Path) -> Version:
    """An environment with the packages of this one and the entry points of ``checkout``; nothing is installed."""
    venv.create(folder, with_pip=False, symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    project = tomllib.loads((checkout / "pyproject.toml").read_text("utf-8"))["project"]
    (site / "checkout.pth").write_text(f"{checkout}\n{sysconfig.get_path('purelib')}\n", "utf-8")
    info = site / f"qcity_nb-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: qcity-nb\nVersion: {project['version']}\n", "utf-8")
    groups = {"console_scripts": project.get("scripts", {}), **project.get("entry-points", {})}
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items()) for group, entries in groups.items()]
    (info / "entry_points.txt").write_text("\n".join(lines), "utf-8")
    return Version(checkout=checkout, python=folder / "bin" / "python")


@contextlib.contextmanager
def checkout_of(commit: str) -> Iterator[Path]:
    """A worktree of that commit, removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="qcity-versions-") as folder:
        path = Path(folder) / "checkout"
        git = ["git", "-C", str(measure.ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(path), commit], check=True)
        try:
            yield path
        finally:
            subprocess.run([*git, "remove", "--force", str(path)], check=True)


def figures(version: Version) -> list[Callable[[], list[float]]]:
    """What is measured of a version, one program each."""
    kill = KILL.format(setup=SETUP, body=BODY)
    return [lambda: [version.demo()], lambda: version.run(kill), lambda: version.run(STATE)]


TITLES = (
    "`qcity demo`",
    "kernel SIGKILLed → next iteration",
    "attempt SIGKILLed → next iteration",
    "stall of a save, 400 MB all changed",
    "that save durable",
    "restore of 400 MB and 20,000 dictionaries",
)


def compare(before: Version, now: Version, *, rounds: int) -> list[str]:
    """A table, as Markdown lines."""
    rows = []
    for programs in zip(figures(before), figures(before), figures(now), strict=True):
        samples: dict[str, list[list[float]]] = {"before": [], "again": [], "now": []}

        def contestant(name: str, program: Callable[[], list[float]]) -> Callable[[], float]:
            def call() -> float:
                samples[name].append(program())  # noqa: B023 - called before the next turn of the outer loop
                return 0.0

            return call

        named = dict(zip(samples, programs, strict=True))
        interleave({name: contestant(name, program) for name, program in named.items()}, rounds=rounds, warm=1)
        columns = {name: list(zip(*values[1:], strict=True)) for name, values in samples.items()}  # the first is warm
        for old, again, new in zip(columns["before"], columns["again"], columns["now"], strict=True):
            ratio, noise = pairwise(new, old), pairwise(again, old)
            cells = (spread(old).text(unit="s"), spread(new).text(unit="s"), ratio.text(), noise.text())
            rows.append(f"| {TITLES[len(rows)]} | {' | '.join(cells)} |")
            print(rows[-1], flush=True)
    head = "| figure | before | now | now / before | before, again (noise) |"
    return [head, "|---|---|---|---|---|", *rows]


def main() -> None:
    """Print the table; with ``--write`` it replaces the section of README.md."""
    parser = argparse.ArgumentParser(description="This checkout beside an earlier commit.")
    parser.add_argument("commit", help="the earlier commit")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count, after a warm one")
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/README.md")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    with checkout_of(args.commit) as old, tempfile.TemporaryDirectory(prefix="qcity-versions-") as folder:
        before = environment_over_this_one(old, Path(folder) / "before")
        now = environment_over_this_one(measure.ROOT, Path(folder) / "now")
        table = compare(before, now, rounds=args.rounds)
    name = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=measure.ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    intro = measure.wrapped(
        f"Commit {args.commit} (before) and {name} (now), {args.rounds} rounds in turning order, medians with the "
        f"smallest and largest. {measure.machine()} Load average before: {load:.1f}."
    )
    text = "\n".join([intro, "", *table])
    print(f"\n{text}")
    if args.write:
        page = Path(__file__).with_name("README.md")
        begin, end = "<!-- versions: written by versions.py -->", "<!-- end of versions -->"
        whole = page.read_text("utf-8")
        if begin not in whole:
            whole = f"{whole.rstrip()}\n\n## This version beside the one before\n\n{begin}\n{end}\n"
        page.write_text(re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n{text}\n{end}", whole, flags=re.S), "utf-8")


if __name__ == "__main__":
    main()
