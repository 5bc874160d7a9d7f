"""``city.data`` against real DVC: real ``dvc add``, real ``dvc push``, then damage of every kind."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from qcity_nb.data import fetch, objects, tracked, verified
from qcity_nb.data.dvc import Data
from qcity_nb.errors import DataError

FILE = "data/digits.csv"
FOLDER = "data/images"
MEMBERS = {f"{FOLDER}/{n:02}.bin": bytes([n]) * (n + 1) for n in range(40)} | {
    f"{FOLDER}/sub/deep.bin": b"deep\n",
    f"{FOLDER}/sub/copy of deep.bin": b"deep\n",
}
CONTENT = b"1,2,3\r\n4,5,6\n" * 1000
MODEL = b"weights"


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def run(folder: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def dvc(folder: Path, *arguments: str) -> None:
    run(folder, sys.executable, "-m", "dvc", *arguments)


@pytest.fixture(scope="session")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository whose data DVC itself added and pushed to ``dvc-remote`` inside it. Never changed."""
    root = tmp_path_factory.mktemp("origin") / "project"
    root.mkdir()
    run(root, "git", "init", "--quiet")
    dvc(root, "init", "--quiet")
    dvc(root, "config", "core.analytics", "false")
    dvc(root, "remote", "add", "--quiet", "-d", "shared", "dvc-remote")
    for name, data in {FILE: CONTENT, **MEMBERS}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    (root / "dvc.yaml").write_text(
        "stages:\n  train:\n    wdir: models\n    cmd: 'echo -n weights > model.bin'\n    outs: [model.bin]\n"
    )
    (root / "models").mkdir()
    dvc(root, "repro", "--quiet")
    dvc(root, "add", "--quiet", FILE, FOLDER)
    dvc(root, "push", "--quiet")
    assert (root / "models/model.bin").read_bytes() == MODEL
    return root


@pytest.fixture
def clone(origin: Path, tmp_path: Path) -> Path:
    """What git would bring: no data, no cache; the remote is the clone's own."""
    root = tmp_path / "clone"
    ignored = shutil.ignore_patterns("cache", "tmp", ".git", "digits.csv", "images", "model.bin")
    shutil.copytree(origin, root, ignore=ignored)
    assert not (root / FILE).exists()
    return root


def stored(root: Path, data: bytes, suffix: str = "") -> Path:
    """The remote's object for this content."""
    name = md5(data)
    place = root / "dvc-remote/files/md5" / name[:2] / (name[2:] + suffix)
    assert place.is_file()
    return place


def listing_object(root: Path) -> Path:
    (place,) = (root / "dvc-remote").rglob("*.dir")
    return place


def damage(file: Path) -> None:
    """Flip one bit."""
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def leftovers(root: Path) -> list[Path]:
    return list(root.rglob("*.part"))


def test_a_file_is_fetched_with_its_bytes(clone: Path) -> None:
    path = Data(clone)[FILE]
    assert path == clone / FILE
    assert path.read_bytes() == CONTENT
    assert os.access(path, os.W_OK)
    assert not leftovers(clone)


def test_dvc_agrees_with_what_was_placed(clone: Path) -> None:
    data = Data(clone)
    for name in data.names():
        data[name]
    run(clone, "git", "init", "--quiet")
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--json"], cwd=clone, capture_output=True, check=False
    )
    report = json.loads(done.stdout)
    train = report.pop("train")[0]
    entries = [*(entry[0] for entry in report.values()), train]
    # DVC's own cache is empty, which is all that it has to say: no file is "modified" or "deleted".
    assert sorted(state for entry in entries for state in entry["changed outs"].values()) == ["not in cache"] * 3
    assert len(train) == 1


def test_the_working_directory_does_not_matter(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clone.parent)
    assert Data(Path("clone"))[FILE].read_bytes() == CONTENT
    assert Data(clone)[clone / FILE] == clone / FILE
    assert Data(clone)["data/../data/digits.csv"] == clone / FILE


