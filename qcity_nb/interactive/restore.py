"""Restores the variables of an earlier kernel into one in which cells have run already."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qcity_nb.cells.names import find_names
from qcity_nb.checkpoint.state.capture import capture_generators, restore_generators
from qcity_nb.checkpoint.state.frozen_buffer import Read
from qcity_nb.checkpoint.storage.manifest import CellRecord
from qcity_nb.kernel import inline_plots, ipython_history
from qcity_nb.kernel.finished_cells import FinishedCells, fold
from qcity_nb.namespace.tombstone import not_saved_of

__all__ = ["RESULTS", "SnapshotRestorer", "map_results"]

RESULTS = "results"
"""A key of a record's ``extra``: for each result in its snapshot (`_3`), the index of its cell's record."""
_RESULT = re.compile(r"_(\d+)")


def map_results(namespace: Mapping[str, Any], places: Mapping[int, int]) -> dict[str, int]:
    """For each result in the namespace, the index of its cell's record."""
    numbers = {match[1] for name in namespace if isinstance(name, str) and (match := _RESULT.fullmatch(name))}
    return {number: places[int(number)] for number in sorted(numbers, key=int) if int(number) in places}


class SnapshotRestorer:
    """Restores snapshots into a shell's namespace.

    A variable that the cells before `%load_ext` made stays if the snapshot has none of that name. Otherwise that of the
    snapshot counts, since later cells may have changed it.
    """

    def __init__(self, shell: Any, finished_cells: FinishedCells) -> None:
        self._shell = shell
        self._finished_cells = finished_cells
        not_saved = {
            str(entry["name"])
            for record in finished_cells.records
            if record.namespace
            for entry in record.namespace.not_saved
        }
        self._names = set(shell.user_ns)
        self._made = {
            name: value for name, value in shell.user_ns.items() if name in not_saved or _RESULT.fullmatch(str(name))
        }
        """Variables made by the cells before `%load_ext` that no snapshot restores."""
        self._brought: set[str] = set()

    def restore(
        self, records: Sequence[CellRecord], read: Read, numbers: Sequence[int], sources: Sequence[str]
    ) -> list[str]:
        """Restore the variables as the last of these records left them.

        Args:
            read: returns an object by name, verified.
            numbers: the execution counts of the cells in this kernel.
            sources: the cells' sources.
        Returns: what could not be restored, one sentence each.
        Raises:
            Exception: anything that unpickling may raise. The namespace is then as it was, but the finished cells
                can no longer be used.
        """
        live = self._shell.user_ns
        before, process_settings, generators = (
            dict(live),
            self._finished_cells.process_settings.look(),
            capture_generators(),
        )
        finished_cells = self._finished_cells
        kept = list(finished_cells.records)
        finished_cells.records = list(records)
        try:
            notes = finished_cells.restore(len(records), read)
        except BaseException:  # objects may raise anything when they are unpickled: put the namespace back
            live.clear()
            live.update(before)
            finished_cells.process_settings.put(process_settings)
            restore_generators(generators)
            raise
        finally:
            finished_cells.records = kept
        names = (
            {name for group in fold(records) for name in group} | set(records[-1].namespace.modules)
            if records[-1].namespace is not None
            else set()
        )
        for name in self._brought - names - self._names:
            if not_saved_of(live.get(name)) is None:
                live.pop(name, None)  # an earlier restore brought it back, and a cell since has deleted it
        stays = set(self._find_kept(sources))
        for name in stays:
            live[name] = self._made[name]
        self._brought = names
        self._renumber_results(records[-1], names, numbers)
        inline_plots.show_inline()
        return [note for note in notes if note.partition(" ")[0] not in stays]

    def _find_kept(self, sources: Sequence[str]) -> Iterator[str]:
        """Variables that could not be saved, and exist: the cells before `%load_ext` have just made them."""
        used = find_names(sources)
        for name, value in self._made.items():
            # An iterator that was used since is not the same any more.
            if not_saved_of(self._shell.user_ns.get(name)) is not None and not (
                name in used and hasattr(value, "__next__")
            ):
                yield name

    def _renumber_results(self, record: CellRecord, names: set[str], numbers: Sequence[int]) -> None:
        """Give results the execution counts of their cells in this kernel."""
        live = self._shell.user_ns
        old = {name: live.pop(name) for name in names if _RESULT.fullmatch(name) and name in live}
        live.update((name, self._made[name]) for name in old if name in self._made)
        places: Mapping[str, int] = record.extra.get(RESULTS, {})
        results = {
            numbers[place]: old[f"_{n}"] for n, place in places.items() if f"_{n}" in old and place < len(numbers)
        }
        ipython_history.put_results(self._shell, {number: value for number, value in results.items() if number})
