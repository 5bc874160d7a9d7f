"""The launcher ``local``: an attempt is a process group on this machine, and no process outlives it.

Files, under ``<local_dir>/attempts/``:

    <attempt>.spec.json   what the attempt is started with
    <attempt>.json        process id, start time, boot; later how it ended
    <attempt>.log         its output

The record is written after the process was started, so a launcher that dies in between leaves a process without a
record: ``find`` then looks for the label in the environments of all processes. The spec is written before, so an
attempt without a spec here was started from another ``local_dir``: its processes are never ended from here.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from qcity_nb import codec
from qcity_nb.errors import StoreUnavailable, UsageError
from qcity_nb.hosts import labelled_processes
from qcity_nb.hosts.labelled_processes import LABEL, Process
from qcity_nb.ports import Observation
from qcity_nb.records import AttemptSpec
from qcity_nb.run.local_dir import prepare
from qcity_nb.settings import Settings

__all__ = ["LocalLauncher", "wait_for_end"]

SIDECAR_GRACE_S = 2.0
"""How long a sidecar may outlive its attempt: it publishes the newest local checkpoint and releases the lease."""

LOOK_S = 0.5
"""How often a log is read for more."""

_children: dict[int, subprocess.Popen[bytes]] = {}
"""Attempts that this process started: only their parent learns their exit code."""


_reported: set[int] = set()
"""Those whose end ``wait_for_end`` has already reported."""


def wait_for_end(timeout_s: float) -> None:
    """Wait until an attempt that this process started has ended, at most for ``timeout_s``.

    Without pidfds (outside Linux) it waits the whole time.
    """
    with contextlib.ExitStack() as stack:
        poll = select.poll()
        _reported.intersection_update(_children)
        opened: dict[int, int] = {}
        if hasattr(os, "pidfd_open"):
            for pid in _children.keys() - _reported:
                with contextlib.suppress(OSError):
                    opened[descriptor := os.pidfd_open(pid)] = pid
                    stack.callback(os.close, descriptor)
                    poll.register(descriptor, select.POLLIN)
        if not opened:
            time.sleep(timeout_s)
            return
        _reported.update(opened[descriptor] for descriptor, _ in poll.poll(timeout_s * 1000))


def _command(spec: Path) -> Sequence[str]:
    return [sys.executable, "-m", "qcity_nb.engine.attempt", str(spec)]


def _is_sidecar(process: Process) -> bool:
    return " qcity_nb.sidecar " in f" {process.command} "


def _reason(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


def _write(path: Path, content: bytes) -> None:
    """Write the file, completely and durably, or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:  # Ctrl-C too: no incomplete file stays
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class LocalLauncher:
    """Launches attempts as processes of this machine.

    Args:
        settings: ``local_dir`` says where specs, records and logs go.
        flavor: must be empty: this host has no flavors.
        command: what to start for a spec file, which must be its last argument; tests inject their own.
    """

    def __init__(
        self, settings: Settings, flavor: str = "", *, command: Callable[[Path], Sequence[str]] | None = None
    ) -> None:
        if flavor:
            raise UsageError(f"the host 'local' has no flavors: write 'local' without {flavor!r}")
        self._folder = settings.local_dir / "attempts"
        self._command = command or _command

    @property
    def name(self) -> str:
        """The name that ``--on`` takes."""
        return "local"

    def quote(self) -> str:
        """Empty: the user's own machine costs nothing."""
        return ""

    def _path(self, attempt: str, kind: str) -> Path:
        return self._folder / f"{attempt}.{kind}"

    def launch(self, spec: AttemptSpec) -> None:
        """Start the attempt in its own session, labelled in its environment.

        Raises:
            UsageError: the local directory cannot be written, or the project's directory does not exist.
            StoreUnavailable: the machine cannot start another process now.
        """
        path = self._path(spec.attempt, "spec.json")
        try:
            prepare(self._folder.parent)
            self._folder.mkdir(parents=True, exist_ok=True)
            _write(path, codec.dumps(spec))
            log = self._path(spec.attempt, "log").open("ab")
        except OSError as error:
            raise UsageError(
                f"cannot launch here: {self._folder} cannot be written ({error.strerror}); set `local_dir` to "
                "a directory on this machine's own disk"
            ) from error
        with log:
            cwd = spec.project or None
            if cwd is not None and not Path(cwd).is_dir():
                raise UsageError(f"cannot launch here: the project's directory {cwd} does not exist")
            try:
                child = subprocess.Popen(
                    self._command(path),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=cwd,
                    env={**os.environ, LABEL: spec.attempt},
                    start_new_session=True,
                )
            except OSError as error:
                raise StoreUnavailable(f"cannot start a process here: {error}") from error
        _children[child.pid] = child
        process = labelled_processes.look_up(child.pid)
        self._write_record(spec.attempt, {"pid": child.pid, "started": process.started if process else ""})

    def _write_record(self, attempt: str, record: dict[str, Any]) -> None:
        try:
            _write(self._path(attempt, "json"), json.dumps({**labelled_processes.machine(), **record}).encode())
        except OSError:
            # The process is still found by the label in its environment, only more slowly.
            return

    def _read_record(self, attempt: str) -> dict[str, Any] | None:
        try:
            record = json.loads(self._path(attempt, "json").read_bytes())
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) else None

    def _reap(self, pid: int) -> int | None:
        child = _children.get(pid)
        code = child.poll() if child is not None else None
        if code is not None:
            del _children[pid]
        return code

    def _find_by_label(self, attempt: str) -> tuple[Process | None, list[Process]]:
        """The attempt's main process, if there is no record of it, and all processes with its label."""
        spec = self._path(attempt, "spec.json").name  # its folder may be written in more than one way
        processes = labelled_processes.find_labelled(attempt)
        main = next((each for each in processes if spec in each.command and not _is_sidecar(each)), None)
        return main, processes

    def _is_own(self, attempt: str) -> bool:
        """Was it started from this ``local_dir``?"""
        return self._path(attempt, "spec.json").exists()

    def _find_main(self, attempt: str) -> Process | None:
        record = self._read_record(attempt)
        if record is None:
            return self._find_by_label(attempt)[0] if self._is_own(attempt) else None
        here = labelled_processes.machine()
        if "ended" in record or any(record.get(key) != here[key] for key in here):
            return None
        process = labelled_processes.look_up(int(record.get("pid", 0)))
        return process if process is not None and process.started == record.get("started") else None

    def find(self, attempt: str) -> Observation | None:
        """What is known of the attempt.

        Before it returns ``gone``, it ends all remaining processes of the attempt: the kernel and others at once, a
        living sidecar after at most ``SIDECAR_GRACE_S``. Of an attempt from another ``local_dir`` it only says whether
        its main process lives here.
        """
        record = self._read_record(attempt)
        if record is None:
            main, others = self._find_by_label(attempt)
            if main is None and others:
                # Between fork and exec a process has its label but not yet its command line: look again.
                main, others = self._find_by_label(attempt)
            if not self._is_own(attempt):
                return Observation(state="running") if main is not None else None
            if main is None:
                # Processes with the label but no main process: that ended before it was recorded.
                return self._end_remaining(attempt, {}, None) if others else None
            record = {"pid": main.pid, "started": main.started}
            self._write_record(attempt, record)
            return Observation(state="running")
        if "ended" in record:
            return Observation(state="gone", reason=str(record["ended"]), exit_code=record.get("exit_code"))
        here = labelled_processes.machine()
        if record.get("node") != here["node"]:
            return None
        if record.get("boot") != here["boot"]:
            return self._end_remaining(attempt, record, None, reason="the machine was restarted")
        if record.get("namespace") != here["namespace"]:
            return None
        pid = int(record.get("pid", 0))
        code = self._reap(pid)
        if code is None and labelled_processes.is_alive(pid, str(record.get("started", ""))):
            return Observation(state="running")
        if code is None:
            code = self._reap(pid)
        return self._end_remaining(attempt, record, code)

    def _end_remaining(
        self, attempt: str, record: dict[str, Any], code: int | None, *, reason: str = ""
    ) -> Observation:
        left = labelled_processes.end(attempt, spare=_is_sidecar, spare_s=SIDECAR_GRACE_S)
        if left:
            pids = ", ".join(str(each.pid) for each in left)
            return Observation(state="unknown", reason=f"its processes cannot be ended: {pids}")
        reason = reason or (_reason(code) if code is not None else "its process is gone")
        self._write_record(attempt, {**record, "ended": reason, "exit_code": code})
        return Observation(state="gone", reason=reason, exit_code=code)

    def stop(self, attempt: str, *, grace_s: float) -> None:
        """Send SIGTERM to the attempt's main process, and after ``grace_s`` SIGKILL to all its remaining processes."""
        main = self._find_main(attempt)
        if main is None and not self._is_own(attempt):
            return
        if main is not None and grace_s > 0:
            labelled_processes.send(main, signal.SIGTERM)
            until = time.monotonic() + grace_s
            while time.monotonic() < until and labelled_processes.is_alive(main.pid, main.started):
                time.sleep(0.02)
        if main is not None:
            labelled_processes.send(main, signal.SIGKILL)
            labelled_processes.wait_gone([main], timeout_s=2.0)
        self.find(attempt)

    def follow(self, attempt: str, *, until: Callable[[], bool] | None = None) -> Iterator[str] | None:
        """The attempt's log file, if it ran here; with ``until``, also what is added, until that returns true."""
        path = self._path(attempt, "log")
        return self._read(path, until) if path.is_file() else None

    @staticmethod
    def _read(path: Path, until: Callable[[], bool] | None) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        with path.open("rb") as file:
            while True:
                # Called before the last read, so that everything written until then is read.
                is_last = until is None or until()
                while data := file.read(1 << 20):
                    if text := decoder.decode(data):
                        yield text
                if is_last:
                    return
                time.sleep(LOOK_S)
