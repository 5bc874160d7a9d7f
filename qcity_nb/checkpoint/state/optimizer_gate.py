"""Torch optimizers that wait: a step that would change weights is delayed until they are copied.

A hook is trusted only after it was seen to fire: an optimizer that is compiled, wrapped or stepped by hand may bypass
it, and then its state is copied at once, as if there were no hook.
"""

from __future__ import annotations

import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from qcity_nb.checkpoint.memory import Span
    from qcity_nb.checkpoint.state.frozen_buffer import Frozen

__all__ = ["Gate"]


class _Copying(Protocol):
    copied: threading.Event


class _Hook:
    """The hook on one optimizer."""

    def __init__(self, optimizer: Any, pending: set[Any]) -> None:
        self.fired = 0
        self.fired_before = -1
        """The value of ``fired`` at the last capture; -1: no capture yet."""
        self._pending = pending
        self.handle = optimizer.register_step_pre_hook(self._wait)

    def _wait(self, *_: Any) -> None:
        self.fired += 1
        for copying in tuple(self._pending):
            copying.copied.wait()


class Gate:
    """Knows which optimizers have a hook, and which captures their steps must wait for."""

    def __init__(self) -> None:
        self._hooks: weakref.WeakKeyDictionary[Any, _Hook] = weakref.WeakKeyDictionary()
        self._pending: set[_Copying] = set()
        self.is_trusted = True
        """False after the state changed during a lazy copy: then everything is copied at once."""

    def select_gated(self, optimizers: list[Any], lazily: str, jobs: list[tuple[Span, Frozen]]) -> set[int]:
        """The ids of the spans that may be copied later."""
        if lazily == "all":
            return {id(span) for span, _ in jobs}
        trusted = [each for each in optimizers if self._is_trusted(each)]
        if lazily == "never" or not trusted or not self.is_trusted:
            return set()
        torch: Any = sys.modules["torch"]
        # If a storage holds something else too, the optimizer is not its only writer.
        sizes: dict[int, int] = {}
        for optimizer in trusted:
            states = [
                each for each in optimizer.state.values() if isinstance(each, dict)
            ]  # other optimizers may keep anything there
            parameters = [each for group in optimizer.param_groups for each in group["params"]]
            for value in (*parameters, *(item for state in states for item in state.values())):
                if isinstance(value, torch.Tensor) and value.layout is torch.strided:
                    sizes[value.data_ptr()] = value.nbytes
        return {id(span) for span, _ in jobs if span.device is None and sizes.get(span.address) == span.size}

    def _is_trusted(self, optimizer: Any) -> bool:
        """Did its hook fire since the previous capture? Then it will again. Adds a hook to a new optimizer."""
        hook = self._hooks.get(optimizer)
        if hook is None:
            if not hasattr(optimizer, "register_step_pre_hook"):
                return False
            hook = self._hooks[optimizer] = _Hook(optimizer, self._pending)
        is_firing = 0 <= hook.fired_before < hook.fired
        hook.fired_before = hook.fired
        return is_firing

    def close_for(self, copying: _Copying) -> None:
        """Steps wait for ``copying`` from now on."""
        self._pending.add(copying)

    def open_for(self, copying: _Copying) -> None:
        """Steps no longer wait for ``copying``."""
        self._pending.discard(copying)

    def close(self) -> None:
        """Remove all hooks."""
        for hook in self._hooks.values():
            hook.handle.remove()
        self._hooks.clear()
