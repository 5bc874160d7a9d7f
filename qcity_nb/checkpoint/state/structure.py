"""What a state is made of when its loop begins, and what its loop adds: parameters, groups, layers, gradients.

A new process builds a state as it was at the loop's start. ``load_state_dict`` then refuses other parameter groups, and
does not know which parameters are trained or what gradients wait for a step. For torch optimizers in the state this is
written after the state's own stream, if it differs from the start, and restored (``training.py``). What a new process
cannot build, a layer or an object that was not there, is said at the save.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qcity_nb.checkpoint.state import gradients, unsaveable
from qcity_nb.checkpoint.state.pickling import Dumped, Part

__all__ = ["Structure"]

_SHOWN = 3
_BUILD = "a new process cannot build it: to resume after a death, build it before city.loop, as it is now"


def _shapes(state: Any) -> dict[str, tuple[int, ...] | None]:
    """The entries of a module's ``state_dict``; ``None``: a lazy module's, which has no shape yet."""
    shapes: dict[str, tuple[int, ...] | None] = {}
    for key, item in state.items() if isinstance(state, dict) else ():
        try:
            shapes[str(key)] = tuple(getattr(item, "shape", ()))
        except RuntimeError:
            shapes[str(key)] = None
    return shapes


def _new_layers(first: dict[str, tuple[int, ...] | None], now: dict[str, tuple[int, ...] | None]) -> list[str]:
    """What a module that was as ``first`` cannot load of one that is as ``now``."""
    changed = [key for key in now if key not in first or first[key] not in (None, now[key])]
    return changed or [key for key in first if key not in now]


def _groups(optimizer: Any) -> tuple[tuple[int, ...], bytes]:
    """How many parameters each group has, and which of them are trained."""
    flags = bytes([each.requires_grad for each in gradients.parameters(optimizer)])
    return tuple(len(group["params"]) for group in optimizer.param_groups), flags


def _kind(part: Part) -> str:
    return "module" if part.is_module else part.kind  # a lazy module changes its class


class Structure:
    """One loop's state: how it began in this process, and what was announced of it."""

    def __init__(self) -> None:
        self._groups: list[tuple[tuple[int, ...], bytes]] | None = None
        self._modules: list[dict[str, tuple[int, ...] | None]] = []
        self._kinds: list[str] | None = []
        self._size = 0, 0
        self._announced: set[str] = set()
        self._news: list[str] = []

    def note_unreadable_start(self) -> None:
        """The state cannot be pickled before it is restored: whatever it becomes may differ from what it is."""
        self._groups = []
        self._kinds = None

    def compare(self, state: object, dumped: Dumped) -> None:
        """Compare what was captured with the start, and note what a new process could not restore.

        The first call is the start.
        """
        parts = dumped.parts
        modules = [part for part in parts if part.is_module]
        for optimizer in dumped.optimizers:
            gradients.watch(optimizer)
        if self._groups is None:
            self._groups = [_groups(optimizer) for optimizer in dumped.optimizers]
            self._modules = [_shapes(part.state) for part in modules]
            self._kinds = [_kind(part) for part in parts]
            self._size = dumped.size
            return
        kinds = [_kind(part) for part in parts]
        if self._kinds is None:
            return
        if kinds != self._kinds or dumped.size != self._size:
            self._size = dumped.size
            self._look(state, parts, modules, list(self._kinds))

    def has_changed(self, optimizers: list[Any]) -> bool:
        """Have these optimizers other groups, or other trained parameters, than those at the start?"""
        return self._groups is not None and [_groups(each) for each in optimizers] != self._groups

    def _look(self, state: object, parts: Sequence[Part], modules: Sequence[Part], left: list[str]) -> None:
        for part, first in zip(modules, self._modules, strict=False):
            if len(modules) == len(self._modules) and (names := _new_layers(first, _shapes(part.state))):
                shown = ", ".join(map(repr, names[:_SHOWN])) + (", …" if len(names) > _SHOWN else "")
                path = unsaveable.find(state, part.value)
                self._add_news(f"{path} has other layers than when the loop began ({shown}); {_BUILD}")
        for part in parts:
            if _kind(part) in left:
                left.remove(_kind(part))
            else:
                path = unsaveable.find(state, part.value)
                self._add_news(f"{path} ({part.kind}) was not there when the loop began; {_BUILD}")

    def _add_news(self, text: str) -> None:
        if text not in self._announced:
            self._announced.add(text)
            self._news.append(text)

    def take_news(self) -> list[str]:
        """What was saved, cannot be restored in a new process, and was not told yet."""
        news, self._news = self._news, []
        return news

    def note_unknown(self, state: object, optimizer: Any, what: str) -> None:
        """Note that something of the optimizer belongs to parameters that are not in the state."""
        path = unsaveable.find(state, optimizer)
        self._add_news(
            f"{path} has {what} of parameters that are not in state, and a resume after a death cannot restore them: "
            "put the module that they belong to into state"
        )
