"""`%load_ext qcity_nb`: a notebook run by hand resumes at the cell where it died.

    load      find the cells that finished in an earlier kernel              history
    before    if the cell is the next of them: skip it, show its old output;
              else: restore the variables first                              follower, restore
    after     the cell ended without an error: record it, with a snapshot if the budget allows one

How a cell is skipped: its text goes through the shell as always (history, numbers, magics), and an AST transformer
removes the statements before they run. Only hooks of IPython are used, which are the same since 7.34.
"""

from __future__ import annotations

import ast
import html
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from qcity_nb import settings
from qcity_nb.errors import QcityError
from qcity_nb.interactive.follower import Follower
from qcity_nb.kernel import ipython_hooks
from qcity_nb.kernel.engine_requests import note_executed
from qcity_nb.kernel.interrupt import uninterrupted
from qcity_nb.kernel.session import Session

__all__ = ["Extension", "load", "unload"]

_on: Extension | None = None
_runs: set[str] = set()
"""Runs whose cells this kernel has followed: their records are its own, not an earlier kernel's."""


def load(shell: Any, up: Callable[[], Session]) -> None:
    """Follow the shell's cells from the next one on.

    Args:
        up: returns the session of the present city; calls `qcity.up()` if there is none.
    Raises:
        IPython's UsageError: no run can be started; it is shown as one line that says what to do.
    """
    global _on
    unload(shell)
    try:
        if settings.load().mailbox:
            return  # under the engine, which knows the notebook's cells
        if getattr(shell, "kernel", None) is None:
            raise _make_error("UsageError", "%load_ext qcity_nb needs a notebook's kernel")
        session = up()
    except QcityError as error:
        raise _make_error("UsageError", f"{error}; then %load_ext qcity_nb") from None
    _on = Extension(shell, session)


def unload(shell: Any) -> None:
    """Remove the hooks from the shell."""
    global _on
    if _on is not None:
        _on.close()
        _on = None


def _make_error(name: str, text: str) -> Exception:
    made: Exception = getattr(sys.modules["IPython.core.error"], name)(text)
    return made


class Extension:
    """The hooks in one shell for one session."""

    def __init__(self, shell: Any, session: Session) -> None:
        self._shell = shell
        self._session = session
        records = session.manifest.cells if session.manifest is not None and session.run not in _runs else ()
        _runs.add(session.run)
        self._follower = Follower(shell, session, records, self._say)
        self._depth = 0
        self._is_broken = False
        """Cells are no longer followed."""
        self._hooks = {"pre_run_cell": self._on_start, "post_run_cell": self._on_end}
        for event, hook in self._hooks.items():
            shell.events.register(event, hook)
        shell.ast_transformers.insert(0, self)
        self._greet(len(records))

    def _greet(self, known: int) -> None:
        history = self._follower.history
        if count := len(history.records):
            text = f"{_count_cells(count)} finished in an earlier kernel: run them, and they are skipped"
            text += " (to start over: qcity.up(fresh=True) before %load_ext)"
        elif history.is_other:
            text = f"{_count_cells(known)} finished, but a cell before %load_ext is new or edited: all are re-run"
        else:
            text = "cells that finish from here on are not re-run in a new kernel"
        self._say(f"run {self._session.run}: {text}")

    def close(self) -> None:
        """Remove the hooks."""
        for event, hook in self._hooks.items():
            self._shell.events.unregister(event, hook)
        self._shell.ast_transformers.remove(self)
        if self._session.finished_cells is self._follower.finished_cells:
            self._session.finished_cells = None

    def _say(self, text: str) -> None:
        page = f'<small style="opacity: 0.6">qcity: {html.escape(text)}</small>'
        self._shell.display_pub.publish({"text/plain": f"qcity: {text}", "text/html": page})

    @property
    def _is_on(self) -> bool:
        session = self._session
        if self._is_broken or ipython_hooks.session_of(self._shell) is not session:
            return False
        status = session.sidecar.look()
        if status.state in ("lost", "refused"):
            self._is_broken = True
            self._say(f"from here on cells run without qcity: {status.reason}")
        return status.state == "held"

    def visit(self, node: ast.AST) -> ast.AST:
        """Called by the shell with each cell before it runs: removes the statements of a cell that is skipped."""
        follower = self._follower
        skips, refused = follower.skips, follower.refused
        follower.skips, follower.refused = False, ""
        if refused:
            error: Any = _make_error("InputRejected", refused)
            error._render_traceback_ = lambda: [f"qcity: {refused}"]
            raise error
        if skips and isinstance(node, ast.Module):
            node.body = []
        return node

    def _is_mine(self) -> bool:
        """Does a cell of the notebook itself begin or end, and not a re-run one?"""
        return not self._follower.is_rerunning and threading.current_thread() is threading.main_thread()

    def _on_start(self, info: Any) -> None:
        if not self._is_mine():
            return
        self._depth += 1
        if self._depth > 1:  # a magic such as %%capture runs its text as a cell
            return
        follower = self._follower
        follower.clear()
        # A cell that is not in the history is the front end's own.
        if not info.store_history or not self._is_on:
            return
        note_executed(follower.finished_cells, self._shell, info)
        try:
            on_interrupt = signal.getsignal(signal.SIGINT)
            with uninterrupted():
                follower.decide(info.raw_cell, on_interrupt)
        except KeyboardInterrupt:
            if not follower.skips:
                follower.clear(refused="interrupted before the cell began")
        except Exception as error:  # noqa: BLE001 - variables may be missing, so the cell must not run
            self._is_broken = True
            why = f"{type(error).__name__}: {error}"
            follower.clear(refused=f"{why}. From here on cells run without qcity: run them from the first one on")

    def _on_end(self, result: Any) -> None:
        if not self._is_mine() or ipython_hooks.is_blank(result):
            return
        self._depth = max(0, self._depth - 1) if result is not None else 0
        if self._depth:
            return
        session = ipython_hooks.session_of(self._shell)
        if session is not None and session is not self._session:
            self._follow(session)
        elif result is None or not result.success:
            self._follower.fail_cell()
        elif self._is_on:
            try:
                with uninterrupted():
                    self._follower.finish_cell()
            except KeyboardInterrupt:
                self._say("the interrupt came while the snapshot was taken; the snapshot is complete")
            except Exception as error:  # noqa: BLE001 - user objects are pickled here; the cell itself has not failed
                self._say(f"no snapshot after this cell: {type(error).__name__}: {error}")
        self._follower.clear()

    def _follow(self, session: Session) -> None:
        """Follow another session: ``qcity.up(fresh=True)`` was called."""
        global _on
        self.close()
        _on = Extension(self._shell, session)


def _count_cells(count: int) -> str:
    return "1 cell has" if count == 1 else f"{count} cells have"
