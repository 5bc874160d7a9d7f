"""Removes old local tiers that no attempt can resume from, so that attempts do not fill the disk."""

from __future__ import annotations

import shutil
from pathlib import Path

from qcity_nb.checkpoint.storage.local_tier import tier_path
from qcity_nb.errors import HeadCorrupt, StoreError, UnknownRun
from qcity_nb.ports import Store
from qcity_nb.run.lease import read

__all__ = ["cleanup_terms", "cleanup_runs"]

LOOKS = 8
"""How many other run records are read at most, since each is a request to a remote store."""


def cleanup_terms(local_dir: Path, run: str, *, below: int) -> list[int]:
    """Remove a run's tiers with a term below ``below``.

    Call it once a confirmed run record names a checkpoint of a later term: no attempt resumes from an older tier then.
    A superseded attempt that still computes there finds its directory gone at its next save.

    Returns: the terms whose tiers were removed.
    """
    folder = tier_path(local_dir, run, 0).parent
    old = [int(path.name) for path in folder.glob("[0-9]*") if path.name.isdigit() and int(path.name) < below]
    for term in old:
        shutil.rmtree(tier_path(local_dir, run, term), ignore_errors=True)
    return sorted(old)


def cleanup_runs(store: Store, local_dir: Path, *, but: str) -> list[str]:
    """Remove the tiers of some runs that have succeeded or failed.

    Args:
        but: the caller's own run.
    Returns: the runs whose tiers were removed.
    """
    removed = []
    folder = tier_path(local_dir, but, 0).parent.parent
    others = sorted((path for path in folder.glob("*") if path.name != but), key=lambda path: path.stat().st_mtime)
    for path in others[:LOOKS]:
        try:
            is_over = read(store, path.name).head.is_over
        except UnknownRun:
            is_over = False  # a run of another store: leave it alone
        except (HeadCorrupt, StoreError):
            continue
        if is_over:
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path.name)
    return removed
