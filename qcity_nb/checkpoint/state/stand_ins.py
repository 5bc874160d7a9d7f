"""Loads a state outside its notebook, with stand-ins for the classes that only the notebook defines.

A notebook's own classes are saved by name, so that a resumed run uses their newest definition. Code that only inspects
a checkpoint does not have them: a stand-in of that name then has the attributes, and nothing else.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from qcity_nb.checkpoint.state.capture import Captured, load
from qcity_nb.errors import CheckpointError

__all__ = ["StandIn", "load_anyway"]

_CLASSES = 1000
"""The maximum number of classes in one state."""
_MISSING = re.compile(r"Can't get attribute '([^']+)' on <module ")
"""The message continues with the module's name, which is not ``__main__`` if Python was started with -m."""


class StandIn:
    """An object whose class does not exist here: its saved attributes."""

    def __new__(cls, *args: Any, **named: Any) -> StandIn:
        """Arguments of the class become attributes."""
        made = object.__new__(cls)
        if args:
            made.__dict__["args"] = args
        made.__dict__.update(named)
        return made


def load_anyway(captured: Captured) -> Any:
    """As ``capture.load``, with a ``StandIn`` for each class of ``__main__`` that is missing.

    Raises:
        CheckpointError: a module is missing, or attributes alone are not enough for an object.
    """
    with _borrow() as names:
        for _ in range(_CLASSES):
            try:
                return load(captured)
            except CheckpointError as error:
                match = _MISSING.search(str(error.__cause__))
                main = sys.modules["__main__"]
                if match is None or "." in match[1] or hasattr(main, match[1]):
                    raise
                names.append(match[1])
                made = type(match[1], (StandIn,), {"__module__": "__main__"})
                setattr(main, match[1], made)
        raise CheckpointError(f"the state needs more than {_CLASSES} classes that do not exist here")


@contextmanager
def _borrow() -> Iterator[list[str]]:
    """A list of names in ``__main__``, which are removed at the end."""
    names: list[str] = []
    try:
        yield names
    finally:
        for name in names:
            delattr(sys.modules["__main__"], name)
