"""Starts the sidecar: the publisher process of one attempt.

It alone talks to the store and the tracker. It acquires the lease, sends heartbeats, publishes what the kernel wrote
into the local tier, drains the outbox and releases the lease. `python -m qcity_nb.sidecar CONFIG` runs it; `spawn`
starts one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from qcity_nb import codec, errors
from qcity_nb.checkpoint.retention import Keep, keep_of
from qcity_nb.codec import Record
from qcity_nb.errors import CheckpointError, QcityError
from qcity_nb.records import Heartbeat
from qcity_nb.run.local_dir import prepare
from qcity_nb.run.mailbox import Mailbox, Status
from qcity_nb.run.processes import is_alive, start_time
from qcity_nb.settings import Settings

__all__ = ["Config", "ProcessRef", "respawn", "config_for", "node_name", "spawn", "wait_held"]

START_S = 120.0
"""How long the sidecar may take to acquire the lease and fetch the newest checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRef(Record):
    """A process, identified permanently by its pid and start time."""

    pid: int
    started: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Record):
    """All that a sidecar needs; written to ``sidecar.json`` in the mailbox. Holds no secret."""

    run: str
    attempt: str
    host: str
    node: str
    store: str
    local_dir: str
    mailbox: str
    tracking: str
    experiment: str
    ttl_s: float
    heartbeat_s: float
    publish_s: float
    owner: ProcessRef
    """The engine, or by hand the kernel: the sidecar ends when this process is gone."""
    declared_dead: Heartbeat | None = None
    take_over: bool = False
    wait: bool = False
    """Wait for a silent holder's lease to expire, instead of refusing at once."""
    storage_budget: int = 50_000_000_000
    keep: Keep = field(default_factory=Keep)
    chaos: str = ""

    def apply_to(self, settings: Settings) -> Settings:
        """The settings, with those that this attempt began with."""
        names = ("store", "tracking", "ttl_s", "heartbeat_s", "publish_s", "storage_budget")
        same = {name: getattr(self, name) for name in names}
        return replace(settings, local_dir=Path(self.local_dir), **same)


def node_name() -> str:
    """Identifies this machine until it reboots: its name and boot id."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8]
    except OSError:
        boot = ""
    return f"{os.uname().nodename}:{boot}" if boot else os.uname().nodename


def config_for(
    settings: Settings,
    *,
    run: str,
    attempt: str,
    host: str,
    store: str = "",
    declared_dead: Heartbeat | None = None,
    take_over: bool = False,
    wait: bool = False,
) -> Config:
    """The sidecar's config for an attempt whose owner is the calling process."""
    return Config(
        run=run,
        attempt=attempt,
        host=host,
        node=node_name(),
        store=store or settings.store,
        local_dir=str(settings.local_dir),
        mailbox=str(settings.mailbox_of(attempt)),
        tracking=settings.tracking,
        experiment=settings.project.name,
        ttl_s=settings.ttl_s,
        heartbeat_s=settings.heartbeat_s,
        publish_s=settings.publish_s,
        owner=ProcessRef(pid=os.getpid(), started=start_time(os.getpid())),
        declared_dead=declared_dead,
        take_over=take_over,
        wait=wait,
        storage_budget=settings.storage_budget,
        keep=keep_of(settings.keep_last, settings.keep_every, settings.keep_best),
        chaos=settings.chaos,
    )


def spawn(config: Config) -> tuple[Mailbox, subprocess.Popen[bytes]]:
    """Start a sidecar in its own session, so that an interrupt of the notebook does not reach it.

    Raises:
        CheckpointError: the local directory cannot be written.
        UsageError: other users can write to it.
    """
    file = Path(config.mailbox) / "sidecar.json"
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        prepare(Path(config.local_dir))
        mailbox = Mailbox(Path(config.mailbox)).open()
        draft.write_bytes(codec.dumps(config))
        draft.replace(file)  # atomic: the kernel may be reading the old one
    except OSError as error:
        raise CheckpointError(
            f"cannot write to {config.local_dir}: {error.strerror or error}; free disk space or set another `local_dir`"
        ) from None
    # No progress bars of the Hub's client in the log.
    environ = {**os.environ, "QCITY_ATTEMPT": config.attempt, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    with mailbox.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "qcity_nb.sidecar", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=environ,
        )
    return mailbox, process


def respawn(config: Config) -> Config:
    """The config for a second sidecar of the same attempt, after the first one died."""
    return replace(config, declared_dead=None, take_over=False, wait=False)


def wait_held(mailbox: Mailbox, process: subprocess.Popen[bytes] | None = None) -> Status:
    """Wait until the sidecar holds the lease and has fetched the newest checkpoint.

    Args:
        process: the sidecar, if this process started it: then its death is noticed even before its first status.
    Raises:
        RunHeld, StoreError, …: the sidecar's reason why it does not hold the lease.
        QcityError: the sidecar died, or is not ready in two minutes; the message names its log.
    """
    until = time.monotonic() + START_S
    pause_s = 0.002
    while (status := mailbox.status()).state == "starting" or (status.state == "held" and not status.tier):
        code = process.poll() if process is not None else None
        gone = code is not None or (status.pid and not is_alive(status.pid))
        if gone and mailbox.status() != status:
            continue  # it wrote a last status
        if gone or time.monotonic() > until:
            raise QcityError(f"qcity's background process {'died' if gone else 'is not ready'}; its log: {mailbox.log}")
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.2, 0.02)
    if status.state != "held":
        kind: type[QcityError] = getattr(errors, status.error, QcityError)
        raise kind(status.reason)
    return status
