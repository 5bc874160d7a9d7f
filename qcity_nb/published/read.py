"""Reading a run from its store: manifests, objects, rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from qcity_nb import codec, settings
from qcity_nb.checkpoint import signing
from qcity_nb.checkpoint.storage import manifest as manifests
from qcity_nb.checkpoint.storage import record_pages
from qcity_nb.checkpoint.storage.manifest import Manifest, Page
from qcity_nb.checkpoint.storage.pack import read_object
from qcity_nb.errors import CheckpointCorrupt, Missing
from qcity_nb.ports import Store
from qcity_nb.records import CheckpointRef, Event, Head
from qcity_nb.run import journal, lease
from qcity_nb.stores import trust
from qcity_nb.tracking.outbox import decode_rows

__all__ = ["events", "manifest_of", "published_rows", "reader", "check_signed"]


FETCHES = 4
"""How many packs, or pages of records, are fetched at a time."""


def manifest_of(store: Store, run: str, ref: CheckpointRef, known: Sequence[Page] = ()) -> Manifest:
    """A published checkpoint's manifest. Its digest is checked; its objects are not read.

    Args:
        known: pages of its records that need not be read again.
    Raises:
        CheckpointCorrupt, Missing: it is damaged or gone.
    """
    data = store.get(run, ref.name)
    if manifests.digest(data) != ref.digest:
        raise CheckpointCorrupt(f"manifest {ref.name} does not match its digest")
    manifest = manifests.loads(data, name=ref.name)
    there = {page.name for page in known}
    names = [page.name for page in manifest.pages if page.name not in there]
    with ThreadPoolExecutor(FETCHES, thread_name_prefix="fetch") as pool:
        pages = pool.map(lambda name: store.get(run, f"{record_pages.FOLDER}/{name}"), names)
        return record_pages.join(manifest, dict(zip(names, pages, strict=True)).__getitem__, known)


def check_signed(store: Store, run: str, manifest: Manifest) -> None:
    """Check that the checkpoint's content may be unpickled.

    Raises:
        CheckpointUntrusted: its source is not trusted; the message says what to do.
    """
    trust_problem = trust.trust_problem(store)
    signing.check(manifest, run, settings.signing_key(), where=store.address, trust_problem=trust_problem)


def reader(
    store: Store, run: str, manifest: Manifest, incoming: Path, *, ahead: bool = False
) -> Callable[[str], bytes]:
    """A function that reads a published checkpoint's objects, verified. Each pack is fetched once.

    Args:
        incoming: a directory for the fetched packs.
        ahead: fetch all packs now, several at a time; otherwise each when it is first read.
    """
    incoming.mkdir(parents=True, exist_ok=True)

    def here(pack: str) -> Path:
        file = incoming / pack.replace("/", "_")
        if not file.exists():
            store.fetch(run, pack, file)
        return file

    if ahead:
        with ThreadPoolExecutor(FETCHES, thread_name_prefix="fetch") as pool:
            for _ in pool.map(here, sorted({ref.pack for ref in manifest.objects.values()})):
                pass

    def read(name: str) -> bytes:
        ref = manifest.objects[name]
        return read_object(here(ref.pack), ref, name)

    return read


def published_rows(
    store: Store, head: Head, after: int, damaged: Callable[[str], None] = lambda what: None
) -> dict[int, bytes]:
    """The encoded rows of the published checkpoints after ``after``, by checkpoint number.

    Args:
        damaged: called with what cannot be decoded, and is left out.
    """
    blocks: dict[int, list[bytes]] = {}
    current: list[bytes] = []

    def is_old(lines: bytes) -> bool:
        first = lines.partition(b"\n")[0]
        return first.startswith(b'{"seq":') and first[7:-1].isdigit() and int(first[7:-1]) <= after

    for line in journal.walk(head.outbox, lambda name: store.get(head.run, name), until=is_old, damaged=damaged):
        if line.startswith(b'{"seq":') and line[7:-1].isdigit():
            current = blocks.setdefault(int(line[7:-1]), [])
        else:
            current.append(line)
    decoded: dict[int, bytes] = {}
    for seq, lines in blocks.items():
        if seq > after:
            rows = b"".join(line + b"\n" for line in lines)
            try:
                decode_rows(rows)
                decoded[seq] = rows
            except codec.DecodeError as error:
                damaged(f"the rows of checkpoint {seq}: {error}")
    return decoded


def events(store: Store, run: str, head: Head) -> list[Event]:
    """The run's journal, oldest first."""
    for _ in range(3):
        try:
            lines = list(journal.walk(head.journal, lambda name: store.get(run, name)))
        except Missing:
            # A holder replaced the segment while we read; the newest run record names the new one.
            head = lease.read(store, run).head
            continue
        return list(journal.decode_lines(lines))
    return []
