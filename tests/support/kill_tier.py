"""A warm process that forks one writer of a local tier per line of its input, and lets each kill itself.

    {"path": …, "workload": "resume", "at": 7, "is_torn": false}  →  what the writer said, then "end -9" (or "end 0")

The writer dies by SIGKILL just before its operation number ``at`` (a write, sync, rename, create, …); torn, that write
is cut to half of its bytes and the next operation is the last. Syncs are counted and not carried out: SIGKILL keeps
the page cache, and ``tests/system/test_power_cut.py`` is about the syncs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tier_world as world

from qcity_nb.testing.disk import Call, Recorder


def write(path: Path, workload: str, at: int, *, is_torn: bool) -> None:
    """What the forked process does; it returns only if nothing killed it."""

    def before(call: Call) -> int | None:
        if call.number > at or (call.number == at and not (is_torn and call.kind == "write")):
            os.kill(os.getpid(), signal.SIGKILL)
        return call.size_bytes // 2 if call.number == at else None

    def say(text: str) -> None:
        os.write(1, f"{text}\n".encode())

    # Not closed: that would compare trace and disk, which begins anew in each process.
    Recorder(path, before=before, is_syncing=False).__enter__()
    (world.WORKLOADS | world.OTHERS | world.PLANTED)[workload](path / "1", say)


class Writers:
    """The warm process, from outside."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, path: Path, workload: str, at: int, *, is_torn: bool = False) -> tuple[list[str], int]:
        """Let one writer run; what it said, and its exit code (negative: the signal)."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        path.mkdir(exist_ok=True)
        order = {"path": str(path), "workload": workload, "at": at, "is_torn": is_torn}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        lines: list[str] = []
        for line in self._process.stdout:
            if line.startswith("end "):
                return lines, int(line.split()[1])
            lines.append(line.strip())
        raise AssertionError(f"the process that forks is gone: {self._process.wait(10)}")


@contextmanager
def writers() -> Iterator[Writers]:
    """Start the warm process."""
    where = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    with subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=where
    ) as process:
        yield Writers(process)
        assert process.stdin is not None
        process.stdin.close()
        process.wait(20)


def main() -> None:
    """Serve."""
    for line in sys.stdin:
        order: dict[str, Any] = json.loads(line)
        pid = os.fork()
        if not pid:
            try:
                write(Path(order["path"]), order["workload"], order["at"], is_torn=order["is_torn"])
            except BaseException:  # noqa: BLE001 - the exit code tells the test, the traceback people
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        os.write(1, f"end {os.waitstatus_to_exitcode(status)}\n".encode())


if __name__ == "__main__":
    main()
