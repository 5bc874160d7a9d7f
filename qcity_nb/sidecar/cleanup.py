"""Old local tiers: removed once nobody can go on from them, so that attempts do not fill the disk."""

from __future__ import annotations

import shutil
from pathlib import Path

from qcity_nb.checkpoint.storage.local_tier import tier_path
from qcity_nb.errors import HeadCorrupt, StoreError, UnknownRun
from qcity_nb.ports import Store
from qcity_nb.run.lease import read

__all__ = ["cleanup_terms", "cleanup_runs"]

LOOKS = 8
"""How many other runs' heads are read at most: a remote store charges for each."""


def cleanup_terms(local_dir: Path, run: str, *, below: int) -> list[int]:
    """Remove the tiers of a run's epochs under ``below``.

    Call it once a confirmed head names a checkpoint of a later epoch: nothing older is ever adopted again.
    A superseded attempt that still computes there finds its directory gone at its next save.

    Returns: the epochs removed.
    """
    folder = tier_path(local_dir, run, 0).parent
    old = [int(path.name) for path in folder.glob("[0-9]*") if path.name.isdigit() and int(path.name) < below]
    for term in old:
        shutil.rmtree(tier_path(local_dir, run, term), ignore_errors=True)
    return sorted(old)


def cleanup_runs(store: Store, local_dir: Path, *, but: str) -> list[str]:
    """Remove the tiers of runs that have succeeded or failed; a few at a time.

    Args:
        but: the run of the caller.
    Returns: the runs whose tiers were removed.
    """
    removed = []
    folder = tier_path(local_dir, but, 0).parent.parent
    others = sorted((path for path in folder.glob("*") if path.name != but), key=lambda path: path.stat().st_mtime)
    for path in others[:LOOKS]:
        try:
            is_over = read(store, path.name).head.is_over
        except UnknownRun:
            is_over = False  # another store's run: none of our business
        except (HeadCorrupt, StoreError):
            continue
        if is_over:
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path.name)
    return removed
