"""`qcity demo`: train on the digits, kill the host three times in three ways, and end as if nothing had happened.

Two runs of one notebook: one that nobody disturbs, and one whose kernel, whose whole process group, and whose process
group in the middle of writing a checkpoint are SIGKILLed. Everything is real: keeper, papermill, kernel, MLflow store.
The exit code is 0 only if both ended with the same weights, bit for bit, and with the same metric rows, each once.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qcity_nb import settings
from qcity_nb.cli import bundle, templates
from qcity_nb.cli import demo_deaths as deaths
from qcity_nb.cli.arguments import address_of
from qcity_nb.cli.foreground import follow
from qcity_nb.cli.progress import Progress
from qcity_nb.errors import QcityError, UsageError
from qcity_nb.ports import Store
from qcity_nb.published.catalog import Catalog
from qcity_nb.published.read import published_rows
from qcity_nb.records import DesiredState, Event, Head, Row
from qcity_nb.run import identity, journal, lease
from qcity_nb.settings import Settings
from qcity_nb.stores import open_store
from qcity_nb.tracking.outbox import decode_rows
from qcity_nb.views.loss_plot import save_loss_plot

__all__ = ["Comparison", "demo", "main"]

EPOCHS = 60
NOTEBOOK = "notebooks/train.ipynb"
PARAMETERS = {"epochs": EPOCHS, "hidden": 256, "batch_size": 16, "learning_rate": 0.0004}
"""Large enough that an epoch takes a while: there must be something to kill."""
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


def main(store: str | None = None, *, on: tuple[str, ...] = ("local",), plant: str = "") -> int:
    """Run the demo; returns the exit code: 0 equal, 1 not.

    Args:
        state: where the runs are to live; by default in the demo's own folder.
        on: where the second run is executed.
        plant: break the run on purpose (``testing.plants``), to see that the demo notices.
    Raises:
        UsageError: the deaths of such a host cannot be caused from here.
    """
    from qcity_nb.testing import chaos

    began_s = time.monotonic()
    elsewhere = on != ("local",)
    if elsewhere:
        deaths.check(on, store)
    folder = _folder()
    templates.extract("digits", folder)
    overrides: dict[str, object] = {"heartbeat_s": 0.5, "ttl_s": 10, "publish_s": 1}
    given = settings.load(folder, {**overrides, "store": store, "tracking": f"sqlite:///{folder}/.qcity/mlflow.db"})
    opened = open_store(given.store)
    note = Progress(sys.stderr)
    note.say(f"The digits in {_short(folder)}: {EPOCHS} epochs, a checkpoint after each.")
    with _environment(given, elsewhere=elsewhere):
        note.say("\n1. Nobody disturbs this one.")
        hits = folder / ".qcity" / "calm.hits"
        calm = _execute(opened, given, "calm", note, plan=chaos.Plan(log=str(hits)).dumps(), hits=hits)
        hits = folder / ".qcity" / "killed.hits"
        if elsewhere:
            note.say(f"\n2. The same again on {', '.join(on)}, two keepers, and three jobs are killed.")
            plan = deaths.in_jobs(str(hits), plant=plant)
            kill: Callable[[Store, str], AbstractContextManager[None]] = deaths.second_keeper
        else:
            note.say("\n2. The same again, and its host dies three times.")
            plan = deaths.while_saving(str(hits), plant=plant)
            kill = deaths.Killer(given, note)
        killed = _execute(opened, given, "killed", note, plan=plan.dumps(), hits=hits, kill=kill, on=on)
    what = (
        deaths.describe_deaths(hits) if elsewhere else ["kernel killed", "process group killed", "killed while saving"]
    )
    return _report(folder, calm, killed, what, time.monotonic() - began_s, struck=len(what) if elsewhere else None)


def _folder() -> Path:
    home = Path.cwd() / ".qcity" / "demo"
    taken = [int(path.name) for path in home.glob("[0-9]*") if path.name.isdigit()] if home.is_dir() else []
    return home / str(max(taken, default=0) + 1)


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


@contextmanager
def _environment(given: Settings, *, elsewhere: bool) -> Iterator[None]:
    """What the attempts inherit: this demo's settings, whatever the user's own are."""
    ours = {
        "QCITY_STORE": given.store,
        "QCITY_LOCAL_DIR": str(given.local_dir),
        "QCITY_TRACKING": given.tracking,
        "QCITY_HEARTBEAT": "0.5",
        "QCITY_TTL": "10",
        "QCITY_PUBLISH": "1",
        # Jobs of an emulator run in this very Python, which has the package.
        **({"QCITY_JOB_INSTALL": "none"} if elsewhere else {}),
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
    kill: Callable[[Store, str], AbstractContextManager[None]] = lambda store, run: nullcontext(),
    on: tuple[str, ...] = ("local",),
) -> Comparison:
    """One run to its end, kept in the foreground."""
    root = given.project.root
    os.environ["QCITY_CHAOS"] = plan
    given = replace(given, chaos=plan)  # a job gets it from the settings
    head, _ = identity.find_or_create(
        store,
        project=given.project.name,
        notebook=NOTEBOOK,
        name=name,
        parameters={**PARAMETERS, "model": f"models/{name}.npz", "plot": f"reports/{name}.png"},
        source=(root / NOTEBOOK).read_bytes(),
        bundle=bundle.pack_for_hosts(given, on, note.say),
        output=f"{name}.ipynb",
        desired=DesiredState(hosts=on),
        relaunch=replace(Head(run="", key="", project="", notebook="").relaunch, backoff_s=0.2),
    )
    with kill(store, head.run):
        code = follow(store, given, head.run, note, quiet=True)
    head = lease.read(store, head.run).head
    if code != 0:
        message = head.failure.message if head.failure else head.state
        raise QcityError(f"the {name} run did not succeed: {message}")
    return _gather(store, given, head, hits)


def _gather(store: Store, given: Settings, head: Head, hits: Path) -> Comparison:
    from qcity_nb.testing import chaos

    blocks = published_rows(store, head, 0)
    catalog = Catalog(store, head.run, given.local_dir)
    newest = catalog.find("newest")
    assert newest.manifest is not None
    with catalog.incoming() as incoming:
        weights = catalog.state(newest, newest.manifest.loops[0].key, incoming)["weights"]
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


def _report(
    folder: Path, calm: Comparison, killed: Comparison, what: list[str], took_s: float, *, struck: int | None = None
) -> int:
    """Say how they compare; 0 if they are equal.

    Args:
        what: how the host died, each time.
        struck: how often it was killed, where that is known: a host that dies in the commit that would have made it the
            holder leaves no trace in the run. By default as often as another one went on.
    """
    died = [int(event.data["step"]) for event in killed.events if event.kind == "lease" and event.term > 1]
    sources = {event.term: event.data.get("source") for event in killed.events if event.kind == "lease"}
    plain = [(row.key, row.step, row.value) for row in killed.rows]
    calm_plain = [(row.key, row.step, row.value) for row in calm.rows]
    redone = killed.finished - calm.finished
    weights = _is_same(calm.weights, killed.weights)
    rows = sorted(plain) == sorted(calm_plain) and not _doubled(plain)
    tracked = killed.tracked is None or (
        sorted(killed.tracked) == sorted(plain) and sorted(calm.tracked or []) == sorted(calm_plain)
    )
    enough = (len(died) if struck is None else struck) >= 3
    picture = _picture(folder, killed, dict(zip(died, what, strict=False)))
    told = "stored and in MLflow" if killed.tracked is not None else "stored (no MLflow here)"
    lines = [
        "",
        f"attempts      {killed.head.term}: {', '.join(what)}",
        *(
            f"  attempt {epoch}   {_went_on(step, str(sources[epoch]))}"
            for epoch, step in zip(sorted(sources)[1:], died, strict=True)
        ),
        f"redone        {max(redone, 0)} finished epochs; {len(died)} that were under way began again",
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


def _went_on(step: int, source: str) -> str:
    where = {"local": "host's own disk", "store": "store"}.get(source)
    return f"went on from epoch {step}, out of the {where}" if where else "began anew: nothing was stored yet"


def _verdict(same: bool) -> str:
    return "equal" if same else "DIFFERENT"


def _picture(folder: Path, killed: Comparison, deaths: dict[int, str]) -> str:
    series = [(row.step, row.value) for row in killed.rows if row.key == "loss"]
    try:
        path = save_loss_plot(folder / "loss.png", {"loss": series}, deaths, "The digits, killed three times")
    except UsageError as error:
        return str(error)
    return _short(path)


def demo(args: argparse.Namespace) -> int:
    """``qcity demo``."""
    from qcity_nb.cli import demo as shown

    return shown.main(address_of(args.store), on=args.on or ("local",), plant=args.plant)
