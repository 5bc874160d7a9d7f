"""The process that a job lives in: runs the command, keeps its log, ends all of it, and outlives the server.

Started as a script (``python -I -S pod.py FOLDER``) with its work as JSON on standard input: nothing of it, the
secrets least of all, stands on a command line or on disk. It imports only the standard library.

The folder holds ``state.json``, replaced whole at each change, and ``log.jsonl``: a line for each line of output, as
the emulator streams them. As in a container, the command's end is the end of every process it left behind, also of
those in sessions of their own; where there is no /proc, only its process group is ended.

Signals: SIGTERM ends the job, SIGUSR1 this attempt alone (an eviction: the next begins, if there is one).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["main"]

_KILL_S = 10.0
_LINE = 1 << 16  # a longer line is logged in parts
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER, prctl(2)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _children() -> dict[int, list[int]]:
    """The ids of living processes by their parent's."""
    children: dict[int, list[int]] = {}
    try:
        entries = os.listdir("/proc")  # noqa: PTH208 (one call for names alone)
    except OSError:
        return children
    for entry in entries:
        if entry.isdigit():
            with contextlib.suppress(OSError):
                fields = Path("/proc", entry, "stat").read_bytes().rpartition(b")")[2].split()
                if fields[0] not in (b"Z", b"X"):
                    children.setdefault(int(fields[1]), []).append(int(entry))
    return children


def _descendants() -> list[int]:
    children = _children()
    descendants: list[int] = []
    todo = [os.getpid()]
    while todo:
        below = children.get(todo.pop(), [])
        descendants += below
        todo += below
    return descendants


