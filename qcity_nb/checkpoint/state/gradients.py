"""Gradients in flight: a backward pass ran after the optimizer's last step, and the next step will use them.

Left-over gradients, which the last step has used, look the same at a boundary. So after each step a hook notes how
often each gradient was written (torch's ``_version``), and a boundary compares. A step costs some 0.15 µs for each
parameter; a backward pass costs nothing.

Does not: see the steps of a compiled optimizer, or of one that calls no hooks. Its gradients are kept at each boundary.
"""

from __future__ import annotations

import weakref
from typing import Any

__all__ = ["clear", "in_flight", "parameters", "watch"]


def parameters(optimizer: Any) -> list[Any]:
    """The optimizer's parameters, in the order in which its ``state_dict`` numbers them."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


class _AfterStep:
    """The gradients of one optimizer as its last step left them."""

    def __init__(self) -> None:
        self._counts: list[int] = []
        self._gradients: list[weakref.ref[Any]] = []  # freed and computed anew, one may have the old address and count

    def __call__(self, optimizer: Any, *_: Any) -> None:
        gradients = [gradient for each in parameters(optimizer) if (gradient := each.grad) is not None]
        self._counts = [each._version for each in gradients]
        self._gradients = list(map(weakref.ref, gradients))

    def is_left_over(self, gradients: list[Any]) -> bool:
        """Has the last step seen these gradients, all of them and as they are?"""
        return self._counts == [each._version for each in gradients] and all(
            known() is each for known, each in zip(self._gradients, gradients, strict=True)
        )


_WATCHED: weakref.WeakKeyDictionary[Any, _AfterStep] = weakref.WeakKeyDictionary()


def watch(optimizer: Any) -> None:
    """Note from now on what the steps of this optimizer leave."""
    if optimizer not in _WATCHED and hasattr(optimizer, "register_step_post_hook"):
        _WATCHED[optimizer] = hook = _AfterStep()
        optimizer.register_step_post_hook(hook)


def in_flight(optimizer: Any) -> list[tuple[Any, Any]]:
    """The parameters that have a gradient, with it, if a backward pass ran after the last step; else nothing."""
    pairs = [(each, gradient) for each in parameters(optimizer) if (gradient := each.grad) is not None]
    if not pairs:
        return []
    hook = _WATCHED.get(optimizer)
    gradients = [gradient for _, gradient in pairs]
    if hook is not None and hook.is_left_over(gradients):
        return []
    # ``zero_grad(set_to_none=False)`` after the step writes them too.
    return pairs if any(bool(each.any()) for each in gradients) else []


def clear(optimizer: Any) -> None:
    """Remove what an interrupted iteration left: the restored boundary has no gradients, or others."""
    for each in parameters(optimizer):
        each.grad = None
