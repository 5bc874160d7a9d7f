"""Books as runs whose hosts die: each attempt on a fresh directory, in fresh processes, with only the store shared.

    world = World(root, BOOKS["tied"], store=…)
    quiet = world.finish()                            # nobody kills it
    world.finish(kills=[Moment(share=0.4)], quiet=quiet)

A *host* is a copy of the project and a local tier of its own. It dies as a machine does: all processes of the attempt
get SIGKILL, then its directory is gone. What is checked at the end stands in ``differences`` and ``repeats``.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from book_log import CellStart, read_log
from books import Book, Shown, shown

from qcity_nb import codec
from qcity_nb.hosts import labelled_processes
from qcity_nb.ports import Store
from qcity_nb.published.read import manifest_of
from qcity_nb.records import AttemptSpec, Head, Heartbeat
from qcity_nb.run import identity, lease
from qcity_nb.stores import open_store
from qcity_nb.testing import chaos
from qcity_nb.testing.emulators.hub.server import HubServer

__all__ = [
    "Death",
    "Moment",
    "Outcome",
    "World",
    "at_hub",
    "described",
    "differences",
    "moments",
    "papermill",
    "recorded_cells",
    "repeats",
    "run_twice",
]

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PROJECT = "book"
HEARTBEAT_S, TTL_S, PUBLISH_S = 0.3, 30.0, 0.2
"""The ttl is longer than a test: a successor that had to wait for it would be seen."""
ALWAYS = "1000"
"""Snapshots may take so many times what cells take, so there is one after each cell."""
ATTEMPTS = 8
ATTEMPT_S = 90.0
LOOK_S = 0.002
LAST_S = 0.05


def recorded_cells(store: Store, run: str) -> int:
    """How many cells the store says are finished, the first so many: a fresh host must not run them again."""
    newest = lease.read(store, run).head.checkpoint
    cells = manifest_of(store, run, newest).cells if newest is not None else ()
    return max((n for n, cell in enumerate(cells, 1) if cell.namespace is not None), default=0)


@dataclass(frozen=True, slots=True)
class Moment:
    """When a host dies.

    Args:
        share: a share of the undisturbed run's time from its first cell on. It is looked up which cell that run was in
            then, and how long; the host dies so long after the same cell, or a later one, began, whatever else this
            machine has to do.
        point: instead, at a hit of this crash point.
        number: which hit of it.
    """

    share: float = 0.0
    point: str = ""
    number: int = 1


@dataclass(frozen=True, slots=True)
class Death:
    """A host that died, as it was found."""

    host: int
    cell: int
    """The newest cell that had begun; 0: none."""
    recorded: int
    """``recorded_cells`` just after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run came to."""

    shown: Shown
    ran: tuple[tuple[int, ...], ...]
    """The cells that each attempt began, in order."""
    began_s: float
    cell_starts: tuple[CellStart, ...]
    ended_s: float
    deaths: tuple[Death, ...] = ()

    @property
    def took_s(self) -> float:
        """From the first launch to the end."""
        return self.ended_s - self.began_s


def environment(log: Path, **more: str) -> dict[str, str]:
    """The environment of whatever executes a book: one thread, nobody's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("QCITY_", "MLFLOW_", "JPY_"))}
    path = os.pathsep.join(filter(None, [str(ROOT), str(HERE), kept.get("PYTHONPATH", "")]))
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    quiet = {"PYTHONPATH": path, "PYTHONHASHSEED": "random", "BOOK_LOG": str(log), "QCITY_TRACKING": "none"}
    return {**kept, **threads, **quiet, **more}


def project(book: Book, folder: Path) -> Path:
    """A copy of the project; returns the notebook's path."""
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(f'[tool.qcity]\nproject = "{PROJECT}"\n')
    return book.write(folder)


