"""Loading a state outside its notebook: classes that only the notebook defines get stand-ins.

A notebook's own classes are saved by name, so that a resumed run has their newest definition. Whoever only looks at
a checkpoint has none: a stand-in of that name then holds the attributes, and nothing else.
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
"""A bound on the classes of one state."""
_MISSING = re.compile(r"Can't get attribute '([^']+)' on <module ")
"""The module's own name follows: what Python runs with -m is ``__main__`` and shows another one."""


class StandIn:
    """An object of a class that is not here: its attributes, as they were saved."""

    def __new__(cls, *args: Any, **named: Any) -> StandIn:
        """Whatever its class was made from becomes attributes."""
        made = object.__new__(cls)
        if args:
            made.__dict__["args"] = args
        made.__dict__.update(named)
        return made


def load_anyway(captured: Captured) -> Any:
    """As ``capture.load``, with a ``StandIn`` for each class of ``__main__`` that is missing.

    Raises:
        CheckpointError: a module is missing, or an object cannot do with attributes alone.
    """
    with _borrow() as names:
        for _ in range(_CLASSES):
            try:
                return load(captured)
            except CheckpointError as error:
                found = _MISSING.search(str(error.__cause__))
                main = sys.modules["__main__"]
                if found is None or "." in found[1] or hasattr(main, found[1]):
                    raise
                names.append(found[1])
                made = type(found[1], (StandIn,), {"__module__": "__main__"})
                setattr(main, found[1], made)
        raise CheckpointError(f"the state needs more than {_CLASSES} classes that are not here")


@contextmanager
def _borrow() -> Iterator[list[str]]:
    """Names that are put into ``__main__`` meanwhile."""
    names: list[str] = []
    try:
        yield names
    finally:
        for name in names:
            delattr(sys.modules["__main__"], name)
