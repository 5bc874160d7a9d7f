"""A state as named tensors and plain values, and back: the part that other formats can hold.

    flat = flatten(state)           # a live state, or the result of capture.load
    build(flat)                     # nested dicts, lists and values
    fill(state, flat)               # overwrites a live state in place

A name is the path in the state, joined with dots: ``model.0.weight``, ``optimizer.state.0.exp_avg``. If two paths
have the same name, the second gets ``~2``. A list of plain values stays one value. ``Flat.tree`` holds as JSON what
the dots cannot express: which keys are numbers, what is a tuple, what is loaded through ``load_state_dict``.

Neither torch nor numpy is imported here: they are imported already if the state has their objects.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qcity_nb.checkpoint.state.kinds import kind_of
from qcity_nb.checkpoint.state.pickling import StateDict, has_state_dict
from qcity_nb.checkpoint.state.unsaveable import children
from qcity_nb.errors import CheckpointError

__all__ = ["Flat", "build", "fill", "flatten", "is_numpy", "is_torch", "replace_tensors"]

_SCALARS = (bool, int, float, str, type(None))
_ALONE = "state"
"""The name if the whole state is one array."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flat:
    """A state as named parts."""

    tree: Any
    """The structure of the state, as JSON."""
    tensors: dict[str, Any] = field(default_factory=dict)
    """Tensors and arrays, each memory once; not copies."""
    tied: dict[str, str] = field(default_factory=dict)
    """Further names of the same tensor."""
    values: dict[str, Any] = field(default_factory=dict)
    """Values that JSON can hold; a tuple is a list here."""
    left_out: dict[str, str] = field(default_factory=dict)
    """What such a format cannot hold, and why."""
    are_paths: bool = True
    """No two paths had the same name: each name is its path."""


def is_torch(value: object) -> bool:
    """Is it a torch tensor?"""
    torch: Any = sys.modules.get("torch")
    return hasattr(torch, "Tensor") and isinstance(value, torch.Tensor)


def is_numpy(value: object) -> bool:
    """Is it a numpy array?"""
    numpy: Any = sys.modules.get("numpy")
    return hasattr(numpy, "ndarray") and isinstance(value, numpy.ndarray)


def flatten(state: object, *, refuse: Callable[[Any], str] = lambda tensor: "") -> Flat:
    """The parts of ``state``.

    Args:
        refuse: returns why the format cannot hold a tensor or array; empty: it can.
    """
    work = _Flattening(refuse)
    tree = work.node(state, "")
    return Flat(
        tree=tree,
        tensors=work.tensors,
        tied=work.tied,
        values=work.values,
        left_out=work.left_out,
        are_paths=work.are_paths,
    )


class _Flattening:
    def __init__(self, refuse: Callable[[Any], str]) -> None:
        self.tensors: dict[str, Any] = {}
        self.tied: dict[str, str] = {}
        self.values: dict[str, Any] = {}
        self.left_out: dict[str, str] = {}
        self.are_paths = True
        self._refuse = refuse
        self._names: set[str] = set()
        self._memory: dict[Any, str] = {}
        self._seen: dict[int, str] = {}
        self._alive: list[Any] = []
        """Results of ``state_dict()``, kept alive so that no other object gets their ids."""

    def _name(self, path: str) -> str:
        path = name = path or _ALONE
        count = 1
        while name in self._names:
            count += 1
            name = f"{path}~{count}"
            self.are_paths = False
        self._names.add(name)
        return name

    def _out(self, path: str, why: str) -> Any:
        self.left_out[self._name(path)] = why
        return None

    def node(self, value: Any, path: str) -> Any:
        """The tree of ``value``; ``None`` if it is left out."""
        if type(value) in _SCALARS:
            return self._value(value, path)
        numpy: Any = sys.modules.get("numpy")
        if numpy is not None and isinstance(value, numpy.generic) and type(value.item()) in _SCALARS:
            return self._value(value.item(), path)
        if is_torch(value) or is_numpy(value):
            return self._tensor(value, path)
        kind = "state_dict" if isinstance(value, StateDict) or has_state_dict(value) else kind_of(value)
        if kind not in ("dict", "list", "tuple", "object", "state_dict"):
            return self._out(path, f"a {type(value).__module__}.{type(value).__qualname__}".replace(" builtins.", " "))
        if kind in ("list", "tuple") and not hasattr(value, "__dict__") and _is_plain(value):
            return self._value(list(value), path, kind=kind)
        if id(value) in self._seen:
            return self._out(path, f"another name of {self._seen[id(value)] or 'the state itself'}")
        self._seen[id(value)] = path
        self._alive.append(value)
        if kind == "state_dict":
            inner = value.state if isinstance(value, StateDict) else value.state_dict()
            return {"state_dict": self.node(inner, path)}
        if kind in ("list", "tuple"):
            return {kind: [self.node(item, _join(path, index)) for index, item in enumerate(value)]}
        if kind == "dict":
            if len({str(key) for key in value}) < len(value):
                self.are_paths = False  # 1 and "1": a reader that uses names could not distinguish them
            return {"dict": [pair for key, item in value.items() if (pair := self._pair(key, item, path))]}
        named = [(suffix[1:], item) for suffix, item in children(value)]
        return {"object": [[name, self.node(item, _join(path, name))] for name, item in named]}

    def _pair(self, key: Any, item: Any, path: str) -> list[Any] | None:
        if type(key) not in _SCALARS:
            self._out(_join(path, repr(key)), f"its key is a {type(key).__qualname__}")
            return None
        return [key, self.node(item, _join(path, key))]

    def _value(self, value: Any, path: str, *, kind: str = "") -> Any:
        name = self._name(path)
        self.values[name] = value
        return {"value": name, "tuple": True} if kind == "tuple" else {"value": name}

    def _tensor(self, value: Any, path: str) -> Any:
        why = self._refuse(value)
        if why:
            return self._out(path, why)
        name = self._name(path)
        memory = _memory(value)
        first = self._memory.setdefault(memory, name) if memory is not None else name
        if first == name:
            self.tensors[name] = value
            self._alive.append(value)
        else:
            self.tied[name] = first
        return {"tensor": name}


