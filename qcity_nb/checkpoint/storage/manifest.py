"""The manifest: the record that makes a checkpoint exist (docs/design.md, "What a checkpoint holds").

Objects (slices of skeletons, buffers and outputs) are named by ``digest.name_of``; ``Manifest.objects`` has the place
of each. Fields that only later versions fill exist already, so that those versions and this one read each other's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from qcity_nb import codec
from qcity_nb.checkpoint.storage import pack
from qcity_nb.checkpoint.storage.pack import ObjectRef
from qcity_nb.codec import Record
from qcity_nb.errors import CheckpointCorrupt

__all__ = [
    "CellRecord",
    "Context",
    "Encoded",
    "GroupRecord",
    "LoopRecord",
    "Manifest",
    "ObjectRef",
    "NamespaceRecord",
    "digest",
    "dumps",
    "loads",
]

_PACK = re.compile(r"([A-Za-z0-9_-][A-Za-z0-9._-]*/)*[A-Za-z0-9_-][A-Za-z0-9._-]*")
"""A plain name in its folder: a forged manifest must not make a reader open other files, or wait for a pipe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded(Record):
    """A captured state as the names of its parts."""

    skeleton: tuple[str, ...]
    """The names of the stream's slices."""
    buffers: tuple[tuple[str, ...], ...] = ()
    """The names of each buffer's slices."""
    sizes: tuple[int, ...] = ()
    """Bytes of each buffer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopRecord(Record):
    """One loop at its last boundary."""

    key: str
    name: str = ""
    done: int = 0
    """Finished iterations in this pass."""
    count: int = 0
    """Finished iterations over the whole run."""
    total: int | None = None
    finished: bool = False
    passes: int = 0
    state: Encoded | None = None
    generators: Encoded | None = None
    begun: Encoded | None = None
    """The generators when the pass began, where the items must be consumed again from the start."""
    source: str = ""
    """Hash of the cell's source: detects an edited cell."""
    outputs: tuple[str, ...] = ()
    """Names of the outputs that the cell showed inside the loop."""
    items: Mapping[str, Any] = field(default_factory=dict)
    """Digests of the finished items: kernel/changes/item_record.py."""
    code: Mapping[str, Any] = field(default_factory=dict)
    """The code that it runs: cells/loop_sources.py, kernel/changes/loop_edits.py."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRecord(Record):
    """Variables of the notebook that share something mutable, or a single one."""

    names: tuple[str, ...]
    state: Encoded
    kinds: Mapping[str, str] = field(default_factory=dict)
    """The qualified name of each variable's type."""
    fresh: tuple[str, ...] = ()
    """What of it is re-created instead of restored: locks, caches."""
    cost_s: float = 0.0
    """Seconds that pickling it took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceRecord(Record):
    """What a cell changed in the notebook's variables; the records of earlier cells have the rest."""

    groups: tuple[GroupRecord, ...] = ()
    """The groups that it changed or made; they replace all groups with one of their names."""
    names: tuple[str, ...] = ()
    """All variables that are in a group when it ends: others were deleted, or cannot be saved."""
    modules: Mapping[str, str] = field(default_factory=dict)
    """Variables that are modules, by the module's name."""
    not_saved: tuple[Mapping[str, Any], ...] = ()
    """Variables that cannot be saved, and why: ``namespace.records.NotSaved``."""
    generators: Encoded | None = None
    surroundings: Mapping[str, Any] = field(default_factory=dict)
    cost_s: float = 0.0
    """Seconds of the notebook's time that the snapshot took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRecord(Record):
    """A finished code cell."""

    chain: str
    """Hash of its source and of all before it: cells/source_chain.py."""
    outputs: str = ""
    """Name of the object with its outputs, as the engine passes them; empty: none."""
    number: int | None = None
    """Its execution count."""
    wall_s: float = 0.0
    namespace: NamespaceRecord | None = None
    """None: no snapshot was made after it, or it is no longer kept: a run cannot resume directly after this cell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context(Record):
    """How many rows a cell, or an iteration of a loop, has logged so far."""

    key: str
    iteration: int = 0
    rows: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest(Record):
    """A checkpoint."""

    run: str
    run_id: str = ""
    """The run record's id; empty in checkpoints of older versions."""
    term: int
    seq: int
    at: str = ""
    reason: str = ""
    step: int = 0
    loops: tuple[LoopRecord, ...] = ()
    contexts: tuple[Context, ...] = ()
    cells: tuple[CellRecord, ...] = ()
    """The finished cells, in the notebook's order."""
    objects: Mapping[str, ObjectRef] = field(default_factory=dict)
    """The place of each object."""
    packs: Mapping[str, Any] = field(default_factory=dict)
    """``objects`` as it is stored: ``{pack: {name: [offset, size_bytes, blake3]}}``; empty in memory."""
    rows_upto: int = 0
    """It covers the rows of checkpoints up to this seq."""
    rows_bytes: int = 0
    """Size of the rows that this checkpoint added."""
    logged: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Per metric: highest step, last timestamp in ms."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """Small JSON."""

    rank: int = 0
    world_size: int = 1
    replicas: tuple[str, ...] = ()
    """Addresses of other stores that hold the same objects."""
    cipher: Mapping[str, Any] = field(default_factory=dict)
    """How the objects are encrypted, ``{"version": 1, "name": …, "key": key id}``; empty: they are not."""
    signature: Mapping[str, Any] = field(default_factory=dict)
    """Its signature, ``{"version": 1, "key": key id, "value": …}``; empty: it is not signed."""

    @property
    def size_bytes(self) -> int:
        """Bytes of all objects."""
        return sum(ref.size_bytes for ref in self.objects.values())

    def needs(self) -> Iterator[str]:
        """The names of the objects that its loops and cells refer to."""
        for loop in self.loops:
            for encoded in (loop.state, loop.generators, loop.begun):
                yield from _parts(encoded)
            yield from loop.outputs
        for cell in self.cells:
            if cell.outputs:
                yield cell.outputs
            if cell.namespace is not None:
                yield from _parts(cell.namespace.generators)
                for group in cell.namespace.groups:
                    yield from _parts(group.state)


def _parts(encoded: Encoded | None) -> Iterator[str]:
    if encoded is not None:
        yield from encoded.skeleton
        for buffer in encoded.buffers:
            yield from buffer


def digest(data: bytes) -> str:
    """The digest of a manifest's bytes, as the run record has it."""
    return pack.digest(data)


