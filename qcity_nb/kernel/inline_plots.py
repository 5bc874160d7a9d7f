"""Figures in a kernel that has come back: they show as pictures only once the inline backend is there."""

from __future__ import annotations

import importlib
import sys
from typing import Any

__all__ = ["show_inline"]

_INLINE = ("inline", "module://matplotlib_inline.backend_inline")


def show_inline() -> None:
    """Load the inline backend if matplotlib is here and draws with it.

    A kernel loads it with its first figure; one whose figures came out of a snapshot has made none.
    """
    matplotlib: Any = sys.modules.get("matplotlib")
    if "matplotlib.pyplot" in sys.modules and str(matplotlib.rcParams._get("backend")) in _INLINE:
        importlib.import_module("matplotlib_inline.backend_inline")
