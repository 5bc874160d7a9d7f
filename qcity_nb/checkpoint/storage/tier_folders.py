"""Where local tiers lie: one directory for each attempt, which no other attempt ever writes to.

    <local_dir>/runs/<run>.<id>/<term>-<attempt>/

The run's id is random and unique forever, so runs that have the same name (of two stores, or after the store was
removed) have nothing in common here. The same term may be taken twice if a store is put back from a backup; the
attempt's name then differs. Run records of older versions have no id: their directories are ``runs/<run>/<term>``.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "TierFolder",
    "list_tiers",
    "run_folder",
    "runs_folder",
    "set_aside",
    "split_name",
    "tier_path",
    "unused_tiers",
]

_TIER = re.compile(r"(\d+)(?:-(.+))?")
_ASIDE = "unused-"


@dataclass(frozen=True, slots=True, kw_only=True)
class TierFolder:
    """One local tier's directory."""

    path: Path
    term: int
    attempt: str
    """The attempt's id; empty: an older version made it."""


def runs_folder(local_dir: Path) -> Path:
    """Where all runs' tiers lie."""
    return local_dir / "runs"


def run_folder(local_dir: Path, run: str, run_id: str) -> Path:
    """Where a run's tiers lie."""
    return runs_folder(local_dir) / (f"{run}.{run_id}" if run_id else run)


def split_name(name: str) -> tuple[str, str]:
    """The run and its id, from the name of a directory as ``run_folder`` makes it."""
    match = re.fullmatch(r"(.+)\.([0-9a-f]{16,})", name)
    return (match[1], match[2]) if match else (name, "")


def tier_path(local_dir: Path, run: str, term: int, *, run_id: str = "", attempt: str = "") -> Path:
    """The directory of one attempt's tier."""
    short = attempt.removeprefix(f"{run}-")
    return run_folder(local_dir, run, run_id) / (f"{term}-{short}" if short else str(term))


def list_tiers(local_dir: Path, run: str, run_id: str) -> list[TierFolder]:
    """The run's tiers on this disk, the newest term first."""
    tiers = []
    for path in run_folder(local_dir, run, run_id).glob("[0-9]*"):
        match = _TIER.fullmatch(path.name)
        if match is not None:
            attempt = match[2] or ""
            tiers.append(TierFolder(path=path, term=int(match[1]), attempt=attempt))
    return sorted(tiers, key=lambda tier: (-tier.term, tier.attempt))


def unused_tiers(local_dir: Path, run: str, run_id: str) -> list[Path]:
    """The directories that were set aside."""
    return list(run_folder(local_dir, run, run_id).glob(f"{_ASIDE}*"))


def set_aside(path: Path) -> Path | None:
    """Give a directory that is in the way a name under which no attempt looks for a tier; its new path, if any."""
    try:
        return path.rename(path.with_name(f"{_ASIDE}{path.name}-{uuid.uuid4().hex[:8]}"))
    except FileNotFoundError:
        return None
