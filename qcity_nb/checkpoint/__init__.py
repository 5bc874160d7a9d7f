"""From live objects to named buffers to packs, and back. Works without a run: ``save``, ``load``, ``Checkpointer``.

May import: root. Imported by: namespace, published, sidecar, kernel, interactive, cli.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qcity_nb.checkpoint.checkpointer import Checkpointer, load, save

__all__ = ["Checkpointer", "load", "save"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    # Lazy: other modules of this package are imported without the engine.
    if name in __all__:
        return getattr(importlib.import_module("qcity_nb.checkpoint.checkpointer"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
