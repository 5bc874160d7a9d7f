"""The local launcher with real processes: a death is known, its reason too, and no process is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from qcity_nb import hosts, settings
from qcity_nb.errors import UnknownHost, UsageError
from qcity_nb.hosts import labelled_processes
from qcity_nb.hosts.local import launcher as local
from qcity_nb.hosts.local.launcher import LocalLauncher
from qcity_nb.ports import Observation
from qcity_nb.records import AttemptSpec

pytestmark = pytest.mark.kill

# The attempt starts a child in a session of its own (as a kernel is), which starts a grandchild in yet another
# one with an empty environment; and, if asked to, a sidecar.
ATTEMPT = """
import os, subprocess, sys, time, signal, pathlib
folder = pathlib.Path(sys.argv[-1]).parent
mode = sys.argv[1]
if mode.startswith("exit"):
    sys.exit(int(mode[4:]))
if mode == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
grandchild = "import time; time.sleep(60)"
kernel = (
    "import subprocess, sys, time;"
    f"subprocess.Popen([sys.executable, '-c', {grandchild!r}], start_new_session=True, env={{}});"
    "print('up', flush=True); time.sleep(60)"
)
child = subprocess.Popen([sys.executable, "-c", kernel], start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
if mode.startswith("sidecar"):
    sidecar = (
        "import os, pathlib, sys, time\\n"
        "print('up', flush=True)\\n"
        "while os.getppid() == int(sys.argv[2]): time.sleep(0.01)\\n"
        "time.sleep(float(sys.argv[3]))\\n"
        "pathlib.Path(sys.argv[4], 'published').write_text('yes')\\n"
    )
    wait = mode.removeprefix("sidecar")
    sidecar = subprocess.Popen(
        [sys.executable, "-c", sidecar, "qcity_nb.sidecar", str(os.getpid()), wait, str(folder)],
        start_new_session=True, stdout=subprocess.PIPE,
    )
    sidecar.stdout.readline()
(folder / "up").write_text("yes")
time.sleep(60)
"""


def command(mode: str) -> Callable[[Path], Sequence[str]]:
    return lambda spec: [sys.executable, "-c", ATTEMPT, mode, str(spec)]


def eventually(check: Callable[[], object], *, within_s: float = 20.0) -> None:
    until = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)


class Bench:
    """A launcher over one folder, and what it started."""

    def __init__(self, folder: Path) -> None:
        self.settings = settings.load(folder, {"local_dir": str(folder / "local")}, environ={})
        self.attempts = folder / "local" / "attempts"
        self.spec = AttemptSpec(run="r-1", attempt=f"r-1-{uuid.uuid4().hex[:10]}", host="local", store="s")
        self.id = self.spec.attempt

    def launch(self, mode: str) -> LocalLauncher:
        launcher = LocalLauncher(self.settings, command=command(mode))
        launcher.launch(self.spec)
        return launcher

    def up(self, mode: str = "plain") -> tuple[LocalLauncher, int]:
        launcher = self.launch(mode)
        eventually((self.attempts / "up").exists)
        recorded = launcher._read_record(self.id)
        assert recorded is not None
        return launcher, int(recorded["pid"])

    def seen(self, launcher: LocalLauncher) -> Observation:
        """What it says once the main process is no longer running."""
        observations: list[Observation] = []

        def is_gone() -> bool:
            observation = launcher.find(self.id)
            assert observation is not None
            observations.append(observation)
            return observation.state != "running"

        eventually(is_gone)
        return observations[-1]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    labelled_processes.end(bench.id, spare=lambda _: False, spare_s=0)
    for pid in list(local._children):
        local._children.pop(pid).wait(5)


def test_a_killed_attempt_is_gone_and_leaves_nothing(bench: Bench) -> None:
    launcher, pid = bench.up()
    assert launcher.find(bench.id) == Observation(state="running")
    assert len(labelled_processes.find_labelled(bench.id)) == 3
    os.kill(pid, signal.SIGKILL)
    seen = bench.seen(launcher)
    assert (seen.state, seen.reason, seen.exit_code) == ("gone", "killed by signal 9", -9)
    assert labelled_processes.find_labelled(bench.id) == []
    # Whoever asks later hears the same, in another process too.
    assert LocalLauncher(bench.settings).find(bench.id) == seen


def test_an_exit_code_is_reported(bench: Bench) -> None:
    seen = bench.seen(bench.launch("exit7"))
    assert (seen.state, seen.reason, seen.exit_code) == ("gone", "exit code 7", 7)


def test_an_attempt_never_seen_is_none(bench: Bench) -> None:
    assert LocalLauncher(bench.settings).find("r-9-never") is None


def test_a_keeper_that_dies_between_start_and_record_loses_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(LocalLauncher, "_write_record", lambda *_: None)
        bench.launch("plain")
    eventually((bench.attempts / "up").exists)
    assert not (bench.attempts / f"{bench.id}.json").exists()
    other = LocalLauncher(bench.settings)
    assert other.find(bench.id) == Observation(state="running")
    pid = other._read_record(bench.id)
    assert pid is not None, "what was found is written down for the next one"
    os.kill(int(pid["pid"]), signal.SIGKILL)
    assert bench.seen(other).state == "gone"
    assert labelled_processes.find_labelled(bench.id) == []


def test_leftovers_of_an_unrecorded_attempt_are_ended(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(LocalLauncher, "_write_record", lambda *_: None)
        launcher = bench.launch("plain")
    eventually((bench.attempts / "up").exists)
    main, others = launcher._find_by_label(bench.id)
    assert main is not None
    labelled_processes.send(main, signal.SIGKILL)
    eventually(lambda: not labelled_processes.is_alive(main.pid, main.started))
    # The grandchild has neither a label nor a living labelled ancestor only if its parent died as well.
    assert len(others) == 3
    seen = LocalLauncher(bench.settings).find(bench.id)
    assert seen is not None
    assert seen.state == "gone"
    assert labelled_processes.find_labelled(bench.id) == []
    left = [each for each in others if labelled_processes.is_alive(each.pid, each.started)]
    assert left == []


def elsewhere(bench: Bench, tmp_path: Path) -> LocalLauncher:
    """A keeper of the same run with another ``local_dir``."""
    other = settings.load(tmp_path, {"local_dir": str(tmp_path / "elsewhere")}, environ={})
    return LocalLauncher(other, command=command("plain"))


@pytest.mark.parametrize("is_recorded", [True, False])
def test_a_keeper_with_another_local_dir_ends_nothing(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_recorded: bool
) -> None:
    if not is_recorded:
        monkeypatch.setattr(LocalLauncher, "_write_record", lambda *_: None)
    launcher = bench.launch("plain")
    eventually((bench.attempts / "up").exists)
    other = elsewhere(bench, tmp_path)
    before = {each.pid for each in labelled_processes.find_labelled(bench.id)}
    assert len(before) == 3
    assert other.find(bench.id) == Observation(state="running")
    other.stop(bench.id, grace_s=0.0)
    other.stop(bench.id, grace_s=0.1)
    assert {each.pid for each in labelled_processes.find_labelled(bench.id)} == before
    assert not list((tmp_path / "elsewhere").rglob("*")), "and writes nothing"
    assert launcher.find(bench.id) == Observation(state="running")


def test_what_another_local_dir_s_attempt_left_is_not_ended_either(bench: Bench, tmp_path: Path) -> None:
    """Its sidecar may be publishing, or its keeper may look after it."""
    launcher, pid = bench.up("sidecar0.5")
    main = labelled_processes.look_up(pid)
    assert main is not None
    labelled_processes.send(main, signal.SIGKILL)
    eventually(lambda: not labelled_processes.is_alive(main.pid, main.started))
    assert elsewhere(bench, tmp_path).find(bench.id) is None
    eventually((bench.attempts / "published").exists)
    assert bench.seen(launcher).state == "gone"
    assert labelled_processes.find_labelled(bench.id) == []


def test_the_same_local_dir_by_another_name_finds_its_attempt(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(LocalLauncher, "_write_record", lambda *_: None)
        bench.launch("plain")
        eventually((bench.attempts / "up").exists)
    (tmp_path / "link").symlink_to(bench.attempts.parent)
    same = settings.load(tmp_path, {"local_dir": str(tmp_path / "link")}, environ={})
    launcher = LocalLauncher(same, command=command("plain"))
    assert launcher.find(bench.id) == Observation(state="running")
    assert len(labelled_processes.find_labelled(bench.id)) == 3
    launcher.stop(bench.id, grace_s=0.0)
    assert labelled_processes.find_labelled(bench.id) == []


def test_a_spec_without_a_process_was_never_seen(bench: Bench) -> None:
    # Another keeper may stand between writing the spec and starting the process.
    bench.attempts.mkdir(parents=True)
    (bench.attempts / f"{bench.id}.spec.json").write_text("{}")
    assert LocalLauncher(bench.settings).find(bench.id) is None


def test_the_sidecar_may_finish_its_last_publish(bench: Bench) -> None:
    launcher, pid = bench.up("sidecar0.5")
    os.kill(pid, signal.SIGKILL)
    begun = time.monotonic()
    assert bench.seen(launcher).state == "gone"
    assert (bench.attempts / "published").exists()
    assert time.monotonic() - begun < 2
    assert labelled_processes.find_labelled(bench.id) == []


def test_a_sidecar_that_does_not_finish_is_ended(bench: Bench) -> None:
    launcher, pid = bench.up("sidecar30")
    os.kill(pid, signal.SIGKILL)
    begun = time.monotonic()
    assert bench.seen(launcher).state == "gone"
    assert 1.5 < time.monotonic() - begun < 8
    assert not (bench.attempts / "published").exists()
    assert labelled_processes.find_labelled(bench.id) == []


def test_a_stopped_attempt_lives(bench: Bench) -> None:
    launcher, pid = bench.up()
    os.kill(pid, signal.SIGSTOP)
    assert launcher.find(bench.id) == Observation(state="running")


def test_stop_asks_first(bench: Bench) -> None:
    launcher, _ = bench.up()
    launcher.stop(bench.id, grace_s=10)
    seen = launcher.find(bench.id)
    assert seen == Observation(state="gone", reason="killed by signal 15", exit_code=-15)
    assert labelled_processes.find_labelled(bench.id) == []


def test_stop_ends_what_does_not_listen(bench: Bench) -> None:
    launcher, _ = bench.up("deaf")
    launcher.stop(bench.id, grace_s=0.2)
    seen = launcher.find(bench.id)
    assert seen == Observation(state="gone", reason="killed by signal 9", exit_code=-9)
    assert labelled_processes.find_labelled(bench.id) == []


def test_a_recycled_process_id_is_not_the_attempt(bench: Bench) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        launcher = LocalLauncher(bench.settings)
        bench.attempts.mkdir(parents=True)
        launcher._write_record(bench.id, {"pid": bystander.pid, "started": "1"})
        seen = launcher.find(bench.id)
        assert seen is not None
        assert seen.state == "gone"
        launcher.stop(bench.id, grace_s=0)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.parametrize(
    ("changes", "state"),
    [({"node": "elsewhere"}, None), ({"namespace": "pid:[1]"}, None), ({"boot": "x"}, "gone")],
)
def test_another_machine_knows_nothing_and_a_restarted_one_knows_all(
    bench: Bench, changes: dict[str, str], state: str | None
) -> None:
    launcher, _ = bench.up()
    recorded = launcher._read_record(bench.id)
    launcher._write_record(bench.id, {**(recorded or {}), **changes})
    seen = LocalLauncher(bench.settings).find(bench.id)
    assert (seen.state if seen else None) == state


def test_the_log_holds_what_the_attempt_said(bench: Bench) -> None:
    launcher = LocalLauncher(bench.settings, command=lambda spec: ["/bin/sh", "-c", "echo hello >&2", str(spec)])
    assert launcher.follow(bench.id) is None
    launcher.launch(bench.spec)
    assert bench.seen(launcher).exit_code == 0
    assert "".join(launcher.follow(bench.id) or ()) == "hello\n"


def test_the_log_is_followed_until_the_run_has_gone_on(bench: Bench) -> None:
    launcher = LocalLauncher(bench.settings)
    bench.attempts.mkdir(parents=True)
    log = bench.attempts / f"{bench.id}.log"
    log.write_bytes(b"half a" + "ü".encode()[:1])
    asked = 0

    def until() -> bool:
        nonlocal asked
        asked += 1
        if asked == 2:
            with log.open("ab") as file:
                file.write("ü".encode()[1:] + b" letter\n")
        return asked == 2

    pieces = launcher.follow(bench.id, until=until)
    assert pieces is not None
    assert list(pieces) == ["half a", "ü letter\n"]


def test_this_machine_has_no_flavors_and_no_price(bench: Bench) -> None:
    assert hosts.launcher("local", bench.settings).quote() == ""
    with pytest.raises(UsageError, match="write 'local' without 'huge'"):
        hosts.launcher("local:huge", bench.settings)


def test_a_place_that_cannot_be_written_is_named(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "local").write_text("a file where the directory should be")
    with pytest.raises(UsageError, match="cannot be written"):
        bench.launch("plain")


def test_ps_sees_what_proc_sees(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way for machines without /proc, as far as this one's `ps` can show it."""
    _, pid = bench.up()
    by_proc = labelled_processes.look_up(pid)
    monkeypatch.setattr(labelled_processes, "_PROC", Path("/nowhere"))
    by_ps = labelled_processes.look_up(pid)
    assert by_proc is not None
    assert by_ps is not None
    assert (by_ps.pid, by_ps.parent, by_ps.is_zombie) == (by_proc.pid, by_proc.parent, False)
    assert labelled_processes.is_alive(pid, by_ps.started)
    assert not labelled_processes.is_alive(pid, "another time")


def test_an_unknown_host_names_the_known(bench: Bench) -> None:
    assert hosts.launcher("local", bench.settings).name == "local"
    with pytest.raises(UnknownHost, match="local"):
        hosts.launcher("moon", bench.settings)


def test_the_end_of_an_attempt_is_reported_at_once_and_once() -> None:
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    assert child.stdin is not None
    local._children[child.pid] = child
    try:
        began = time.monotonic()
        local.wait_for_end(0.05)
        assert time.monotonic() - began >= 0.04, "it lives: the whole time is waited"
        child.stdin.close()
        began = time.monotonic()
        local.wait_for_end(30)
        assert time.monotonic() - began < 15
        began = time.monotonic()
        local.wait_for_end(0.05)
        assert time.monotonic() - began >= 0.04, "told already: no busy loop while nobody reaps it"
    finally:
        del local._children[child.pid]
        child.kill()
        child.wait()