def test_a_directory_is_fetched_whole(clone: Path) -> None:
    path = Data(clone)[FOLDER]
    contents = {file.relative_to(clone).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    assert contents == MEMBERS
    assert not leftovers(clone)


def test_one_file_of_a_directory_comes_alone(clone: Path) -> None:
    data = Data(clone)
    assert data[f"{FOLDER}/07.bin"].read_bytes() == MEMBERS[f"{FOLDER}/07.bin"]
    assert sorted(file.name for file in (clone / FOLDER).iterdir()) == ["07.bin"]
    assert {file.name for file in data[f"{FOLDER}/sub"].iterdir()} == {"deep.bin", "copy of deep.bin"}
    with pytest.raises(DataError, match=r"images/99.bin: not in the tracked directory.*did you mean"):
        data[f"{FOLDER}/99.bin"]


def test_files_beyond_the_record_of_a_directory_are_left_alone(clone: Path) -> None:
    extra = clone / FOLDER / "mine.txt"
    extra.parent.mkdir(parents=True)
    extra.write_text("mine")
    data = Data(clone)
    data[FOLDER]
    assert extra.read_text() == "mine"
    assert data[f"{FOLDER}/mine.txt"] == extra


def test_a_pipeline_output_is_found_through_wdir(clone: Path) -> None:
    assert Data(clone)["models/model.bin"].read_bytes() == MODEL


def test_names_and_status(clone: Path) -> None:
    data = Data(clone)
    assert data.names() == [FILE, FOLDER, "models/model.bin"]
    assert [entry.state for entry in data.status()] == ["missing"] * 3
    data[FILE]
    data[f"{FOLDER}/07.bin"]
    assert [entry.state for entry in data.status()] == ["ok", "missing", "missing"]
    (clone / FILE).write_bytes(b"edited")
    data[FOLDER]
    states = {entry.path: (entry.state, entry.source) for entry in data.status()}
    assert states == {
        FILE: ("modified", "data/digits.csv.dvc"),
        FOLDER: ("ok", "data/images.dvc"),
        "models/model.bin": ("missing", "dvc.lock"),
    }
    listing_object(clone).unlink()
    assert {entry.path: entry.state for entry in data.status()}[FOLDER] == "unknown"


def test_an_untracked_file_is_returned_unchecked(clone: Path) -> None:
    (clone / "notes.txt").write_text("x")
    assert Data(clone)["notes.txt"] == clone / "notes.txt"
    outside = clone.parent / "outside.txt"
    outside.write_text("x")
    assert Data(clone)["../outside.txt"] == outside
    with pytest.raises(DataError, match="outside the project"):
        Data(clone)["../nothing.txt"]


def test_a_missing_path_names_its_neighbours(clone: Path) -> None:
    with pytest.raises(DataError, match=r"data/digit\.csv: no such file .*did you mean data/digits\.csv"):
        Data(clone)["data/digit.csv"]


def test_flipped_bits_in_the_remote_place_nothing(clone: Path) -> None:
    damage(stored(clone, CONTENT))
    with pytest.raises(DataError, match=f"digits.csv: the stored copy .* has md5 .* expected {md5(CONTENT)}") as e:
        Data(clone)[FILE]
    assert "\n" not in str(e.value)
    assert not (clone / FILE).exists()
    assert not leftovers(clone)


def test_flipped_bits_in_one_object_of_a_directory(clone: Path) -> None:
    victim = f"{FOLDER}/21.bin"
    damage(stored(clone, MEMBERS[victim]))
    with pytest.raises(DataError, match=r"images/21\.bin: the stored copy"):
        Data(clone)[FOLDER]
    assert not (clone / victim).exists()
    assert not leftovers(clone)
    for file in (clone / FOLDER).rglob("*.bin"):
        assert file.read_bytes() == MEMBERS[file.relative_to(clone).as_posix()]


def test_flipped_bits_in_a_listing(clone: Path) -> None:
    damage(listing_object(clone))
    with pytest.raises(DataError, match=r"data/images: the stored copy .*\.dir has md5"):
        Data(clone)[FOLDER]
    assert not (clone / FOLDER).exists()


def test_a_damaged_cache_does_not_hide_the_remote(clone: Path) -> None:
    shutil.copytree(clone / "dvc-remote", clone / ".dvc/cache")
    for file in (clone / ".dvc/cache").rglob("*"):
        if file.is_file():
            damage(file)
    data = Data(clone)
    assert data[FILE].read_bytes() == CONTENT
    assert (data[FOLDER] / "sub/deep.bin").read_bytes() == b"deep\n"


def test_the_cache_serves_without_the_remote(clone: Path) -> None:
    shutil.move(clone / "dvc-remote", clone / ".dvc/cache")
    assert Data(clone)[FILE].read_bytes() == CONTENT


def test_a_truncated_object_is_refused(clone: Path) -> None:
    place = stored(clone, CONTENT)
    place.chmod(0o644)
    place.write_bytes(CONTENT[:-1])
    with pytest.raises(DataError, match="the stored copy"):
        Data(clone)[FILE]


@pytest.mark.parametrize("is_warm", [False, True])
def test_a_local_edit_is_reported_and_kept(clone: Path, is_warm: bool) -> None:
    data = Data(clone)
    edited = CONTENT[:-2] + b"7\n"  # of the same size
    if is_warm:
        data[FILE]
    else:
        (clone / "data").mkdir(exist_ok=True)
    (clone / FILE).write_bytes(edited)
    with pytest.raises(DataError) as raised:
        data[FILE]
    message = str(raised.value)
    for part in (FILE, md5(edited), md5(CONTENT), "dvc checkout", "deleting", "dvc add"):
        assert part in message
    assert "\n" not in message
    assert (clone / FILE).read_bytes() == edited
    (clone / FILE).unlink()
    assert data[FILE].read_bytes() == CONTENT


def test_a_local_edit_inside_a_directory_stops_the_fetch(clone: Path) -> None:
    edited = clone / FOLDER / "03.bin"
    edited.parent.mkdir(parents=True)
    edited.write_bytes(b"mine")
    with pytest.raises(DataError, match=f"03.bin: has md5 {md5(b'mine')}, but data/images.dvc expects") as e:
        Data(clone)[FOLDER]
    assert md5(MEMBERS[f"{FOLDER}/03.bin"]) in str(e.value)
    assert [file.name for file in (clone / FOLDER).iterdir()] == ["03.bin"]


def test_an_edited_pipeline_output_points_to_repro(clone: Path) -> None:
    (clone / "models").mkdir(exist_ok=True)
    (clone / "models/model.bin").write_bytes(b"other")
    with pytest.raises(DataError, match="dvc repro"):
        Data(clone)["models/model.bin"]


def test_a_directory_in_the_place_of_a_file(clone: Path) -> None:
    (clone / FILE).mkdir(parents=True)
    with pytest.raises(DataError, match="it is a directory"):
        Data(clone)[FILE]


def test_an_object_that_the_remote_lacks(clone: Path) -> None:
    stored(clone, CONTENT).unlink()
    with pytest.raises(DataError, match=r"digits\.csv: not on this host, and the remote .*dvc-remote does not have it"):
        Data(clone)[FILE]
    stored(clone, MEMBERS[f"{FOLDER}/05.bin"]).unlink()
    with pytest.raises(DataError, match=r"images/05\.bin: not on this host"):
        Data(clone)[FOLDER]
    listing_object(clone).unlink()
    with pytest.raises(DataError, match="data/images: not on this host"):
        Data(clone)[FOLDER]
    assert not (clone / FOLDER).exists()


def test_a_place_that_cannot_be_written(clone: Path) -> None:
    shutil.rmtree(clone / "data", ignore_errors=True)
    (clone / "data.dvc").write_text("outs:\n- md5: " + md5(CONTENT) + "\n  hash: md5\n  path: file/inside\n")
    (clone / "file").write_text("a file, not a folder")
    with pytest.raises(DataError, match="file/inside: cannot be copied from"):
        Data(clone)["file/inside"]


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ("outs: [", "not readable as YAML"),
        ("outs:\n- {md5: d41d8cd98f00b204e9800998ecf8427e, path: old.txt}\n", "recorded by DVC 2"),
    ],
)
def test_records_that_cannot_be_used(clone: Path, record: str, says: str) -> None:
    (clone / "old.txt.dvc").write_text(record)
    with pytest.raises(DataError, match=says):
        Data(clone)["old.txt"]


