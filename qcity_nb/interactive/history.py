"""Which cells finished in earlier kernels, and how far this kernel's cells match them.

The hash chain is over the cells in the order in which they ran. A read-only cell (``cells.read_only``) is not part of
it: it may be added, moved or deleted, and the cells after it still match.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from qcity_nb.cells import tags
from qcity_nb.cells.read_only import asks_for_results, is_read_only
from qcity_nb.cells.source_chain import chain
from qcity_nb.checkpoint.storage.manifest import CellRecord

__all__ = ["BEFORE", "ONCE", "READ_ONLY", "History", "hash_earlier_cells"]

READ_ONLY, BEFORE, ONCE = "read_only", "before", "once"
"""Keys of a record's ``extra``: the cell is read-only; the cells that had run when the extension was loaded; the cell
must not run twice."""


_MAGIC = re.compile(r"[!%](?!%|run\b|load\b)")


def hash_earlier_cells(sources: Iterable[str]) -> list[str]:
    """The hashes of the cells that run in each kernel, without those that hardly affect the cells after them.

    These are read-only, install packages, or consist of magics and commands (`!nvidia-smi`).
    """
    hashes = set()
    for source in sources:
        lines = [line for line in source.splitlines() if line.strip()]
        is_idle = all(_MAGIC.match(line.lstrip()) for line in lines) or tags.installs(source) or is_read_only(source)
        if not is_idle:
            hashes.update(chain([source]))
    return sorted(hashes)


class History:
    """Compares the cells of this kernel with the records of earlier ones.

    Args:
        records: in order, as in the newest checkpoint.
        ran: the hashes of the cells that have run in this kernel so far (``hash_earlier_cells``). They run in each
            kernel; a record that does not have all of them was made after other cells.
    """

    def __init__(self, records: Sequence[CellRecord], ran: Collection[str]) -> None:
        known = self._count_matching(records, set(ran))
        whole = [place for place, record in enumerate(records[:known]) if record.namespace is not None]
        self.is_other = known < len(records) and known == 0
        """The records were made after other cells than those of this kernel."""
        self.records = tuple(records[: whole[-1] + 1]) if whole else ()
        """The records after which a kernel can resume."""
        self.at = 0
        """How many of them this kernel has skipped or re-run."""
        self.sources: list[str] = []
        """The sources of ``records[:at]``."""
        self._counted: list[str] = []
        self._all: list[str] = []

    @staticmethod
    def _count_matching(records: Sequence[CellRecord], ran: set[str]) -> int:
        known: set[str] = set()
        for place, record in enumerate(records):
            known = set(record.extra[BEFORE]) if BEFORE in record.extra else known
            if not ran <= known:
                return place
        return len(records)

    @property
    def is_over(self) -> bool:
        """Has this kernel reached the end of the records, or left them?"""
        return self.at == len(self.records)

    def leave(self) -> None:
        """Leave the records: from here on this kernel's cells are different."""
        self.records = self.records[: self.at]

    def chain(self, source: str) -> str:
        """The hash of a cell if it ran now."""
        return chain([*self._counted, self._text(source)], parameters={"by": "hand"})[-1]

    def _text(self, source: str) -> str:
        last = chain(self._all)[-1] if self._all and asks_for_results(source) else ""
        return f"{source}\n# after {last}" if last else source

    def find(self, source: str) -> int | None:
        """The index of this cell's record, if it is the next one; read-only cells in between may be missing."""
        link = self.chain(source)
        for place in range(self.at, len(self.records)):
            if self.records[place].chain == link:
                return place
            if not self.records[place].extra.get(READ_ONLY):
                break
        return None

    def skip(self, place: int, source: str) -> None:
        """Note that the cell of that record was skipped or re-run."""
        self.sources += [""] * (place - len(self.sources)) + [source]
        self.at = place + 1
        self.add_run(source, is_read_only=bool(self.records[place].extra.get(READ_ONLY)))

    def go_back(self, count: int) -> None:
        """Go back to the first ``count`` records, and leave the others."""
        sources, records = self.sources[:count], self.records[:count]
        self.records, self.at, self.sources, self._counted, self._all = records, 0, [], [], []
        for place, source in enumerate(sources):
            if source:
                self.skip(place, source)
        self.records, self.at = records, count

    def add_run(self, source: str, *, is_read_only: bool) -> None:
        """Note a cell that ended without an error."""
        if not is_read_only:
            self._counted.append(self._text(source))
        self._all.append(source)

    def find_snapshot(self) -> tuple[int, list[int]]:
        """After how many records the variables can be restored, and the indexes of the cells to re-run then."""
        count = self.at
        while count and self.records[count - 1].namespace is None:
            count -= 1
        missing = [n for n in range(count, self.at) if self.sources[n] and not self.records[n].extra.get(READ_ONLY)]
        return count, missing
