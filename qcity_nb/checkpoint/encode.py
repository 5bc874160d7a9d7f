"""From captured state to named objects, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from qcity_nb.checkpoint.digest import name_of
from qcity_nb.checkpoint.state.capture import Captured
from qcity_nb.checkpoint.state.frozen_buffer import Read, Stored, slices_of
from qcity_nb.checkpoint.state.pickling import Buffer
from qcity_nb.checkpoint.storage.manifest import Encoded
from qcity_nb.errors import CheckpointCorrupt, CheckpointError

__all__ = ["Discarded", "decode_state", "encode_state"]


class Discarded(CheckpointError):
    """The live state was changed while it was copied lazily; the next save copies before the loop continues."""


def encode_state(captured: Captured) -> tuple[Encoded, dict[str, Buffer]]:
    """Its record, and its objects by name, except those known to be unchanged. Nothing is copied.

    Waits for a lazy copy.

    Raises:
        Discarded: the state changed during a lazy copy.
    """
    capture_buffer = captured.buffer
    if capture_buffer is not None:
        capture_buffer.copied.wait()
        if capture_buffer.trouble is not None:
            raise CheckpointError(
                f"the state could not be copied: {capture_buffer.trouble}"
            ) from capture_buffer.trouble
        if capture_buffer.is_spoiled:
            raise Discarded("the state was changed before the optimizer's step, while it was copied")
    objects: dict[str, Buffer] = {}
    skeleton = tuple(_collect_names(_parts(captured.skeleton), objects))
    buffers = tuple(tuple(_collect_names(buffer.parts(), objects)) for buffer in captured.buffers)
    return Encoded(skeleton=skeleton, buffers=buffers, sizes=tuple(buffer.size for buffer in captured.buffers)), objects


def _parts(data: bytes) -> Iterator[tuple[str, Buffer]]:
    view = memoryview(data)
    for at, length in slices_of(len(data)):
        yield name_of(view[at : at + length]), view[at : at + length]


def _collect_names(parts: Iterable[tuple[str, Buffer | None]], objects: dict[str, Buffer]) -> Iterator[str]:
    for name, content in parts:
        if content is not None:
            objects[name] = content
        yield name


def decode_state(encoded: Encoded, read: Read) -> Captured:
    """The captured state; its buffers are read when it is loaded or restored.

    Args:
        read: returns an object by name, verified. If it has ``read_into(places)``, that reads many in one call.
    Raises:
        CheckpointCorrupt: whatever ``read`` raises.
    """
    if len(encoded.sizes) != len(encoded.buffers) or min(encoded.sizes, default=0) < 0:
        raise CheckpointCorrupt(f"{len(encoded.buffers)} buffers have {len(encoded.sizes)} sizes")
    skeleton = b"".join(read(name) for name in encoded.skeleton)
    return Captured(
        skeleton=skeleton,
        buffers=[Stored(size, names, read) for size, names in zip(encoded.sizes, encoded.buffers, strict=True)],
    )
