"""The finished cells of a notebook, in the kernel: their outputs, and the variables as they left them.

The engine says when a cell has finished. Its record is part of the next checkpoint, like a loop's. A new kernel reads
the records, and the engine skips the cells that they cover.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from qcity_nb import codec
from qcity_nb.checkpoint.digest import name_of
from qcity_nb.checkpoint.encode import decode_state, encode_state
from qcity_nb.checkpoint.engine import UsedMemory
from qcity_nb.checkpoint.state import freezer
from qcity_nb.checkpoint.state.capture import Captured, capture_generators, restore_generators
from qcity_nb.checkpoint.state.frozen_buffer import Read
from qcity_nb.checkpoint.storage.manifest import CellRecord, Encoded, GroupRecord, NamespaceRecord, ObjectRef
from qcity_nb.errors import CheckpointError
from qcity_nb.kernel.snapshot_budget import SnapshotBudget
from qcity_nb.namespace.environment.process import ProcessSettings, Surroundings
from qcity_nb.namespace.pickler import Overdue
from qcity_nb.namespace.reachability import Reach
from qcity_nb.namespace.records import Group, NamespaceSnapshot, NotSaved
from qcity_nb.namespace.snapshot import NamespaceSnapshotter

__all__ = ["CellSnapshot", "FinishedCells", "fold", "groups_of", "objects_of", "size_of", "trim"]

SLOW_S = 0.5
"""A variable that took longer to pickle is not pickled again if no code can have reached it …"""
LOOK_EVERY = 8
"""… except in every eighth snapshot, which pickles all."""
RETRY_FACTOR = 2.0
"""A snapshot that ran out of time is tried again when this many times its limit is available."""
NAMES_CELLS = 64
"""Records of later cells do not list all variables, but those that are gone."""
HISTORY_BYTES = 256 << 20
HISTORY_SHARE = 2.0
"""Older snapshots may need this many bytes beside the newest one, or this many times its size if that is more."""


@dataclass(frozen=True, slots=True)
class CellSnapshot:
    """The cells as the next checkpoint records them. Frozen: the next cell may run while it is written."""

    records: tuple[CellRecord, ...]
    shown: Mapping[str, bytes]
    snapshot: NamespaceSnapshot | None = None
    generators: Captured | None = None
    namespace: NamespaceRecord = field(default_factory=NamespaceRecord)
    known: Mapping[tuple[str, ...], GroupRecord] = field(default_factory=dict)
    """The groups of the newest saved record."""

    @property
    def used(self) -> list[UsedMemory]:
        """The memory that is free again once the checkpoint is written."""
        return [] if self.snapshot is None else [_Memory(self.snapshot)]

    def record(self, objects: dict[str, Any]) -> tuple[CellRecord, ...]:
        """The records for a manifest; their content goes into ``objects``. This hashes, so not in a cell's time."""
        objects.update(self.shown)
        if self.snapshot is None:
            return self.records
        assert self.generators is not None
        groups = [_record_group(group, objects) for group in self.snapshot.groups]
        names = {name for group in self.snapshot.groups for name in group.names}
        names |= {name for kept in self.snapshot.kept for name in kept}
        is_short = len(self.records) > NAMES_CELLS
        gone = sorted({name for known in self.known for name in known} - names) if is_short else None
        namespace = replace(
            self.namespace,
            groups=tuple(group for group in groups if self._is_new(group)),
            names=() if is_short else tuple(sorted(names)),
            gone=None if gone is None else tuple(gone),
            generators=_encode(self.generators, objects),
        )
        return (*self.records[:-1], replace(self.records[-1], namespace=namespace))

    def _is_new(self, group: GroupRecord) -> bool:
        known = self.known.get(group.names)
        return known is None or known.state != group.state  # the pickling time differs always, so it is not compared


@dataclass(frozen=True, slots=True)
class _Memory:
    """The memory of a snapshot, which all its groups share."""

    _snapshot: NamespaceSnapshot

    @property
    def buffer(self) -> freezer.CaptureBuffer | None:
        return next((group.captured.buffer for group in self._snapshot.groups), None)

    def release(self) -> None:
        self._snapshot.release()


def _record_group(group: Group, objects: dict[str, Any]) -> GroupRecord:
    return GroupRecord(
        names=group.names,
        state=_encode(group.captured, objects),
        kinds=group.kinds,
        fresh=group.fresh,
        cost_s=round(group.cost_s, 6),
    )


