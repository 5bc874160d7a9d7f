"""What is the JSON-lines tracker's own: addresses, files, and processes that die, stop or race in the middle."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import entry_points
from pathlib import Path

import json_lines
import pytest

from qcity_nb.errors import TrackerUnavailable, UsageError
from qcity_nb.ports import Tracker
from qcity_nb.testing.contracts.tracker_contract import make_rows
from qcity_nb.testing.disk import Recorder
from qcity_nb.testing.power_cut import crash_states
from qcity_nb.testing.trace import Trace
from qcity_nb.tracking import jsonl, open_tracker
from qcity_nb.tracking.jsonl import JsonLinesTracker

HERE = Path(__file__).parents[2]


def opened(folder: Path) -> Tracker:
    tracker = open_tracker(f"jsonl://{folder}")
    assert tracker is not None
    return tracker


def begin(tracker: Tracker, run: str = "train") -> str:
    return tracker.start(run, experiment="own", params={"epochs": 3}, tags={"qcity.made": "2026-01-01"})


def steps(folder: Path, run_id: str) -> list[int]:
    return sorted(step for _, _, _, step in json_lines.stored(folder / run_id).rows)


@pytest.mark.parametrize(
    "uri",
    [
        "jsonl:metrics",
        "jsonl://metrics",
        "jsonl://ada:s3cret@host/metrics",
        "jsonl:/metrics?x=1",
        "jsonl:///",
        "jsonl:///a%00b",
        "jsonl:///a#b",
    ],
)
def test_an_address_that_names_no_folder_is_refused_in_one_line(uri: str) -> None:
    with pytest.raises(UsageError, match="jsonl:///data/metrics") as caught:
        open_tracker(uri)
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["with space", "größe", "a%20b", "a#b?c"])
def test_the_address_that_is_reported_opens_the_same_folder(tmp_path: Path, name: str) -> None:
    tracker = JsonLinesTracker(tmp_path / name)
    again = open_tracker(tracker.uri)
    assert isinstance(again, JsonLinesTracker)
    assert again.folder == tracker.folder
    assert again.uri == tracker.uri


def test_it_is_found_by_its_entry_point() -> None:
    (entry,) = entry_points(group="qcity_nb.trackers", name=jsonl.SCHEME)
    assert entry.load() is jsonl.open_tracker


def test_opening_touches_nothing_and_no_package_is_needed(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from qcity_nb.tracking import open_tracker
tracker = open_tracker("jsonl://{tmp_path}/metrics")
assert not Path("{tmp_path}/metrics").exists()
tracker.prepare()
tracker.end(tracker.start("r", experiment="e", params={{}}, tags={{}}), "FINISHED")
foreign = {{name.partition(".")[0] for name in sys.modules}} - {{*sys.stdlib_module_names}}
assert not foreign & {{"mlflow", "sqlalchemy", "alembic", "pandas", "numpy"}}, foreign
"""
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(HERE)}, check=True)


@pytest.mark.parametrize("where", ["file", "file/below"])
def test_a_file_where_the_folder_should_be_is_reported(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").touch()
    tracker = opened(tmp_path / where)
    for call in (tracker.prepare, lambda: begin(tracker)):
        with pytest.raises(TrackerUnavailable, match="file") as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("run_id", ["", "own/unknown-0123456789abcdef", "../own/x-0123456789abcdef", "/etc"])
def test_a_run_that_is_not_there_is_reported(tmp_path: Path, run_id: str) -> None:
    tracker = opened(tmp_path)
    begin(tracker)
    with pytest.raises(TrackerUnavailable, match="no run"):
        tracker.send(run_id, make_rows(1))


def test_a_run_that_was_deleted_can_be_started_again(tmp_path: Path) -> None:
    tracker = opened(tmp_path)
    run_id = begin(tracker)
    tracker.send(run_id, make_rows(3))
    shutil.rmtree(tmp_path / "own")
    with pytest.raises(TrackerUnavailable, match="no run"):
        tracker.send(run_id, make_rows(3))
    assert begin(tracker) == run_id
    tracker.send(run_id, make_rows(3))
    assert steps(tmp_path, run_id) == [0, 1, 2]


def test_names_that_look_alike_in_a_path_are_other_runs(tmp_path: Path) -> None:
    tracker = opened(tmp_path)
    names = ["a/b", "a-b", "a b", "../a", "." * 3, "", "x" * 300, "x" * 301, "ü" * 300]
    ids = [begin(tracker, name) for name in names]
    assert len(set(ids)) == len(names)
    assert {path.parent.parent for path in json_lines.runs(tmp_path)} == {tmp_path}
    assert [json_lines.stored(tmp_path / run_id).tags["qcity.run"] for run_id in ids] == names


def test_every_line_is_strict_json_of_one_shape(tmp_path: Path) -> None:
    tracker = opened(tmp_path)
    run_id = begin(tracker)
    tracker.send(run_id, make_rows(2))
    lines = (tmp_path / run_id / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"key": "loss", "value": 1 / (n + 1), "step": n, "timestamp": 1_700_000_000_000 + n} for n in range(2)
    ]


