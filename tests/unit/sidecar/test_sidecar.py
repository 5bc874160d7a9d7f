"""How the sidecar judges other holders, and what it does about requests."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from qcity_nb import settings
from qcity_nb.clock import SystemClock
from qcity_nb.errors import CheckpointError
from qcity_nb.records import Head, Holder
from qcity_nb.run import lease
from qcity_nb.sidecar import start as sidecar
from qcity_nb.sidecar.acquire import LeaseAcquirer
from qcity_nb.sidecar.sidecar import Sidecar
from qcity_nb.stores import open_store
from qcity_nb.stores.memory import MemoryStore


@pytest.fixture(scope="module")
def dead() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize(
    ("node", "sidecar_lives", "owner_lives", "is_gone"),
    [
        ("here", False, False, True),
        ("here", False, True, False),  # its owner starts another sidecar
        ("here", True, False, False),  # it publishes what its owner left
        ("elsewhere", False, False, False),
    ],
)
def test_a_holder_is_known_to_be_gone_only_with_both_its_processes(
    node: str, sidecar_lives: bool, owner_lives: bool, is_gone: bool, dead: int, tmp_path: Path
) -> None:
    given = settings.load(tmp_path, environ={})
    config = sidecar.config_for(given, run="r-1", attempt="r-1-b", host="local")
    me = Holder(attempt=config.attempt, host="local")
    rival = LeaseAcquirer(MemoryStore(), config, me, SystemClock(), say=lambda text: None)
    pid, owner = (os.getpid() if lives else dead for lives in (sidecar_lives, owner_lives))
    where = sidecar.node_name() if node == "here" else node
    holder = Holder(attempt="r-1-a", host="local", node=where, pid=pid, extra={"owner": owner})
    assert rival.is_gone(holder) is is_gone


def test_heartbeats_continue_while_a_checkpoint_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may take longer than the lease lasts, and a slow holder is never replaced."""
    store = open_store("memory://slow-restore")
    lease.create(store, Head(run="r-1", key="k", project="p", notebook="n.ipynb"))
    given = settings.load(tmp_path, {"store": "memory://slow-restore", "heartbeat": 0.05, "ttl": 5}, environ={})
    config = sidecar.config_for(given, run="r-1", attempt="r-1-a", host="local")
    heartbeats: list[int] = []

    def slow(self: Sidecar, held: lease.Lease) -> None:
        until = time.monotonic() + 20
        while (heartbeat := lease.read(store, "r-1").head.heartbeat) < 3 and time.monotonic() < until:
            threading.Event().wait(0.01)
        heartbeats.append(heartbeat)
        raise CheckpointError("that was it")

    monkeypatch.setattr(Sidecar, "restore", slow)
    assert Sidecar(config).run() == CheckpointError.exit_code
    assert heartbeats == [3]
