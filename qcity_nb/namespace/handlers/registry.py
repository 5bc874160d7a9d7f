"""Handlers for objects that pickle cannot save, or would save wrongly, by the names of their types.

Each family is a module with a table ``HANDLERS``. A handler gets the object and returns what ``__reduce__`` would, or
raises ``Lost``; None instead of a handler leaves the object to pickle. A name covers subclasses too, unless a subclass
defines how it is pickled. Names are used because they need no import.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qcity_nb.namespace.handlers import files, own_savers, process_bound, recreated

__all__ = ["HANDLERS", "Handler", "handler_of"]

Handler = Callable[[Any], Any]

HANDLERS: dict[str, Handler | None] = {
    **process_bound.HANDLERS,
    **recreated.HANDLERS,
    **files.HANDLERS,
    **own_savers.HANDLERS,
}

_OWN_WAYS = ("__reduce__", "__reduce_ex__", "__getstate__")


def handler_of(cls: type) -> Handler | None:
    """The handler that saves objects of that type; None: pickle does."""
    for kind in cls.__mro__[:-1]:
        name = f"{kind.__module__}.{kind.__qualname__}"
        if name in HANDLERS:
            return HANDLERS[name]
        if kind.__module__ == "__main__" and any(way in kind.__dict__ for way in _OWN_WAYS):
            return None
    return None
