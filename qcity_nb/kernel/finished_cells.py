"""The finished cells of a notebook, in the kernel: what they showed, and the variables as they left them.

The engine says when a cell has finished. Its record travels with the next checkpoint, like a loop's; a new kernel
asks for the records, and the engine passes over the cells that they cover.
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
from qcity_nb.kernel.snapshot_budget import Allowance
from qcity_nb.namespace.environment.process import ProcessSettings, Surroundings
from qcity_nb.namespace.pickler import Overdue
from qcity_nb.namespace.reachability import Reach
from qcity_nb.namespace.records import Group, NamespaceSnapshot, NotSaved
from qcity_nb.namespace.snapshot import NamespaceSnapshotter

__all__ = ["CellSnapshot", "FinishedCells", "fold", "groups_of", "objects_of", "size_of", "trim"]

SLOW_S = 0.5
"""What took longer to pickle is not pickled again if no code can have reached it …"""
LOOK_EVERY = 8
"""… but now and then all the same."""
RETRY_FACTOR = 2.0
"""A snapshot that was given up may take so many times as long when it is tried again."""
HISTORY_BYTES = 256 << 20
HISTORY_SHARE = 2.0
"""What older snapshots need beside the newest may be so much, or so many times as large as that one."""


@dataclass(frozen=True, slots=True)
class CellSnapshot:
    """What the next checkpoint says of the cells. Frozen: the next cell may run while it is written."""

    records: tuple[CellRecord, ...]
    shown: Mapping[str, bytes]
    snapshot: NamespaceSnapshot | None = None
    generators: Captured | None = None
    namespace: NamespaceRecord = field(default_factory=NamespaceRecord)
    known: Mapping[tuple[str, ...], GroupRecord] = field(default_factory=dict)
    """The groups as the newest saved record has them."""

    @property
    def used(self) -> list[UsedMemory]:
        """Whose memory is free again once it is written."""
        return [] if self.snapshot is None else [_Memory(self.snapshot)]

    def record(self, objects: dict[str, Any]) -> tuple[CellRecord, ...]:
        """As a manifest has them; the content goes into ``objects``. Hashes, so not in a cell's time."""
        objects.update(self.shown)
        if self.snapshot is None:
            return self.records
        assert self.generators is not None
        groups = [_recorded(group, objects) for group in self.snapshot.groups]
        names = [name for group in self.snapshot.groups for name in group.names]
        names += [name for kept in self.snapshot.kept for name in kept]
        namespace = replace(
            self.namespace,
            groups=tuple(group for group in groups if self._is_new(group)),
            names=tuple(sorted(names)),
            generators=_encoded(self.generators, objects),
        )
        return (*self.records[:-1], replace(self.records[-1], namespace=namespace))

    def _is_new(self, group: GroupRecord) -> bool:
        known = self.known.get(group.names)
        return known is None or known.state != group.state  # what pickling took is never the same


@dataclass(frozen=True, slots=True)
class _Memory:
    """The memory of a whole snapshot, which its groups share."""

    _snapshot: NamespaceSnapshot

    @property
    def buffer(self) -> freezer.CaptureBuffer | None:
        return next((group.captured.buffer for group in self._snapshot.groups), None)

    def release(self) -> None:
        self._snapshot.release()


def _recorded(group: Group, objects: dict[str, Any]) -> GroupRecord:
    return GroupRecord(
        names=group.names,
        state=_encoded(group.captured, objects),
        kinds=group.kinds,
        fresh=group.fresh,
        cost_s=round(group.cost_s, 6),
    )


def _encoded(captured: Captured, objects: dict[str, Any]) -> Encoded:
    encoded, content = encode_state(captured)
    objects.update(content)
    return encoded


def fold(records: Iterable[CellRecord]) -> dict[tuple[str, ...], GroupRecord]:
    """The groups of variables as the last of these records leaves them."""
    groups: dict[str, GroupRecord] = {}
    for record in records:
        if record.namespace is None:
            continue
        for group in record.namespace.groups:
            for old in [groups[name] for name in group.names if name in groups]:
                for name in old.names:
                    groups.pop(name, None)
            groups |= dict.fromkeys(group.names, group)
        there = set(record.namespace.names)
        groups = {name: group for name, group in groups.items() if name in there}
    return {group.names: group for group in groups.values()}


def trim(records: Sequence[CellRecord], stored: Mapping[str, ObjectRef]) -> list[CellRecord]:
    """The records without the oldest snapshots, where what only these need is more than it is worth.

    What a cell changed stays until then, so that a cell that is edited runs again behind what it found. Without it,
    cells before it run again too, from the last that has a snapshot.

    Args:
        stored: the objects of the newest checkpoint, by name.
    """
    kept = list(records)
    now = size_of(objects_of(fold(kept).values()), stored)
    room = max(HISTORY_SHARE * now, HISTORY_BYTES)
    whole = [place for place, record in enumerate(kept) if record.namespace is not None]
    for place, following in pairwise(whole):
        if size_of(objects_of(groups_of(kept)), stored) <= now + room:
            break
        namespace = kept[following].namespace
        assert namespace is not None
        # All that the next one does not bring itself, it takes over.
        groups = tuple(fold(kept[: following + 1]).values())
        kept[place] = replace(kept[place], namespace=None)
        kept[following] = replace(kept[following], namespace=replace(namespace, groups=groups))
    return kept


def groups_of(records: Iterable[CellRecord]) -> Iterator[GroupRecord]:
    """All groups that they hold, those that later ones replace too."""
    for record in records:
        if record.namespace is not None:
            yield from record.namespace.groups


