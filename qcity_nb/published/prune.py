"""Drop older published checkpoints of a run that nobody holds (docs/design.md, "Deletion is fenced").

A holder deletes by itself; this is for runs that are not active. The run record is changed first, by compare-and-set
and only while nobody holds the run. Objects that no confirmed run record can name any more are deleted after that.
Whoever takes the run later builds on that run record, and stores under a higher term. If that record is damaged and
removed, the previous one names checkpoints that are gone, but its newest one still exists.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace

from qcity_nb.checkpoint.storage import record_pages
from qcity_nb.checkpoint.storage.manifest import Manifest
from qcity_nb.clock import Clock
from qcity_nb.codec import DecodeError
from qcity_nb.errors import CheckpointCorrupt, CheckpointError, Missing, RunHeld
from qcity_nb.ports import Store
from qcity_nb.published.read import manifest_of
from qcity_nb.records import CheckpointRef, Head, Holder
from qcity_nb.run import lease
from qcity_nb.run.observer import Observer

__all__ = ["Plan", "plan", "prune"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a prune drops, and what it frees."""

    kept: tuple[CheckpointRef, ...]
    dropped: tuple[CheckpointRef, ...]
    garbage: tuple[str, ...]
    """Names of stored objects that nothing needs any more."""
    freed_bytes: int
    """Of those packs and manifests whose size is known, because some readable manifest names them."""


def plan(store: Store, run: str, *, keep: int) -> Plan:
    """What ``prune`` would do now; reads only.

    Raises:
        RunHeld: an attempt holds the run and is alive: it deletes by itself.
        CheckpointCorrupt: a checkpoint that stays cannot be read, so what it needs is unknown.
    """
    snapshot = lease.read(store, run)
    if snapshot.head.holder is not None and Observer().declare_dead(snapshot) is None:
        raise _refuse_held(snapshot.head)
    return _plan(store, snapshot.head, keep)


def _refuse_held(head: Head) -> RunHeld:
    return RunHeld(
        f"{head.run} is held by {lease.describe(head)}; only the holder may delete, and does so by itself:"
        f" `qcity stop {head.run}` first"
    )


def _plan(store: Store, head: Head, keep: int) -> Plan:
    kept, dropped = head.checkpoints[:keep], head.checkpoints[keep:]
    named: set[str] = set()
    sizes: dict[str, int] = {}
    for ref in head.checkpoints:
        try:
            manifest = manifest_of(store, head.run, ref)
        except (CheckpointError, Missing, DecodeError) as error:
            if ref in dropped:
                continue
            raise CheckpointCorrupt(
                f"checkpoint {ref.seq} should stay but cannot be read, so what it needs is unknown: {error}"
            ) from error
        packs = _packs(manifest)
        sizes.update({name: max(size, sizes.get(name, 0)) for name, size in packs.items()})
        if ref in kept:
            named |= {ref.name, *packs, *(f"{record_pages.FOLDER}/{page.name}" for page in manifest.pages)}
    garbage = tuple(name for name in store.names(head.run) if name not in named and _is_ours(name, head))
    return Plan(kept=kept, dropped=dropped, garbage=garbage, freed_bytes=sum(sizes.get(name, 0) for name in garbage))


def _packs(manifest: Manifest) -> dict[str, int]:
    """The packs that it needs, each with its size up to the last byte used."""
    sizes: dict[str, int] = {}
    for ref in manifest.objects.values():
        sizes[ref.pack] = max(sizes.get(ref.pack, 0), ref.offset + ref.size_bytes)
    return sizes


def _is_ours(name: str, head: Head) -> bool:
    """Is it a pack, manifest or page of a past term? A later holder's names have a higher term."""
    folder, _, rest = name.partition("/")
    term = rest[1:].partition("-")[0]
    return folder in ("packs", "checkpoints", record_pages.FOLDER) and term.isdigit() and int(term) <= head.term


def prune(store: Store, run: str, *, keep: int, clock: Clock | None = None) -> Plan:
    """Keep the ``keep`` newest published checkpoints, and delete what only the others needed.

    A holder that was silent for its ttl is superseded first, as by a new attempt; that takes one term.

    Args:
        keep: at least 1: the newest checkpoint always stays.
    Raises:
        RunHeld: an attempt holds the run and is alive. Nothing was changed.
        CheckpointCorrupt: a checkpoint that stays cannot be read. Nothing was changed.
        StoreUnavailable: outcome unknown; nothing was deleted unless the run record was confirmed. Call it again.
    """
    if keep < 1:
        raise ValueError("the newest checkpoint stays")
    snapshot = lease.read(store, run)
    if snapshot.head.holder is not None:
        declared_dead = Observer(clock).declare_dead(snapshot)
        if declared_dead is None:
            raise _refuse_held(snapshot.head)
        _plan(store, snapshot.head, keep)  # raises what makes pruning impossible, before that costs a term
        me = Holder(attempt=f"{run}-prune-{uuid.uuid4().hex[:8]}", host=snapshot.head.holder.host)
        lease.acquire(store, run, me, declared_dead=declared_dead, clock=clock).release()
    planned: Plan | None = None

    def drop(head: Head) -> Head:
        nonlocal planned
        if head.holder is not None:
            raise _refuse_held(head)
        planned = _plan(store, head, keep)
        return replace(head, checkpoints=planned.kept)

    lease.amend(store, run, drop, clock=clock)
    assert planned is not None
    store.delete(run, planned.garbage)
    return planned
