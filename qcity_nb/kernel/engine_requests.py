"""Requests that the engine sends to the kernel between two cells. They are silent: the history does not show them.

    attend()           start a session for this kernel, before the first cell
    resume(count)      restore the variables as the first ``count`` cells left them
    count(number)      set the execution count of the next cell
    once(source)       record in the store that a cell which must not run twice begins
    finished(file)     a cell has ended without an error: record it, with a snapshot of the variables

Each is called through ``answer``, whose result the engine reads. Errors are part of that result, never raised.
"""

from __future__ import annotations

import json
import math
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qcity_nb import codec, crashpoints
from qcity_nb.checkpoint.storage.manifest import CellRecord
from qcity_nb.clock import iso_now
from qcity_nb.kernel import inline_plots, ipython_history, ipython_hooks
from qcity_nb.kernel.finished_cells import FinishedCells
from qcity_nb.kernel.interrupt import uninterrupted
from qcity_nb.kernel.rerun_magics import rerun
from qcity_nb.kernel.session import Session
from qcity_nb.kernel.snapshot_budget import SnapshotBudget
from qcity_nb.namespace.environment.process import ProcessSettings
from qcity_nb.namespace.snapshot import NamespaceSnapshotter, hidden_by
from qcity_nb.run.mailbox import Mailbox
from qcity_nb.settings import Settings, load
from qcity_nb.sidecar import start as sidecar

__all__ = ["answer", "begin_once", "cells_of", "commit", "machine_id", "note_executed", "session_here"]

WAIT_SHARE = 0.05
"""The next cell may kill the kernel, so it waits for the snapshot's write, up to this share of the last cell's time."""
ONCE_S = 120.0
"""How long a cell that must not run twice waits until the store knows that it begins, or has ended."""

_session: Session | None = None


def session_here(mailbox: Mailbox) -> Session | None:
    """The session that an engine asked for, if it belongs to that mailbox."""
    return _session if _session is not None and _session.sidecar.mailbox.path == mailbox.path else None


def answer(op: str, **arguments: Any) -> str:
    """Do what the engine asks. Returns JSON: ``{"ok": true, …}``, or ``{"ok": false, "error": …, "why": …}``."""
    try:
        with uninterrupted():
            return json.dumps({"ok": True, **_OPS[op](**arguments)})
    except Exception as error:  # noqa: BLE001 - user objects are pickled here; the engine decides what to do
        return json.dumps({"ok": False, "error": type(error).__name__, "why": str(error) or repr(error)})


def _shell() -> Any:
    return sys.modules["IPython"].get_ipython()


def _attend() -> Mapping[str, Any]:
    """Start a session for this kernel. Returns the cells that are finished in its newest checkpoint."""
    global _session
    settings = load()
    mailbox = Mailbox(Path(settings.mailbox))
    config = codec.loads(sidecar.Config, (mailbox.path / "sidecar.json").read_bytes())
    status = sidecar.wait_held(mailbox)
    crashpoints.arm_plan(settings.chaos, attempt=config.attempt)
    session = Session(mailbox, status, revive=lambda: _revive(config, session))
    session.sidecar.is_unattended = True
    session.environment.begin(session, settings.project.root, strict=settings.strict_environment)
    shell = _shell()
    records = session.manifest.cells if session.manifest is not None else ()
    session.finished_cells = finished_cells = cells_of(session, shell, settings, records)
    ipython_hooks.attach(session, shell, is_running=False)
    shell.events.register("pre_run_cell", lambda info=None: note_executed(finished_cells, shell, info))
    _session = session
    return {
        "cells": [
            {
                "chain": record.chain,
                "number": record.number,
                "wall_s": record.wall_s,
                "has_snapshot": record.namespace is not None,
                "not_saved": list(record.namespace.not_saved) if record.namespace is not None else [],
                "machine": record.extra.get("machine", ""),
                "loops": record.extra.get("loops", 0),
            }
            for record in records
        ],
        "machine": machine_id(),
        "once": session.once,
    }


def cells_of(session: Session, shell: Any, settings: Settings, records: Sequence[CellRecord]) -> FinishedCells:
    """The record of a session's finished cells, over the shell's variables."""
    hidden = ipython_history.user_owns(hidden_by(shell.user_ns_hidden))
    snapshotter = NamespaceSnapshotter(shell.user_ns, session.engine.freezer, hidden=hidden)
    return FinishedCells(
        snapshotter, ProcessSettings(settings.project.root), records, SnapshotBudget(settings.snapshot_time_share)
    )


def note_executed(finished_cells: FinishedCells, shell: Any, info: Any) -> None:
    """Note what the cell that is about to run can reach."""
    source = getattr(info, "raw_cell", None)
    # If the shell does not say what it runs, the cell may reach everything.
    finished_cells.reach.ran("globals()" if source is None else shell.transform_cell(source))