def test_what_changes_nothing_writes_nothing(tmp_path: Path) -> None:
    sizes = []
    for _ in range(2):  # the second one is a process that was started anew
        tracker = opened(tmp_path)
        run_id = begin(tracker)
        tracker.send(run_id, make_rows(5))
        tracker.tag(run_id, {"a": "b"})
        sizes.append({path.name: path.stat().st_size for path in (tmp_path / run_id).iterdir()})
    assert sizes[0] == sizes[1]
    assert sizes[0].keys() == {"metrics.jsonl", "run.jsonl"}


def test_clients_that_send_at_once_store_each_row_once(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201  # pytest shows it with a failure
    rows = make_rows(200)
    run_id = begin(opened(tmp_path))
    together = threading.Barrier(4)

    def send(own: random.Random) -> None:
        client = opened(tmp_path)
        together.wait()
        start = 0
        while start < len(rows):
            end = start + own.randint(1, 20)
            client.send(run_id, rows[max(0, start - own.randrange(10)) : end])
            client.tag(run_id, {f"t{own.random()}": "x"})
            start = end

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(send, random.Random(seed + n)) for n in range(4)]:
            done.result()
    assert steps(tmp_path, run_id) == list(range(200))


def test_a_writer_that_is_stopped_half_way_is_named_and_nothing_is_lost_or_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zombie, successor = opened(tmp_path), opened(tmp_path)
    run_id = begin(zombie)
    rows = make_rows(6)
    stopped, continued = threading.Event(), threading.Event()
    fsync = os.fsync
    sleeper = threading.Thread(target=lambda: zombie.send(run_id, rows[:4]))

    def stops(file: int) -> None:
        if threading.current_thread() is sleeper and not stopped.is_set():
            stopped.set()
            assert continued.wait(30)
        fsync(file)

    monkeypatch.setattr(os, "fsync", stops)
    monkeypatch.setattr(jsonl, "_PATIENCE_S", 0.2)
    sleeper.start()
    assert stopped.wait(30)
    with pytest.raises(TrackerUnavailable, match="is it stopped"):
        successor.send(run_id, rows)
    continued.set()
    sleeper.join()
    successor.send(run_id, rows)
    assert steps(tmp_path, run_id) == [0, 1, 2, 3, 4, 5]


def test_a_stopped_process_that_is_killed_holds_nothing(tmp_path: Path) -> None:
    run_id = begin(opened(tmp_path))
    path = tmp_path / run_id / "metrics.jsonl"
    code = (
        "import fcntl, sys, os, signal\n"
        f"file = open({str(path)!r}, 'ab')\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        'os.write(file.fileno(), b\'{"key":"lo\')\n'
        "print('held', flush=True)\n"
        "os.kill(os.getpid(), signal.SIGSTOP)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        client = opened(tmp_path)
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(client.send, run_id, make_rows(3))
            assert not sent.done()
            holder.kill()
            sent.result(20)
    assert steps(tmp_path, run_id) == [0, 1, 2]


_DIES = """
import os, signal, sys
from qcity_nb.tracking import open_tracker
from qcity_nb.records import Row
uri, at = sys.argv[1], int(sys.argv[2])
count = 0
def dying(call):
    def counted(*args, **kwargs):
        global count
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)
    return counted
for name in ("fsync", "write", "pread", "mkdir", "open"):
    setattr(os, name, dying(getattr(os, name)))
tracker = open_tracker(uri)
run_id = tracker.start("train", experiment="own", params={"epochs": 3}, tags={"qcity.made": "2026-01-01"})
rows = [
    Row(key="loss", value=1 / (n + 1), timestamp_ms=1_700_000_000_000 + n, step=n, loop="", iteration=n, ordinal=0)
    for n in range(5)
]
tracker.send(run_id, rows[:3])
tracker.send(run_id, rows)
tracker.end(run_id, "FINISHED")
"""


def test_a_client_that_is_killed_at_any_call_leaves_whole_files_and_a_replay_completes_them(tmp_path: Path) -> None:
    code, kills = 0, 0
    for at in range(1, 100):
        folder = tmp_path / str(at)
        command = [sys.executable, "-c", _DIES, f"jsonl://{folder}", str(at)]
        code = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(HERE)}, check=False).returncode
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
        tracker = opened(folder)
        run_id = begin(tracker)
        assert steps(folder, run_id) in ([], [0, 1, 2], [0, 1, 2, 3, 4])
        tracker.send(run_id, make_rows(5))
        tracker.end(run_id, "FINISHED")
        stored = json_lines.stored(folder / run_id)
        assert steps(folder, run_id) == [0, 1, 2, 3, 4]
        assert (stored.status, stored.params) == ("FINISHED", {"epochs": "3"})
    assert code == 0
    assert kills > 10, "fewer calls than four files need: the kills are not at the tracker's"


