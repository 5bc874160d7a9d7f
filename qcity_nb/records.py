"""The facts that travel: frozen records, stored as JSON (see ``codec``).

Words are those of docs/design.md. Unknown keys survive in ``extra``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

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
class Heartbeat:
    """What an observer watches: a holder lives while this changes."""

    term: int
    heartbeat: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The attempt that may publish."""

    attempt: str
    host: str
    node: str = ""
    pid: int = 0
    ttl_s: float = 10.0
    since: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingLaunch:
    """A keeper is about to launch ``attempt``; void once unchanged for ``grace_s``."""

    attempt: str
    host: str
    keeper: str
    declared_dead: Heartbeat
    grace_s: float = 30.0
    since: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredState:
    """What should be."""

    state: Literal["running", "stopped"] = "running"
    hosts: tuple[str, ...] = ("local",)
    manual: bool = False
    """Begun by hand: no keeper launches it until somebody hands it over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRef:
    """A published checkpoint: its manifest's name and digest in the store."""

    name: str
    digest: str
    seq: int
    term: int
    step: int = 0
    cells: int = 0
    """So many of the notebook's first code cells a new kernel passes over, unless it must make something again."""
    size_bytes: int = 0
    at: str = ""
    label: str = ""
    """The name that the user gave it: it stays for ever. Empty: none."""
    values: Mapping[str, float] = field(default_factory=dict)
    """The newest values of the metrics that decide what stays, among the rows that it added."""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why the newest attempt ended badly, and how often in a row it did so in the same way."""

    cause: Literal["notebook", "host"]
    signature: str
    message: str
    traceback: str = ""
    term: int = 0
    times: int = 1
    seq: int = 0
    """The newest checkpoint at that moment: a later one is progress."""
    error: str = ""
    """The name of the error in ``errors``, where it is one of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracked:
    """Where the run is in the tracker."""

    uri: str = ""
    run_id: str = ""
    drained_seq: int = 0
    """Rows of checkpoints up to this one have been acknowledged."""
    status: str = "RUNNING"
    """As MLflow says it; ``WAITING``: this host could not reach it at all, rows wait in the outbox."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaunch:
    """How often and how fast a dead run is launched again."""

    max_attempts: int = 50
    max_attempts_without_progress: int = 5
    backoff_s: float = 1.0
    backoff_max_s: float = 300.0
    stall_timeout_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Launches:
    """What the relaunch budget needs to know and the epoch does not tell. Keepers write it."""

    failed: int = 0
    """Attempts since ``epoch`` that ended, or never began, without taking the lease."""
    term: int = 0
    reason: str = ""
    since_term: int = 0
    """The budget counts from here: a person resumed the run at this epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The one small record per run, changed only by compare-and-set."""

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
    """Name of the stored project files that a fresh host lays beside it; empty: there are none."""
    executed: str = ""
    """Name of the newest stored executed notebook."""
    checkpoints: tuple[CheckpointRef, ...] = ()
    """Newest first; the older ones are what a reader falls back to."""
    journal: str = ""
    outbox: str = ""
    tracked: Tracked = Tracked()
    failure: Failure | None = None

    sent: Mapping[str, int] = field(default_factory=dict)
    """Bytes published in each of the last hours (since 1970, UTC), where the store gives room back late."""

    needs: Mapping[str, Any] = field(default_factory=dict)
    budget: Mapping[str, Any] = field(default_factory=dict)
    relaunch: Relaunch = Relaunch()
    launches: Launches = Launches()
    output: str = ""
    """Where the executed notebook goes on a host with the project's files; relative to the project."""

    writes: tuple[str, ...] = ()
    """The last 16 write ids: how a writer with a lost reply finds out."""
    extra: Mapping[str, Any] = field(default_factory=dict)

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
class Event:
    """One line of the journal."""

    kind: str
    at: str
    term: int
    attempt: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptSpec:
    """All that a launcher and a fresh host need to make one attempt. Holds no secret."""

    run: str
    attempt: str
    """The attempt's id: the label by which any keeper finds it again."""
    host: str
    store: str
    """The store's address."""
    declared_dead: Heartbeat | None = None
    """The holder judged dead; the lease is taken only if that is unchanged."""
    project: str = ""
    """The project's directory on a host that shares this file system."""
    output: str = ""
    """Where the executed notebook goes on such a host; empty: only into the store."""
    needs: Mapping[str, Any] = field(default_factory=dict)
