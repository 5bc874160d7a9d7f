"""Frames of pandas that copy on write: a frame and a column of it share memory until one of them is written to.

pandas notes who shares in objects that do not survive pickling. Restored over one memory, a write to the frame would
show in the column, which it must not. So each gets memory of its own; in the store their content is there once anyway.

Source: pandas.core.internals.blocks.Block, BlockValuesRefs; https://pandas.pydata.org/docs/user_guide/copy_on_write.html
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

__all__ = ["apart", "arrays_of", "copies_on_write", "is_block"]

_PARTS = ("_data", "_mask")
"""Of nullable numbers."""


def is_block(cls: type) -> bool:
    """Is it the type of the pieces that a frame or a column consists of?"""
    if not cls.__module__.startswith("pandas."):
        return False
    return any((kind.__module__, kind.__qualname__) == ("pandas._libs.internals", "Block") for kind in cls.__mro__[:-1])


def copies_on_write() -> bool:
    """Does pandas do so: always from version 3 on, and before where it was asked to?"""
    pandas: Any = sys.modules["pandas"]
    if int(pandas.__version__.partition(".")[0]) >= 3:
        return True
    return pandas.get_option("mode.copy_on_write") is True


def apart(values: Any) -> Any:
    """A block's ``values`` once more, over the same memory, with no object in common that could be written to."""
    own = values.view()
    if own is values or hasattr(own, "_ndarray"):  # dates and categories hand on their own array
        backing: Any = values._ndarray
        return values._from_backing_data(backing.view())
    numpy: Any = sys.modules["numpy"]
    for name in _PARTS:
        part: Any = getattr(own, name, None)
        if type(part) is numpy.ndarray and part is getattr(values, name, None):
            array: Any = part
            setattr(own, name, array.view())
    return own


def arrays_of(values: Any) -> Iterator[Any]:
    """The numpy arrays that ``values`` lie in."""
    yield values
    for name in ("_ndarray", *_PARTS):
        part = getattr(values, name, None)
        if part is not None:
            yield part