@pytest.mark.parametrize("path", ["../../evil", "/evil", "a/../../evil", "a\\..\\evil"])
def test_a_listing_cannot_leave_its_directory(path: str) -> None:
    data = json.dumps([{"md5": md5(b""), "relpath": path}]).encode()
    with pytest.raises(DataError, match="leaves the directory"):
        objects.listing(data, name="data/images")


def test_warm_calls_hash_nothing(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Data(clone)
    data[FILE], data[FOLDER]
    hashed: list[Path] = []
    real = objects.md5_of

    def counting(file: Path) -> str:
        hashed.append(file)
        return real(file)

    monkeypatch.setattr(verified, "md5_of", counting)
    again = Data(clone)
    again[FILE], again[FOLDER], again[f"{FOLDER}/03.bin"]
    assert hashed == []
    (clone / FILE).touch()
    again[FILE]
    assert hashed == [clone / FILE]


@pytest.mark.parametrize("wreck", ["", "{", '{"format": 1}', '{"format": 1, "files": {"data/digits.csv": 3}}', "[]"])
def test_a_wrecked_memory_costs_only_time(clone: Path, wreck: str) -> None:
    data = Data(clone)
    data[FILE]
    (clone / ".qcity/data/verified.json").write_text(wreck)
    assert data[FILE].read_bytes() == CONTENT
    (clone / FILE).write_bytes(b"edited")
    with pytest.raises(DataError):
        data[FILE]


@pytest.mark.parametrize("mtime_ns", [10**18 + 7, 10**18], ids=["kernel tick", "whole seconds"])
def test_an_edit_in_the_same_clock_tick_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mtime_ns: int) -> None:
    """The second write keeps size, inode and modification time, as it may within one tick."""
    file = tmp_path / "f"
    memory = verified.Verified(tmp_path / "memory.json")

    def write(data: bytes) -> None:
        file.write_bytes(data)
        os.utime(file, ns=(mtime_ns, mtime_ns))

    write(b"one")
    monkeypatch.setattr(time, "time_ns", lambda: mtime_ns + 10_000_000)
    assert memory.md5("f", file) == md5(b"one")
    write(b"two")
    assert memory.md5("f", file) == md5(b"two")
    monkeypatch.setattr(time, "time_ns", lambda: mtime_ns + 3_000_000_000)
    assert memory.md5("f", file) == md5(b"two")
    monkeypatch.setattr(verified, "md5_of", lambda file: pytest.fail("settled: it was to be remembered"))
    assert memory.md5("f", file) == md5(b"two")


