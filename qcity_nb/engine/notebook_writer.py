"""Writes the executed notebook to disk, with the true status of each cell."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import nbformat
from papermill.engines import NotebookExecutionManager

from qcity_nb import crashpoints
from qcity_nb.engine.attempt_context import AttemptContext
from qcity_nb.engine.paths import local_path

__all__ = ["NotebookWriter"]


def _write_atomically(path: Path, data: bytes) -> None:
    """Replace a file: readers see the old content or the new, also after a kill."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    draft.write_bytes(data)
    if path.exists():
        draft.chmod(path.stat().st_mode & 0o777)
    draft.replace(path)


def _merge(nb: Any) -> Any:
    """Join adjacent pieces of one stream: how it was split in transit does not belong in the notebook."""
    for cell in nb.cells:
        outputs: list[Any] = []
        for output in cell.get("outputs", []):
            last = outputs[-1] if outputs else None
            if last is not None and output.output_type == last.output_type == "stream" and output.name == last.name:
                last.text = "".join(last.text) + "".join(output.text)
            else:
                outputs.append(output)
        if "outputs" in cell:
            cell.outputs = outputs
    return nb


class NotebookWriter(NotebookExecutionManager):  # type: ignore[misc]  # papermill publishes no types
    """papermill's execution manager, with atomic writes and the true status of each cell."""

    def __init__(self, nb: Any, context: AttemptContext, **kwargs: Any) -> None:
        self.context = context
        super().__init__(nb, **kwargs)

    def save(self, **kwargs: Any) -> None:
        """Write the notebook to the mailbox, and to the output if that is a local file."""
        if kwargs.get("nb"):
            self.nb = kwargs["nb"]
        if self.context.process is not None:
            return  # the output may belong to another, running attempt
        data = str(nbformat.writes(_merge(self.nb))).encode()
        _write_atomically(self.context.mailbox.executed, data)
        output = local_path(self.output_path) if self.output_path else None
        # A device or a pipe is not replaced by a file, and no folder is made where papermill would raise an error.
        if output is not None and output.parent.is_dir() and (output.is_file() or not output.exists()):
            _write_atomically(output, data)
        elif self.output_path:
            super().save(**kwargs)
        if self.context.output is not None:
            _write_atomically(self.context.output, data)
        self.last_save_time = self.now()

    def cell_start(self, cell: Any, cell_index: int | None = None, **kwargs: Any) -> None:
        """Note that a cell begins."""
        crashpoints.hit("cell.before")
        running = {"index": cell_index, "id": cell.get("id"), "source": cell.source}
        _write_atomically(self.context.mailbox.path / "cell.json", json.dumps(running).encode())
        self._began_s = time.monotonic()
        super().cell_start(cell, cell_index, **kwargs)

    def cell_skipped(self, cell: Any, wall_s: float | None = None) -> None:
        """Note that a cell is skipped: it shows its output and its duration from an earlier kernel."""
        cell.metadata.papermill.update(status=self.COMPLETED, exception=False, duration=wall_s)
        if self.pbar:
            self.pbar.update(1)

    def cell_complete(self, cell: Any, cell_index: int | None = None, **kwargs: Any) -> None:
        """Note that a cell ended, with or without an error."""
        if not kwargs.get("died"):
            super().cell_complete(cell, cell_index, **kwargs)
        if cell.cell_type == "code":
            self.context.note(
                "cell",
                index=cell_index,
                id=cell.get("id"),
                status=cell.metadata.papermill["status"],
                wall_s=round(time.monotonic() - self._began_s, 3),
            )
        crashpoints.hit("cell.after")

    def notebook_complete(self, **kwargs: Any) -> None:
        """Note the end: cells that never ran stay pending, a cell that was cut off stays running."""
        self.end_time = self.now()
        meta = self.nb.metadata.papermill
        meta["end_time"] = self.end_time.isoformat()
        if meta.get("start_time"):
            meta["duration"] = (self.end_time - self.start_time).total_seconds()
        self.cleanup_pbar()
        self.save()
