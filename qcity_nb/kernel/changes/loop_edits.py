"""Was a loop's code edited since its checkpoint, and what then?

An edit is announced, and the loop resumes with the new code; `changed="restart"` begins it anew, once for each edit.
Nothing that has ended begins anew by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qcity_nb.cells.loop_sources import differences
from qcity_nb.kernel.changes.loop_code import LoopCodeReader
from qcity_nb.kernel.changes.moved_loops import KnownLoop, KnownSession, MovedLoops, same_place

__all__ = ["RESTART", "Decision", "LoopEdits", "named"]

MOST_NAMED = 8
_UNDECIDED = "undecided"
"""In a loop's code: it was edited after the loop had begun, and nobody has decided what to do."""
RESTART = 'city.loop(…, changed="restart") begins it anew'


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a loop that is to be restored."""

    code: Mapping[str, Any]
    """What its next checkpoint keeps of its code."""
    text: str = ""
    """What to announce."""
    restarts: bool = False


class LoopEdits:
    """The edits of one kernel's loops."""

    def __init__(self) -> None:
        self.reader = LoopCodeReader()
        self.moved = MovedLoops()
        self._edited: set[str] = set()
        """The keys of the loops whose edits were announced."""

    def begin_cell(self, session: KnownSession, shell: Any, key: str, *, is_running: bool) -> None:
        """Note which cell runs.

        Args:
            key: of the session's for the cell (``ipython_hooks.cell_key``).
            is_running: the shell has put the cell into its history already.
        """
        cell_id, _, digits = key.removeprefix("cell:").rpartition("#")
        self.reader.begin_cell(shell, cell_id, is_running=is_running)
        self.reader.notebook = self.moved.cells_until(session, cell_id, digits)

    def decide(self, session: KnownSession, loop: KnownLoop, code: Mapping[str, Any], changed: str | None) -> Decision:
        """Compare the code of a loop that is to be restored with that of its checkpoint.

        Args:
            code: as it is now (``loop_code``); empty: it is not known.
            changed: what the user has decided.
        """
        if not code or not loop.code:
            return Decision(loop.code or code)
        now = same_place(loop.code, code)
        phrases = differences(loop.code, code, items=_compares_items(session, loop))
        was_edited = bool(loop.code.get(_UNDECIDED))
        if changed == "restart" and (phrases or was_edited):
            self._edited.add(loop.key)
            return Decision(now, f"{_text(loop, phrases)}; it begins anew at step {loop.count}", restarts=True)
        if not phrases:
            return Decision({**now, _UNDECIDED: True} if was_edited and changed is None else now)
        then = "it is finished and is not re-run" if loop.finished else f"the new code runs from step {loop.count} on"
        is_new = not any(outer.key in self._edited for outer in session.open)  # else the outer loop's text names it
        self._edited.add(loop.key)
        if changed == "resume":
            return Decision(now, f"{_text(loop, phrases)}; {then}" if is_new else "")
        return Decision({**now, _UNDECIDED: True}, f"{_text(loop, phrases)}; {then}; {RESTART}" if is_new else "")


def _compares_items(session: KnownSession, loop: KnownLoop) -> bool:
    """Does an edit of the items expression count? Plain items were compared themselves."""
    is_announced = any(
        change["kind"] == "items" and change["term"] == session.term and repr(loop.name) in change["text"]
        for change in session.history.changes
    )
    return not loop.items.are_plain and not is_announced


def _text(loop: KnownLoop, phrases: Sequence[str]) -> str:
    if not phrases:
        return f"city.loop {loop.name!r} was edited after it had begun"
    return f"the code of city.loop {loop.name!r} was edited since it was saved: {named(phrases)}"


def named(phrases: Sequence[str]) -> str:
    """The phrases as a list, the first eight."""
    more = f" and {len(phrases) - MOST_NAMED} more" if len(phrases) > MOST_NAMED else ""
    return f"{', '.join(phrases[:MOST_NAMED])}{more}"
