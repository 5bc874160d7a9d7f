"""Several keepers over one run that dies again and again, and over slow, stopped and half-dead holders."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from scripted_run import Script, attempt_pids, environment, events, eventually, head_of

from qcity_nb import settings
from qcity_nb.published.read import published_rows
from qcity_nb.records import Head, Relaunch
from qcity_nb.run import identity
from qcity_nb.run.processes import process_state
from qcity_nb.stores import open_store
from qcity_nb.testing.chaos import Action, Plan
from qcity_nb.tracking.outbox import decode_rows

pytestmark = [pytest.mark.kill, pytest.mark.timeout(240)]

COUNT = 20
DEATHS: dict[str, Action] = {"14": "host", "30": "host", "55": "host", "80": "host"}
"""By number of the hit over the whole run."""

# What a launcher starts, without papermill and a kernel: the spec as its last argument, as the real one has it.
ATTEMPT = """
import os, sys, time
from pathlib import Path
from qcity_nb import codec, settings
from qcity_nb.sidecar import start as sidecar
from qcity_nb.records import AttemptSpec

spec = codec.loads(AttemptSpec, Path(sys.argv[-1]).read_bytes())
given = settings.load(Path(spec.project), {"store": spec.store, "tracking": ""})
config = sidecar.config_for(given, run=spec.run, attempt=spec.attempt, host=spec.host, declared_dead=spec.declared_dead)
mailbox, _ = sidecar.spawn(config)
sidecar.wait_held(mailbox)
os.environ["QCITY_MAILBOX"] = str(mailbox.path)
import qcity_nb as qcity
city = qcity.up()
state = {"total": [0.0]}
for i in city.loop(range(int(os.environ["COUNT"])), state, every=1):
    with Path("executed").open("a") as file:
        file.write(f"{i}\\n")
    state["total"][0] += 0.1 * i
    city.log(total=state["total"][0])
    time.sleep(float(os.environ["PAUSE_S"]))
city.session.sidecar.ask("end", wait_s=60, state="succeeded")
"""

KEEPER = """
import sys
from pathlib import Path
from qcity_nb import settings
from qcity_nb.hosts.local.launcher import LocalLauncher
from qcity_nb.run.keeper import Keeper
from qcity_nb.stores import open_store

