"""A holder stopped at any crash point past its lease: whatever it does when it wakes, the store refuses it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeGuard

import pytest
from scripted_run import Script, Snapshot, eventually, head_of
from tiers import nightly_but

from qcity_nb import crashpoints
from qcity_nb.published.read import published_rows
from qcity_nb.records import Head, PendingLaunch
from qcity_nb.run import lease
from qcity_nb.run.processes import process_state
from qcity_nb.stores import open_store
from qcity_nb.stores.directory import KEEP_HEADS
from qcity_nb.testing.chaos import Plan
from qcity_nb.tracking.outbox import decode_rows

pytestmark = [pytest.mark.kill, pytest.mark.timeout(300)]

# The n-th hit of a point at which the holder is stopped: somewhere in the middle, where there is one.
HIT = {"drain.before": 1, "drain.after": 1, "end.before": 1, "end.after": 1}
IN_ENGINE = ("cell.before", "cell.after")
"""Only the engine hits these: see the notebook's test below."""
TRACKED = ("publish.head.before", "publish.head.after", "drain.before", "drain.after", "end.before", "end.after")
"""Points that are played with a tracker, which costs seconds."""
POINTS = [name for name in crashpoints.NAMES if name not in IN_ENGINE]
QUICK = (
    "capture.after",
    "local.after",
    "publish.files.before",
    "publish.files.after",
    "publish.head.before",
    "publish.head.after",
    "outbox.after",
    "drain.after",
    "end.before",
    "end.after",
)
"""One on each side of what the point stands for; the rest comes at night."""
COUNT = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """A holder was stopped, a successor took over and finished, the holder was woken."""

    head: Head
    """When the successor had finished."""
    versions: int
    """Versions of the run record that the successor made."""
    before: Snapshot
    after: Snapshot
    zombie: str
    code: int
    successor: str
    successor_code: int


def _newest(store: Path) -> int:
    run = open_store(str(store)).runs()[0]
    return max(int(path.name) for path in (store / "runs" / run / "heads").iterdir())


def play(folder: Path, point: str, tracking: str, database: Path | None) -> History:
    """Play it, in real processes."""
    store = folder / "store"
    log = folder / "hits"
    plan = Plan(log=str(log), at={point: [HIT.get(point, 4)]}, action="stop-self")
    zombie = Script(folder / "zombie", store, tracking, count=COUNT, environ={"QCITY_CHAOS": plan.dumps()})
    # One history is long enough for the version that the zombie was about to link to be pruned meanwhile.
    count = 2 * KEEP_HEADS + COUNT if point == "publish.files.after" else COUNT
    successor = Script(folder / "successor", store, tracking, count=count, pause_s=0.1 if count > COUNT else 0.02)
    try:
        zombie.start()
        eventually(zombie.is_stopped, what=f"the stop at {point}")
        zombie.send(signal.SIGSTOP)
        pids = zombie.pids
        assert len(pids) == 2
        eventually(lambda: all(process_state(pid) == "T" for pid in pids))
        version = _newest(store)
        successor.start()
        successor_code = successor.wait()
        head = head_of(store)
        before = Snapshot.take(store, database)
        zombie.send(signal.SIGCONT)
        code = zombie.wait()
        return History(
            head=head,
            versions=_newest(store) - version,
            before=before,
            after=Snapshot.take(store, database),
            zombie=zombie.output,
            code=code,
            successor=successor.output,
            successor_code=successor_code,
        )
    finally:
        zombie.kill()
        successor.kill()


@pytest.fixture(scope="module")
def histories(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], History]]:
    """The histories of the selected points, four at a time: each mostly waits for a lease to expire."""
    points = [str(item.callspec.params["point"]) for item in request.session.items if _tells(item)]
    uri, database = "", None
    if set(points) & set(TRACKED):
        uri = request.getfixturevalue("mlflow_uri")
        database = request.getfixturevalue("mlflow_folder") / "server.db"
    with ThreadPoolExecutor(4) as pool:
        history_of: dict[str, Future[History]] = {}
        for point in points:
            tracked = point in TRACKED
            history_of[point] = pool.submit(
                play,
                tmp_path_factory.mktemp(point),
                point,
                uri if tracked else "",
                database if tracked else None,
            )
        yield lambda point: history_of[point].result()


def _tells(item: pytest.Item) -> TypeGuard[pytest.Function]:
    return isinstance(item, pytest.Function) and item.originalname == "test_a_woken_holder_changes_nothing"


