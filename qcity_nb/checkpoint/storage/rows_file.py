"""The file with the rows that one checkpoint added: JSON lines, and a last line with their digest."""

from __future__ import annotations

import json
from pathlib import Path

from qcity_nb.checkpoint.storage import pack
from qcity_nb.errors import CheckpointCorrupt

__all__ = ["read", "write"]


def _digest_line(rows: bytes) -> bytes:
    return json.dumps({"digest": pack.digest(rows)}).encode() + b"\n"


def write(path: Path, rows: bytes) -> None:
    """Write the rows durably.

    Raises:
        CheckpointError: the disk is full or cannot be written to; nothing of the file is left.
    """
    pack.write_file(path, rows + _digest_line(rows))


def read(path: Path) -> bytes:
    """The rows, without the last line; empty if the file does not exist.

    Raises:
        CheckpointCorrupt: the file is damaged.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise CheckpointCorrupt(f"rows {path} cannot be read: {error.strerror or error}") from error
    body, _, _ = data.removesuffix(b"\n").rpartition(b"\n")
    body = body + b"\n" if body else b""
    if data != body + _digest_line(body):
        raise CheckpointCorrupt(f"rows {path} do not match their digest")
    return body
