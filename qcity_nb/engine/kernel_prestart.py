"""A kernel that starts before the rest is imported: that import takes as long as a kernel takes to start.

The kernel only waits there; no code of the notebook runs before the engine holds the lease and sends it.
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

from qcity_nb import settings
from qcity_nb.engine.kernel_process import use_channels

__all__ = ["Start", "environ", "kernel", "start"]


@dataclass(slots=True, eq=False)
class Start:
    """What there is of an attempt before its run is known."""

    settings: settings.Settings
    attempt: str
    kernel: Any
    """The manager of its kernel; ``None``: nbclient is to start one."""


def environ(attempt: str, mailbox: Path) -> dict[str, str]:
    """What tells a kernel which attempt it belongs to."""
    return {settings.ENV + "MAILBOX": str(mailbox), settings.ENV + "ATTEMPT": attempt}


@contextmanager
def start(notebook: Path, kernel_name: str) -> Iterator[Start]:
    """Begin an attempt at a notebook that papermill executes: name it, and start its kernel.

    Raises:
        UsageError: the settings are not valid.
    """
    given = settings.load(notebook.parent if notebook.parent.is_dir() else None)
    attempt = f"papermill-{uuid.uuid4().hex[:12]}"
    with kernel(kernel_name, attempt, given.mailbox_of(attempt)) as manager:
        yield Start(given, attempt, manager)


@contextmanager
def kernel(name: str, attempt: str, mailbox: Path) -> Iterator[Any]:
    """Start a kernel as nbclient would; it is ended with the block, if nobody ended it before.

    Returns: its manager, to be given to nbclient; ``None`` if it cannot be started, which nbclient says better.
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
