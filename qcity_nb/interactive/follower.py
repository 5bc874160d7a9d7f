"""Follows the cells of one kernel: which are passed over, what comes back for those that are not, what is recorded."""

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
from qcity_nb.interactive.history import BEFORE, LOOKS, ONCE, Past, before
from qcity_nb.interactive.restore import RESULTS, Bringer, results_by
from qcity_nb.kernel.engine_requests import begin_once, cells_of, commit, note_executed, where
from qcity_nb.kernel.interrupt import uninterrupted
from qcity_nb.kernel.output_recorder import PANEL_MIME, WIDGET_MIME
from qcity_nb.kernel.rerun_magics import rerun
from qcity_nb.kernel.session import Session
from qcity_nb.kernel.snapshot_budget import describe_postponed

__all__ = ["Follower"]


@dataclass
class _Flight:
    """A cell that runs."""

    source: str
    number: int
    is_read_only: bool = False
    place: int | None = None
    """It has finished in an earlier kernel, and runs again here."""
    began_s: float = 0.0
    tags: frozenset[str] = frozenset()


class Follower:
    """Follows the cells of one shell for one session.

    Args:
        records: the cells that have finished in earlier kernels.
        say: shows one line below the cell.
    """

    def __init__(self, shell: Any, session: Session, records: Sequence[CellRecord], say: Callable[[str], None]) -> None:
        self._shell = shell
        self._session = session
        self._say = say
        self._before = before(shell.history_manager.input_hist_raw)
        self.past = Past(records, self._before)
        self._given = settings.load()
        self._begin_finished_cells(records if self.past.records else ())
        self._is_first = True
        """No cell of this kernel is recorded yet."""
        self._is_live = False
        """What earlier kernels recorded is behind us."""
        self._have = 0
        """The variables are as so many records left them …"""
        self._is_dirty = False
        """… but for what a failed cell did to them since."""
        self._tagged: set[int] = set()
        """Finished cells that run again once the variables are back: their tag says so."""
        self._numbers: list[int] = []
        self._keys: dict[int, str] = {}
        """Of the records that are behind us: their numbers here, and what the session calls the cells."""
        self._on_interrupt: Any = None
        self._flight: _Flight | None = None
        self.is_rerunning = False
        """A cell runs below another that comes."""
        self.skips = False
        """The cell that comes is passed over."""
        self.refused = ""
        """Why the cell that comes must not run."""

    def _begin_finished_cells(self, records: Sequence[CellRecord]) -> None:
        self._session.finished_cells = self.finished_cells = cells_of(self._session, self._shell, self._given, records)
        self._bringer = Bringer(self._shell, self.finished_cells)

    # -- a cell comes

    def clear(self, *, refused: str = "") -> None:
        """No cell comes, and none runs; or the one that comes is refused."""
        self._flight, self.skips, self.refused = None, False, refused

    def decide(self, source: str, on_interrupt: Any) -> None:
        """A cell comes. ``skips`` and ``refused`` say what becomes of it.

        Args:
            on_interrupt: handles the signal while cells run for it that have run before.
        """
        self._on_interrupt = on_interrupt
        past, number, tags = self.past, self._shell.displayhook.prompt_count, _tags(self._shell)
        if said := check_tags(tags):
            self._say(said)
        place = past.find(source)
        if place is not None:
            if is_rerun(tags):
                self._tagged.add(place)
            known = past.records[place]
            if installs(source) and known.extra.get("where") != where():
                self._flight = _Flight(source, number, place=place, began_s=time.monotonic())
            else:
                self._pass(place, source, number)
            return
        if not self._bring():
            return
        if is_once(tags) and not self._may_begin(source):
            return
        is_look = not tags and is_read_only(source, self._shell.user_ns)
        self._session.recorder.is_whole = past.is_over or not is_look
        self._flight = _Flight(source, number, is_read_only=is_look, began_s=time.monotonic(), tags=tags)

    def _may_begin(self, source: str) -> bool:
        """A cell that must not run twice comes. If nobody knows whether it has done its work, it is refused."""
        (mark,) = chain([source])
        if began := self._session.once.get(mark):
            self.refused = (
                f"this cell must not run twice (qcity-once), and began {began}: look whether it has done its work;"
                " if so, go on with the next cell; if not, take the tag away and run it"
            )
            return False
        begin_once(self._session, mark)
        return True

    def _behind(self, place: int, source: str, number: int) -> None:
        self.past.skip(place, source)
        self._count(place, number)
        self._keys[place] = self._session.metric_log.scopes[0].key

    def _count(self, place: int, number: int) -> None:
        del self._numbers[place:]
        self._numbers += [0] * (place - len(self._numbers)) + [number]

    def _pass(self, place: int, source: str, number: int) -> None:
        self._behind(place, source, number)
        record = self.past.records[place]
        reran: list[int] = []
        if self.past.is_over and not self._bring(reran):
            return
        self.skips = True
        if place in reran:
            return
        shown, unread = b"", ""
        if record.outputs and (manifest := self._session.manifest) is not None:
            try:
                shown = self._session.tier.read(manifest, record.outputs)
            except QcityError as error:
                unread = f"what it showed cannot be read: {error}"
        shown, had_widgets = _without_widgets(shown)
        then = "run again, it runs for real"
        if place in self._tagged:
            then = "qcity-rerun: it runs again once the variables are back"
        elif had_widgets:
            then = "its widgets are not live: run it again for them"
        self._say(f"finished in an earlier kernel (took {record.wall_s:.1f} s); {then}")
        if unread:
            self._say(unread)
        if shown:
            self._session.recorder.replay(shown)

    # -- variables come back

    def _bring(self, reran: list[int] | None = None) -> bool:
        """Let the variables be what the cells that are behind us left.

        Args:
            reran: gets the places of cells that had to run for it.
        Returns: whether the cell that comes may run on them; else it is refused, and why is noted.
        """
        past = self.past
        count, missing = past.upto()
        if self._have == past.at:
            return True
        if self._is_dirty:
            self._have, self._is_dirty = 0, False
        began_s = time.monotonic()
        tagged: list[int] = []
        if count > self._have:
            try:
                said = self._restore(count)
            except Exception as error:  # noqa: BLE001 - whatever objects raise when they are made
                self._say(f"the variables did not come back ({type(error).__name__}: {error}): the cells run again")
                missing = [n for n in range(self._have, past.at) if past.sources[n]]
                past.leave()
                self._begin_finished_cells([replace(one, namespace=None) for one in past.records])
            else:
                text = f"variables are back as [{self._numbers[count - 1]}] left them"
                self._say("; ".join([f"{text} ({time.monotonic() - began_s:.1f} s)", *said]))
                tagged = sorted(n for n in self._tagged if n < count)
        missing = [n for n in missing if n >= self._have]
        for why, places in (("tagged qcity-rerun:", tagged), ("no snapshot behind", missing)):
            if places:
                self._say(f"{why} {_numbers(self._numbers[n] for n in places)}: run again here")
        for n in (*tagged, *missing):
            if not self._rerun(n):
                past.back(n)
                self.finished_cells.records = list(past.records)
                self._have = n
                return False
            if reran is not None:
                reran.append(n)
        self._have = past.at
        return True

    def _restore(self, count: int) -> list[str]:
        session, past = self._session, self.past
        assert session.manifest is not None
        with uninterrupted():
            read = session.tier.reader(session.manifest)
            said = self._bringer.bring(past.records[:count], read, self._numbers[:count], past.sources[:count])
            said += rerun(self._shell, past.sources[:count])
            said += (
                self.finished_cells.process_settings.finish_restore()
            )  # what was set last holds, whether by a magic or by a call
            self._have = count
        session.sidecar.note("cells", passed=count, said=said)
        return said

    def _rerun(self, place: int) -> bool:
        """Run a finished cell under its number, below the cell that comes."""
        shell, session, source = self._shell, self._session, self.past.sources[place]
        number = self._numbers[place]
        if self.past.records[place].extra.get(ONCE):
            self.refused = f"[{number}] would have to run again first, and must not run twice (qcity-once)"
            return False
        if _awaits(shell.transform_cell(source)):
            self.refused = f"[{number}] has to run again first, and awaits something: run it, then this cell"
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
        except KeyboardInterrupt:  # it came just before the cell, or just behind it
            pass
        finally:
            signal.signal(signal.SIGINT, held)
            self.is_rerunning = False
            shell.execution_count = count
            session.end_cell(ok=is_well)
            session.start_cell(key)
        if not is_well:
            self.refused = f"[{number}] has to run again first, and did not end well: run it, then this cell"
        return is_well

    # -- a cell has ended well

    def finish_cell(self) -> None:
        """The cell that ran has ended well."""
        flight, self._flight = self._flight, None
        if flight is None:
            return
        wall_s = time.monotonic() - flight.began_s
        past, session, finished_cells = self.past, self._session, self.finished_cells
        if flight.place is not None:  # it was run before already: this machine has what it installs, too
            self._behind(flight.place, flight.source, flight.number)
            old = finished_cells.records[flight.place]
            finished_cells.records[flight.place] = replace(old, extra={**old.extra, "where": where()})
            session.finish_save()
            session.save("cell")
            return
        if not past.is_over and flight.is_read_only:
            past.ran(flight.source, is_read_only=True)
            return
        self._go_on_alone()
        mark, shown = past.chain(flight.source), session.recorder.whole()
        is_known = any(one.chain == mark for one in finished_cells.records)
        past.ran(flight.source, is_read_only=flight.is_read_only)  # whatever becomes of its record
        if flight.is_read_only and (is_known or not shown):
            return
        session.finish_save()
        place = len(finished_cells.records)
        self._count(place, flight.number)
        places = {number: n for n, number in enumerate(self._numbers) if number}
        extra = {
            "where": where(),
            "loops": session.entered - finished_cells.entered,
            RESULTS: results_by(self._shell.user_ns, places),
            **({BEFORE: self._before} if self._is_first else {}),
            **({LOOKS: True} if flight.is_read_only else {}),
            **({ONCE: True} if is_once(flight.tags) else {}),
        }
        self._is_first = False
        finished_cells.entered = session.entered
        record = CellRecord(chain=mark, number=flight.number, wall_s=round(wall_s, 3), extra=extra)
        finished_cells.add_finished(place, record, {place: shown})
        if flight.is_read_only:
            return
        may, must = not skips_snapshot(flight.tags), is_once(flight.tags)
        if needs_s := commit(session, finished_cells, wall_s, may=may, must=must):
            session.sidecar.note("postponed", message=describe_postponed(needs_s))

    def fail_cell(self) -> None:
        """The cell that ran has failed: it does not count, but it may have changed variables."""
        self._is_dirty = self._flight is not None

    def _go_on_alone(self) -> None:
        """This kernel is behind all that earlier ones recorded, or goes another way."""
        if not self._is_live:
            self.past.leave()
            del self.finished_cells.records[self.past.at :]
            self.finished_cells.mark_saved(
                self.finished_cells.records
            )  # what snapshots hold that are gone now is to be written again
            self._is_live = True


def _tags(shell: Any) -> frozenset[str]:
    """Our tags of the cell that comes, where the front end sends them (JupyterLab and Notebook do)."""
    parent = shell.kernel.get_parent() if hasattr(shell.kernel, "get_parent") else {}
    found = (parent.get("metadata") or {}).get("tags")
    given = [tag for tag in found if isinstance(tag, str)] if isinstance(found, list) else []
    return frozenset(tag for tag in given if tag.lower().startswith("qcity"))


def _without_widgets(content: bytes) -> tuple[bytes, bool]:
    """What a cell showed, with the texts of widgets in place of those: they ask a kernel that is gone.

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
    """Does it await outside of a function? Such a cell cannot run inside another's."""
    try:
        code = compile(source, "<cell>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except (SyntaxError, ValueError):
        return False
    return bool(code.co_flags & inspect.CO_COROUTINE)


def _numbers(numbers: Iterable[int]) -> str:
    return ", ".join(f"[{number}]" for number in numbers)