def test_two_threads_and_one_file(clone: Path) -> None:
    data = Data(clone)
    start = threading.Barrier(4)
    contents: list[bytes] = []

    def get() -> None:
        start.wait(10)
        contents.append((data[FOLDER] / "sub/deep.bin").read_bytes() + Data(clone)[FILE].read_bytes())

    threads = [threading.Thread(target=get) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert contents == [b"deep\n" + CONTENT] * 4


def test_an_interrupted_copy_leaves_no_file(clone: Path) -> None:
    def stop(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        objects.copy(stored(clone, CONTENT), clone / FILE, md5=md5(CONTENT), parts=clone / ".qcity/part", on_bytes=stop)
    assert not (clone / FILE).exists()
    assert not leftovers(clone)


def test_configuration_layers_and_nested_projects(clone: Path) -> None:
    (clone / ".dvc/config.local").write_text(
        "[core]\n    remote = web\n['remote \"web\"']\n    url = https://example.org/data\n[cache]\n    dir = ../c\n"
    )
    places = tracked.places(clone)
    assert places.default == "web"
    assert places.cache == clone / "c"
    assert places.directory(None) is None
    assert places.directory("shared") == clone / "dvc-remote"
    (clone / "inner/.dvc").mkdir(parents=True)
    (clone / "inner/x.dvc").write_text("outs:\n- {md5: 0, hash: md5, path: x}\n")
    assert Data(clone).names() == [FILE, FOLDER, "models/model.bin"]
    assert tracked.places(clone / "inner").config == clone / "inner/.dvc"
    (clone / ".dvc/config").write_text("no section")
    with pytest.raises(DataError, match="not readable"):
        tracked.places(clone)


@pytest.fixture
def web(clone: Path) -> Path:
    """The clone with a remote that is not a directory for us, though DVC itself can reach it."""
    shutil.move(clone / "dvc-remote", clone / "far")
    (clone / ".dvc/config").write_text(
        "[core]\n    remote = web\n    analytics = false\n    no_scm = true\n"
        "['remote \"web\"']\n    url = https://127.0.0.1:9/nowhere\n"
    )
    return clone


def test_another_remote_needs_dvc(web: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "command", lambda: None)
    with pytest.raises(DataError, match=r"the remote 'web' \(https\) needs DVC: pip install 'qcity-nb\[dvc\]'"):
        Data(web)[FILE]


def test_another_remote_is_asked_through_real_dvc(web: Path) -> None:
    """DVC reads the address from its local configuration, where this test puts the directory back."""
    data = Data(web)
    real = fetch.fetch

    def reachable(root: Path, target: str, **options: object) -> None:
        (root / ".dvc/config.local").write_text("['remote \"web\"']\n    url = ../far\n")
        try:
            real(root, target, dvc=[sys.executable, "-m", "dvc"])
        finally:
            (root / ".dvc/config.local").unlink()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetch, "fetch", reachable)
        assert data[FILE].read_bytes() == CONTENT
        assert data[f"{FOLDER}/sub/deep.bin"].read_bytes() == b"deep\n"


FAKE = """
import pathlib, sys
calls = pathlib.Path("calls")
count = len(calls.read_text()) + 1 if calls.exists() else 1
calls.write_text("x" * count)
if count < {good}:
    print("ERROR: {error}", file=sys.stderr)
    sys.exit(255)
"""


@pytest.mark.parametrize(
    ("good", "error", "calls", "says"),
    [
        (3, "Unable to acquire lock. Most likely another DVC process is running", 3, None),
        (99, "Unable to acquire lock. Most likely another DVC process is running", 8, "holds this repository"),
        (99, "failed to fetch: no such host", 1, "no such host"),
    ],
)
def test_dvcs_lock_is_waited_for_within_bounds(
    tmp_path: Path, good: int, error: str, calls: int, says: str | None
) -> None:
    script = tmp_path / "fake.py"
    script.write_text(FAKE.format(good=good, error=error))
    waits: list[float] = []

    def call() -> None:
        fetch.fetch(tmp_path, "data/x", dvc=[sys.executable, str(script)], wait=waits.append)

    if says is None:
        call()
    else:
        with pytest.raises(DataError, match=says):
            call()
    assert len((tmp_path / "calls").read_text()) == calls
    assert waits == [0.5 * n for n in range(1, calls)]
