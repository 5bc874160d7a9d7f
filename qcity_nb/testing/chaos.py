"""Chaos: kill or stop real processes at named crash points, in a way that replays.

A plan is one line of JSON, in the environment as ``QCITY_CHAOS``, so that every process of an attempt reads it:

    {"log": "/tmp/x/hits", "kills": {"17": "host"}}                    the run's 17th hit of any point
    {"log": "/tmp/x/hits", "at": {"publish.head.before": [2]}, "action": "stop"}   the 2nd hit of one point

Hits are counted over all processes by appending to ``log``, so in an equal run the n-th hit is the same event (the
sidecar's hits depend on the clock too, because of its heartbeats). With ``"late": {"publish.commit": 0.005}`` the
strike comes so many seconds after the hit, while the process continues: in the middle of what follows the point. With
``"apart": true`` no attempt is struck twice. Two threads may reach two points at once; the second point, in an attempt
that is about to die, then strikes at its next hit in another attempt.

Actions: ``kill`` this process; ``host``: every process of this attempt, and of the job that it runs in, this one last;
``machine``: these, and whatever else has the plan in its environment, such as the keeper that launched the attempt;
``stop``: SIGSTOP every process of the attempt; ``stop-self``: SIGSTOP this one.

The processes of an attempt carry its label in their environment. A notebook or script that is run by hand does not: it
is the attempt's owner, whose process id is passed to ``arm``.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from qcity_nb import crashpoints

__all__ = ["Action", "Plan", "arm", "hits", "hits_by_thread", "strike", "struck"]

Action = Literal["kill", "host", "machine", "stop", "stop-self"]

LABEL = "QCITY_ATTEMPT"
JOB = "JOB_ID"
PLAN = "QCITY_CHAOS"
_WIDTH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Where to strike."""

    log: str
    kills: Mapping[str, Action] = field(default_factory=dict)
    """By number of the hit, counted over all points and processes, from 1."""
    at: Mapping[str, list[int]] = field(default_factory=dict)
    """By point: the numbers of its own hits."""
    action: Action = "host"
    late: Mapping[str, float] = field(default_factory=dict)
    """By point: how many seconds after its hit."""
    apart: bool = False
    """Each point of ``at`` strikes once, from its first number on, and each in an attempt of its own."""
    plant: str = ""
    """A fault to plant (``testing.plants``)."""

    def dumps(self) -> str:
        """As text for the environment."""
        plan = {"log": self.log, "kills": dict(self.kills), "at": dict(self.at), "action": self.action}
        more = {"late": dict(self.late), "apart": self.apart, "plant": self.plant}
        return json.dumps({**plan, **{name: value for name, value in more.items() if value}})


def _processes_with(name: str, value: str) -> list[int]:
    """All other processes that have this in their environment."""
    variable = f"{name}={value}".encode()
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        try:
            if pid != os.getpid() and variable in (folder / "environ").read_bytes().split(b"\0"):
                pids.append(pid)
        except OSError:
            continue
    return pids


def strike(action: Action, *, attempt: str = "", owner: int = 0, after_s: float = 0.0) -> None:
    """Kill or stop this process, or all processes of its attempt.

    Args:
        attempt: its label, if this process's environment does not have it.
        owner: a process of the attempt that has no label; 0: none.
        after_s: how much later; this process continues meanwhile.
    """
    number = signal.SIGSTOP if action in ("stop", "stop-self") else signal.SIGKILL
    pids: list[int] = []
    if action in ("host", "machine", "stop"):
        label = os.environ.get(LABEL, "") or attempt
        job = os.environ.get(JOB, "")
        for _ in range(2):  # a process that starts during the first look is seen by the second
            pids += _processes_with(LABEL, label) if label else []
            pids += _processes_with(JOB, job) if job else []
            if action == "machine" and os.environ.get(PLAN):
                # The keeper first, else it sees the others die and acts.
                pids = [*_processes_with(PLAN, os.environ.get(PLAN, "")), *pids]
            if owner not in (0, os.getpid(), *pids):
                pids.append(owner)
            if not after_s:
                _send(pids, number)
                pids = []

    def end() -> None:
        time.sleep(after_s)
        _send([*pids, os.getpid()], number)

    if after_s:
        threading.Thread(target=end, name="chaos", daemon=True).start()
    else:
        os.kill(os.getpid(), number)


def _send(pids: list[int], number: int) -> None:
    for pid in dict.fromkeys(pids):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def struck(log: str | os.PathLike[str]) -> list[tuple[str, int]]:
    """Every strike so far: point and process id, in order."""
    return hits(f"{log}.struck")


def _append(log: str, name: str) -> int:
    """Note a hit; returns its number."""
    fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(fd, f"{name} {os.getpid()} {threading.get_native_id()}".ljust(_WIDTH - 1).encode() + b"\n")
        return os.lseek(fd, 0, os.SEEK_CUR) // _WIDTH
    finally:
        os.close(fd)


def _is_first(log: str, name: str, attempt: str) -> bool:
    """Whether neither this point has struck, nor this attempt was struck. Of calls at once, one is true."""
    if any(point == name for point, _ in struck(log)):
        return False
    mine = os.environ.get(JOB, "") or os.environ.get(LABEL, "") or attempt or str(os.getpid())
    try:
        os.close(os.open(f"{log}.struck.{mine}", os.O_CREAT | os.O_EXCL, 0o644))
    except FileExistsError:
        return False
    return True


def hits(log: str | os.PathLike[str]) -> list[tuple[str, int]]:
    """Every hit so far: point and process id, in order."""
    return [(name, pid) for name, pid, _ in hits_by_thread(log)]


def hits_by_thread(log: str | os.PathLike[str]) -> list[tuple[str, int, int]]:
    """Every hit so far: point, process id and thread id, in order."""
    try:
        data = Path(log).read_bytes()
    except FileNotFoundError:
        return []
    lines = [data[n : n + _WIDTH].split() for n in range(0, len(data), _WIDTH)]
    return [(name.decode(), int(pid), int(thread)) for name, pid, thread in lines]


def arm(text: str, *, attempt: str = "", owner: int = 0) -> None:
    """Arm this process with a plan.

    Args:
        attempt, owner: see ``strike``.
    Raises:
        ValueError: no such point, or not a plan: a plan that cannot strike would prove nothing.
    """
    raw = json.loads(text)
    plan = Plan(
        log=raw["log"],
        kills=raw.get("kills", {}),
        at=raw.get("at", {}),
        action=raw.get("action", "host"),
        late=raw.get("late", {}),
        apart=raw.get("apart", False),
    )
    if unknown := set(plan.at) - {*crashpoints.NAMES, *crashpoints.AT_A_HUB}:
        raise ValueError(f"no such crash point: {sorted(unknown)}")

    def hook(name: str) -> None:
        number = _append(plan.log, name)
        action = plan.kills.get(str(number))
        if action is None and name in plan.at:
            own = sum(1 for point, _ in hits(plan.log)[:number] if point == name)
            if plan.apart:
                is_due = own >= min(plan.at[name]) and _is_first(plan.log, name, attempt)
            else:
                is_due = own in plan.at[name]
            action = plan.action if is_due else None
        if action is not None:
            _append(f"{plan.log}.struck", name)
            strike(action, attempt=attempt, owner=owner, after_s=plan.late.get(name, 0.0))

    crashpoints.arm(hook)
    if raw.get("plant"):
        from qcity_nb.testing import plants

        plants.plant(raw["plant"])