def dumps(manifest: Manifest) -> bytes:
    """Canonical JSON; objects are listed by pack, since a gigabyte has a thousand of them."""
    packs: dict[str, dict[str, list[Any]]] = {}
    for name, ref in manifest.objects.items():
        place = [ref.offset, ref.size_bytes, ref.blake3] if ref.blake3 else [ref.offset, ref.size_bytes]
        packs.setdefault(ref.pack, {})[name] = place
    return codec.dumps(replace(manifest, objects={}, packs=packs))


def loads(data: bytes, *, name: str = "manifest") -> Manifest:
    """Read what ``dumps`` wrote.

    Raises:
        CheckpointCorrupt: it is not a manifest; ``name`` is its name in the message.
    """
    try:
        manifest = codec.loads(Manifest, data)
        objects = {
            name_of_object: _ref(file, place)
            for file, places in manifest.packs.items()
            for name_of_object, place in places.items()
        }
    except (codec.DecodeError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointCorrupt(f"{name} cannot be read: {error}") from None
    manifest = replace(manifest, objects=objects, packs={})
    missing = next((need for need in manifest.needs() if need not in objects), None)
    if missing is not None:
        raise CheckpointCorrupt(f"{name} names object {missing} and does not say where it is")
    strange = next((ref.pack for ref in manifest.objects.values() if not _PACK.fullmatch(ref.pack)), None)
    if strange is not None:
        raise CheckpointCorrupt(f"{name} names the pack {strange[:80]!a}, which is not a file name")
    return manifest


def _ref(file: str, place: list[Any]) -> ObjectRef:
    offset, size, *rest = place
    if type(offset) is not int or type(size) is not int or offset < 0 or size < 0:
        raise ValueError(f"{place!r} is not a place in {file}")
    if len(rest) > 1 or not all(isinstance(each, str) for each in rest):
        raise ValueError(f"{place!r} is not a place in {file}")
    return ObjectRef(pack=file, offset=offset, size_bytes=size, blake3=rest[0] if rest else "")
