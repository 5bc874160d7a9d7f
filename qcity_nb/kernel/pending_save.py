"""A checkpoint that is being written in the background."""

from __future__ import annotations

from dataclasses import dataclass

from qcity_nb.checkpoint.engine import Saving
from qcity_nb.kernel.finished_cells import Cells
from qcity_nb.kernel.loop_state import Draft
from qcity_nb.kernel.metric_log import Batch

__all__ = ["PendingSave"]


@dataclass(frozen=True, slots=True)
class PendingSave:
    """What a save holds, until it is on the disk or has failed."""

    saving: Saving
    drafts: list[Draft]
    batch: Batch

    def give_back(self, course: Cells | None) -> None:
        """It was not written: what it held of the loops' present boundaries is to be captured again."""
        if course is not None:
            course.lost()
        for draft in self.drafts:
            if draft.begun is not None and draft.loop.begun is None:
                draft.loop.begun = draft.begun  # a pass begins once
            if draft.generators is not None and draft.loop.done == draft.base.done:
                draft.loop.is_fresh = False
