"""Live objects as far as `state` is concerned: of what kind they are, what a state saves, whether one has changed.

Looks at types, attributes and a few elements only. Calls no code of the user's but what his classes inherit.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import io
import itertools
import logging
import random
import sys
import types
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Literal

__all__ = [
    "MISSING",
    "Kind",
    "Saved",
    "attributes",
    "contains_others",
    "fingerprint",
    "holds_stream",
    "in_place",
    "is_own",
    "kind_of",
    "parameter_ids",
    "saves_attributes",
]

MISSING = object()

Kind = Literal[
    "scalar", "container", "array", "module", "optimizer", "scheduler", "scaler", "generator", "estimator", "iterator",
    "own", "other",
]  # fmt: skip

_TIMES = (datetime.date, datetime.time, datetime.timedelta)
_SCALARS = (bool, int, float, complex, str, bytes, type(None), tuple, frozenset, *_TIMES)
_NEVER = (type, types.ModuleType, types.FunctionType, types.MethodType)
_CONTAINERS = (list, dict, set, deque, bytearray)
MOST_NODES = 20_000
"""So many objects of a state are looked at; with more nothing is claimed to be missing from it."""
_SAMPLED = 64


def _types(module: str, *names: str) -> tuple[type, ...]:
    """Classes of a library, if it is imported."""
    for path in names:
        value: Any = sys.modules.get(module)
        for name in path.split("."):
            value = vars(value).get(name) if isinstance(value, types.ModuleType) else None
        if isinstance(value, type):
            return (value,)
    return ()


def kind_of(value: object) -> Kind:
    """What kind of object it is; "other" is what never belongs into a state, or is not known."""
    cls: Any = type(value)
    return _kind_of(cls, "torch" in sys.modules)


@functools.lru_cache(maxsize=2048)
def _kind_of(cls: type, has_torch: bool) -> Kind:
    if issubclass(cls, _SCALARS):
        return "scalar"
    if issubclass(cls, _NEVER) or cls.__module__.startswith("qcity_nb."):
        return "other"
    classes: list[tuple[Kind, tuple[type, ...]]] = [
        ("array", _types("torch", "Tensor") + _types("numpy", "ndarray")),
        ("module", _types("torch", "nn.Module")),
        ("optimizer", _types("torch", "optim.Optimizer")),
        ("scheduler", _types("torch", "optim.lr_scheduler.LRScheduler")),
        ("scaler", _types("torch", "amp.GradScaler", "cuda.amp.GradScaler")),
        ("generator", (random.Random, *_types("torch", "Generator"))),
        ("generator", _types("numpy", "random.Generator") + _types("numpy", "random.RandomState")),
    ]
    for kind, its in classes:
        if issubclass(cls, its):
            return kind
    if issubclass(cls, _CONTAINERS) and not is_own(cls):
        return "container"
    if _is_array(cls):
        return "array"
    if hasattr(cls, "__next__"):
        return "iterator" if not hasattr(cls, "write") else "other"
    if hasattr(cls, "partial_fit") or hasattr(cls, "learn_one"):
        return "estimator"
    return "own" if is_own(cls) else "other"


def _is_array(cls: type) -> bool:
    is_frame = cls.__module__.partition(".")[0] in ("pandas", "polars")
    return hasattr(cls, "shape") and (is_frame or hasattr(cls, "dtype"))


def is_own(cls: type) -> bool:
    """Did the user write the class: in the notebook, or in a file that is no installed package?"""
    name = cls.__module__
    if name == "__main__":
        return True
    package = name.partition(".")[0]
    if package in sys.stdlib_module_names or package == "qcity_nb":
        return False
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    return bool(file) and "site-packages" not in file and "dist-packages" not in file


def attributes(value: object) -> dict[str, Any]:
    """The attributes of one object, properties left out."""
    values = dict(getattr(value, "__dict__", None) or {})
    for cls in type(value).__mro__:
        slots: Any = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else tuple(slots):
            with contextlib.suppress(AttributeError):
                values.setdefault(name, object.__getattribute__(value, name))
    return values


def holds_stream(value: object) -> bool:
    """Does the object have an open file, or a logger, to write to?"""
    return any(isinstance(each, io.IOBase | logging.Logger) for each in attributes(value).values())


def contains_others(value: object) -> bool:
    """Is it a container, or an array, of objects that no state saves, such as the axes of a figure?"""
    with contextlib.suppress(Exception):
        items: Any = value.values() if isinstance(value, Mapping) else getattr(value, "flat", value)
        kinds = {kind_of(item) for item in itertools.islice(items, _SAMPLED)}
        return kinds == {"other"}
    return False


def saves_attributes(value: object) -> bool:
    """Are all attributes of the object saved with it? A module saves its parameters and buffers alone."""
    if kind_of(value) != "module":
        return True
    own = [vars(cls) for cls in type(value).__mro__ if is_own(cls)]
    return any("get_extra_state" in names or "state_dict" in names for names in own)


def parameter_ids(value: Any) -> set[int]:
    """The parameters of a module, or those that an optimizer steps over."""
    with contextlib.suppress(Exception):
        if kind_of(value) == "module":
            return {id(each) for each in value.parameters()}
        return {id(each) for group in value.param_groups for each in group["params"]}
    return set()


class Saved:
    """What a state saves: the objects that are reached from it, by identity."""

    def __init__(self, state: object) -> None:
        self.ids: set[int] = set()
        self.is_complete = True
        """All of the state was looked at: what is not here is not in it."""
        self.optimizers: list[Any] = []
        self._memory: set[int] = set()
        self._keep: list[object] = []  # whose ids these are
        self._walk(state)

    def _walk(self, state: object) -> None:
        stack = [state]
        while stack:
            value = stack.pop()
            if isinstance(value, bool | int | float | str | bytes | type(None)) or id(value) in self.ids:
                continue
            if len(self.ids) > MOST_NODES:
                self.is_complete = False
                return
            self.ids.add(id(value))
            self._keep.append(value)
            with contextlib.suppress(Exception):
                stack += self._parts(value)

    def _parts(self, value: Any) -> Iterable[Any]:
        if isinstance(value, dict):
            return list(value.values())
        if isinstance(value, list | tuple | set | frozenset | deque):
            return list(value)
        match kind_of(value):
            case "module":
                return [*value.children(), *value.parameters(recurse=False), *value.buffers(recurse=False)]
            case "optimizer":
                self.optimizers.append(value)
                return [getattr(value, "optimizer", None)]
            case "array":
                self._memory.add(_memory_of(value))
                return []
            case "scheduler" | "scaler" | "generator" | "scalar":
                return []
        if isinstance(value, type | types.ModuleType | types.FunctionType | types.MethodType):
            return []
        return list(attributes(value).values())

    def has(self, value: object) -> bool:
        """Is the object itself saved, or a view of what is?"""
        if id(value) in self.ids:
            return True
        base = getattr(value, "base", None) if kind_of(value) == "array" else None
        while base is not None:
            if id(base) in self.ids:
                return True
            base = getattr(base, "base", None)
        return kind_of(value) == "array" and (memory := _memory_of(value)) != 0 and memory in self._memory

    def has_all_parameters(self, module: Any) -> bool:
        """Are all parameters of the module saved, as with a module that is in another one?"""
        own = parameter_ids(module)
        return bool(own) and own <= self.ids


def _memory_of(value: Any) -> int:
    with contextlib.suppress(Exception):
        return int(value.untyped_storage().data_ptr())
    return 0


def fingerprint(value: Any, saved: Saved, depth: int = 3) -> Any:
    """What shows that an object has changed: a value that is compared with one that was taken later.

    Saved parts of it do not count. Large arrays and containers are sampled.
    """
    if isinstance(value, (bool, int, float, complex, str, type(None), *_TIMES)):
        return value
    if id(value) in saved.ids:
        return "saved"
    with contextlib.suppress(Exception):
        return _FINGERPRINTS.get(kind_of(value), _of_other)(value, saved, depth)
    return None


def _of_container(value: Any, saved: Saved, depth: int) -> Any:
    if depth <= 0 or isinstance(value, set | frozenset | bytearray):
        return len(value)
    if isinstance(value, Mapping):
        items = list(value.items()) if len(value) <= _SAMPLED else []
        return len(value), [(str(key)[:40], fingerprint(item, saved, depth - 1)) for key, item in items]
    parts = list(value) if len(value) <= _SAMPLED else [value[n] for n in (0, 1, 2, -3, -2, -1)]
    return len(value), [id(part) if depth == 1 else fingerprint(part, saved, depth - 1) for part in parts]


def _of_scalar(value: Any, saved: Saved, depth: int) -> Any:
    return _of_container(value, saved, depth) if isinstance(value, tuple) else value if len(value) < 100 else len(value)


def _of_array(value: Any, saved: Saved, depth: int) -> Any:
    version = getattr(value, "_version", None)
    if version is not None:
        return id(value), version
    if hasattr(value, "__array_interface__") and value.dtype != object:
        steps = tuple(slice(None, None, max(1, size // 4)) for size in value.shape)
        sample = value if value.nbytes <= 4096 else value[steps]
        return value.shape, sample.tobytes()
    return id(value), tuple(value.shape)


def _of_module(value: Any, saved: Saved, depth: int) -> Any:
    tensors = value.state_dict(keep_vars=True).values()
    return [
        (each._version, None if each.is_cuda or each.numel() == 0 else _first(each))
        for each in tensors
        if hasattr(each, "_version") and id(each) not in saved.ids
    ]


def _first(tensor: Any) -> Any:
    return tensor.detach().reshape(-1)[0].item() if tensor.is_contiguous() and tensor.device.type == "cpu" else None


def _of_optimizer(value: Any, saved: Saved, depth: int) -> Any:
    groups = [[item for item in group.values() if isinstance(item, int | float)] for group in value.param_groups]
    states = [list(each.values()) for each in list(value.state.values())[:4]]
    return groups, [[getattr(item, "_version", item) for item in each if item is not None] for each in states]


def _of_scheduler(value: Any, saved: Saved, depth: int) -> Any:
    return value.last_epoch, getattr(value, "_step_count", None)


def _of_scaler(value: Any, saved: Saved, depth: int) -> Any:
    tensors = (getattr(value, "_scale", None), getattr(value, "_growth_tracker", None))
    return value.is_enabled() and [(id(each), getattr(each, "_version", None)) for each in tensors]


def _of_generator(value: Any, saved: Saved, depth: int) -> Any:
    if isinstance(value, random.Random):
        return hash(value.getstate())
    if hasattr(value, "bit_generator"):
        return repr(value.bit_generator.state)
    if hasattr(value, "initial_seed"):
        return bytes(value.get_state().numpy().tobytes())
    return repr(value.get_state())


def _of_own(value: Any, saved: Saved, depth: int) -> Any:
    if depth <= 0:
        return id(value)
    parts = {name: fingerprint(item, saved, depth - 1) for name, item in list(attributes(value).items())[:_SAMPLED]}
    return _of_container(value, saved, depth) if isinstance(value, _CONTAINERS) else None, parts


def _of_other(value: Any, saved: Saved, depth: int) -> Any:
    return None


_FINGERPRINTS: dict[str, Any] = {
    "scalar": _of_scalar,
    "container": _of_container,
    "array": _of_array,
    "module": _of_module,
    "optimizer": _of_optimizer,
    "scheduler": _of_scheduler,
    "scaler": _of_scaler,
    "generator": _of_generator,
    "own": _of_own,
}


def in_place(path: str, value: object) -> str:
    """The line that sets all of its content; empty: there is none."""
    if isinstance(value, dict):
        return f"{path}.update(…)"
    if isinstance(value, list):
        return f"{path}[:] = …"
    is_writable = kind_of(value) == "array" and type(value).__module__.partition(".")[0] in ("numpy", "torch")
    return f"{path}[...] = …" if is_writable else ""
