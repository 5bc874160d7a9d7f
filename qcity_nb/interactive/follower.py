"""Follows the cells of one kernel: which are skipped, what is restored for the others, what is recorded."""

from __future__ import annotations

import ast
import inspect
import json
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qcity_nb import settings
from qcity_nb.cells.read_only import is_read_only
from qcity_nb.cells.source_chain import chain
from qcity_nb.cells.tags import check_tags, installs, is_once, is_rerun, skips_snapshot
from qcity_nb.checkpoint.storage.manifest import CellRecord
from qcity_nb.errors import QcityError
from qcity_nb.interactive.history import BEFORE, ONCE, READ_ONLY, History, hash_earlier_cells
from qcity_nb.interactive.restore import RESULTS, SnapshotRestorer, map_results
from qcity_nb.kernel.engine_requests import begin_once, cells_of, commit, machine_id, note_executed
from qcity_nb.kernel.interrupt import uninterrupted
from qcity_nb.kernel.output_recorder import PANEL_MIME, WIDGET_MIME
from qcity_nb.kernel.rerun_magics import rerun
from qcity_nb.kernel.session import Session
from qcity_nb.kernel.snapshot_budget import describe_postponed

__all__ = ["Follower"]


@dataclass
class _RunningCell:
    """The running cell."""

    source: str
    number: int
    is_read_only: bool = False
    place: int | None = None
    """Its index among the records, if it finished in an earlier kernel and is re-run here."""
    began_s: float = 0.0
    tags: frozenset[str] = frozenset()


