"""What torch keeps of a training beside the ``state_dict``: groups of parameters, which are trained, gradients.

It is a second pickle after that of the state, which shares its objects. A reader that does not know it ignores it.
A parameter is named by the module in the state that has it, or is itself an object of the state.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from qcity_nb.checkpoint.state import gradients
from qcity_nb.checkpoint.state.pickling import Reducers
from qcity_nb.checkpoint.state.structure import Structure

__all__ = ["describe", "restore_gradients", "restore_groups"]

VERSION = 1


def describe(state: object, pickler: Reducers, structure: Structure) -> Any:
    """What is to be written after the state, which ``pickler`` has written; ``None``: nothing."""
    waiting = [(each, gradients.in_flight(each)) for each in pickler.optimizers]
    has_changed = structure.has_changed(pickler.optimizers)
    if not has_changed and not any(pairs for _, pairs in waiting):
        return None
    names: dict[int, Any] = {}
    for part in pickler.parts:
        if part.is_module:
            for name, parameter in part.value.named_parameters():
                names.setdefault(id(parameter), (part.value, name))

    tensors = pickler.tensors

    def reference(parameter: Any) -> Any:
        return names.get(id(parameter)) or (parameter if id(parameter) in tensors else None)

    groups, grads = [], []
    for optimizer, pairs in waiting:
        if has_changed:
            members = [
                [(reference(each), each.requires_grad) for each in group["params"]] for group in optimizer.param_groups
            ]
            if all(ref is not None for group in members for ref, _ in group):
                groups.append((optimizer, members))
            else:
                structure.note_unknown(state, optimizer, "groups")
        known = [(ref, gradient) for each, gradient in pairs if (ref := reference(each)) is not None]
        if len(known) < len(pairs):
            structure.note_unknown(state, optimizer, "gradients")
        grads += known
    return {"version": VERSION, "groups": groups, "gradients": grads} if groups or grads else None


Find = Callable[[Any], Any]
"""Returns the live object of a saved one."""


def _parameter(reference: Any, find: Find) -> Any:
    if isinstance(reference, tuple):
        record, name = reference
        module = find(record)
        return None if module is None else dict(module.named_parameters()).get(name)
    return find(reference)


def restore_groups(optimizer: Any, members: Any, find: Find) -> None:
    """Give the live optimizer the saved groups, so that ``load_state_dict`` fits; they are trained as saved.

    Does nothing if one of the parameters is not there: ``load_state_dict`` then says what does not fit.
    """
    live = [[(_parameter(reference, find), is_trained) for reference, is_trained in group] for group in members]
    if any(each is None for group in live for each, _ in group):
        return
    for group in live:
        for each, is_trained in group:
            each.requires_grad_(is_trained)
    before = optimizer.param_groups
    if [[id(each) for each in group["params"]] for group in before] == [[id(p) for p, _ in group] for group in live]:
        return
    optimizer.param_groups = []
    for index, group in enumerate(live):
        options = {key: item for key, item in before[index].items() if key != "params"} if index < len(before) else {}
        optimizer.add_param_group({**options, "params": [each for each, _ in group]})


def restore_gradients(saved: Any, optimizers: list[Any], find: Find) -> None:
    """Give the parameters the saved gradients; the optimizers' other parameters have none."""
    for optimizer in optimizers:
        gradients.clear(optimizer)
    torch: Any = sys.modules["torch"]
    for reference, gradient in saved:
        parameter = _parameter(reference, find)
        if isinstance(parameter, torch.Tensor):
            parameter.grad = gradient.to(parameter.device)
