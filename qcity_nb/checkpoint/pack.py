"""Pack files: many objects in one file, each named by the digest of its content.

    magic (8)  version u32  epoch u64          header, 20 bytes, little-endian
    objects, each at a multiple of 64 bytes
    index: JSON {digest: [offset, size_bytes]}
    index offset u64, index size u64, blake2b-128 of header and index (16), magic (8)

A pack describes itself; a manifest's ``ObjectRef`` saves reading the index. Whatever is wrong with a file is
``CheckpointCorrupt`` naming it, and no byte is handed out before its digest was checked.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from qcity_nb import points
from qcity_nb.checkpoint.pickling import Buffer
from qcity_nb.errors import CheckpointCorrupt, CheckpointError

__all__ = [
    "ObjectRef",
    "digest",
    "read_index",
    "read_object",
    "sync_directory",
    "write_file",
    "write_pack",
]

_MAGIC = b"qcpack\r\n"
_HEADER = struct.Struct("<8sIQ")
_FOOTER = struct.Struct("<QQ16s8s")
_VERSION = 1
_ALIGN = 64
_INDEX_LIMIT = 1 << 30
TEMPORARY = ".tmp"
"""How names of files end that are not finished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectRef:
    """Where an object lies."""

    pack: str
    """The pack's file name."""
    offset: int
    size_bytes: int


def digest(data: Buffer) -> str:
    """The name of a content: ``b2-`` and 64 hex digits of blake2b-256."""
    return "b2-" + hashlib.blake2b(data, digest_size=32).hexdigest()


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: Buffer) -> None:
    view = memoryview(data).cast("B")
    while len(view):
        view = view[os.write(descriptor, view) :]  # a write past 2 GiB, or onto a full disk, is short


@contextlib.contextmanager
def _replacing(path: Path, *, sync_name: bool) -> Iterator[int]:
    """A temporary file that becomes ``path`` when it is complete and on disk, or is removed."""
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            yield descriptor
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.rename(path)
        if sync_name:
            sync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise CheckpointError(
            f"cannot write {path}: {error.strerror or error}; free space, or set another `local` directory"
        ) from error
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_file(path: Path, data: bytes, *, sync_name: bool = True) -> None:
    """Write ``path`` whole or not at all, durably.

    Args:
        sync_name: make the name durable too, at once.
    Raises:
        CheckpointError: the disk is full or refuses; there is no trace of the file.
    """
    with _replacing(path, sync_name=sync_name) as descriptor:
        _write_all(descriptor, data)


def write_pack(
    path: Path, objects: Mapping[str, Buffer], *, epoch: int, sync_name: bool = True
) -> dict[str, ObjectRef]:
    """Write ``objects`` (content by digest) as the pack ``path``: temporary file, fsync, rename, fsync.

    Args:
        objects: read one at a time, so that a lazy mapping needs memory for one only.
        sync_name: without it, a power cut may lose the name (never leave a part of the pack under it).
    Raises:
        CheckpointError: the disk is full or refuses; there is no trace of the pack.
    """
    refs: dict[str, ObjectRef] = {}
    header = _HEADER.pack(_MAGIC, _VERSION, epoch)
    with _replacing(path, sync_name=sync_name) as descriptor:
        pending = bytearray(header)  # small objects are gathered: one write for many
        offset = len(header)
        for name in objects:
            data = memoryview(objects[name]).cast("B")
            gap = -offset % _ALIGN
            pending += bytes(gap)
            offset += gap
            refs[name] = ObjectRef(pack=path.name, offset=offset, size_bytes=len(data))
            offset += len(data)
            if len(data) < 1 << 20:
                pending += data
            if len(data) >= 1 << 20 or len(pending) > 1 << 22:
                _write_all(descriptor, pending)
                pending = bytearray()
            if len(data) >= 1 << 20:
                _write_all(descriptor, data)
        index = json.dumps(
            {name: [ref.offset, ref.size_bytes] for name, ref in refs.items()}, separators=(",", ":")
        ).encode()
        check = hashlib.blake2b(header + index, digest_size=16).digest()
        _write_all(descriptor, pending + index + _FOOTER.pack(offset, len(index), check, _MAGIC))
    points.hit("local.pack")
    return refs


def read_index(path: Path) -> tuple[int, dict[str, ObjectRef]]:
    """The epoch and the objects of a pack, as it says itself.

    Raises:
        CheckpointCorrupt: no pack, or a damaged one.
    """
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER.size)
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - _FOOTER.size))
            offset, size, check, magic = _FOOTER.unpack(file.read(_FOOTER.size))
            start, version, epoch = _HEADER.unpack(header)
            if (start, magic) != (_MAGIC, _MAGIC) or offset + size + _FOOTER.size != end or size > _INDEX_LIMIT:
                raise ValueError("not a complete pack")
            file.seek(offset)
            index = file.read(size)
        if version != _VERSION:
            raise ValueError(f"pack version {version}; this version reads {_VERSION}")
        if hashlib.blake2b(header + index, digest_size=16).digest() != check:
            raise ValueError("the index does not match its digest")
        refs = {}
        for name, (at, length) in json.loads(index).items():
            if type(at) is not int or type(length) is not int:
                raise ValueError(f"the place of {name} is not a number")
            refs[name] = ObjectRef(pack=path.name, offset=at, size_bytes=length)
        return epoch, refs
    except (OSError, ValueError, struct.error, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointCorrupt(f"pack {path} cannot be read: {error}") from error


def read_object(source: Path | int, ref: ObjectRef, name: str) -> bytes:
    """The object's content, checked.

    Args:
        source: the pack's path, or a descriptor that is open on it.
        name: the digest that the content must have.
    Raises:
        CheckpointCorrupt: the pack is gone, too short, or holds something else there.
    """
    try:
        if isinstance(source, int):
            data = _read_at(source, ref)
        else:
            descriptor = os.open(source, os.O_RDONLY)
            try:
                data = _read_at(descriptor, ref)
            finally:
                os.close(descriptor)
    except (OSError, ValueError, OverflowError) as error:
        raise CheckpointCorrupt(f"pack {ref.pack}: object {name} cannot be read: {error}") from error
    if digest(data) != name:
        raise CheckpointCorrupt(f"pack {ref.pack}: the bytes at {ref.offset} are not those of object {name}")
    return data


def _read_at(descriptor: int, ref: ObjectRef) -> bytes:
    # Never ask for memory on a damaged record's word.
    if ref.offset < 0 or ref.size_bytes < 0 or ref.offset + ref.size_bytes > os.fstat(descriptor).st_size:
        raise ValueError("the file is too short")
    parts = []
    offset, left = ref.offset, ref.size_bytes
    while left:
        part = os.pread(descriptor, min(left, 1 << 30), offset)
        if not part:
            raise ValueError("the file ends early")
        parts.append(part)
        offset += len(part)
        left -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