def _encode(captured: Captured, objects: dict[str, Any]) -> Encoded:
    encoded, content = encode_state(captured)
    objects.update(content)
    return encoded


def fold(records: Iterable[CellRecord]) -> dict[tuple[str, ...], GroupRecord]:
    """The groups of variables as they are after the last of these records."""
    groups: dict[str, GroupRecord] = {}
    for record in records:
        if record.namespace is None:
            continue
        for group in record.namespace.groups:
            for old in [groups[name] for name in group.names if name in groups]:
                for name in old.names:
                    groups.pop(name, None)
            groups |= dict.fromkeys(group.names, group)
        if record.namespace.gone is None:
            there = set(record.namespace.names)
            groups = {name: group for name, group in groups.items() if name in there}
        for name in record.namespace.gone or ():
            groups.pop(name, None)
    return {group.names: group for group in groups.values()}


def trim(records: Sequence[CellRecord], stored: Mapping[str, ObjectRef]) -> list[CellRecord]:
    """The records without the oldest snapshots, if these need too much storage.

    Until then the variables before each cell are kept, so that an edited cell is re-run on what it started from.
    Without them the cells before it are re-run too, from the last one that has a snapshot.

    Args:
        stored: the objects of the newest checkpoint, by name.
    """
    kept = list(records)
    newest_bytes = size_of(objects_of(fold(kept).values()), stored)
    allowed_bytes = max(HISTORY_SHARE * newest_bytes, HISTORY_BYTES)
    with_snapshot = [place for place, record in enumerate(kept) if record.namespace is not None]
    for place, following in pairwise(with_snapshot):
        if size_of(objects_of(groups_of(kept)), stored) <= newest_bytes + allowed_bytes:
            break
        namespace = kept[following].namespace
        assert namespace is not None
        # The next snapshot takes over all groups that it does not replace.
        groups = tuple(fold(kept[: following + 1]).values())
        kept[place] = replace(kept[place], namespace=None)
        kept[following] = replace(kept[following], namespace=replace(namespace, groups=groups))
    return kept


def groups_of(records: Iterable[CellRecord]) -> Iterator[GroupRecord]:
    """All groups of these records, including those that later records replace."""
    for record in records:
        if record.namespace is not None:
            yield from record.namespace.groups


def objects_of(groups: Iterable[GroupRecord]) -> set[str]:
    """The names of the objects in these groups."""
    return {name for group in groups for part in (group.state.skeleton, *group.state.buffers) for name in part}


def size_of(names: Iterable[str], stored: Mapping[str, ObjectRef]) -> int:
    """The size of these objects in bytes."""
    return sum(stored[name].size_bytes for name in names if name in stored)


