"""torch and jax, for tests that run without them too: what uses one that is not installed is skipped.

The reason has no ``declared:``: where the extra ``test`` is installed such a skip hides a gap.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

__all__ = ["HAS_TORCH", "REASONS", "nn", "part", "torch"]

REASONS = {"torch": "needs torch: pip install torch==2.13.0", "jax": "needs jax: pip install jax"}
HAS_TORCH = find_spec("torch") is not None


def part(name: str) -> Any:
    """The module ``name``; skips the test where it is not installed."""
    return pytest.importorskip(name, reason=REASONS.get(name.partition(".")[0]))


class _Nothing:
    """A class of torch where there is no torch: nothing is an instance of it; a test may have classes below it."""

    def __init__(self) -> None:
        pytest.skip(REASONS["torch"])


class _Absent:
    """A module of torch where there is no torch: skips the test that wants something of it, or the file."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __getattr__(self, name: str) -> Any:
        path = f"{self._path}.{name}"
        if name.startswith("_"):  # pytest, looking around
            raise AttributeError(path)
        if path in {"torch.nn", "torch.optim"}:
            return _Absent(path)
        if path in {"torch.Tensor", "torch.Generator", "torch.nn.Module", "torch.optim.Optimizer"}:
            return _Nothing
        pytest.skip(REASONS["torch"], allow_module_level=True)


if TYPE_CHECKING or HAS_TORCH:
    import torch
    from torch import nn
else:
    torch = _Absent("torch")
    nn = torch.nn
