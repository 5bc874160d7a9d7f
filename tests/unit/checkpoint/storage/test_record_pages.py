"""Records in pages: what a save writes does not grow with what has finished, and everything comes back."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import hmac
import os
import random
import signal
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cells_world import Kernel
from checkpoint_run import RUN, CheckpointRun, restored
from loop_world import World

from qcity_nb import codec
from qcity_nb.checkpoint import signing
from qcity_nb.checkpoint.digest import name_of
from qcity_nb.checkpoint.storage import manifest as manifests
from qcity_nb.checkpoint.storage import record_pages
from qcity_nb.checkpoint.storage.local_tier import LocalTier
from qcity_nb.checkpoint.storage.manifest import (
    CellRecord,
    Context,
    Encoded,
    GroupRecord,
    LoopRecord,
    Manifest,
    NamespaceRecord,
    ObjectRef,
    Page,
    PageContent,
)
from qcity_nb.errors import CheckpointCorrupt
from qcity_nb.kernel.changes.item_record import ItemRecord
from qcity_nb.kernel.finished_cells import fold
from qcity_nb.published.prune import prune
from qcity_nb.stores.memory import MemoryStore

MOST_BYTES = 64 << 10
"""Records that one save may write, in a run of 2,000 cells and 5,000 loops."""


def finished_loop(number: int, objects: dict[str, bytes]) -> LoopRecord:
    """As a training loop leaves it: state, generators, what it showed, a hundred items."""
    items = ItemRecord()
    for item in range(100):
        items.add(item + number)
    parts = [b"%s %d" % (kind, number) * 9 for kind in (b"state", b"generators", b"shown")]
    names = [name_of(part) for part in parts]
    objects |= dict(zip(names, parts, strict=True))
    return LoopRecord(
        key=f"{number % 997:08x}:{number}",
        name=f"loop {number}",
        done=100,
        count=100,
        total=100,
        passes=1,
        finished=True,
        source=f"{number:012x}",
        state=Encoded(skeleton=(names[0],)),
        generators=Encoded(skeleton=(names[1],)),
        outputs=(names[2],),
        items=items.values(),
    )


def finished_cell(number: int, objects: dict[str, bytes]) -> CellRecord:
    """A cell that made one variable."""
    parts = [b"%s %d" % (kind, number) * 9 for kind in (b"value", b"generators", b"shown")]
    names = [name_of(part) for part in parts]
    objects |= dict(zip(names, parts, strict=True))
    group = GroupRecord(names=(f"variable_{number}",), state=Encoded(skeleton=(names[0],)))
    namespace = NamespaceRecord(
        groups=(group,),
        gone=(),
        modules={"np": "numpy", "pd": "pandas", "torch": "torch"},
        surroundings={"cwd": "/content", "filters": [["default", None, "Warning", None, 0]] * 9},
        generators=Encoded(skeleton=(names[1],)),
    )
    return CellRecord(chain=f"{number:032x}", number=number, outputs=names[2], wall_s=1.5, namespace=namespace)


def written(tier: LocalTier) -> dict[Path, tuple[int, int]]:
    """The files with records, and what tells whether they were written again."""
    files: dict[Path, tuple[int, int]] = {}
    for folder in ("checkpoints", record_pages.FOLDER):
        for entry in os.scandir(tier.path / folder):
            with contextlib.suppress(FileNotFoundError):  # old ones are deleted in the background
                files[Path(entry.path)] = (entry.stat().st_ino, entry.stat().st_size)
    return files


def bytes_since(tier: LocalTier, before: dict[Path, tuple[int, int]]) -> int:
    return sum(now[1] for file, now in written(tier).items() if before.get(file) != now)


@functools.cache
def records(cells: int, loops: int) -> tuple[Manifest, dict[str, bytes]]:
    """A checkpoint with so many finished cells and loops, and the content of its objects."""
    objects: dict[str, bytes] = {}
    manifest = Manifest(
        run="r",
        term=1,
        seq=1,
        cells=tuple(finished_cell(number, objects) for number in range(cells)),
        loops=tuple(finished_loop(number, objects) for number in range(loops)),
        contexts=tuple(Context(key=f"cell:{number:08x}#{number:012x}", rows=1) for number in range(cells)),
    )
    return manifest, objects


def long_run(tier: LocalTier, *, cells: int, loops: int) -> Manifest:
    manifest, objects = records(cells, loops)
    return tier.save(manifest, objects, b"")


def test_an_iteration_writes_little_after_thousands_of_cells_and_loops(tmp_path: Path) -> None:
    world = World(tmp_path)
    manifest = long_run(LocalTier(world.tier(1), term=1), cells=2_000, loops=5_000)
    world.term = 1
    session = world.start()
    assert session.manifest is not None
    assert (len(session.manifest.cells), len(session.manifest.loops)) == (2_000, 5_000)
    world.cell("another")
    sizes: list[int] = []
    before = written(session.tier)
    for number in world.loop(range(6), {"w": [0.0]}, 1):
        session.finish_save()
        sizes.append(bytes_since(session.tier, before))
        before = written(session.tier)
        world.log(loss=number)
    world.end()
    sizes.append(bytes_since(session.tier, before))
    assert max(sizes) <= MOST_BYTES, sizes
    newest = LocalTier(session.tier.path, term=2).newest(deep=True)
    assert newest is not None
    assert newest.cells == manifest.cells
    assert newest.loops[-1].done == 6
    assert sorted(loop.key for loop in newest.loops[:-1]) == sorted(loop.key for loop in manifest.loops)
    assert session.loops[newest.loops[-1].key].state is None, "nothing keeps the objects of a finished loop alive"


def test_a_cell_writes_little_after_thousands_of_cells_and_loops(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path)
    manifest = long_run(kernel.tier, cells=2_000, loops=5_000)
    kernel.manifest, kernel.seq = manifest, 1
    kernel.live.update({f"variable_{number}": number for number in range(100)})
    kernel.cells.records = list(manifest.cells)
    kernel.cells.mark_saved(manifest.cells)
    kernel.kept_loops = manifest.loops
    kernel.cell()  # this namespace is another one: its first snapshot has all of it
    sizes = []
    for number in range(32):  # so many are a page
        before = written(kernel.tier)
        kernel.live[f"new_{number}"] = [number]
        kernel.cell(shown={len(kernel.cells.records): b"shown"})
        sizes.append(bytes_since(kernel.tier, before))
    assert max(sizes) <= MOST_BYTES, sizes
    newest = LocalTier(kernel.tier.path, term=1).newest(deep=True)
    assert newest is not None
    assert len(newest.cells) == 2_033
    assert fold(newest.cells).keys() == fold(kernel.cells.records).keys()


def test_a_publish_sends_little_after_thousands_of_cells_and_loops(tmp_path: Path) -> None:
    store = MemoryStore("counted")
    run = CheckpointRun(store, tmp_path)
    finished, objects = records(2_000, 5_000)
    run.add_finished(finished.cells, finished.loops, objects)
    run.save({"live": {"n": 0}})
    for number in range(1, 4):
        before = set(store.names(RUN))
        run.save({"live": {"n": number}})
        new = [name for name in set(store.names(RUN)) - before if name.startswith(("checkpoints/", "records/"))]
        assert sum(len(store.get(RUN, name)) for name in new) <= MOST_BYTES
    head = run.release()
    fresh = restored(store, head, tmp_path / "fresh")
    assert fresh.manifest is not None
    assert fresh.trouble == ()
    assert fresh.manifest.cells == finished.cells
    assert len(fresh.manifest.loops) == 5_001


def some(seed: int, size: int) -> tuple[Manifest, dict[str, bytes]]:
    """A manifest of cells, loops that run or have finished, and contexts."""
    rng = random.Random(seed)
    objects: dict[str, bytes] = {}
    cells = [finished_cell(number, objects) for number in range(rng.randrange(size))]
    loops = [finished_loop(rng.randrange(10**6), objects) for _ in range(rng.randrange(size))]
    loops = [replace(loop, finished=rng.random() < 0.8) for loop in {loop.key: loop for loop in loops}.values()]
    contexts = [Context(key=f"cell:{rng.randrange(40)}", iteration=n, rows=n) for n in range(rng.randrange(size))]
    places = {
        name: ObjectRef(pack=f"p{rng.randrange(9)}.pack", offset=n, size_bytes=len(content))
        for n, (name, content) in enumerate(objects.items())
    }
    return (
        Manifest(
            run="r", term=1, seq=1, cells=tuple(cells), loops=tuple(loops), contexts=tuple(contexts), objects=places
        ),
        objects,
    )


def by_key(manifest: Manifest) -> Any:
    def key(record: Any) -> Any:
        return (record.key, getattr(record, "iteration", 0))

    return manifest.cells, sorted(manifest.loops, key=key), sorted(manifest.contexts, key=key), dict(manifest.objects)


@pytest.mark.parametrize("seed", range(30))
def test_what_is_divided_comes_together_again(seed: int) -> None:
    manifest, _ = some(seed, 300)
    stored, files = record_pages.split(manifest, "t1-1")
    text = manifests.dumps(stored)
    whole = record_pages.join(manifests.loads(text), files.__getitem__)
    assert by_key(whole) == by_key(manifest)
    again, new = record_pages.split(whole, "t1-2", whole.pages)
    assert new == {}, "what is stored already is not written again"
    assert by_key(record_pages.join(manifests.loads(manifests.dumps(again)), files.__getitem__)) == by_key(manifest)
    assert all(page in files for page in (page.name for page in stored.pages))


@pytest.mark.parametrize("seed", range(10))
def test_a_change_writes_the_pages_that_it_touches(seed: int) -> None:
    manifest, objects = some(seed + 100, 600)
    stored, _ = record_pages.split(manifest, "t1-1")
    rng = random.Random(seed)
    at = rng.randrange(len(manifest.loops))
    for loops in (
        (*manifest.loops[:at], *manifest.loops[at + 1 :]),
        (*manifest.loops[:at], finished_loop(10**7, objects), *manifest.loops[at:]),
        (*manifest.loops[:at], replace(manifest.loops[at], done=7), *manifest.loops[at + 1 :]),
    ):
        places = dict(manifest.objects)
        for name, content in objects.items():
            places.setdefault(name, ObjectRef(pack="new.pack", offset=0, size_bytes=len(content)))
        changed = replace(manifest, loops=loops, objects=places)
        _, new = record_pages.split(changed, "t1-2", stored.pages)
        assert len(new) <= 3, "that page, and a neighbor that it is cut from or joined with"


def test_few_records_are_stored_as_ever() -> None:
    manifest, _ = some(3, 20)
    stored, files = record_pages.split(manifest, "t1-1")
    assert files == {}
    assert b'"format":2' in manifests.dumps(stored)
    assert manifests.loads(manifests.dumps(stored)) == manifest


def test_an_older_version_does_not_take_it_for_whole() -> None:
    stored, _ = record_pages.split(some(1, 300)[0], "t1-1")
    assert b'"format":3' in manifests.dumps(stored)
    text = manifests.dumps(stored).replace(b'"format":3', b'"format":4')
    with pytest.raises(CheckpointCorrupt, match=r"format 4 is newer than this version reads \(3\): upgrade qcity-nb"):
        manifests.loads(text)


@pytest.fixture
def tier(tmp_path: Path) -> LocalTier:
    tier = LocalTier(tmp_path / "tier", term=1)
    first = long_run(tier, cells=40, loops=60)
    objects: dict[str, bytes] = {}
    tier.save(replace(first, seq=2, loops=(*first.loops, finished_loop(77_777, objects))), objects, b"")
    return tier


@pytest.mark.parametrize("harm", ["flip", "cut", "gone"])
def test_damage_is_named_and_the_checkpoint_before_is_taken(tier: LocalTier, harm: str) -> None:
    first, second = ({page.name for page in tier.load(seq).pages} for seq in (1, 2))
    page = tier.path / record_pages.FOLDER / min(first & second)
    data = page.read_bytes()
    if harm == "gone":
        page.unlink()
    else:
        page.write_bytes(data[:-5] if harm == "cut" else data[:20] + bytes([data[20] ^ 4]) + data[21:])
    other = LocalTier(tier.path, term=1)
    with pytest.raises(CheckpointCorrupt, match=page.name):
        other.load(2)
    assert other.newest() is None
    assert len(other.skipped) == 2


def test_pages_that_nothing_needs_are_deleted(tier: LocalTier) -> None:
    kept = tier.load(2)
    for seq in (3, 4):
        tier.save(replace(kept, seq=seq, loops=(), cells=()), {}, b"")
    named = {page.name for seq in tier.seqs() for page in tier.load(seq).pages}
    assert {file.name for file in (tier.path / record_pages.FOLDER).iterdir()} == named


def test_a_forged_page_is_refused() -> None:
    manifest, _ = some(1, 300)
    stored, files = record_pages.split(manifest, "t1-1")
    bomb = zlib.compress(b" " * (record_pages._LARGEST + 1) + codec.dumps(PageContent()))
    forged = Page(name="t1-1-0", digest=record_pages._digest(bomb))
    with pytest.raises(CheckpointCorrupt, match="cannot be read"):
        record_pages.join(replace(stored, pages=(forged,)), lambda name: bomb)
    outside = manifests.dumps(replace(stored, pages=(replace(stored.pages[0], name="../../x"),)))
    with pytest.raises(CheckpointCorrupt, match="not a file name"):
        manifests.loads(outside)
    swapped = [replace(stored.pages[0], name=stored.pages[1].name), *stored.pages[1:]]
    with pytest.raises(CheckpointCorrupt, match="does not match its digest"):
        record_pages.join(manifests.loads(manifests.dumps(replace(stored, pages=tuple(swapped)))), files.__getitem__)


def test_the_signature_covers_the_pages_and_what_older_versions_signed() -> None:
    key = b"k" * 32
    stored, _ = record_pages.split(some(1, 300)[0], "t1-1")
    text = manifests.dumps(signing.sign(stored, "r", key))
    signing.check(manifests.loads(text), "r", key, where="there", trust_problem="")
    page = stored.pages[0].digest.encode()
    with pytest.raises(Exception, match="not signed with this key"):
        signing.check(manifests.loads(text.replace(page, page[::-1])), "r", key, where="there", trust_problem="")
    older: dict[str, Any] = codec.encode(replace(stored, pages=(), objects={}, loops=(), cells=()))
    del older["pages"], older["run_id"]
    older |= {"format": 2, "signature": {}}
    value = hmac.new(key, b"r\0" + codec.canonical(older), hashlib.sha256).hexdigest()
    older["signature"] = {"version": 1, "key": signing.key_id(key), "value": value}
    signing.check(manifests.loads(codec.canonical(older)), "r", key, where="there", trust_problem="")


def test_pruning_a_run_keeps_the_pages_of_what_stays(tmp_path: Path) -> None:
    store = MemoryStore("pruned")
    run = CheckpointRun(store, tmp_path)
    objects: dict[str, bytes] = {}
    run.add_finished((), tuple(finished_loop(number, objects) for number in range(200)), objects)
    for number in range(3):
        run.save({"live": {"n": number}})
    run.release()
    prune(store, RUN, keep=1)
    fresh = restored(store, run.head(), tmp_path / "fresh")
    assert fresh.manifest is not None
    assert (fresh.trouble, len(fresh.manifest.loops)) == ((), 201)


CHILD = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from qcity_nb.checkpoint.storage.local_tier import LocalTier
from qcity_nb.checkpoint.storage.manifest import LoopRecord, Manifest

path, name, nth = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
left = [nth]
real = getattr(os, name)
def call(*args, **kwargs):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)
setattr(os, name, call)
tier = LocalTier(path, term=1)
for seq in range(1, 9):
    loops = tuple(LoopRecord(key=f"loop {n}", finished=True, done=n) for n in range(60 + 20 * seq))
    tier.save(Manifest(run="r", term=1, seq=seq, loops=loops), {}, b"")
    print(seq, flush=True)
"""


@pytest.mark.kill
@pytest.mark.parametrize(
    ("name", "nth"),
    [(name, nth) for name in ("fdatasync", "fsync", "rename") for nth in (9, 14)]
    + [
        pytest.param(name, nth, marks=pytest.mark.nightly)
        for name in ("fdatasync", "fsync", "rename")
        for nth in range(2, 25)
        if nth not in (9, 14)
    ],
)
def test_a_kill_while_pages_are_written_leaves_a_whole_checkpoint(tmp_path: Path, name: str, nth: int) -> None:
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "1"), name, str(nth)],
        stdout=subprocess.PIPE,
        check=False,
        timeout=60,
    )
    assert child.returncode == -signal.SIGKILL
    done = len(child.stdout.split())
    tier = LocalTier(tmp_path / "1", term=1)
    manifest = tier.newest(deep=True)
    assert tier.skipped == []
    assert (manifest.seq if manifest is not None else 0) in (done, done + 1)
    if manifest is not None:
        assert len(manifest.loops) == 60 + 20 * manifest.seq
        saved = tier.save(replace(manifest, seq=manifest.seq + 1), {}, b"")
        assert len(LocalTier(tmp_path / "1", term=1).load(saved.seq).loops) == len(manifest.loops)
