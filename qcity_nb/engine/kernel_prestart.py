"""Starts a kernel before the rest is imported: the import takes as long as the kernel's start.

The kernel only waits; no code of the notebook runs before the sidecar holds the lease and the engine sends a cell.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.utils import run_sync  # type: ignore[attr-defined]  # its own name in 7, passed on in 8

from qcity_nb.engine.kernel_process import use_channels
from qcity_nb.settings import ENV, Settings, load

__all__ = ["StartedAttempt", "environ", "kernel", "start"]


@dataclass(slots=True, eq=False)
class StartedAttempt:
    """What is known of an attempt before its run is."""

    settings: Settings
    attempt: str
    kernel: Any
    """The manager of its kernel; ``None``: nbclient starts one."""


def environ(attempt: str, mailbox: Path) -> dict[str, str]:
    """The environment variables that tell a kernel which attempt it belongs to."""
    return {ENV + "MAILBOX": str(mailbox), ENV + "ATTEMPT": attempt}


@contextmanager
def start(notebook: Path, kernel_name: str) -> Iterator[StartedAttempt]:
    """Begin an attempt that papermill executes: choose its id, and start its kernel.

    Raises:
        UsageError: the settings are not valid.
    """
    settings = load(notebook.parent if notebook.parent.is_dir() else None)
    attempt = f"papermill-{uuid.uuid4().hex[:12]}"
    with kernel(kernel_name, attempt, settings.mailbox_of(attempt)) as manager:
        yield StartedAttempt(settings, attempt, manager)


@contextmanager
def kernel(name: str, attempt: str, mailbox: Path) -> Iterator[Any]:
    """Start a kernel as nbclient would; it ends with the block, unless it has ended before.

    Returns: its manager, for nbclient; ``None`` if it cannot be started, since nbclient has the better error message.
    """
    manager = use_channels(AsyncKernelManager(kernel_name=name))
    try:
        # As nbclient: no history on disk.
        extra = ["--HistoryManager.hist_file=:memory:"] if manager.ipykernel else []
        run_sync(manager.start_kernel)(extra_arguments=extra, env={**os.environ, **environ(attempt, mailbox)})
    except (NoSuchKernel, OSError):
        yield None
        return
    try:
        yield manager
    finally:
        if manager.has_kernel:
            run_sync(manager.shutdown_kernel)(now=True)
