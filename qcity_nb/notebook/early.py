"""A kernel started before papermill is imported: that import takes longer than a kernel does.

The kernel only waits there; no code of the notebook runs before the engine holds the lease and sends it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.utils import run_sync  # type: ignore[attr-defined]  # its own name in 7, passed on in 8

from qcity_nb import settings
from qcity_nb.agent import Config

__all__ = ["environ", "kernel"]


def environ(config: Config) -> dict[str, str]:
    """What tells a kernel which attempt it belongs to."""
    return {settings.ENV + "DESK": config.desk, settings.ENV + "ATTEMPT": config.attempt}


@contextmanager
def kernel(name: str, config: Config) -> Iterator[Any]:
    """Start a kernel as nbclient would; it is ended with the block, if nobody ended it before.

    Returns: its manager, to be given to nbclient; ``None`` if there is no kernel of that name, which papermill says
        better.
    """
    manager = AsyncKernelManager(kernel_name=name)
    try:
        # As nbclient: no history on disk.
        extra = ["--HistoryManager.hist_file=:memory:"] if manager.ipykernel else []
        run_sync(manager.start_kernel)(extra_arguments=extra, env={**os.environ, **environ(config)})
    except NoSuchKernel:
        yield None
        return
    try:
        yield manager
    finally:
        if manager.has_kernel:
            run_sync(manager.shutdown_kernel)(now=True)
