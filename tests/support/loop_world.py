"""A run without a sidecar: attempts that start from what a killed one left, and all rows that were ever saved."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from types import FrameType
from typing import Any

from qcity_nb import crashpoints
from qcity_nb.checkpoint.engine import Engine
from qcity_nb.checkpoint.storage.local_tier import LocalTier
from qcity_nb.kernel import loop
from qcity_nb.kernel.changes.loop_code import LoopCodeReader
from qcity_nb.kernel.ipython_hooks import cell_key
from qcity_nb.kernel.save_policy import Every
from qcity_nb.kernel.session import Session
from qcity_nb.records import Row
from qcity_nb.run.mailbox import Mailbox, Status
from qcity_nb.tracking.outbox import decode_rows


class Killed(BaseException):
    """This attempt's process died here."""


class Inline(Executor):
    """Writes in the caller's own thread, so that the n-th crash point is the same one in each replay."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - told by the future, as a thread's would be
            future.set_exception(error)
        return future


class World:
    """One run below ``path``; ``start`` begins the next attempt."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.term = 0
        self.session: Session
        self.seq = 0
        self.code: dict[str, Any] = {}
        """The code of the loops that begin (``cells.loop_sources``)."""

    def tier(self, term: int) -> Path:
        return self.path / str(term)

    def start(self, **options: Any) -> Session:
        """The next attempt, as the sidecar prepares it (sidecar/restore.py); ``options`` go to its session."""
        self.term += 1
        folder = self.tier(self.term)
        folder.mkdir(parents=True)
        frozen = self.path / f"{self.term - 1}.frozen"
        past = LocalTier(frozen if frozen.exists() else self.tier(self.term - 1), term=self.term - 1)
        newest = past.newest(deep=True)
        if newest is not None:
            tier = LocalTier(folder, term=self.term)
            rows = {seq: past.rows(seq) for seq in range(1, newest.seq + 1)}
            with past.open_reader(newest) as read:
                tier.import_from(newest, read, rows)
            self.seq = newest.seq
        (folder / "seq").write_text(str(self.seq))
        mailbox = Mailbox(self.path / f"desk-{self.term}").open()
        self.show(mailbox)
        self.session = Session(mailbox, mailbox.status(), **options)
        self.session.loop_edits.reader = ScriptedCode(self)
        self.session.engine = Engine(self.session.tier, writer=Inline())
        return self.session

    def show(self, mailbox: Mailbox | None = None, **changes: Any) -> None:
        """What the sidecar reports, from now on."""
        status: dict[str, Any] = {"state": "held", "run": "r", "term": self.term, "pid": os.getpid()}
        (mailbox or self.session.sidecar.mailbox).write_status(
            Status(**{**status, "tier": str(self.tier(self.term)), **changes})
        )
        if mailbox is None:
            self.session.sidecar.look(now=True)

    def freeze(self) -> None:
        """The disk as it is at this moment is what the next attempt finds, whatever this one still does."""
        shutil.copytree(self.tier(self.term), self.path / f"{self.term}.frozen")

    def cell(self, cell_id: str | None = "c", source: str = "…") -> None:
        """A cell begins."""
        self.session.start_cell(cell_key(cell_id, source))

    def end(self, *, ok: bool = True) -> None:
        """The cell ends."""
        self.session.end_cell(ok=ok)

    def loop(
        self, items: Iterable[Any], state: object = None, every: Every = 1, name: str | None = None, **options: Any
    ) -> Iterator[Any]:
        """``city.loop``."""
        return loop.begin(self.session, items, state, loop.LoopOptions(every=every, name=name, **options))

    def log(self, *, step: int | None = None, **metrics: Any) -> None:
        """``city.log``."""
        self.session.log(metrics, step)

    def rows(self) -> list[Row]:
        """What the sidecar would have published: the rows of each checkpoint up to the newest, in order."""
        tier = LocalTier(self.tier(self.term), term=self.term)
        newest = tier.newest()
        upto = newest.seq if newest is not None else 0
        return [row for seq in range(1, upto + 1) for row in decode_rows(tier.rows(seq))]


class ScriptedCode(LoopCodeReader):
    """The code of a loop, as a test says; none by default."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def read(self, frame: FrameType | None) -> dict[str, Any]:
        """What the world's ``code`` is."""
        return dict(self._world.code)


class Reaper:
    """Kills ``world``'s attempt at chosen hits, counted over crash points and ``tick`` calls."""

    def __init__(self, world: World, at: Iterable[int]) -> None:
        self.world = world
        self.at = set(at)
        self.hits = 0
        self.is_dead = False

    def tick(self, _: str = "") -> None:
        self.hits += 1
        if self.hits in self.at:
            self.world.freeze()
            self.is_dead = True
        if self.is_dead and not _is_closing():
            crashpoints.arm(None)
            raise Killed

    def arm(self) -> None:
        crashpoints.arm(self.tick)


def _is_closing() -> bool:
    """Nothing can be raised while a loop's iterator is being closed: Python would swallow it."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code is Session.leave.__code__:
            return True
        frame = frame.f_back
    return False
