"""Which loops of a notebook were edited since its run was stored: known before anything runs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from qcity_nb.errors import Missing
from qcity_nb.ports import Store
from qcity_nb.records import Head
from qcity_nb.run import same_notebook
from qcity_nb.run.identity import renew_source
from qcity_nb.settings import Project

__all__ = ["edits_between", "check_by_hand", "stored_edits"]


def stored_edits(store: Store, head: Head, notebook: bytes) -> list[str]:
    """What was edited since the version that is stored with the run, one line for each loop.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    try:
        return edits_between(store.get(head.run, head.source), notebook) if head.source and notebook else []
    except Missing:
        return []


def check_by_hand(
    store: Store, head: Head, is_new: bool, project: Project, notebook: bytes, executed: Iterable[object]
) -> Head:
    """Compare in a kernel the notebook with the one that is stored with the run, print what was edited, and store it.

    Returns: the run record with the new version.
    Raises: see ``run.same_notebook.check_same_notebook``.
    """
    same_notebook.check_by_hand(store, head, is_new, project, notebook, executed)
    for line in stored_edits(store, head, notebook) if not is_new else ():
        print(f"qcity: {line}", file=sys.stderr)  # noqa: T201
    return renew_source(store, head, notebook)


def edits_between(old: bytes, new: bytes) -> list[str]:
    """What was edited between two versions of a notebook, one line for each loop."""
    if old == new:
        return []
    from qcity_nb.cells.loop_sources import differences
    from qcity_nb.kernel.changes.loop_edits import RESTART, named

    before, now = _loops(old), _loops(new)
    lines = []
    for key, (_, code) in before.items():
        if key in now:
            phrases = differences(code, now[key][1])
            if phrases:
                lines.append(f"the loop in cell {now[key][0] + 1} was edited: {named(phrases)}")
        elif not any(other not in before and not differences(code, each) for other, (_, each) in now.items()):
            lines.append(f"the loop that was in cell {before[key][0] + 1} has no cell any more")
    return [f"{line}; {RESTART}" if " was edited" in line else line for line in lines]


def _loops(notebook: bytes) -> Mapping[str, tuple[int, dict[str, Any]]]:
    """The loops by their cell's id, or its source's hash, and their order in it; with the cell's index."""
    from qcity_nb.cells.loop_sources import loops_of_cells
    from qcity_nb.kernel.changes.moved_loops import code_cells, source_hash

    cells = code_cells(notebook)
    counts: dict[str, int] = {}
    loops = {}
    for place, code in loops_of_cells([source for _, _, source in cells]):
        number, cell_id, source = cells[place]
        cell = cell_id or source_hash(source)
        counts[cell] = counts.get(cell, -1) + 1
        loops[f"{cell}:{counts[cell]}"] = number, code
    return loops
