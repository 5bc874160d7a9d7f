"""Functions that the stream calls when it is loaded: they build torch memory, tensors, generators and array views.

The names here are part of the checkpoint format: add, never rename.
"""

from __future__ import annotations

import ctypes
import importlib
import pickle
from typing import Any

from qcity_nb.checkpoint.buffer import Buffer

__all__ = [
    "array_view",
    "inline_storage",
    "jax_array",
    "jax_key",
    "move_to_device",
    "same_storage",
    "storage",
    "stored_storage",
    "tensor",
    "torch_generator",
    "typed_storage",
]


def stored_storage(index: int, device: str, size: int) -> Any:
    """A torch storage whose bytes are buffer ``index``; the unpickler uses its own method instead of this."""
    raise pickle.UnpicklingError("a stored buffer can only be loaded from a checkpoint")


def storage(data: Buffer, device: str) -> Any:
    """A torch storage with that content, on its device if this host has it."""
    torch = importlib.import_module("torch")
    made = torch.UntypedStorage(len(data))
    if data:
        memoryview((ctypes.c_char * len(data)).from_address(made.data_ptr())).cast("B")[:] = data
    return move_to_device(made, device)


def move_to_device(memory: Any, device: str) -> Any:
    """A torch storage on its device if this host has that device, else unchanged."""
    torch = importlib.import_module("torch")
    where = torch.device(device)
    if where.type == "cpu" or not _is_there(torch, where):
        return memory
    flat = torch.empty(0, dtype=torch.uint8).set_(memory)
    return flat.to(where).untyped_storage()


def _is_there(torch: Any, device: Any) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_available()) and (device.index or 0) < torch.cuda.device_count()
    return bool(getattr(getattr(torch, device.type, None), "is_available", lambda: False)())


def inline_storage(data: bytes, device: str) -> Any:
    """A small torch storage, whose bytes are in the stream."""
    return storage(data, device)


def typed_storage(memory: Any, dtype: Any) -> Any:
    """The typed wrapper that torch's own tensor reduction needs."""
    torch = importlib.import_module("torch")
    return torch.storage.TypedStorage(wrap_storage=memory, dtype=dtype, _internal=True)


def tensor(
    memory: Any,
    dtype: Any,
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool,
    is_parameter: bool,
) -> Any:
    """A tensor that uses the storage ``memory``."""
    torch = importlib.import_module("torch")
    made = torch.empty(0, dtype=dtype, device=memory.device).set_(memory, offset, shape, stride)
    if is_parameter:
        return torch.nn.Parameter(made, requires_grad=requires_grad)
    return made.requires_grad_() if requires_grad else made


def torch_generator(device: str, state: bytes) -> Any:
    """A torch.Generator in that state."""
    torch = importlib.import_module("torch")
    where = torch.device(device)
    generator = torch.Generator(device=where if where.type == "cpu" or _is_there(torch, where) else "cpu")
    generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
    return generator


def array_view(
    flat: Any, dtype: Any, shape: tuple[int, ...], offset: int, strides: tuple[int, ...], writable: int
) -> Any:
    """A numpy array over ``flat``, which other arrays of the state use too."""
    numpy = importlib.import_module("numpy")
    array = numpy.ndarray(shape, dtype, flat, offset, strides)
    if not writable:
        array.flags.writeable = False
    return array


def jax_array(value: Any) -> Any:
    """A jax array with that content; the numpy array itself if jax is not installed."""
    try:
        jax = importlib.import_module("jax")
    except ImportError:
        return value
    made = jax.numpy.asarray(value)
    if made.dtype != value.dtype:
        raise pickle.UnpicklingError(f"jax gives {made.dtype} for {value.dtype}: set jax_enable_x64 as it was")
    return made


def jax_key(data: Any, kind: str) -> Any:
    """A jax random key."""
    jax = importlib.import_module("jax")
    return jax.random.wrap_key_data(jax.numpy.asarray(data), impl=kind)


def same_storage(memory: Any) -> Any:
    """The storage itself: a second Python object for memory that is in the stream already."""
    return memory
