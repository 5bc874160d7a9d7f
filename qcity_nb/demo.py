"""`qcity demo`: train on the digits, kill the host three times in three ways, and end as if nothing had happened.

Two runs of one notebook: one that nobody disturbs, and one whose kernel, whose whole process group, and whose process
group in the middle of writing a checkpoint are SIGKILLed. Everything is real: keeper, papermill, kernel, MLflow store.
The exit code is 0 only if both ended with the same weights, bit for bit, and with the same metric rows, each once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qcity_nb import settings, template
from qcity_nb.agent.adopt import published_rows
from qcity_nb.cli_progress import Progress
from qcity_nb.cli_run import follow
from qcity_nb.errors import QcityError, UsageError
from qcity_nb.hosts.process import labelled
from qcity_nb.notebook.plot import save_loss_plot
from qcity_nb.ports import Store
from qcity_nb.records import Event, Head, Row, Wanted
from qcity_nb.run import identity, journal, lease
from qcity_nb.run.desk import Desk
from qcity_nb.settings import Settings
from qcity_nb.stores import open_store
from qcity_nb.tracking.outbox import decode_rows

__all__ = ["Comparison", "main"]

EPOCHS = 60
NOTEBOOK = "notebooks/train.ipynb"
PARAMETERS = {"epochs": EPOCHS, "hidden": 256, "batch_size": 16, "learning_rate": 0.0004}
"""Large enough that an epoch takes a while: there must be something to kill."""
KERNEL_AT, GROUP_AT, WRITING_AT = 14, 30, 47
"""The epochs around which the three kills happen."""

Weights = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What came of one of the two runs."""

    head: Head
    weights: Weights
    rows: list[Row]
    tracked: list[tuple[str, int, float]] | None
    """The same from MLflow; ``None`` where it is not installed."""
    finished: int
    """Epochs that were finished, those done twice counted twice."""
    events: list[Event]


def main(state: str | None = None, *, plant: str = "") -> int:
    """Run the demo; returns the exit code: 0 equal, 1 not.

    Args:
        state: where the runs are to live; by default in the demo's own folder.
        plant: break the run on purpose (``testing.plants``), to see that the demo notices.
    """
    from qcity_nb.testing import chaos

    began_s = time.monotonic()
    folder = _folder()
    template.lay("digits", folder)
    overrides: dict[str, object] = {"beat_s": 0.5, "ttl_s": 10, "publish_s": 1}
    given = settings.load(folder, {**overrides, "store": state, "tracking": f"sqlite:///{folder}/.qcity/mlflow.db"})
    store = open_store(given.store)
    note = Progress(sys.stderr)
    note.say(f"The digits in {_short(folder)}: {EPOCHS} epochs, a checkpoint after each.")
    with _environment(given, folder):
        note.say("\n1. Nobody disturbs this one.")
        hits = folder / ".qcity" / "calm.hits"
        calm = _execute(store, given, "calm", note, plan=chaos.Plan(log=str(hits)).dumps(), hits=hits)
        note.say("\n2. The same again, and its host dies three times.")
        hits = folder / ".qcity" / "killed.hits"
        plan = chaos.Plan(log=str(hits), at={"local.pack": [WRITING_AT]}, action="host", plant=plant)
        killer = _Killer(given, note)
        killed = _execute(store, given, "killed", note, plan=plan.dumps(), hits=hits, killer=killer)
    return _report(folder, calm, killed, time.monotonic() - began_s)


def _folder() -> Path:
    home = Path.cwd() / ".qcity" / "demo"
    taken = [int(path.name) for path in home.glob("[0-9]*") if path.name.isdigit()] if home.is_dir() else []
    return home / str(max(taken, default=0) + 1)


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


@contextmanager
def _environment(given: Settings, folder: Path) -> Iterator[None]:
    """What the attempts inherit: this demo's settings, whatever the user's own are."""
    ours = {
        "QCITY_STORE": given.store,
        "QCITY_LOCAL": str(given.local),
        "QCITY_TRACKING": given.tracking,
        "QCITY_BEAT": "0.5",
        "QCITY_TTL": "10",
        "QCITY_PUBLISH": "1",
    }
    before = {name: os.environ.get(name) for name in (*ours, "QCITY_CHAOS")}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _execute(
    store: Store,
    given: Settings,
    name: str,
    note: Progress,
    *,
    plan: str,
    hits: Path,
    killer: _Killer | None = None,
) -> Comparison:
    """One run to its end, kept in the foreground."""
    root = given.project.root
    os.environ["QCITY_CHAOS"] = plan
    head, _ = identity.find_or_create(
        store,
        project=given.project.name,
        notebook=NOTEBOOK,
        name=name,
        parameters={**PARAMETERS, "model": f"models/{name}.npz", "plot": f"reports/{name}.png"},
        source=(root / NOTEBOOK).read_bytes(),
        output=f"{name}.ipynb",
        wanted=Wanted(hosts=("local",)),
        relaunch=replace(Head(run="", key="", project="", notebook="").relaunch, backoff_s=0.2),
    )
    if killer is not None:
        killer.begin(store, head.run)
    try:
        code = follow(store, given, head.run, note, quiet=True)
    finally:
        if killer is not None:
            killer.end()
    head = lease.read(store, head.run).head
    if code != 0:
        message = head.failure.message if head.failure else head.state
        raise QcityError(f"the {name} run did not succeed: {message}")
    return _gather(store, head, root / "models" / f"{name}.npz", hits)


