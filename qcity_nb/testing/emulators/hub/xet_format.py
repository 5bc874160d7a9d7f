"""The wire formats of Xet: shards (what files are made of) and xorbs (packed chunks), as their specification has them.

Hashes are not computed here: they are keyed BLAKE3, which the standard library does not have. What is checked is that
everything fits together; whoever reads a whole file compares its sha256.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

__all__ = ["Chunk", "Malformed", "ShardFile", "Term", "chunks_of", "decompress", "lz4_frame", "read_shard", "unpacked"]

_TAG = b"HFRepoMetaData\0" + bytes((85, 105, 103, 69, 106, 123, 129, 87, 131, 165, 189, 217, 92, 205, 209, 74, 169))
_BOOKEND = b"\xff" * 32
_VERIFICATION, _METADATA = 1 << 31, 1 << 30
_FOOTER = b"XETBLOB"
_LZ4 = 0x184D2204
MAX_CHUNK = 1 << 18


class Malformed(ValueError):
    """The bytes are not of the format."""


class Term(NamedTuple):
    """A run of chunks of one xorb, ``end`` excluded, and how long it is unpacked."""

    xorb: str
    size: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class ShardFile:
    """A file that a shard declares; ``sha256`` is the uploader's word."""

    hash: str
    terms: tuple[Term, ...]
    sha256: str | None

    @property
    def size(self) -> int:
        """Its length."""
        return sum(term.size for term in self.terms)


class Chunk(NamedTuple):
    """Where a chunk lies in a xorb, with its header of 8 bytes, and how it is packed."""

    at: int
    length: int
    scheme: int
    size: int


def _hex(data: bytes) -> str:
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", data))


def read_shard(data: bytes) -> list[ShardFile]:
    """The files of a shard.

    Raises:
        Malformed: it is not a shard.
    """
    if data[:32] != _TAG:
        raise Malformed("it does not begin as a shard does")
    files: list[ShardFile] = []
    at = 48
    while True:
        header = data[at : at + 48]
        if len(header) < 48:
            raise Malformed("the section of files does not end")
        if header[:32] == _BOOKEND:
            return files
        flags, count = struct.unpack_from("<II", header, 32)
        following = count * (2 if flags & _VERIFICATION else 1) + bool(flags & _METADATA)
        rows = data[at + 48 : at + 48 * (1 + following)]
        if len(rows) < 48 * following:
            raise Malformed("a file's entries are cut off")
        terms = []
        for number in range(count):
            row = rows[48 * number : 48 * (number + 1)]
            _, size, start, end = struct.unpack_from("<IIII", row, 32)
            terms.append(Term(_hex(row[:32]), size, start, end))
        last = rows[-48:] if flags & _METADATA else b""
        files.append(ShardFile(_hex(header[:32]), tuple(terms), _hex(last[:32]) if last else None))
        at += 48 * (1 + following)


def chunks_of(path: Path) -> list[Chunk]:
    """The chunks of a xorb.

    Raises:
        Malformed: it is not a xorb.
    """
    chunks: list[Chunk] = []
    at, length = 0, path.stat().st_size
    with path.open("rb") as file:
        while at < length:
            file.seek(at)
            header = file.read(8)
            if header[:7] == _FOOTER:
                break
            if len(header) < 8 or header[0] != 0:
                raise Malformed("a chunk has no header")
            packed, size = int.from_bytes(header[1:4], "little"), int.from_bytes(header[5:8], "little")
            if at + 8 + packed > length or size > MAX_CHUNK or header[4] > 2:
                raise Malformed("a chunk is cut off or of an unknown kind")
            chunks.append(Chunk(at, 8 + packed, header[4], size))
            at += 8 + packed
    if not chunks:
        raise Malformed("it has no chunks")
    return chunks


def decompress(chunk: Chunk, data: bytes) -> bytes:
    """A chunk's content, of its bytes without the header.

    Raises:
        Malformed: it does not unpack to what its header says.
    """
    if chunk.scheme == 0:
        plain = data
    else:
        plain = lz4_frame(data)
        if chunk.scheme == 2:
            plain = _regroup(plain)
    if len(plain) != chunk.size:
        raise Malformed("a chunk does not have the length that its header says")
    return plain


def _regroup(data: bytes) -> bytes:
    """Undo the split into every fourth byte."""
    result, at = bytearray(len(data)), 0
    for offset in range(4):
        count = (len(data) - offset + 3) // 4
        result[offset::4] = data[at : at + count]
        at += count
    return bytes(result)


# --- LZ4


def lz4_frame(data: bytes) -> bytes:
    """The content of an LZ4 frame; its checksums are not looked at.

    Raises:
        Malformed: it is no frame.
    """
    if len(data) < 7 or int.from_bytes(data[:4], "little") != _LZ4:
        raise Malformed("it is no LZ4 frame")
    flags = data[4]
    at = 7 + (8 if flags & 0x08 else 0) + (4 if flags & 0x01 else 0)
    plain = bytearray()
    while True:
        size = int.from_bytes(data[at : at + 4], "little")
        at += 4
        if size == 0:
            return bytes(plain)
        block = data[at : at + (size & 0x7FFFFFFF)]
        if len(block) < size & 0x7FFFFFFF:
            raise Malformed("an LZ4 block is cut off")
        if size & 0x80000000:
            plain += block
        else:
            _lz4_block(block, plain)
        at += len(block) + (4 if flags & 0x10 else 0)


def _lz4_block(data: bytes, plain: bytearray) -> None:
    at, end = 0, len(data)
    try:
        while at < end:
            token = data[at]
            at += 1
            literals = token >> 4
            if literals == 15:
                more, at = _length(data, at)
                literals += more
            plain += data[at : at + literals]
            at += literals
            if at >= end:
                return
            distance = data[at] | data[at + 1] << 8
            at += 2
            count = (token & 15) + 4
            if count == 19:
                more, at = _length(data, at)
                count += more
            start = len(plain) - distance
            if distance == 0 or start < 0:
                raise Malformed("an LZ4 match begins before its data")
            if distance >= count:
                plain += plain[start : start + count]
            else:  # it overlaps itself: a pattern, repeated
                pattern = bytes(plain[start:])
                plain += (pattern * (count // distance + 1))[:count]
    except IndexError:
        raise Malformed("an LZ4 block is cut off") from None


def _length(data: bytes, at: int) -> tuple[int, int]:
    total = 0
    while True:
        byte = data[at]
        at += 1
        total += byte
        if byte != 255:
            return total, at


def unpacked(path: Path, chunks: list[Chunk]) -> Iterator[bytes]:
    """The content of some chunks of a xorb, in their order."""
    with path.open("rb") as file:
        for chunk in chunks:
            file.seek(chunk.at + 8)
            yield decompress(chunk, file.read(chunk.length - 8))
