"""One pickle-5 stream for a whole state, its bulk beside it as buffers.

One stream, so that aliases, shared objects, tied weights and overlapping views stay what they are. Three things
are not left to pickle:

* anything with ``state_dict`` and ``load_state_dict`` is written as a ``StateDict`` record, never whole: hooks,
  data sets and trainers that hang on a module do not belong into a checkpoint;
* the memory of a torch storage becomes one buffer, whatever tensors and views lie over it;
* numpy arrays of the state that overlap are written as views of one buffer (pickle alone would copy each).

Buffers are copied when the pickler meets them: whatever the caller changes later does not reach them.
Neither torch nor numpy is imported here unless a checkpoint that is loaded needs it.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import io
import pickle
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any

__all__ = [
    "INLINE_BYTES",
    "Buffer",
    "Refused",
    "StateDict",
    "StateUnpickler",
    "dump",
    "has_state_dict",
    "memory_bounds",
]

INLINE_BYTES = 4096
"""Smaller buffers stay in the stream: as objects of their own they would cost more than they save."""

Buffer = bytes | bytearray | memoryview


class Refused(Exception):
    """An object that must not be saved, though pickle would; the text says why."""


class StateDict:
    """What stands in the stream for an object that is restored through ``load_state_dict``."""

    __slots__ = ("kind", "state")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def has_state_dict(value: object) -> bool:
    """Is ``value`` saved by ``state_dict`` and restored by ``load_state_dict``?"""
    cls = type(value)
    return callable(getattr(cls, "state_dict", None)) and callable(getattr(cls, "load_state_dict", None))


def stored_storage(index: int, device: str, size: int) -> Any:
    """A torch storage whose bytes are buffer ``index``; the unpickler puts its own method in this place."""
    raise pickle.UnpicklingError("a stored buffer was met outside a checkpoint")


def _storage(data: Buffer, device: str) -> Any:
    torch = importlib.import_module("torch")
    size = len(data)
    # Torch's own allocation, not the buffer's: BLAS may give other last bits for another alignment.
    storage = torch.UntypedStorage(size)
    if size:
        memoryview((ctypes.c_char * size).from_address(storage.data_ptr())).cast("B")[:] = data
    where = torch.device(device)
    if where.type == "cpu" or not _is_there(torch, where):
        return storage
    flat = torch.empty(0, dtype=torch.uint8).set_(storage)
    return flat.to(where).untyped_storage()


def _is_there(torch: Any, device: Any) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_available()) and (device.index or 0) < torch.cuda.device_count()
    return bool(getattr(getattr(torch, device.type, None), "is_available", lambda: False)())


def inline_storage(data: bytes, device: str) -> Any:
    """A small torch storage, its bytes in the stream."""
    return _storage(data, device)


def typed_storage(storage: Any, dtype: Any) -> Any:
    """The typed wrapper that torch's own tensor reduction asks for."""
    torch = importlib.import_module("torch")
    return torch.storage.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)


def tensor(
    storage: Any,
    dtype: Any,
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool,
    is_parameter: bool,
) -> Any:
    """A tensor over ``storage``."""
    torch = importlib.import_module("torch")
    made = torch.empty(0, dtype=dtype, device=storage.device).set_(storage, offset, shape, stride)
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
    """A numpy array over ``flat``, which other arrays of the state lie over too."""
    numpy = importlib.import_module("numpy")
    array = numpy.ndarray(shape, dtype, flat, offset, strides)
    if not writable:
        array.flags.writeable = False
    return array


def _is_importable(value: Any) -> bool:
    """Can a class or function be found again by its name? Then its newest definition is the right one."""
    found: Any = sys.modules.get(getattr(value, "__module__", None) or "")
    for part in getattr(value, "__qualname__", "").split("."):
        found = getattr(found, part, None)
    return found is value


