"""Captured state to objects by digest, and back."""

from __future__ import annotations

from collections.abc import Callable

from qcity_nb.checkpoint.capture import Captured
from qcity_nb.checkpoint.manifest import Encoded
from qcity_nb.checkpoint.pack import digest
from qcity_nb.checkpoint.pickling import Buffer

__all__ = ["decode_state", "encode_state"]


def encode_state(captured: Captured) -> tuple[Encoded, dict[str, Buffer]]:
    """Its digests, and its objects by digest; nothing is copied."""
    objects: dict[str, Buffer] = {}
    skeleton = digest(captured.skeleton)
    objects[skeleton] = captured.skeleton
    buffers = []
    for buffer in captured.buffers:
        name = digest(buffer)
        objects[name] = buffer
        buffers.append(name)
    return Encoded(skeleton=skeleton, buffers=tuple(buffers)), objects


def decode_state(encoded: Encoded, read: Callable[[str], bytes]) -> Captured:
    """The captured state, from a verified ``read``.

    Raises:
        CheckpointCorrupt: whatever ``read`` raises.
    """
    cache: dict[str, bytes] = {}
    for name in encoded.buffers:
        if name not in cache:
            cache[name] = read(name)
    return Captured(skeleton=read(encoded.skeleton), buffers=tuple(cache[name] for name in encoded.buffers))
