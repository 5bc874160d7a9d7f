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
    "Page",
    "PageContent",
    "by_pack",
    "checked",
    "digest",
    "dumps",
    "loads",
    "read_places",
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

    def needs(self) -> Iterator[str]:
        """The names of the objects that it refers to."""
        for encoded in (self.state, self.generators, self.begun):
            yield from _parts(encoded)
        yield from self.outputs


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
    gone: tuple[str, ...] | None = None
    """Instead of ``names``, after many cells: the variables that were in a group when the record before it ended."""
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

    def needs(self) -> Iterator[str]:
        """The names of the objects that it refers to."""
        if self.outputs:
            yield self.outputs
        if self.namespace is not None:
            yield from _parts(self.namespace.generators)
            for group in self.namespace.groups:
                yield from _parts(group.state)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context(Record):
    """How many rows a cell, or an iteration of a loop, has logged so far."""

    key: str
    iteration: int = 0
    rows: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PageContent(Record):
    """The file of a page: records of one of the kinds."""

    cells: tuple[CellRecord, ...] = ()
    loops: tuple[LoopRecord, ...] = ()
    contexts: tuple[Context, ...] = ()
    packs: Mapping[str, Any] = field(default_factory=dict)
    """The places of the objects that they need, as in the manifest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Record):
    """Records that no longer change, in a file of their own: checkpoint/storage/record_pages.py."""

    name: str
    digest: str
    """32 hex digits of BLAKE2b, of the file."""
    kind: str = field(default="", metadata={"stored": False})
    """The field of the manifest that they belong to."""
    records: tuple[Any, ...] = field(default=(), metadata={"stored": False})
    places: Mapping[str, ObjectRef] = field(default_factory=dict, metadata={"stored": False})
    """The places of the objects that they need."""


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

    pages: tuple[Page, ...] = ()
    """Where older records are stored. In memory ``cells``, ``loops``, ``contexts`` and ``objects`` are whole."""

    rank: int = 0
    world_size: int = 1
    replicas: tuple[str, ...] = ()
    """Addresses of other stores that hold the same objects."""
    cipher: Mapping[str, Any] = field(default_factory=dict)
    """How the objects are encrypted, ``{"version": 1, "name": …, "key": key id}``; empty: they are not."""
    signature: Mapping[str, Any] = field(default_factory=dict)
    """Its signature, ``{"version": 1, "key": key id, "value": …}``; empty: it is not signed."""
    text: bytes = field(default=b"", compare=False, repr=False, metadata={"stored": False})
    """The bytes that it was read from: what is signed."""

    @property
    def size_bytes(self) -> int:
        """Bytes of all objects."""
        return sum(ref.size_bytes for ref in self.objects.values())

    def needs(self) -> Iterator[str]:
        """The names of the objects that its loops and cells refer to."""
        for loop in self.loops:
            yield from loop.needs()
        for cell in self.cells:
            yield from cell.needs()


def _parts(encoded: Encoded | None) -> Iterator[str]:
    if encoded is not None:
        yield from encoded.skeleton
        for buffer in encoded.buffers:
            yield from buffer


def digest(data: bytes) -> str:
    """The digest of a manifest's bytes, as the run record has it."""
    return pack.digest(data)


def dumps(manifest: Manifest) -> bytes:
    """Canonical JSON; objects are listed by pack, since a gigabyte has a thousand of them.

    Args:
        manifest: as it is stored: what is in its ``pages`` is not in it (``record_pages.split``).
    """
    stored = replace(manifest, objects={}, packs=by_pack(manifest.objects))
    return codec.dumps(stored, format=codec.NEWEST if manifest.pages else codec.FORMAT)


def by_pack(objects: Mapping[str, ObjectRef]) -> dict[str, dict[str, list[Any]]]:
    """Places of objects as they are stored: ``{pack: {name: [offset, size_bytes, blake3]}}``."""
    packs: dict[str, dict[str, list[Any]]] = {}
    for name, ref in objects.items():
        place = [ref.offset, ref.size_bytes, ref.blake3] if ref.blake3 else [ref.offset, ref.size_bytes]
        packs.setdefault(ref.pack, {})[name] = place
    return packs


def read_places(packs: Mapping[str, Any]) -> dict[str, ObjectRef]:
    """The inverse of ``by_pack``.

    Raises:
        ValueError, TypeError, AttributeError: these are no places.
    """
    return {name: _ref(file, place) for file, places in packs.items() for name, place in places.items()}


def loads(data: bytes, *, name: str = "manifest") -> Manifest:
    """Read what ``dumps`` wrote; ``record_pages.join`` adds what is in its pages.

    Raises:
        CheckpointCorrupt: it is not a manifest; ``name`` is its name in the message.
    """
    try:
        manifest = codec.loads(Manifest, data)
        objects = read_places(manifest.packs)
    except (codec.DecodeError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointCorrupt(f"{name} cannot be read: {error}") from None
    return checked(replace(manifest, objects=objects, packs={}, text=data), name)


def checked(manifest: Manifest, name: str) -> Manifest:
    """The manifest, if it has the places of the objects that it names, and these are in files of its own.

    Raises:
        CheckpointCorrupt: it is not so; ``name`` is its name in the message.
    """
    missing = next((need for need in manifest.needs() if need not in manifest.objects), None)
    if missing is not None:
        raise CheckpointCorrupt(f"{name} names object {missing} and does not say where it is")
    files = {ref.pack for ref in manifest.objects.values()} | {page.name for page in manifest.pages}
    strange = next((file for file in files if not _PACK.fullmatch(file)), None)
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
