"""A checkpoint that is being written in the background."""

from __future__ import annotations

from dataclasses import dataclass

from qcity_nb.checkpoint.engine import Saving
from qcity_nb.kernel.finished_cells import FinishedCells
from qcity_nb.kernel.loop_state import LoopSnapshot
from qcity_nb.kernel.metric_log import Batch

__all__ = ["PendingSave"]


@dataclass(frozen=True, slots=True)
class PendingSave:
    """What a save holds until it is on disk or has failed."""

    saving: Saving
    drafts: list[LoopSnapshot]
    batch: Batch

    def give_back(self, finished_cells: FinishedCells | None) -> None:
        """Undo a save that was not written: the loops' present boundaries are to be captured again."""
        if finished_cells is not None:
            finished_cells.mark_lost()
        for snapshot in self.drafts:
            if snapshot.begun is not None and snapshot.loop.begun is None:
                snapshot.loop.begun = snapshot.begun  # a pass begins once
            if snapshot.generators is not None and snapshot.loop.done == snapshot.base.done:
                snapshot.loop.is_fresh = False
