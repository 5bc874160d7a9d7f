"""`qcity demo`: train on the digits, kill the host three times in three ways, and end with the same results.

Two runs of one notebook. One is undisturbed. In the other, SIGKILL hits first the kernel, then the whole process
group, then the process group while it writes a checkpoint. Everything is real: keeper, papermill, kernel, MLflow store.
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
from qcity_nb.settings import Settings, database_name, load
from qcity_nb.stores import open_store
from qcity_nb.tracking.outbox import decode_rows
from qcity_nb.views.loss_plot import save_loss_plot

__all__ = ["Comparison", "demo", "main"]

TRAINING_EPOCHS = 60
NOTEBOOK = "notebooks/train.ipynb"
PARAMETERS = {"epochs": TRAINING_EPOCHS, "hidden": 256, "batch_size": 16, "learning_rate": 0.0004}
"""Large enough that a training epoch takes a while: there must be something to kill."""
Weights = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The results of one of the two runs."""

    head: Head
    weights: Weights
    rows: list[Row]
    tracked: list[tuple[str, int, float]] | None
    """The same from MLflow; ``None`` where it is not installed."""
    finished: int
    """How many training epochs were finished, counting twice those that were done twice."""
    events: list[Event]


def main(store: str | None = None, *, on: tuple[str, ...] = ("local",), plant: str = "") -> int:
    """Run the demo; returns the exit code: 0 equal, 1 not.

    Args:
        store: where the runs live; by default in the demo's own folder.
        on: the host of the second run.
        plant: break the run on purpose (``testing.plants``), to see that the demo notices.
    Raises:
        UsageError: the demo cannot kill such a host.
    """
    from qcity_nb.testing import chaos

    began_s = time.monotonic()
    elsewhere = on != ("local",)
    if elsewhere:
        deaths.check(on, store)
    folder = _folder()
    templates.extract("digits", folder)
    overrides: dict[str, object] = {"heartbeat_s": 0.5, "ttl_s": 10, "publish_s": 1}
    settings = load(
        folder, {**overrides, "store": store, "tracking": f"sqlite:///{database_name(folder)}/.qcity/mlflow.db"}
    )
    opened = open_store(settings.store)
    note = Progress(sys.stderr)
    note.say(f"The digits in {_short(folder)}: {TRAINING_EPOCHS} training epochs, a checkpoint after each.")
    with _environment(settings, elsewhere=elsewhere):
        note.say("\n1. An undisturbed run.")
        hits = folder / ".qcity" / "calm.hits"
        calm = _execute(opened, settings, "calm", note, plan=chaos.Plan(log=str(hits)).dumps(), hits=hits)
        hits = folder / ".qcity" / "killed.hits"
        if elsewhere:
            note.say(f"\n2. The same run on {', '.join(on)}, with two keepers; three jobs are killed.")
            plan = deaths.in_jobs(str(hits), plant=plant)
            kill: Callable[[Store, str], AbstractContextManager[None]] = deaths.second_keeper
        else:
            note.say("\n2. The same run, and its host dies three times.")
            plan = deaths.while_saving(str(hits), plant=plant)
            kill = deaths.Killer(settings, note)
        killed = _execute(opened, settings, "killed", note, plan=plan.dumps(), hits=hits, kill=kill, on=on)
    kills = (
        deaths.describe_deaths(hits) if elsewhere else ["kernel killed", "process group killed", "killed while saving"]
    )
    return _report(folder, calm, killed, kills, time.monotonic() - began_s, count=len(kills) if elsewhere else None)


def _folder() -> Path:
    home = Path.cwd() / ".qcity" / "demo"
    numbers = [int(path.name) for path in home.glob("[0-9]*") if path.name.isdigit()] if home.is_dir() else []
    return home / str(max(numbers, default=0) + 1)


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


@contextmanager
def _environment(settings: Settings, *, elsewhere: bool) -> Iterator[None]:
    """The attempts inherit this demo's settings, not the user's own."""
    ours = {
        "QCITY_STORE": settings.store,
        "QCITY_LOCAL_DIR": str(settings.local_dir),
        "QCITY_TRACKING": settings.tracking,
        "QCITY_HEARTBEAT": "0.5",
        "QCITY_TTL": "10",
        "QCITY_PUBLISH": "1",
        # The emulator's jobs run in this Python, which has the package.
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
    settings: Settings,
    name: str,
    note: Progress,
    *,
    plan: str,
    hits: Path,
    kill: Callable[[Store, str], AbstractContextManager[None]] = lambda store, run: nullcontext(),
    on: tuple[str, ...] = ("local",),
) -> Comparison:
    """Run once, to the end, with a keeper in the foreground."""
    root = settings.project.root
    os.environ["QCITY_CHAOS"] = plan
    settings = replace(settings, chaos=plan)  # a job gets the plan from the settings
    head, _ = identity.find_or_create(
        store,
        project=settings.project.name,
        notebook=NOTEBOOK,
        name=name,
        parameters={**PARAMETERS, "model": f"models/{name}.npz", "plot": f"reports/{name}.png"},
        source=(root / NOTEBOOK).read_bytes(),
        bundle=bundle.pack_for_hosts(settings, on, note.say),
        output=f"{name}.ipynb",
        desired=DesiredState(hosts=on),
        relaunch=replace(Head(run="", key="", project="", notebook="").relaunch, backoff_s=0.2),
    )
    with kill(store, head.run):
        code = follow(store, settings, head.run, note, quiet=True)
    head = lease.read(store, head.run).head
    if code != 0:
        message = head.failure.message if head.failure else head.state
        raise QcityError(f"the {name} run did not succeed: {message}")
    return _gather(store, settings, head, hits)


