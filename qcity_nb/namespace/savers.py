"""Objects with a saver of their own: TorchScript, and torchdata's loader that knows where it is."""

from __future__ import annotations

import importlib
import io
import pickle
import sys
import warnings
from typing import Any

from qcity_nb.checkpoint.rebuild import Buffer
from qcity_nb.namespace.loss import Lost

__all__ = ["HANDLERS", "scripted", "set_loader"]


def scripted(data: Buffer, is_training: bool) -> Any:
    """A TorchScript module or function from what ``torch.jit.save`` wrote."""
    torch = importlib.import_module("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        made = torch.jit.load(io.BytesIO(data))
    if hasattr(made, "train"):
        made.train(is_training)
    return made


def _scripted(value: Any) -> Any:
    torch: Any = sys.modules["torch"]
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            torch.jit.save(value, out)
        except RuntimeError as error:
            raise Lost(f"torch.jit.save refuses it ({str(error).splitlines()[0]})", "script it again") from None
    return scripted, (pickle.PickleBuffer(out.getvalue()), bool(getattr(value, "training", False)))


def set_loader(loader: Any, state: tuple[dict[str, Any], Any]) -> None:
    """Give a StatefulDataLoader its attributes; its next iterator goes on where the saved one was."""
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


HANDLERS: dict[str, Any] = {
    "torch.jit._script.ScriptModule": _scripted,
    "torch.jit.torch.jit.ScriptFunction": _scripted,
    "torchdata.stateful_dataloader.stateful_dataloader.StatefulDataLoader": _loader,
}
