"""The recorder writes down what happens, and the model of a power cut loses what was not synced, nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qcity_nb.testing.disk import Call, Recorder
from qcity_nb.testing.power_cut import PAGE, Names, crash_states, everything
from qcity_nb.testing.trace import Trace


def write(path: Path, data: bytes, *, is_synced: bool = True) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(descriptor, data)
    if is_synced:
        os.fsync(descriptor)
    os.close(descriptor)


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def ends(trace: Trace, names: Names) -> set[tuple[tuple[str, bytes], ...]]:
    """What may be left once all has happened."""
    last = len(trace.operations)
    return {tuple(sorted(state.files.items())) for state in crash_states(trace, names=names, first=last)}


def test_every_operation_is_seen(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "kept").write_bytes(b"there before" * 1000)
    calls: list[Call] = []
    with Recorder(tmp_path, before=calls.append) as disk:
        (tmp_path / "a" / "b").mkdir(parents=True)
        write(tmp_path / "a" / "x.tmp", b"x" * 5000)
        (tmp_path / "a" / "x.tmp").rename(tmp_path / "a" / "x")
        descriptor = os.open(tmp_path / "a" / "x", os.O_RDWR)
        os.pwrite(descriptor, b"late", 9000)
        os.pwritev(descriptor, [b"one", b"two"], 10)
        os.lseek(descriptor, 100, os.SEEK_SET)
        os.writev(descriptor, [b"three", b"four"])
        os.posix_fallocate(descriptor, 0, 20_000)
        os.ftruncate(descriptor, 9_500)
        os.fdatasync(descriptor)
        os.close(descriptor)
        os.link(tmp_path / "a" / "x", tmp_path / "a" / "b" / "y")
        (tmp_path / "a" / "x").replace(tmp_path / "old" / "x")
        write(tmp_path / "old" / "kept", b"new")
        (tmp_path / "a" / "b" / "y").unlink()
        (tmp_path / "a" / "b").rmdir()
        write(tmp_path / "gone", b"")
        os.remove(str(tmp_path / "gone"))  # noqa: PTH107 - not what pathlib calls
        disk.check()
    assert set(everything(disk.trace).files) == {"old/kept", "old/x"}
    assert [call.number for call in calls] == list(range(1, disk.count + 1))
    kinds = {call.kind for call in calls}
    assert kinds == {"create", "mkdir", "write", "resize", "allocate", "sync", "rename", "link", "unlink"}


def test_what_goes_past_the_recorder_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "x", b"")
    descriptor = os.open(tmp_path / "x", os.O_WRONLY)
    with pytest.raises(AssertionError, match=r"without the recorder.*'x'"), Recorder(tmp_path):
        os.write(descriptor, b"unseen")
    os.close(descriptor)
    with pytest.raises(AssertionError, match="cannot be recorded"), Recorder(tmp_path):
        (tmp_path / "y").write_bytes(b"")


def test_a_call_may_be_refused_or_cut_short(tmp_path: Path) -> None:
    def before(call: Call) -> int | None:
        if call.kind == "sync":
            raise OSError("no")
        return 2 if call.kind == "write" else None

    with Recorder(tmp_path, before=before) as disk, pytest.raises(OSError, match="no"):
        write(tmp_path / "x", b"12345")
    assert everything(disk.trace).files == {"x": b"12"}


@pytest.mark.parametrize("names", ["strict", "ordered"])
def test_unsynced_data_is_lost_in_any_subset(tmp_path: Path, names: Names) -> None:
    write(tmp_path / "x", b"o" * 2 * PAGE)
    with Recorder(tmp_path) as disk:
        descriptor = os.open(tmp_path / "x", os.O_RDWR)
        os.pwrite(descriptor, b"n" * 3 * PAGE, 0)
        seen = ends(disk.trace, names)
        os.fsync(descriptor)
        assert ends(disk.trace, names) == {(("x", b"n" * 3 * PAGE),)}
        os.close(descriptor)
    short = [a + b for a in (b"o" * PAGE, b"n" * PAGE) for b in (b"o" * PAGE, b"n" * PAGE)]
    long = [first + last for first in short for last in (bytes(PAGE), b"n" * PAGE)]
    assert seen == {(("x", data),) for data in short + long}


def test_names_are_lost_one_by_one_or_from_the_end(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with Recorder(tmp_path) as disk:
        write(tmp_path / "a" / "x", b"1")
        write(tmp_path / "b" / "y", b"2")
        x, y = ("a/x", b"1"), ("b/y", b"2")
        assert ends(disk.trace, "strict") == {(), (x,), (y,), (x, y)}
        assert ends(disk.trace, "ordered") == {(x, y)}, "syncing y commits what came before"
        sync(tmp_path / "b")
        assert ends(disk.trace, "strict") == {(y,), (x, y)}
        (tmp_path / "a" / "x").rename(tmp_path / "a" / "z")
        (tmp_path / "b" / "y").unlink()
        z = ("a/z", b"1")
        assert ends(disk.trace, "ordered") == {(x, y), (z, y), (z,)}
        assert ends(disk.trace, "strict") == {(y,), (x, y), (z, y), (), (x,), (z,)}


def test_fdatasync_makes_no_name_durable(tmp_path: Path) -> None:
    with Recorder(tmp_path) as disk:
        descriptor = os.open(tmp_path / "x", os.O_WRONLY | os.O_CREAT)
        os.write(descriptor, b"1")
        os.fdatasync(descriptor)
        os.close(descriptor)
    for names in ("strict", "ordered"):
        assert ends(disk.trace, names) == {(), (("x", b"1"),)}
