"""The variables of an earlier kernel, brought into one in which cells have run already."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qcity_nb.cells.names import find_names
from qcity_nb.checkpoint.state.capture import capture_generators, restore_generators
from qcity_nb.checkpoint.state.frozen_buffer import Read
from qcity_nb.checkpoint.storage.manifest import CellRecord
from qcity_nb.kernel import inline_plots, ipython_history
from qcity_nb.kernel.finished_cells import FinishedCells
from qcity_nb.namespace.tombstone import not_saved_of

__all__ = ["RESULTS", "Bringer", "results_by"]

RESULTS = "results"
"""In a record's ``extra``: the cell that each `_3` of its snapshot is the result of, by place in the records."""
_RESULT = re.compile(r"_(\d+)")


def results_by(namespace: Mapping[str, Any], places: Mapping[int, int]) -> dict[str, int]:
    """Which cells the results in the namespace belong to, by their numbers' places."""
    numbers = {match[1] for name in namespace if isinstance(name, str) and (match := _RESULT.fullmatch(name))}
    return {number: places[int(number)] for number in sorted(numbers, key=int) if int(number) in places}


class Bringer:
    """Restores snapshots into a shell's namespace.

    What the cells before the extension made stays, where the snapshot has no variable of that name. Where it has, the
    snapshot's counts: later cells may have changed it.
    """

    def __init__(self, shell: Any, finished_cells: FinishedCells) -> None:
        self._shell = shell
        self._finished_cells = finished_cells
        absent = {
            str(one["name"])
            for record in finished_cells.records
            if record.namespace
            for one in record.namespace.not_saved
        }
        self._names = set(shell.user_ns)
        self._made = {
            name: value for name, value in shell.user_ns.items() if name in absent or _RESULT.fullmatch(str(name))
        }
        """Of what the cells before the extension made: what no snapshot brings back."""
        self._brought: set[str] = set()

    def bring(
        self, records: Sequence[CellRecord], read: Read, numbers: Sequence[int], sources: Sequence[str]
    ) -> list[str]:
        """Bring the variables back as the last of these records left them.

        Args:
            read: gives an object by name, verified.
            numbers: what the cells are called in this kernel.
            sources: theirs.
        Returns: what did not come back, one sentence each.
        Raises:
            Exception: anything that loading may raise. The namespace is then as it was; the course is of no more use.
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
            said = finished_cells.restore(len(records), read)
        except BaseException:  # whatever objects raise when they are made: the namespace is to be what it was
            live.clear()
            live.update(before)
            finished_cells.process_settings.put(process_settings)
            restore_generators(generators)
            raise
        finally:
            finished_cells.records = kept
        names = (
            set(records[-1].namespace.names) | set(records[-1].namespace.modules)
            if records[-1].namespace is not None
            else set()
        )
        for name in self._brought - names - self._names:
            if not_saved_of(live.get(name)) is None:
                live.pop(name, None)  # an earlier restore brought it, and a cell since has deleted it
        stays = set(self._stays(sources))
        for name in stays:
            live[name] = self._made[name]
        self._brought = names
        self._number(records[-1], names, numbers)
        inline_plots.show_inline()
        return [one for one in said if one.partition(" ")[0] not in stays]

    def _stays(self, sources: Sequence[str]) -> Iterator[str]:
        """What cannot be saved, and is there: the cells before the extension have just made it."""
        used = find_names(sources)
        for name, value in self._made.items():
            # One that is used up bit by bit is another now than it was.
            if not_saved_of(self._shell.user_ns.get(name)) is not None and not (
                name in used and hasattr(value, "__next__")
            ):
                yield name

    def _number(self, record: CellRecord, names: set[str], numbers: Sequence[int]) -> None:
        """Results get the numbers that their cells have in this kernel."""
        live = self._shell.user_ns
        old = {name: live.pop(name) for name in names if _RESULT.fullmatch(name) and name in live}
        live.update((name, self._made[name]) for name in old if name in self._made)
        places: Mapping[str, int] = record.extra.get(RESULTS, {})
        found = {numbers[place]: old[f"_{n}"] for n, place in places.items() if f"_{n}" in old and place < len(numbers)}
        ipython_history.put_results(self._shell, {number: value for number, value in found.items() if number})