class Follower:
    """Follows the cells of one shell for one session.

    Args:
        records: the cells that finished in earlier kernels.
        say: shows one line below the cell.
    """

    def __init__(self, shell: Any, session: Session, records: Sequence[CellRecord], say: Callable[[str], None]) -> None:
        self._shell = shell
        self._session = session
        self._say = say
        self._before = hash_earlier_cells(shell.history_manager.input_hist_raw)
        self.history = History(records, self._before)
        self._settings = settings.load()
        self._begin_finished_cells(records if self.history.records else ())
        self._is_first = True
        """No cell of this kernel is recorded yet."""
        self._has_own_records = False
        """The records of earlier kernels no longer apply: from here on this kernel makes its own."""
        self._restored_count = 0
        """The variables are as this many records left them …"""
        self._is_dirty = False
        """… except for what a failed cell has changed since."""
        self._tagged: set[int] = set()
        """Finished cells with a tag that says to re-run them once the variables are restored."""
        self._numbers: list[int] = []
        self._keys: dict[int, str] = {}
        """For the skipped records: their execution counts here, and the session's keys of the cells."""
        self._on_interrupt: Any = None
        self._running: _RunningCell | None = None
        self.is_rerunning = False
        """A finished cell is being re-run, before the cell that is to run."""
        self.skips = False
        """The cell that is to run is skipped."""
        self.refused = ""
        """Why the cell that is to run is refused."""

    def _begin_finished_cells(self, records: Sequence[CellRecord]) -> None:
        self._session.finished_cells = self.finished_cells = cells_of(
            self._session, self._shell, self._settings, records
        )
        self._restorer = SnapshotRestorer(self._shell, self.finished_cells)

    # -- before a cell

    def clear(self, *, refused: str = "") -> None:
        """No cell is to run; or the one that is to run is refused."""
        self._running, self.skips, self.refused = None, False, refused

    def decide(self, source: str, on_interrupt: Any) -> None:
        """Decide about a cell that is to run: sets ``skips`` and ``refused``.

        Args:
            on_interrupt: the signal's handler while finished cells are re-run before it.
        """
        self._on_interrupt = on_interrupt
        history, number, tags = self.history, self._shell.displayhook.prompt_count, _tags(self._shell)
        if problem := check_tags(tags):
            self._say(problem)
        place = history.find(source)
        if place is not None:
            if is_rerun(tags):
                self._tagged.add(place)
            known = history.records[place]
            if installs(source) and known.extra.get("machine") != machine_id():
                self._running = _RunningCell(source, number, place=place, began_s=time.monotonic())
            else:
                self._skip(place, source, number)
            return
        if not self._restore_variables():
            return
        if is_once(tags) and not self._may_begin(source):
            return
        is_look = not tags and is_read_only(source, self._shell.user_ns)
        self._session.recorder.records_cell = history.is_over or not is_look
        self._running = _RunningCell(source, number, is_read_only=is_look, began_s=time.monotonic(), tags=tags)

    def _may_begin(self, source: str) -> bool:
        """May a cell that must not run twice begin? It is refused if it is not known whether it has done its work."""
        (link,) = chain([source])
        if began := self._session.once.get(link):
            self.refused = (
                f"this cell must not run twice (qcity-once), and began {began}: check whether it has done its work;"
                " if so, continue with the next cell; if not, remove the tag and run it"
            )
            return False
        begin_once(self._session, link)
        return True

    def _note_skipped(self, place: int, source: str, number: int) -> None:
        self.history.skip(place, source)
        self._count(place, number)
        self._keys[place] = self._session.metric_log.scopes[0].key

    def _count(self, place: int, number: int) -> None:
        del self._numbers[place:]
        self._numbers += [0] * (place - len(self._numbers)) + [number]

    def _skip(self, place: int, source: str, number: int) -> None:
        self._note_skipped(place, source, number)
        record = self.history.records[place]
        reran: list[int] = []
        if self.history.is_over and not self._restore_variables(reran):
            return
        self.skips = True
        if place in reran:
            return
        shown, unread = b"", ""
        if record.outputs and (manifest := self._session.manifest) is not None:
            try:
                shown = self._session.tier.read(manifest, record.outputs)
            except QcityError as error:
                unread = f"its output cannot be read: {error}"
        shown, had_widgets = _without_widgets(shown)
        then = "run it again to execute it"
        if place in self._tagged:
            then = "qcity-rerun: it is re-run once the variables are restored"
        elif had_widgets:
            then = "its widgets are not live: run it again to get live ones"
        self._say(f"finished in an earlier kernel (took {record.wall_s:.1f} s); {then}")
        if unread:
            self._say(unread)
        if shown:
            self._session.recorder.replay(shown)

    # -- restoring variables

    def _restore_variables(self, reran: list[int] | None = None) -> bool:
        """Restore the variables as the skipped cells left them.

        Args:
            reran: gets the indexes of cells that had to be re-run for it.
        Returns: whether the cell may run now; if not, ``refused`` says why.
        """
        history = self.history
        count, missing = history.find_snapshot()
        if self._restored_count == history.at:
            return True
        if self._is_dirty:
            self._restored_count, self._is_dirty = 0, False
        began_s = time.monotonic()
        tagged: list[int] = []
        if count > self._restored_count:
            try:
                notes = self._restore_snapshot(count)
            except Exception as error:  # noqa: BLE001 - objects may raise anything when they are unpickled
                self._say(
                    f"the variables could not be restored ({type(error).__name__}: {error}): the cells are re-run"
                )
                missing = [n for n in range(self._restored_count, history.at) if history.sources[n]]
                history.leave()
                self._begin_finished_cells([replace(record, namespace=None) for record in history.records])
            else:
                text = f"variables restored as [{self._numbers[count - 1]}] left them"
                self._say("; ".join([f"{text} ({time.monotonic() - began_s:.1f} s)", *notes]))
                tagged = sorted(n for n in self._tagged if n < count)
        missing = [n for n in missing if n >= self._restored_count]
        for why, places in (("tagged qcity-rerun:", tagged), ("no snapshot after", missing)):
            if places:
                self._say(f"{why} {_numbers(self._numbers[n] for n in places)}: re-run here")
        for n in (*tagged, *missing):
            if not self._rerun(n):
                history.go_back(n)
                self.finished_cells.records = list(history.records)
                self._restored_count = n
                return False
            if reran is not None:
                reran.append(n)
        self._restored_count = history.at
        return True

    def _restore_snapshot(self, count: int) -> list[str]:
        session, history = self._session, self.history
        assert session.manifest is not None
        with uninterrupted():
            read = session.tier.reader(session.manifest)
            notes = self._restorer.restore(
                history.records[:count], read, self._numbers[:count], history.sources[:count]
            )
            notes += rerun(self._shell, history.sources[:count])
            # The last change wins, made by a magic or by a call.
            notes += self.finished_cells.process_settings.finish_restore()
            self._restored_count = count
        session.sidecar.note("cells", skipped=count, notes=notes)
        return notes

    def _rerun(self, place: int) -> bool:
        """Re-run a finished cell under its number; its output appears below the cell that is to run."""
        shell, session, source = self._shell, self._session, self.history.sources[place]
        number = self._numbers[place]
        if self.history.records[place].extra.get(ONCE):
            self.refused = f"[{number}] would have to be re-run first, and must not run twice (qcity-once)"
            return False
        if _awaits(shell.transform_cell(source)):
            self.refused = f"[{number}] has to be re-run first, and uses await: run it, then this cell"
            return False
        count, key = shell.execution_count, session.metric_log.scopes[0].key
        shell.execution_count += number - shell.displayhook.prompt_count
        self.is_rerunning = True
        session.start_cell(self._keys[place])
        is_well = False
        held = signal.getsignal(signal.SIGINT)
        try:
            note_executed(self.finished_cells, shell, None)
            signal.signal(signal.SIGINT, self._on_interrupt)
            is_well = bool(shell.run_cell(source, store_history=False).success)
        except KeyboardInterrupt:  # it came just before or just after the cell
            pass
        finally:
            signal.signal(signal.SIGINT, held)
            self.is_rerunning = False
            shell.execution_count = count
            session.end_cell(ok=is_well)
            session.start_cell(key)
        if not is_well:
            self.refused = f"[{number}] has to be re-run first, and failed: run it, then this cell"
        return is_well

    # -- after a cell

    def finish_cell(self) -> None:
        """Record the cell that ran, which ended without an error."""
        running, self._running = self._running, None
        if running is None:
            return
        wall_s = time.monotonic() - running.began_s
        history, session, finished_cells = self.history, self._session, self.finished_cells
        if running.place is not None:  # a re-run cell: now this machine has what it installs
            self._note_skipped(running.place, running.source, running.number)
            old = finished_cells.records[running.place]
            finished_cells.records[running.place] = replace(old, extra={**old.extra, "machine": machine_id()})
            session.finish_save()
            session.save("cell")
            return
        if not history.is_over and running.is_read_only:
            history.add_run(running.source, is_read_only=True)
            return
        self._start_own_records()
        link, shown = history.chain(running.source), session.recorder.cell_outputs()
        is_known = any(other.chain == link for other in finished_cells.records)
        history.add_run(running.source, is_read_only=running.is_read_only)  # also if its record is not kept
        if running.is_read_only and (is_known or not shown):
            return
        session.finish_save()
        place = len(finished_cells.records)
        self._count(place, running.number)
        places = {number: n for n, number in enumerate(self._numbers) if number}
        extra = {
            "machine": machine_id(),
            "loops": session.entered - finished_cells.entered,
            RESULTS: map_results(self._shell.user_ns, places),
            **({BEFORE: self._before} if self._is_first else {}),
            **({READ_ONLY: True} if running.is_read_only else {}),
            **({ONCE: True} if is_once(running.tags) else {}),
        }
        self._is_first = False
        finished_cells.entered = session.entered
        record = CellRecord(chain=link, number=running.number, wall_s=round(wall_s, 3), extra=extra)
        finished_cells.add_finished(place, record, {place: shown})
        if running.is_read_only:
            return
        may, must = not skips_snapshot(running.tags), is_once(running.tags)
        if needs_s := commit(session, finished_cells, wall_s, may=may, must=must):
            session.sidecar.note("postponed", message=describe_postponed(needs_s))

    def fail_cell(self) -> None:
        """Note that the cell failed: it does not count, but it may have changed variables."""
        self._is_dirty = self._running is not None

    def _start_own_records(self) -> None:
        """Start this kernel's own records: those of earlier kernels have ended, or no longer match."""
        if not self._has_own_records:
            self.history.leave()
            del self.finished_cells.records[self.history.at :]
            # Variables that only the dropped snapshots hold are to be written again.
            self.finished_cells.mark_saved(self.finished_cells.records)
            self._has_own_records = True


