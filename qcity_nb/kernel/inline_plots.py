"""Figures that were restored into a new kernel: they show as pictures only if the inline backend is loaded."""

from __future__ import annotations

import importlib
import sys
from typing import Any

__all__ = ["show_inline"]

_INLINE = ("inline", "module://matplotlib_inline.backend_inline")


def show_inline() -> None:
    """Load the inline backend if matplotlib is imported and uses it.

    A kernel loads it with its first new figure. If all its figures came from a snapshot, it has made none.
    """
    matplotlib: Any = sys.modules.get("matplotlib")
    if "matplotlib.pyplot" in sys.modules and str(matplotlib.rcParams._get("backend")) in _INLINE:
        importlib.import_module("matplotlib_inline.backend_inline")
