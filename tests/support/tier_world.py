"""Small checkpoints whose bytes are known by number, what must be true of a tier with them, and planted faults."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from qcity_nb.checkpoint.buffer import Buffer
from qcity_nb.checkpoint.digest import name_of
from qcity_nb.checkpoint.storage import manifest as manifests
from qcity_nb.checkpoint.storage import pack
from qcity_nb.checkpoint.storage.local_tier import LocalTier
from qcity_nb.checkpoint.storage.manifest import LoopRecord, Manifest
from qcity_nb.errors import CheckpointCorrupt

TERM = 1
LARGE = 100


def _bytes(seed: object, size: int) -> bytes:
    return random.Random(repr(seed)).randbytes(size)


def name(data: bytes) -> str:
    """How the tier names a content."""
    return name_of(data)


@functools.cache
def contents(seq: int) -> tuple[bytes, ...]:
    """The objects of a checkpoint: one that stays, one that lives for two checkpoints, one that changes, a small one.

    Sized so that of any two checkpoints in a row one carries over and the other writes a mostly dead pack again. From
    ``LARGE`` on they are megabytes, which an engine may write in another way.
    """
    if seq >= LARGE:
        return _bytes("large", 100_000), _bytes(("large", seq), 4_300_001), b"%d" % seq
    return _bytes("same", 6000), _bytes(("half", seq // 2), 4500), _bytes(seq, 3000), b"%d" % seq


@functools.cache
def _objects(seq: int) -> Mapping[str, bytes]:
    return {name(data): data for data in contents(seq)}


def objects(seq: int) -> dict[str, bytes]:
    """By name."""
    return dict(_objects(seq))


def rows(seq: int) -> bytes:
    """Of some checkpoints there are none."""
    return b"" if seq % 4 == 0 else b'{"seq":%d}\n' % seq * 3


def record(seq: int) -> Manifest:
    """The manifest as it is handed to ``save``."""
    loop = LoopRecord(key="cell/0", done=seq, count=seq, outputs=tuple(objects(seq)))
    return Manifest(run="r", term=TERM, seq=seq, step=seq, loops=(loop,), logged={"x": (seq, 5)})


def save(tier: LocalTier, seq: int) -> Manifest:
    """Checkpoint ``seq``; of the objects that the one before holds, half are not passed again."""
    content = objects(seq)
    before = tier.newest(deep=True) if seq % 2 else None
    if before is not None and before.seq < seq:
        for name in set(content) & set(before.objects):
            del content[name]
    return tier.save(record(seq), content, rows(seq))


def restore(tier: LocalTier, seq: int) -> Manifest:
    """Checkpoint ``seq`` and its rows, from a tier of the previous term that is not on the disk."""
    refs = {
        name: pack.ObjectRef(pack="gone.pack", offset=0, size_bytes=len(data)) for name, data in objects(seq).items()
    }
    manifest = manifests.loads(manifests.dumps(_with(record(seq), refs)))
    row_blocks = {number: rows(number) for number in (seq - 1, seq)}
    return tier.import_from(manifest, objects(seq).__getitem__, row_blocks)


def _with(manifest: Manifest, refs: Mapping[str, pack.ObjectRef]) -> Manifest:
    return replace(manifest, objects=refs, rows_upto=manifest.seq, rows_bytes=len(rows(manifest.seq)))


@contextlib.contextmanager
def memory_directory() -> Iterator[Path]:
    """A directory that costs no disk, where there is one: thousands of states are built and removed."""
    shared = Path("/dev/shm")
    where = shared if os.access(shared, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="qcity-tier-", dir=where) as folder:
        yield Path(folder)


Say = Callable[[str], object]
"""Where a workload says "began 3", "saved 3" (acknowledged) and "dropped 1" (rows up to there)."""


def resume(path: Path, say: Say, *, count: int = 4, start: int = 1, make: type[LocalTier] = LocalTier) -> None:
    """So many checkpoints, after the newest that is there."""
    tier = make(path, term=TERM)
    newest = tier.newest()
    first = start if newest is None else newest.seq + 1
    for seq in range(first, first + count):
        say(f"began {seq}")
        save(tier, seq)
        say(f"saved {seq}")
        if seq % 4 == 3:
            say(f"dropped {seq - 2}")
            tier.drop_rows(seq - 2)


def begin_with_restored(path: Path, say: Say) -> None:
    """A tier whose first checkpoint comes from the previous term."""
    say("dropped 5")
    say("began 7")
    restore(LocalTier(path, term=TERM), 7)
    say("saved 7")
    resume(path, say, count=1)


def highest(lines: Iterable[str], word: str) -> int:
    """The highest number that a workload said this word with; 0: none."""
    return max((int(text.split()[1]) for text in lines if text.startswith(word)), default=0)


def check(tier: LocalTier, actual: Manifest, seq: int) -> None:
    """It is checkpoint ``seq``, to the last bit, however it is read."""
    expected = record(seq)
    fields = [(each.seq, each.step, each.loops, each.logged) for each in (actual, expected)]
    assert fields[0] == fields[1], f"checkpoint {seq} says {fields[0]}"
    with tier.open_reader(actual) as read:
        for name, data in objects(seq).items():
            assert read(name) == data == tier.read(actual, name), f"wrong bytes in checkpoint {seq}"
    assert tier.rows(seq) == rows(seq), f"wrong rows in checkpoint {seq}"


def check_readers(tier: LocalTier) -> None:
    """Whatever is there, whole or not: right bytes, or an error that says that they are not."""
    for seq in tier.seqs():
        with contextlib.suppress(CheckpointCorrupt):
            assert tier.rows(seq) in (rows(seq), b""), f"wrong rows in checkpoint {seq}"
        with contextlib.suppress(CheckpointCorrupt):
            loaded = tier.load(seq)
            assert loaded.seq == seq, f"checkpoint {loaded.seq} under the name of {seq}"
            for name, data in objects(seq).items():
                with contextlib.suppress(CheckpointCorrupt):
                    assert tier.read(loaded, name) == data, f"wrong bytes in checkpoint {seq}"


def files(path: Path) -> list[str]:
    """All files of a tier."""
    return sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())


def leaked(path: Path) -> list[str]:
    """Files that no checkpoint needs; the rows of checkpoints that are gone are the drain's to drop."""
    tier = LocalTier(path, term=TERM)
    needed = {f"checkpoints/{seq}.json" for seq in tier.seqs()}
    needed |= {f"packs/{ref.pack}" for seq in tier.seqs() for ref in tier.load(seq).objects.values()}
    return sorted(
        name for name in set(files(path)) - needed if not name.startswith("rows/") or not name.endswith(".jsonl")
    )


