"""Planted faults: they break a part of this package on purpose, for tests that must fail."""

from __future__ import annotations

from typing import Any

import qcity_nb.kernel.loop as loops
from qcity_nb.kernel.session import Session

__all__ = ["NAMES", "plant"]

NAMES = ("generators", "rows")


def plant(name: str) -> None:
    """Break this process: ``generators`` come back one draw off, or ``rows`` are logged twice after a resume."""
    if name not in NAMES:
        raise ValueError(f"no such fault: {name!r}; there are {', '.join(NAMES)}")
    resume = loops._resume
    resumed = []

    def disturbed(session: Session, loop: Any, items: Any, options: Any, edit: str) -> Any:
        values = resume(session, loop, items, options, edit)
        resumed.append(loop)
        if name == "generators" and isinstance(loop.state, dict):
            for value in loop.state.values():
                if hasattr(value, "bit_generator"):
                    value.random()
        return values

    log = Session.log

    def logged(self: Session, metrics: Any, step: int | None = None) -> None:
        log(self, metrics, step)
        if name == "rows" and resumed:
            resumed.clear()
            log(self, metrics, step)

    loops._resume = disturbed
    Session.log = logged  # type: ignore[method-assign]  # breaking it is the purpose