def _gather(store: Store, settings: Settings, head: Head, hits: Path) -> Comparison:
    from qcity_nb.testing import chaos

    blocks = published_rows(store, head, 0)
    catalog = Catalog(store, head.run, settings.local_dir)
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
    histories = {key: client.get_metric_history(head.tracked.run_id, key) for key in keys}
    return [(key, metric.step, metric.value) for key, history in histories.items() for metric in history]


def _is_same(ours: Weights, theirs: Weights) -> bool:
    return ours.keys() == theirs.keys() and all(
        value.dtype == theirs[name].dtype and value.tobytes() == theirs[name].tobytes() for name, value in ours.items()
    )


def _count_duplicates(values: list[tuple[str, int, float]]) -> int:
    """The number of rows beyond one per metric and step: this notebook logs each once."""
    counts = Counter((key, step) for key, step, _ in values)
    return sum(count - 1 for count in counts.values())


def _report(
    folder: Path, calm: Comparison, killed: Comparison, kills: list[str], took_s: float, *, count: int | None = None
) -> int:
    """Print how the two runs compare; returns 0 if they are equal.

    Args:
        kills: how the host died, each time.
        count: how often it was killed, if that is known: a host that dies in the commit that would have made it the
            holder leaves no trace in the run. By default the number of attempts that resumed the run.
    """
    died = [int(event.data["step"]) for event in killed.events if event.kind == "lease" and event.term > 1]
    sources = {event.term: event.data.get("source") for event in killed.events if event.kind == "lease"}
    plain = [(row.key, row.step, row.value) for row in killed.rows]
    calm_plain = [(row.key, row.step, row.value) for row in calm.rows]
    redone = killed.finished - calm.finished
    weights = _is_same(calm.weights, killed.weights)
    rows = sorted(plain) == sorted(calm_plain) and not _count_duplicates(plain)
    tracked = killed.tracked is None or (
        sorted(killed.tracked) == sorted(plain) and sorted(calm.tracked or []) == sorted(calm_plain)
    )
    is_shown = (len(died) if count is None else count) >= 3
    plot = _save_plot(folder, killed, dict(zip(died, kills, strict=False)))
    where = "stored and in MLflow" if killed.tracked is not None else "stored (no MLflow here)"
    lines = [
        "",
        f"attempts      {killed.head.term}: {', '.join(kills)}",
        *(
            f"  attempt {term}   {_describe_resume(step, str(sources[term]))}"
            for term, step in zip(sorted(sources)[1:], died, strict=True)
        ),
        f"re-run        {max(redone, 0)} finished training epochs, and {len(died)} that were in progress",
        f"weights       {_verdict(weights)}: {sum(v.nbytes for v in killed.weights.values()):,} bytes, "
        "compared with the undisturbed run's bit for bit",
        f"metrics       {_verdict(rows and tracked)}: {len(plain)} rows {where}, each once",
        f"notebook      {_short(folder / 'killed.ipynb')}",
        f"loss          {plot}",
        f"experiment    mlflow ui --backend-store-uri {killed.head.tracked.uri}" if killed.head.tracked.uri else "",
        f"took          {took_s:.0f} s",
        "",
    ]
    ok = weights and rows and tracked and is_shown
    if not is_shown:
        lines.append("NOT SHOWN: the run ended before it had been killed three times.")
    lines.append("Equal: same weights, same metrics." if ok else "NOT EQUAL: this is a bug, please report it.")
    sys.stdout.write("\n".join(line for line in lines) + "\n")
    return 0 if ok else 1


def _describe_resume(step: int, source: str) -> str:
    where = {"local": "host's own disk", "store": "store"}.get(source)
    return f"resumed after training epoch {step}, from the {where}" if where else "started anew: nothing was stored yet"


def _verdict(same: bool) -> str:
    return "equal" if same else "DIFFERENT"


def _save_plot(folder: Path, killed: Comparison, deaths: dict[int, str]) -> str:
    series = [(row.step, row.value) for row in killed.rows if row.key == "loss"]
    try:
        path = save_loss_plot(folder / "loss.png", {"loss": series}, deaths, "The digits, killed three times")
    except UsageError as error:
        return str(error)
    return _short(path)


def demo(args: argparse.Namespace) -> int:
    """``qcity demo``."""
    return main(address_of(args.store), on=args.on or ("local",), plant=args.plant)
