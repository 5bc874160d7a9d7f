"""Pack files: many objects in one file, each named by its content (``digest``).

    magic (8)  version u32  term u64           header, 20 bytes, little-endian
    objects, each at a multiple of 64 bytes; large ones of a large pack at a page, or directly after the previous one
    index: JSON {name: [offset, size_bytes]}
    index offset u64, index size u64, blake2b-128 of header and index (16), magic (8)

A pack describes itself; a manifest's ``ObjectRef`` saves reading the index. Any damage raises ``CheckpointCorrupt``
with the file's name, and no byte is returned before it was checked.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from qcity_nb.checkpoint.buffer import Buffer
from qcity_nb.checkpoint.digest import blake3_of, name_of
from qcity_nb.checkpoint.memory import PAGE, address_of, view_at
from qcity_nb.checkpoint.storage.direct_io import Sink, sync_data
from qcity_nb.errors import CheckpointCorrupt, CheckpointError

__all__ = [
    "Lazy",
    "ObjectRef",
    "check",
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
_VERSION = 3
_ALIGN = 64
_LARGE = 64 * 1024
"""Objects of this size begin at a page if the file is written with direct I/O."""
_INDEX_LIMIT = 1 << 30
TEMPORARY = ".tmp"
"""Suffix of the names of unfinished files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectRef:
    """The place of an object."""

    pack: str
    """The pack's file name."""
    offset: int
    size_bytes: int
    blake3: str = ""
    """Its BLAKE3 in hex, in published manifests; the local tier uses only the hash in the name."""

    @property
    def footprint_bytes(self) -> int:
        """About what it takes of the file, with its entry in the index: of small objects that is the larger part."""
        return self.size_bytes + 2 * _ALIGN - self.size_bytes % _ALIGN


class Lazy(Mapping[str, bytes]):
    """Objects that are read when they are accessed: one at a time in memory."""

    def __init__(self, names: Mapping[str, ObjectRef], read: Callable[[str], bytes]) -> None:
        self._names = names
        self._read = read

    def __getitem__(self, name: str) -> bytes:
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def digest(data: Buffer) -> str:
    """The digest of a record (a manifest, the rows): ``b2-`` and 64 hex digits of blake2b-256."""
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
def _replacing(path: Path) -> Iterator[int]:
    """A temporary file that is renamed to ``path`` at the end, or removed after an error; the caller syncs it."""
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
        temporary.rename(path)
        sync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise CheckpointError(
            f"cannot write {path}: {error.strerror or error}; free space, or set another `local_dir`"
        ) from error
    except BaseException:  # Ctrl-C too: nothing incomplete is left
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_file(path: Path, data: bytes) -> None:
    """Write ``path`` completely or not at all, durably, its name included.

    Raises:
        CheckpointError: the disk is full or cannot be written to; nothing of the file is left.
    """
    with _replacing(path) as descriptor:
        _write_all(descriptor, data)
        sync_data(descriptor)


def write_pack(
    path: Path,
    objects: Mapping[str, Buffer],
    *,
    term: int,
    size: int | None = None,
    blake3: Callable[[str, Buffer], str] = lambda name, data: "",
) -> dict[str, ObjectRef]:
    """Write ``objects`` (content by name) as the pack ``path``: temporary file, fdatasync, rename, fsync.

    Args:
        objects: read one at a time, so that a lazy mapping needs memory for one only.
        size: about how many bytes, if ``objects`` is lazy.
        blake3: returns the BLAKE3 of a content, for a pack that is published.
    Raises:
        CheckpointError: the disk is full or cannot be written to; nothing of the pack is left.
    """
    if size is None:
        size = sum(len(data) for data in objects.values())
    refs: dict[str, ObjectRef] = {}
    header = _HEADER.pack(_MAGIC, _VERSION, term)
    with _replacing(path) as descriptor:
        sink = Sink(descriptor, size=size)
        try:
            sink.write(memoryview(header))
            _write_objects(sink, objects, refs, path.name, blake3)
            sink.pad(_ALIGN)
            offset = sink.position
            index = json.dumps(
                {name: [ref.offset, ref.size_bytes] for name, ref in refs.items()}, separators=(",", ":")
            ).encode()
            check = hashlib.blake2b(header + index, digest_size=16).digest()
            sink.write(memoryview(index + _FOOTER.pack(offset, len(index), check, _MAGIC)))
            sink.finish()
        finally:
            sink.close()
    return refs


def _write_objects(
    sink: Sink,
    objects: Mapping[str, Buffer],
    refs: dict[str, ObjectRef],
    file: str,
    blake3: Callable[[str, Buffer], str],
) -> None:
    """Write each aligned; what is adjacent in memory is written with one call."""
    start, end = 0, 0  # memory to be written with one call
    owners: list[memoryview] = []  # what keeps it alive: objects of a lazy mapping have no other owner

    def flush() -> None:
        nonlocal start, end
        if end > start:
            sink.write(view_at(start, end - start))
        start = end = 0
        owners.clear()

    for name in objects:
        data = memoryview(objects[name]).cast("B")
        large = len(data) >= _LARGE
        address = address_of(data) if large else 0
        if not large or address != end or (end - start) % _ALIGN:
            flush()
            sink.align() if large else sink.pad(_ALIGN)
        refs[name] = ObjectRef(
            pack=file, offset=sink.position + (end - start), size_bytes=len(data), blake3=blake3(name, data)
        )
        if large and address % PAGE == 0:
            start, end = start or address, address + len(data)
            owners.append(data)
        else:
            sink.write(data)
            del data
    flush()


def read_index(path: Path) -> tuple[int, dict[str, ObjectRef]]:
    """The term and the objects of a pack, from its own header and index.

    Raises:
        CheckpointCorrupt: it is not a pack, or is damaged.
    """
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER.size)
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - _FOOTER.size))
            offset, size, check, magic = _FOOTER.unpack(file.read(_FOOTER.size))
            start, version, term = _HEADER.unpack(header)
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
        return term, refs
    except (OSError, ValueError, struct.error, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointCorrupt(f"pack {path} cannot be read: {error}") from error


def read_object(source: Path | int, ref: ObjectRef, name: str) -> bytes:
    """The object's content, checked.

    Args:
        source: the pack's path, or an open descriptor of it.
        name: the name that the content must have.
    Raises:
        CheckpointCorrupt: the pack is gone, too short, or has other bytes there.
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
    check(data, ref, name)
    return data


def check(data: Buffer, ref: ObjectRef, name: str) -> None:
    """Check that ``data`` is that object.

    Raises:
        CheckpointCorrupt: it is not.
    """
    if name_of(data) != name or (ref.blake3 and blake3_of(data) != ref.blake3):
        raise CheckpointCorrupt(f"pack {ref.pack}: the bytes at {ref.offset} are not those of object {name}")


def _read_at(descriptor: int, ref: ObjectRef) -> bytes:
    # Never allocate what a damaged record claims.
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
