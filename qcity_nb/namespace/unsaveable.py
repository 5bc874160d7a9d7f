"""Which part of a variable cannot be saved, and why, as text."""

from __future__ import annotations

import functools
import pickle
import types
from collections import deque
from collections.abc import Iterator
from typing import Any

from qcity_nb.checkpoint.state.kinds import SCALARS
from qcity_nb.checkpoint.state.pickling import Refused
from qcity_nb.namespace.handlers.not_saved import Lost
from qcity_nb.namespace.records import NotSaved
from qcity_nb.namespace.unpickle_functions import is_full

__all__ = ["describe_not_saved", "describe_load_failure", "kind_name", "path_to"]

_LOOK_AT = 200_000
"""Objects that are searched for a path: a variable may hold millions."""


def kind_name(value: object) -> str:
    """The qualified name of its type."""
    cls = type(value)
    return f"{cls.__module__}.{cls.__qualname__}".removeprefix("builtins.").removeprefix("__main__.")


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    """Its parts, each with the suffix of its path."""
    cls = type(value)
    if issubclass(cls, dict):
        for key, item in list(dict.items(value)):
            yield f"[{_short(key)}]", item
    elif issubclass(cls, list | tuple | deque):
        for index, item in enumerate(list(value)):
            yield f"[{index}]", item
    elif issubclass(cls, set | frozenset):
        for item in list(value):
            yield " (an element)", item
    elif cls is types.FunctionType:
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=False):
            yield f" (its {name})", cell.cell_contents if is_full(cell) else None
        for item in value.__defaults__ or ():
            yield " (a default)", item
    elif cls is types.MethodType:
        yield ".__self__", value.__self__
    elif cls is functools.partial:
        yield ".args", value.args
        yield ".keywords", value.keywords
    if cls is not types.ModuleType:
        own = object.__getattribute__(value, "__dict__") if hasattr(cls, "__dict__") and _has_dict(value) else {}
        for name, item in list(own.items()):
            yield f".{name}", item
    for kind in cls.__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else tuple(slots):
            item = getattr(value, name, SCALARS)
            if item is not SCALARS:
                yield f".{name}", item


def _has_dict(value: Any) -> bool:
    try:
        return isinstance(object.__getattribute__(value, "__dict__"), dict)
    except AttributeError:
        return False


def _short(key: object) -> str:
    if type(key) not in SCALARS and type(key) is not tuple:
        return f"a {kind_name(key)}"
    text = repr(key)
    return text if len(text) <= 60 else f"{text[:57]}…"


def path_to(name: str, root: object, target: object) -> str:
    """The path to ``target`` from the variable ``name``; the name alone if no path is found."""
    seen: set[int] = set()
    line: deque[tuple[str, object]] = deque([(name, root)])
    while line and len(seen) < _LOOK_AT:
        path, value = line.popleft()
        if value is target:
            return path
        if type(value) in SCALARS or id(value) in seen:
            continue
        seen.add(id(value))
        try:
            line.extend((path + suffix, item) for suffix, item in _children(value))
        except Exception:  # noqa: BLE001, S112 - slots and iterators may run any code; try other paths
            continue
    return name


def describe_not_saved(name: str, value: object, error: BaseException, visited: object) -> NotSaved:
    """The record of a variable that could not be pickled.

    Args:
        met: the object that the pickler visited last.
    """
    why, advice = _reason(error, visited)
    path = path_to(name, value, visited)
    if path != name:
        why = f"{path}: {why}"
    return NotSaved(name=name, kind=kind_name(value), why=why, advice=advice)


def _reason(error: BaseException, visited: object) -> tuple[str, str]:
    if isinstance(error, Lost):
        return error.why, error.advice
    text = _first_line(error)
    if isinstance(error, Refused):
        why, _, advice = text.replace("; ", ": ").partition(": ")
        return why, advice
    if isinstance(error, MemoryError):
        return "there is not enough memory for a copy of it", "free some memory"
    if isinstance(error, RecursionError) or "deep recursion" in text:
        return "it is nested too deeply", "raise sys.setrecursionlimit, or keep it flat"
    if isinstance(visited, pickle.Pickler):
        return f"it cannot be pickled ({text})", "re-run its cell"
    return f"a {kind_name(visited)} cannot be pickled ({text})", "re-run its cell, or give its class __getstate__"


def _first_line(error: BaseException) -> str:
    try:
        lines = str(error).splitlines()
    except Exception:  # noqa: BLE001 - an error of any class
        lines = []
    return lines[0][:300] if lines else type(error).__name__


def describe_load_failure(name: str, error: BaseException | None) -> NotSaved:
    """The record of a variable whose group could not be loaded."""
    if isinstance(error, Lost):
        why, advice = error.why, error.advice
    elif isinstance(error, ModuleNotFoundError) and error.name:
        root = error.name.partition(".")[0]
        why, advice = f"it needs the module {error.name}, which is not installed here", f"%pip install {root}"
    else:
        text = _first_line(error) if error is not None else ""
        why = f"it could not be loaded ({text})"
        advice = "re-run its cell; the library that made it may have another version here"
    return NotSaved(name=name, kind="object", why=why, advice=advice)
