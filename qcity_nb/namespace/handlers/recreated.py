"""Locks, what is built on them, and caches: re-created, unlocked and empty. The content of queues is kept."""

from __future__ import annotations

import functools
import importlib
import threading
import typing
import weakref
from typing import Any

from qcity_nb.checkpoint.state.pickling import is_importable

__all__ = ["HANDLERS", "WORDS", "cached_function", "lock", "new_type", "simple_queue"]


def lock() -> Any:
    """A new, unlocked lock."""
    return threading.Lock()


def _lock(value: Any) -> Any:
    return lock, ()


def _rlock(value: Any) -> Any:
    return threading.RLock, ()


def _condition(value: threading.Condition) -> Any:
    return threading.Condition, (value._lock,)  # type: ignore[attr-defined]  # queues share one lock among three


def _barrier(value: threading.Barrier) -> Any:
    return threading.Barrier, (value.parties, value._action, value._timeout)  # type: ignore[attr-defined]


def simple_queue(items: list[Any]) -> Any:
    """A ``queue.SimpleQueue`` with that content."""
    made = importlib.import_module("queue").SimpleQueue()
    for item in items:
        made.put(item)
    return made


def _simple_queue(value: Any) -> Any:
    items = []
    for _ in range(value.qsize()):  # reading removes an item: put it back at the end at once
        item = value.get_nowait()
        value.put(item)
        items.append(item)
    return simple_queue, (items,)


def cached_function(function: Any, parameters: dict[str, Any]) -> Any:
    """A function under ``functools.lru_cache``, its cache empty."""
    return functools.lru_cache(**parameters)(function)


def _cached(value: Any) -> Any:
    if value.__module__ != "__main__" and is_importable(value):
        return NotImplemented
    attributes = {key: item for key, item in vars(value).items() if key not in ("__wrapped__", "cache_parameters")}
    return cached_function, (value.__wrapped__, value.cache_parameters()), attributes


def new_type(name: str, of: Any, module: str) -> Any:
    """A ``typing.NewType``."""
    make: Any = typing.NewType
    made = make(name, of)
    made.__module__ = module
    return made


def _new_type(value: Any) -> Any:
    if value.__module__ != "__main__" and is_importable(value):
        return NotImplemented
    return new_type, (value.__name__, value.__supertype__, value.__module__)


def _weak_map(value: Any) -> Any:
    kind = weakref.WeakKeyDictionary if isinstance(value, weakref.WeakKeyDictionary) else weakref.WeakValueDictionary
    return kind, (dict(value),)


HANDLERS: dict[str, Any] = {
    "_thread.lock": _lock,
    "_thread.RLock": _rlock,
    "threading.Condition": _condition,
    "threading.Barrier": _barrier,
    "_queue.SimpleQueue": _simple_queue,
    "functools._lru_cache_wrapper": _cached,
    "typing.NewType": _new_type,
    "weakref.WeakKeyDictionary": _weak_map,
    "weakref.WeakValueDictionary": _weak_map,
}
"""Events, semaphores and queues are Python objects built on these: pickle writes them."""

WORDS: dict[Any, str] = {_lock: "lock", _rlock: "lock", _condition: "condition", _barrier: "barrier", _cached: "cache"}
"""What is re-created instead of restored, by its handler. The content of queues and weak mappings is restored."""