class _Reducers:
    """The part of the pickler that knows torch and numpy. Mixed in before a real pickler class."""

    torch: Any = None
    numpy: Any = None

    def __init__(self, out: io.BytesIO, shared: dict[int, tuple[Any, int, Any]]) -> None:
        make: Any = super().__init__
        make(out, protocol=5, buffer_callback=self.take)
        self.buffers: list[Buffer] = []
        self.shared = shared
        self.arrays: dict[int, tuple[int, int, Any, Any]] = {}
        self._storages: dict[int, Any] = {}
        torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
        self.torch = torch if hasattr(torch, "UntypedStorage") else None
        self.numpy = numpy if hasattr(numpy, "ndarray") else None

    def take(self, buffer: pickle.PickleBuffer) -> bool:
        """Keep a copy of an out-of-band buffer; true: leave it in the stream."""
        raw = buffer.raw()
        if raw.nbytes < INLINE_BYTES:
            return True
        self.buffers.append(bytes(raw))
        return False

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, type | types.FunctionType):
            if _is_importable(value):
                return NotImplemented
            return self._otherwise(value)
        if isinstance(value, io.TextIOWrapper | io.BufferedIOBase | io.RawIOBase) and not isinstance(value, io.BytesIO):
            raise Refused("an open file lives only in this process; keep its path and position")
        torch, numpy = self.torch, self.numpy
        if torch is not None:
            if isinstance(value, torch.Tensor):
                return self._tensor(value)
            if isinstance(value, torch.UntypedStorage):
                return self._untyped(value)
            if isinstance(value, torch.storage.TypedStorage):
                return typed_storage, (self._canonical(value._untyped_storage), value.dtype)
            if isinstance(value, torch.Generator):
                state = value.get_state()
                return torch_generator, (str(value.device), self._bytes(state.untyped_storage()))
        if numpy is not None and isinstance(value, numpy.ndarray):
            return self._array(value)
        if has_state_dict(value):
            cls = type(value)
            return StateDict, (f"{cls.__module__}.{cls.__qualname__}",), value.state_dict()
        return self._otherwise(value)

    def _otherwise(self, value: Any) -> Any:
        following = getattr(super(), "reducer_override", None)
        return NotImplemented if following is None else following(value)

    def _tensor(self, value: Any) -> Any:
        if value.requires_grad and not value.is_leaf:
            raise Refused("the tensor hangs on an autograd graph, which would be lost: save value.detach()")
        if value.is_meta:
            raise Refused("the tensor is on the meta device and has no data")
        kind = type(value)
        is_parameter = kind is self.torch.nn.Parameter
        if (
            (kind is not self.torch.Tensor and not is_parameter)
            or value.layout is not self.torch.strided
            or value.is_quantized
            or value.is_conj()
            or value.is_neg()
            or value.__dict__
        ):
            # Rare kinds go through torch's own reduction, which comes back here for their storages.
            return NotImplemented
        storage = self._canonical(value.untyped_storage())
        where = value.storage_offset(), tuple(value.shape), value.stride()
        return tensor, (storage, value.dtype, *where, value.requires_grad, is_parameter)

    def _canonical(self, storage: Any) -> Any:
        # Torch may hand out a new Python object for the same memory; one object per memory keeps sharing.
        return self._storages.setdefault(storage._cdata, storage)

    def _bytes(self, storage: Any) -> bytes:
        host = storage if storage.device.type == "cpu" else storage.cpu()
        size = host.nbytes()
        return bytes(memoryview((ctypes.c_char * size).from_address(host.data_ptr()))) if size else b""

    def _untyped(self, storage: Any) -> Any:
        first = self._canonical(storage)
        if first is not storage:
            return _same, (first,)
        device, data = str(storage.device), self._bytes(storage)
        if len(data) < INLINE_BYTES:
            return inline_storage, (data, device)
        self.buffers.append(data)
        return stored_storage, (len(self.buffers) - 1, device, len(data))

    def _array(self, value: Any) -> Any:
        numpy = self.numpy
        plain = numpy.asarray(value) if isinstance(value, numpy.memmap) else value
        if type(plain) is not numpy.ndarray or plain.dtype.hasobject:
            return self._otherwise(value)
        flat, start, known = self.shared.get(id(value), (None, 0, None))
        if known is value:
            first = plain.__array_interface__["data"][0] - start
            return array_view, (
                flat,
                plain.dtype,
                plain.shape,
                first,
                plain.strides,
                int(plain.flags.writeable),
            )
        owner = _owner(numpy, plain)
        if plain.size and owner is not None:
            self.arrays[id(value)] = (*memory_bounds(plain), owner, value)
        if not (plain.flags.c_contiguous or plain.flags.f_contiguous):
            plain = plain.copy(order="C")
        return plain.__reduce_ex__(5)


