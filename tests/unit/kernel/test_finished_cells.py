"""The records of finished cells: what is written, what comes back, what is forgotten."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest
from cells_world import Kernel

from qcity_nb.checkpoint.storage.manifest import CellRecord
from qcity_nb.errors import CheckpointError
from qcity_nb.kernel import finished_cells
from qcity_nb.kernel.finished_cells import fold, trim


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def test_each_cell_can_be_gone_back_to(kernel: Kernel) -> None:
    expected = []
    for change in ({"x": [1]}, {"y": "two"}, {"x": [1, 3]}, {"z": 4}):
        kernel.live.update(change)
        kernel.cell()
        expected.append(dict(kernel.live))
    del kernel.live["y"]
    kernel.cell()
    expected.append(dict(kernel.live))
    assert [kernel.again(count)[0] for count in range(1, 6)] == expected


def test_groups_come_together_and_part_again(kernel: Kernel) -> None:
    kernel.live.update(a=[1], b=[2], c=3)
    kernel.cell()
    kernel.live["b"] = [kernel.live["a"]]
    kernel.cell()
    kernel.live["b"] = [5]
    kernel.cell()
    assert set(fold(kernel.cells.records)) == {("a",), ("b",), ("c",)}
    together, _ = kernel.again(2)
    assert together["b"][0] is together["a"]
    assert kernel.again(3)[0] == {"a": [1], "b": [5], "c": 3}


def test_what_did_not_change_is_not_written_again(kernel: Kernel) -> None:
    kernel.live.update(big=bytes(100_000), text=["x" * 5_000] * 3, n=0)
    first = kernel.cell()
    assert first > 100_000
    kernel.live["n"] = 1
    assert kernel.cell() < 10_000
    assert len(kernel.cells.records[1].namespace.groups) == 1  # type: ignore[union-attr]


class Last:
    """Says that the pickler came to it."""

    met = 0

    def __reduce__(self) -> str | tuple[object, ...]:
        Last.met += 1
        return Last, ()


class Slow:
    """Takes a second and more to pickle, whatever the machine."""

    def __reduce__(self) -> tuple[object, ...]:
        time.sleep(1.1)
        return Slow, ()


def test_a_snapshot_that_takes_too_long_is_given_up_in_the_middle(kernel: Kernel) -> None:
    kernel.live["small"] = [1]
    kernel.cell()
    kernel.live["large"] = [*(f"{n:x}" for n in range(20_000)), Slow(), *(f"{n:x}" for n in range(20_000)), Last()]
    kernel.cells.add_finished(1, CellRecord(chain="c1", number=2), {})
    # Far more than all the rest takes, also on a machine with much to do.
    assert kernel.cells.take_snapshot(stored=kernel.tier.stored, limit_s=1.0) == finished_cells.RETRY_FACTOR
    assert Last.met == 0
    assert kernel.cells.snapshot().snapshot is None
    assert kernel.cells.take_snapshot(stored=kernel.tier.stored) == 0.0
    assert Last.met > 0
    snapshot = kernel.cells.snapshot().snapshot
    assert snapshot is not None
    assert ("large",) in [group.names for group in snapshot.groups]


def test_a_snapshot_that_is_known_to_take_too_long_is_not_tried(kernel: Kernel) -> None:
    kernel.live["large"] = [f"{n:x}" for n in range(200_000)]
    kernel.cell()
    kernel.cells.add_finished(1, CellRecord(chain="c1", number=2), {})
    (group,) = fold(kernel.cells.records).values()
    needs_s = kernel.cells.take_snapshot(stored=kernel.tier.stored, limit_s=group.cost_s / 2)
    assert needs_s >= group.cost_s
    assert kernel.cells.snapshot().snapshot is None


def test_what_pickling_took_is_kept_and_is_no_change(kernel: Kernel) -> None:
    kernel.live["big"] = list(range(50_000))
    kernel.cell()
    kernel.cell()
    first, second = (cell.namespace for cell in kernel.cells.records)
    assert first is not None
    assert second is not None
    assert first.groups[0].cost_s > 0
    assert first.cost_s > first.groups[0].cost_s
    assert second.groups == ()


def test_a_cell_without_a_snapshot_is_no_place_to_go_on_from(kernel: Kernel) -> None:
    kernel.live["x"] = 1
    kernel.cell()
    kernel.live["x"] = 2
    kernel.cell(snapshot=False)
    kernel.live["y"] = 3
    kernel.cell()
    with pytest.raises(CheckpointError, match="no snapshot after cell 2"):
        kernel.again(2)
    assert kernel.again(3)[0] == {"x": 2, "y": 3}


def test_outputs_of_earlier_cells_can_change(kernel: Kernel) -> None:
    kernel.cell(shown={0: b"one"})
    kernel.cell(shown={0: b"two", 1: b"other"})
    kernel.cell(shown={1: b""})
    assert kernel.manifest is not None
    shown = [record.outputs and kernel.tier.read(kernel.manifest, record.outputs) for record in kernel.manifest.cells]
    assert shown == [b"two", "", ""]


def test_what_was_shown_while_a_checkpoint_was_written_is_not_lost(kernel: Kernel) -> None:
    kernel.cells.add_finished(0, CellRecord(chain="c0"), {0: b"one"})
    snapshot = kernel.cells.snapshot()
    kernel.cells.add_finished(1, CellRecord(chain="c1"), {0: b"two", 1: b"more"})
    kernel.cells.mark_saved(snapshot.record({}))
    kernel.save()
    assert kernel.manifest is not None
    assert [kernel.tier.read(kernel.manifest, record.outputs) for record in kernel.manifest.cells] == [b"two", b"more"]


def test_a_snapshot_that_was_not_written_is_made_up_for_by_the_next(kernel: Kernel) -> None:
    kernel.live["x"] = [1]
    kernel.cell()
    kernel.live["x"] = [2]
    kernel.cells.add_finished(1, CellRecord(chain="c1"), {})
    kernel.cells.take_snapshot(stored=kernel.tier.stored)
    snapshot = kernel.cells.snapshot()
    for used in snapshot.used:
        used.release()
    kernel.cells.mark_lost()
    kernel.live["y"] = 3
    kernel.cell()
    assert kernel.again(3)[0] == {"x": [2], "y": 3}
    with pytest.raises(CheckpointError, match="no snapshot"):
        kernel.again(2)


def test_a_cell_that_runs_again_forgets_those_after_it(kernel: Kernel) -> None:
    for n in range(3):
        kernel.live["x"] = n
        kernel.cell()
    kernel.cells.add_finished(1, CellRecord(chain="other"), {})
    assert [record.chain for record in kernel.cells.records] == ["c0", "other"]
    with pytest.raises(CheckpointError, match="cell 5 has finished, but only 2"):
        kernel.cells.add_finished(5, CellRecord(chain="c5"), {})


@pytest.mark.parametrize("seed", range(5))
def test_old_snapshots_go_when_they_need_too_much_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(finished_cells, "HISTORY_BYTES", 10_000)
    monkeypatch.setattr(finished_cells, "HISTORY_SHARE", 0.1)
    dice = random.Random(seed)
    kernel = Kernel(tmp_path)
    expected: list[dict[str, Any]] = []
    for _ in range(20):
        name = dice.choice("abcd")
        if dice.random() < 0.15 and name in kernel.live:
            del kernel.live[name]
        else:
            kernel.live[name] = dice.randbytes(dice.choice([10, 8_000, 16_000]))
        kernel.cell(snapshot=dice.random() < 0.8 or len(expected) == 19)
        expected.append(dict(kernel.live))
    whole = [place for place, record in enumerate(kernel.cells.records) if record.namespace is not None]
    assert whole[-1] == 19
    assert whole[0] > 0, "nothing was forgotten"
    for place in whole:
        assert kernel.again(place + 1)[0] == expected[place]
    kernel.live.clear()
    kernel.live["x"] = 1
    kernel.cell()
    kernel.cell()
    assert sum(ref.size_bytes for ref in kernel.tier.stored.values()) < 20_000, "nothing large is left"


class FakeReach:
    """In place of ``Reach``, which has tests of its own: gives the answers that it was made with."""

    def __init__(self, *answers: frozenset[str] | None) -> None:
        self.answers = [*answers]
        self.cleared = 0

    def changed_names(self) -> frozenset[str] | None:
        return self.answers.pop(0)

    def clear(self) -> None:
        self.cleared += 1


OTHER = frozenset({"other"})


class Counted:
    """Counts how often it is pickled."""

    times = 0

    def __init__(self) -> None:
        self.items = [1]

    def __getstate__(self) -> dict[str, list[int]]:
        Counted.times += 1
        return {"items": self.items}


def test_a_costly_variable_is_pickled_again_only_if_code_can_have_reached_it(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finished_cells, "SLOW_S", -1.0)
    kernel.live.update(slow=Counted(), other=1)
    kernel.cell()
    before = Counted.times
    reach = FakeReach(OTHER, OTHER, OTHER | {"slow"}, OTHER, None)
    monkeypatch.setattr(kernel.cells, "reach", reach)
    for source, more in (
        ("other = 2", 0),
        ("other += 1", 0),
        ("slow.items.append(2)", 1),
        ("other = 5", 0),
        ("other = eval('6')", 1),
    ):
        exec(source, kernel.live)
        kernel.cell()
        before += more
        assert Counted.times == before, source
    live, _ = kernel.again(6)
    assert (live["slow"].items, live["other"]) == ([1, 2], 6)
    assert kernel.again(3)[0]["slow"].items == [1]
    assert reach.cleared == 5, "with no limit all that is written is slow"


def test_all_is_looked_at_now_and_then(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finished_cells, "SLOW_S", -1.0)
    kernel.live.update(slow=Counted(), other=1)
    kernel.cell()
    hidden = kernel.live["slow"]
    hidden.items.append("nobody saw")  # by means that no code of the notebook shows
    del hidden
    monkeypatch.setattr(kernel.cells, "reach", FakeReach(*[OTHER] * finished_cells.LOOK_EVERY))
    for n in range(finished_cells.LOOK_EVERY + 1):
        kernel.live["other"] = n
        kernel.cell()
        items = kernel.again(len(kernel.cells.records))[0]["slow"].items
        assert items == ([1] if n < finished_cells.LOOK_EVERY else [1, "nobody saw"])
    assert kernel.again(len(kernel.cells.records))[0]["slow"].items == [1, "nobody saw"]


def test_after_a_snapshot_that_was_lost_all_is_looked_at(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finished_cells, "SLOW_S", -1.0)
    kernel.live.update(slow=Counted(), other=1)
    kernel.cell()
    kernel.live["slow"].items.append(2)
    monkeypatch.setattr(kernel.cells, "reach", FakeReach(OTHER | {"slow"}))  # it is not asked again
    kernel.cells.add_finished(1, CellRecord(chain="c1"), {})
    kernel.cells.take_snapshot(stored=kernel.tier.stored)
    for used in kernel.cells.snapshot().used:
        used.release()
    kernel.cells.mark_lost()
    kernel.live["other"] = 2
    kernel.cell()
    assert kernel.again(3)[0]["slow"].items == [1, 2]


def test_trimming_keeps_the_newest_whatever_it_costs(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel.live["x"] = random.Random(1).randbytes(50_000)
    kernel.cell()
    monkeypatch.setattr(finished_cells, "HISTORY_BYTES", 0)
    monkeypatch.setattr(finished_cells, "HISTORY_SHARE", 0.0)
    assert trim(kernel.cells.records, kernel.tier.stored) == kernel.cells.records
