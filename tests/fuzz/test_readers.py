"""Whatever lies on the disk, readers of checkpoints give right bytes or ``CheckpointError``.

Never a crash, a hang, memory on a damaged record's word, or code that is run before its digest held. Each fuzzer runs
for ``FUZZ_SECONDS`` (1 by default) and names the seed of the batch that found something.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import hostile
import hypothesis
import pytest
import tier_world as world
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qcity_nb.checkpoint.encode import decode_state, encode_state
from qcity_nb.checkpoint.state.capture import capture, load
from qcity_nb.checkpoint.storage import manifest as manifests
from qcity_nb.checkpoint.storage import pack
from qcity_nb.checkpoint.storage.local_tier import LocalTier
from qcity_nb.checkpoint.storage.manifest import LoopRecord, Manifest
from qcity_nb.checkpoint.storage.pack import ObjectRef
from qcity_nb.errors import CheckpointError

SEED = int(os.environ.get("FUZZ_SEED", "0"))
BATCH = 200


@pytest.fixture
def folder() -> Iterator[Path]:
    with world.memory_directory() as path:
        yield path


def fuzz(strategy: st.SearchStrategy[Any], run: Callable[[Any], None]) -> int:
    """Run it on examples until the time is over; how many there were."""
    count = 0
    end = hostile.until()
    for batch in itertools.count(SEED):

        @hypothesis.seed(batch)
        @settings(
            max_examples=BATCH,
            deadline=None,
            database=None,
            derandomize=False,
            suppress_health_check=list(HealthCheck),
        )
        @given(example=strategy)
        def one(example: Any) -> None:
            nonlocal count
            count += 1
            with hostile.bounded():
                run(example)

        try:
            one()
        except BaseException as error:
            error.add_note(f"found with FUZZ_SEED={batch}")
            raise
        if time.monotonic() >= end:
            break
    return count


def read_all(path: Path) -> None:
    """Every reader of a tier: right bytes, or an error of ours."""
    tier = LocalTier(path, term=world.TERM)
    for deep in (False, True):
        with contextlib.suppress(CheckpointError):
            tier.newest(deep=deep)
    for seq in tier.seqs():
        with contextlib.suppress(CheckpointError):
            tier.rows(seq)
        with contextlib.suppress(CheckpointError):
            manifest = tier.load(seq)
            for name in manifest.objects:
                with contextlib.suppress(CheckpointError):
                    assert world.name(tier.read(manifest, name)) == name
            with contextlib.suppress(CheckpointError):
                tier.objects(manifest, manifest.objects)


def saved(folder: Path) -> tuple[LocalTier, Manifest]:
    tier = LocalTier(folder / "1", term=world.TERM)
    world.save(tier, 1)
    return tier, world.save(tier, 2)


def test_manifests(folder: Path) -> None:
    value = hostile.manifest_value(saved(folder)[1])
    read = 0

    def run(data: bytes) -> None:
        nonlocal read
        with contextlib.suppress(CheckpointError):
            assert isinstance(manifests.loads(data), Manifest)
            read += 1

    assert fuzz(hostile.texts(value, is_damaged=True), run) >= BATCH
    assert read, "no example was near enough to a manifest to be read"


def test_forged_manifests_in_a_tier(folder: Path) -> None:
    """Their digests hold; what they say does not."""
    value = hostile.manifest_value(saved(folder)[1])

    def run(body: bytes) -> None:
        tier = LocalTier(folder / "1", term=world.TERM)
        hostile.forge_manifest(tier, 3, body)
        read_all(tier.path)
        (tier.path / "checkpoints" / "3.json").unlink()

    assert fuzz(hostile.texts(value), run) >= BATCH


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a\\u0000b", "\\ud800", "../../x", "/dev/zero", "/etc/passwd", "a//b", "x" * 300]
)
def test_a_forged_name_of_a_pack(folder: Path, name: str) -> None:
    tier, newest = saved(folder)
    body = manifests.dumps(newest).replace(b'"t1-2.pack"', f'"{name}"'.encode())
    assert body != manifests.dumps(newest)
    hostile.forge_manifest(tier, 3, body)
    read_all(tier.path)
    manifest = LocalTier(tier.path, term=world.TERM).newest(deep=True)
    assert manifest is not None
    assert manifest.seq == 2


def test_damaged_files_in_a_tier(folder: Path) -> None:
    tier, _ = saved(folder)
    files = {name: (tier.path / name).read_bytes() for name in world.files(tier.path)}

    def run(example: tuple[str, bytes]) -> None:
        name, data = example
        (tier.path / name).write_bytes(data)
        read_all(tier.path)
        world.check_readers(tier)
        (tier.path / name).write_bytes(files[name])

    def make(rng: random.Random) -> tuple[str, bytes]:
        name = rng.choice(sorted(files))
        return name, hostile.damaged(files[name], rng)

    assert fuzz(hostile.seeds().map(make), run) >= BATCH


def test_forged_indexes_of_packs(folder: Path) -> None:
    objects = world.objects(1)
    refs = pack.write_pack(folder / "true.pack", objects, term=world.TERM)
    value = {name: [ref.offset, ref.size_bytes] for name, ref in refs.items()}
    path = folder / "t1-1.pack"

    def run(index: bytes) -> None:
        hostile.forge_pack(path, objects, index)
        with contextlib.suppress(CheckpointError):
            for name, ref in pack.read_index(path)[1].items():
                with contextlib.suppress(CheckpointError):
                    assert world.name(pack.read_object(path, ref, name)) == name

    assert fuzz(hostile.texts(value, is_damaged=True), run) >= BATCH


def test_wrong_references(folder: Path) -> None:
    objects = world.objects(1)
    path = folder / "t1-1.pack"
    pack.write_pack(path, objects, term=world.TERM)
    numbers = st.one_of(st.integers(), st.sampled_from([0, 1, 4096, 1 << 31, 1 << 40, 1 << 62, 1 << 63, 1 << 70, -1]))

    def run(example: tuple[int, int, str]) -> None:
        offset, size, name = example
        ref = ObjectRef(pack=path.name, offset=offset, size_bytes=size)
        with contextlib.suppress(CheckpointError):
            assert world.name(pack.read_object(path, ref, name)) == name

    names = st.one_of(st.sampled_from(sorted(objects)), st.text(max_size=70))
    assert fuzz(st.tuples(numbers, numbers, names), run) >= BATCH


# -- code


def test_nothing_is_unpickled_before_its_digest_held(folder: Path) -> None:
    """A pickle that makes a file when it is loaded, in every place of a checkpoint that a skeleton may be read from."""
    tier = LocalTier(folder / "1", term=world.TERM)
    encoded, objects = encode_state(capture({"weights": bytearray(b"w" * 9000), "text": "x" * 2000}))
    record = Manifest(run="r", term=1, seq=1, loops=(LoopRecord(key="k", state=encoded),))
    true = tier.save(record, objects, b"")
    skeleton = next(record.needs())
    ref = true.objects[skeleton]
    exploded = folder / "exploded"
    bomb = hostile.bomb(exploded)
    pickle.loads(bomb)
    assert exploded.exists(), "the bomb is none"
    exploded.unlink()
    path = tier.path / "packs" / ref.pack
    whole = path.read_bytes()

    def planted(at: int) -> bytes:
        return whole[:at] + bomb + whole[at + len(bomb) :]

    def run(example: tuple[str, int, int]) -> None:
        where, at, size = example
        manifest = true
        if where == "in its place":
            path.write_bytes(planted(ref.offset))
        elif where == "anywhere":
            path.write_bytes(planted(at))
        elif where == "another object's name":
            path.unlink()
            pack.write_pack(path, {**dict.fromkeys(objects, bomb)}, term=world.TERM)
        else:  # the manifest's word is wrong, its own digest is not
            path.write_bytes(planted(at))
            wrong = replace(ref, offset=at, size_bytes=size)
            manifest = manifests.loads(manifests.dumps(replace(true, objects={**true.objects, skeleton: wrong})))
        with contextlib.suppress(CheckpointError), tier.open_reader(manifest) as read:
            load(decode_state(encoded, read))
        with contextlib.suppress(CheckpointError):
            load(decode_state(encoded, lambda name: tier.read(manifest, name)))
        assert not exploded.exists(), f"code was run: {example}"
        path.write_bytes(whole)

    places = st.sampled_from(["in its place", "anywhere", "another object's name", "the manifest"])
    offsets = st.one_of(st.just(ref.offset), st.integers(0, len(whole) - len(bomb)))
    sizes = st.sampled_from([len(bomb), ref.size_bytes, 1, len(whole)])
    assert fuzz(st.tuples(places, offsets, sizes), run) >= BATCH


# -- the fuzzers can fail


def test_a_reader_that_trusts_runs_the_bomb(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalTier, "open_reader", world.Trusting.open_reader)
    monkeypatch.setattr(LocalTier, "read", world.Trusting.read)
    with pytest.raises(AssertionError, match="code was run"):
        test_nothing_is_unpickled_before_its_digest_held(folder)


def test_memory_and_time_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MemoryError), hostile.bounded():
        bytearray(1 << 28)
    monkeypatch.setattr(hostile, "CPU_S", 0.05)
    with pytest.raises(TimeoutError), hostile.bounded():
        spin()


def spin() -> None:
    while True:
        pass
