"""What is stored and sent: frozen records, written as JSON (see ``codec``).

Their words are those of docs/design.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from qcity_nb.codec import Record

__all__ = [
    "AttemptSpec",
    "Heartbeat",
    "CheckpointRef",
    "Event",
    "Failure",
    "Head",
    "Holder",
    "PendingLaunch",
    "Launches",
    "Relaunch",
    "Row",
    "RunState",
    "Tracked",
    "DesiredState",
]

RunState = Literal["running", "succeeded", "failed", "stopped"]
"""``running`` until it ends; ``stopped`` can be resumed, ``succeeded`` and ``failed`` are final."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat(Record):
    """What an observer watches: the holder is alive while this pair changes."""

    term: int
    heartbeat: int
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder(Record):
    """The attempt that may publish, and the process that holds the lease for it."""

    attempt: str
    host: str
    node: str = ""
    pid: int = 0
    ttl_s: float = 10.0
    since: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingLaunch(Record):
    """A keeper is about to launch ``attempt``. Void once the run record has not changed for ``grace_s``."""

    attempt: str
    host: str
    keeper: str
    declared_dead: Heartbeat
    grace_s: float = 30.0
    since: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredState(Record):
    """What should be: running or stopped, and on which hosts."""

    state: Literal["running", "stopped"] = "running"
    hosts: tuple[str, ...] = ("local",)
    manual: bool = False
    """Begun by hand: no keeper launches it until a person hands it over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRef(Record):
    """A published checkpoint: its manifest's name and digest in the store."""

    name: str
    digest: str
    seq: int
    term: int
    step: int = 0
    cells: int = 0
    """How many of the notebook's first code cells a new kernel skips, unless it must re-create a variable."""
    size_bytes: int = 0
    at: str = ""
    label: str = ""
    """The name that the user gave it: it then stays permanently. Empty: none."""
    values: Mapping[str, float] = field(default_factory=dict)
    """Of the metrics that retention looks at: the newest values among the rows that this checkpoint added."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure(Record):
    """Why the newest attempt ended badly, and how often in a row it did so in the same way."""

    cause: Literal["notebook", "host"]
    signature: str
    message: str
    traceback: str = ""
    term: int = 0
    times: int = 1
    seq: int = 0
    """The newest checkpoint at that moment: a newer one is progress."""
    error: str = ""
    """The error's name in ``errors``, if it is one of these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracked(Record):
    """The run in the tracker: where it is, and how far its rows were sent."""

    uri: str = ""
    run_id: str = ""
    drained_seq: int = 0
    """The tracker has acknowledged the rows of checkpoints up to this one."""
    status: str = "RUNNING"
    """In MLflow's words; ``WAITING``: this host could not reach the tracker at all, and rows wait in the outbox."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaunch(Record):
    """How often and how soon a run whose attempt died is relaunched."""

    max_attempts: int = 50
    max_attempts_without_progress: int = 5
    backoff_s: float = 1.0
    backoff_max_s: float = 300.0
    stall_timeout_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Launches(Record):
    """What the relaunch budget needs besides the term. Keepers write it."""

    failed: int = 0
    """Launches since ``term`` whose attempt ended, or never began, without acquiring the lease."""
    term: int = 0
    reason: str = ""
    since_term: int = 0
    """The budget counts from this term, at which a person resumed the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head(Record):
    """The run record: the one small record of a run, changed only by compare-and-set (``run/lease.py``)."""

    run: str
    key: str
    project: str
    notebook: str
    """Path in the project, with forward slashes."""
    name: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""

    term: int = 0
    heartbeat: int = 0
    holder: Holder | None = None
    state: RunState = "running"
    desired: DesiredState = DesiredState()
    pending_launch: PendingLaunch | None = None

    source: str = ""
    """Name of the stored notebook that a fresh host executes."""
    bundle: str = ""
    """Name of the stored project files that a fresh host extracts beside it; empty: there are none."""
    executed: str = ""
    """Name of the newest stored executed notebook."""
    checkpoints: tuple[CheckpointRef, ...] = ()
    """Newest first; a reader falls back to the older ones."""
    journal: str = ""
    outbox: str = ""
    tracked: Tracked = Tracked()
    failure: Failure | None = None

    sent: Mapping[str, int] = field(default_factory=dict)
    """Bytes published in each of the last hours (since 1970, UTC), if the store frees deleted storage late."""

    needs: Mapping[str, Any] = field(default_factory=dict)
    budget: Mapping[str, Any] = field(default_factory=dict)
    relaunch: Relaunch = Relaunch()
    launches: Launches = Launches()
    output: str = ""
    """Where the executed notebook goes on a host with the project's files; relative to the project."""

    writes: tuple[str, ...] = ()
    """The last 16 write ids: how a writer whose reply was lost finds out whether its write was made."""

    @property
    def seen(self) -> Heartbeat:
        """What an observer compares."""
        return Heartbeat(term=self.term, heartbeat=self.heartbeat)

    @property
    def checkpoint(self) -> CheckpointRef | None:
        """The newest published checkpoint."""
        return self.checkpoints[0] if self.checkpoints else None

    @property
    def is_over(self) -> bool:
        """Succeeded or failed: no attempt will follow by itself."""
        return self.state in ("succeeded", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One metric value: identity (loop, iteration, ordinal), timestamp fixed when logged."""

    key: str
    value: float
    timestamp_ms: int
    step: int
    loop: str
    iteration: int
    ordinal: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(Record):
    """One line of the journal."""

    kind: str
    at: str
    term: int
    attempt: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptSpec(Record):
    """All that a launcher and a fresh host need for one attempt. Holds no secret."""

    run: str
    attempt: str
    """The attempt's id: the label by which any keeper finds it again."""
    host: str
    store: str
    """The store's address."""
    declared_dead: Heartbeat | None = None
    """The heartbeat of the holder that was declared dead; the lease is acquired only if that is unchanged."""
    project: str = ""
    """The project's directory on a host that shares this file system."""
    output: str = ""
    """Where the executed notebook is written on such a host; empty: only to the store."""
    needs: Mapping[str, Any] = field(default_factory=dict)