def machine_id() -> str:
    """Identifies this machine and its Python, and so the place where a cell installed its packages."""
    return f"{uuid.getnode():x}:{sys.prefix}"


def _revive(config: sidecar.Config, session: Session) -> None:
    session.sidecar.note("sidecar-died", message="qcity's background process died; a new one continues")
    sidecar.spawn(sidecar.respawn(config))


def _session_and_cells() -> tuple[Session, FinishedCells]:
    assert _session is not None
    assert _session.finished_cells is not None
    return _session, _session.finished_cells


def _resume(count: int, number: int, sources: Mapping[int, str]) -> Mapping[str, Any]:
    session, finished_cells = _session_and_cells()
    assert session.manifest is not None
    shown = [
        session.tier.read(session.manifest, record.outputs).decode() if record.outputs else ""
        for record in finished_cells.records[:count]
    ]
    outputs = session.sidecar.mailbox.path / "outputs.json"
    outputs.write_text(json.dumps(shown), encoding="utf-8")
    try:
        notes = finished_cells.restore(count, session.tier.reader(session.manifest))
    except BaseException:  # objects may raise anything when they are unpickled; half of them would be worse than none
        _shell().reset(new_session=False)
        raise
    inline_plots.show_inline()
    notes += rerun(_shell(), sources.values())
    notes += finished_cells.process_settings.finish_restore()  # the last change wins, made by a magic or by a call
    ipython_history.put(_shell(), sources, number)
    return {"notes": notes, "outputs": str(outputs)}


def _set_count(number: int) -> Mapping[str, Any]:
    _shell().execution_count = number
    return {}


def _record_once(source: str) -> Mapping[str, Any]:
    begin_once(_session_and_cells()[0], source)
    return {}


def begin_once(session: Session, source: str) -> None:
    """Record in the store that a cell which must not run twice begins. It returns before the cell runs.

    Args:
        source: the hash chain of the cell's source alone.
    Raises:
        StoreUnavailable: the store did not answer.
    """
    session.once = {**session.once, source: f"at {iso_now()} in attempt {session.term}"}
    session.save("once", strict=True)
    session.sidecar.ask("flush", wait_s=ONCE_S)


def _finish_cell(file: str) -> Mapping[str, Any]:
    """``file`` was written by the engine; see ``ResumePlan.finish_cell``."""
    session, finished_cells = _session_and_cells()
    event = json.loads(Path(file).read_text(encoding="utf-8"))
    session.finish_save()
    extra = {"machine": machine_id(), "loops": session.entered - finished_cells.entered}
    finished_cells.entered = session.entered
    record = CellRecord(chain=event["chain"], number=event["number"], wall_s=event["wall_s"], extra=extra)
    shown = {int(place): content.encode() for place, content in event["shown"].items()}
    finished_cells.add_finished(event["position"], record, shown)
    may, must = bool(event["snapshot"]), bool(event["once"])
    return {"postponed_s": commit(session, finished_cells, record.wall_s, may=may, must=must, is_last=event["last"])}


def commit(
    session: Session,
    finished_cells: FinishedCells,
    wall_s: float,
    *,
    may: bool = True,
    must: bool = False,
    is_last: bool = False,
) -> float:
    """Save the record of the newest cell, with a snapshot of the variables if the budget allows one.

    Args:
        may: a snapshot may be taken.
        must: a snapshot is taken at any cost, and the store has it before another cell begins.
        is_last: no cell follows.
    Returns: 0; or, if snapshots are postponed from now on, the seconds that the next one needs.
    """
    budget, began_s = finished_cells.budget, time.perf_counter()
    budget.add_run(wall_s)
    was_waiting = budget.is_waiting
    limit_s = math.inf if must else budget.limit_s
    is_due = may and limit_s > 0
    needs_s = finished_cells.take_snapshot(stored=session.tier.stored, limit_s=limit_s) if is_due else 0.0
    is_taken = is_due and not needs_s
    if is_taken or session.metric_log.pending or is_last or must:
        session.save("cell", strict=is_last or must)
    if must:
        session.sidecar.ask("flush", wait_s=ONCE_S)
    session.wait_saved(WAIT_SHARE * wall_s)
    cost_s = time.perf_counter() - began_s
    if is_taken:
        budget.subtract_cost(cost_s)
    elif may:
        budget.note_postponed(needs_s, cost_s if is_due else 0.0)
    return (needs_s or finished_cells.cost_s) if budget.is_waiting and not was_waiting else 0.0


_OPS: dict[str, Callable[..., Mapping[str, Any]]] = {
    "attend": _attend,
    "resume": _resume,
    "count": _set_count,
    "once": _record_once,
    "finished": _finish_cell,
}
