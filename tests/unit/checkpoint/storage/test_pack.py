"""Packs give back exactly what was written, or say that they are damaged, and nothing else."""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
import signal
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcity_nb.checkpoint.digest import name_of
from qcity_nb.checkpoint.storage import pack
from qcity_nb.checkpoint.storage.pack import ObjectRef
from qcity_nb.errors import CheckpointCorrupt, CheckpointError

CONTENTS: list[bytes | bytearray] = [b"", b"a", b"abc" * 1000, os.urandom(5000), bytearray(b"x" * 64)]


def make(path: Path) -> dict[str, ObjectRef]:
    return pack.write_pack(path, {name_of(data): data for data in CONTENTS}, term=7)


def test_objects_come_back(tmp_path: Path) -> None:
    path = tmp_path / "t7-1.pack"
    refs = make(path)
    assert [pack.read_object(path, refs[name_of(data)], name_of(data)) for data in CONTENTS] == CONTENTS
    assert all(ref.offset % 64 == 0 for ref in refs.values())
    assert pack.read_index(path) == (7, refs)
    assert [file.name for file in tmp_path.iterdir()] == ["t7-1.pack"]


def test_large_objects_and_many_small_ones_come_back(tmp_path: Path) -> None:
    path = tmp_path / "p.pack"
    contents = [os.urandom(3 << 20), *(n.to_bytes(4, "big") * 5000 for n in range(400)), os.urandom(1 << 20)]
    refs = pack.write_pack(path, {name_of(data): memoryview(data) for data in contents}, term=1)
    for data in contents:
        assert pack.read_object(path, refs[name_of(data)], name_of(data)) == data


@given(data=st.data())
def test_damage_is_never_handed_out(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("pack") / "p.pack"
    refs = make(path)
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        path.write_bytes(whole[:at])
    else:
        bit = 1 << data.draw(st.integers(0, 7))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
    for content in CONTENTS:
        name = name_of(content)
        with contextlib.suppress(CheckpointCorrupt):
            assert pack.read_object(path, refs[name], name) == content
    with contextlib.suppress(CheckpointCorrupt):
        assert pack.read_index(path) == (7, refs)


def test_every_flipped_byte_of_an_object_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "p.pack"
    refs = make(path)
    whole = path.read_bytes()
    name = name_of(CONTENTS[3])
    ref = refs[name]
    for at in range(ref.offset, ref.offset + ref.size_bytes, 97):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(CheckpointCorrupt, match=r"p\.pack"):
            pack.read_object(path, ref, name)


@pytest.mark.parametrize("offset", [-1, 0, 1 << 40, 1 << 70])
@pytest.mark.parametrize("size", [-1, 3, 1 << 40, 1 << 70])
def test_a_wrong_reference_is_corruption(tmp_path: Path, offset: int, size: int) -> None:
    path = tmp_path / "p.pack"
    make(path)
    with pytest.raises(CheckpointCorrupt):
        pack.read_object(path, ObjectRef(pack="p.pack", offset=offset, size_bytes=size), name_of(b"a"))


def test_a_pack_that_is_gone_is_corruption(tmp_path: Path) -> None:
    with pytest.raises(CheckpointCorrupt, match=r"gone\.pack"):
        pack.read_index(tmp_path / "gone.pack")
    ref = ObjectRef(pack="gone.pack", offset=0, size_bytes=0)
    with pytest.raises(CheckpointCorrupt, match=r"gone\.pack"):
        pack.read_object(tmp_path / "gone.pack", ref, name_of(b""))


def test_a_disk_that_refuses_leaves_no_trace(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(CheckpointError, match=r"p\.pack.*large"):
            make(tmp_path / "p.pack")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(tmp_path.iterdir()) == []


class Lent(Mapping[str, memoryview]):
    """Objects in page-aligned memory of their own, which is overwritten once nobody holds it any more."""

    def __init__(self, objects: Mapping[str, bytes]) -> None:
        self._objects = objects

    def __getitem__(self, name: str) -> memoryview:
        memory = mmap.mmap(-1, len(self._objects[name]))
        memory[:] = self._objects[name]
        array = np.frombuffer(memory, dtype=np.uint8)

        def spoil() -> None:
            memory.seek(0)
            memory.write(b"\xff" * len(memory))

        weakref.finalize(array, spoil)
        return array.data

    def __iter__(self) -> Iterator[str]:
        return iter(self._objects)

    def __len__(self) -> int:
        return len(self._objects)


def test_an_object_that_nobody_else_holds_is_written_before_it_goes(tmp_path: Path) -> None:
    """A lazy mapping's content lives as long as the writer holds it; one of 256 happens to begin at a page."""
    contents = [os.urandom(1 << 18) for _ in range(8)]
    objects = {name_of(content): content for content in contents}
    refs = pack.write_pack(tmp_path / "a.pack", Lent(objects), term=1)
    for name, content in objects.items():
        assert pack.read_object(tmp_path / "a.pack", refs[name], name) == content