class _Pod:
    def __init__(self, folder: Path, work: dict[str, Any]) -> None:
        self.folder = folder
        self.work = work
        self.end_cause = ""  # why to end: "asked" or "evicted"
        self.state: dict[str, Any] = {"started": None, "finished": None, "failures": 0, "code": None, "cause": ""}
        self.log = os.open(folder / "log.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.wake, self._wake_end = os.pipe()
        for end in (self.wake, self._wake_end):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._wake_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self._end("asked"))
        signal.signal(signal.SIGUSR1, lambda *_: self._end("evicted"))
        if sys.platform == "linux":
            # Orphaned processes of the job become children of this one, so that they can be found and ended.
            ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)

    def _end(self, cause: str) -> None:
        if self.end_cause != "asked":  # an eviction does not take an end back
            self.end_cause = cause

    def save(self, **changes: Any) -> None:
        self.state.update(changes)
        new = self.folder / "state.json.new"
        new.write_text(json.dumps(self.state), encoding="ascii")
        new.replace(self.folder / "state.json")

    def say(self, *lines: str) -> None:
        # In ASCII: clients split a stream at every character that Unicode calls a line's end.
        text = "".join(json.dumps({"data": line, "timestamp": _now()}) + "\n" for line in lines)
        os.write(self.log, text.encode("ascii"))

    def run(self) -> None:
        deadline = time.monotonic() + float(self.work["timeout_s"])
        self.save(started=_now())
        while True:
            code, cause = self._attempt(deadline)
            failures = self.state["failures"] + (code != 0 and cause in ("exit", "start", "evicted"))
            self.save(failures=failures)
            if code == 0 or cause in ("asked", "timeout") or failures >= int(self.work["attempts"]):
                break
            if self.end_cause == "evicted":
                self.end_cause = ""
        # Its disk goes with it, as a container's does.
        for name in ("work", "tmp"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        self.save(finished=_now(), code=code, cause=cause)

    def _attempt(self, deadline: float) -> tuple[int, str]:
        for name in ("work", "tmp"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).mkdir(mode=0o700)
        began = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
        self.say(f"===== Job started at {began} =====", *self.work["notes"])
        out, out_end = os.pipe()
        failed, failed_end = os.pipe()
        main = os.fork()
        if main == 0:
            self._become(out_end, failed_end)
        os.close(out_end)
        os.close(failed_end)
        error = os.read(failed, 4096)  # waits for the exec
        os.close(failed)
        try:
            code, cause = self._watch(main, out, deadline)
        finally:
            os.close(out)
        if error:
            self.say(error.decode("utf-8", "replace"))
            return 128, "start"
        return code, cause

    def _become(self, out: int, failed: int) -> NoReturn:
        command = self.work["command"]
        try:
            os.setsid()
            for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these, and exec keeps that
                signal.signal(number, signal.SIG_DFL)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(out, 1)
            os.dup2(out, 2)
            os.chdir(self.folder / "work")
            os.execvpe(command[0], command, self.work["environment"])  # noqa: S606 (a job's command is what it is for)
        except (OSError, ValueError) as error:
            text = f"cannot start {command[0]!r}: {getattr(error, 'strerror', None) or error}"
            os.write(failed, text.encode("utf-8", "replace"))
        finally:
            os._exit(127)

    def _watch(self, main: int, out: int, deadline: float) -> tuple[int, str]:
        """Wait for the end of the main process, or end it; returns its exit code and why it ended."""
        rest = b""
        code: int | None = None
        is_open = True
        while code is None and not self.end_cause and (left := deadline - time.monotonic()) > 0:
            ready = select.select([out, self.wake] if is_open else [self.wake], [], [], min(left, 3600.0))[0]
            if self.wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self.wake, 4096)
            if out in ready:
                part = os.read(out, 1 << 16)
                is_open = bool(part)
                rest = self._log_lines(rest + part)
            code = self._reap(main)
        cause = "exit" if code is not None else self.end_cause or "timeout"
        ended = self._kill_all(main)
        while is_open and select.select([out], [], [], 1.0)[0] and (part := os.read(out, 1 << 16)):
            rest = self._log_lines(rest + part)
        if rest:
            self.say(rest.decode("utf-8", "replace"))
        if code is None:
            code = ended if ended is not None else 137
        return code, cause

    def _log_lines(self, text: bytes) -> bytes:
        """Log the whole lines of ``text``; returns what follows them."""
        *lines, rest = text.split(b"\n")
        while len(rest) > _LINE:
            lines.append(rest[:_LINE])
            rest = rest[_LINE:]
        self.say(*(line.decode("utf-8", "replace").removesuffix("\r") for line in lines))
        return rest

    def _reap(self, main: int) -> int | None:
        """Collect the dead; the main process's exit code, as a shell would say it, if it is among them."""
        code = None
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid == main:
                    exited = os.waitstatus_to_exitcode(status)
                    code = exited if exited >= 0 else 128 - exited
        return code

    def _kill_all(self, main: int) -> int | None:
        """Kill every process of the job; returns the main one's exit code if it was still there."""
        code = None
        until = time.monotonic() + _KILL_S
        if not Path("/proc/self").exists():
            with contextlib.suppress(OSError):
                os.killpg(main, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                code = os.waitstatus_to_exitcode(os.waitpid(main, 0)[1])
                code = code if code >= 0 else 128 - code
        while time.monotonic() < until:
            left = _descendants()
            for pid in left:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            exit_code = self._reap(main)
            code = code if exit_code is None else exit_code
            if not left:
                break
            time.sleep(0.002)
        return code


def main() -> None:
    """Read the work, continue as a daemon, print its pid once it can receive signals."""
    folder = Path(sys.argv[1])
    work = json.load(sys.stdin)
    ready, ready_end = os.pipe()
    pid = os.fork()
    if pid:
        os.close(ready_end)
        if os.read(ready, 1):
            sys.stdout.write(f"{pid}\n")
            sys.stdout.flush()
        os._exit(0)
    os.close(ready)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    troubles = os.open(folder / "pod.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number, handle in ((0, null), (1, null), (2, troubles)):
        os.dup2(handle, number)
    pod = _Pod(folder, work)
    os.write(ready_end, b"1")
    os.close(ready_end)
    pod.run()


if __name__ == "__main__":
    main()
