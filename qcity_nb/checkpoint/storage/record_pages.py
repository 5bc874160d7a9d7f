"""Records of what has finished, in pages: a checkpoint writes those that changed, not all of them again.

A manifest names every finished cell and loop, with the places of their objects. A notebook of a thousand cells would
write a megabyte after each of them. So records that do not change any more go into pages, files of their own that
later manifests name. Cells are cut by position. Loops and contexts are cut where a hash of their key says so, so that
one that begins again, or is new, changes no page but its own. A manifest with few records has no pages.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from qcity_nb import codec
from qcity_nb.checkpoint.storage import manifest as manifests
from qcity_nb.checkpoint.storage.manifest import CellRecord, Context, LoopRecord, Manifest, ObjectRef, Page, PageContent
from qcity_nb.errors import CheckpointCorrupt

__all__ = ["FOLDER", "closing", "join", "split"]

FOLDER = "records"
"""The folder of the pages, in a local tier and in a store."""
_FEW = 64
"""With fewer records than this, there are no pages."""
_CUT = 32
"""A page has about this many records, and at most twice as many."""
_LARGEST = 64 << 20
"""Bytes of a page when it is unpacked: a forged one must not fill the memory."""
_KINDS = ("cells", "loops", "contexts")


def closing(manifest: Manifest, known: Sequence[Page]) -> set[str]:
    """The objects of records whose page gets no further ones from now on.

    Stored together now, the small ones among them need not be moved again, which would change their page.
    """
    sizes = {(page.kind, _key(page.records[0])): len(page.records) for page in known}
    return {
        name
        for kind, chunk, is_whole in _chunks(manifest)
        if is_whole and sizes.get((kind, _key(chunk[0]))) != len(chunk)
        for record in chunk
        for name in _needs(record)
    }


def split(manifest: Manifest, prefix: str, known: Sequence[Page] = ()) -> tuple[Manifest, dict[str, bytes]]:
    """Divide a manifest into one to store, with names of pages, and the new pages by name.

    Args:
        prefix: how the names of new pages begin; nothing else has or gets such names.
        known: pages that are stored already.
    Returns: a manifest whose ``pages`` are set, and which lacks what these contain.
    """
    stored = {(page.kind, _key(page.records[0])): page for page in known}
    numbers = count()
    pages: list[Page] = []
    new: dict[str, bytes] = {}
    for kind, chunk, _ in _chunks(manifest):
        page = stored.get((kind, _key(chunk[0])))
        if page is None or not _is_same(page, chunk, manifest.objects):
            places = {name: manifest.objects[name] for record in chunk for name in _needs(record)}
            page, data = _write(f"{prefix}-{next(numbers)}", kind, chunk, places)
            new[page.name] = data
        pages.append(page)
    if not pages:
        return replace(manifest, pages=()), {}
    stays = replace(
        manifest, cells=(), loops=tuple(loop for loop in manifest.loops if not _is_settled(loop)), contexts=()
    )
    paged = {name for page in pages for name in page.places}.difference(stays.needs())
    objects = {name: ref for name, ref in manifest.objects.items() if name not in paged}
    return replace(stays, objects=objects, pages=tuple(pages)), new


def join(manifest: Manifest, read: Callable[[str], bytes], known: Sequence[Page] = ()) -> Manifest:
    """The whole manifest, of one as it is stored.

    Args:
        read: returns a page's content by its name.
        known: pages that need not be read again.
    Raises:
        CheckpointCorrupt: a page is not the one that the manifest names; what ``read`` raises.
    """
    if not manifest.pages:
        return manifest
    there = {(page.name, page.digest): page for page in known}
    pages = tuple(there.get((page.name, page.digest)) or _read(page, read(page.name)) for page in manifest.pages)
    records: dict[str, Any] = {
        kind: (*(each for page in pages if page.kind == kind for each in page.records), *getattr(manifest, kind))
        for kind in _KINDS
    }
    objects = {name: ref for page in pages for name, ref in page.places.items()} | dict(manifest.objects)
    return manifests.checked(replace(manifest, pages=pages, objects=objects, **records), f"checkpoint {manifest.seq}")


def _chunks(manifest: Manifest) -> Iterator[tuple[str, tuple[Any, ...], bool]]:
    """Kinds of records, those of one page, and whether that page is whole: no other record will join them."""
    if len(manifest.cells) + len(manifest.loops) + len(manifest.contexts) < _FEW:
        return
    for kind in _KINDS:
        chunk: list[Any] = []
        for place, record in enumerate(getattr(manifest, kind)):
            if not _is_settled(record):
                continue
            chunk.append(record)
            is_cut = place % _CUT == _CUT - 1 if kind == "cells" else zlib.crc32(_key(record).encode()) % _CUT == 0
            if is_cut or len(chunk) == 2 * _CUT:
                yield kind, tuple(chunk), True
                chunk.clear()
        if chunk:
            yield kind, tuple(chunk), False


def _is_settled(record: CellRecord | LoopRecord | Context) -> bool:
    """Does it stay as it is, unless somebody runs that code again?"""
    if isinstance(record, LoopRecord):
        return record.finished or record.generators is None  # an inner loop of which only its count is left
    return True


def _key(record: CellRecord | LoopRecord | Context) -> str:
    if isinstance(record, CellRecord):
        return record.chain
    return f"{record.key} {record.iteration}" if isinstance(record, Context) else record.key


def _needs(record: CellRecord | LoopRecord | Context) -> Iterator[str]:
    return () if isinstance(record, Context) else record.needs()  # type: ignore[return-value]


def _is_same(page: Page, records: Sequence[Any], objects: Mapping[str, ObjectRef]) -> bool:
    return (
        len(page.records) == len(records)
        and all(old is new or old == new for old, new in zip(page.records, records, strict=True))
        and all((place := objects.get(name)) is ref or place == ref for name, ref in page.places.items())
    )


def _write(name: str, kind: str, records: tuple[Any, ...], places: Mapping[str, ObjectRef]) -> tuple[Page, bytes]:
    fields: dict[str, Any] = {kind: records, "packs": manifests.by_pack(places)}
    content = PageContent(**fields)
    data = zlib.compress(codec.dumps(content), 6)
    return Page(name=name, digest=_digest(data), kind=kind, records=records, places=places), data


def _read(page: Page, data: bytes) -> Page:
    if _digest(data) != page.digest:
        raise CheckpointCorrupt(f"{FOLDER}/{page.name} does not match its digest")
    try:
        content = codec.loads(PageContent, zlib.decompressobj().decompress(data, _LARGEST))
        places = manifests.read_places(content.packs)
    except (zlib.error, ValueError, TypeError, AttributeError) as error:
        raise CheckpointCorrupt(f"{FOLDER}/{page.name} cannot be read: {error}") from None
    kind = next((kind for kind in _KINDS if getattr(content, kind)), "cells")
    return replace(page, kind=kind, records=getattr(content, kind), places=places)


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
