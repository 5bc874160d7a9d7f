"""A kernel's variables and finished cells, saved in a local tier by the real engine, without a kernel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from qcity_nb.checkpoint.engine import Engine
from qcity_nb.checkpoint.storage.local_tier import LocalTier
from qcity_nb.checkpoint.storage.manifest import CellRecord, LoopRecord, Manifest
from qcity_nb.clock import iso_now
from qcity_nb.kernel.finished_cells import FinishedCells
from qcity_nb.namespace.environment.process import ProcessSettings
from qcity_nb.namespace.snapshot import NamespaceSnapshotter


class Kernel:
    """A namespace, and a tier that its cells are saved in.

    Args:
        folder: the project's directory.
        tier: that of the run ``run``; by default one of its own.
    """

    def __init__(self, folder: Path, tier: LocalTier | None = None, run: str = "r") -> None:
        self.live: dict[str, Any] = {}
        self.root = folder
        self.run = run
        self.tier = tier or LocalTier(folder / "tier", term=1)
        self.engine = Engine(self.tier)
        self.cells = FinishedCells(NamespaceSnapshotter(self.live, self.engine.freezer), ProcessSettings(folder))
        self.seq = 0
        self.manifest: Manifest | None = None
        self.kept_loops: tuple[LoopRecord, ...] = ()
        """Loops that have finished: each checkpoint has them."""

    def cell(self, *, shown: dict[int, bytes] | None = None, snapshot: bool = True, wall_s: float = 0.0) -> int:
        """A cell has ended; returns the bytes that were written for it."""
        position = len(self.cells.records)
        record = CellRecord(chain=f"c{position}", number=position + 1, wall_s=wall_s)
        self.cells.add_finished(position, record, shown or {})
        if snapshot:
            self.cells.take_snapshot(stored=self.tier.stored)
        return self.save()

    def save(self) -> int:
        snapshot = self.cells.snapshot()
        self.seq += 1
        base = Manifest(run=self.run, term=1, seq=self.seq, at=iso_now(), loops=self.kept_loops)

        def write() -> Any:
            objects: dict[str, Any] = {}
            return replace(base, cells=snapshot.record(objects)), objects, b""

        saving = self.engine.submit(write, snapshot.used)
        self.manifest = saving.wait()
        self.cells.mark_saved(self.manifest.cells)
        return saving.new_bytes

    def again(self, count: int) -> tuple[dict[str, Any], list[str]]:
        """The namespace of another kernel after ``count`` cells."""
        assert self.manifest is not None
        live: dict[str, Any] = {}
        other = FinishedCells(NamespaceSnapshotter(live), ProcessSettings(self.root), self.manifest.cells)
        with self.tier.open_reader(self.manifest) as read:
            messages = other.restore(count, read)
        assert len(other.records) == count
        return {name: value for name, value in live.items() if not name.startswith("__")}, messages
