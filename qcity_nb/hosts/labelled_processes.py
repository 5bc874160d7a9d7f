"""Processes of this machine by the label in their environment: find, identify and end them.

The label is an environment variable, which every descendant inherits, also in a session of its own. A process that
cleared its environment is still found through its parent, as long as that lives.

Process ids are reused: a process is identified by id and start time together.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LABEL", "Process", "end", "is_alive", "find_labelled", "look_up", "machine", "send", "wait_gone"]

LABEL = "QCITY_ATTEMPT"

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process at the time it was read."""

    pid: int
    parent: int
    started: str
    """The start time as this system counts it; compared only for equality."""
    is_zombie: bool
    command: str


def machine() -> dict[str, str]:
    """Where a process id is valid: the machine, its boot, its process namespace."""
    return dict(_machine(os.getpid()))


@functools.cache
def _machine(_pid: int) -> dict[str, str]:
    # None of it changes while a process lives. A child that is forked into another namespace has another id.
    names = {"node": os.uname().nodename, "boot": "", "namespace": ""}
    with contextlib.suppress(OSError):
        names["boot"] = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    with contextlib.suppress(OSError):
        names["namespace"] = str((_PROC / "self/ns/pid").readlink())
    return names


def _parse_stat(pid: int, stat: str, command: str) -> Process:
    # The name in brackets may itself hold spaces and brackets: count from the last one. Fields: proc(5).
    fields = stat[stat.rindex(")") + 2 :].split()
    return Process(pid=pid, parent=int(fields[1]), started=fields[19], is_zombie=fields[0] in "ZX", command=command)


def _read(pid: int) -> Process | None:
    folder = _PROC / str(pid)
    try:
        stat = (folder / "stat").read_text(encoding="utf-8", errors="replace")
        command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return None
    return _parse_stat(pid, stat, command)


def _ps(*arguments: str) -> list[Process]:
    """Processes by ``ps``, where there is no /proc (macOS); with ``-E`` the command includes the environment."""
    columns = "pid=,ppid=,stat=,lstart=,command="
    done = subprocess.run(
        ["ps", *arguments, "-o", columns],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=10,
        env={"PATH": "/bin:/usr/bin", "LC_ALL": "C"},
    )
    processes = []
    for line in done.stdout.splitlines():
        match = re.match(r"\s*(\d+)\s+(\d+)\s+(\S+)\s+(\S+ +\S+ +\d+ +[\d:]+ +\d+)\s?(.*)", line)
        if match:
            pid, parent, state, started, command = match.groups()
            processes.append(
                Process(
                    pid=int(pid),
                    parent=int(parent),
                    started=" ".join(started.split()),
                    is_zombie=state.startswith("Z"),
                    command=command,
                )
            )
    return processes


def look_up(pid: int) -> Process | None:
    """The process with that id, zombies included."""
    if _PROC.joinpath("self").exists():
        return _read(pid)
    return next(iter(_ps("-ww", "-p", str(pid))), None)


def is_alive(pid: int, started: str) -> bool:
    """Is it still that process, and not a zombie?"""
    if _PROC.joinpath("self").exists():
        # Without the command line, which is not needed here.
        try:
            stat = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return False
        process: Process | None = _parse_stat(pid, stat, "")
    else:
        process = look_up(pid)
    return process is not None and process.started == started and not process.is_zombie


def _list_processes(label: str) -> tuple[list[Process], set[int]]:
    """Every visible process, and the ids of those whose environment has the label."""
    text = f"{LABEL}={label}"
    if not _PROC.joinpath("self").exists():
        processes = _ps("-axwwE")
        word = re.compile(rf"(^|\s){re.escape(text)}(\s|$)")
        return processes, {process.pid for process in processes if word.search(process.command)}
    processes, having = [], set()
    for entry in os.scandir(_PROC):
        if not entry.name.isdigit():
            continue
        process = _read(int(entry.name))
        if process is None:
            continue
        processes.append(process)
        # The environment of other users' processes, and of those that just ended, cannot be read: not ours.
        with contextlib.suppress(OSError):
            if text.encode() in (_PROC / entry.name / "environ").read_bytes().split(b"\0"):
                having.add(process.pid)
    return processes, having


def find_labelled(label: str) -> list[Process]:
    """The living processes with the label, and their descendants; never this process itself."""
    processes, having = _list_processes(label)
    children: dict[int, list[int]] = {}
    for process in processes:
        children.setdefault(process.parent, []).append(process.pid)
    pids, todo = set(having), list(having)
    while todo:
        for child in children.get(todo.pop(), []):
            if child not in pids:
                pids.add(child)
                todo.append(child)
    pids.discard(os.getpid())
    return [process for process in processes if process.pid in pids and not process.is_zombie]


def send(process: Process, number: int) -> None:
    """Send a signal, if it is still that process."""
    if sys.platform == "linux":
        # A pidfd identifies the process, not the number: its id cannot be reused between the check and the signal.
        with contextlib.suppress(OSError):
            handle = os.pidfd_open(process.pid)
            try:
                if is_alive(process.pid, process.started):
                    signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)
            return
    if is_alive(process.pid, process.started):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process.pid, number)


def wait_gone(processes: Iterable[Process], *, timeout_s: float) -> list[Process]:
    """Those that are still alive after at most ``timeout_s``."""
    until = time.monotonic() + timeout_s
    left = list(processes)
    while True:
        left = [process for process in left if is_alive(process.pid, process.started)]
        if not left or time.monotonic() >= until:
            return left
        time.sleep(0.01)


def end(label: str, *, spare: Callable[[Process], bool], spare_s: float, timeout_s: float = 5.0) -> list[Process]:
    """Kill every process with the label.

    Args:
        spare: says which processes may first finish by themselves.
        spare_s: for how long, all of them together.
        timeout_s: how long to wait until the killed ones are gone.
    Returns: processes that could not be ended in that time (hanging in the kernel, or not ours).
    """
    spare_until = time.monotonic() + spare_s
    until = spare_until + timeout_s
    while left := find_labelled(label):
        now = time.monotonic()
        if now >= until:
            return left
        spared = [process for process in left if now < spare_until and spare(process)]
        doomed = [process for process in left if process not in spared]
        for process in doomed:
            send(process, signal.SIGKILL)
        # List them again afterwards: one of them may have started another before it died.
        wait_gone(doomed or spared, timeout_s=min(0.5, until - now) if doomed else max(0.0, spare_until - now))
    return []
