"""Checkpoints that earlier versions wrote restore, bit for bit."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optional import part, torch

from qcity_nb.checkpoint import Checkpointer
from qcity_nb.checkpoint.storage import manifest
from qcity_nb.checkpoint.storage.local_tier import LocalTier

GOLDEN = Path(__file__).parents[2] / "data" / "golden"
VERSIONS = sorted(path.name for path in GOLDEN.glob("pack-*"))


def formula() -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("golden_make", GOLDEN / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    state: dict[str, Any] = module.state()
    return state


def same(left: Any, right: Any) -> None:
    assert type(left) is type(right)
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype
        assert left.shape == right.shape
        assert torch.equal(left.detach().double(), right.detach().double())
    elif isinstance(left, np.ndarray):
        assert left.dtype == right.dtype
        assert left.tobytes("A") == right.tobytes("A")
    elif isinstance(left, torch.nn.Module | torch.optim.Optimizer):
        same(left.state_dict(), right.state_dict())
    elif isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            same(left[key], right[key])
    elif isinstance(left, np.random.Generator):
        assert left.bit_generator.state == right.bit_generator.state
    else:
        assert left == right


def test_there_are_some() -> None:
    assert VERSIONS == ["pack-3"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_golden_checkpoint_restores(version: str) -> None:
    part("torch")
    expected, state = formula(), formula()
    for value in (*state["net"].parameters(), state["half"], state["eighth"]):
        value.data.zero_()
    state["optimizer"].state.clear()
    for name in ("long", "fortran"):
        state[name][...] = 0
    state["order"].clear()
    state["rng"].random(5)
    state["text"] = ""
    with Checkpointer(GOLDEN / version) as saver:
        assert saver.restore(state)
    same(state, expected)
    assert np.shares_memory(state["view"], state["long"])


@pytest.mark.parametrize("version", VERSIONS)
def test_its_record_has_the_fields_that_later_versions_fill(version: str) -> None:
    tier = LocalTier(GOLDEN / version, term=1)
    newest = tier.newest(deep=True)
    assert newest is not None
    assert (newest.seq, newest.step, newest.reason) == (1, 17, "asked for")
    plain = json.loads(manifest.dumps(newest))
    for name, empty in {"cipher": {}, "signature": {}, "rank": 0, "world_size": 1, "replicas": []}.items():
        assert plain[name] == empty
    filled = manifest.loads(
        json.dumps(
            {
                **plain,
                "cipher": {"version": 1, "name": "AES-256-GCM", "key": "k1"},
                "signature": {"version": 1, "key": "k2", "value": "…"},
                "replicas": ["hf://user/repo"],
                "rank": 1,
                "world_size": 4,
                "of_a_later_version": [1],
            }
        ).encode()
    )
    again = json.loads(manifest.dumps(filled))
    assert again["cipher"]["key"] == "k1"
    assert again["of_a_later_version"] == [1]


def test_a_changed_byte_of_a_golden_checkpoint_is_found(tmp_path: Path) -> None:
    import shutil

    shutil.copytree(GOLDEN / VERSIONS[0], tmp_path / "copy")
    pack = next((tmp_path / "copy" / "packs").iterdir())
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 4
    pack.write_bytes(data)
    assert LocalTier(tmp_path / "copy", term=1).newest(deep=True) is None
