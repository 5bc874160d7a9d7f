"""A disk that refuses, writes short or damages: no reader gets wrong bytes, the newest whole checkpoint restores."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tier_world as world

from qcity_nb.checkpoint.state.pickling import Buffer
from qcity_nb.checkpoint.storage import pack
from qcity_nb.checkpoint.storage.local_tier import LocalTier
from qcity_nb.checkpoint.storage.manifest import Manifest
from qcity_nb.errors import CheckpointCorrupt, CheckpointError
from qcity_nb.testing.disk import Call, Recorder

SEED = 17
MOST = 60
"""More operations than one save has."""


@pytest.fixture
def folder() -> Iterator[Path]:
    with world.memory_directory() as path:
        yield path


# -- the disk refuses

GROWING = ("create", "mkdir", "write", "allocate", "resize")
FAULTS: dict[str, tuple[int, tuple[str, ...]]] = {
    "no space": (errno.ENOSPC, GROWING),
    "no sync": (errno.EIO, ("sync",)),
    "no names": (errno.EIO, ("rename", "link", "unlink")),
}


def refuse(code: int, kinds: tuple[str, ...], at: int, *, is_lasting: bool) -> Callable[[Call], None]:
    """The call of these kinds number ``at`` fails, and with ``is_lasting`` all later ones."""
    count = 0

    def before(call: Call) -> None:
        nonlocal count
        if call.kind in kinds:
            count += 1
            if count == at or (is_lasting and count > at):
                raise OSError(code, os.strerror(code), call.path)

    return before


@pytest.mark.parametrize("is_lasting", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("seq", [1, 3])
def test_a_disk_that_refuses_any_operation(folder: Path, fault: str, seq: int, is_lasting: bool) -> None:
    """The n-th of each kind, for all n; then the same process continues, or another one."""
    code, kinds = FAULTS[fault]
    refused = 0
    for at in range(1, MOST):
        root = folder / f"{at}"
        root.mkdir()
        tier = LocalTier(root / "1", term=world.TERM)
        with Recorder(root, is_syncing=False) as disk:
            for earlier in range(1, seq):
                world.save(tier, earlier)
            disk.before = refuse(code, kinds, at, is_lasting=is_lasting)
            start = disk.count
            try:
                world.save(tier, seq)
                saved = seq
            except CheckpointError:
                saved = seq - 1
            calls = disk.count - start
            disk.before = None
            world.check_readers(tier)
            after = shutil.copytree(root, folder / f"{at}-copy")
            world.check_left(after / "1", saved, seq, gap=1 + at % 2)
            newest = LocalTier(root / "1", term=world.TERM).newest(deep=True)
            assert (newest.seq if newest else 0) in (saved, seq)
            world.check(tier, world.save(tier, seq + 1), seq + 1)
            world.check_left(root / "1", seq + 1, seq + 1, rows_from=seq + 1)
        refused += saved < seq
        if at > calls:
            break
    assert at > calls, f"a save has {calls} operations, more than were tried"
    assert refused or fault == "no names", "nothing was refused"


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_writes_that_are_all_short(folder: Path, share: float) -> None:
    tier = LocalTier(folder / "1", term=world.TERM)
    writes = 0

    def before(call: Call) -> int | None:
        nonlocal writes
        writes += call.kind == "write"
        return max(int(call.size_bytes * share), 512)

    with Recorder(folder, before=before, is_syncing=False):
        for seq in (1, 2, 3):
            world.check(tier, world.save(tier, seq), seq)
    assert writes > (30 if share == 0 else 9)
    world.check_left(folder / "1", 3, 3)


def filling(at: int) -> Callable[[Call], int | None]:
    """A disk that is full after some bytes of call number ``at``."""
    count = 0

    def before(call: Call) -> int | None:
        nonlocal count
        count += call.kind in GROWING
        if call.kind in GROWING and count > at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return call.size_bytes // 3 if count == at else None

    return before


def test_a_short_write_before_a_full_disk(folder: Path) -> None:
    for at in range(1, MOST):
        root = folder / f"{at}"
        root.mkdir()
        tier = LocalTier(root / "1", term=world.TERM)
        with Recorder(root, is_syncing=False) as disk:
            world.save(tier, 1)
            disk.before = filling(at)
            try:
                world.save(tier, 2)
                break
            except CheckpointError:
                world.check_left(root / "1", 1, 1, gap=0)
                assert not [name for name in world.leaked(root / "1") if name.endswith(".tmp")]
    assert 2 < at < MOST - 1


def test_short_writes_of_large_files(tmp_path: Path) -> None:
    """On the real disk, where they may be written past the page cache."""
    sizes = random.Random(SEED)

    def before(call: Call) -> int | None:
        return max(sizes.randrange(call.size_bytes + 1), 1 << 18)

    tier = LocalTier(tmp_path / "1", term=world.TERM)
    with Recorder(tmp_path, before=before, is_syncing=False):
        for seq in (world.LARGE, world.LARGE + 1):
            world.check(tier, world.save(tier, seq), seq)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_disk_that_fills_up_under_a_large_file(tmp_path: Path, at: int) -> None:
    tier = LocalTier(tmp_path / "1", term=world.TERM)
    with Recorder(tmp_path, is_syncing=False) as disk:
        world.save(tier, 1)
        writes = 0

        def before(call: Call) -> int | None:
            nonlocal writes
            writes += call.kind == "write" and ".pack" in call.path
            if writes > at and call.kind in GROWING:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return 1_000_000

        disk.before = before
        with pytest.raises(CheckpointError, match="space"):
            world.save(tier, world.LARGE)
    assert not world.leaked(tier.path)
    world.check_left(tier.path, 1, 1)


def test_a_file_system_without_direct_writes_or_preallocation(tmp_path: Path) -> None:
    def before(call: Call) -> None:
        if call.is_direct or call.kind == "allocate":
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    with Recorder(tmp_path, before=before, is_syncing=False):
        tier = LocalTier(tmp_path / "1", term=world.TERM)
        for seq in (1, world.LARGE):
            world.check(tier, world.save(tier, seq), seq)
    world.check_left(tmp_path / "1", world.LARGE, world.LARGE, rows_from=world.LARGE)


def test_rows_of_a_dead_writer_are_not_another_checkpoints(folder: Path) -> None:
    """A writer dies between its rows and its manifest; the next checkpoint of that number adds no rows."""
    tier = LocalTier(folder / "1", term=world.TERM)
    world.save(tier, 3)
    (tier.path / "rows" / "4.jsonl").write_bytes((tier.path / "rows" / "3.jsonl").read_bytes())
    assert not world.rows(4)
    again = LocalTier(folder / "1", term=world.TERM)
    world.save(again, 4)
    assert again.rows(4) == b""


# -- the disk damages


def two(folder: Path) -> tuple[LocalTier, dict[str, bytes]]:
    """A tier with two checkpoints, and its files."""
    tier = LocalTier(folder / "1", term=world.TERM)
    for seq in (1, 2):
        world.save(tier, seq)
    return tier, {name: (tier.path / name).read_bytes() for name in world.files(tier.path)}


def floor(tier: LocalTier, name: str) -> int:
    """The checkpoint that must survive damage to one file: the newest that does not need it."""
    needs = {
        seq: {f"packs/{ref.pack}" for ref in tier.load(seq).objects.values()}
        | {f"checkpoints/{seq}.json", f"rows/{seq}.jsonl"}
        for seq in tier.seqs()
    }
    return max((seq for seq, names in needs.items() if name not in names), default=0)


def positions(size: int, rng: random.Random) -> list[int]:
    """All bytes of a small file; of a bigger one its ends, and some."""
    if size <= 1500:
        return list(range(size))
    return sorted({*range(64), *range(size - 448, size), *rng.sample(range(size), 200)})


def boundaries(data: bytes, name: str, tier: LocalTier, rng: random.Random) -> list[int]:
    """Where a torn file may end: between its parts, at pages, near its end, and anywhere."""
    size = len(data)
    places = {*range(0, size, 4096), *range(min(24, size)), *range(max(0, size - 48), size)}
    for seq in tier.seqs():
        for ref in tier.load(seq).objects.values():
            if f"packs/{ref.pack}" == name:
                places |= {ref.offset - 1, ref.offset, ref.offset + 1, ref.offset + ref.size_bytes}
    places |= {rng.randrange(size) for _ in range(15)}
    return sorted(at for at in places if 0 <= at < size)


def check_damaged(tier: LocalTier, name: str, lowest: int, make: type[LocalTier] = LocalTier) -> None:
    world.check_left(tier.path, lowest, 2, gap=0, rows_from=3, make=make)
    if name.endswith(".pack"):
        with contextlib.suppress(CheckpointCorrupt):
            term, refs = pack.read_index(tier.path / name)
            assert term == world.TERM
            for name_of_object in refs:
                with contextlib.suppress(CheckpointCorrupt):
                    data = pack.read_object(tier.path / name, refs[name_of_object], name_of_object)
                    assert data in (*world.contents(1), *world.contents(2))


def flip(folder: Path, what: str = "", make: type[LocalTier] = LocalTier, *, is_exhaustive: bool = False) -> None:
    """One bit of each byte of the files whose name begins with ``what``; or each of the eight, one after the other."""
    tier, files = two(folder)
    rng = random.Random(SEED)
    for name, data in files.items():
        lowest = floor(tier, name)
        with (tier.path / name).open("r+b", buffering=0) as file:
            for at in positions(len(data), rng) if name.startswith(what) else ():
                for bit in range(8) if is_exhaustive else [rng.randrange(8)]:
                    flipped = data[at] ^ 1 << bit
                    os.pwrite(file.fileno(), bytes([flipped]), at)
                    try:
                        check_damaged(tier, name, lowest, make)
                    except Exception as error:
                        raise AssertionError(f"{name}, byte {at} is {flipped}, not {data[at]}: {error!r}") from error
                os.pwrite(file.fileno(), data[at : at + 1], at)
    world.check_left(tier.path, 2, 2)


def tear(folder: Path, what: str = "", make: type[LocalTier] = LocalTier) -> None:
    """The end is missing, or the file system filled it with zeros or with what another file had there."""
    tier, files = two(folder)
    rng = random.Random(SEED)
    for name, data in files.items():
        lowest = floor(tier, name)
        for at in boundaries(data, name, tier, rng) if name.startswith(what) else ():
            left = len(data) - at
            for rest in (b"", bytes(left) if rng.random() < 0.5 else rng.randbytes(left)):
                (tier.path / name).write_bytes(data[:at] + rest)
                try:
                    check_damaged(tier, name, lowest, make)
                except Exception as error:
                    raise AssertionError(f"{name} is right up to {at}, then {rest[:9]!r}…: {error!r}") from error
        (tier.path / name).write_bytes(data)
    world.check_left(tier.path, 2, 2)


def test_every_flipped_byte(folder: Path) -> None:
    flip(folder)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_every_flipped_bit(folder: Path) -> None:
    flip(folder, is_exhaustive=True)


def test_every_torn_file(folder: Path) -> None:
    tear(folder)


def test_files_in_each_others_places(folder: Path) -> None:
    tier, files = two(folder)
    needed = {name: floor(tier, name) for name in files}
    for name in files:
        for other, data in files.items():
            if name != other:
                (tier.path / name).write_bytes(data)
                # Whole rows under another's name are a change of names, which no digest of their content shows.
                folders = {name.partition("/")[0], other.partition("/")[0]}
                if folders not in ({"checkpoints"}, {"rows"}):
                    check_damaged(tier, name, needed[name])
        (tier.path / name).write_bytes(files[name])


def test_a_damaged_tier_can_be_written_to(folder: Path) -> None:
    """What a successor builds on is whole: damage is not carried over."""
    rng = random.Random(SEED)
    for n in range(60):
        tier, files = two(folder / f"{n}")
        name = rng.choice(sorted(files))
        lowest, at = floor(tier, name), rng.randrange(len(files[name]))
        data = bytearray(files[name])
        data[at] ^= 1 << rng.randrange(8)
        (tier.path / name).write_bytes(data)
        left = world.check_left(tier.path, lowest, 2, rows_from=3, gap=1 + n % 2)
        assert left >= lowest


# -- the checks can fail


@pytest.mark.parametrize("damage", [flip, tear])
def test_a_reader_that_trusts_is_found(folder: Path, damage: Callable[..., None]) -> None:
    with pytest.raises(AssertionError, match="wrong bytes"):
        damage(folder, "packs", world.Trusting)


def test_a_save_that_hides_a_full_disk_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = LocalTier.save

    def hiding(self: LocalTier, manifest: Manifest, objects: dict[str, Buffer], rows: bytes) -> Manifest:
        try:
            return save(self, manifest, objects, rows)
        except CheckpointError:
            return manifest

    monkeypatch.setattr(LocalTier, "save", hiding)
    with pytest.raises(AssertionError, match="was acknowledged"):
        test_a_disk_that_refuses_any_operation(folder, "no space", 3, False)