def _tags(shell: Any) -> frozenset[str]:
    """The qcity tags of the cell that is to run, if the front end sends tags (JupyterLab and Notebook do)."""
    parent = shell.kernel.get_parent() if hasattr(shell.kernel, "get_parent") else {}
    sent = (parent.get("metadata") or {}).get("tags")
    names = [tag for tag in sent if isinstance(tag, str)] if isinstance(sent, list) else []
    return frozenset(tag for tag in names if tag.lower().startswith("qcity"))


def _without_widgets(content: bytes) -> tuple[bytes, bool]:
    """A cell's output, with the text of widgets instead of the widgets, whose kernel is gone.

    Returns: the outputs, and whether there were widgets other than the panel's buttons.
    """
    if not content:
        return b"", False
    outputs, had_widgets = json.loads(content), False
    for output in outputs:
        data = output.get("content", {}).get("data", {})
        if len(data) > 1 and data.pop(WIDGET_MIME, None) is not None:
            had_widgets |= PANEL_MIME not in data
    return json.dumps(outputs).encode(), had_widgets


def _awaits(source: str) -> bool:
    """Does it await outside of a function? Such a cell cannot run inside another one."""
    try:
        code = compile(source, "<cell>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except (SyntaxError, ValueError):
        return False
    return bool(code.co_flags & inspect.CO_COROUTINE)


def _numbers(numbers: Iterable[int]) -> str:
    return ", ".join(f"[{number}]" for number in numbers)
