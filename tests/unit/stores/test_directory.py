"""What is the directory store's own: links, pruning, the probe, its clock, what the disk may do to it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qcity_nb import crashpoints
from qcity_nb.errors import Conflict, StoreRefused, StoreUnavailable, UsageError
from qcity_nb.stores import directory, open_store
from qcity_nb.stores.directory import KEEP_HEADS, STALE_TMP_S, DirectoryStore
from qcity_nb.stores.probe import MARKER


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> DirectoryStore:
    return directory.open_store(str(root))


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    crashpoints.arm(None)


def fail_with(number: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


# --- addresses


def test_addresses_of_one_directory(root: Path, store: DirectoryStore) -> None:
    assert store.address == str(root)
    for address in (str(root), f"file://{root}", f"file://localhost{root}", root.as_uri()):
        assert open_store(address).address == str(root)
    spaced = root.with_name("a b")
    assert open_store(spaced.as_uri()).address == str(spaced)


def test_an_address_of_another_machine_or_of_nothing(root: Path) -> None:
    for address in ("file://host/data", ""):
        with pytest.raises(UsageError):
            open_store(address)


def test_an_unknown_scheme_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"no installed.*file://, hf://, memory://"):
        open_store("gopher://x")


def test_a_known_scheme_loads_no_package_metadata(root: Path) -> None:
    code = (
        "import sys; from qcity_nb.stores import open_store; open_store(sys.argv[1]); open_store('memory://x');"
        "print('importlib.metadata' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code, str(root)], text=True, capture_output=True, check=True)
    assert run.stdout == "False\n"


# --- links and pruning


def test_the_newest_heads_stay(root: Path, store: DirectoryStore) -> None:
    version = None
    for n in range(40):
        version = store.publish("r", b"%d" % n, expect=version)
    kept = {path.name: path.read_bytes() for path in (root / "runs" / "r" / "heads").iterdir()}
    assert kept == {str(n): b"%d" % (n - 1) for n in range(41 - KEEP_HEADS, 41)}
    assert [path.name for path in (root / "tmp").iterdir() if not path.name.startswith("clock-")] == []


@pytest.mark.parametrize("rivals", [1, KEEP_HEADS - 1, KEEP_HEADS, KEEP_HEADS + 1, KEEP_HEADS + 2, 60])
def test_stopped_between_files_and_link(store: DirectoryStore, rivals: int) -> None:
    """The name is taken, or free again because it was pruned: never ours."""
    base = store.publish("r", b"base", expect=None)

    def race(name: str) -> None:
        if name == "publish.files.after":
            crashpoints.arm(None)
            version = base
            for n in range(rivals):
                version = store.publish("r", b"rival %d" % n, expect=version)

    crashpoints.arm(race)
    pruned = rivals > KEEP_HEADS  # version 2 goes once version 2 + KEEP_HEADS is there
    with pytest.raises(StoreUnavailable if pruned else Conflict):
        store.publish("r", b"late", expect=base, files={"f": b""})
    stamped = store.read("r")
    assert stamped is not None
    assert (stamped.data, stamped.version) == (b"rival %d" % (rivals - 1), str(rivals + 1))
    assert not (store.root / "runs" / "r" / "heads" / "2").exists() or not pruned


@pytest.mark.parametrize("later", [1, KEEP_HEADS - 1, KEEP_HEADS, 40])
def test_stopped_between_link_and_check(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, later: int) -> None:
    """Our link was the run record, and others wrote on top: a success, or unknown, never a conflict."""
    base = store.publish("r", b"base", expect=None)
    check = DirectoryStore._check_link

    def stop(self: DirectoryStore, run: str, heads: Path, version: int) -> None:
        monkeypatch.setattr(DirectoryStore, "_check_link", check)
        newest = str(version)
        for n in range(later):
            newest = store.publish("r", b"after %d" % n, expect=newest)
        check(self, run, heads, version)

    monkeypatch.setattr(DirectoryStore, "_check_link", stop)
    if later < KEEP_HEADS:
        assert store.publish("r", b"ours", expect=base) == "2"
    else:
        with pytest.raises(StoreUnavailable):
            store.publish("r", b"ours", expect=base)
    stamped = store.read("r")
    assert stamped is not None
    assert stamped.data == b"after %d" % (later - 1)


def test_a_link_whose_reply_the_network_lost(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """An NFS client sends the link again and hears that the name exists."""
    link = os.link

    def twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", twice)
    assert store.publish("r", b"ours", expect=None, files={"f": b"f"}) == "1"
    assert store.get("r", "f") == b"f"


def test_a_run_that_is_removed_under_a_writer(store: DirectoryStore) -> None:
    version = None
    for _ in range(3):
        version = store.publish("r", b"x", expect=version)
    crashpoints.arm(lambda name: store.forget("r") if name == "publish.files.after" else None)
    with pytest.raises(Conflict, match="removed"):
        store.publish("r", b"late", expect=version, files={"f": b""})
    crashpoints.arm(None)
    assert store.read("r") is None


def test_an_error_after_the_link_leaves_the_outcome_open(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "_sync", lambda folder: fail_with(errno.EIO)() if folder.name == "heads" else None)
    with pytest.raises(StoreUnavailable, match="unknown"):
        store.publish("r", b"x", expect=None)


# --- what the disk may do


@pytest.mark.parametrize(
    ("number", "error", "words"),
    [
        (errno.ENOSPC, StoreRefused, "full"),
        (errno.EDQUOT, StoreRefused, "quota"),
        (errno.EROFS, StoreRefused, "read-only"),
        (errno.EACCES, StoreRefused, "permission"),
        (errno.EIO, StoreUnavailable, "failed"),
        (errno.ESTALE, StoreUnavailable, "failed"),
    ],
)
def test_a_disk_that_fails_a_write_says_so_in_one_line(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception], words: str
) -> None:
    version = store.publish("r", b"before", expect=None)
    monkeypatch.setattr(os, "fsync", fail_with(number))
    with pytest.raises(error, match=words) as caught:
        store.publish("r", b"after", expect=version, files={"f": b"f"})
    assert "\n" not in str(caught.value)
    assert str(store.root) in str(caught.value)
    monkeypatch.undo()
    stamped = store.read("r")
    assert stamped is not None
    assert stamped.data == b"before"
    assert [path for path in (store.root / "tmp").iterdir() if path.name.startswith("write-")] == []


def test_names_where_one_begins_another(store: DirectoryStore) -> None:
    version = store.publish("r", b"x", expect=None, files={"a/b": b"1"})
    for name in ("a", "a/b/c"):
        with pytest.raises(UsageError, match="name"):
            store.publish("r", b"y", expect=version, files={name: b""})


# --- the probe


def test_the_probe_runs_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_store(str(root))
    monkeypatch.setattr(os, "link", fail_with(errno.EPERM))
    open_store(str(root))
    (root / MARKER).write_text("another-machine 7\n", encoding="utf-8")
    with pytest.raises(StoreRefused):
        open_store(str(root))


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK])
def test_a_mount_without_hard_links_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(os, "link", fail_with(number))
    with pytest.raises(StoreRefused, match=r"hard links cannot be made .*local disk, or an hf://"):
        open_store(str(root))
    assert not (root / MARKER).exists()
    assert list((root / "tmp").iterdir()) == []


def test_links_that_replace_or_copy_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def replace(source: Path, target: Path) -> None:
        target.unlink(missing_ok=True)
        link(source, target)

    monkeypatch.setattr(os, "link", replace)
    with pytest.raises(StoreRefused, match="replaces a file"):
        open_store(str(root))
    monkeypatch.setattr(os, "link", lambda source, target: target.write_bytes(source.read_bytes()))
    with pytest.raises(StoreRefused, match="copy"):
        open_store(str(root))


def test_a_mount_without_fsync_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", fail_with(errno.EINVAL))
    with pytest.raises(StoreRefused, match="fsync fails"):
        open_store(str(root))


@pytest.mark.parametrize(("number", "words"), [(errno.EROFS, "read-only"), (errno.EACCES, "permission denied")])
def test_a_directory_that_cannot_be_made(root: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str) -> None:
    monkeypatch.setattr(Path, "mkdir", fail_with(number))
    with pytest.raises(StoreRefused, match=words):
        open_store(str(root))


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreRefused, match="file"):
            open_store(str(path))


# --- what dead writers leave


def test_leftovers_of_dead_writers_go_and_those_of_live_ones_stay(root: Path, store: DirectoryStore) -> None:
    node = os.uname().nodename
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    old = time.time() - STALE_TMP_S - 60
    ages = {
        f"write-{node}-{dead.pid}-aa": old,  # goes
        "write-other-node-1-bb": old,  # goes
        f"write-{node}-{os.getpid()}-cc": old,  # this process lives, and may be stopped
        f"write-{node}-{dead.pid}-dd": time.time(),  # too young
        "write-other-node-1-ee": time.time(),
    }
    for name, age in ages.items():
        (root / "tmp" / name).write_bytes(b"half")
        os.utime(root / "tmp" / name, (age, age))
    (root / "tmp" / "forgotten-other-1-ff" / "heads").mkdir(parents=True)
    os.utime(root / "tmp" / "forgotten-other-1-ff", (old, old))
    open_store(str(root))
    left = {path.name.rpartition("-")[2] for path in (root / "tmp").iterdir() if "clock" not in path.name}
    assert left == {"cc", "dd", "ee"}


def test_a_writer_whose_temporary_file_was_cleaned_away(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def clean_first(source: Path, target: Path) -> None:
        source.unlink()
        link(source, target)

    monkeypatch.setattr(os, "link", clean_first)
    with pytest.raises(StoreUnavailable, match="removed meanwhile"):
        store.publish("r", b"x", expect=None)
    monkeypatch.undo()
    assert store.read("r") is None


# --- the clock


@pytest.mark.parametrize("ahead_s", [-7200.0, -3.0, 0.0, 3.0, 7200.0])
def test_the_clock_is_the_file_servers(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, ahead_s: float) -> None:
    """This machine's wall clock may be hours off: silence is measured between two times of the files' clock."""
    store.publish("r", b"x", expect=None)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - ahead_s)
    stamped = store.read("r")
    assert stamped is not None
    assert 0 <= stamped.now_s - stamped.written_s < 1
    head = store.root / "runs" / "r" / "heads" / "1"
    os.utime(head, (real() - 100, real() - 100))
    stamped = store.read("r")
    assert stamped is not None
    assert stamped.now_s - stamped.written_s == pytest.approx(100, abs=1)


def test_a_wall_clock_that_is_set_back_makes_nobody_silent(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a local disk the file times go back with it."""
    store.publish("r", b"x", expect=None)
    store.read("r")
    back = time.time() - 3600
    monkeypatch.setattr(time, "time", lambda: back)
    monkeypatch.setattr(DirectoryStore, "_file_clock_s", lambda _: back)
    head = store.root / "runs" / "r" / "heads" / "1"
    for written in (back + 3600, back):  # written before, and after the clock was set back
        os.utime(head, (written, written))
        stamped = store.read("r")
        assert stamped is not None
        assert stamped.now_s - stamped.written_s < 1


def test_a_reader_without_the_right_to_write_still_reads(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish("r", b"x", expect=None)
    monkeypatch.setattr(os, "utime", fail_with(errno.EROFS))
    stamped = store.read("r")
    assert stamped is not None
    assert stamped.data == b"x"


def test_a_store_that_went_away_does_not_answer_and_is_not_made_anew(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    store.publish("r-1", b"head", expect=None, files={"a/b": b"x"})
    (tmp_path / "store").rename(tmp_path / "away")
    calls: list[Callable[[], object]] = [
        lambda: store.read("r-1"),
        store.runs,
        lambda: store.publish("r-1", b"next", expect="1"),
        lambda: store.publish("r-2", b"head", expect=None, files={"a/b": b"x"}),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable, match="gone"):
            call()
    assert not (tmp_path / "store").exists()
    (tmp_path / "away").rename(tmp_path / "store")
    assert store.publish("r-1", b"next", expect="1") == "2"
