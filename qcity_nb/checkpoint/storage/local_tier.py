"""The local tier: checkpoints on the host's own disk, one directory per attempt, written by one process.

    checkpoints/<seq>.json    {"digest": …, "manifest": …}; renamed last; it alone makes a checkpoint exist
    packs/t<term>-<seq>.pack  the objects that the previous checkpoint did not have
    records/t<term>-<seq>-<n> a page of records that do not change any more (``record_pages``)
    rows/<seq>.jsonl          the rows that the checkpoint added, and a last line with their digest

Opening a tier does not change the disk: readers and the owner use the same class. The first write makes the caller the
owner, who removes what a killed owner left. A kill at any instant leaves either the previous checkpoint or the new
one, complete. Does not protect against two writers: the attempt in the directory's name does (``tier_folders``).

Every name is synced before the manifest's, so this also holds after a power cut, on any POSIX file system
(tests/system/test_power_cut.py). Syncing all directories takes half a millisecond longer than syncing only the
manifest's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from qcity_nb import crashpoints
from qcity_nb.checkpoint.buffer import Buffer
from qcity_nb.checkpoint.storage import manifest as manifests
from qcity_nb.checkpoint.storage import pack, record_pages, rows_file
from qcity_nb.checkpoint.storage.manifest import Manifest, ObjectRef, Page
from qcity_nb.checkpoint.storage.pack_reader import PackReader
from qcity_nb.errors import CheckpointCorrupt, CheckpointError

__all__ = ["KEEP", "SMALL", "LocalTier"]

KEEP = 2
"""How many checkpoints to keep: the newest, and one to fall back to."""
SMALL = 64 << 10
"""Objects of up to this many bytes are moved once, to be with those of similar age; so are packs that small."""
_LIVE_SHARE = 0.5
"""A pack of which less than this share is used is rewritten."""
_PREFIX, _BETWEEN = b'{"digest":"', b'","manifest":'
_DIGEST_SIZE = len(pack.digest(b""))


class LocalTier:
    """Checkpoints of one attempt under ``path``."""

    def __init__(self, path: Path, *, term: int, run_id: str = "", keep: int = KEEP) -> None:
        """Open ``path``; a save keeps the ``keep`` newest checkpoints.

        Args:
            run_id: of the run that the tier belongs to; it goes into every checkpoint.
        """
        if keep < 1:
            raise ValueError(f"keep={keep}: at least the newest is kept")
        self.path = path
        self.term = term
        self.run_id = run_id
        self.keep = keep
        self.skipped: list[str] = []
        """Why the last call of ``newest`` skipped checkpoints, as sentences for the user."""
        self._checkpoints = path / "checkpoints"
        self._packs = path / "packs"
        self._rows = path / "rows"
        self._records = path / record_pages.FOLDER
        self._pages: tuple[Page, ...] = ()
        """Those of the manifest that was read last: the next one has most of them."""
        self._kept: list[Manifest] = []
        """The checkpoints that are kept, newest first, once this is the owner."""
        self._is_owner = False

    # -- read

    def seqs(self) -> list[int]:
        """The numbers of the existing checkpoints, complete or damaged, oldest first."""
        return sorted(_numbers(self._checkpoints, ".json"))

    def load(self, seq: int) -> Manifest:
        """The manifest of checkpoint ``seq``, with its own digest checked.

        Raises:
            CheckpointCorrupt: it does not exist or is damaged.
        """
        path = self._checkpoints / f"{seq}.json"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CheckpointCorrupt(f"checkpoint {path} cannot be read: {error.strerror or error}") from error
        start = len(_PREFIX) + _DIGEST_SIZE + len(_BETWEEN)
        body = data[start:-1]
        if data != _PREFIX + pack.digest(body).encode() + _BETWEEN + body + b"}":
            raise CheckpointCorrupt(f"checkpoint {path} does not match its digest")
        manifest = manifests.loads(body, name=f"checkpoint {path}")
        if manifest.seq != seq:
            raise CheckpointCorrupt(f"checkpoint {path} is number {manifest.seq} under another number's name")
        manifest = record_pages.join(manifest, self._read_page, self._pages)
        self._pages = manifest.pages
        return replace(manifest, text=b"")

    def _read_page(self, name: str) -> bytes:
        try:
            return (self._records / name).read_bytes()
        except OSError as error:
            raise CheckpointCorrupt(f"records {name}: {error.strerror or error}") from error

    def newest(self, *, deep: bool = False) -> Manifest | None:
        """The newest complete checkpoint; ``skipped`` then says what is wrong with newer ones.

        Args:
            deep: read and check every object and the rows, not only that files exist and have the right size.
                ``read`` always checks what it reads.
        """
        self.skipped = []
        for seq in reversed(self.seqs()):
            try:
                manifest = self.load(seq)
                self._check(manifest, deep=deep)
            except CheckpointCorrupt as error:
                # If its owner deleted it meanwhile, nothing is wrong: a newer one has taken its place.
                if (self._checkpoints / f"{seq}.json").exists():
                    self.skipped.append(f"checkpoint {seq} was skipped: {error}")
                continue
            return manifest
        return None

    def _check(self, manifest: Manifest, *, deep: bool) -> None:
        sizes: dict[str, int] = {}
        for ref in manifest.objects.values():
            sizes[ref.pack] = max(sizes.get(ref.pack, 0), ref.offset + ref.size_bytes)
        for name, size in sizes.items():
            try:
                there = (self._packs / name).stat().st_size
            except OSError as error:
                raise CheckpointCorrupt(f"pack {name}: {error.strerror or error}") from error
            if there < size:
                raise CheckpointCorrupt(f"pack {name} has {there} bytes; {size} are needed")
        if manifest.rows_bytes and not (self._rows / f"{manifest.seq}.jsonl").exists():
            raise CheckpointCorrupt(f"its rows ({self._rows / f'{manifest.seq}.jsonl'}) are gone")
        if deep:
            with self.open_reader(manifest) as read:
                read.verify()
            self.rows(manifest.seq)

    @contextlib.contextmanager
    def open_reader(self, manifest: Manifest) -> Iterator[PackReader]:
        """A verified ``read(name)`` that keeps working if the owner deletes the checkpoint meanwhile.

        Raises:
            CheckpointCorrupt: a pack is gone already (call ``newest`` again); raised by ``read``: it is damaged.
        """
        with PackReader(self._packs, manifest.objects) as read:
            yield read

    def pack_path(self, name: str) -> Path:
        """The path of a pack, which may be deleted. A pack that has its name is never written to again."""
        return self._packs / name

    def reader(self, manifest: Manifest) -> PackReader:
        """As ``open_reader``, but it stays open until it is garbage-collected.

        Raises:
            CheckpointCorrupt: a pack is gone already.
        """
        return PackReader(self._packs, manifest.objects)

    def read(self, manifest: Manifest, name: str) -> bytes:
        """One object of a checkpoint, verified.

        Raises:
            CheckpointCorrupt: the pack is gone or damaged.
        """
        ref = _ref(manifest, name)
        return pack.read_object(self._packs / ref.pack, ref, name)

    def objects(self, manifest: Manifest, names: Iterable[str]) -> dict[str, bytes]:
        """Several objects, verified.

        Raises:
            CheckpointCorrupt: a pack is gone or damaged.
        """
        with self.open_reader(manifest) as read:
            return {name: read(name) for name in names}

    def rows(self, seq: int) -> bytes:
        """The rows that checkpoint ``seq`` added, as JSON lines; empty if there are none.

        Raises:
            CheckpointCorrupt: the file is damaged.
        """
        return rows_file.read(self._rows / f"{seq}.jsonl")

    # -- write

    def save(self, manifest: Manifest, objects: Mapping[str, Buffer], rows: bytes, *, prune: bool = True) -> Manifest:
        """Write a checkpoint durably.

        Args:
            manifest: without ``objects``; its ``seq`` is higher than that of the previous checkpoint.
            objects: content by name; may lack what the previous checkpoint has already.
            rows: the rows that this checkpoint adds, as JSON lines.
            prune: delete what is no longer needed before returning; else the caller does so soon.
        Returns: the manifest as written.
        Raises:
            CheckpointError: the disk is full or cannot be written to; the previous checkpoint is untouched.
            CheckpointCorrupt: an object that must be copied from an old pack is damaged on disk.
        """
        crashpoints.hit("local.before")
        self._become_owner()
        if rows and not rows.endswith(b"\n"):
            raise ValueError("rows are whole lines")
        previous = self._kept[0] if self._kept else None
        if previous is not None and manifest.seq <= previous.seq:
            raise ValueError(f"checkpoint {manifest.seq} does not follow {previous.seq}")
        crashpoints.hit("outbox.before")
        self._write_rows(manifest.seq, rows)
        crashpoints.hit("outbox.after")
        try:
            saved = self._write(manifest, objects, previous, rows)
        except BaseException:  # Ctrl-C too: nothing incomplete is left
            with contextlib.suppress(OSError):
                (self._rows / f"{manifest.seq}.jsonl").unlink(missing_ok=True)
            raise
        self._kept = [saved, *self._kept][: self.keep]
        if prune:
            self.prune()
        crashpoints.hit("local.after")
        return saved

    def _write(
        self, manifest: Manifest, objects: Mapping[str, Buffer], previous: Manifest | None, rows: bytes
    ) -> Manifest:
        refs: dict[str, ObjectRef] = {}
        new: dict[str, Buffer] = {}
        old = previous.objects if previous is not None else {}
        for name in dict.fromkeys((*manifest.needs(), *objects)):
            if name in old:
                refs[name] = old[name]
            elif name in objects:
                new[name] = objects[name]
            else:
                raise CheckpointError(
                    f"checkpoint {manifest.seq} names object {name}, which is neither stored nor passed to save()"
                )
        for name in self._sparse(refs):
            ref = refs.pop(name)
            known = objects.get(name)
            new[name] = pack.read_object(self._packs / ref.pack, ref, name) if known is None else known
        pages = previous.pages if previous is not None else ()
        settled = self._move_small(record_pages.closing(manifest, pages), refs, new)
        path = self._packs / f"t{self.term}-{manifest.seq}.pack"
        beside = self._packs / f"t{self.term}-{manifest.seq}-settled.pack"
        try:
            if new:
                refs |= pack.write_pack(path, new, term=self.term)
                crashpoints.hit("local.pack")
            if settled:
                refs |= pack.write_pack(beside, settled, term=self.term)
                crashpoints.hit("local.pack")
            saved = replace(
                manifest,
                run_id=self.run_id,
                objects=refs,
                term=self.term,
                rows_upto=manifest.seq,
                rows_bytes=len(rows),
            )
            return self._write_manifest(saved, pages)
        except BaseException:  # Ctrl-C too: nothing incomplete is left
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
                beside.unlink(missing_ok=True)
            raise

    def _move_small(
        self, names: Iterable[str], refs: dict[str, ObjectRef], new: dict[str, Buffer]
    ) -> dict[str, Buffer]:
        """Take small objects out of ``refs`` and ``new``; returns their content."""
        moved: dict[str, Buffer] = {}
        for name in names:
            if name in new and len(new[name]) <= SMALL:
                moved[name] = new.pop(name)
            elif name in refs and refs[name].size_bytes <= SMALL:
                ref = refs.pop(name)
                moved[name] = pack.read_object(self._packs / ref.pack, ref, name)
        return moved

    def _write_manifest(self, manifest: Manifest, known: Sequence[Page] = ()) -> Manifest:
        stored, pages = record_pages.split(manifest, f"t{self.term}-{manifest.seq}", known)
        for name, content in pages.items():  # left behind by a failure, they are garbage for ``prune``
            pack.write_file(self._records / name, content)
        body = manifests.dumps(stored)
        data = _PREFIX + pack.digest(body).encode() + _BETWEEN + body + b"}"
        pack.write_file(self._checkpoints / f"{manifest.seq}.json", data)
        return replace(manifest, pages=stored.pages, text=b"")

    def _write_rows(self, seq: int, rows: bytes) -> None:
        path = self._rows / f"{seq}.jsonl"
        if rows:
            rows_file.write(path, rows)
        elif path.exists():  # left by a writer that died while it wrote this number
            path.unlink()

    @property
    def stored(self) -> Mapping[str, ObjectRef]:
        """The objects of the newest checkpoint here: they need not be passed to ``save`` again."""
        return self._kept[0].objects if self._kept else {}

    def _sparse(self, refs: Mapping[str, ObjectRef]) -> list[str]:
        """The objects in packs that are mostly unused. In small packs that does not matter."""
        live: dict[str, int] = {}
        for ref in refs.values():
            live[ref.pack] = live.get(ref.pack, 0) + ref.footprint_bytes
        sparse = set()
        for name, size in live.items():
            with contextlib.suppress(OSError):
                whole = (self._packs / name).stat().st_size
                if size < _LIVE_SHARE * whole and whole > SMALL:
                    sparse.add(name)
        return [name for name, ref in refs.items() if ref.pack in sparse]

    def _become_owner(self) -> None:
        """Before the first write: create the directories, and remove unfinished files."""
        if self._is_owner:
            return
        made = [path for path in (self.path, *self.path.parents) if not path.exists()]
        try:
            for folder in (self._checkpoints, self._packs, self._rows, self._records):
                folder.mkdir(parents=True, exist_ok=True)
                for file in folder.glob("*" + pack.TEMPORARY):
                    file.unlink(missing_ok=True)
            for folder in (self.path, *(path.parent for path in made)):
                pack.sync_directory(folder)
        except OSError as error:
            raise CheckpointError(
                f"cannot write to {self.path}: {error.strerror or error}; set another `local_dir`"
            ) from error
        # Deep: later checkpoints reuse its objects, which must not be damaged.
        newest = self.newest(deep=True)
        if newest is not None:
            self._kept = [newest]
            for seq in reversed(self.seqs()):
                if seq < newest.seq and len(self._kept) < self.keep:
                    with contextlib.suppress(CheckpointCorrupt):
                        self._kept.append(self.load(seq))
        self._is_owner = True

    def prune(self) -> None:
        """Delete what none of the kept checkpoints needs. A failure only leaves garbage for later.

        Does nothing before the first save: it is not known yet what to keep.
        """
        kept = self._kept
        if not kept:
            return
        seqs = {manifest.seq for manifest in kept}
        packs = {ref.pack for manifest in kept for ref in manifest.objects.values()}
        with contextlib.suppress(OSError):
            for seq in self.seqs():
                if seq not in seqs:
                    (self._checkpoints / f"{seq}.json").unlink(missing_ok=True)
            for file in self._packs.glob("*.pack"):
                if file.name not in packs:
                    file.unlink(missing_ok=True)
            pages = {page.name for manifest in kept for page in manifest.pages}
            for file in self._records.iterdir():
                if file.name not in pages:
                    file.unlink(missing_ok=True)

    def drop_rows(self, upto: int) -> None:
        """Remove the rows of checkpoints up to ``upto``: the tracker or the store has them.

        Rows of checkpoints that still exist are kept, since these are incomplete without them.
        """
        existing = set(self.seqs())
        for seq in _numbers(self._rows, ".jsonl"):
            if seq <= upto and seq not in existing:
                with contextlib.suppress(OSError):
                    (self._rows / f"{seq}.jsonl").unlink(missing_ok=True)

    def import_from(self, manifest: Manifest, read: Callable[[str], bytes], rows: Mapping[int, bytes]) -> Manifest:
        """Copy a checkpoint of the store, or of an earlier term, as the first one of this tier.

        It keeps its ``seq``; its objects are written to a pack of this term.

        Args:
            read: returns an object by name, verified.
            rows: by seq, rows that the tracker may not have yet.
        Raises:
            CheckpointError: the disk is full or cannot be written to.
            CheckpointCorrupt: raised by ``read``; nothing is left on the disk.
        """
        crashpoints.hit("local.before")
        self._become_owner()
        if self._kept:
            raise ValueError(f"{self.path} has checkpoints of its own")
        written = []
        try:
            for seq, data in sorted(rows.items()):
                written.append(seq)
                self._write_rows(seq, data)
            refs = pack.write_pack(
                self._packs / f"t{self.term}-{manifest.seq}.pack",
                pack.Lazy(manifest.objects, read),
                term=self.term,
                size=manifest.size_bytes,
            )
            crashpoints.hit("local.pack")
            rows_bytes = len(rows.get(manifest.seq, b""))
            saved = replace(manifest, run_id=self.run_id, objects=refs, term=self.term, rows_bytes=rows_bytes)
            saved = self._write_manifest(saved)
        except BaseException:  # Ctrl-C too: nothing incomplete is left
            with contextlib.suppress(OSError):
                (self._packs / f"t{self.term}-{manifest.seq}.pack").unlink(missing_ok=True)
                for seq in written:
                    (self._rows / f"{seq}.jsonl").unlink(missing_ok=True)
            raise
        self._kept = [saved]
        self.prune()
        crashpoints.hit("local.after")
        return saved


def _ref(manifest: Manifest, name: str) -> ObjectRef:
    try:
        return manifest.objects[name]
    except KeyError:
        raise CheckpointCorrupt(f"checkpoint {manifest.seq} has no object {name}") from None


def _numbers(folder: Path, suffix: str) -> list[int]:
    """The numbers that are names of files in a folder; other names (temporary files) are ignored."""
    try:
        names = [file.name for file in folder.iterdir()]
    except OSError:
        return []
    return [int(stem) for name in names if name.endswith(suffix) and (stem := name[: -len(suffix)]).isdecimal()]
