"""Notebooks of many cells: records that do not list all variables restore the same ones."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from cells_world import Kernel

from qcity_nb.checkpoint.storage.manifest import CellRecord
from qcity_nb.kernel.finished_cells import NAMES_CELLS


@pytest.mark.parametrize("seed", range(3))
def test_each_cell_of_many_can_be_gone_back_to(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    kernel = Kernel(tmp_path)
    expected = []
    for number in range(NAMES_CELLS + 40):
        for name in rng.sample(sorted(kernel.live), min(len(kernel.live), rng.randrange(3))):
            del kernel.live[name]
        kernel.live[f"v{rng.randrange(20)}"] = [number]
        if kernel.live and rng.random() < 0.3:  # two variables that share something
            kernel.live[f"w{rng.randrange(5)}"] = (kernel.live[rng.choice(sorted(kernel.live))],)
        kernel.cell()
        expected.append(repr(sorted(kernel.live.items())))
    namespaces = [record.namespace for record in kernel.cells.records]
    assert [each.gone is None for each in namespaces if each] == [n < NAMES_CELLS for n in range(len(namespaces))]
    for count in (1, NAMES_CELLS - 1, NAMES_CELLS, NAMES_CELLS + 1, NAMES_CELLS + 20, NAMES_CELLS + 40):
        assert repr(sorted(kernel.again(count)[0].items())) == expected[count - 1]


def test_what_only_a_forgotten_cell_held_is_written_again(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path)
    for number in range(3):
        kernel.live["x"] = [number]
        kernel.cell()
    kernel.cells.add_finished(1, CellRecord(chain="edited"), {})
    kernel.cells.take_snapshot(stored=kernel.tier.stored)
    kernel.save()
    assert kernel.again(2)[0] == {"x": [2]}