@pytest.mark.parametrize("kept", [1, 20, 61, 62, 63, 100])
def test_a_torn_last_line_is_cut_off_and_its_row_stored_again(tmp_path: Path, kept: int) -> None:
    run_id = begin(opened(tmp_path))
    opened(tmp_path).send(run_id, make_rows(3))
    path = tmp_path / run_id / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    for _ in range(2):
        opened(tmp_path).send(run_id, make_rows(3))
    assert path.read_bytes() == whole


def test_a_full_disk_is_reported_and_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = opened(tmp_path)
    run_id = begin(tracker)
    tracker.send(run_id, make_rows(1))
    write = os.write
    room = [70]

    def fills(file: int, data: memoryview) -> int:
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data[: room.pop()])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fills)
        with pytest.raises(TrackerUnavailable, match="No space left"):
            tracker.send(run_id, make_rows(5))
    assert steps(tmp_path, run_id) == [0]
    tracker.send(run_id, make_rows(5))
    assert steps(tmp_path, run_id) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("damage", ['{"par', "[]", '{"param": 3}', '{"tag": "a"}'])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    run_id = begin(opened(tmp_path))
    path = tmp_path / run_id / "run.jsonl"
    path.write_text(damage + "\n")
    with pytest.raises(TrackerUnavailable, match=r"run\.jsonl"):
        begin(opened(tmp_path))


def test_rows_in_a_damaged_line_are_stored_again(tmp_path: Path) -> None:
    run_id = begin(opened(tmp_path))
    opened(tmp_path).send(run_id, make_rows(3))
    path = tmp_path / run_id / "metrics.jsonl"
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    opened(tmp_path).send(run_id, make_rows(3))
    assert path.read_bytes().count(b'"key":"loss"') == 3


def test_a_file_that_shrinks_under_a_client_is_reported_and_a_start_reads_it_anew(tmp_path: Path) -> None:
    tracker = opened(tmp_path)
    run_id = begin(tracker)
    tracker.send(run_id, make_rows(3))
    tracker.send(run_id, make_rows(3))
    (tmp_path / run_id / "metrics.jsonl").write_bytes(b"")
    with pytest.raises(TrackerUnavailable, match="start the run again"):
        tracker.send(run_id, make_rows(3))
    assert begin(tracker) == run_id
    tracker.send(run_id, make_rows(3))
    assert steps(tmp_path, run_id) == [0, 1, 2]


def recorded(root: Path, forgotten: str = "") -> Trace:
    """Two clients, one after the other; a mark for the rows that each was told are stored."""
    root.mkdir()
    with Recorder(root, is_syncing=False) as disk, pytest.MonkeyPatch.context() as patch:
        fsync = os.fsync

        def of_others(file: int) -> None:
            if stat.S_ISDIR(os.fstat(file).st_mode) != (forgotten == "folders"):
                fsync(file)

        if forgotten:
            patch.setattr(os, "fsync", of_others)
        for count in (2, 5):
            tracker = opened(root / "metrics")
            run_id = begin(tracker)
            tracker.send(run_id, make_rows(count))
            disk.note(f"sent {count}")
            tracker.end(run_id, "FINISHED")
            disk.note(f"ended {count}")
    return disk.trace


def what_is_wrong(trace: Trace, where: Path) -> tuple[int, str]:
    """How many states a power cut may leave, up to the first in which something acknowledged is not there."""
    count = 0
    for state in crash_states(trace, names="strict", seed=20, limit=64, samples=16):
        count += 1
        folder = state.build(where / f"{count}") / "metrics"
        tracker = opened(folder)
        sent = [int(note.removeprefix("sent ")) for note in state.notes if note.startswith("sent ")]
        for run in json_lines.runs(folder):
            if sent and not set(range(sent[-1])) <= set(steps(run, "")):
                return count, f"cut at {state.cut}: rows were lost after {state.notes}"
        if sent and not json_lines.runs(folder):
            return count, f"cut at {state.cut}: the run was lost after {state.notes}"
        tracker.send(begin(tracker), make_rows(5))
        (run,) = json_lines.runs(folder)
        if steps(run, "") != list(range(5)):
            return count, f"cut at {state.cut}: {steps(run, '')} after {state.notes}"
    return count, ""


def test_a_power_cut_takes_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    count, wrong = what_is_wrong(recorded(tmp_path / "disk"), tmp_path)
    assert not wrong
    assert count > 15


@pytest.mark.parametrize("forgotten", ["files", "folders"])
def test_a_forgotten_sync_is_found(tmp_path: Path, forgotten: str) -> None:
    assert what_is_wrong(recorded(tmp_path / "disk", forgotten), tmp_path)[1]
