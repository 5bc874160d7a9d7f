"""Connects the session to an IPython kernel: which cell runs, what it shows, how it ends."""

from __future__ import annotations

import json
import re
from typing import Any

from qcity_nb.kernel.changes.moved_loops import source_hash
from qcity_nb.kernel.session import Session

__all__ = ["attach", "cell_key", "is_blank", "session_of"]

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""A cell id as nbformat defines it; front ends send other things too."""

_attached: list[tuple[Any, Session, Any, Any]] = []


def cell_key(cell_id: str | None, source: str) -> str:
    """A cell's key: its id and its source's hash, or the hash alone if it has no id."""
    digest = source_hash(source)
    return f"cell:{cell_id}#{digest}" if cell_id and _ID.fullmatch(cell_id) else f"cell:{digest}"


def _running_key(session: Session, shell: Any, info: Any) -> str:
    """The key of the cell that runs now."""
    file = session.sidecar.mailbox.path / "cell.json"
    if file.exists():  # the engine's own word first: front ends differ in what they send
        cell = json.loads(file.read_text(encoding="utf-8"))
        return cell_key(cell["id"], cell["source"])
    source = getattr(info, "raw_cell", None)
    cell_id = getattr(info, "cell_id", None)
    if source is None:
        history = shell.history_manager.input_hist_raw
        source = history[-1] if history else ""
    if cell_id is None:
        parent = shell.kernel.get_parent() if hasattr(shell.kernel, "get_parent") else {}
        cell_id = (parent.get("metadata") or {}).get("cellId")
    return cell_key(cell_id, source)


def _start_cell(session: Session, shell: Any, info: Any, *, is_running: bool = False) -> None:
    key = _running_key(session, shell, info)
    session.start_cell(key)
    session.loop_edits.begin_cell(session, shell, key, is_running=is_running)


def _is_end(error: BaseException | None) -> bool:
    """Did the cell end the notebook without an error, by ``sys.exit()``? The rule is papermill's."""
    return isinstance(error, SystemExit) and str(error) in ("", "0")


def is_blank(result: Any) -> bool:
    """Is it the result of a cell without code? For such cells IPython does not call ``pre_run_cell``."""
    source = getattr(getattr(result, "info", None), "raw_cell", None)
    return isinstance(source, str) and not source.strip()


def session_of(shell: Any) -> Session | None:
    """The session that follows the shell's cells."""
    return next((session for known, session, _, _ in _attached if known is shell), None)


def attach(session: Session, shell: Any, *, is_running: bool = True) -> None:
    """Follow the shell's cells from now on.

    Args:
        is_running: a cell is running now; it is the first one followed.
    """
    while _attached:
        old, previous, begun, ended = _attached.pop()
        old.events.unregister("pre_run_cell", begun)
        old.events.unregister("post_run_cell", ended)
        previous.recorder.detach()

    depth = int(is_running)

    def before(info: Any = None) -> None:
        nonlocal depth
        depth += 1
        if depth == 1:  # else a magic such as %%capture runs its text as a cell, which is part of this one
            _start_cell(session, shell, info)

    def after(result: Any = None) -> None:
        nonlocal depth
        if is_blank(result):
            return
        depth = max(0, depth - 1) if result is not None else 0
        if depth:
            return
        session.recorder.end_cell()
        if session.sidecar.closed:
            return
        session.environment.check(session)
        is_well = bool(getattr(result, "success", True))
        session.end_cell(ok=is_well or _is_end(getattr(result, "error_in_exec", None)))

    shell.events.register("pre_run_cell", before)
    shell.events.register("post_run_cell", after)
    _attached.append((shell, session, before, after))
    session.recorder.attach(shell)
    if is_running:
        _start_cell(session, shell, None, is_running=True)
