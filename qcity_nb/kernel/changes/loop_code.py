"""Reads the code of a loop that begins: its cell or script, and what was executed before it."""

from __future__ import annotations

import linecache
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from qcity_nb.cells.loop_sources import LoopCode, loop_code, newest

__all__ = ["LoopCodeReader"]

MOST_FRAMES = 24
_LIBRARY = re.compile(r"[/\\](?:site-packages|dist-packages|lib[/\\]python[\d.]+)[/\\]|^<frozen ")


class LoopCodeReader:
    """The code of one kernel's loops."""

    def __init__(self) -> None:
        self.notebook: Sequence[str] = ()
        """The notebook's cells up to the running one; empty: those count that are in IPython's history."""
        self._ids: dict[int, str] = {}
        """The cells' ids, by their place in the history."""
        self._known: dict[tuple[object, ...], LoopCode] = {}
        """Of the loops that began while the history was as long as now."""
        self._count = 0

    def begin_cell(self, shell: Any, cell_id: str, *, is_running: bool) -> None:
        """Note which cell runs, so that of a cell that is edited and executed again only the newest source counts."""
        self._ids[len(shell.history_manager.input_hist_parsed) - is_running] = cell_id

    def read(self, frame: FrameType | None) -> Mapping[str, Any]:
        """The record of the loop that begins at this frame (``cells.loop_sources``); empty: there is no source."""
        frames = _user_frames(frame)
        if not frames:
            return {}
        shell = _shell()
        count = len(shell.history_manager.input_hist_parsed) if shell is not None else 0
        key = (count, *frames)
        if key not in self._known:
            if count != self._count:
                self._known.clear()
            self._count = count
            try:
                self._known[key] = self._read(frames, shell)
            except Exception:  # noqa: BLE001 - users' code may be anything; a loop must not fail for that
                self._known[key] = {}
        return self._known[key]

    def _read(self, frames: Sequence[tuple[CodeType, int]], shell: Any) -> LoopCode:
        cells = self._executed(shell) if shell is not None else []
        if self.notebook:
            cells = newest(_transformed(shell, cell) for cell in self.notebook)
        sources = []
        for code, line in frames:
            source = "".join(linecache.getlines(code.co_filename))
            if not source and cells and code.co_filename.startswith("<"):
                source = cells[-1]  # `%%time` compiles its cell without a file
            sources.append((source, line))
        running = sources[-1][0].rstrip("\n")
        if shell is not None and running not in cells and not Path(frames[-1][0].co_filename).is_file():
            cells.append(running)
        return loop_code(cells, sources) or {}

    def _executed(self, shell: Any) -> list[str]:
        """The executed cells, the running one last; each id and each text once, where it was executed last."""
        history = shell.history_manager.input_hist_parsed
        last = {cell_id: number for number, cell_id in self._ids.items() if cell_id}
        replaced = {number for number, cell_id in self._ids.items() if last.get(cell_id, number) != number}
        return newest(source.rstrip("\n") for number, source in enumerate(history) if source and number not in replaced)


def _transformed(shell: Any, source: str) -> str:
    """The source as it is compiled; only magics make a difference."""
    return str(shell.transform_cell(source) if set("%!?") & set(source) else source).rstrip("\n")


def _user_frames(frame: FrameType | None) -> list[tuple[CodeType, int]]:
    """The user's code that leads to a frame, the innermost first."""
    frames: list[tuple[CodeType, int]] = []
    for _ in range(MOST_FRAMES):
        if frame is None:
            break
        if not _LIBRARY.search(frame.f_code.co_filename):
            frames.append((frame.f_code, frame.f_lineno))
            if frame.f_code.co_name == "<module>":
                break
        frame = frame.f_back
    return frames


def _shell() -> Any:
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return shell if getattr(shell, "history_manager", None) is not None else None
