"""Was a loop's code edited since its checkpoint, and what then? Which loop does a cell continue that has another id?

An edit is announced, and the loop resumes with the new code; `changed="restart"` begins it anew, once for each edit.
Nothing that has ended begins anew by itself.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from qcity_nb.cells.loop_sources import differences, loops_in
from qcity_nb.kernel.changes.loop_code import LoopCodeReader

__all__ = ["RESTART", "Decision", "LoopEdits", "code_cells", "named", "source_hash", "write_cells"]

MOST_NAMED = 8
_HASH = re.compile(r"[0-9a-f]{12}")
"""What stands for a cell without an id (``source_hash``)."""
_UNDECIDED = "undecided"
"""In a loop's code: it was edited after the loop had begun, and nobody has decided what to do."""
_KEY = "key"
"""In a loop's code: the key of the cell that continues it."""
RESTART = 'city.loop(…, changed="restart") begins it anew'


def source_hash(source: str) -> str:
    """What identifies a cell without an id."""
    return hashlib.blake2b(source.strip().encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


def write_cells(mailbox: Path, cells: Iterable[tuple[str, str]]) -> None:
    """Tell the kernel which code cells its notebook has.

    Args:
        cells: id and source of each.
    """
    (mailbox / "cells.json").write_text(json.dumps(list(cells)), encoding="utf-8")


class _Loop(Protocol):
    """What is needed of ``kernel.loop_state.Loop``."""

    key: str
    name: str
    done: int
    count: int
    total: int | None
    finished: bool
    touched: bool
    parent: Any
    items: Any
    code: Mapping[str, Any]
    saved_generators: Any


class _Session(Protocol):
    """What is needed of ``kernel.session.Session``."""

    sidecar: Any
    loops: Any
    open: Any
    history: Any
    term: int

    def announce(self, kind: Any, text: str, *, step: int | None = None) -> None:
        """Tell people what changed."""


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
        self._edited: set[str] = set()
        """The keys of the loops whose edits were announced."""
        self._orphans: set[str] = set()
        """The keys of those whose cells are gone, and that were announced."""
        self._cells: frozenset[str] | None = None
        """The ids and source hashes of the notebook's cells."""
        self._bodies: Counter[str] = Counter()
        """How many of the notebook's loops have the same body."""

    def read_cells(self, notebook: bytes) -> None:
        """Note which cells the notebook has, where its file is known."""
        if notebook:
            self._note_cells([(cell_id, source) for _, cell_id, source in code_cells(notebook)])

    def _note_cells(self, cells: Sequence[Sequence[str]]) -> None:
        self._cells = frozenset(name for cell_id, source in cells for name in (cell_id, source_hash(source)) if name)
        self._bodies = Counter(code["body"] for code in loops_in([source for _, source in cells]))

    def decide(self, session: _Session, loop: _Loop, code: Mapping[str, Any], changed: str | None) -> Decision:
        """Compare the code of a loop that is to be restored with that of its checkpoint.

        Args:
            code: as it is now (``loop_code``); empty: it is not known.
            changed: what the user has decided.
        """
        if not code or not loop.code:
            return Decision(loop.code or code)
        now = {**code, **({_KEY: loop.code[_KEY]} if _KEY in loop.code else {})}
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

    def find_moved(self, session: _Session, key: str, code: Mapping[str, Any], name: str | None) -> Any:
        """The loop of a checkpoint that the loop with this key continues, though its own key is another.

        It is the loop that this cell has continued before; that of a cell which no longer exists, and which had the
        same code; or the one whose key the user gives as a name.
        """
        free = [
            loop
            for loop in session.loops.values()
            if not loop.touched and loop.saved_generators is not None and "/" not in loop.key
        ]
        if name:
            return next((loop for loop in free if loop.key == name), None)
        if "/" in key:
            return None
        for loop in free:
            if loop.code.get(_KEY) == key:
                return loop
        same = [loop for loop in free if code and self._is_orphan(session, loop) and not _has_edits(loop, code)]
        if len(same) != 1:
            for loop in same if self._cells_here(session) else ():
                self._announce_orphan(session, loop)
            return None
        (loop,) = same
        if _KEY not in loop.code:
            text = f"the cell of city.loop {loop.name!r} has another id now; it has the same loop, and continues it"
            session.announce("notebook", text, step=loop.count)
        loop.code = {**loop.code, _KEY: key}
        return loop

    def announce_orphans(self, session: _Session, current: _Loop) -> None:
        """Name the loops whose cells are gone, and their rows; ``current`` is the one that begins."""
        if not self._cells_here(session):
            return
        loops = [loop for loop in session.loops.values() if "/" not in loop.key and loop is not current]
        here = Counter(loop.code.get("body") for loop in (*loops, current) if not self._is_orphan(session, loop))
        for loop in loops:
            body = loop.code.get("body", "")
            if not loop.touched and self._is_orphan(session, loop) and self._bodies[body] <= here[body]:
                self._announce_orphan(session, loop)

    def _announce_orphan(self, session: _Session, loop: _Loop) -> None:
        if loop.key in self._orphans:
            return
        self._orphans.add(loop.key)
        total = f" of {loop.total}" if loop.total is not None else ""
        text = (
            f"city.loop {loop.name!r} ({loop.done}{total} items done) has no cell any more: its rows up to step"
            f" {loop.count} come from a cell that no longer exists; city.loop(…, name={loop.key!r}) continues it"
        )
        if not any(change["text"] == text for change in session.history.changes):
            session.announce("notebook", text, step=loop.count)

    def _is_orphan(self, session: _Session, loop: _Loop) -> bool:
        """Is its cell gone, as far as is known?"""
        cell, separator, _ = loop.code.get(_KEY, loop.key).rpartition(":")
        if not separator:
            return False  # it has a name
        cells = self._cells_here(session)
        return cell not in cells if cells else _HASH.fullmatch(cell) is not None

    def _cells_here(self, session: _Session) -> frozenset[str]:
        """The ids and source hashes of the notebook's cells; empty: they are not known."""
        if self._cells is None:
            file = session.sidecar.mailbox.path / "cells.json"
            self._note_cells(json.loads(file.read_text(encoding="utf-8")) if file.exists() else [])
        return self._cells or frozenset()


def _compares_items(session: _Session, loop: _Loop) -> bool:
    """Does an edit of the items expression count? Plain items were compared themselves."""
    is_announced = any(
        change["kind"] == "items" and change["term"] == session.term and repr(loop.name) in change["text"]
        for change in session.history.changes
    )
    return not loop.items.are_plain and not is_announced


def _has_edits(loop: _Loop, code: Mapping[str, Any]) -> bool:
    return not loop.code or bool(differences(loop.code, code, items=not loop.items.are_plain))


def _text(loop: _Loop, phrases: Sequence[str]) -> str:
    if not phrases:
        return f"city.loop {loop.name!r} was edited after it had begun"
    return f"the code of city.loop {loop.name!r} was edited since it was saved: {named(phrases)}"


def named(phrases: Sequence[str]) -> str:
    """The phrases as a list, the first eight."""
    more = f" and {len(phrases) - MOST_NAMED} more" if len(phrases) > MOST_NAMED else ""
    return f"{', '.join(phrases[:MOST_NAMED])}{more}"


def code_cells(notebook: bytes) -> list[tuple[int, str, str]]:
    """Index, id and source of a notebook's code cells; empty if it is not a notebook."""
    try:
        cells: list[Mapping[str, Any]] = json.loads(notebook)["cells"]
        return [
            (number, str(cell.get("id", "")), "".join(cell["source"]))
            for number, cell in enumerate(cells)
            if cell["cell_type"] == "code"
        ]
    except (ValueError, LookupError, TypeError, AttributeError):
        return []