def _join(path: str, part: object) -> str:
    return f"{path}.{part}" if path else str(part)


def _is_plain(value: Any) -> bool:
    """Scalars, and lists of scalars."""
    return all(
        type(item) in _SCALARS or (type(item) is list and all(type(element) in _SCALARS for element in item))
        for item in value
    )


def _memory(value: Any) -> Any:
    """A key that is equal for two names of the same tensor; ``None`` if there is nothing to share."""
    if is_torch(value):
        if value.layout is not sys.modules["torch"].strided or value.is_meta or not value.numel():
            return None
        flags = (value.is_conj(), value.is_neg())
        return ("torch", value.device, value.data_ptr(), tuple(value.shape), value.stride(), value.dtype, flags)
    if not value.size:
        return None
    return ("numpy", value.__array_interface__["data"][0], value.shape, value.strides, value.dtype.str)


def _resolve(flat: Flat, name: str) -> Any:
    return flat.tensors[flat.tied.get(name, name)]


def build(flat: Flat, *, keys: Callable[[Any], Any] = lambda key: key) -> Any:
    """The state as nested dicts, lists, tuples, tensors and values; objects are dicts of their attributes.

    Args:
        keys: converts a dict's keys.
    """

    def build_node(node: Any) -> Any:
        if node is None:
            return None
        if "tensor" in node:
            return _resolve(flat, node["tensor"])
        if "value" in node:
            value = flat.values[node["value"]]
            return tuple(value) if node.get("tuple") else value
        if "state_dict" in node:
            return build_node(node["state_dict"])
        if "list" in node:
            return [build_node(item) for item in node["list"]]
        if "tuple" in node:
            return tuple(build_node(item) for item in node["tuple"])
        pairs = node["dict"] if "dict" in node else node["object"]
        return {keys(key): build_node(item) for key, item in pairs if item is not None}

    return build_node(flat.tree)


def fill(state: object, flat: Flat) -> None:
    """Overwrite ``state`` with ``flat`` in place; what ``flat`` left out stays unchanged.

    Raises:
        CheckpointError: it does not fit; the message names the variable. ``state`` may then be partly filled.
    """
    if _Filling(flat).value(state, flat.tree, "") is not state:
        raise CheckpointError(f"a {type(state).__qualname__} cannot be filled in place: put it into a dict")


class _Filling:
    def __init__(self, flat: Flat) -> None:
        self._flat = flat

    def value(self, live: Any, node: Any, path: str) -> Any:
        """The new value at that place: ``live`` itself if it can be filled."""
        if node is None:
            return live
        flat = self._flat
        if "state_dict" in node:
            return self._load(live, node, path)
        if "tensor" in node:
            return _overwrite(live, _resolve(flat, node["tensor"]))
        if "list" in node and isinstance(live, list):
            items = node["list"]
            live[:] = [self.value(_at(live, n), item, _join(path, n)) for n, item in enumerate(items)]
            return live
        if "tuple" in node and isinstance(live, tuple) and isinstance(node["tuple"], list):
            items = [self.value(_at(live, n), item, _join(path, n)) for n, item in enumerate(node["tuple"])]
            return type(live)(*items) if hasattr(live, "_fields") else tuple(items)
        if "dict" in node and isinstance(live, dict):
            for key, item in node["dict"]:
                if item is not None:
                    live[key] = self.value(live.get(key), item, _join(path, key))
            return live
        if "object" in node:
            if live is None or kind_of(live) != "object":
                raise CheckpointError(f"{path or 'the state'} is an object in the file: create one there first")
            for name, item in node["object"]:
                if item is not None:
                    setattr(live, name, self.value(getattr(live, name, None), item, _join(path, name)))
            return live
        fresh = build(Flat(tree=node, tensors=flat.tensors, tied=flat.tied, values=flat.values))
        if isinstance(live, list) and isinstance(fresh, list):
            live[:] = fresh
            return live
        return fresh

    def _load(self, live: Any, node: Any, path: str) -> Any:
        where = path or "the state"
        if not has_state_dict(live):
            raise CheckpointError(f"{where} was saved through its state_dict, and there is no object to load it into")
        flat = self._flat
        state = build(Flat(tree=node["state_dict"], tensors=flat.tensors, tied=flat.tied, values=flat.values))
        try:
            live.load_state_dict(state)
        except Exception as error:
            text = " ".join(str(error).split())
            raise CheckpointError(f"{where} does not fit the content of the file: {text}") from error
        return live


def _at(live: Any, index: int) -> Any:
    return live[index] if index < len(live) else None


def _overwrite(live: Any, saved: Any) -> Any:
    """``live`` with the content of ``saved`` if shape and dtype are the same, else ``saved``."""
    if type(live) is not type(saved) and not (is_torch(live) and is_torch(saved)):
        return saved
    if live.shape != saved.shape or live.dtype != saved.dtype:
        return saved
    if is_torch(live):
        with sys.modules["torch"].no_grad():
            live.copy_(saved)
        return live
    if not live.flags.writeable:
        return saved
    live[...] = saved
    return live


def replace_tensors(flat: Flat, tensors: Mapping[str, Any]) -> Flat:
    """``flat`` with other tensors of the same names."""
    return Flat(tree=flat.tree, tensors=dict(tensors), tied=flat.tied, values=flat.values, left_out=flat.left_out)
