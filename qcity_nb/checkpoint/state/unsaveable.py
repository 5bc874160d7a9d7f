"""Which part of a state cannot be saved, and why, as text."""

from __future__ import annotations

import io
import threading
import types
from collections.abc import Iterator
from typing import Any

from qcity_nb.checkpoint.state.pickling import Refused, StateDict, has_state_dict

__all__ = ["children", "find", "reason"]

_LIVE = (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType, types.FrameType)
_LOCKS: tuple[type, ...] = (type(threading.Lock()), type(threading.RLock()))


def children(value: object) -> Iterator[tuple[str, object]]:
    """The named parts of ``value``, each with the suffix of its path."""
    if isinstance(value, dict):
        for key, item in list(value.items()):
            yield f"[{key!r}]", item
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield f"[{index}]", item
    elif isinstance(value, StateDict):
        yield ".state_dict()", value.state
    elif has_state_dict(value):
        named: Any = value
        yield ".state_dict()", named.state_dict()
    elif not isinstance(value, type | types.FunctionType | types.ModuleType | threading.Thread | io.IOBase):
        for name, item in list(getattr(value, "__dict__", {}).items()):
            yield f".{name}", item
        for cls in type(value).__mro__:
            slots = cls.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if hasattr(value, name):
                    yield f".{name}", getattr(value, name)


def find(root: object, target: object) -> str:
    """The path of ``target`` in ``root``, starting with ``state``; ``state`` alone if it is not found."""
    seen: set[int] = set()
    stack = [("state", root)]
    while stack:
        path, value = stack.pop()
        if value is target:
            return path
        if id(value) not in seen:
            seen.add(id(value))
            stack += [(path + suffix, item) for suffix, item in children(value)]
    return "state"


def reason(value: object, error: Exception) -> str:
    """Why ``value`` cannot be saved, and what to do."""
    if isinstance(error, Refused):
        return str(error)
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    if isinstance(value, _LIVE):
        return f"a {kind} lives only in this process: keep what it was made from, and create a new one"
    if isinstance(value, _LOCKS) or kind.startswith("threading."):
        return f"a {kind} lives only in this process: create it outside of state"
    if kind.startswith("socket."):
        return "a socket lives only in this process: keep its address, and connect again"
    if isinstance(value, io.IOBase):
        return "an open file lives only in this process; keep its path and position"
    if isinstance(error, MemoryError):
        return "there is not enough memory for a copy of it"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"a {kind} cannot be pickled ({text}); leave it out of state, or give its class __getstate__"