def check_left(
    path: Path,
    lowest: int,
    highest: int,
    *,
    rows_from: int = 1,
    make: type[LocalTier] = LocalTier,
    gap: int = 1,
) -> int:
    """Check a tier after a death: its newest checkpoint is one of ``lowest`` to ``highest`` (0: none), and it can save.

    Args:
        gap: the next save has so much higher a number; with 1, names that were begun occur again. 0: no next save.
        rows_from: rows of checkpoints before this one may be gone: they were dropped, or never there.
    Returns: which one it is.
    """
    tier = make(path, term=TERM)
    check_readers(tier)
    left = tier.newest(deep=True)
    seq = 0 if left is None else left.seq
    assert lowest <= seq <= highest, (
        f"checkpoint {seq} was found; {lowest} was acknowledged, {highest} begun; {tier.skipped}"
    )
    if left is not None:
        check(tier, left, seq)
        for number in range(rows_from, seq):
            assert tier.rows(number) == rows(number), f"checkpoint {seq} is there, the rows of {number} before it not"
    if gap:
        check(tier, save(tier, seq + gap), seq + gap)
        again = make(path, term=TERM)
        newest = again.newest(deep=True)
        assert newest is not None, f"checkpoint {seq + gap} was saved and is not there: {again.skipped}"
        check(again, newest, seq + gap)
        assert not again.skipped, again.skipped
        assert not leaked(path), f"leaked: {leaked(path)}"
    return seq


