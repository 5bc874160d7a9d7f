"""What every tracker must do: a suite to subclass.

class TestMine(TrackerContract):
    @pytest.fixture
    def uri(self) -> str: ...
    def stored(self, uri, run_id): ...   # raw access that bypasses the tracker
"""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import qcity_nb
from qcity_nb.ports import Tracker
from qcity_nb.records import Row
from qcity_nb.tracking import open_tracker
from qcity_nb.tracking.outbox import encode_rows

__all__ = ["Stored", "TrackerContract", "make_rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A tracker's run, read without the tracker."""

    rows: Sequence[tuple[str, str, int, int]]
    """(key, repr of the value, timestamp, step), every stored row once, sorted."""
    status: str
    params: Mapping[str, str]
    tags: Mapping[str, str]


def make_rows(count: int, *, key: str = "loss", start: int = 0) -> list[Row]:
    """Rows that differ from each other."""
    return [
        Row(
            key=key,
            value=1 / (n + 1),
            timestamp_ms=1_700_000_000_000 + n,
            step=n,
            loop="train",
            iteration=n,
            ordinal=0,
        )
        for n in range(start, start + count)
    ]


def _as_stored(rows: Sequence[Row]) -> list[tuple[str, str, int, int]]:
    return sorted((r.key, repr(r.value), r.timestamp_ms, r.step) for r in rows)


_CLIENT = """
import sys
from qcity_nb.tracking import open_tracker
from qcity_nb.tracking.outbox import decode_rows
uri, run_id, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
rows = decode_rows(sys.stdin.buffer.read())
tracker = open_tracker(uri)
for start in range(0, len(rows), size):
    tracker.send(run_id, rows[start : start + size])
    print(start, flush=True)
"""


class TrackerContract:
    """Subclass, give the fixture ``uri`` and ``stored``."""

    def stored(self, uri: str, run_id: str) -> Stored:
        """The run as the back end has it."""
        raise NotImplementedError

    def count_runs(self, uri: str, run: str) -> int:
        """How many runs the back end shows for this run."""
        raise NotImplementedError

    @pytest.fixture
    def run(self) -> str:
        """A run id that no other test uses."""
        return f"train-{uuid.uuid4().hex[:8]}"

    def open(self, uri: str) -> Tracker:
        tracker = open_tracker(uri)
        assert tracker is not None
        return tracker

    def begin(self, tracker: Tracker, run: str, **tags: str) -> str:
        return tracker.start(run, experiment="contract", params={"epochs": 3}, tags=tags)

    def test_rows_arrive_and_an_exact_replay_adds_none(self, uri: str, run: str) -> None:
        tracker = self.open(uri)
        run_id = self.begin(tracker, run)
        rows = make_rows(30)
        for _ in range(3):
            tracker.send(run_id, rows)
        assert self.stored(uri, run_id).rows == _as_stored(rows)

    def test_no_rows_are_no_error(self, uri: str, run: str) -> None:
        tracker = self.open(uri)
        tracker.send(self.begin(tracker, run), [])

    def test_any_split_and_overlap_of_the_rows_stores_each_once(self, uri: str, run: str) -> None:
        seed = random.randrange(2**32)
        print(f"seed {seed}")  # noqa: T201  # pytest shows it with a failure
        rng = random.Random(seed)
        tracker = self.open(uri)
        run_id = self.begin(tracker, run)
        rows = make_rows(60) + make_rows(60, key="accuracy")
        cuts = sorted(rng.sample(range(len(rows)), 5))
        for start, end in zip([0, *cuts], [*cuts, len(rows)], strict=True):
            tracker.send(run_id, rows[max(0, start - rng.randrange(10)) : end])
        assert self.stored(uri, run_id).rows == _as_stored(rows)

    def test_more_rows_than_one_request_takes(self, uri: str, run: str) -> None:
        tracker = self.open(uri)
        run_id = self.begin(tracker, run)
        rows = make_rows(2_300)
        tracker.send(run_id, rows)
        tracker.send(run_id, rows[-1_100:])
        assert self.stored(uri, run_id).rows == _as_stored(rows)

    def test_one_step_may_have_several_values(self, uri: str, run: str) -> None:
        tracker = self.open(uri)
        run_id = self.begin(tracker, run)
        rows = [
            Row(key="loss", value=v, timestamp_ms=t, step=7, loop="", iteration=0, ordinal=n)
            for n, (v, t) in enumerate([(0.5, 1), (0.25, 1), (0.5, 2)])
        ]
        tracker.send(run_id, rows)
        assert self.stored(uri, run_id).rows == _as_stored(rows)

    def test_values_that_are_no_ordinary_numbers_arrive_and_replay(self, uri: str, run: str) -> None:
        tracker = self.open(uri)
        run_id = self.begin(tracker, run)
        values = [math.nan, math.inf, -math.inf, 5e-324, 0.1, -0.1, 1e300]
        rows = [
            Row(key="odd", value=v, timestamp_ms=1_000, step=n, loop="", iteration=0, ordinal=n)
            for n, v in enumerate(values)
        ]
        for _ in range(2):
            tracker.send(run_id, rows)
        kept = {step: value for _, value, _, step in self.stored(uri, run_id).rows}
        assert len(self.stored(uri, run_id).rows) == len(values)
        assert [kept[n] for n in (0, 3, 4, 5, 6)] == [repr(values[n]) for n in (0, 3, 4, 5, 6)]
        # A tracker may lack infinities, but the largest number has to stand for them.
        assert float(kept[1]) >= sys.float_info.max
        assert float(kept[2]) <= -sys.float_info.max

    def test_a_name_that_the_back_end_refuses_does_not_block_the_rest(self, uri: str, run: str) -> None:
        tracker = self.open(uri)
        run_id = tracker.start(run, experiment="contract", params={"a:b/../c": 1, "ü": "ü" * 9_000}, tags={})
        names = ["loss: first", "../up", "/root", "end/", "a//b", "x" * 400, "größe", "%", ".", "sum(x)"]
        rows = [
            Row(key=name, value=float(n), timestamp_ms=n, step=n, loop="", iteration=0, ordinal=0)
            for n, name in enumerate(names)
        ]
        tracker.send(run_id, rows)
        assert sorted(step for _, _, _, step in self.stored(uri, run_id).rows) == list(range(len(names)))
        assert len(self.stored(uri, run_id).params) == 2

    def test_names_that_look_alike_stay_apart(self, uri: str, run: str) -> None:
        tracker = self.open(uri)
        names = ["acc@1", "acc:1", "acc_1", "acc#1", "acc_x40_1", "x" * 300, "x" * 299 + "y", "a/b", "a//b", "a/b/"]
        run_id = tracker.start(
            run, experiment="contract", params=dict.fromkeys(names, 1), tags=dict.fromkeys(names, "1")
        )
        rows = [
            Row(key=name, value=float(n), timestamp_ms=7, step=7, loop="", iteration=0, ordinal=n)
            for n, name in enumerate(names)
        ]
        for _ in range(2):
            tracker.send(run_id, rows)
        stored = self.stored(uri, run_id)
        assert len({key for key, *_ in stored.rows}) == len(stored.rows) == len(names)
        assert len(stored.params) == len(names)
        assert len(set(stored.tags) - {"qcity.run"}) >= len(names)

    def test_two_clients_find_the_same_run(self, uri: str, run: str) -> None:
        first, second = self.open(uri), self.open(uri)
        run_id = self.begin(first, run)
        assert self.begin(second, run) == run_id
        assert self.begin(second, run + "-other") != run_id
        assert self.count_runs(uri, run) == 1

    def test_clients_that_start_at_once_settle_on_one_run(self, uri: str, run: str) -> None:
        clients = [self.open(uri) for _ in range(4)]
        together = threading.Barrier(len(clients))

        def start(client: Tracker) -> None:
            together.wait()
            self.begin(client, run)

        threads = [threading.Thread(target=start, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({self.begin(client, run) for client in clients}) == 1
        assert self.count_runs(uri, run) == 1

    def test_params_keep_their_first_value_and_tags_their_last(self, uri: str, run: str) -> None:
        tracker = self.open(uri)
        run_id = tracker.start(run, experiment="contract", params={"lr": 0.1}, tags={"host": "a"})
        again = tracker.start(run, experiment="contract", params={"lr": 0.2, "seed": 7}, tags={"host": "b"})
        tracker.tag(run_id, {"attempts": "2"})
        stored = self.stored(uri, run_id)
        assert again == run_id
        assert stored.params == {"lr": "0.1", "seed": "7"}
        assert stored.tags["host"] == "b"
        assert stored.tags["attempts"] == "2"
        assert stored.tags["qcity.run"] == run

    def test_the_same_id_made_at_another_time_is_another_run(self, uri: str, run: str) -> None:
        tracker = self.open(uri)
        times = ("2026-01-01T00:00:00.000+00:00", "2026-01-01T00:00:00.001+00:00")
        first, second = (
            tracker.start(run, experiment="contract", params={}, tags={"qcity.made": made}) for made in times
        )
        assert first != second
        assert tracker.start(run, experiment="contract", params={}, tags={"qcity.made": times[0]}) == first

    def test_the_same_name_with_another_id_is_another_run(self, uri: str, run: str) -> None:
        tracker = self.open(uri)
        made = {"qcity.made": "2026-01-01T00:00:00.000+00:00"}
        first, second = (
            tracker.start(run, experiment="contract", params={}, tags={**made, "qcity.id": run_id})
            for run_id in ("aaaa", "bbbb")
        )
        assert first != second
        assert tracker.start(run, experiment="contract", params={}, tags={**made, "qcity.id": "aaaa"}) == first

    def test_many_and_long_params_and_tags(self, uri: str, run: str) -> None:
        tracker = self.open(uri)
        params = {f"p{n}": "v" * 7_000 if n % 50 == 0 else n for n in range(230)}
        run_id = tracker.start(run, experiment="contract", params=params, tags={})
        tracker.tag(run_id, {f"t{n}": "w" * (9_000 if n % 50 == 0 else 1) for n in range(230)})
        stored = self.stored(uri, run_id)
        assert stored.params.keys() == params.keys()
        assert stored.params["p1"] == "1"
        assert stored.params["p0"]
        assert set("v") == set(stored.params["p0"])
        assert {f"t{n}" for n in range(230)} <= stored.tags.keys()

    @pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
    def test_the_end_is_reported_and_a_later_start_reopens(self, uri: str, run: str, status: str) -> None:
        tracker = self.open(uri)
        run_id = self.begin(tracker, run)
        assert self.stored(uri, run_id).status == "RUNNING"
        for _ in range(2):
            tracker.end(run_id, status)  # type: ignore[arg-type]  # the three statuses of the port
            assert self.stored(uri, run_id).status == status
        tracker.send(run_id, make_rows(3))  # a late replay of rows is no error
        assert self.begin(self.open(uri), run) == run_id
        assert self.stored(uri, run_id).status == "RUNNING"
        tracker.end(run_id, "FINISHED")
        assert self.stored(uri, run_id).status == "FINISHED"
        assert self.stored(uri, run_id).rows == _as_stored(make_rows(3))

    def test_a_client_killed_half_way_and_a_replay_store_each_row_once(self, uri: str, run: str) -> None:
        tracker = self.open(uri)
        run_id = self.begin(tracker, run)
        rows = make_rows(400)
        root = str(Path(qcity_nb.__file__).parents[1])
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
        command = [sys.executable, "-c", _CLIENT, uri, run_id, "10"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write(encode_rows(rows))
            client.stdin.close()
            for _ in range(3):
                assert client.stdout.readline()
            client.send_signal(signal.SIGKILL)
        stored = len(self.stored(uri, run_id).rows)
        assert 30 <= stored < 400
        tracker.send(run_id, rows)
        assert self.stored(uri, run_id).rows == _as_stored(rows)
