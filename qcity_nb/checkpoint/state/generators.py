"""The global random generators of Python, numpy and torch."""

from __future__ import annotations

import importlib
import random
import sys
from typing import Any

__all__ = ["put", "states"]


def states() -> dict[str, Any]:
    """The states of the generators of imported libraries."""
    result: dict[str, Any] = {"random": random.getstate()}
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and "numpy.random" in sys.modules:
        result["numpy"] = numpy.random.get_state(legacy=False)
    torch: Any = sys.modules.get("torch")
    if hasattr(torch, "get_rng_state"):
        result["torch"] = torch.get_rng_state()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            result["torch.cuda"] = torch.cuda.get_rng_state_all()
    return result


def put(saved: dict[str, Any]) -> None:
    """Set the generators to these states; on a host with fewer GPUs the other states are ignored."""
    random.setstate(saved["random"])
    if "numpy" in saved:
        importlib.import_module("numpy.random").set_state(saved["numpy"])
    if "torch" in saved:
        torch = importlib.import_module("torch")
        torch.set_rng_state(saved["torch"])
        if "torch.cuda" in saved and torch.cuda.is_available():
            for index, state in enumerate(saved["torch.cuda"][: torch.cuda.device_count()]):
                torch.cuda.set_rng_state(state, index)
