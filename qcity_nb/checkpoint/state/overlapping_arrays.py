"""Numpy arrays that share memory."""

from __future__ import annotations

import ctypes
from typing import Any

__all__ = ["memory_bounds", "overlaps", "owner"]


def owner(numpy: Any, array: Any) -> Any:
    """The array that owns the memory; None if numpy does not own it."""
    while not array.flags.owndata:
        array = array.base
        if not isinstance(array, numpy.ndarray):
            return None
    return array


def memory_bounds(array: Any) -> tuple[int, int]:
    """The first address of a numpy array, and the one after the last."""
    low = high = array.__array_interface__["data"][0]
    for count, stride in zip(array.shape, array.strides, strict=True):
        if stride < 0:
            low += (count - 1) * stride
        else:
            high += (count - 1) * stride
    return low, high + array.itemsize


def overlaps(numpy: Any, arrays: dict[int, tuple[int, int, Any, Any]]) -> dict[int, tuple[Any, int, Any]]:
    """For arrays of the state that share memory, by key: the common bytes, their address, the array."""
    shared: dict[int, tuple[Any, int, Any]] = {}
    cluster: list[tuple[int, int, int]] = []

    def close() -> None:
        if len(cluster) > 1:
            low, high = cluster[0][0], max(item[1] for item in cluster)
            memory = (ctypes.c_char * (high - low)).from_address(low)
            flat = numpy.frombuffer(memory, dtype=numpy.uint8)
            for _, _, key in cluster:
                shared[key] = (flat, low, arrays[key][3])
        cluster.clear()

    end = 0
    for low, high, key in sorted((low, high, key) for key, (low, high, _, _) in arrays.items()):
        if low >= end:
            close()
        cluster.append((low, high, key))
        end = max(end, high)
    close()
    return shared
