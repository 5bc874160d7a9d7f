"""What the streams of variables call when they are loaded.

The names here are part of the format: add, never rename. Those that raise are methods of the loader (``loading``),
which puts them in this place.
"""

from __future__ import annotations

import importlib
import pickle
import types
from typing import Any

__all__ = [
    "define_classes",
    "empty_cell",
    "fill_cell",
    "fill_class",
    "fill_function",
    "function",
    "is_full",
    "live_namespace",
    "module_globals",
    "notebook_class",
    "set_gradient",
    "storage_over",
]


def live_namespace() -> dict[str, Any]:
    """The namespace that is restored: the loader's."""
    raise pickle.UnpicklingError("a notebook's variable was met outside its notebook")


def define_classes(data: bytes) -> None:
    """Makes the classes that the notebook defined, from a stream of their own: the loader's."""
    raise pickle.UnpicklingError("a notebook's classes were met outside their notebook")


def notebook_class(index: int) -> type:
    """One of them: the loader's."""
    raise pickle.UnpicklingError("a notebook's class was met outside its notebook")


def fill_class(made: type, state: tuple[Any, Any]) -> type:
    """Give a class its attributes, once in a restore: the loader's."""
    raise pickle.UnpicklingError("a notebook's class was met outside its notebook")


def module_globals(name: str) -> dict[str, Any]:
    """The globals of a module: a function that was made there sees them live."""
    return importlib.import_module(name).__dict__


def empty_cell() -> types.CellType:
    """A cell of a closure; its content follows, since a function may hold itself."""
    return types.CellType()


def fill_cell(cell: types.CellType, content: Any) -> None:
    """Its content."""
    cell.cell_contents = content


def function(
    code: types.CodeType, namespace: dict[str, Any], name: str, closure: tuple[types.CellType, ...] | None
) -> types.FunctionType:
    """A function over that namespace."""
    return types.FunctionType(code, namespace, name, None, closure)


def fill_function(made: types.FunctionType, state: dict[str, Any]) -> None:
    """Its attributes, and what its cells hold."""
    for index, content in state.pop("cells"):
        assert made.__closure__ is not None
        made.__closure__[index].cell_contents = content
    made.__dict__.update(state.pop("__dict__"))
    for name, value in state.items():
        setattr(made, name, value)


def set_gradient(tensor: Any, gradient: Any) -> None:
    """A leaf's gradient."""
    tensor.grad = gradient


def storage_over(flat: Any, offset: int, size: int) -> Any:
    """A torch storage over a part of ``flat``, which numpy arrays lie over too."""
    return importlib.import_module("torch").from_numpy(flat[offset : offset + size]).untyped_storage()


def is_full(cell: types.CellType) -> bool:
    """Has its variable been bound, and not been deleted?"""
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True