def _same(value: Any) -> Any:
    return value


def _owner(numpy: Any, array: Any) -> Any:
    """The array that owns the memory, where numpy does."""
    while not array.flags.owndata:
        array = array.base
        if not isinstance(array, numpy.ndarray):
            return None
    return array


def memory_bounds(array: Any) -> tuple[int, int]:
    """First address of a numpy array, and the one past the last."""
    low = high = array.__array_interface__["data"][0]
    for count, stride in zip(array.shape, array.strides, strict=True):
        if stride < 0:
            low += (count - 1) * stride
        else:
            high += (count - 1) * stride
    return low, high + array.itemsize


def _overlaps(numpy: Any, arrays: dict[int, tuple[int, int, Any, Any]]) -> dict[int, tuple[Any, int, Any]]:
    """For arrays of the state that lie over the same memory: common bytes, their address, the array."""
    shared: dict[int, tuple[Any, int, Any]] = {}
    cluster: list[tuple[int, int, int]] = []

    def close() -> None:
        if len(cluster) > 1:
            low, high = cluster[0][0], max(item[1] for item in cluster)
            memory = (ctypes.c_char * (high - low)).from_address(low)
            flat = numpy.frombuffer(memory, dtype=numpy.uint8)
            for _, _, key in cluster:
                shared[key] = (flat, low, arrays[key][3])
        cluster.clear()

    end = 0
    for low, high, key in sorted((low, high, key) for key, (low, high, _, _) in arrays.items()):
        if low >= end:
            close()
        cluster.append((low, high, key))
        end = max(end, high)
    close()
    return shared


class _Plain(_Reducers, pickle.Pickler):
    """Plain pickle, with those reducers."""


@functools.cache
def _cloud() -> Any:
    """A pickler that also writes lambdas and local classes, by value."""
    cloudpickle = importlib.import_module("cloudpickle")
    return type("_Cloud", (_Reducers, cloudpickle.Pickler), {})


def dump(value: object, *, by_value: bool = False) -> tuple[bytes, list[Buffer]]:
    """The stream and its buffers.

    Args:
        by_value: write what cannot be found by name (lambdas, local classes) by value, through cloudpickle.
    Raises:
        Refused: an object that pickle would save wrongly.
        Exception: whatever the objects' own reduction raises.
    """
    shared: dict[int, tuple[Any, int, Any]] = {}
    while True:
        out = io.BytesIO()
        cls: Any = _cloud() if by_value else _Plain
        pickler = cls(out, shared)
        pickler.dump(value)
        if not shared and (shared := _overlaps(pickler.numpy, pickler.arrays)):
            continue  # overlapping arrays were met: write them once more, as views of common bytes
        return out.getvalue(), pickler.buffers


class StateUnpickler(pickle.Unpickler):
    """Reads what ``dump`` wrote; ``records`` are the ``StateDict`` records that it met."""

    def __init__(self, skeleton: bytes, buffers: Sequence[Buffer]) -> None:
        self.records: list[StateDict] = []
        self._buffers = buffers
        self._next = 0
        super().__init__(io.BytesIO(skeleton), buffers=self._out_of_band())

    def _out_of_band(self) -> Iterator[bytearray]:
        # Arrays lie over these for the rest of their lives, so each gets memory of its own, and writable.
        while True:
            self._next += 1
            yield bytearray(self._buffers[self._next - 1])

    def find_class(self, module: str, name: str) -> Any:
        """The class or function of that name; two of ours are this loader's own methods."""
        if module == __name__:
            if name == "stored_storage":
                return self._stored_storage
            if name == "StateDict":
                return self._record
        return super().find_class(module, name)

    def _stored_storage(self, index: int, device: str, size: int) -> Any:
        # Buffers were numbered in the stream's order; ours is not the next array's.
        self._next = max(self._next, index + 1)
        data = self._buffers[index]
        if len(data) != size:
            raise pickle.UnpicklingError(f"buffer {index} has {len(data)} bytes, not {size}")
        return _storage(data, device)

    def _record(self, kind: str) -> StateDict:
        record = StateDict(kind)
        self.records.append(record)
        return record
