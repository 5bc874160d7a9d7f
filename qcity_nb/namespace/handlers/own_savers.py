"""Objects with their own way to be saved: TorchScript, optimizers under a scheduler, torchdata's loader."""

from __future__ import annotations

import functools
import importlib
import io
import pickle
import sys
import warnings
import weakref
from typing import Any

from qcity_nb.checkpoint.buffer import Buffer
from qcity_nb.namespace.handlers.not_saved import Lost

__all__ = ["HANDLERS", "load_torchscript", "set_loader", "set_optimizer"]


def load_torchscript(data: Buffer, is_training: bool) -> Any:
    """The TorchScript module or function that ``torch.jit.save`` wrote."""
    torch = importlib.import_module("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        made = torch.jit.load(io.BytesIO(data))
    if hasattr(made, "train"):
        made.train(is_training)
    return made


def _reduce_torchscript(value: Any) -> Any:
    torch: Any = sys.modules["torch"]
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            torch.jit.save(value, out)
        except RuntimeError as error:
            raise Lost(f"torch.jit.save cannot save it ({str(error).splitlines()[0]})", "script it again") from None
    return load_torchscript, (pickle.PickleBuffer(out.getvalue()), bool(getattr(value, "training", False)))


def set_loader(loader: Any, state: tuple[dict[str, Any], Any]) -> None:
    """Set a StatefulDataLoader's attributes; its next iterator continues where the saved one was."""
    attributes, place = state
    loader.__dict__.update(attributes)
    loader.load_state_dict(place)


def _loader(value: Any) -> Any:
    attributes = {name: item for name, item in vars(value).items() if name != "_iterator"}
    return (
        object.__new__,
        (type(value),),
        ({**attributes, "_iterator": None}, value.state_dict()),
        None,
        None,
        set_loader,
    )


def set_optimizer(optimizer: Any, state: tuple[dict[str, Any], bool]) -> None:
    """Set an optimizer's state, and wrap its step so that its scheduler knows that it was called.

    A scheduler wraps the optimizer's step when it is created. Pickling loses the wrapper, and the scheduler's first
    step would then warn that it is missing (torch/optim/lr_scheduler.py, ``patch_track_step_called``).
    """
    attributes, was_called = state
    optimizer.__setstate__(attributes)
    step = type(optimizer).step
    mine: Any = weakref.ref(optimizer)  # else it would refer to itself

    @functools.wraps(step)
    def tracked(*args: Any, **kwargs: Any) -> Any:
        mine()._opt_called = True
        return step(mine(), *args, **kwargs)

    tracked._wrapped_by_lr_sched = True  # type: ignore[attr-defined]  # the attribute that torch sets
    optimizer.step = tracked
    if was_called:
        optimizer._opt_called = True


def _optimizer(value: Any) -> Any:
    if not hasattr(vars(value).get("step"), "_wrapped_by_lr_sched"):
        return NotImplemented
    make, arguments, attributes, *_ = value.__reduce_ex__(5)
    was_called = bool(getattr(value, "_opt_called", False))
    return make, arguments, (attributes, was_called), None, None, set_optimizer


HANDLERS: dict[str, Any] = {
    "torch.optim.optimizer.Optimizer": _optimizer,
    "torch.jit._script.ScriptModule": _reduce_torchscript,
    "torch.jit.torch.jit.ScriptFunction": _reduce_torchscript,
    "torchdata.stateful_dataloader.stateful_dataloader.StatefulDataLoader": _loader,
}