@pytest.mark.parametrize("point", nightly_but(QUICK, POINTS))
def test_a_woken_holder_changes_nothing(point: str, histories: Callable[[str], History]) -> None:
    history = histories(point)
    assert history.after.heads == history.before.heads, "a run record of the zombie's"
    gone = {name: digest for name, digest in history.before.files.items() if history.after.files.get(name) != digest}
    assert not gone, "the zombie deleted or replaced objects"
    # Files may arrive, never a run record (docs/design.md): those of the one publish that the stop cut in two. They
    # have names of the zombie's term with a random part, so no run record names them, now or later.
    new = history.after.files.keys() - history.before.files.keys()
    assert all("/t1-" in name for name in new), new
    assert len({name.split("/files/")[1].split("/")[0] for name in new}) == len(new), "more than one publish"
    assert history.after.rows == history.before.rows, "rows or a status of the zombie's in MLflow"
    if point == "end.after":
        # Its last run record was written before the stop: the run had ended, and the successor made a new one.
        assert history.code == 0, history.zombie
        return
    assert history.successor_code == 0, history.successor
    assert history.code == 5, history.zombie
    last = history.zombie.splitlines()[-1]
    assert last.startswith("LeaseLost: "), history.zombie
    assert history.head.term == 2
    assert "attempt 2" in last
    if point == "publish.files.after":
        assert history.versions > KEEP_HEADS, "the gap was to be pruned"


@pytest.mark.parametrize("where", nightly_but(["local.after"], ["publish.head.before", "local.after"]))
def test_the_lost_lease_names_the_new_holder(where: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    plan = Plan(log=str(tmp_path / "hits"), at={where: [5]}, action="stop-self")
    zombie = Script(tmp_path / "zombie", store, count=COUNT, environ={"QCITY_CHAOS": plan.dumps()})
    successor = Script(tmp_path / "successor", store, count=COUNT, pause_s=0.15)
    try:
        zombie.start()
        eventually(zombie.is_stopped)
        zombie.send(signal.SIGSTOP)
        begun = len(zombie.executed)
        successor.start()
        eventually(lambda: len(successor.executed) >= 3, what="the successor's third iteration")
        holder = head_of(store).holder
        assert holder is not None
        assert holder.pid in successor.sidecars
        zombie.send(signal.SIGCONT)
        assert zombie.wait() == 5, zombie.output
        last = zombie.output.splitlines()[-1]
        assert last.startswith("LeaseLost: ")
        assert holder.attempt in last
        assert holder.node in last
        assert len(zombie.executed) <= begun + 1, "its loop continued"
        assert successor.wait() == 0, successor.output
        assert head_of(store).term == 2
        assert logged_once(store, COUNT)
    finally:
        zombie.kill()
        successor.kill()


def logged_once(store: Path, count: int) -> bool:
    """Has the outbox each row exactly once?"""
    opened = open_store(str(store))
    head = head_of(store)
    lines = b"".join(published_rows(opened, head, 0).values())
    return [row.step for row in decode_rows(lines)] == list(range(count))


def test_foreign_writes_cost_a_healthy_holder_nothing(tmp_path: Path) -> None:
    store = tmp_path / "store"
    script = Script(tmp_path / "script", store, count=40, ttl_s=4)
    script.start()
    writes = 0
    try:
        eventually(lambda: script.executed)
        opened = open_store(str(store))
        run = opened.runs()[0]
        while script.process is not None and script.process.poll() is None:
            head = lease.amend(opened, run, partial(_meddled, n=writes))
            writes += 1
            if head.holder is not None:
                assert head.term == 1
        assert script.wait() == 0, script.output
    finally:
        script.kill()
    assert writes > 20
    head = head_of(store)
    assert (head.term, head.state) == (1, "succeeded")
    assert head.desired.hosts[0].startswith("rival-"), "the foreign changes were kept"
    assert script.executed == list(range(40))
    assert logged_once(store, 40)


def _meddled(head: Head, *, n: int) -> Head:
    pending_launch = (
        PendingLaunch(attempt=f"rival-{n}", host="local", keeper="rival", declared_dead=head.seen) if n % 2 else None
    )
    return replace(head, pending_launch=pending_launch, desired=replace(head.desired, hosts=(f"rival-{n}",)))


def test_a_foreign_stop_is_a_stop_and_no_lost_lease(tmp_path: Path) -> None:
    store = tmp_path / "store"
    script = Script(tmp_path / "script", store, count=400)
    script.start()
    try:
        eventually(lambda: len(script.executed) > 3)
        opened = open_store(str(store))
        run = opened.runs()[0]
        lease.amend(opened, run, lambda head: replace(head, desired=replace(head.desired, state="stopped")))
        assert script.wait() == 4, script.output
    finally:
        script.kill()
    head = head_of(store)
    assert "RunStopped: " in script.output
    assert (head.term, head.holder) == (1, None)
    assert head.checkpoint is not None
    assert head.checkpoint.step == len(script.executed), "the final checkpoint has all that was finished"
