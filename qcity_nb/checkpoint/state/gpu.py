"""Copies buffers from a GPU into the arena, through pinned memory if available."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from qcity_nb.checkpoint.memory import view_at

__all__ = ["fetch", "pin"]


def pin(address: int, size: int) -> Callable[[], object] | None:
    """Page-lock memory, so that the device copies into it at bus speed; None if that is impossible."""
    torch: Any = sys.modules["torch"]
    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    runtime = torch.cuda.cudart()
    if runtime is None or int(runtime.cudaHostRegister(address, size, 0)) != 0:
        return None
    return lambda: runtime.cudaHostUnregister(address)


def fetch(buffers: list[tuple[Any, int, int]]) -> None:
    """Copy each (torch storage, address, size) to its address; returns when all are copied.

    All copies are queued before the first is waited for, which keeps the device's copy engine busy.
    """
    torch: Any = sys.modules["torch"]
    devices = set()
    for storage, address, size in buffers:
        source = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
        target = torch.frombuffer(view_at(address, size), dtype=torch.uint8)
        target.copy_(source, non_blocking=True)
        devices.add(storage.device)
    for device in devices:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
