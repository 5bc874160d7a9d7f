"""A run with checkpoints in a store and in a local tier, made through the real protocol, without a notebook."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qcity_nb.checkpoint.buffer import Buffer
from qcity_nb.checkpoint.encode import encode_state
from qcity_nb.checkpoint.state.capture import capture
from qcity_nb.checkpoint.storage.local_tier import LocalTier
from qcity_nb.checkpoint.storage.manifest import CellRecord, LoopRecord, Manifest
from qcity_nb.checkpoint.storage.tier_folders import tier_path
from qcity_nb.clock import iso_now
from qcity_nb.ports import Store
from qcity_nb.records import Head, Holder
from qcity_nb.run import lease
from qcity_nb.run.lease import Lease
from qcity_nb.run.mailbox import Mailbox
from qcity_nb.sidecar.publish import Publisher
from qcity_nb.sidecar.restore import Restored, restore

RUN = "train-abc123-1"


class CheckpointRun:
    """One attempt at the run ``RUN``.

    Args:
        folder: for the local tier and the mailbox.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        self.local = folder / "local"
        lease.create(store, Head(run=RUN, key="k", project="p", notebook="train.ipynb"))
        self.lease: Lease = lease.acquire(store, RUN, Holder(attempt="a", host="local", ttl_s=10))
        run_id = self.lease.head.id
        self.tier = LocalTier(tier_path(self.local, RUN, 1, run_id=run_id, attempt="a"), term=1, run_id=run_id)
        self._publisher = Publisher(self.lease, Mailbox(folder / "mailbox").open(), self.tier, published=None)
        self._seq = 0
        self._cells: tuple[CellRecord, ...] = ()
        self._loops: tuple[LoopRecord, ...] = ()
        self._objects: Mapping[str, bytes] = {}

    def add_finished(
        self, cells: tuple[CellRecord, ...], loops: tuple[LoopRecord, ...], objects: Mapping[str, bytes]
    ) -> None:
        """Records that each checkpoint from now on has, and their objects by name."""
        self._cells, self._loops, self._objects = cells, loops, objects

    def save(
        self, states: Mapping[str, Any], *, publish: bool = True, reason: str = "every", values: Mapping[str, Any] = {}
    ) -> Manifest:
        """A checkpoint of the loops' states by name, and on request its publish."""
        self._seq += 1
        loops = list(self._loops)
        objects: dict[str, Buffer] = dict(self._objects)
        for name, state in states.items():
            encoded, content = encode_state(capture(state))
            objects.update(content)
            done = self._seq
            loops.append(LoopRecord(key=name, name=name, done=done, count=done, state=encoded))
        manifest = Manifest(
            run=RUN,
            term=1,
            seq=self._seq,
            step=10 * self._seq,
            at=iso_now(),
            reason=reason,
            cells=self._cells,
            loops=tuple(loops),
            values=values,
        )
        saved = self.tier.save(manifest, objects, b"")
        if publish:
            self._publisher.publish(saved)
        return saved

    def release(self, change: Callable[[Head], Head] = lambda head: head) -> Head:
        """The attempt lets go."""
        return self.lease.release(change)

    def head(self) -> Head:
        """The head as it is now."""
        return lease.read(self.store, RUN).head


def restored(store: Store, head: Head, folder: Path) -> Restored:
    """What a new host restores from the run record: it has only the store, and a tier of the next term."""
    term = head.term + 1
    folder.mkdir(exist_ok=True)
    path = tier_path(folder, head.run, term, run_id=head.id, attempt="fresh")
    tier = LocalTier(path, term=term, run_id=head.id)
    return restore(store, head, folder, term=term, tier=tier)
