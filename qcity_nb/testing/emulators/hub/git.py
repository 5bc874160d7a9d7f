"""Git's own names and encodings: blobs, trees, commits and LFS pointers, so that the emulator's ids are real ones."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import NamedTuple

__all__ = [
    "EMPTY_TREE",
    "Entry",
    "blob_oid",
    "commit_oid",
    "decode_tree",
    "encode_tree",
    "is_oid",
    "is_ref_name",
    "oid_of",
    "parse_pointer",
    "pointer",
]

_OID = re.compile(r"[0-9a-f]{40}")
_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize ([0-9]{1,20})\n", re.ASCII
)
_BAD_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|\.lock(/|$)|(^|/)\.|[./]$|^/|^@$")


class Entry(NamedTuple):
    """One name in a tree. Files are all of mode 100644: the commit API knows no other."""

    name: str
    is_tree: bool
    oid: str


def oid_of(kind: str, data: bytes) -> str:
    """The name that git gives to an object."""
    return hashlib.sha1(b"%s %d\0%s" % (kind.encode(), len(data), data), usedforsecurity=False).hexdigest()


def blob_oid(data: bytes) -> str:
    """The name of a file's content."""
    return oid_of("blob", data)


def is_oid(text: str) -> bool:
    """Whether ``text`` is a whole object name."""
    return _OID.fullmatch(text) is not None


def is_ref_name(text: str) -> bool:
    """Whether git takes ``text`` as the name of a branch or tag."""
    return bool(text) and not text.startswith("-") and _BAD_REF.search(text) is None


def pointer(oid: str, size: int) -> bytes:
    """The text that stands in git for an LFS object."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n".encode()


def parse_pointer(data: bytes) -> tuple[str, int] | None:
    """Object and size, if ``data`` is an LFS pointer."""
    match = _POINTER.fullmatch(data)
    return (match[1].decode(), int(match[2])) if match else None


def _order(entry: Entry) -> bytes:
    return entry.name.encode() + (b"/" if entry.is_tree else b"")


def encode_tree(entries: Iterable[Entry]) -> bytes:
    """A tree object's content."""
    return b"".join(
        (b"40000 " if entry.is_tree else b"100644 ") + entry.name.encode() + b"\0" + bytes.fromhex(entry.oid)
        for entry in sorted(entries, key=_order)
    )


def decode_tree(data: bytes) -> list[Entry]:
    """The entries of a tree object."""
    entries, at = [], 0
    while at < len(data):
        space, end = data.index(b" ", at), data.index(b"\0", at)
        name, is_tree = data[space + 1 : end].decode(), data[at:space] == b"40000"
        entries.append(Entry(name, is_tree, data[end + 1 : end + 21].hex()))
        at = end + 21
    return entries


def commit_oid(tree: str, parent: str | None, author: str, at_s: int, message: str) -> str:
    """The name of a commit; the same facts at the same second are the same commit, as in git."""
    who = f"{author} <{author}@users.noreply.huggingface.co> {at_s} +0000"
    lines = [
        f"tree {tree}",
        *([f"parent {parent}"] if parent else []),
        f"author {who}",
        f"committer {who}",
        "",
        message,
    ]
    return oid_of("commit", "\n".join(lines).encode())


EMPTY_TREE = oid_of("tree", b"")
