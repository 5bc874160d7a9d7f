"""Objects that are read into place are whole there, or the reader says that they are not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from qcity_nb.checkpoint.digest import SLICE, name_of
from qcity_nb.checkpoint.memory import PAGE, allocate
from qcity_nb.checkpoint.state.frozen_buffer import slices_of
from qcity_nb.checkpoint.storage import pack
from qcity_nb.checkpoint.storage.pack import ObjectRef
from qcity_nb.checkpoint.storage.pack_reader import PackReader
from qcity_nb.errors import CheckpointCorrupt

SIZES = [9 * SLICE + 4097, PAGE, 3 * SLICE, 70_001, 100, 0, 2 * SLICE + 1]
"""Of buffers as they follow each other: whole pages and not, small and large."""


class Packed:
    """Buffers in a pack, and as they were."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.content = []
        self.names: list[list[str]] = []
        objects: dict[str, memoryview] = {}
        for size in SIZES:
            memory = allocate(size)
            memory[:] = os.urandom(size)
            self.content.append(memory)
            parts = [memoryview(memory)[at : at + length] for at, length in slices_of(size)]
            self.names.append([name_of(part) for part in parts])
            objects |= {name_of(part): part for part in parts}
        self.refs: dict[str, ObjectRef] = pack.write_pack(folder / "t1-1.pack", objects, term=1)

    def places(self, memory: list[bytearray]) -> Iterator[tuple[str, memoryview]]:
        for names, each in zip(self.names, memory, strict=True):
            for name, (at, length) in zip(names, slices_of(len(each)), strict=True):
                yield name, memoryview(each)[at : at + length]

    def reader(self) -> PackReader:
        return PackReader(self.folder, self.refs)


@pytest.fixture
def packed(tmp_path: Path) -> Packed:
    return Packed(tmp_path)


@pytest.mark.parametrize("is_own", [True, False])
@pytest.mark.parametrize("shift", [0, 1, PAGE // 2])
def test_buffers_come_back_wherever_their_memory_begins(packed: Packed, shift: int, *, is_own: bool) -> None:
    memory = [allocate(size + shift) for size in SIZES]
    for each in memory:
        del each[:shift]
    with packed.reader() as read:
        read.read_into(packed.places(memory), is_own=is_own)
    assert memory == packed.content


def test_without_direct_reads_too(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qcity_nb.checkpoint.storage.direct_io._O_DIRECT", 0)
    memory = [allocate(size) for size in SIZES]
    with packed.reader() as read:
        read.read_into(packed.places(memory), is_own=True)
    assert memory == packed.content


def test_most_is_read_without_a_copy(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    straight: list[int] = []
    read_straight = PackReader._read_straight

    def note_run(self: PackReader, run: list[tuple[ObjectRef, str, memoryview | None]]) -> None:
        straight.extend(ref.size_bytes for ref, _, _ in run)
        read_straight(self, run)

    monkeypatch.setattr(PackReader, "_read_straight", note_run)
    memory = [allocate(size) for size in SIZES]
    with packed.reader() as read:
        read.read_into(packed.places(memory), is_own=True)
        assert sum(straight) > sum(SIZES) - 80_000  # all but the buffers of less than a slice
        straight.clear()
        read.read_into(packed.places(memory))
        assert not straight


@pytest.mark.parametrize("is_own", [True, False])
def test_one_flipped_bit_is_found_in_every_object(packed: Packed, *, is_own: bool) -> None:
    path = packed.folder / "t1-1.pack"
    for name, ref in packed.refs.items():
        if not ref.size_bytes:
            continue
        at = ref.offset + ref.size_bytes - 1
        with path.open("r+b") as file:
            file.seek(at)
            (byte,) = file.read(1)
            file.seek(at)
            file.write(bytes([byte ^ 4]))
            file.flush()
            memory = [bytearray(size) for size in SIZES]
            with packed.reader() as read, pytest.raises(CheckpointCorrupt, match=name):
                read.read_into(packed.places(memory), is_own=is_own)
            file.seek(at)
            file.write(bytes([byte]))
        if not is_own:  # what is not whole never gets into live memory
            targets = {called: bytes(target) for called, target in packed.places(memory)}
            assert not any(targets[name])


def test_a_short_pack_is_found(packed: Packed) -> None:
    path = packed.folder / "t1-1.pack"
    memory = [allocate(size) for size in SIZES]
    with packed.reader() as read:
        os.truncate(path, path.stat().st_size // 2)
        with pytest.raises(CheckpointCorrupt, match=r"t1-1\.pack"):
            read.read_into(packed.places(memory), is_own=True)
