"""What runs inside a job: `python -m qcity_nb.hosts.container`, with the attempt's spec in ``QCITY_SPEC``.

It first checks whether this attempt is still needed: a job may have waited for hours before it began. Then it extracts
the project's files into a new directory, starts the attempt there as a process, and waits for it, and after that for
the sidecar's last publish: when this process ends, the container ends, with everything in it.

The exit code is the attempt's; 0 also if there was nothing to do.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TypeVar

from qcity_nb import codec
from qcity_nb.errors import QcityError, StoreUnavailable, UsageError
from qcity_nb.hosts import labelled_processes
from qcity_nb.hosts.bundle import unpack
from qcity_nb.ports import Store
from qcity_nb.printable import printable
from qcity_nb.records import AttemptSpec, Head
from qcity_nb.run import lease
from qcity_nb.stores import open_store
from qcity_nb.version import __version__

__all__ = ["SPEC", "main", "reason_to_skip"]

SPEC = "QCITY_SPEC"
"""The variable that holds the attempt's spec."""
LAST_PUBLISH_S = 600.0
"""How long a job waits for a sidecar whose notebook has ended: what it still publishes need not be computed again."""
_TRIES = 6
"""How often the store is asked before the job gives up: with the pauses, half a minute."""

Result = TypeVar("Result")


def _say(text: str) -> None:
    print(f"qcity: {printable(text)}", file=sys.stderr, flush=True)  # noqa: T201  # a job's log is where people look


def reason_to_skip(head: Head, spec: AttemptSpec) -> str:
    """Why this attempt is not needed; empty: it is."""
    if head.is_over or head.state == "stopped":
        return f"run {head.run} has {head.state}" if head.is_over else f"run {head.run} is stopped"
    if head.desired.state != "running":
        return f"run {head.run} is to be stopped"
    if head.pending_launch is not None and head.pending_launch.attempt == spec.attempt:
        return ""
    if head.holder is None or head.holder.attempt == spec.attempt:
        return ""
    return f"run {head.run} is held by {lease.describe(head)}, and {spec.attempt} is not needed any more"


def _ask(ask: Callable[[], Result]) -> Result:
    pause_s = 1.0
    for left in range(_TRIES - 1, -1, -1):
        try:
            return ask()
        except StoreUnavailable as error:
            if not left:
                raise
            _say(f"{error}; asking again in {pause_s:g} s")
            time.sleep(pause_s)
            pause_s *= 2
    raise AssertionError


def _extract(store: Store, head: Head) -> Path:
    """A directory with the project's files that are stored with the run."""
    folder = Path(tempfile.mkdtemp(prefix="qcity-")) / (head.project.replace("/", "-") or "project")
    folder.mkdir()
    if head.bundle:
        names = unpack(head.bundle, _ask(lambda: store.get(head.run, head.bundle)), folder)
        _say(f"{len(names)} files of project {head.project} in {folder}")
    return folder


def _is_sidecar(process: labelled_processes.Process) -> bool:
    return " qcity_nb.sidecar " in f" {process.command} "


def _run_attempt(spec: AttemptSpec, folder: Path) -> int:
    """Run the attempt until it and its sidecar have ended; returns its exit code."""
    file = folder.parent / "spec.json"
    file.write_bytes(codec.dumps(replace(spec, project=str(folder), output="")))
    around = {name: value for name, value in os.environ.items() if name != SPEC}
    around |= {labelled_processes.LABEL: spec.attempt, "QCITY_LOCAL_DIR": str(folder / ".qcity" / "local")}
    child = subprocess.Popen([sys.executable, "-m", "qcity_nb.engine.attempt", str(file)], cwd=folder, env=around)

    def pass_on(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number)

    # Process 1 of a container ignores a signal for which it has no handler.
    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    labelled_processes.end(spec.attempt, spare=_is_sidecar, spare_s=LAST_PUBLISH_S)
    return code if code >= 0 else 128 - code


def _run() -> int:
    text = os.environ.get(SPEC, "")
    try:
        spec = codec.loads(AttemptSpec, text.encode())
    except ValueError as error:
        raise UsageError(
            f"{SPEC} is not an attempt's spec ({error}): jobs are started by `qcity run --on hf-jobs`"
        ) from None
    _say(f"version {__version__}, attempt {spec.attempt} of run {spec.run} on {spec.host}")
    store = open_store(spec.store)
    head = _ask(lambda: lease.read(store, spec.run).head)
    if reason := reason_to_skip(head, spec):
        _say(f"nothing to do: {reason}")
        return 0
    folder = _extract(store, head)
    try:
        return _run_attempt(spec, folder)
    finally:
        shutil.rmtree(folder.parent, ignore_errors=True)


def main() -> int:
    """Run the attempt that the environment specifies."""
    try:
        return _run()
    except QcityError as error:
        _say(str(error))
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
