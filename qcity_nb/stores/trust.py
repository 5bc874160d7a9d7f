"""Who can write to a store. Without a signature, its checkpoints can be trusted only as far as these people."""

from __future__ import annotations

import stat
from pathlib import Path

from qcity_nb.ports import Store

__all__ = ["trust_problem", "who_writes"]


def who_writes(store: Store) -> str:
    """Who can put a checkpoint there, for people."""
    scheme, separator, rest = store.address.partition("://")
    if separator and scheme == "hf":
        return f"everybody who may write to the repository {rest} on the Hub"
    if separator and scheme != "file":
        return f"everybody who may write to {store.address}"
    mode = _mode(store)
    if mode & stat.S_IWOTH:
        return "everybody on this machine"
    return "you and your group on this machine" if mode & stat.S_IWGRP else "you"


def trust_problem(store: Store) -> str:
    """Why its checkpoints cannot be trusted without a signature; empty: they can."""
    scheme, separator, _ = store.address.partition("://")
    if (separator and scheme != "file") or not _mode(store) & stat.S_IWOTH:
        return ""
    return (
        f"everybody on this machine can write to {store.address}: `chmod o-w` it, "
        "or set QCITY_KEY to a secret of yours before the run begins"
    )


def _mode(store: Store) -> int:
    try:
        # The sticky bit does not help: it prevents replacing, not adding.
        return Path(store.address.removeprefix("file://")).stat().st_mode
    except OSError:
        return 0
