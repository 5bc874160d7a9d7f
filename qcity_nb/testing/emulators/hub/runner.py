"""Runs commands of jobs as processes of this machine, each under a pod that outlives the server (``pod.py``).

The docker image is not run. What a job sees instead of a container: an empty directory that is its HOME and where it
starts, a temporary directory, an environment of its own, and its end as the end of all its processes. It does see
this machine's files, network, processors and memory: nothing is walled off, nor limited to what a flavor has.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from qcity_nb.hosts import labelled_processes

__all__ = ["Pod", "State", "Work", "environment", "launch", "log_lines", "read_state", "sweep"]

_OF_THE_PROCESSOR = ("OPENBLAS_", "MKL_", "BLIS_")
"""Variables that say how libraries compute on this machine's processor. A job runs on it too: without them its sums
would be rounded in another way than those of a run beside it, and weights would differ in the last bit."""
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LAUNCH_S = 30.0

Cause = Literal["", "exit", "start", "timeout", "asked", "evicted"]
"""Why a job ended: by itself, its command could not be started, its time was over, on request; empty: it has not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a job runs.

    Args:
        timeout_s: for all attempts together.
        attempts: how often it is begun, at most; again only after a failure or an eviction.
        notes: lines that begin each attempt's log.
    """

    command: Sequence[str]
    environment: Mapping[str, str]
    timeout_s: float
    attempts: int = 1
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class State:
    """What a pod wrote down of its job, as it is or was.

    Attributes:
        code: the exit code of the last attempt, 128 + n after signal n.
        failures: attempts that failed.
    """

    started: str | None = None
    finished: str | None = None
    failures: int = 0
    code: int | None = None
    cause: Cause = ""


@dataclass(frozen=True, slots=True)
class Pod:
    """One job's pod, named permanently by its pid and start time."""

    pid: int
    started: str

    @property
    def is_alive(self) -> bool:
        """Whether that very process is there."""
        return labelled_processes.is_alive(self.pid, self.started)

    def end(self) -> None:
        """Have it kill all of the job, at once and without a word of warning; returns before that is done."""
        self._send(signal.SIGTERM)

    def evict(self) -> None:
        """The same for this attempt alone."""
        self._send(signal.SIGUSR1)

    def _send(self, number: int) -> None:
        process = labelled_processes.look_up(self.pid)
        if process is not None:
            labelled_processes.send(replace(process, started=self.started), number)


def environment(
    folder: Path, *, job_id: str, accelerator: str, cpu_cores: str, memory: str, requested: Mapping[str, str]
) -> dict[str, str]:
    """The whole environment of a job; ``given`` is what the job asked for, its secrets included.

    HF_ENDPOINT is not in it unless it is given: the real service sets none either.
    """
    return {
        **{name: value for name, value in os.environ.items() if name.startswith(_OF_THE_PROCESSOR)},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{_SYSTEM_PATH}",
        "LANG": "C.UTF-8",
        "HOME": str(folder / "work"),
        "TMPDIR": str(folder / "tmp"),
        **requested,
        "JOB_ID": job_id,
        "ACCELERATOR": accelerator,
        "CPU_CORES": cpu_cores,
        "MEMORY": memory,
    }


def launch(folder: Path, work: Work) -> Pod:
    """Start a job in ``folder``, which is made; its command may not have begun yet.

    Raises:
        OSError: no process could be started.
    """
    folder.mkdir(parents=True, mode=0o700)
    command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("pod.py")), str(folder)]
    order = {
        "command": list(work.command),
        "environment": dict(work.environment),
        "timeout_s": work.timeout_s,
        "attempts": work.attempts,
        "notes": list(work.notes),
    }
    # A clean environment: what this process was given, such as a test's crash points, is not the job's.
    done = subprocess.run(
        command,
        input=json.dumps(order),
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": _SYSTEM_PATH, "LANG": "C.UTF-8"},
        cwd="/",
        check=False,
        timeout=_LAUNCH_S,
    )
    if not done.stdout.strip().isdecimal():
        raise OSError(f"the job's pod did not start (exit {done.returncode})")
    pid = int(done.stdout)
    process = labelled_processes.look_up(pid)
    return Pod(pid, process.started if process else "")


def read_state(folder: Path) -> State:
    """What the pod in ``folder`` wrote last."""
    try:
        return State(**json.loads((folder / "state.json").read_text(encoding="ascii")))
    except FileNotFoundError:
        return State()


def sweep(job_id: str) -> None:
    """Kill what is left of a job whose pod is gone: every process that has its id in the environment."""
    variable = f"JOB_ID={job_id}".encode()
    with contextlib.suppress(OSError):
        for entry in os.scandir("/proc"):
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if variable in Path(entry.path, "environ").read_bytes().split(b"\0"):
                        os.kill(int(entry.name), signal.SIGKILL)


def log_lines(folder: Path, offset: int = 0) -> Iterator[tuple[bytes, int]]:
    """The log's whole lines from ``offset`` on, as they are stored, each with where the next begins."""
    try:
        file = (folder / "log.jsonl").open("rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return  # the rest of it is being written
            offset += len(line)
            yield line[:-1], offset
