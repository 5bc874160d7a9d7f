"""Python's garbage collector, kept still while many objects are made that all stay."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

__all__ = ["still", "tidy"]

_MANY = 10_000
"""Objects from which on a collection is worth its while."""


@contextlib.contextmanager
def still() -> Iterator[None]:
    """No collection meanwhile, if there would be any.

    A collection for every so many new objects looks through all of them again and finds nothing: loading 50,000 dicts
    took six times as long with it.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def tidy() -> None:
    """Look through what is new since the last time, where that is much: else the first collection afterwards does.

    It is among the old afterwards, which are looked through rarely.
    """
    if gc.get_count()[0] > _MANY:
        gc.collect(1)
