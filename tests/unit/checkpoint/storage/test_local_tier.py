"""After a kill, a full disk or damage, the local tier has the newest checkpoint or the one before, whole."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from qcity_nb.checkpoint.digest import name_of
from qcity_nb.checkpoint.encode import decode_state, encode_state
from qcity_nb.checkpoint.state.capture import capture, load
from qcity_nb.checkpoint.storage import manifest as manifests
from qcity_nb.checkpoint.storage.local_tier import LocalTier
from qcity_nb.checkpoint.storage.manifest import Context, LoopRecord, Manifest
from qcity_nb.errors import CheckpointCorrupt, CheckpointError

BIG = os.urandom(50_000)


def state(seq: int) -> dict[str, object]:
    return {"seq": seq, "bulk": bytearray(BIG), "changing": os.urandom(0) + bytes([seq % 256]) * 10_000}


def save(tier: LocalTier, seq: int, *contents: bytes) -> Manifest:
    encoded, objects = encode_state(capture(state(seq)))
    outputs = {name_of(data): data for data in contents}
    record = LoopRecord(key="cell/0", done=seq, count=seq, state=encoded, outputs=tuple(outputs))
    manifest = Manifest(
        run="r",
        term=0,
        seq=seq,
        loops=(record,),
        contexts=(Context(key="c", rows=seq),),
        logged={"x": (seq, 5)},
    )
    return tier.save(manifest, {**objects, **outputs}, b'{"seq":%d}\n' % seq)


def check(tier: LocalTier, manifest: Manifest | None, seq: int) -> None:
    assert manifest is not None
    assert manifest.seq == seq
    encoded = manifest.loops[0].state
    assert encoded is not None
    with tier.open_reader(manifest) as read:
        assert load(decode_state(encoded, read)) == state(seq)
    assert tier.rows(seq) == b'{"seq":%d}\n' % seq


def files(tier: LocalTier) -> set[str]:
    return {str(path.relative_to(tier.path)) for path in tier.path.rglob("*") if path.is_file()}


def test_a_checkpoint_comes_back_in_another_tier(tmp_path: Path) -> None:
    tier = LocalTier(tmp_path / "1", term=1)
    assert tier.newest() is None
    assert not tier.path.exists()
    saved = save(tier, 1)
    again = LocalTier(tmp_path / "1", term=1)
    assert again.newest(deep=True) == saved == again.load(1)
    assert (saved.term, saved.rows_upto) == (1, 1)
    check(again, again.newest(), 1)
    assert manifests.loads(manifests.dumps(saved)) == saved


def test_only_new_objects_are_written_and_only_two_checkpoints_stay(tmp_path: Path) -> None:
    tier = LocalTier(tmp_path, term=3)
    same = os.urandom(200_000)
    first = save(tier, 1, same)
    for seq in range(2, 6):
        saved = save(tier, seq, same)
        assert saved.objects[name_of(same)] == first.objects[name_of(same)]
        written = (tmp_path / "packs" / f"t3-{seq}.pack").stat().st_size
        assert written < 100_000
    assert tier.seqs() == [4, 5]
    assert {name for name in files(tier) if name.startswith("packs")} == {f"packs/t3-{seq}.pack" for seq in (1, 4, 5)}
    assert len(list((tmp_path / "rows").iterdir())) == 5
    check(tier, tier.newest(deep=True), 5)


def test_an_object_the_checkpoint_before_holds_need_not_be_given(tmp_path: Path) -> None:
    tier = LocalTier(tmp_path, term=1)
    first = save(tier, 1)
    second = tier.save(replace(first, seq=2, objects={}), {}, b"")
    assert second.objects == first.objects
    assert tier.rows(2) == b""
    lost = replace(first, seq=3, loops=(LoopRecord(key="k", outputs=(name_of(b"nobody has it"),)),))
    with pytest.raises(CheckpointError, match="neither stored nor passed"):
        tier.save(lost, {}, b"x\n")
    assert tier.rows(3) == b""
    assert tier.newest() == second


def test_a_mostly_dead_pack_is_rewritten(tmp_path: Path) -> None:
    tier = LocalTier(tmp_path, term=1)
    small, large = os.urandom(1000), os.urandom(300_000)
    first = save(tier, 1, small, large)
    second = save(tier, 2, small)
    name = name_of(small)
    assert first.objects[name].pack == "t1-1.pack"
    assert second.objects[name].pack == "t1-2.pack"
    save(tier, 3, small)
    assert "packs/t1-1.pack" not in files(tier)
    assert tier.read(tier.load(3), name) == small


def test_a_reader_keeps_what_it_opened(tmp_path: Path) -> None:
    tier = LocalTier(tmp_path, term=1)
    first = save(tier, 1, b"old" * 9000)
    with LocalTier(tmp_path, term=1).open_reader(first) as read:
        for seq in range(2, 6):
            save(tier, seq)
        assert read(name_of(b"old" * 9000)) == b"old" * 9000
    with pytest.raises(CheckpointCorrupt, match=r"t1-1\.pack"):
        tier.objects(first, [name_of(b"old" * 9000)])


def test_rows_are_dropped_only_by_request(tmp_path: Path) -> None:
    tier = LocalTier(tmp_path, term=1)
    for seq in range(1, 6):
        save(tier, seq)
    tier.drop_rows(4)
    assert sorted(path.name for path in (tmp_path / "rows").iterdir()) == ["4.jsonl", "5.jsonl"]
    check(tier, tier.newest(deep=True), 5)


def damage(path: Path, how: str, at: int) -> None:
    whole = path.read_bytes()
    at %= len(whole)
    if how == "truncate":
        path.write_bytes(whole[:at])
    elif how == "flip":
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["truncate", "flip", "remove"])
@pytest.mark.parametrize("what", ["checkpoints/2.json", "packs/t1-2.pack", "rows/2.jsonl"])
def test_a_damaged_checkpoint_is_skipped_and_named(tmp_path: Path, what: str, how: str) -> None:
    tier = LocalTier(tmp_path / "0", term=1)
    save(tier, 1)
    save(tier, 2)
    size = (tier.path / what).stat().st_size
    content = {name: (tier.path / name).read_bytes() for name in files(tier)}
    for n, at in enumerate(range(0, size, max(1, size // 40))):
        again = LocalTier(tmp_path / f"{n + 1}", term=1)
        for name, data in content.items():
            (again.path / name).parent.mkdir(parents=True, exist_ok=True)
            (again.path / name).write_bytes(data)
        damage(again.path / what, how, at)
        manifest = again.newest(deep=True)
        assert manifest is not None
        # Bytes between the objects of a pack belong to nobody; whatever is found must be whole.
        check(again, manifest, manifest.seq)
        if manifest.seq == 1:
            gone = what.startswith("checkpoints") and how == "remove"
            assert len(again.skipped) == (0 if gone else 1)
            assert gone or "checkpoint 2 was skipped" in again.skipped[0]
        else:
            assert what.startswith("packs")
            assert how != "remove"
        if how == "remove":
            break
        # The owner goes on from there.
        check(again, save(again, 3), 3)
        assert again.seqs() == [manifest.seq, 3]


@pytest.mark.parametrize("step", range(1, 6))
def test_a_disk_that_refuses_costs_nothing_saved(tmp_path: Path, step: int) -> None:
    tier = LocalTier(tmp_path, term=1)
    save(tier, 1)
    before = files(tier)
    limit = {1: 0, 2: 50, 3: 200, 4: 1000, 5: 60_000}[step]
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
        with pytest.raises(CheckpointError, match=str(tmp_path)) as caught:
            save(tier, 2, os.urandom(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, ignored)
    assert "\n" not in str(caught.value)
    assert files(tier) == before
    check(tier, tier.newest(deep=True), 1)
    check(tier, save(tier, 2), 2)


def test_a_place_that_is_no_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=str(tmp_path / "file")):
        save(LocalTier(tmp_path / "file" / "1", term=1), 1)


def test_a_checkpoint_of_the_term_before_is_taken_over(tmp_path: Path) -> None:
    old = LocalTier(tmp_path / "1", term=1)
    save(old, 8)
    manifest = save(old, 9)
    new = LocalTier(tmp_path / "2", term=2)
    with old.open_reader(manifest) as read:
        imported = new.import_from(manifest, read, {8: old.rows(8), 9: old.rows(9)})
    assert (imported.seq, imported.term) == (9, 2)
    assert {ref.pack for ref in imported.objects.values()} == {"t2-9.pack"}
    assert new.rows(8) == old.rows(8)
    check(new, LocalTier(tmp_path / "2", term=2).newest(deep=True), 9)
    check(new, save(new, 10), 10)
    with pytest.raises(ValueError, match="of its own"):
        new.import_from(manifest, dict[str, bytes]().__getitem__, {})


def test_a_failed_take_over_leaves_nothing(tmp_path: Path) -> None:
    old = LocalTier(tmp_path / "1", term=1)
    manifest = save(old, 1)

    def read(name: str) -> bytes:
        raise CheckpointCorrupt(name)

    new = LocalTier(tmp_path / "2", term=2)
    with pytest.raises(CheckpointCorrupt):
        new.import_from(manifest, read, {1: old.rows(1)})
    assert files(new) == set()
    assert new.newest() is None


CHILD = """
import os, signal, sys
from pathlib import Path
from qcity_nb import crashpoints
from qcity_nb.checkpoint.state.capture import capture
from qcity_nb.checkpoint.encode import encode_state
from qcity_nb.checkpoint.storage.local_tier import LocalTier
from qcity_nb.checkpoint.storage.manifest import LoopRecord, Manifest

