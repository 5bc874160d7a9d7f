"""Content that only DVC can reach (HTTP, S3, …): ``dvc fetch`` in a separate process."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from qcity_nb.errors import DataError

__all__ = ["command", "fetch"]

_LOCKED = "Unable to acquire lock"
_ATTEMPTS = 8
_one_at_a_time = threading.Lock()


def command() -> list[str] | None:
    """How to call DVC here; ``None`` where it is not installed."""
    return [sys.executable, "-m", "dvc"] if importlib.util.find_spec("dvc") else None


def fetch(root: Path, target: str, *, dvc: Sequence[str], wait: Callable[[float], None] = time.sleep) -> None:
    """Bring the content of ``target`` into DVC's cache. The working files are not touched.

    Args:
        target: a tracked path, relative to ``root``.
        dvc: how to call DVC.
        wait: sleeps for so many seconds.
    Raises:
        DataError: DVC failed (its own reason is in the message), or another process kept its lock.
    Source: DVC's lock waits 3 s, then fails (treeverse/dvc #10752), so the call is repeated: 8 times, with
        0.5 s more between them each time, about 40 s in total.
    """
    # A separate process, because DVC keeps global state and has one lock per repository.
    for attempt in range(1, _ATTEMPTS + 1):
        with _one_at_a_time:
            done = subprocess.run(
                [*dvc, "fetch", "--quiet", target],
                cwd=root,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
        if done.returncode == 0:
            return
        output = (done.stderr or done.stdout).strip()
        if _LOCKED not in output:
            reason = next((line for line in output.splitlines() if line.startswith("ERROR")), output[:300])
            raise DataError(f"{target}: dvc fetch failed: {reason or f'exit code {done.returncode}'}")
        if attempt < _ATTEMPTS:
            wait(0.5 * attempt)
    raise DataError(f"{target}: another DVC command holds this repository's lock; try again when it is done")
