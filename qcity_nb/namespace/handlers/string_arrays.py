"""Arrays of Python strings, written as one string: one buffer instead of a million objects.

Frames hold their strings in such arrays. Up to a tenth of an array may be something else (``None`` and NaN are common).
If strings repeat, equal ones are restored as one object.
"""

from __future__ import annotations

import importlib
import pickle
from typing import Any

from qcity_nb.checkpoint.buffer import Buffer

__all__ = ["pack_strings", "unpack_strings"]

_FEW = 64
"""Smaller arrays are left to pickle."""
_END = "\0"
_MANY, _EVERY, _DISTINCT = 1 << 14, 64, 0.8


def pack_strings(array: Any) -> Any:
    """The reduction of an array of strings; None for other arrays of objects."""
    if array.size < _FEW:
        return None
    order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    items = array.ravel(order).tolist()
    others: list[tuple[int, Any]] = []
    if set(map(type, items)) != {str}:
        others = [(index, item) for index, item in enumerate(items) if type(item) is not str]
        if len(others) * 10 > len(items) or not all(item is None or type(item) is float for _, item in others):
            return None
        for index, _ in others:
            items[index] = ""
    text = _END.join(items)
    if text.count(_END) != len(items) - 1:
        return None  # one of them holds the separator
    data = pickle.PickleBuffer(text.encode("utf-8", "surrogatepass"))
    return unpack_strings, (data, array.shape, order, others, bool(array.flags.writeable))


def _unite(items: list[str], numpy: Any) -> list[str]:
    """The strings, equal ones as one object if they repeat.

    A table of all takes five times as long as creating them. A sample by hash estimates how many differ: equal strings
    are in it wherever they are in the array.
    """
    if len(items) >= _MANY:
        hashes = numpy.fromiter(map(hash, items), dtype=numpy.int64, count=len(items))
        if len(numpy.unique(hashes[hashes % _EVERY == 0])) * _EVERY > _DISTINCT * len(items):
            return items
    seen: dict[str, str] = {}
    return list(map(seen.setdefault, items, items))


def unpack_strings(
    data: Buffer, shape: tuple[int, ...], order: str, others: list[tuple[int, Any]], writable: bool
) -> Any:
    """The array that ``pack_strings`` wrote."""
    numpy = importlib.import_module("numpy")
    items: list[Any] = _unite(str(data, "utf-8", "surrogatepass").split(_END), numpy)
    for index, item in others:
        items[index] = item
    flat = numpy.empty(len(items), dtype=object)
    flat[:] = items
    made = flat.reshape(shape, order=order)
    made.flags.writeable = writable
    return made