class _Killer:
    """Kills the kernel alone, then the whole group, from outside, when the run has come so far."""

    def __init__(self, given: Settings, note: Progress) -> None:
        self._given = given
        self._note = note
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, store: Store, run: str) -> None:
        self._thread = threading.Thread(target=self._kill, args=(store, run), name="killer", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join()

    def _kill(self, store: Store, run: str) -> None:
        for epoch, whole in ((KERNEL_AT, False), (GROUP_AT, True)):
            while not self._end.wait(0.01):
                holder = lease.read(store, run).head.holder
                if holder is None:
                    continue
                desk = Desk(self._given.local / "attempts" / holder.attempt)
                done = _newest(desk)
                if done < epoch:
                    continue
                kernel = int((desk.path / "watch").read_text(encoding="ascii"))
                pids = [each.pid for each in labelled(holder.attempt)] if whole else [kernel]
                for pid in pids:
                    _kill(pid)
                self._note.say(f"   ✗ SIGKILL {'to all its processes' if whole else 'to the kernel'}, epoch {done}")
                break


def _newest(desk: Desk) -> int:
    """The newest local checkpoint's number: epochs finished, plus one for the beginning."""
    tier = desk.status().tier
    numbers = [int(file.stem) for file in (Path(tier) / "checkpoints").glob("*.json")] if tier else []
    return max(numbers, default=1) - 1


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _gather(store: Store, head: Head, model: Path, hits: Path) -> Comparison:
    import numpy as np

    from qcity_nb.testing import chaos

    blocks = published_rows(store, head, 0)
    with np.load(model) as saved:
        weights = {name: saved[name] for name in saved.files}
    finished = sum(1 for name, _ in chaos.hits(hits) if name == "capture.after")
    return Comparison(
        head=head,
        weights=weights,
        rows=[row for seq in sorted(blocks) for row in decode_rows(blocks[seq])],
        tracked=_tracked(head),
        finished=finished,
        events=journal.decode_events(head.journal, lambda name: store.get(head.run, name)),
    )


def _tracked(head: Head) -> list[tuple[str, int, float]] | None:
    try:
        from mlflow.tracking import MlflowClient
    except ImportError:
        return None
    client = MlflowClient(head.tracked.uri)
    keys = client.get_run(head.tracked.run_id).data.metrics
    return [(key, one.step, one.value) for key in keys for one in client.get_metric_history(head.tracked.run_id, key)]


def _is_same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(
        value.dtype == other[name].dtype and value.tobytes() == other[name].tobytes() for name, value in one.items()
    )


def _doubled(values: list[tuple[str, int, float]]) -> int:
    """Rows beyond one per metric and step: this notebook logs each once."""
    counts = Counter((key, step) for key, step, _ in values)
    return sum(count - 1 for count in counts.values())


def _report(folder: Path, calm: Comparison, killed: Comparison, took_s: float) -> int:
    """Say how they compare; 0 if they are equal."""
    deaths = [int(event.data["step"]) for event in killed.events if event.kind == "lease" and event.epoch > 1]
    sources = {event.epoch: event.data.get("source") for event in killed.events if event.kind == "lease"}
    plain = [(row.key, row.step, row.value) for row in killed.rows]
    calm_plain = [(row.key, row.step, row.value) for row in calm.rows]
    redone = killed.finished - calm.finished
    weights = _is_same(calm.weights, killed.weights)
    rows = sorted(plain) == sorted(calm_plain) and not _doubled(plain)
    tracked = killed.tracked is None or (
        sorted(killed.tracked) == sorted(plain) and sorted(calm.tracked or []) == sorted(calm_plain)
    )
    enough = len(deaths) >= 3
    picture = _picture(folder, killed, deaths)
    told = "stored and in MLflow" if killed.tracked is not None else "stored (no MLflow here)"
    lines = [
        "",
        f"attempts      {killed.head.epoch}: killed {len(deaths)} times (kernel, process group, while saving)",
        *(
            f"  attempt {epoch}   went on from epoch {step}, out of the {_where(str(sources[epoch]))}"
            for epoch, step in zip(sorted(sources)[1:], deaths, strict=True)
        ),
        f"redone        {max(redone, 0)} finished epochs; {len(deaths)} that were under way began again",
        f"weights       {_verdict(weights)}: {sum(v.nbytes for v in killed.weights.values()):,} bytes, "
        "compared with the undisturbed run's bit for bit",
        f"metrics       {_verdict(rows and tracked)}: {len(plain)} rows {told}, each once",
        f"notebook      {_short(folder / 'killed.ipynb')}",
        f"loss          {picture}",
        f"experiment    mlflow ui --backend-store-uri {killed.head.tracked.uri}" if killed.head.tracked.uri else "",
        f"took          {took_s:.0f} s",
        "",
    ]
    ok = weights and rows and tracked and enough
    if not enough:
        lines.append("NOT SHOWN: the run was over before it had been killed three times.")
    lines.append("Equal, as if nothing had happened." if ok else "NOT EQUAL: this is a bug, please report it.")
    sys.stdout.write("\n".join(line for line in lines) + "\n")
    return 0 if ok else 1


def _where(source: str) -> str:
    return {"local": "host's own disk", "store": "store"}.get(source, "beginning")


def _verdict(same: bool) -> str:
    return "equal" if same else "DIFFERENT"


def _picture(folder: Path, killed: Comparison, deaths: list[int]) -> str:
    series = [(row.step, row.value) for row in killed.rows if row.key == "loss"]
    labels = dict(zip(deaths, ("kernel killed", "process group killed", "killed while saving"), strict=False))
    try:
        path = save_loss_plot(folder / "loss.png", {"loss": series}, labels, "The digits, killed three times")
    except UsageError as error:
        return str(error)
    return _short(path)
