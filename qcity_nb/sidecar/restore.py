"""What a new attempt resumes from: the newest checkpoint, from the store or from this host's own disk.

The local tier of an earlier term may be used as long as no later term has published a checkpoint: then that tier
exactly continues what the run record names. Otherwise the attempt starts from the run record.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from qcity_nb import codec
from qcity_nb.checkpoint.storage.local_tier import LocalTier, tier_path
from qcity_nb.checkpoint.storage.manifest import Manifest
from qcity_nb.errors import CheckpointCorrupt, CheckpointError, Missing, StoreUnavailable
from qcity_nb.ports import Store
from qcity_nb.published.read import check_signed, manifest_of, published_rows, reader
from qcity_nb.records import Head, Row
from qcity_nb.tracking.outbox import decode_rows

__all__ = ["Restored", "restore"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """The checkpoint that the attempt resumes from."""

    manifest: Manifest | None
    source: str
    """``store``, ``local`` or empty."""
    trouble: tuple[str, ...] = ()
    """What could not be read, one line each, for people."""
    seq: int = 0
    """The newest sequence number in use; the next checkpoint is one higher."""
    covered: bytes = b""
    """Published rows whose checkpoint is damaged: they must not be logged again."""


def _find_local(local_dir: Path, head: Head, term: int) -> tuple[LocalTier, Manifest] | None:
    newest = head.checkpoint
    floor = newest.term if newest else 0
    folder = tier_path(local_dir, head.run, 0).parent
    terms = sorted((int(p.name) for p in folder.glob("[0-9]*") if p.name.isdigit()), reverse=True)
    for past in terms:
        if past >= term or past < floor:
            continue
        try:
            tier = LocalTier(tier_path(local_dir, head.run, past), term=past)
            manifest = tier.newest()
        except (CheckpointError, OSError):
            continue
        if manifest is not None and manifest.seq > (newest.seq if newest else 0):
            return tier, manifest
    return None


def restore(store: Store, head: Head, local_dir: Path, *, term: int, tier: LocalTier) -> Restored:
    """Put the checkpoint to resume from into ``tier``, as its first one.

    Raises:
        StoreUnavailable: the store did not answer.
        CheckpointError: this host's disk cannot hold it.
    """
    top = head.checkpoint.seq if head.checkpoint else 0
    if local := _find_local(local_dir, head, term):
        past, manifest = local
        try:
            rows = {seq: past.rows(seq) for seq in range(top + 1, manifest.seq + 1)}
            with past.open_reader(manifest) as read_local:
                imported = tier.import_from(manifest, read_local, rows)
            return Restored(manifest=imported, source="local", seq=manifest.seq)
        except CheckpointCorrupt:
            pass  # its owner, stopped or dying, still removed files there: try the store's copy
    trouble: list[str] = []
    with _incoming_folder(tier.path.parent) as incoming:
        for ref in head.checkpoints:
            try:
                manifest = manifest_of(store, head.run, ref)
                check_signed(store, head.run, manifest)
                read = reader(store, head.run, manifest, incoming, ahead=True)
                missing = _rows_since(store, head, ref.seq, trouble)
                imported = tier.import_from(replace(manifest, logged=_merge_logged(manifest, missing)), read, {})
            except (CheckpointCorrupt, Missing, codec.DecodeError) as error:
                trouble.append(f"checkpoint {ref.seq} in {store.address} is damaged, falling back: {error}")
                continue
            return Restored(
                manifest=imported, source="store", trouble=tuple(trouble), seq=top, covered=_join_rows(missing)
            )
    missing = _rows_since(store, head, 0, trouble)
    return Restored(manifest=None, source="", trouble=tuple(trouble), seq=top, covered=_join_rows(missing))


@contextlib.contextmanager
def _incoming_folder(folder: Path) -> Iterator[Path]:
    """The folder for packs that are being fetched from the store.

    It belongs to no single term, so that the next attempt on this host resumes an interrupted download. If a superseded
    attempt still uses it, a temporary folder takes its place.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "incoming.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            incoming = folder / "incoming"
        except BlockingIOError:
            incoming = Path(tempfile.mkdtemp(prefix="incoming-", dir=folder))
        try:
            yield incoming
        except StoreUnavailable:
            raise
        except BaseException:  # Ctrl-C too: nothing else can use what was fetched
            shutil.rmtree(incoming, ignore_errors=True)
            raise
        shutil.rmtree(incoming, ignore_errors=True)


def _rows_since(store: Store, head: Head, seq: int, trouble: list[str]) -> dict[int, bytes]:
    """Published rows of checkpoints later than ``seq``, which are damaged."""
    if seq >= (head.checkpoint.seq if head.checkpoint else 0):
        return {}
    try:
        return published_rows(store, head, seq)
    except Missing as error:
        trouble.append(f"published rows cannot be read: {error}")
        return {}


def _join_rows(rows: Mapping[int, bytes]) -> bytes:
    return b"".join(rows[seq] for seq in sorted(rows))


def _merge_logged(manifest: Manifest, rows: dict[int, bytes]) -> dict[str, tuple[int, int]]:
    """Highest step and timestamp per metric, with the rows of newer, damaged checkpoints included."""
    known = dict(manifest.logged)
    for data in rows.values():
        row: Row
        for row in decode_rows(data):
            step, stamp = known.get(row.key, (row.step, row.timestamp_ms))
            known[row.key] = (max(step, row.step), max(stamp, row.timestamp_ms))
    return known