big, path, name, nth = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
left = [nth]
def kill(hit):
    if hit == name:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
if name.startswith("os."):
    real = getattr(os, name[3:])
    def call(*args, **kwargs):
        kill(name)
        return real(*args, **kwargs)
    setattr(os, name[3:], call)
else:
    crashpoints.arm(kill)
tier = LocalTier(path, term=1)
for seq in range(1, 5):
    content = {"seq": seq, "bulk": bytearray(big), "changing": bytes([seq % 256]) * 10_000}
    encoded, objects = encode_state(capture(content))
    record = LoopRecord(key="k", state=encoded)
    tier.save(Manifest(run="r", term=1, seq=seq, loops=(record,)), objects, b'{"seq":%d}\\n' % seq)
    print(seq, flush=True)
"""

POINTS = ["local.before", "outbox.before", "outbox.after", "local.pack", "local.after"]
CALLS = (
    [("os.fdatasync", n) for n in (7, 8, 9)]
    + [("os.fsync", n) for n in (9, 10, 11)]
    + [("os.unlink", n) for n in (1, 2, 3)]
)


@pytest.mark.kill
@pytest.mark.parametrize(("name", "nth"), [(name, 3) for name in POINTS] + CALLS)
def test_a_kill_leaves_the_newest_or_the_one_before(tmp_path: Path, name: str, nth: int) -> None:
    big, path = tmp_path / "big", tmp_path / "1"
    big.write_bytes(BIG)
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(big), str(path), name, str(nth)],
        stdout=subprocess.PIPE,
        check=False,
        timeout=60,
    )
    assert child.returncode == -signal.SIGKILL
    done = len(child.stdout.split())
    tier = LocalTier(path, term=1)
    manifest = tier.newest(deep=True)
    assert manifest is not None
    assert tier.skipped == []
    assert manifest.seq in (done, done + 1)
    check(tier, manifest, manifest.seq)
    check(tier, save(tier, manifest.seq + 1), manifest.seq + 1)
    assert not any(file.endswith(".tmp") for file in files(tier))
    named = {ref.pack for seq in tier.seqs() for ref in tier.load(seq).objects.values()}
    assert {path.name for path in (path / "packs").iterdir()} == named


def test_a_manifest_that_is_none_is_corruption() -> None:
    for data in (b"", b"{}", b'{"format":2}', b"[1]"):
        with pytest.raises(CheckpointCorrupt, match="here"):
            manifests.loads(data, name="here")
    nowhere = LoopRecord(key="k", outputs=(name_of(b"x"),))
    with pytest.raises(CheckpointCorrupt, match="does not say where"):
        manifests.loads(manifests.dumps(Manifest(run="r", term=1, seq=1, loops=(nowhere,))))


def test_reads_are_verified(tmp_path: Path) -> None:
    tier = LocalTier(tmp_path, term=1)
    saved = save(tier, 1, b"x" * 5000)
    name = name_of(b"x" * 5000)
    damage(tmp_path / "packs" / "t1-1.pack", "flip", saved.objects[name].offset + 17)
    readers: list[Callable[[], object]] = [
        lambda: tier.read(saved, name),
        lambda: tier.objects(saved, [name]),
        lambda: tier.read(saved, name_of(b"never saved")),
    ]
    for reader in readers:
        with pytest.raises(CheckpointCorrupt):
            reader()
    assert tier.newest(deep=True) is None
