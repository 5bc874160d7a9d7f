"""Functions that the streams of variables call when they are loaded.

The names here are part of the format: add, never rename. For those that raise, the loader (``unpickler``) uses methods
of its own.
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
    """The namespace that is being restored; a method of the loader."""
    raise pickle.UnpicklingError("a notebook's variable can only be loaded in a notebook")


def define_classes(data: bytes) -> None:
    """Create the classes that the notebook defined, from their own stream; a method of the loader."""
    raise pickle.UnpicklingError("a notebook's classes can only be loaded in a notebook")


def notebook_class(index: int) -> type:
    """One of these classes; a method of the loader."""
    raise pickle.UnpicklingError("a notebook's class can only be loaded in a notebook")


def fill_class(made: type, state: tuple[Any, Any]) -> type:
    """Set a class's attributes, once in a restore; a method of the loader."""
    raise pickle.UnpicklingError("a notebook's class can only be loaded in a notebook")


def module_globals(name: str) -> dict[str, Any]:
    """The globals of a module, for a function that was made there."""
    return importlib.import_module(name).__dict__


def empty_cell() -> types.CellType:
    """An empty closure cell; its content is set later, since a function may refer to itself."""
    return types.CellType()


def fill_cell(cell: types.CellType, content: Any) -> None:
    """Set the content of a closure cell."""
    cell.cell_contents = content


def function(
    code: types.CodeType, namespace: dict[str, Any], name: str, closure: tuple[types.CellType, ...] | None
) -> types.FunctionType:
    """A function whose globals are ``namespace``."""
    return types.FunctionType(code, namespace, name, None, closure)


def fill_function(made: types.FunctionType, state: dict[str, Any]) -> None:
    """Set a function's attributes, and the content of its cells."""
    for index, content in state.pop("cells"):
        assert made.__closure__ is not None
        made.__closure__[index].cell_contents = content
    made.__dict__.update(state.pop("__dict__"))
    for name, value in state.items():
        setattr(made, name, value)


def set_gradient(tensor: Any, gradient: Any) -> None:
    """Set the gradient of a leaf tensor."""
    tensor.grad = gradient


def storage_over(flat: Any, offset: int, size: int) -> Any:
    """A torch storage over a part of ``flat``, which numpy arrays use too."""
    return importlib.import_module("torch").from_numpy(flat[offset : offset + size]).untyped_storage()


def is_full(cell: types.CellType) -> bool:
    """Does the closure cell have a content?"""
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True
