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
from qcity_nb.checkpoint.state.pickling import Dumped, Part, dump

__all__ = ["Structure"]

_SHOWN = 3
_BUILD = "a new process cannot build it: to resume after a death, build it before city.loop, as it is now"


def _shapes(state: Any) -> dict[str, tuple[int, ...]]:
    """The entries of a module's ``state_dict``."""
    items = state.items() if isinstance(state, dict) else ()
    return {str(key): tuple(getattr(item, "shape", ())) for key, item in items}


def _groups(optimizer: Any) -> tuple[tuple[int, ...], bytes]:
    """How many parameters each group has, and which of them are trained."""
    flags = bytes([each.requires_grad for each in gradients.parameters(optimizer)])
    return tuple(len(group["params"]) for group in optimizer.param_groups), flags


class Structure:
    """One loop's state: how it began in this process, and what was announced of it."""

    def __init__(self) -> None:
        self._groups: list[tuple[tuple[int, ...], bytes]] | None = None
        self._modules: list[dict[str, tuple[int, ...]]] = []
        self._kinds: list[str] = []
        self._size = 0, 0
        self._announced: set[str] = set()
        self._news: list[str] = []

    def note_start(self, state: object) -> None:
        """Note how ``state`` is built, before it is restored.

        Does not: raise. A state that cannot be pickled yet has no structure; the first save's is then the start.
        """
        try:
            self.compare(state, dump(state))
        except Exception:  # noqa: BLE001 - the caller is about to replace what cannot be pickled
            self._groups = None

    def compare(self, state: object, dumped: Dumped) -> None:
        """Compare what was captured with the start, and note what a new process could not restore.

        The first call is the start.
        """
        parts = dumped.parts
        modules = [part for part in parts if part.is_module]
        if self._groups is None:
            for optimizer in dumped.optimizers:
                gradients.watch(optimizer)
            self._groups = [_groups(optimizer) for optimizer in dumped.optimizers]
            self._modules = [_shapes(part.state) for part in modules]
            self._kinds = [part.kind for part in parts]
            self._size = dumped.size
            return
        kinds = [part.kind for part in parts]
        if kinds != self._kinds or dumped.size != self._size:
            self._size = dumped.size
            self._look(state, parts, modules)

    def has_changed(self, optimizers: list[Any]) -> bool:
        """Have these optimizers other groups, or other trained parameters, than those at the start?"""
        return self._groups is not None and [_groups(each) for each in optimizers] != self._groups

    def _look(self, state: object, parts: Sequence[Part], modules: Sequence[Part]) -> None:
        for part, first in zip(modules, self._modules, strict=False):
            now = _shapes(part.state)
            if now != first and len(modules) == len(self._modules):
                names = [key for key in now if now[key] != first.get(key)] or [key for key in first if key not in now]
                shown = ", ".join(map(repr, names[:_SHOWN])) + (", …" if len(names) > _SHOWN else "")
                path = unsaveable.find(state, part.value)
                self._add_news(f"{path} has other layers than when the loop began ({shown}); {_BUILD}")
        left = list(self._kinds)
        for part in parts:
            if part.kind in left:
                left.remove(part.kind)
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
