"""What cells finished in earlier kernels, and how far this kernel's cells are the same.

Cells are chained in the order in which they run. A cell that only looks (``byhand_looks``) is no link: it may come, go
or stay away, and what follows is still what it was.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from qcity_nb.cells import tags
from qcity_nb.cells.read_only import asks_for_results, is_read_only
from qcity_nb.cells.source_chain import chain
from qcity_nb.checkpoint.storage.manifest import CellRecord

__all__ = ["BEFORE", "LOOKS", "ONCE", "Past", "before"]

LOOKS, BEFORE, ONCE = "looks", "before", "once"
"""In a record's ``extra``: the cell only looks; the cells that had run when the extension was loaded."""


_MAGIC = re.compile(r"[!%](?!%|run\b|load\b)")


def before(sources: Iterable[str]) -> list[str]:
    """The cells that run in each kernel, by their hashes, without those that hardly count for the ones behind them.

    These only look, install, or consist of magics and commands (`!nvidia-smi`).
    """
    found = set()
    for source in sources:
        lines = [line for line in source.splitlines() if line.strip()]
        is_idle = all(_MAGIC.match(line.lstrip()) for line in lines) or tags.installs(source) or is_read_only(source)
        if not is_idle:
            found.update(chain([source]))
    return sorted(found)


class Past:
    """Follows the cells of this kernel along the records of earlier ones.

    Args:
        records: in order, as the newest checkpoint has them.
        ran: the cells that have run in this kernel so far, as ``before`` has them. They run in each kernel; a record
            that does not know all of them was made behind others.
    """

    def __init__(self, records: Sequence[CellRecord], ran: Collection[str]) -> None:
        known = self._known(records, set(ran))
        whole = [place for place, one in enumerate(records[:known]) if one.namespace is not None]
        self.is_other = known < len(records) and known == 0
        """Other cells ran before them."""
        self.records = tuple(records[: whole[-1] + 1]) if whole else ()
        """Those that a kernel can go on behind."""
        self.at = 0
        """So many of them are behind us."""
        self.sources: list[str] = []
        """Of ``records[:at]``."""
        self._counted: list[str] = []
        self._all: list[str] = []

    @staticmethod
    def _known(records: Sequence[CellRecord], ran: set[str]) -> int:
        known: set[str] = set()
        for place, one in enumerate(records):
            known = set(one.extra[BEFORE]) if BEFORE in one.extra else known
            if not ran <= known:
                return place
        return len(records)

    @property
    def is_over(self) -> bool:
        """Is this kernel where the earlier ones were, or elsewhere?"""
        return self.at == len(self.records)

    def leave(self) -> None:
        """From here on this kernel goes another way."""
        self.records = self.records[: self.at]

    def chain(self, source: str) -> str:
        """The link that a cell would be if it ran now."""
        return chain([*self._counted, self._text(source)], parameters={"by": "hand"})[-1]

    def _text(self, source: str) -> str:
        behind = chain(self._all)[-1] if self._all and asks_for_results(source) else ""
        return f"{source}\n# behind {behind}" if behind else source

    def find(self, source: str) -> int | None:
        """Which of the records is this cell's, if it is the next one? Those that only look may be left out."""
        mark = self.chain(source)
        for place in range(self.at, len(self.records)):
            if self.records[place].chain == mark:
                return place
            if not self.records[place].extra.get(LOOKS):
                break
        return None

    def skip(self, place: int, source: str) -> None:
        """The cell of that record is behind us."""
        self.sources += [""] * (place - len(self.sources)) + [source]
        self.at = place + 1
        self.ran(source, is_read_only=bool(self.records[place].extra.get(LOOKS)))

    def back(self, count: int) -> None:
        """Only so many of them are behind us after all, and this kernel goes another way."""
        sources, records = self.sources[:count], self.records[:count]
        self.records, self.at, self.sources, self._counted, self._all = records, 0, [], [], []
        for place, source in enumerate(sources):
            if source:
                self.skip(place, source)
        self.records, self.at = records, count

    def ran(self, source: str, *, is_read_only: bool) -> None:
        """A cell has ended well."""
        if not is_read_only:
            self._counted.append(self._text(source))
        self._all.append(source)

    def upto(self) -> tuple[int, list[int]]:
        """The variables can be had as so many records left them; those then have to run."""
        count = self.at
        while count and self.records[count - 1].namespace is None:
            count -= 1
        missing = [n for n in range(count, self.at) if self.sources[n] and not self.records[n].extra.get(LOOKS)]
        return count, missing
