"""Loads what ``pickler`` wrote into a namespace."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

from qcity_nb.checkpoint.state.pickling import StateUnpickler
from qcity_nb.namespace import unpickle_functions

__all__ = ["Restoring", "load"]


class Restoring:
    """What the streams of one restore share.

    Args:
        live: the namespace.
    """

    def __init__(self, live: dict[str, Any]) -> None:
        self.live = live
        self.filled: dict[int, type] = {}
        """Classes whose attributes are set: later streams contain the same ones."""


def load(skeleton: bytes, memory: Sequence[Any], restoring: Restoring) -> dict[str, Any]:
    """The variables of a group, by name. Runs code of the stream, so the caller must trust its source.

    Args:
        memory: the content of each buffer; see ``buffer_targets.read_buffers``.
    Raises:
        Exception: whatever the objects' own code raises.
    """
    values = _Loader(skeleton, memory, restoring).load()
    if type(values) is not dict:
        raise pickle.UnpicklingError("the stream does not hold variables")
    return values


class _Loader(StateUnpickler):
    def __init__(self, skeleton: bytes, buffers: Sequence[Any], restoring: Restoring) -> None:
        super().__init__(skeleton, buffers)
        self._restoring = restoring
        self._classes: list[type] = []
        self._ours: dict[str, Callable[..., Any]] = {
            "live_namespace": lambda: restoring.live,
            "define_classes": self._make_classes,
            "notebook_class": lambda index: self._classes[index],
            "fill_class": self._fill_class,
        }

    def find_class(self, module: str, name: str) -> Any:
        """As ``StateUnpickler``; some ``unpickle_functions`` are methods here, and ``__main__`` is the namespace."""
        if module == unpickle_functions.__name__ and name in self._ours:
            return self._ours[name]
        if module == "__main__" and name in self._restoring.live:
            return self._restoring.live[name]
        return super().find_class(module, name)

    def _make_classes(self, data: bytes) -> None:
        self._classes = _Loader(data, (), self._restoring).load()

    def _fill_class(self, made: type, state: tuple[Any, Any]) -> type:
        fill, attributes = state
        if id(made) not in self._restoring.filled:
            self._restoring.filled[id(made)] = made
            fill(made, attributes)
        return made
