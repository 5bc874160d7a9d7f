"""What a new attempt resumes from: the newest checkpoint, from the store or from this host's own disk.

The local tier of an earlier attempt may be used as long as no later one has published a checkpoint: then that tier
exactly continues what the run record names. Otherwise the attempt starts from the run record. The run record names
the attempts whose tiers these are, since their numbers repeat if a store is put back from a backup.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from qcity_nb import codec
from qcity_nb.checkpoint.storage.local_tier import LocalTier
from qcity_nb.checkpoint.storage.manifest import Manifest
from qcity_nb.checkpoint.storage.tier_folders import list_tiers, set_aside, tier_path
from qcity_nb.errors import CheckpointCorrupt, CheckpointError, Missing, StoreUnavailable
from qcity_nb.ports import Store
from qcity_nb.published.read import check_signed, manifest_of, published_rows, reader
from qcity_nb.records import CheckpointRef, Head, Row
from qcity_nb.tracking.outbox import decode_rows

__all__ = ["Restored", "make_tier", "restore", "write_published"]

_PUBLISHED = "published"


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


def make_tier(local_dir: Path, head: Head, attempt: str, trouble: Callable[[str], None]) -> LocalTier:
    """The tier of an attempt that begins: a new directory. One that is there already is set aside.

    Args:
        head: the run record as the attempt acquired it.
        trouble: is called with what people should know.
    """
    path = tier_path(local_dir, head.run, head.term, run_id=head.id, attempt=attempt)
    if (aside := set_aside(path)) is not None:
        trouble(f"{path} existed before this attempt began: it is not used, and is now {aside}")
    path.mkdir(parents=True)
    return LocalTier(path, term=head.term, run_id=head.id)


def write_published(tier: Path, ref: CheckpointRef) -> None:
    """Note in a tier which of its checkpoints the store has confirmed."""
    draft = tier / f".{_PUBLISHED}"
    draft.write_text(f"{ref.seq} {ref.digest}", encoding="ascii")
    draft.replace(tier / _PUBLISHED)


def _find_local(local_dir: Path, head: Head, term: int, trouble: list[str]) -> tuple[LocalTier, Manifest] | None:
    newest = head.checkpoint
    floor, top = (newest.term, newest.seq) if newest else (0, 0)
    own = {
        tier_path(local_dir, head.run, int(number), run_id=head.id, attempt=attempt)
        for number, attempt in head.attempts.items()
    }
    usable = None
    for folder in list_tiers(local_dir, head.run, head.id):
        if folder.term < floor:
            continue
        tier = LocalTier(folder.path, term=folder.term, run_id=head.id)
        try:
            manifest = tier.newest()
        except (CheckpointError, OSError):
            continue
        if manifest is None or manifest.seq <= top:
            continue
        # An older version wrote no names of attempts into the run record.
        is_own = folder.path in own or not (head.id or folder.attempt)
        if problem := _find_problem(tier, manifest, head) if is_own else "the run record does not name its attempt":
            trouble.append(f"local checkpoint {manifest.seq} in {folder.path} is not used: {problem}")
        elif usable is None and folder.term < term:
            usable = tier, manifest
    return usable


def _find_problem(tier: LocalTier, manifest: Manifest, head: Head) -> str:
    """Why a local checkpoint does not continue what the run record names; empty if it does."""
    if (manifest.run, manifest.run_id) != (head.run, head.id):
        return f"it belongs to the run {manifest.run} with the id {manifest.run_id or 'of an older version'}"
    try:
        seq, digest = (tier.path / _PUBLISHED).read_text(encoding="ascii").split()
        newest = head.checkpoint
        is_behind = newest is None or newest.term != tier.term or newest.seq < int(seq)
        if is_behind or (newest is not None and newest.seq == int(seq) and newest.digest != digest):
            return f"its checkpoint {seq} was published, and the store no longer has that: the store was put back"
    except FileNotFoundError:
        pass  # nothing of it was published
    except (OSError, ValueError) as error:
        return f"what of it was published is not known ({error})"
    return ""


def _check_run(manifest: Manifest, head: Head) -> None:
    """A store's manifest without an id was written by an older version; the run record has its digest."""
    if manifest.run_id not in ("", head.id):
        raise CheckpointCorrupt(f"it belongs to the run {manifest.run} with the id {manifest.run_id}")


def restore(store: Store, head: Head, local_dir: Path, *, term: int, tier: LocalTier) -> Restored:
    """Put the checkpoint to resume from into ``tier``, as its first one.

    Raises:
        StoreUnavailable: the store did not answer.
        CheckpointError: this host's disk cannot hold it.
    """
    top = head.checkpoint.seq if head.checkpoint else 0
    trouble: list[str] = []
    if local := _find_local(local_dir, head, term, trouble):
        past, manifest = local
        try:
            rows = {seq: past.rows(seq) for seq in range(top + 1, manifest.seq + 1)}
            with past.open_reader(manifest) as read_local:
                imported = tier.import_from(manifest, read_local, rows)
            return Restored(manifest=imported, source="local", trouble=tuple(trouble), seq=manifest.seq)
        except CheckpointCorrupt:
            pass  # its owner, stopped or dying, still removed files there: try the store's copy
    with _incoming_folder(tier.path.parent) as incoming:
        for ref in head.checkpoints:
            try:
                manifest = manifest_of(store, head.run, ref)
                _check_run(manifest, head)
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
        return published_rows(store, head, seq, lambda what: trouble.append(f"{what} cannot be decoded"))
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
