"""Frames of pandas with copy-on-write: a frame and its column share memory until one of them is written to.

pandas tracks the sharing in objects that do not survive pickling. If both were restored over the same memory, a write
to the frame would change the column. So each gets memory of its own; the store has their content only once anyway.

Source: pandas.core.internals.blocks.Block, BlockValuesRefs; https://pandas.pydata.org/docs/user_guide/copy_on_write.html
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

__all__ = ["apart", "arrays_of", "copies_on_write", "is_block"]

_PARTS = ("_data", "_mask")
"""The arrays inside nullable number types."""


def is_block(cls: type) -> bool:
    """Is it the type of the blocks that a frame or a column consists of?"""
    if not cls.__module__.startswith("pandas."):
        return False
    return any((kind.__module__, kind.__qualname__) == ("pandas._libs.internals", "Block") for kind in cls.__mro__[:-1])


def copies_on_write() -> bool:
    """Is copy-on-write on: always from pandas 3 on, before that if the option is set?"""
    pandas: Any = sys.modules["pandas"]
    if int(pandas.__version__.partition(".")[0]) >= 3:
        return True
    return pandas.get_option("mode.copy_on_write") is True


def apart(values: Any) -> Any:
    """A block's ``values`` as a view of the same memory that shares no mutable object."""
    own = values.view()
    if own is values or hasattr(own, "_ndarray"):  # dates and categories return their own array
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
    """The numpy arrays that hold ``values``."""
    yield values
    for name in ("_ndarray", *_PARTS):
        part = getattr(values, name, None)
        if part is not None:
            yield part
