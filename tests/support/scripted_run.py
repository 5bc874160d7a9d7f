"""Runs without a kernel, in real processes: a loop in a plain script, its sidecar, and what the store has of it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qcity_nb.records import Event, Head
from qcity_nb.run import journal, lease
from qcity_nb.run.processes import is_alive, process_state
from qcity_nb.stores import open_store

__all__ = ["SCRIPT", "Script", "Snapshot", "attempt_pids", "environment", "eventually", "events", "head_of", "metrics"]

# One loop. Every iteration that the body begins is a line in a file beside the script, so executions can be counted.
SCRIPT = """
import sys, time
from pathlib import Path
import qcity_nb as qcity
from qcity_nb.errors import QcityError

store, tracking, count, pause_s, executed = sys.argv[1:6]
try:
    city = qcity.up(run="train", store=store, tracking=tracking)
    print("up", city.run, city.session.term, flush=True)
    state = {"total": [0.0]}
    for i in city.loop(range(int(count)), state, every=1):
        with Path(executed).open("a") as file:
            file.write(f"{i}\\n")
        state["total"][0] += 0.1 * i
        city.log(total=state["total"][0])
        time.sleep(float(pause_s))
    city.finish()
    print("finished", repr(state["total"][0]), flush=True)
except QcityError as error:
    print(f"{type(error).__name__}: {error}", flush=True)
    sys.exit(error.exit_code)
"""


def eventually(check: Callable[[], Any], *, within_s: float = 40.0, what: str = "it") -> Any:
    """The first true answer of ``check``."""
    until = time.monotonic() + within_s
    while not (result := check()):
        assert time.monotonic() < until, f"{what} did not happen within {within_s:g} s"
        time.sleep(0.01)
    return result


def environment(*, ttl_s: float = 2.0, **more: str) -> dict[str, str]:
    """The environment of a run with short times, and with nothing of this one's own settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("QCITY_", "MLFLOW_"))}
    root = Path(__file__).parents[2]
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]),
        "QCITY_TTL": f"{ttl_s:g}",
        "QCITY_HEARTBEAT": "0.2",
        "QCITY_PUBLISH": "0.1",
        **more,
    }


@dataclass(slots=True)
class Script:
    """One attempt by hand, in a directory and with a local tier of its own."""

    folder: Path
    store: Path
    tracking: str = ""
    count: int = 30
    pause_s: float = 0.05
    ttl_s: float = 2.0
    source: str = SCRIPT
    environ: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> Script:
        """Start it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # Tests share one MLflow server: the store's path makes it another project, and so another run there.
        project = f"scripted-{hashlib.sha256(str(self.store).encode()).hexdigest()[:8]}"
        (self.folder / "pyproject.toml").write_text(f'[tool.qcity]\nproject = "{project}"\n')
        (self.folder / "work.py").write_text(self.source)
        command = [sys.executable, "work.py", str(self.store), self.tracking, str(self.count), str(self.pause_s)]
        with (self.folder / "output").open("ab") as output:
            self.process = subprocess.Popen(
                [*command, "executed"],
                cwd=self.folder,
                env=environment(ttl_s=self.ttl_s, **self.environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    @property
    def pid(self) -> int:
        """The script's process."""
        assert self.process is not None
        return self.process.pid

    @property
    def output(self) -> str:
        """What it has said so far."""
        file = self.folder / "output"
        return file.read_text() if file.exists() else ""

    @property
    def executed(self) -> list[int]:
        """The iterations whose body was begun."""
        file = self.folder / "executed"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    @property
    def sidecars(self) -> list[int]:
        """The sidecars of its attempts that exist."""
        return [
            pid for mailbox in (self.folder / ".qcity/local/attempts").glob("*") for pid in attempt_pids(mailbox.name)
        ]

    @property
    def pids(self) -> list[int]:
        """All processes of the attempt."""
        return [self.pid, *self.sidecars]

    def send(self, number: int) -> None:
        """A signal to all of them."""
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def is_stopped(self) -> bool:
        """Is any of its processes stopped?"""
        return any(process_state(pid) == "T" for pid in self.pids)

    def wait(self, *, within_s: float = 60.0) -> int:
        """Its exit code, once it has ended with all its processes."""
        assert self.process is not None
        code = self.process.wait(timeout=within_s)
        eventually(lambda: not self.sidecars, what=f"the end of the sidecars of {self.folder.name}")
        return code

    def kill(self) -> None:
        """Remove all processes."""
        self.send(signal.SIGKILL)
        if self.process is not None:
            self.process.wait(timeout=10)


def attempt_pids(label: str) -> list[int]:
    """The living processes whose environment has the attempt's label."""
    variable = f"QCITY_ATTEMPT={label}".encode()
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if variable in (folder / "environ").read_bytes().split(b"\0") and is_alive(int(folder.name)):
                pids.append(int(folder.name))
    return pids


def head_of(store: Path, run: str = "") -> Head:
    """The head of the run, or of the only one."""
    opened = open_store(str(store))
    return lease.read(opened, run or opened.runs()[0]).head


def events(store: Path, run: str = "") -> list[Event]:
    """The run's journal."""
    opened = open_store(str(store))
    head = head_of(store, run)
    return journal.decode_events(head.journal, lambda name: opened.get(head.run, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All that a store holds of its runs, and all that MLflow holds of them."""

    heads: Mapping[str, str]
    files: Mapping[str, str]
    rows: tuple[tuple[Any, ...], ...]

    @classmethod
    def take(cls, store: Path, database: Path | None = None) -> Snapshot:
        """As it is now."""
        digests: dict[str, dict[str, str]] = {"heads": {}, "files": {}}
        for path in sorted((store / "runs").rglob("*")):
            if path.is_file():
                kind = path.relative_to(store / "runs").parts[1]
                digests[kind][str(path.relative_to(store))] = hashlib.sha256(path.read_bytes()).hexdigest()
        runs = tuple(path.name for path in (store / "runs").iterdir())
        rows = tuple(row for run in runs for row in metrics(database, run)) if database else ()
        return cls(heads=digests["heads"], files=digests["files"], rows=rows)


def metrics(database: Path, run: str) -> list[tuple[Any, ...]]:
    """The run's rows and statuses in an MLflow database, as they are stored."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=20)) as connection:
        own = "(SELECT run_uuid FROM tags WHERE key = 'qcity.run' AND value = ?)"
        rows = connection.execute(
            f"SELECT run_uuid, key, step, value, timestamp FROM metrics WHERE run_uuid IN {own} ORDER BY 1, 2, 3, 5",
            [run],
        ).fetchall()
        status = connection.execute(
            f"SELECT run_uuid, 'status', status FROM runs WHERE run_uuid IN {own} ORDER BY 1",
            [run],
        ).fetchall()
    return [*rows, *status]
