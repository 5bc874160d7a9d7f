"""Dropping older published checkpoints of a run that nobody holds (docs/design.md, "Deletion is fenced").

A holder tidies up by itself; this is for runs at rest. The head is changed first, by compare-and-set and only while
nobody holds the run; what no confirmed head can name any more is deleted after that. Everybody who takes the run
later builds on what that head names, and stores under a higher epoch. Should that head be damaged and put aside,
the one before names checkpoints that are gone; its newest is still there.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace

from qcity_nb.checkpoint.storage.manifest import Manifest
from qcity_nb.clock import Clock
from qcity_nb.codec import DecodeError
from qcity_nb.errors import CheckpointCorrupt, CheckpointError, Missing, RunHeld
from qcity_nb.ports import Store
from qcity_nb.published.read import manifest_of
from qcity_nb.records import CheckpointRef, Head, Holder
from qcity_nb.run import lease

__all__ = ["Plan", "plan", "prune"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a prune drops, and what it frees."""

    kept: tuple[CheckpointRef, ...]
    dropped: tuple[CheckpointRef, ...]
    garbage: tuple[str, ...]
    """Stored names that nothing which stays needs."""
    freed_bytes: int
    """Of the packs and manifests whose size is known: those that some readable manifest names."""


def plan(store: Store, run: str, *, keep: int) -> Plan:
    """What ``prune`` would do now; reads only.

    Raises:
        RunHeld: an attempt holds the run and is alive: it tidies up by itself.
        CheckpointCorrupt: a checkpoint that stays cannot be read, so nobody can say what it needs.
    """
    snapshot = lease.read(store, run)
    holder = snapshot.head.holder
    if holder is not None and lease.Observer().declare_dead(snapshot) is None:
        raise _held(snapshot.head, holder)
    return _plan(store, snapshot.head, keep)


def _held(head: Head, holder: Holder) -> RunHeld:
    return RunHeld(
        f"{head.run} is held by {lease.describe(holder)}, which alone deletes and tidies up by itself:"
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
                f"checkpoint {ref.seq} stays and cannot be read, so nobody can say what it needs: {error}"
            ) from error
        packs = _packs(manifest)
        sizes.update({name: max(size, sizes.get(name, 0)) for name, size in packs.items()})
        if ref in kept:
            named |= {ref.name, *packs}
    garbage = tuple(name for name in store.names(head.run) if name not in named and _is_ours(name, head))
    return Plan(kept=kept, dropped=dropped, garbage=garbage, freed_bytes=sum(sizes.get(name, 0) for name in garbage))


def _packs(manifest: Manifest) -> dict[str, int]:
    """The packs that it needs, each with its size as far as it uses it."""
    sizes: dict[str, int] = {}
    for ref in manifest.objects.values():
        sizes[ref.pack] = max(sizes.get(ref.pack, 0), ref.offset + ref.size_bytes)
    return sizes


def _is_ours(name: str, head: Head) -> bool:
    """A pack or manifest of an epoch that has ended: a later holder's names have a higher one."""
    folder, _, rest = name.partition("/")
    term = rest[1:].partition("-")[0]
    return folder in ("packs", "checkpoints") and term.isdigit() and int(term) <= head.term


def prune(store: Store, run: str, *, keep: int, clock: Clock | None = None) -> Plan:
    """Keep the ``keep`` newest published checkpoints, and delete what only the others needed.

    A holder that is silent for its ttl is superseded first, as a new attempt would do; that is one epoch.

    Args:
        keep: at least 1: the newest always stays.
    Raises:
        RunHeld: an attempt holds the run and is alive. Nothing was changed.
        CheckpointCorrupt: a checkpoint that stays cannot be read. Nothing was changed.
        StoreUnavailable: outcome unknown; nothing was deleted unless the head was confirmed. Do it again.
    """
    if keep < 1:
        raise ValueError("the newest checkpoint stays")
    snapshot = lease.read(store, run)
    if snapshot.head.holder is not None:
        declared_dead = lease.Observer(clock).declare_dead(snapshot)
        if declared_dead is None:
            raise _held(snapshot.head, snapshot.head.holder)
        _plan(store, snapshot.head, keep)  # it must not cost an epoch to find that nothing can be done
        me = Holder(attempt=f"{run}-prune-{uuid.uuid4().hex[:8]}", host=snapshot.head.holder.host)
        lease.acquire(store, run, me, declared_dead=declared_dead, clock=clock).release()
    planned: Plan | None = None

    def drop(head: Head) -> Head:
        nonlocal planned
        if head.holder is not None:
            raise _held(head, head.holder)
        planned = _plan(store, head, keep)
        return replace(head, checkpoints=planned.kept)

    lease.amend(store, run, drop, clock=clock)
    assert planned is not None
    store.delete(run, planned.garbage)
    return planned
