"""Removes old local tiers that no attempt can resume from, so that attempts do not fill the disk."""

from __future__ import annotations

import shutil
from pathlib import Path

from qcity_nb.checkpoint.storage.tier_folders import list_tiers, run_folder, runs_folder, split_name, unused_tiers
from qcity_nb.errors import HeadCorrupt, StoreError, UnknownRun
from qcity_nb.ports import Store
from qcity_nb.records import Head
from qcity_nb.run.lease import read

__all__ = ["cleanup_terms", "cleanup_runs"]

LOOKS = 8
"""How many other run records are read at most, since each is a request to a remote store."""


def cleanup_terms(local_dir: Path, head: Head, *, below: int) -> list[int]:
    """Remove a run's tiers with a term below ``below``.

    Call it once a confirmed run record names a checkpoint of a later term: no attempt resumes from an older tier then.
    A superseded attempt that still computes there finds its directory gone at its next save.

    Returns: the terms whose tiers were removed.
    """
    old = [tier for tier in list_tiers(local_dir, head.run, head.id) if tier.term < below]
    for path in (*(tier.path for tier in old), *unused_tiers(local_dir, head.run, head.id)):
        shutil.rmtree(path, ignore_errors=True)
    return sorted({tier.term for tier in old})


def cleanup_runs(store: Store, local_dir: Path, *, but: Head) -> list[str]:
    """Remove the tiers of some runs that have succeeded or failed.

    Args:
        but: the caller's own run.
    Returns: the runs whose tiers were removed.
    """
    removed = []
    own = run_folder(local_dir, but.run, but.id)
    others = sorted((path for path in runs_folder(local_dir).glob("*") if path != own), key=lambda p: p.stat().st_mtime)
    for path in others[:LOOKS]:
        run, run_id = split_name(path.name)
        try:
            head = read(store, run).head
        except UnknownRun:
            head = None
        except (HeadCorrupt, StoreError):
            continue
        if head is None or head.id != run_id:
            path.touch()  # a run of another store: leave it alone, and look at others first the next time
        elif head.is_over:
            shutil.rmtree(path, ignore_errors=True)
            removed.append(run)
    return removed
