"""The checkpoints of a run, wherever they are: in the store and in this host's local tier.

Both hold the same checkpoint under one number. Copies are matched by number and time, since a superseded attempt may
have made another checkpoint of that number. Reading verifies digests, so no damaged byte is returned. Nothing here
changes a run, and the run may be active: what its holder drops meanwhile counts as gone, not as damaged.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qcity_nb.checkpoint.encode import decode_state
from qcity_nb.checkpoint.state.stand_ins import load_anyway
from qcity_nb.checkpoint.storage.local_tier import LocalTier
from qcity_nb.checkpoint.storage.manifest import LoopRecord, Manifest
from qcity_nb.checkpoint.storage.tier_folders import list_tiers
from qcity_nb.codec import DecodeError
from qcity_nb.errors import CheckpointCorrupt, CheckpointError, Missing, UsageError
from qcity_nb.ports import Store
from qcity_nb.published.read import check_signed, manifest_of, reader
from qcity_nb.records import CheckpointRef
from qcity_nb.run import lease

__all__ = ["Catalog", "Checkpoint", "Copy", "Verdict", "loop_of", "size_to_read"]

_LOOKS = 3
"""How often the run record is read again after its holder dropped an object that it named."""

Read = Callable[[str], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """One copy of a checkpoint."""

    where: str
    """``store``, or ``local`` and the number of the attempt whose tier it is."""
    seq: int
    manifest: Manifest | None = None
    trouble: str = ""
    """Why there is no manifest; empty: there is one."""
    ref: CheckpointRef | None = None
    tier: LocalTier | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint and its copies, at least one."""

    copies: tuple[Copy, ...]
    new_bytes: int | None = None
    """Bytes that the previous checkpoint did not have; ``None``: not known any more."""

    @property
    def seq(self) -> int:
        """Its number."""
        return self.copies[0].seq

    @property
    def manifest(self) -> Manifest | None:
        """The manifest of the first copy that has one."""
        return next((copy.manifest for copy in self.copies if copy.manifest), None)

    @property
    def ref(self) -> CheckpointRef | None:
        """The run record's reference to it; ``None`` if the run record does not name it."""
        return next((copy.ref for copy in self.copies if copy.ref), None)

    @property
    def term(self) -> int:
        """The term of the attempt that made it; a successor's copy has the successor's term."""
        return min(copy.manifest.term if copy.manifest else copy.ref.term if copy.ref else 0 for copy in self.copies)

    @property
    def at(self) -> str:
        """When it was made, as ISO time."""
        return self.manifest.at if self.manifest else self.ref.at if self.ref else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The result of reading one copy."""

    seq: int
    where: str
    count: int = 0
    """Objects that were read and match their digests."""
    damage: tuple[str, ...] = field(default_factory=tuple)


class Catalog:
    """The checkpoints of one run.

    Args:
        local_dir: where this host's local tier is (the setting of that name).
    """

    def __init__(self, store: Store, run: str, local_dir: Path) -> None:
        self._store = store
        self._run = run
        self._local_dir = local_dir
        self._run_id = ""

    def checkpoints(self) -> list[Checkpoint]:
        """All of them, newest first.

        Raises:
            StoreUnavailable, UnknownRun, HeadCorrupt: the run record cannot be read.
        """
        groups: dict[tuple[int, str], list[Copy]] = {}
        for copy in (*self._list_published(), *self._list_local()):
            # A damaged copy has no time. It is listed alone, since whose copy it is cannot be known.
            time = copy.manifest.at if copy.manifest else copy.where
            groups.setdefault((copy.seq, time), []).append(copy)
        listed = [Checkpoint(copies=tuple(copies)) for copies in groups.values()]
        # Of two checkpoints with one number, the published one comes first, then that of the later attempt.
        listed.sort(
            key=lambda each: (-each.seq, each.ref is None, -max(c.tier.term if c.tier else 0 for c in each.copies))
        )
        return [
            Checkpoint(copies=each.copies, new_bytes=_count_new_bytes(each, listed[place + 1 :]))
            for place, each in enumerate(listed)
        ]

    def _list_published(self) -> list[Copy]:
        for look in range(_LOOKS):
            head = lease.read(self._store, self._run).head
            self._run_id = head.id
            copies = []
            is_gone = False
            for ref in head.checkpoints:
                copy = Copy(where="store", seq=ref.seq, ref=ref)
                try:
                    copy = Copy(where="store", seq=ref.seq, ref=ref, manifest=manifest_of(self._store, self._run, ref))
                except Missing as error:
                    is_gone = True
                    copy = Copy(where="store", seq=ref.seq, ref=ref, trouble=str(error))
                except (CheckpointError, DecodeError) as error:
                    copy = Copy(where="store", seq=ref.seq, ref=ref, trouble=str(error))
                copies.append(copy)
            if not is_gone or look == _LOOKS - 1:
                return copies
        raise AssertionError("the last turn returns")

    def _list_local(self) -> Iterator[Copy]:
        for folder in list_tiers(self._local_dir, self._run, self._run_id):
            tier = LocalTier(folder.path, term=folder.term)
            for seq in reversed(tier.seqs()):
                where = f"local (attempt {folder.term})"
                try:
                    yield Copy(where=where, seq=seq, tier=tier, manifest=tier.load(seq))
                except CheckpointCorrupt as error:
                    if seq in tier.seqs():  # else its attempt dropped it meanwhile
                        yield Copy(where=where, seq=seq, tier=tier, trouble=str(error))

    def find(self, text: str) -> Checkpoint:
        """The checkpoint that ``text`` names: a number, ``newest`` or ``previous``.

        Raises:
            UsageError: there is none; the message lists those that there are.
        """
        checkpoints = self.checkpoints()
        if not checkpoints:
            raise UsageError(f"{self._run} has no checkpoint yet")
        names = {"newest": 0, "previous": 1}
        if text in names:
            seqs = list(dict.fromkeys(checkpoint.seq for checkpoint in checkpoints))
            if names[text] >= len(seqs):
                raise UsageError(f"{self._run} has only one checkpoint, {seqs[0]}")
            text = str(seqs[names[text]])
        for checkpoint in checkpoints:
            if str(checkpoint.seq) == text:
                return checkpoint
        there = ", ".join(str(checkpoint.seq) for checkpoint in checkpoints)
        raise UsageError(f"{self._run} has no checkpoint {text!r}; there are {there}, newest and previous")

    @contextlib.contextmanager
    def incoming(self) -> Iterator[Path]:
        """A directory for packs of the store while they are read: in ``local_dir``, else among temporary files.

        Raises:
            CheckpointError: the disk is full.
        """
        try:
            self._local_dir.mkdir(parents=True, exist_ok=True)
            made = tempfile.TemporaryDirectory(prefix="read-", dir=self._local_dir)
        except OSError:
            made = tempfile.TemporaryDirectory(prefix="qcity-read-")
        with made as folder:
            try:
                yield Path(folder)
            except OSError as error:
                raise CheckpointError(f"packs cannot be kept in {folder}: {error.strerror or error}") from error

    def _open(self, copy: Copy, incoming: Path, stack: contextlib.ExitStack) -> Read:
        assert copy.manifest is not None
        if copy.tier is not None:
            return stack.enter_context(copy.tier.open_reader(copy.manifest))
        return reader(self._store, self._run, copy.manifest, incoming)

    def state(self, checkpoint: Checkpoint, loop: str, incoming: Path) -> Any:
        """A loop's state as new objects, from the first undamaged copy; local copies are tried first.

        Objects of classes that only the notebook defines are stand-ins.

        Args:
            loop: the loop's key.
        Raises:
            CheckpointError: no copy is undamaged, or a class that the state needs cannot be imported.
            CheckpointUntrusted: the store's copy is not trusted.
            UsageError: the checkpoint has no state of such a loop.
        """
        trouble: Exception | None = None
        for copy in sorted(checkpoint.copies, key=lambda copy: copy.tier is None):
            if copy.manifest is None:
                trouble = CheckpointCorrupt(f"checkpoint {copy.seq} in {copy.where} is damaged: {copy.trouble}")
                continue
            record = next((record for record in copy.manifest.loops if record.key == loop), None)
            if record is None or record.state is None:
                raise UsageError(f"checkpoint {checkpoint.seq} has no state of a loop {loop!r}")
            if copy.tier is None:
                check_signed(self._store, self._run, copy.manifest)
            try:
                with contextlib.ExitStack() as stack:
                    # Buffers are read during loading, so damage may show only then.
                    return load_anyway(decode_state(record.state, self._open(copy, incoming, stack)))
            except (CheckpointCorrupt, Missing) as error:
                trouble = CheckpointCorrupt(f"checkpoint {copy.seq} in {copy.where} is damaged or gone: {error}")
        assert trouble is not None
        raise trouble

    def verify(
        self, checkpoints: Sequence[Checkpoint], *, see: Callable[[int], None] = lambda size_bytes: None
    ) -> Iterator[Verdict]:
        """Read every object of every copy, and report what does not match its digest.

        An object that several checkpoints share is read once in each place.

        Args:
            see: called with each object's size, once it has been read.
        """
        known: dict[tuple[str, str, int, str], str] = {}
        with self.incoming() as incoming:
            for checkpoint in checkpoints:
                for copy in checkpoint.copies:
                    # One copy's packs on the disk at a time; objects shared with later copies were read with the first.
                    with tempfile.TemporaryDirectory(dir=incoming) as folder:
                        verdict = self._verdict(copy, Path(folder), known, see)
                    if not (verdict.damage and self._is_dropped(copy)):
                        yield verdict

    def _verdict(
        self, copy: Copy, incoming: Path, known: dict[tuple[str, str, int, str], str], see: Callable[[int], None]
    ) -> Verdict:
        if copy.manifest is None:
            return Verdict(seq=copy.seq, where=copy.where, damage=(copy.trouble,))
        damage: dict[str, None] = {}
        with contextlib.ExitStack() as stack:
            try:
                read = self._open(copy, incoming, stack)
            except CheckpointCorrupt as error:
                return Verdict(seq=copy.seq, where=copy.where, damage=(str(error),))
            count = 0
            for name, place in copy.manifest.objects.items():
                key = (copy.where, place.pack, place.offset, name)
                if key not in known:
                    known[key] = ""
                    try:
                        read(name)
                    except (CheckpointCorrupt, Missing) as error:
                        known[key] = str(error)
                    see(place.size_bytes)
                if known[key]:
                    damage[known[key]] = None
                else:
                    count += 1
            if copy.tier is not None:
                try:
                    copy.tier.rows(copy.seq)
                except CheckpointCorrupt as error:
                    damage[str(error)] = None
        return Verdict(seq=copy.seq, where=copy.where, count=count, damage=tuple(damage))

    def _is_dropped(self, copy: Copy) -> bool:
        """Was it dropped while it was read?"""
        if copy.tier is not None:
            return copy.seq not in copy.tier.seqs()
        named = lease.read(self._store, self._run).head.checkpoints
        return all(copy.ref is None or ref.name != copy.ref.name for ref in named)


def size_to_read(checkpoints: Sequence[Checkpoint]) -> int:
    """Bytes that ``Catalog.verify`` is going to read."""
    sizes: Mapping[tuple[str, str, int, str], int] = {
        (copy.where, place.pack, place.offset, name): place.size_bytes
        for checkpoint in checkpoints
        for copy in checkpoint.copies
        if copy.manifest
        for name, place in copy.manifest.objects.items()
    }
    return sum(sizes.values())


def _count_new_bytes(checkpoint: Checkpoint, older: Sequence[Checkpoint]) -> int | None:
    """What it added: as the run record says, else compared with the next older checkpoint that still exists."""
    if checkpoint.ref is not None:
        return checkpoint.ref.size_bytes
    before = next((other.manifest for other in older if other.seq < checkpoint.seq and other.manifest), None)
    if checkpoint.manifest is None or before is None:
        return None
    return sum(ref.size_bytes for name, ref in checkpoint.manifest.objects.items() if name not in before.objects)


def loop_of(manifest: Manifest, name: str | None) -> LoopRecord:
    """The loop of that name or key; without a name, the only one that has a state.

    Raises:
        UsageError: none, or more than one; the message lists what there is.
    """
    loops = [loop for loop in manifest.loops if loop.state is not None]
    matches = [loop for loop in loops if name is None or name == loop.key]
    matches = matches or [loop for loop in loops if name == loop.name]
    if len(matches) == 1:
        return matches[0]
    there = ", ".join(sorted(loop.key for loop in loops)) or "none"
    raise UsageError(f"checkpoint {manifest.seq}: name one of its loops with --loop: {there}")
