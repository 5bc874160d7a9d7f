"""The global random generators of Python, numpy and torch."""

from __future__ import annotations

import importlib
import random
import sys
from typing import Any

__all__ = ["put", "states"]


def states() -> dict[str, Any]:
    """The states of the generators of imported libraries."""
    found: dict[str, Any] = {"random": random.getstate()}
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and "numpy.random" in sys.modules:
        found["numpy"] = numpy.random.get_state(legacy=False)
    torch: Any = sys.modules.get("torch")
    if hasattr(torch, "get_rng_state"):
        found["torch"] = torch.get_rng_state()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            found["torch.cuda"] = torch.cuda.get_rng_state_all()
    return found


def put(found: dict[str, Any]) -> None:
    """Set the generators to these states; on a host with fewer GPUs the other states are ignored."""
    random.setstate(found["random"])
    if "numpy" in found:
        importlib.import_module("numpy.random").set_state(found["numpy"])
    if "torch" in found:
        torch = importlib.import_module("torch")
        torch.set_rng_state(found["torch"])
        if "torch.cuda" in found and torch.cuda.is_available():
            for index, state in enumerate(found["torch.cuda"][: torch.cuda.device_count()]):
                torch.cuda.set_rng_state(state, index)
