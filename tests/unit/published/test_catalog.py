"""The checkpoints of a run: found in both places, read, checked; what is damaged is named."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_run import RUN, CheckpointRun

from qcity_nb.errors import CheckpointCorrupt, CheckpointError, Missing, UsageError
from qcity_nb.published.catalog import Catalog, Checkpoint, loop_of, size_to_read
from qcity_nb.stores import open_store


def state(value: float) -> dict[str, Any]:
    return {"a": np.full(2000, value), "fixed": np.arange(2000)}


@pytest.fixture
def made(tmp_path: Path) -> CheckpointRun:
    """Five checkpoints; the second one is not published, the local tier keeps the last two."""
    run = CheckpointRun(open_store(str(tmp_path / "store")), tmp_path)
    for seq in range(1, 6):
        run.save({"epochs": state(seq)}, publish=seq not in (2, 4))
    return run


@pytest.fixture
def catalog(made: CheckpointRun) -> Catalog:
    return Catalog(made.store, RUN, made.local)


def named(checkpoints: list[Checkpoint]) -> list[tuple[int, list[str]]]:
    return [(checkpoint.seq, [copy.where for copy in checkpoint.copies]) for checkpoint in checkpoints]


def damage(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.chmod(0o600)
    file.write_bytes(data)


def packs(made: CheckpointRun, seq: int) -> list[Path]:
    return sorted((made.local.parent / "store").rglob(f"t1-{seq}-*.pack"))


def test_checkpoints_of_both_places_are_listed_newest_first(catalog: Catalog) -> None:
    checkpoints = catalog.checkpoints()
    assert named(checkpoints) == [
        (5, ["store", "local (attempt 1)"]),
        (4, ["local (attempt 1)"]),
        (3, ["store"]),
        (1, ["store"]),
    ]
    assert [checkpoint.term for checkpoint in checkpoints] == [1, 1, 1, 1]
    manifest = checkpoints[0].manifest
    assert manifest is not None
    assert manifest.step == 50


def test_new_bytes_are_those_that_the_one_before_did_not_have(catalog: Catalog) -> None:
    checkpoints = {checkpoint.seq: checkpoint for checkpoint in catalog.checkpoints()}
    size_bytes = 2000 * 8
    assert all(checkpoint.new_bytes is not None for checkpoint in checkpoints.values())
    assert size_bytes <= (checkpoints[4].new_bytes or 0) < 2 * size_bytes
    assert size_bytes < (checkpoints[5].new_bytes or 0) < 2 * size_bytes
    assert (checkpoints[1].new_bytes or 0) > 2 * size_bytes


def test_a_run_without_checkpoints_has_none(tmp_path: Path) -> None:
    run = CheckpointRun(open_store(str(tmp_path / "store")), tmp_path)
    catalog = Catalog(run.store, RUN, run.local)
    assert catalog.checkpoints() == []
    with pytest.raises(UsageError, match="no checkpoint yet"):
        catalog.find("newest")


def test_another_checkpoint_of_the_same_number_stands_alone(made: CheckpointRun, catalog: Catalog) -> None:
    # An attempt that was superseded made a sixth one, its successor another.
    made.save({"epochs": state(6)}, publish=False)
    path = made.tier.path
    kept = path.rename(path.with_name("7-b"))
    again = CheckpointRun(open_store(str(made.local.parent / "store2")), made.local.parent)
    for seq in range(1, 7):
        again.save({"epochs": state(seq)}, publish=False)
    again.tier.path.rename(kept.with_name("1-a"))
    checkpoints = catalog.checkpoints()
    assert named(checkpoints)[:2] == [(6, ["local (attempt 7)"]), (6, ["local (attempt 1)"])]


@pytest.mark.parametrize(("text", "seq"), [("newest", 5), ("previous", 4), ("3", 3)])
def test_a_checkpoint_is_found_by_its_number_or_place(text: str, seq: int, catalog: Catalog) -> None:
    assert catalog.find(text).seq == seq


def test_a_checkpoint_that_is_not_there_is_said(catalog: Catalog) -> None:
    with pytest.raises(UsageError, match="no checkpoint '2'; there are 5, 4, 3, 1, newest and previous"):
        catalog.find("2")


def test_states_are_read_from_either_place(catalog: Catalog, tmp_path: Path) -> None:
    for checkpoint in catalog.checkpoints():
        loaded = catalog.state(checkpoint, "epochs", tmp_path / "incoming")
        assert loaded["a"][0] == checkpoint.seq
        assert loaded["fixed"].tolist() == list(range(2000))


def test_a_damaged_copy_is_skipped(made: CheckpointRun, catalog: Catalog, tmp_path: Path) -> None:
    damage(made.tier.path / "packs" / "t1-5.pack")
    assert catalog.state(catalog.find("5"), "epochs", tmp_path / "incoming")["a"][0] == 5
    damage(packs(made, 5)[0])
    with pytest.raises(CheckpointCorrupt, match="checkpoint 5 in store"):
        catalog.state(catalog.find("5"), "epochs", tmp_path / "incoming2")


def test_whole_checkpoints_verify(catalog: Catalog) -> None:
    checkpoints = catalog.checkpoints()
    seen: list[int] = []
    verdicts = list(catalog.verify(checkpoints, see=seen.append))
    assert [(verdict.seq, verdict.where) for verdict in verdicts] == [
        (5, "store"),
        (5, "local (attempt 1)"),
        (4, "local (attempt 1)"),
        (3, "store"),
        (1, "store"),
    ]
    assert not any(verdict.damage for verdict in verdicts)
    assert all(verdict.count == 3 for verdict in verdicts)  # two arrays and the skeleton
    assert sum(seen) == size_to_read(checkpoints)


def test_damage_is_named(made: CheckpointRun, catalog: Catalog) -> None:
    damage(packs(made, 3)[0])
    damaged = [verdict for verdict in catalog.verify(catalog.checkpoints()) if verdict.damage]
    assert [(verdict.seq, verdict.where) for verdict in damaged] == [(3, "store")]
    assert "t1-3" in damaged[0].damage[0]


def test_a_damaged_object_that_all_share_damages_all(made: CheckpointRun, catalog: Catalog) -> None:
    for file in packs(made, 1):
        file.chmod(0o600)
        file.write_bytes(bytes(file.stat().st_size))
    damaged = [(verdict.seq, verdict.where) for verdict in catalog.verify(catalog.checkpoints()) if verdict.damage]
    assert damaged == [(5, "store"), (3, "store"), (1, "store")]


def test_a_damaged_manifest_is_listed_and_named(made: CheckpointRun, catalog: Catalog) -> None:
    damage(made.tier.path / "checkpoints" / "4.json")
    checkpoint = catalog.find("4")
    assert checkpoint.manifest is None
    assert "digest" in checkpoint.copies[0].trouble
    verdict = next(each for each in catalog.verify([checkpoint]))
    assert "4.json" in verdict.damage[0]


def test_a_pack_that_is_gone_is_damage(made: CheckpointRun, catalog: Catalog) -> None:
    packs(made, 5)[0].unlink()
    (made.tier.path / "packs" / "t1-5.pack").unlink()
    damaged = [(verdict.seq, verdict.where) for verdict in catalog.verify([catalog.find("5")]) if verdict.damage]
    assert damaged == [(5, "store"), (5, "local (attempt 1)")]


def test_what_the_holder_drops_meanwhile_is_no_damage(made: CheckpointRun, catalog: Catalog) -> None:
    checkpoints = catalog.checkpoints()
    for seq in range(6, 12):
        made.save({"epochs": state(seq)})
    verdicts = list(catalog.verify(checkpoints))
    assert not any(verdict.damage for verdict in verdicts)
    assert len(verdicts) < 5


def test_a_head_that_changes_while_it_is_listed_is_read_again(
    made: CheckpointRun, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain: Callable[[str, str], bytes] = made.store.get
    left = 3

    def get(run: str, name: str) -> bytes:
        nonlocal left
        if left and name.startswith("checkpoints/"):
            left -= 1
            made.save({"epochs": state(9)})
            raise Missing(f"no object {name}")
        return plain(run, name)

    monkeypatch.setattr(made.store, "get", get)
    checkpoints = catalog.checkpoints()
    assert not any(copy.trouble for checkpoint in checkpoints for copy in checkpoint.copies)
    assert checkpoints[0].seq > 5


def test_loops_are_found_by_name(made: CheckpointRun, catalog: Catalog) -> None:
    made.save({"epochs": state(1), "inner": state(2)})
    manifest = catalog.find("newest").manifest
    assert manifest is not None
    assert loop_of(manifest, "inner").key == "inner"
    with pytest.raises(UsageError, match="--loop: epochs, inner"):
        loop_of(manifest, None)
    with pytest.raises(UsageError, match="no state of a loop 'x'"):
        catalog.state(catalog.find("newest"), "x", made.local)


def test_a_class_that_only_the_notebook_has_gets_a_stand_in(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nimport numpy as np\n"
        "from checkpoint_run import CheckpointRun\nfrom qcity_nb.stores import open_store\n"
        "class Own:\n    def __init__(self): self.w = np.arange(3); self.n = 5\n"
        "folder = Path(sys.argv[1])\n"
        "run = CheckpointRun(open_store(str(folder / 'store')), folder)\n"
        "run.save({'epochs': {'own': Own(), 'more': [Own()]}})\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, env=_environment())
    catalog = Catalog(open_store(str(tmp_path / "store")), RUN, tmp_path / "local")
    loaded = catalog.state(catalog.find("newest"), "epochs", tmp_path / "incoming")
    assert type(loaded["own"]).__name__ == "Own"
    assert loaded["own"].w.tolist() == [0, 1, 2]
    assert loaded["more"][0].n == 5
    assert not hasattr(sys.modules["__main__"], "Own")


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def test_a_module_that_is_missing_is_said(
    made: CheckpointRun, catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone_module.py").write_text("class Thing:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    thing = importlib.import_module("gone_module").Thing()
    made.save({"epochs": {"thing": thing}})
    monkeypatch.undo()
    sys.modules.pop("gone_module")
    with pytest.raises(CheckpointError, match="gone_module"):
        catalog.state(catalog.find("newest"), "epochs", tmp_path / "incoming")


def test_a_full_disk_is_reported_and_nothing_is_left(
    made: CheckpointRun, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    checkpoints = [catalog.find("3")]
    before = sorted(made.local.iterdir())
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfileobj", full)
        with pytest.raises(CheckpointError, match="No space left on device"):
            list(catalog.verify(checkpoints))
    assert sorted(made.local.iterdir()) == before
    assert not any(verdict.damage for verdict in catalog.verify(checkpoints))
    assert sorted(made.local.iterdir()) == before


def test_no_more_than_one_checkpoint_lies_on_the_disk_at_once(
    made: CheckpointRun, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def see(size_bytes: int) -> None:
        sizes.append(sum(file.stat().st_size for file in made.local.glob("read-*/**/*.pack")))

    list(catalog.verify(catalog.checkpoints(), see=see))
    # The newest one needs two packs: its own array, and the first one's with the array that never changes.
    assert 32_000 < max(sizes) < 60_000
