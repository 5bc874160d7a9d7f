"""What is reported of each variable, from records that the engine wrote."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from cells_world import Kernel

from qcity_nb.checkpoint.storage.manifest import CellRecord
from qcity_nb.cli.snapshot_contents import Contents, Variable, list_contents, snapshots
from qcity_nb.kernel import finished_cells
from qcity_nb.namespace import pickler


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def contents_of(kernel: Kernel, cell: int | None = None) -> Contents:
    assert kernel.manifest is not None
    records = kernel.manifest.cells
    return list_contents(records, kernel.manifest.objects, cell or snapshots(records)[-1])


def by_name(contents: Contents) -> dict[str, Variable]:
    assert len({each.name for each in contents.variables}) == len(contents.variables)
    return {each.name: each for each in contents.variables}


def noise(count: int) -> bytes:
    return random.Random(count).randbytes(count)


def test_kinds_sizes_groups_and_who_changed_them(kernel: Kernel) -> None:
    kernel.live.update(small=noise(10_000), large=noise(90_000))
    kernel.live["also"] = [inner := [noise(30_000)]]
    kernel.live["inner"] = inner
    kernel.cell()
    kernel.live["small"] = noise(20_000)
    kernel.cell()
    contents = contents_of(kernel)
    assert [each.name for each in contents.variables] == ["large", "also", "inner", "small"]
    variables = by_name(contents)
    assert {name: each.kind for name, each in variables.items()} == dict.fromkeys(
        ("small", "large"), "bytes"
    ) | dict.fromkeys(("also", "inner"), "list")
    assert (variables["also"].shares, variables["inner"].shares, variables["large"].shares) == (
        ("inner",),
        ("also",),
        (),
    )
    assert {name: each.size_bytes // 10_000 for name, each in variables.items()} == {
        "large": 9,
        "also": 3,
        "inner": 3,
        "small": 2,
    }
    assert {name: each.changed for name, each in variables.items()} == dict.fromkeys(
        ("large", "also", "inner"), (1, 1)
    ) | {"small": (2, 2)}
    assert contents.size_bytes // 10_000 == 14
    assert contents.others_bytes // 1_000 == 10, "the small one as it was"
    assert variables["also"].cost_s > 0
    assert contents.cost_s > 0


def test_what_two_groups_have_in_common_counts_once(kernel: Kernel) -> None:
    kernel.live.update(a=np.full(50_000, 1.5), b=np.full(50_000, 1.5))
    kernel.cell()
    contents = contents_of(kernel)
    assert [each.size_bytes // 100_000 for each in contents.variables] == [4, 4]
    assert contents.size_bytes // 100_000 == 4


def test_an_earlier_cell(kernel: Kernel) -> None:
    kernel.live["x"] = noise(10_000)
    kernel.cell()
    kernel.live.update(x=1, y=noise(40_000))
    kernel.cell()
    contents = contents_of(kernel, 1)
    assert [(each.name, each.kind, each.changed) for each in contents.variables] == [("x", "bytes", (1, 1))]
    assert contents.others_bytes // 10_000 == 4


def test_between_two_snapshots_nobody_knows_which_cell_changed_it(kernel: Kernel) -> None:
    kernel.live["x"] = 1
    kernel.cell()
    kernel.cell(snapshot=False)
    kernel.live["y"] = 1
    kernel.cell()
    kernel.cell(snapshot=False)
    assert {name: each.changed for name, each in by_name(contents_of(kernel)).items()} == {"x": (1, 1), "y": (2, 3)}


def test_a_snapshot_that_took_over_an_older_one_does_not_claim_its_changes(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finished_cells, "HISTORY_BYTES", 1_000)
    monkeypatch.setattr(finished_cells, "HISTORY_SHARE", 0.0)
    kernel.live.update(kept=1, large=noise(50_000))
    kernel.cell()
    kernel.live["large"] = noise(60_000)
    kernel.cell()
    kernel.live["n"] = 2
    kernel.cell()
    assert snapshots(kernel.cells.records) == [2, 3]
    variables = by_name(contents_of(kernel))
    assert (variables["kept"].changed, variables["n"].changed) == ((1, 2), (3, 3))


def test_modules_are_imported_and_submodules_are_no_variables(kernel: Kernel) -> None:
    import xml.dom.minidom

    kernel.live.update(xml=xml, dom=xml.dom, In=["import xml.dom.minidom"])
    kernel.cell()
    contents = [(each.name, each.back, each.module) for each in contents_of(kernel).variables]
    assert contents == [("dom", "imported", "xml.dom"), ("xml", "imported", "xml")]


@pytest.mark.parametrize("seconds", [0.5, 30.5])
def test_variables_that_are_not_saved_come_first_with_the_cells_to_re_run(kernel: Kernel, seconds: float) -> None:
    kernel.live["x"] = noise(1_000)
    kernel.cell()
    kernel.live["g"] = (n for n in range(3))
    kernel.cell()
    kernel.live["t"] = {"inside": threading.Thread()}
    kernel.cell()
    assert kernel.manifest is not None
    records = [replace(each, wall_s=seconds) for each in kernel.manifest.cells]
    contents = list_contents(records, kernel.manifest.objects, 3)
    assert [each.name for each in contents.variables] == ["g", "t", "x"]
    variables = by_name(contents)
    assert (variables["g"].back, variables["g"].kind, variables["g"].rerun, variables["g"].rerun_s) == (
        "not saved",
        "generator",
        2,
        2 * seconds,
    )
    assert (variables["t"].rerun, variables["t"].rerun_s) == (3, seconds)
    assert variables["t"].why == "t['inside']: a thread runs only in this process"
    assert variables["t"].advice == "start it again"
    assert variables["g"].is_rerun == (seconds < 30)
    assert variables["t"].is_rerun
    assert not variables["x"].is_rerun


def test_what_comes_back_new_is_named_and_what_only_looks_so_is_not(kernel: Kernel) -> None:
    class Own:
        @cache  # noqa: B019 - what people write
        def method(self) -> int:
            return 1

    Own.__module__ = "__main__"
    kernel.live.update(lock=threading.Lock(), event=[threading.Event()], own=Own(), plain=[1], other=pickler._pickler)
    kernel.cell()
    variables = {name: each.fresh for name, each in by_name(contents_of(kernel)).items()}
    assert variables == {"lock": ("lock",), "event": ("condition", "lock"), "own": ("cache",), "plain": (), "other": ()}


def test_records_of_an_earlier_version_have_no_kinds(kernel: Kernel) -> None:
    kernel.live["x"] = [1]
    kernel.cell()
    assert kernel.manifest is not None
    (record,) = kernel.manifest.cells
    assert record.namespace is not None
    groups = tuple(replace(each, kinds={}) for each in record.namespace.groups)
    old: list[CellRecord] = [replace(record, namespace=replace(record.namespace, groups=groups))]
    (variable,) = list_contents(old, kernel.manifest.objects, 1).variables
    assert variable.kind == ""
