"""What a power cut may leave of a trace: every state of the directory that a file system could show afterwards.

SIGKILL keeps the page cache, so no killed process tells whether a sync was forgotten. Here a trace is cut at each of
its operations, and whatever was not synced by then may be lost:

* **Data.** Of what was written to a file since its last fsync or fdatasync, any subset of 4 KiB pages, each as it was
  at the last sync or after any later write to it (zeros where nothing was), and independently any of the sizes that the
  file had since. Both models: no order between the pages, nor between pages and size.
* **Names**, one operation at a time (a rename within one directory is atomic; across two it is a link and an unlink):

  - ``strict``, POSIX at its letter: of the operations of a directory since its last fsync any subset, each by
    itself. Syncing a file does not make its name durable, nor does anything but a directory's own fsync.
  - ``ordered``, a file system with one ordered journal (ext4, xfs): a prefix of the operations of all directories
    together. An fsync commits those up to the last change of the file or directory synced; fdatasync, which
    need not write the journal, none.

What is at the start of the trace is durable. Not modelled: a disk that lies about its flushes, sectors torn within a
page, and damage to what was synced long ago.

Source: Pillai et al., "All File Systems Are Not Created Equal: On the Complexity of Crafting Crash-Consistent
Applications", OSDI 2014 (its "abstract persistence models"); fsync(2): "Calling fsync() does not necessarily ensure
that the entry in the directory containing the file has also reached disk. For that an explicit fsync() on a file
descriptor for the directory is also needed."
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from qcity_nb.testing.trace import ROOT, Entry, Milestone, Node, Operation, Resize, Sync, Trace, Write

__all__ = ["PAGE", "CrashState", "Names", "crash_states", "everything"]

Names = Literal["strict", "ordered"]
PAGE = 4096
_ZEROS = bytes(PAGE)


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashState:
    """A directory after the power came back."""

    cut: int
    """How many operations had been carried out."""
    notes: tuple[str, ...]
    """What had been reported as done to the workload by then."""
    lost: tuple[str, ...]
    """What did not survive, in words."""
    files: Mapping[str, bytes]
    folders: frozenset[str]

    def build(self, root: Path) -> Path:
        """Make it, below a directory that is not there yet."""
        root.mkdir(parents=True)
        for name in sorted(self.folders):
            (root / name).mkdir()
        for name, data in self.files.items():
            (root / name).write_bytes(data)
        return root

    @property
    def key(self) -> bytes:
        """Equal for states that nobody can tell apart."""
        digest = hashlib.blake2b(digest_size=16)
        for name in sorted(self.folders):
            digest.update(b"folder %d %s" % (len(name), name.encode()))
        for name, data in sorted(self.files.items()):
            digest.update(b"file %d %s %d" % (len(name), name.encode(), len(data)))
            digest.update(data)
        return digest.digest()


@dataclass(slots=True)
class _File:
    """A file's content as page versions: the first is durable, the others were written since."""

    pages: dict[int, list[bytes]] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=lambda: [0])
    changed: int = 0
    """When it was last changed: how many operations on names had happened."""

    def _add(self, page: int, data: bytes) -> None:
        versions = self.pages.setdefault(page, [_ZEROS])
        if versions[-1] != data:
            versions.append(data)

    def write(self, offset: int, data: bytes) -> None:
        end = offset + len(data)
        for page in range(offset // PAGE, -(-end // PAGE)):
            old = self.pages.get(page, [_ZEROS])[-1]
            low, high = max(offset - page * PAGE, 0), min(end - page * PAGE, PAGE)
            part = data[page * PAGE + low - offset : page * PAGE + high - offset]
            self._add(page, old[:low] + part + old[high:])
        self._size(max(self.sizes[-1], end))

    def resize(self, size: int) -> None:
        if size < self.sizes[-1]:
            for page in [page for page in self.pages if (page + 1) * PAGE > size]:
                keep = max(0, size - page * PAGE)
                self._add(page, self.pages[page][-1][:keep] + bytes(PAGE - keep))
        self._size(size)

    def _size(self, size: int) -> None:
        if self.sizes[-1] != size:
            self.sizes.append(size)

    def sync(self) -> None:
        self.pages = {page: versions[-1:] for page, versions in self.pages.items()}
        self.sizes = self.sizes[-1:]

    def content(self, pages: Mapping[int, int], size: int) -> bytes:
        """With the chosen version of each page, and of the size; not chosen: the newest."""
        end = self.sizes[size]
        whole = b"".join(
            self.pages[page][pages.get(page, -1)] if page in self.pages else _ZEROS for page in range(-(-end // PAGE))
        )
        return whole[:end]


Choice = tuple[str, Node, int]
"""What may be lost: ("name", number of the operation, 0), ("names", 0, 0), ("page", node, page), ("size", node, 0)."""


class _Disk:
    """The state after some operations: what is durable and what is not."""

    def __init__(self, trace: Trace, names: Names) -> None:
        self.trace = trace
        self.names = names
        self.files = {node: _File() for node in trace.files}
        for node, data in trace.files.items():
            self.files[node].write(0, data)
            self.files[node].sync()
        self.durable = dict(trace.entries)
        self.pending: list[tuple[int, Entry]] = []
        self.count = 0
        self.changed: dict[Node, int] = {}
        """By directory, and by file that a name was changed of: the number of the last such operation."""

    def do(self, operation: Operation) -> None:
        if isinstance(operation, Entry):
            self.count += 1
            self.pending.append((self.count, operation))
            for node in (operation.folder, *(node for _, node in operation.changes if node is not None)):
                self.changed[node] = self.count
                if node not in self.trace.folders:
                    self.files.setdefault(node, _File())
        elif isinstance(operation, Write):
            self.files[operation.node].write(operation.offset, operation.data)
            self.changed[operation.node] = self.count
        elif isinstance(operation, Resize):
            self.files[operation.node].resize(operation.size_bytes)
            self.changed[operation.node] = self.count
        elif isinstance(operation, Sync):
            self._sync(operation)

    def _sync(self, sync: Sync) -> None:
        if sync.node in self.files:
            self.files[sync.node].sync()
        left = []
        upto = 0 if sync.is_data_only else self.changed.get(sync.node, 0)
        for number, entry in self.pending:
            if (self.names == "strict" and entry.folder == sync.node) or (self.names == "ordered" and number <= upto):
                _apply(self.durable, entry)
            else:
                left.append((number, entry))
        self.pending = left

    def choices(self) -> list[tuple[Choice, int]]:
        """What may be lost, and in how many versions it may come back (the last is: not lost)."""
        choices: list[tuple[Choice, int]] = []
        if self.names == "strict":
            choices += [(("name", number, 0), 2) for number, _ in self.pending]
        elif self.pending:
            choices.append((("names", 0, 0), len(self.pending) + 1))
        for node, file in self.files.items():
            choices += [(("page", node, page), len(all_)) for page, all_ in file.pages.items() if len(all_) > 1]
            if len(file.sizes) > 1:
                choices.append((("size", node, 0), len(file.sizes)))
        return choices

    def state(self, cut: int, notes: tuple[str, ...], chosen: Mapping[Choice, int]) -> CrashState:
        """With each choice made; those that are not named: nothing lost."""
        entries = dict(self.durable)
        lost = []
        kept = chosen.get(("names", 0, 0), len(self.pending))
        for position, (number, entry) in enumerate(self.pending):
            if chosen.get(("name", number, 0), 1) and position < kept:
                _apply(entries, entry)
            else:
                lost.append(" and ".join(f"{'unlink' if n is None else 'name'} {name}" for name, n in entry.changes))
        pages: dict[Node, dict[int, int]] = {}
        sizes: dict[Node, int] = {}
        for (kind, node, page), version in chosen.items():
            if kind == "page":
                pages.setdefault(node, {})[page] = version
            elif kind == "size":
                sizes[node] = version
        files: dict[str, bytes] = {}
        folders: set[str] = set()
        below: dict[Node, list[tuple[str, Node]]] = {}
        for (folder, name), node in entries.items():
            below.setdefault(folder, []).append((name, node))
        todo = [("", ROOT)]
        while todo:
            path, folder = todo.pop()
            for name, node in below.get(folder, ()):
                here = f"{path}{name}"
                if node in self.trace.folders:
                    folders.add(here)
                    todo.append((f"{here}/", node))
                    continue
                file = self.files[node]
                files[here] = file.content(pages.get(node, {}), sizes.get(node, -1))
                gone = [page for page, version in pages.get(node, {}).items() if version < len(file.pages[page]) - 1]
                if gone:
                    lost.append(f"pages {gone} of {here}")
                if sizes.get(node, -1) not in (-1, len(file.sizes) - 1):
                    lost.append(f"the size of {here}, now {len(files[here])}")
        return CrashState(cut=cut, notes=notes, lost=tuple(lost), files=files, folders=frozenset(folders))


def _apply(entries: dict[tuple[Node, str], Node], entry: Entry) -> None:
    for name, node in entry.changes:
        if node is None:
            entries.pop((entry.folder, name), None)
        else:
            entries[entry.folder, name] = node


def everything(trace: Trace) -> CrashState:
    """The directory with nothing lost: what is on the disk when the trace ends."""
    disk = _Disk(trace, "strict")
    for operation in trace.operations:
        disk.do(operation)
    return disk.state(len(trace.operations), (), {})


def _combinations(
    choices: Sequence[tuple[Choice, int]], rng: random.Random, limit: int, samples: int
) -> Iterator[dict[Choice, int]]:
    """Every way to choose where there are few; else the corners, and some at random."""
    if math.prod(count for _, count in choices) <= limit:
        for versions in itertools.product(*(range(count) for _, count in choices)):
            yield dict(zip((choice for choice, _ in choices), versions, strict=True))
        return
    old = {choice: 0 for choice, _ in choices}
    new = {choice: count - 1 for choice, count in choices}
    yield old
    yield new
    are_names = {choice: choice[0] in ("name", "names") for choice in old}
    yield {choice: new[choice] if is_name else 0 for choice, is_name in are_names.items()}
    yield {choice: 0 if is_name else new[choice] for choice, is_name in are_names.items()}
    alone = list(old)
    for choice in alone if len(alone) <= limit else rng.sample(alone, samples):
        yield {**new, choice: 0}
        yield {**old, choice: new[choice]}
    for _ in range(samples):
        share = rng.random()
        yield {choice: count - 1 if rng.random() < share else rng.randrange(count) for choice, count in choices}


def crash_states(
    trace: Trace, *, names: Names, first: int = 0, seed: int = 0, limit: int = 1 << 10, samples: int = 64
) -> Iterator[CrashState]:
    """The states after a power cut at each operation; each state once for the same notes.

    Args:
        first: cuts before this operation are left out.
        limit: up to so many combinations of losses, all of them; where there are more, the corners (nothing
            lost, all lost, all names but no data, all data but no names, each loss alone, each survivor alone, or
            ``samples`` of these where they are more than ``limit``) and ``samples`` at random.
        seed: of those.
    """
    disk, seen = _Disk(trace, names), set[tuple[tuple[str, ...], bytes]]()
    notes: tuple[str, ...] = ()
    rng = random.Random(seed)
    for cut in range(len(trace.operations) + 1):
        for chosen in _combinations(disk.choices(), rng, limit, samples) if cut >= first else ():
            state = disk.state(cut, notes, chosen)
            key = (notes, state.key)
            if key not in seen:
                seen.add(key)
                yield state
        if cut < len(trace.operations):
            operation = trace.operations[cut]
            disk.do(operation)
            if isinstance(operation, Milestone):
                notes = (*notes, operation.text)