class FinishedCells:
    """The finished cells, in the notebook's order, and the snapshots after them."""

    def __init__(
        self,
        snapshotter: NamespaceSnapshotter,
        process_settings: ProcessSettings,
        records: Sequence[CellRecord] = (),
        budget: SnapshotBudget | None = None,
    ) -> None:
        self.snapshotter = snapshotter
        self.process_settings = process_settings
        self.budget = budget or SnapshotBudget(math.inf)
        self.records: list[CellRecord] = list(records)
        self.cost_s = 0.0
        """How long the newest snapshot stopped the notebook."""
        self.reach = Reach(snapshotter.live)
        """Is told of all code that runs."""
        self.entered = 0
        """How many loops had begun when the newest cell finished."""
        self._beside_s = 0.0
        """How long the newest snapshot took beside pickling, to compare and copy memory."""
        self._unseen = 0
        """Snapshots since the last one that pickled all variables."""
        self._known: dict[tuple[str, ...], GroupRecord] = {}
        self._shown: dict[str, bytes] = {}
        """Outputs that are in no checkpoint yet."""
        self._taken: tuple[NamespaceSnapshot, Captured, NamespaceRecord] | None = None

    # -- a cell has finished

    def add_finished(self, position: int, record: CellRecord, shown: Mapping[int, bytes]) -> None:
        """Add a finished cell.

        Args:
            position: its index among the code cells; all cells before it have finished.
            shown: the outputs that changed, by position: a later cell may change what an earlier one shows.
        """
        if position > len(self.records):
            raise CheckpointError(f"cell {position} has finished, but only {len(self.records)} before it have")
        if position < len(self.records):
            del self.records[position:]
            self._known = fold(self.records)  # what only the others hold is written again
        self.records.append(record)
        for place, content in shown.items():
            name = name_of(content) if content else ""
            self.records[place] = replace(self.records[place], outputs=name)
            if name:
                self._shown[name] = content

    def take_snapshot(self, *, stored: Mapping[str, ObjectRef], limit_s: float = math.inf) -> float:
        """Take a snapshot after the newest cell; the next checkpoint saves it.

        Args:
            stored: the objects of the newest checkpoint, by name.
            limit_s: how long it may take.
        Returns: 0; or, if none was taken, how long the next try should be allowed to take.
        """
        began_s = time.perf_counter()
        skip = self._find_untouched()
        # Unchanged groups are pickled too: only that shows that they are unchanged.
        known_s = sum(group.cost_s for group in self._known.values() if not skip.issuperset(group.names))
        known_s += self._beside_s
        if known_s > limit_s:
            return known_s
        self.records = trim(self.records, stored)
        try:
            snapshot = self.snapshotter.capture(stored=stored.keys(), skip=skip, may_stream=True, limit_s=limit_s)
        except Overdue:
            return RETRY_FACTOR * limit_s
        self._unseen = self._unseen + 1 if skip else 0
        if any(group.cost_s > SLOW_S for group in snapshot.groups):
            self.reach.clear()  # no code could reach what was kept before this snapshot either
        not_saved = tuple(codec.encode(variable) for variable in snapshot.not_saved)
        namespace = NamespaceRecord(
            modules=snapshot.modules, not_saved=not_saved, surroundings=codec.encode(self.process_settings.look())
        )
        generators = capture_generators()
        self.cost_s = time.perf_counter() - began_s
        self._beside_s = max(0.0, self.cost_s - sum(group.cost_s for group in snapshot.groups))
        self._taken = (snapshot, generators, replace(namespace, cost_s=round(self.cost_s, 6)))
        return 0.0

    def _find_untouched(self) -> frozenset[str]:
        """Costly variables that no code can have reached since the last snapshot."""
        slow = {name for group in self._known.values() if group.cost_s > SLOW_S for name in group.names}
        reached = self.reach.changed_names() if slow and self._unseen < LOOK_EVERY else None
        return frozenset() if reached is None else frozenset(slow - reached)

    # -- checkpoints

    def snapshot(self) -> CellSnapshot:
        """The cells for a checkpoint that is made now. It takes over the newest snapshot of the variables."""
        snapshot, generators, namespace = self._taken or (None, None, NamespaceRecord())
        self._taken = None
        return CellSnapshot(tuple(self.records), dict(self._shown), snapshot, generators, namespace, dict(self._known))

    def mark_saved(self, records: Sequence[CellRecord]) -> None:
        """Note that these records are in the local tier; the notebook may have run further cells meanwhile."""
        for place, record in enumerate(records[: len(self.records)]):
            if record.chain == self.records[place].chain:
                self.records[place] = replace(self.records[place], namespace=record.namespace)
        self._known = fold(self.records)
        there = {record.outputs for record in records}
        self._shown = {name: content for name, content in self._shown.items() if name not in there}

    def mark_lost(self) -> None:
        """Note that the snapshot was not written. The variables are captured again after the next cell."""
        self._taken = None
        self._unseen = LOOK_EVERY  # the untouched variables in it may not be saved

    # -- a new kernel

    def restore(self, count: int, read: Read) -> list[str]:
        """Restore the variables as the first ``count`` cells left them, and forget later records.

        Args:
            read: returns an object by name, verified.
        Returns: what could not be restored, one sentence each.
        Raises:
            CheckpointError: the snapshot cannot be read; the namespace counts as empty.
        """
        del self.records[count:]
        namespace = self.records[-1].namespace
        if namespace is None:
            raise CheckpointError(f"there is no snapshot after cell {count}")
        self._known = fold(self.records)
        notes = self.process_settings.put(codec.decode(Surroundings, namespace.surroundings))
        not_saved = [codec.decode(NotSaved, entry) for entry in namespace.not_saved]
        groups = [(group.names, decode_state(group.state, read)) for group in self._known.values()]
        lost = self.snapshotter.restore(groups, namespace.modules, not_saved)
        if namespace.generators is not None:
            restore_generators(decode_state(namespace.generators, read))
        return [*notes, *(f"{entry.name} ({entry.kind}): {entry.why}" for entry in lost)]
