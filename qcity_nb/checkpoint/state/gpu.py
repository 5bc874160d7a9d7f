"""Buffers on a GPU: into the arena, through pinned memory where that can be had."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from qcity_nb.checkpoint.memory import view_at

__all__ = ["fetch", "pin"]


def pin(address: int, size: int) -> Callable[[], object] | None:
    """Page-lock memory, so that the device copies into it at the bus's speed; None where that cannot be done."""
    torch: Any = sys.modules["torch"]
    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    runtime = torch.cuda.cudart()
    if runtime is None or int(runtime.cudaHostRegister(address, size, 0)) != 0:
        return None
    return lambda: runtime.cudaHostUnregister(address)


def fetch(buffers: list[tuple[Any, int, int]]) -> None:
    """Copy (torch storage, address, size) each to its address; returns when all are there.

    All copies are queued before the first is waited for: the device's copy engine is kept busy.
    """
    torch: Any = sys.modules["torch"]
    devices = set()
    for storage, address, size in buffers:
        source = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
        target = torch.frombuffer(view_at(address, size), dtype=torch.uint8)
        target.copy_(source, non_blocking=True)
        devices.add(storage.device)
    for one in devices:
        if one.type == "cuda":
            torch.cuda.synchronize(one)
