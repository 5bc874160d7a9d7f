"""Where a new attempt goes on: the newest checkpoint, from the store or from this host's own disk.

The local tier of an earlier epoch may be used as long as no later epoch has published a checkpoint: then what it
holds continues exactly what the head names. Anything else starts from the head.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from qcity_nb import codec
from qcity_nb.checkpoint import manifest as manifests
from qcity_nb.checkpoint.local import LocalTier
from qcity_nb.checkpoint.manifest import Manifest
from qcity_nb.checkpoint.pack import read_object
from qcity_nb.errors import CheckpointCorrupt, CheckpointError, Missing, StoreUnavailable
from qcity_nb.ports import Store
from qcity_nb.records import CheckpointRef, Head, Row
from qcity_nb.run import journal
from qcity_nb.tracking.outbox import decode_rows

__all__ = ["Adopted", "adopt", "load_published", "manifest_of", "published_rows", "reader", "tier_path"]


FETCHES = 4
"""So many packs are fetched at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """What the attempt goes on from."""

    manifest: Manifest | None
    source: str
    """``store``, ``local`` or empty."""
    trouble: tuple[str, ...] = ()
    """What could not be read, one line each, for people."""
    seq: int = 0
    """The newest sequence number in use; the next checkpoint is one higher."""
    covered: bytes = b""
    """Rows that are published though their checkpoint is damaged: they must not be logged again."""


def tier_path(local: Path, run: str, epoch: int) -> Path:
    """The directory of one epoch's local tier."""
    return local / "runs" / run / str(epoch)


def manifest_of(store: Store, run: str, ref: CheckpointRef) -> Manifest:
    """A published checkpoint's manifest, its digest checked; its objects are not looked at.

    Raises:
        CheckpointCorrupt, Missing: it is damaged or gone.
    """
    data = store.get(run, ref.name)
    if manifests.digest(data) != ref.digest:
        raise CheckpointCorrupt(f"manifest {ref.name} does not match its digest")
    return manifests.loads(data, name=ref.name)


def load_published(
    store: Store, head: Head, incoming: Path
) -> tuple[Manifest | None, Callable[[str], bytes] | None, list[str]]:
    """The newest published checkpoint whose bytes all verify, falling back to older ones.

    Args:
        incoming: where its packs are kept while they are read.
    Returns: the manifest, its verified ``read(name)``, and what was wrong with newer ones.
    Raises:
        StoreUnavailable: the store did not answer; that is no reason to fall back.
    """
    trouble: list[str] = []
    for ref in head.checkpoints:
        try:
            manifest = manifest_of(store, head.run, ref)
            read = reader(store, head.run, manifest, incoming, ahead=True)
            for name in manifest.objects:
                read(name)
            return manifest, read, trouble
        except (CheckpointError, Missing, codec.DecodeError) as error:
            trouble.append(f"checkpoint {ref.seq} in {store.address} is damaged, falling back: {error}")
    return None, None, trouble


def reader(
    store: Store, run: str, manifest: Manifest, incoming: Path, *, ahead: bool = False
) -> Callable[[str], bytes]:
    """Reads a published checkpoint's objects, verified; each pack is fetched once.

    Args:
        ahead: fetch all packs now, several at a time; else each when it is first read.
    """
    incoming.mkdir(parents=True, exist_ok=True)

    def here(pack: str) -> Path:
        file = incoming / pack.replace("/", "_")
        if not file.exists():
            store.fetch(run, pack, file)
        return file

    if ahead:
        with ThreadPoolExecutor(FETCHES, thread_name_prefix="fetch") as pool:
            for _ in pool.map(here, sorted({ref.pack for ref in manifest.objects.values()})):
                pass

    def read(name: str) -> bytes:
        ref = manifest.objects[name]
        return read_object(here(ref.pack), ref, name)

    return read


def published_rows(store: Store, head: Head, after: int) -> dict[int, bytes]:
    """The rows of published checkpoints after ``after``: encoded rows by checkpoint."""
    blocks: dict[int, list[bytes]] = {}
    current: list[bytes] = []

    def is_old(lines: bytes) -> bool:
        first = lines.partition(b"\n")[0]
        return first.startswith(b'{"seq":') and int(first[7:-1]) <= after

    for line in journal.walk(head.outbox, lambda name: store.get(head.run, name), until=is_old):
        if line.startswith(b'{"seq":'):
            current = blocks.setdefault(int(line[7:-1]), [])
        else:
            current.append(line)
    return {seq: b"".join(line + b"\n" for line in lines) for seq, lines in blocks.items() if seq > after}


def _local(local: Path, head: Head, epoch: int) -> tuple[LocalTier, Manifest] | None:
    newest = head.checkpoint
    floor = newest.epoch if newest else 0
    folder = tier_path(local, head.run, 0).parent
    epochs = sorted((int(p.name) for p in folder.glob("[0-9]*") if p.name.isdigit()), reverse=True)
    for past in epochs:
        if past >= epoch or past < floor:
            continue
        try:
            tier = LocalTier(tier_path(local, head.run, past), epoch=past)
            manifest = tier.newest()
        except (CheckpointError, OSError):
            continue
        if manifest is not None and manifest.seq > (newest.seq if newest else 0):
            return tier, manifest
    return None


def adopt(store: Store, head: Head, local: Path, *, epoch: int, tier: LocalTier) -> Adopted:
    """Put the checkpoint to go on from into ``tier``, as its first.

    Raises:
        StoreUnavailable: the store did not answer.
        CheckpointError: this host's disk cannot hold it.
    """
    top = head.checkpoint.seq if head.checkpoint else 0
    if found := _local(local, head, epoch):
        past, manifest = found
        try:
            rows = {seq: past.rows(seq) for seq in range(top + 1, manifest.seq + 1)}
            with past.opened(manifest) as read_local:
                adopted = tier.import_from(manifest, read_local, rows)
            return Adopted(manifest=adopted, source="local", seq=manifest.seq)
        except CheckpointCorrupt:
            pass  # its owner, stopped or dying, still tidied up there: the store's own copy is next
    # Beside the tiers, not in this epoch's: what a cut off download left, the next attempt on this host goes on with.
    incoming = tier.path.parent / "incoming"
    is_cut_off = False
    try:
        published, read, trouble = load_published(store, head, incoming)
        floor = published.seq if published else 0
        missing = {}
        if floor < top:
            try:
                missing = published_rows(store, head, floor)
            except Missing as error:
                trouble.append(f"rows that were published cannot be read: {error}")
        covered = b"".join(missing[seq] for seq in sorted(missing))
        if published is None or read is None:
            return Adopted(manifest=None, source="", trouble=tuple(trouble), seq=top, covered=covered)
        adopted = tier.import_from(replace(published, logged=_known(published, missing)), read, {})
    except StoreUnavailable:
        is_cut_off = True
        raise
    finally:
        if not is_cut_off:
            shutil.rmtree(incoming, ignore_errors=True)
    return Adopted(manifest=adopted, source="store", trouble=tuple(trouble), seq=top, covered=covered)


def _known(manifest: Manifest, rows: dict[int, bytes]) -> dict[str, tuple[int, int]]:
    """Highest step and timestamp per metric, with the rows of newer, damaged checkpoints counted in."""
    known = dict(manifest.logged)
    for data in rows.values():
        row: Row
        for row in decode_rows(data):
            step, stamp = known.get(row.key, (row.step, row.timestamp_ms))
            known[row.key] = (max(step, row.step), max(stamp, row.timestamp_ms))
    return known
