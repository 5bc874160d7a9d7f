"""Old local tiers are removed, and only those from which no attempt can resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from qcity_nb.checkpoint.storage.tier_folders import tier_path
from qcity_nb.records import Head, RunState
from qcity_nb.run.lease import amend, create
from qcity_nb.sidecar.cleanup import cleanup_runs, cleanup_terms
from qcity_nb.stores.memory import MemoryStore


def tier(local: Path, run: str, term: int, run_id: str = "") -> Path:
    path = tier_path(local, run, term, run_id=run_id, attempt=f"{run}-a" if run_id else "")
    path.mkdir(parents=True)
    (path / "pack").write_bytes(b"x")
    return path


def test_terms_below_go(tmp_path: Path) -> None:
    head = Head(run="run-1", id="0123456789abcdef", key="k", project="p", notebook="n.ipynb")
    paths = {term: tier(tmp_path, "run-1", term, head.id) for term in (1, 2, 9, 10)}
    assert cleanup_terms(tmp_path, head, below=9) == [1, 2]
    assert [term for term, path in paths.items() if path.exists()] == [9, 10]


def test_only_runs_that_are_over_go(tmp_path: Path) -> None:
    store = MemoryStore()
    states: dict[str, RunState] = {"won": "succeeded", "lost": "failed", "held": "stopped", "goes": "running"}
    for run, state in states.items():
        head = create(store, Head(run=run, key=run, project="p", notebook="n.ipynb"))
        amend(store, run, lambda head, state=state: replace(head, state=state))  # type: ignore[misc]  # a loop's lambda
        tier(tmp_path, run, 1, head.id)
    tier(tmp_path, "elsewhere", 1, "0123456789abcdef")
    tier(tmp_path, "won", 1, "0123456789abcdef")  # another store's run of the same name
    assert head.run == "goes"
    assert sorted(cleanup_runs(store, tmp_path, but=head)) == ["lost", "won"]
    left = sorted(path.name.partition(".")[0] for path in (tmp_path / "runs").iterdir())
    assert left == ["elsewhere", "goes", "held", "won"]
