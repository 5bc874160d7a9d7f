"""What a notebook asks for between its loops: `city.checkpoint`, `city.restore`, a second `up()`."""

from __future__ import annotations

import sys
from typing import Any

from qcity_nb.checkpoint.retention import check_name
from qcity_nb.checkpoint.state.capture import load, restore
from qcity_nb.errors import Changed, UsageError
from qcity_nb.kernel.session import Session
from qcity_nb.run.up_arguments import UpArguments, check_same, find_ignored
from qcity_nb.settings import Settings
from qcity_nb.settings import load as load_settings
from qcity_nb.sidecar.start import Config

__all__ = ["accept", "leave_run", "restore_state", "save_now"]

END_S = 30.0
"""How long a refusal waits until the store knows that the run is stopped."""


def accept(session: Session, asked: UpArguments, opened: UpArguments, settings: Settings, attempt: Config) -> None:
    """Check a call of ``up()`` that is answered with this session: its arguments, and what was imported since.

    Args:
        opened: the arguments of the call that opened the run; under the engine there was none.
        settings: what holds in this kernel.
        attempt: what holds for the sidecar.
    Raises:
        UsageError: the arguments are those of another run.
        Changed: the environment is another one, and ``strict_environment`` is set.
    """
    if settings.mailbox:
        known = {change["text"] for change in session.history.changes if change["term"] == session.term}
        for text in find_ignored(asked, attempt.apply_to(load_settings(settings.project.root))):
            if text not in known:
                session.announce("arguments", text)
        session.environment.check(session)
        return
    check_same(asked, opened, settings, run=session.run)
    try:
        session.environment.check(session)
    except Changed as error:
        leave_run(session, str(error))
        raise


def leave_run(session: Session, why: str) -> None:
    """Let go of a run in favour of another one: its loops and rows are saved, and it can be resumed.

    Args:
        why: what a later call says, with what to do.
    """
    try:
        if session.sidecar.is_held:
            if session.environment.refusal:
                session.sidecar.ask("end", wait_s=END_S, state="stopped")
            else:
                session.commit("left")
                session.sidecar.mailbox.ask("release")
    finally:
        session.engine.close()  # its arena is as large as the state
        session.sidecar.closed = why


def save_now(session: Session, name: str) -> int:
    """Save and publish now, or at the next boundary of the running loop; see ``City.checkpoint``.

    Raises:
        UsageError: the name cannot be used.
    """
    session.sidecar.check()
    if name:
        _label(session, name)
    if session.open:
        session.force = True
        return session.seq
    if sys.exc_info()[0] is None or not session.has_left:
        session.save("asked for", strict=True)  # else: an exception left the loop and may still end the cell
    return int(session.sidecar.ask("flush", wait_s=60)["seq"])


def _label(session: Session, name: str) -> None:
    check_name(name)
    if session.label and session.label != name:
        raise UsageError(f"checkpoint(name={name!r}): the next boundary's checkpoint is {session.label!r} already")
    if session.sidecar.look(now=True).names_left == 0:
        raise UsageError(
            f"checkpoint(name={name!r}): this run has as many named checkpoints as its run record can list; "
            "leave out the name"
        )
    session.label = name


def restore_state(session: Session, state: object, name: str | None) -> Any:
    """The state of a loop in its newest checkpoint: ``state`` filled in place, or a new object if it is ``None``.

    Raises:
        UsageError: no checkpoint yet, or no such loop; the message lists the loops that have one.
    """
    loops = [loop for loop in session.loops.values() if loop.saved_state is not None]
    matches = [loop for loop in loops if name is None or name == loop.key]
    matches = matches or [loop for loop in loops if name == loop.name]
    if len(matches) != 1:
        names = ", ".join(sorted(loop.key for loop in loops)) or "none yet"
        raise UsageError(f"restore(name={name!r}): name one of the loops with a checkpoint: {names}")
    captured, _ = session.read_loop_state(matches[0])
    assert captured is not None
    if state is None:
        return load(captured)
    restore(state, captured)
    return state
