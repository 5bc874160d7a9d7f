"""Which loop of a checkpoint does a loop continue whose cell has another id, or another place in its cell?

Loops are recognized by their keys, which begin with their cell's id. Where an edit has changed that, a loop is
recognized by its code; what cannot be is named, with the rows that come from it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from qcity_nb.cells.loop_sources import differences, loop_bodies

__all__ = ["KEY", "KnownLoop", "KnownSession", "MovedLoops", "code_cells", "same_place", "source_hash", "write_cells"]

KEY = "key"
"""In a loop's code: the key of the cell that continues it."""
_HASH = re.compile(r"[0-9a-f]{12}")
"""What stands for a cell without an id (``source_hash``)."""


def source_hash(source: str) -> str:
    """What identifies a cell without an id."""
    return hashlib.blake2b(source.strip().encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


def write_cells(mailbox: Path, cells: Iterable[tuple[str, str]]) -> None:
    """Tell the kernel which code cells its notebook has.

    Args:
        cells: id and source of each.
    """
    (mailbox / "cells.json").write_text(json.dumps(list(cells)), encoding="utf-8")


class KnownLoop(Protocol):
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


class KnownSession(Protocol):
    """What is needed of ``kernel.session.Session``."""

    sidecar: Any
    loops: Any
    open: Any
    history: Any
    term: int

    def announce(self, kind: Any, text: str, *, step: int | None = None) -> None:
        """Tell people what changed."""


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


class MovedLoops:
    """The loops of one kernel whose cells are not those of their checkpoint."""

    def __init__(self) -> None:
        self._announced: set[str] = set()
        """The keys of the loops without a cell that were named."""
        self._sources: list[tuple[str, str]] = []
        self._is_ordered = False
        """The cells are executed in the notebook's order."""
        self._cells: dict[str, bool] | None = None
        """Ids and source hashes of the notebook's cells; whether there is a loop in the cell itself."""
        self._bodies: Counter[str] = Counter()
        """How many of the notebook's loops have the same body."""

    def read_cells(self, notebook: bytes) -> None:
        """Note which cells the notebook has, where its file is known."""
        if notebook:
            self._note_cells([(cell_id, source) for _, cell_id, source in code_cells(notebook)])

    def find(self, session: KnownSession, key: str, code: Mapping[str, Any], name: str | None) -> tuple[Any, str]:
        """The loop of a checkpoint that the loop with this key continues, and the key of the loop.

        Args:
            code: that of the loop that begins; empty: it is not known.
            name: as the user has named it; the key of a loop without a cell continues that loop.
        Returns: ``None`` if there is none; a new loop gets the key.
        """
        if name or "/" in key:
            own = session.loops.get(key)
            return own or next((loop for loop in _free(session) if loop.key == name), None), key
        own = next((loop for loop in session.loops.values() if _place(loop) == key), None)
        if own is not None and (own.touched or not _is_saved(own) or not code or _is_same(own, code)):
            return own, own.key
        cell = key.rpartition(":")[0]
        same = [loop for loop in _free(session) if code and loop.code and loop is not own and _is_same(loop, code)]
        here = next((loop for loop in same if _cell(loop) == cell), None)
        if own is not None:
            if here is None and own.code.get("body") not in code.get("around", ()):
                return own, own.key
            _move(own, f"{cell}:-")  # it may come later in this cell
        loop = here or (self._find_orphan(session, same) if own is None else None)
        if loop is not None:
            _move(loop, key)
            return loop, loop.key
        return None, next(text for text in (key, *(f"{key}+{n}" for n in range(999))) if text not in session.loops)

    def _find_orphan(self, session: KnownSession, same: Sequence[Any]) -> Any:
        orphans = [loop for loop in same if self._is_orphan(session, loop)]
        if len(orphans) == 1:
            (loop,) = orphans
            session.sidecar.note("moved", loop=loop.name, done=loop.done)  # nothing is lost: people need not read it
            return loop
        if self._cells_here(session):
            for loop in orphans:
                self._announce_orphan(session, loop)
        elif same and not orphans:
            (loop, *_) = same
            text = f"this loop begins anew; city.loop {loop.name!r} of another cell, which had the same code, has done"
            session.announce("notebook", f"{text} {loop.done} items: city.loop(…, name={loop.key!r}) continues it")
        return None

    def announce_orphans(self, session: KnownSession, current: KnownLoop) -> None:
        """Name the loops whose cells are gone, and their rows; ``current`` is the one that begins."""
        if not self._cells_here(session):
            return
        loops = [loop for loop in session.loops.values() if "/" not in loop.key and loop is not current]
        here = Counter(loop.code.get("body") for loop in (*loops, current) if not self._is_orphan(session, loop))
        for loop in loops:
            body = loop.code.get("body", "")
            if not loop.touched and self._is_orphan(session, loop) and self._bodies[body] <= here[body]:
                self._announce_orphan(session, loop)

    def _announce_orphan(self, session: KnownSession, loop: KnownLoop) -> None:
        if loop.key in self._announced:
            return
        self._announced.add(loop.key)
        total = f" of {loop.total}" if loop.total is not None else ""
        text = (
            f"city.loop {loop.name!r} ({loop.done}{total} items done) has no cell any more: its rows up to step"
            f" {loop.count} come from a cell that no longer exists; city.loop(…, name={loop.key!r}) continues it"
        )
        if not any(change["text"] == text for change in session.history.changes):
            session.announce("notebook", text, step=loop.count)

    def _is_orphan(self, session: KnownSession, loop: KnownLoop) -> bool:
        """Is its cell gone, or without a loop, as far as is known?"""
        cell = _cell(loop)
        cells = self._cells_here(session)
        if not cell:
            return False  # it has a name
        if not cells:
            return _HASH.fullmatch(cell) is not None
        return cell not in cells or (bool(loop.code.get("is_top")) and not cells[cell])

    def _cells_here(self, session: KnownSession) -> Mapping[str, bool]:
        if self._cells is None:
            file = session.sidecar.mailbox.path / "cells.json"
            self._is_ordered = file.exists()
            self._note_cells(json.loads(file.read_text(encoding="utf-8")) if file.exists() else [])
        return self._cells or {}

    def cells_until(self, session: KnownSession, cell_id: str, digits: str) -> list[str]:
        """The sources of the notebook's cells up to this one, under the engine, which executes them in order.

        Args:
            digits: the hash of its source.
        """
        if not self._cells_here(session) or not self._is_ordered:
            return []
        cells = self._sources
        match = [n for n, (known, source) in enumerate(cells) if known == cell_id and source_hash(source) == digits]
        return [source for _, source in cells[: match[0] + 1]] if match else []

    def _note_cells(self, cells: Sequence[Sequence[str]]) -> None:
        self._sources = [(cell_id, source) for cell_id, source in cells]
        loops = loop_bodies([source for _, source in cells])
        self._bodies = Counter(body for _, body, _ in loops)
        with_loop = {place for place, _, is_top in loops if is_top}
        self._cells = {
            name: place in with_loop
            for place, (cell_id, source) in enumerate(cells)
            for name in (cell_id, source_hash(source))
            if name
        }


def same_place(old: Mapping[str, Any], new: Mapping[str, Any]) -> Mapping[str, Any]:
    """The new code of a loop that stays where it was."""
    return {**new, KEY: old[KEY]} if new and KEY in old else new


def _is_same(loop: KnownLoop, code: Mapping[str, Any]) -> bool:
    return not differences(loop.code, code, items=not loop.items.are_plain)


def _is_saved(loop: KnownLoop) -> bool:
    return loop.saved_generators is not None


def _free(session: KnownSession) -> Iterator[Any]:
    for loop in session.loops.values():
        if not loop.touched and _is_saved(loop) and "/" not in loop.key:
            yield loop


def _move(loop: KnownLoop, key: str) -> None:
    loop.code = {**loop.code, KEY: key}


def _place(loop: KnownLoop) -> str:
    return str(loop.code.get(KEY, loop.key))


def _cell(loop: KnownLoop) -> str:
    return _place(loop).rpartition(":")[0]