given = settings.load()
store = open_store(given.store)
launcher = LocalLauncher(given, command=lambda spec: [sys.executable, "attempt.py", str(spec)])
keeper = Keeper(store, given, launchers=lambda host: launcher)
keeper.keep([sys.argv[1]], until=lambda last: last[sys.argv[1]].head.state != "running")
"""


class World:
    """A project with one run, and everything that was started in it."""

    def __init__(self, folder: Path, *, pause_s: float, count: int = COUNT, ttl_s: float = 3.0) -> None:
        self.folder = folder
        (folder / "pyproject.toml").write_text('[tool.qcity]\nproject = "rivals"\ntracking = ""\n')
        (folder / "attempt.py").write_text(ATTEMPT)
        (folder / "keeper.py").write_text(KEEPER)
        self.environ = environment(ttl_s=ttl_s, PAUSE_S=str(pause_s), COUNT=str(count))
        self.settings = settings.load(folder, environ=self.environ)
        self.store = open_store(self.settings.store)
        head, _ = identity.find_or_create(
            self.store,
            project="rivals",
            notebook="train.ipynb",
            relaunch=Relaunch(max_attempts_without_progress=20, backoff_s=0.1),
        )
        self.run = head.run
        self.started: list[subprocess.Popen[bytes]] = []

    @property
    def head(self) -> Head:
        return head_of(Path(self.settings.store), self.run)

    @property
    def attempts(self) -> list[str]:
        """The attempts that were ever launched here."""
        return sorted(
            p.name.removesuffix(".spec.json") for p in (self.settings.local_dir / "attempts").glob("*.spec.json")
        )

    @property
    def executed(self) -> list[int]:
        file = self.folder / "executed"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def has_done(self, count: int) -> bool:
        """Were so many iterations begun?"""
        return len(self.executed) >= count

    def keep(self, **environ: str) -> subprocess.Popen[bytes]:
        """Start a keeper."""
        with (self.folder / f"keeper-{len(self.started)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "keeper.py", self.run],
                cwd=self.folder,
                env={**self.environ, **environ},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def launched(self) -> list[str]:
        """The attempts that the journal says were launched."""
        return [e.attempt for e in events(Path(self.settings.store), self.run) if e.kind == "launched"]

    def end(self) -> None:
        for process in self.started:
            process.kill()
            process.wait()
        for attempt in self.attempts:
            for pid in attempt_pids(attempt):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(tmp_path, **getattr(request, "param", {"pause_s": 0.05}))
    yield made
    made.end()


def test_three_keepers_launch_one_attempt_for_each_death(world: World, tmp_path: Path) -> None:
    plan = Plan(log=str(tmp_path / "hits"), kills=DEATHS)
    keepers = [world.keep(QCITY_CHAOS=plan.dumps()) for _ in range(3)]
    most = 0
    while world.head.state == "running":
        living = [attempt for attempt in world.attempts if attempt_pids(attempt)]
        most = max(most, len(living))
        assert any(keeper.poll() is None for keeper in keepers) or world.head.state != "running"
        time.sleep(0.02)
    head = world.head
    assert head.state == "succeeded"
    # Each death was answered by one launch, and each launch took the lease: the three countings agree.
    assert head.term == len(DEATHS) + 1
    assert sorted(world.launched()) == world.attempts
    assert len(world.attempts) == len(DEATHS) + 1
    assert most == 1, "two attempts lived at once"
    for keeper in keepers:
        assert keeper.wait(timeout=20) == 0
    eventually(lambda: not any(attempt_pids(attempt) for attempt in world.attempts))
    rows = decode_rows(b"".join(published_rows(world.store, head, 0).values()))
    assert [row.step for row in rows] == list(range(COUNT))
    assert len(world.executed) <= COUNT + len(DEATHS), "no more than the iteration in flight is run again"
    assert sorted(set(world.executed)) == list(range(COUNT))


@pytest.mark.parametrize("world", [{"pause_s": 6.0, "count": 1, "ttl_s": 2.0}], indirect=True)
def test_a_slow_holder_is_never_replaced(world: World) -> None:
    """An iteration of 3 x ttl, two keepers that watch, and a rival that asks again and again."""
    keepers = [world.keep() for _ in range(2)]
    eventually(lambda: world.executed, what="the first iteration")
    holder = world.head.holder
    assert holder is not None
    refused: list[str] = []
    while world.head.state == "running":
        rival = Script(
            world.folder / f"rival-{len(refused)}",
            Path(world.settings.store),
            source=RIVAL.replace("RUN", world.run),
        )
        try:
            rival.start()
            code = rival.wait()
        finally:
            rival.kill()
        # One that asks when the run has just ended is told so (4).
        assert code in (4, 5), rival.output
        if code == 5:
            refused.append(rival.output)
    assert len(refused) >= 3
    assert all(text.startswith("RunHeld: ") and holder.attempt in text for text in refused), refused
    assert world.head.term == 1
    assert world.head.state == "succeeded"
    assert world.executed == [0]
    assert len(world.attempts) == 1
    assert all(keeper.wait(timeout=20) == 0 for keeper in keepers)


# Another process that would hold the same run: a sidecar that waits as long as it may for the holder to be silent.
RIVAL = """
import sys
from qcity_nb import settings
from qcity_nb.sidecar import start as sidecar
from qcity_nb.errors import QcityError
given = settings.load(overrides={"store": sys.argv[1], "tracking": ""})
config = sidecar.config_for(given, run="RUN", attempt="RUN-rival", host="local", wait=True)
mailbox, process = sidecar.spawn(config)
try:
    sidecar.wait_held(mailbox)
except QcityError as error:
    print(f"{type(error).__name__}: {error}", flush=True)
    sys.exit(error.exit_code)
finally:
    process.wait()
"""


@pytest.mark.parametrize("world", [{"pause_s": 0.1, "count": 60, "ttl_s": 2.0}], indirect=True)
def test_a_stopped_kernel_stops_the_heartbeat_and_is_replaced(world: World) -> None:
    world.keep()
    eventually(lambda: len(world.executed) >= 3)
    first = world.attempts[0]
    holder = world.head.holder
    assert holder is not None
    main = next(pid for pid in attempt_pids(first) if pid != holder.pid)
    os.kill(main, signal.SIGSTOP)
    assert process_state(holder.pid) not in ("T", ""), "its sidecar lives"
    eventually(lambda: world.head.term == 2 and world.head.holder, what="the second attempt")
    died = [event for event in events(Path(world.settings.store)) if event.kind == "died"]
    assert [event.attempt for event in died] == [first]
    assert "silent" in str(died[0].data["reason"])
    os.kill(main, signal.SIGCONT)
    eventually(lambda: not attempt_pids(first), what="the end of the superseded attempt")
    assert "LeaseLost" in (world.settings.local_dir / "attempts" / f"{first}.log").read_text()
    assert world.head.term == 2
    assert len(world.attempts) == 2


@pytest.mark.parametrize("world", [{"pause_s": 0.05, "count": 60, "ttl_s": 3.0}], indirect=True)
def test_a_dead_sidecar_is_replaced_by_its_own_attempt(world: World) -> None:
    world.keep()
    killed: list[int] = []
    for _ in range(2):
        eventually(lambda: world.head.holder and world.head.holder.pid not in killed, what="a new sidecar")
        holder = world.head.holder
        assert holder is not None
        eventually(partial(world.has_done, len(world.executed) + 3))
        killed.append(holder.pid)
        os.kill(holder.pid, signal.SIGKILL)
    eventually(lambda: world.head.state == "succeeded")
    assert world.head.term == 1
    assert len(world.attempts) == 1
    assert world.executed == list(range(60))
    rows = decode_rows(b"".join(published_rows(world.store, world.head, 0).values()))
    assert [row.step for row in rows] == list(range(60))