# -- planted faults: what an engine would do wrong


class Hasty(LocalTier):
    """Drops what is there before the next is written."""

    def save(self, manifest: Manifest, objects: Mapping[str, Buffer], rows: bytes, *, prune: bool = True) -> Manifest:
        if manifest.seq > 1:
            (self.path / "checkpoints" / f"{manifest.seq - 1}.json").unlink(missing_ok=True)
        return super().save(manifest, objects, rows, prune=prune)


class Trusting(LocalTier):
    """Hands out what the disk holds, unchecked."""

    @contextlib.contextmanager
    def open_reader(self, manifest: Manifest) -> Iterator[Any]:
        def read(name: str) -> bytes:
            return self.read(manifest, name)

        read.verify = lambda: None  # type: ignore[attr-defined]  # as a PackReader has it
        yield read

    def read(self, manifest: Manifest, name: str) -> bytes:
        ref = manifest.objects[name]
        try:
            data = (self.path / "packs" / ref.pack).read_bytes()
        except OSError as error:
            raise CheckpointCorrupt(ref.pack) from error
        return data[ref.offset : ref.offset + ref.size_bytes]


def _is_file(descriptor: int) -> bool:
    return stat.S_ISREG(os.fstat(descriptor).st_mode)


@contextlib.contextmanager
def syncs_dropped(which: str) -> Iterator[None]:
    """Syncs of ``files`` or ``directories`` are left out. Inside a recorder: it does not see them."""
    real = {name: getattr(os, name) for name in ("fsync", "fdatasync")}

    def without(name: str) -> Callable[[int], None]:
        def call(descriptor: int) -> None:
            if _is_file(descriptor) != (which == "files"):
                real[name](descriptor)

        return call

    with mock.patch.multiple(os, fsync=without("fsync"), fdatasync=without("fdatasync")):
        yield


@contextlib.contextmanager
def synced_late() -> Iterator[None]:
    """Each file is synced only when the next one gets its name. (Right after its own would do no harm here.)"""
    fsync, close = os.fsync, os.close
    late: list[int] = []
    """To be synced, and then closed."""
    named: list[int] = []

    def sync(real: Callable[[int], None]) -> Callable[[int], None]:
        def call(descriptor: int) -> None:
            if _is_file(descriptor):
                late.append(descriptor)
            else:
                real(descriptor)

        return call

    def closed(descriptor: int) -> None:
        if descriptor not in late and descriptor not in named:
            close(descriptor)

    def moved(real: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any) -> None:
            for descriptor in named:
                fsync(descriptor)
                close(descriptor)
            real(*args)
            named[:] = late
            late.clear()

        return call

    with mock.patch.multiple(
        os,
        fsync=sync(fsync),
        fdatasync=sync(os.fdatasync),
        close=closed,
        rename=moved(os.rename),
        replace=moved(os.replace),
    ):
        yield
    for descriptor in (*late, *named):
        close(descriptor)


@contextlib.contextmanager
def nothing_removed() -> Iterator[None]:
    """No file is ever unlinked."""

    def keep(path: object, **rest: object) -> None:
        return

    with mock.patch.multiple(os, unlink=keep, remove=keep):
        yield


PLANTS: Mapping[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "files are not synced": lambda: syncs_dropped("files"),
    "directories are not synced": lambda: syncs_dropped("directories"),
    "files are synced late": synced_late,
}


def write_large(path: Path, say: Say) -> None:
    """Two checkpoints of megabytes."""
    say(f"dropped {LARGE - 1}")
    resume(path, say, count=2, start=LARGE)


WORKLOADS: dict[str, Callable[[Path, Say], None]] = {"resume": resume, "restored": begin_with_restored}
OTHERS: dict[str, Callable[[Path, Say], None]] = {"large": write_large}
PLANTED: dict[str, Callable[[Path, Say], None]] = {"hasty": functools.partial(resume, make=Hasty)}
