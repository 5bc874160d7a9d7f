"""Tensors and arrays for other libraries: which ones they refuse; contiguous ones on the CPU."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from qcity_nb.checkpoint.formats.flat import is_numpy, is_torch

__all__ = ["alike", "as_torch", "dense", "little_endian", "refuse", "refuse_dcp"]

_NUMPY_DTYPES = frozenset(
    f"{kind}{bits}" for kind, sizes in {"int": (8, 16, 32, 64), "float": (16, 32, 64)}.items() for bits in sizes
) | {"bool", "uint8", "uint16", "uint32", "uint64", "complex64"}
_TORCH_ONLY = frozenset(["bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"])


def refuse(tensor: Any) -> str:
    """Why safetensors cannot hold it."""
    name = str(tensor.dtype).removeprefix("torch.") if is_torch(tensor) else tensor.dtype.name
    if is_torch(tensor):
        torch: Any = sys.modules["torch"]
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
            return f"a {type(tensor).__qualname__}"
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            return f"a tensor of layout {tensor.layout}" if not tensor.is_meta else "on the meta device, without data"
        return "" if name in _NUMPY_DTYPES | _TORCH_ONLY else f"of dtype {name}"
    return "" if name in _NUMPY_DTYPES else f"of dtype {tensor.dtype}"


def refuse_dcp(tensor: Any) -> str:
    """Why DCP cannot hold it: as for safetensors, except that DCP has complex128."""
    why = refuse(tensor)
    return "" if why.endswith("of dtype complex128") else why


def little_endian(numpy: Any, array: Any) -> Any:
    """The array, C-contiguous and little-endian, as the file needs it."""
    return numpy.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def dense(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors as contiguous torch tensors on the CPU, each with memory of its own."""
    torch: Any = sys.modules["torch"]
    result: dict[str, Any] = {}
    seen: set[int] = set()
    for name, value in tensors.items():
        tensor = as_torch(torch, value)
        memory = tensor.untyped_storage()
        if memory.nbytes() != tensor.numel() * tensor.element_size() or memory.data_ptr() in seen:
            tensor = tensor.clone()  # a part of a larger memory, or a view of another tensor
        seen.add(tensor.untyped_storage().data_ptr())
        result[name] = tensor
    return result


def as_torch(torch: Any, value: Any) -> Any:
    """A tensor or array as a contiguous tensor on the CPU."""
    if is_torch(value):
        return value.detach().resolve_conj().resolve_neg().cpu().contiguous()
    import numpy

    array = little_endian(numpy, value)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def alike(tensor: Any, live: Any) -> Any:
    """The tensor as the type of ``live``: a torch tensor or a numpy array."""
    if is_torch(tensor) and is_numpy(live):
        return tensor.numpy()
    if is_numpy(tensor) and is_torch(live):
        return as_torch(sys.modules["torch"], tensor)
    return tensor