def papermill(book: Book, root: Path, *, engine: str = "") -> Outcome:
    """The book under plain papermill, or papermill with another engine, in a directory of its own."""
    work = root / f"papermill-{uuid.uuid4().hex[:8]}"
    path, log = project(book, work), work.with_suffix(".log")
    command = [sys.executable, "-m", "papermill", str(path), str(work / "out.ipynb"), "--no-progress-bar"]
    began_s = time.monotonic()
    done = subprocess.run(
        [*command, *(["--engine", engine] if engine else [])],
        cwd=work,
        env=environment(log, JPY_SESSION_NAME=str(path)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=ATTEMPT_S,
        check=False,
    )
    ended_s = time.monotonic()
    assert done.returncode == 0, done.stderr[-4000:]
    lines = read_log(log)
    return Outcome(
        shown=shown((work / "out.ipynb").read_text(encoding="utf-8")),
        ran=(tuple(line.cell for line in lines),),
        began_s=began_s,
        cell_starts=tuple(lines),
        ended_s=ended_s,
    )


@dataclass(slots=True)
class World:
    """One run of a book, and the host of the day.

    Args:
        root: everything lies below it.
        store: the store's address; a directory below ``root`` by default.
        environ: what the attempts' environment has beside, such as a token.
    """

    root: Path
    book: Book
    store: str = ""
    environ: Mapping[str, str] = field(default_factory=dict)
    host: int = 0
    codes: list[int] = field(default_factory=list)
    deaths: list[Death] = field(default_factory=list)
    _ran: list[tuple[int, ...]] = field(default_factory=list)
    _cell_starts: list[CellStart] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.store = self.store or str(self.root / "store")

    @property
    def here(self) -> Path:
        """The host's own disk."""
        return self.root / f"host-{self.host}"

    @property
    def log(self) -> Path:
        """Which cells began on this host."""
        return self.root / f"cells-{self.host}"

    def begin(self) -> Head:
        """The run, made as a keeper would make it."""
        path = project(self.book, self.root / "begin")
        store = open_store(self.store)
        head, _ = identity.find_or_create(store, project=PROJECT, notebook=path.name, source=path.read_bytes())
        return head

    def launch(
        self, run: str, declared_dead: Heartbeat | None, plan: chaos.Plan | None
    ) -> tuple[subprocess.Popen[bytes], str]:
        """Start an attempt on a fresh host, as the launcher ``local`` does; returns it and its label."""
        project(self.book, self.here / "project")
        attempt = f"{run}-{uuid.uuid4().hex[:10]}"
        spec = AttemptSpec(
            run=run,
            attempt=attempt,
            host=f"host-{self.host}",
            store=self.store,
            declared_dead=declared_dead,
            project=str(self.here / "project"),
        )
        file = self.here / "spec.json"
        file.write_bytes(codec.dumps(spec))
        settings = {
            "QCITY_LOCAL_DIR": str(self.here / "local"),
            "QCITY_HEARTBEAT": str(HEARTBEAT_S),
            "QCITY_TTL": str(TTL_S),
            "QCITY_PUBLISH": str(PUBLISH_S),
            "QCITY_SNAPSHOT_TIME_SHARE": ALWAYS,
            **({"QCITY_CHAOS": plan.dumps()} if plan else {}),
            labelled_processes.LABEL: attempt,
        }
        with (self.root / f"output-{self.host}").open("wb") as output:
            child = subprocess.Popen(
                [sys.executable, "-m", "qcity_nb.engine.attempt", str(file)],
                cwd=self.here / "project",
                env=environment(self.log, **settings, **self.environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return child, attempt

    def finish(self, kills: Sequence[Moment] = (), *, quiet: Outcome | None = None) -> Outcome:
        """Attempt after attempt until the run has succeeded; the first ones die at ``kills``.

        Args:
            quiet: the undisturbed run that shares are taken of.
        Raises:
            AssertionError: an attempt failed by itself, or the run does not get on.
        """
        head = self.begin()
        store = open_store(self.store)
        began_s = time.monotonic()
        left = [*kills]
        for _ in range(ATTEMPTS):
            moment = left.pop(0) if left else None
            plan = None
            if moment is not None and moment.point:
                plan = chaos.Plan(
                    log=str(self.root / f"hits-{self.host}"), at={moment.point: [moment.number]}, action="host"
                )
            head = lease.read(store, head.run).head
            child, label = self.launch(head.run, head.seen if head.holder else None, plan)
            try:
                if moment is not None and not moment.point:
                    assert quiet is not None, "a share of what?"
                    _wait_for(child, self.log, moment.share, quiet)
                else:
                    child.wait(timeout=ATTEMPT_S)
            except BaseException:
                kill(label)  # nothing of a world outlives its test
                child.wait()
                raise
            is_over = moment is None or (not moment.point and child.poll() is not None)
            if not is_over:
                kill(label)
            self.codes.append(child.wait(timeout=ATTEMPT_S))
            if is_over:
                _wait_gone(label)  # the agent says its last word first
            lines = read_log(self.log)
            self._ran.append(tuple(line.cell for line in lines))
            self._cell_starts += lines
            if not is_over:
                newest = max((line.cell for line in lines), default=0)
                self.deaths.append(Death(self.host, newest, recorded_cells(store, head.run)))
            head = lease.read(store, head.run).head
            if head.is_over:
                break
            assert not is_over, f"the attempt ended by itself, with {self.codes[-1]}\n{self.tail()}"
            shutil.rmtree(self.here)
            self.host += 1
        assert head.state == "succeeded", f"{head.state} after {self.codes}\n{self.tail()}"
        return Outcome(
            shown=shown(store.get(head.run, head.executed).decode()),
            ran=tuple(self._ran),
            began_s=began_s,
            cell_starts=tuple(self._cell_starts),
            ended_s=time.monotonic(),
            deaths=tuple(self.deaths),
        )

    def tail(self) -> str:
        """What people need to see when it went wrong."""
        parts = [f"exit codes {self.codes}, deaths {self.deaths}"]
        for file in (self.root / f"output-{self.host}", *self.here.glob("local/attempts/*/sidecar.log")):
            parts.append(f"{file.name}: {file.read_text(errors='replace')[-3000:]}" if file.exists() else "")
        return "\n".join(parts)


def at_hub(root: Path, book: Book, server: HubServer, repo: str) -> World:
    """A run whose store is a repository of the emulator."""
    kept = {
        "HF_ENDPOINT": server.url,
        "HF_TOKEN": "any",
        "HF_HOME": str(root / "hf-home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    return World(root, book, store=f"hf://{repo}?endpoint={server.url}", environ=kept)


def _wait_for(child: subprocess.Popen[bytes], log: Path, share: float, quiet: Outcome) -> None:
    """Until the moment has come or the attempt is over."""
    first_s = quiet.cell_starts[0].at_s
    at_s = first_s + share * (quiet.ended_s - first_s)
    last = max((line for line in quiet.cell_starts if line.at_s <= at_s), key=lambda line: line.at_s)
    until_s = time.monotonic() + ATTEMPT_S
    while not (begun := [line for line in read_log(log) if line.cell >= last.cell]):
        if child.poll() is not None:
            return
        assert time.monotonic() < until_s, (
            f"cell {last.cell} did not begin, only {[line.cell for line in read_log(log)]}"
        )
        time.sleep(LOOK_S)
    until_s = begun[0].at_s + (at_s - last.at_s)
    end = max(line.cell for line in quiet.cell_starts)
    while time.monotonic() < until_s and child.poll() is None:
        # The run may be quicker than the undisturbed one, and must not be over.
        until_s = min([until_s, *(line.at_s + LAST_S for line in read_log(log) if line.cell == end)])
        time.sleep(LOOK_S)


def kill(label: str) -> None:
    """SIGKILL to every process of the attempt, as close together as can be, and until none is left."""
    until_s = time.monotonic() + 20.0
    while processes := [each for each in labelled_processes.find_labelled(label) if not each.is_zombie]:
        for each in processes:
            try:
                os.kill(each.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        assert time.monotonic() < until_s, f"still there: {processes}"


def _wait_gone(label: str) -> None:
    """Everything of an attempt that is over ends by itself."""
    until_s = time.monotonic() + 20.0
    while processes := [each for each in labelled_processes.find_labelled(label) if not each.is_zombie]:
        assert time.monotonic() < until_s, f"still there: {processes}"
        time.sleep(0.02)


def moments(rng: random.Random, book: Book) -> list[Moment]:
    """When the hosts of one run die: mostly somewhere, now and then at a seam; every third run loses a second host."""
    if rng.random() < 0.25:
        point = rng.choice(("cell.before", "cell.after", "publish.files.after", "publish.head.after", "end.before"))
        number = rng.randint(1, len(book.cells)) if point.startswith("cell.") else 1 if point.startswith("end.") else 3
        first = Moment(point=point, number=number)
    else:
        first = Moment(share=rng.uniform(0.0, 0.98))
    return [first, Moment(share=rng.uniform(0.0, 0.9))] if rng.random() < 1 / 3 else [first]


def differences(actual: Outcome, expected: Outcome) -> list[str]:
    """Where the outputs, counts or digests of two runs differ, a line for each; empty: nowhere."""
    if len(actual.shown) != len(expected.shown):
        return [f"{len(actual.shown)} cells for {len(expected.shown)}"]
    lines = []
    for n, ((count, mine), (other_count, others)) in enumerate(zip(actual.shown, expected.shown, strict=True), 1):
        if count != other_count:
            lines.append(f"cell {n}: execution count {count} for {other_count}")
        if mine != others:
            lines += [f"cell {n}: {line}" for line in _unlike(mine, others)]
    return lines


def _unlike(mine: Sequence[object], others: Sequence[object]) -> list[str]:
    if len(mine) != len(others):
        return [f"{len(mine)} outputs for {len(others)}: {str(mine)[:500]} for {str(others)[:500]}"]
    lines = []
    for a, b in zip(mine, others, strict=True):
        if a == b:
            continue
        if isinstance(a, tuple) and isinstance(b, tuple) and a[0] == b[0] in ("stdout", "stderr"):
            rows, other_rows = str(a[1]).splitlines(), str(b[1]).splitlines()
            lines += [f"- {row}" for row in other_rows if row not in rows]
            lines += [f"+ {row}" for row in rows if row not in other_rows]
            lines += ["the same lines in another order or number"] if sorted(rows) == sorted(other_rows) else []
        else:
            lines.append(f"{str(a)[:300]} for {str(b)[:300]}")
    return lines


def repeats(outcome: Outcome, book: Book) -> list[str]:
    """The finished cells that ran again though the store had them, a line for each.

    A cell counts as recorded for an attempt if the store had it just after the death before. What stands
    after ``book.again`` may run again; it is the only thing that may.
    """
    lines = []
    for death, ran in zip(outcome.deaths, outcome.ran[1:], strict=False):
        wrong = [cell for cell in ran if cell <= death.recorded and not 0 < book.again <= cell]
        if wrong:
            lines.append(f"host {death.host + 1} ran {wrong}, of which the store had {death.recorded}")
    return lines


def run_twice(outcome: Outcome, book: Book) -> list[int]:
    """Cells that had been finished and ran again, recorded or not: what a perfect record would have saved."""
    pairs = zip(outcome.deaths, outcome.ran[1:], strict=False)
    return [cell for death, ran in pairs for cell in ran if cell < death.cell and not 0 < book.again <= cell]


def described(kills: Sequence[Moment]) -> str:
    """Kills in a line, for whoever replays them."""
    return ", ".join(f"{kill.point} no. {kill.number}" if kill.point else f"at {kill.share:.3f}" for kill in kills)