def objects_of(groups: Iterable[GroupRecord]) -> set[str]:
    """The names of the objects that these groups consist of."""
    return {name for group in groups for part in (group.state.skeleton, *group.state.buffers) for name in part}


def size_of(names: Iterable[str], stored: Mapping[str, ObjectRef]) -> int:
    """Bytes of the objects of these names."""
    return sum(stored[name].size_bytes for name in names if name in stored)


class FinishedCells:
    """The cells that have finished, in the notebook's order, and the snapshots behind them."""

    def __init__(
        self,
        snapshotter: NamespaceSnapshotter,
        process_settings: ProcessSettings,
        records: Sequence[CellRecord] = (),
        allowance: Allowance | None = None,
    ) -> None:
        self.snapshotter = snapshotter
        self.process_settings = process_settings
        self.allowance = allowance or Allowance(math.inf)
        self.records: list[CellRecord] = list(records)
        self.cost_s = 0.0
        """What the newest snapshot took of the notebook's time."""
        self.reach = Reach(snapshotter.live)
        """Hears of the code that runs."""
        self.entered = 0
        """Loops that had begun when the newest cell finished."""
        self._beside_s = 0.0
        """What the newest snapshot took beside pickling: memory looked at and copied."""
        self._unseen = 0
        """Snapshots since all variables were looked at."""
        self._known: dict[tuple[str, ...], GroupRecord] = {}
        self._shown: dict[str, bytes] = {}
        """Outputs that no checkpoint holds yet."""
        self._taken: tuple[NamespaceSnapshot, Captured, NamespaceRecord] | None = None

    # -- a cell has finished

    def add_finished(self, position: int, record: CellRecord, shown: Mapping[int, bytes]) -> None:
        """Note a finished cell.

        Args:
            position: its number among the code cells; those before it have finished.
            shown: what cells show now, by position, where that is new: later cells may change what earlier ones show.
        """
        if position > len(self.records):
            raise CheckpointError(f"cell {position} has finished, and only {len(self.records)} before it have")
        self.records[position:] = [record]
        for place, content in shown.items():
            name = name_of(content) if content else ""
            self.records[place] = replace(self.records[place], outputs=name)
            if name:
                self._shown[name] = content

    def take(self, *, stored: Mapping[str, ObjectRef], limit_s: float = math.inf) -> float:
        """Take the snapshot behind the newest cell; the next checkpoint saves it.

        Args:
            stored: the objects of the newest checkpoint, by name.
            limit_s: what it may take.
        Returns: 0; or none was taken, and this is how much it may take when it is worth trying again.
        """
        began_s = time.perf_counter()
        skip = self._untouched()
        # Unchanged groups are pickled too: that is how it is known that they are.
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
            self.reach.clear()  # what is kept was in no code's reach before either
        absent = tuple(codec.encode(one) for one in snapshot.not_saved)
        namespace = NamespaceRecord(
            modules=snapshot.modules, not_saved=absent, surroundings=codec.encode(self.process_settings.look())
        )
        generators = capture_generators()
        self.cost_s = time.perf_counter() - began_s
        self._beside_s = max(0.0, self.cost_s - sum(group.cost_s for group in snapshot.groups))
        self._taken = (snapshot, generators, replace(namespace, cost_s=round(self.cost_s, 6)))
        return 0.0

    def _untouched(self) -> frozenset[str]:
        """Costly variables that no code can have reached since the snapshot before."""
        slow = {name for group in self._known.values() if group.cost_s > SLOW_S for name in group.names}
        reached = self.reach.changed_names() if slow and self._unseen < LOOK_EVERY else None
        return frozenset() if reached is None else frozenset(slow - reached)

    # -- checkpoints

    def snapshot(self) -> CellSnapshot:
        """What a checkpoint made now says of the cells. The snapshot is the draft's from here on."""
        snapshot, generators, namespace = self._taken or (None, None, NamespaceRecord())
        self._taken = None
        return CellSnapshot(tuple(self.records), dict(self._shown), snapshot, generators, namespace, dict(self._known))

    def mark_saved(self, records: Sequence[CellRecord]) -> None:
        """That is in the tier now; the notebook has gone on meanwhile."""
        for place, record in enumerate(records[: len(self.records)]):
            if record.chain == self.records[place].chain:
                self.records[place] = replace(self.records[place], namespace=record.namespace)
        self._known = fold(self.records)
        there = {record.outputs for record in records}
        self._shown = {name: content for name, content in self._shown.items() if name not in there}

    def mark_lost(self) -> None:
        """It was not written. The variables are captured again behind the next cell."""
        self._taken = None
        self._unseen = LOOK_EVERY  # what it held of untouched variables is not known to be saved

    # -- a new kernel

    def restore(self, count: int, read: Read) -> list[str]:
        """Bring the variables back as the first ``count`` cells left them; later records are forgotten.

        Args:
            read: gives an object by name, verified.
        Returns: what did not come back, one sentence each.
        Raises:
            CheckpointError: the snapshot cannot be read; the namespace is to be taken for empty.
        """
        del self.records[count:]
        namespace = self.records[-1].namespace
        if namespace is None:
            raise CheckpointError(f"there is no snapshot behind cell {count}")
        self._known = fold(self.records)
        said = self.process_settings.put(codec.decode(Surroundings, namespace.surroundings))
        not_saved = [codec.decode(NotSaved, one) for one in namespace.not_saved]
        groups = [(group.names, decode_state(group.state, read)) for group in self._known.values()]
        gone = self.snapshotter.restore(groups, namespace.modules, not_saved)
        if namespace.generators is not None:
            restore_generators(decode_state(namespace.generators, read))
        return [*said, *(f"{one.name} ({one.kind}): {one.why}" for one in gone)]
