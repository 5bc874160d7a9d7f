"""Kinds of objects: how each can be filled in place."""

from __future__ import annotations

import array
import copyreg
import random
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

from qcity_nb.checkpoint.state.pickling import StateDict, has_state_dict

__all__ = ["SCALARS", "is_fillable", "is_plain", "kind_of"]

SCALARS = frozenset({type(None), int, float, str, bool, bytes})
"""Always used unchanged; checked first, since a state may hold a million of them."""

_DICTS = (dict, OrderedDict, defaultdict, Counter)
_FIXED = (int, float, complex, str, bytes, tuple, frozenset, range, type, BaseException)


def is_plain(value: object) -> bool:
    """Does pickle rebuild it from its attributes alone, so that they can be set on another object?"""
    cls: Any = type(value)
    if isinstance(value, (*_FIXED, types.FunctionType, types.ModuleType)) or cls in copyreg.dispatch_table:
        return False
    if cls.__reduce_ex__ is not object.__reduce_ex__ or cls.__reduce__ is not object.__reduce__:
        return False
    parameters = getattr(cls, "__dataclass_params__", None)
    if parameters is not None and parameters.frozen:
        return False
    return bool(cls.__flags__ & 1 << 9)  # Py_TPFLAGS_HEAPTYPE: a class statement made it


def kind_of(value: Any) -> str:
    """How it is filled in place; ``""`` for what is used unchanged."""
    cls = type(value)
    if cls in SCALARS:
        return ""
    if isinstance(value, StateDict):
        return "record"
    if cls in _DICTS or (isinstance(value, dict) and is_plain(value)):
        return "dict"
    if cls is list or (isinstance(value, list) and is_plain(value)):
        return "list"
    if isinstance(value, tuple) and _is_tuple(cls):
        return "tuple"
    if cls in (deque, set, bytearray, array.array):
        return cls.__name__
    torch: Any = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "Generator"):
        if isinstance(value, torch.Tensor):
            return "tensor"
        if isinstance(value, torch.Generator):
            return "torch generator"
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and hasattr(numpy, "ndarray"):
        if isinstance(value, numpy.ndarray):
            return "ndarray" if cls in (numpy.ndarray, numpy.memmap) else ""
        if "numpy.random" in sys.modules:
            if isinstance(value, numpy.random.Generator):
                return "numpy generator"
            if isinstance(value, numpy.random.RandomState):
                return "numpy randomstate"
    if cls is random.Random:
        return "random"
    return "object" if is_plain(value) else ""


def _is_tuple(cls: type) -> bool:
    return cls is tuple or hasattr(cls, "_fields")


def is_fillable(value: Any) -> bool:
    """Can ``value`` be restored in place as a top-level state?"""
    if has_state_dict(value):
        return True
    kind = kind_of(value)
    if kind == "ndarray":
        return bool(value.flags.writeable)
    return kind not in ("", "tuple", "record")
