"""One pickle-5 stream for a whole state, with its large buffers beside it.

One stream, so that aliases, shared objects, tied weights and overlapping views are preserved. Three things are not
left to pickle:

* anything with ``state_dict`` and ``load_state_dict`` is written as a ``StateDict`` record, never whole: hooks,
  data sets and trainers that are attached to a module do not belong in a checkpoint;
* the memory of a torch storage becomes one buffer, whatever tensors and views use it;
* numpy arrays of the state that overlap are written as views of one buffer (pickle alone would copy each).

The large buffers are not copied here: ``Span`` has their addresses. The caller copies them before the state may change.
Neither torch nor numpy is imported here unless a checkpoint that is loaded needs it.
"""

from __future__ import annotations

import functools
import importlib
import io
import pickle
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from qcity_nb.checkpoint.buffer import Buffer
from qcity_nb.checkpoint.memory import Span, address_of, view_at
from qcity_nb.checkpoint.state import unpickle_functions
from qcity_nb.checkpoint.state.overlapping_arrays import memory_bounds, overlaps, owner

__all__ = [
    "INLINE_BYTES",
    "Buffer",
    "Describe",
    "Dumped",
    "Part",
    "Reducers",
    "Refused",
    "StateDict",
    "StateUnpickler",
    "dump",
    "has_state_dict",
    "is_importable",
    "memory_bounds",
]

INLINE_BYTES = 4096
"""Smaller buffers stay in the stream: as separate objects they would cost more than they save."""


class Refused(Exception):
    """An object that must not be saved, although pickle would save it; the text says why."""


class StateDict:
    """Replaces an object in the stream that is restored through ``load_state_dict``."""

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


@dataclass(frozen=True, slots=True)
class Part:
    """An object that was written as a ``StateDict``."""

    value: Any
    state: Any
    """Its ``state_dict``."""
    kind: str
    is_module: bool


def is_importable(value: Any) -> bool:
    """Can a class or function be imported by its name? Then its newest definition is the right one."""
    result: Any = sys.modules.get(getattr(value, "__module__", None) or "")
    for part in getattr(value, "__qualname__", "").split("."):
        result = getattr(result, part, None)
    return result is value


def _counter(tensors: Sequence[Any]) -> int:
    """A counter that changes when torch changes one of them; -1 if torch does not count."""
    if not tensors or any(tensor.is_inference() for tensor in tensors):
        return -1
    return sum(tensor._version for tensor in tensors)


class Reducers:
    """The part of the pickler that handles torch and numpy. A mixin: put it before a real pickler class."""

    is_whole = False
    """Are objects that have a ``state_dict`` written whole, not as a ``StateDict`` record?"""

    torch: Any = None
    numpy: Any = None
    jax: Any = None

    def __init__(self, out: io.BytesIO, shared: dict[int, tuple[Any, int, Any]]) -> None:
        make: Any = super().__init__
        make(out, protocol=5, buffer_callback=self.note_buffer)
        self.spans: list[Span] = []
        self.parts: list[Part] = []
        self.storage_bytes = 0
        self.optimizers: list[Any] = []
        """Torch optimizers in the state: their steps can be delayed."""
        self.shared = shared
        self.arrays: dict[int, tuple[int, int, Any, Any]] = {}
        self._storages: dict[int, Any] = {}
        self._over: dict[int, list[Any]] = {}
        torch, numpy, jax = (sys.modules.get(name) for name in ("torch", "numpy", "jax"))
        self.jax = jax if hasattr(jax, "Array") else None
        self.torch = torch if hasattr(torch, "UntypedStorage") else None
        self.numpy = numpy if hasattr(numpy, "ndarray") else None

    def note_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        """Pickle's callback for a buffer. Returns True to leave it in the stream."""
        raw = buffer.raw()
        if raw.nbytes < INLINE_BYTES:
            return True
        self.spans.append(Span(address_of(raw), raw.nbytes, raw))
        return False

    def reducer_override(self, value: Any) -> Any:
        """Called by ``pickle.Pickler`` for each object that is not of a very common type."""
        torch, numpy = self.torch, self.numpy
        if torch is not None:  # first: a loop waits here mostly for a model's hundreds of tensors
            if isinstance(value, torch.Tensor):
                return self._tensor(value)
            if isinstance(value, torch.UntypedStorage):
                return self._untyped(value)
        if isinstance(value, type | types.FunctionType):
            if is_importable(value):
                return NotImplemented
            return self._otherwise(value)
        if numpy is not None and isinstance(value, numpy.ndarray):
            return self._array(value)
        if torch is not None:
            if isinstance(value, torch.storage.TypedStorage):
                return unpickle_functions.typed_storage, (self._canonical(value._untyped_storage), value.dtype)
            if isinstance(value, torch.Generator):
                state = value.get_state()
                return unpickle_functions.torch_generator, (str(value.device), self._bytes(state.untyped_storage()))
        if self.jax is not None and isinstance(value, self.jax.Array):
            return self._jax_array(value)
        if isinstance(value, io.IOBase) and not isinstance(value, io.BytesIO | io.StringIO):
            raise Refused("an open file lives only in this process; keep its path and position")
        if not self.is_whole and has_state_dict(value):
            cls = type(value)
            if torch is not None and isinstance(value, torch.optim.Optimizer):
                self.optimizers.append(value)
            kind, state = f"{cls.__module__}.{cls.__qualname__}", value.state_dict()
            self.parts.append(Part(value, state, kind, torch is not None and isinstance(value, torch.nn.Module)))
            return StateDict, (kind,), state
        return self._otherwise(value)

    def _otherwise(self, value: Any) -> Any:
        following = getattr(super(), "reducer_override", None)
        return NotImplemented if following is None else following(value)

    def _tensor(self, value: Any) -> Any:
        if value.requires_grad and not value.is_leaf:
            raise Refused("the tensor belongs to an autograd graph, which would be lost: save value.detach()")
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
            # Rare kinds use torch's own reduction, which calls this class for their storages.
            return NotImplemented
        storage = self._canonical(value.untyped_storage())
        self._over.setdefault(storage._cdata, []).append(value)
        where = value.storage_offset(), tuple(value.shape), value.stride()
        return unpickle_functions.tensor, (storage, value.dtype, *where, value.requires_grad, is_parameter)

    def _canonical(self, storage: Any) -> Any:
        # Torch may return a new Python object for the same memory; one object per memory preserves sharing.
        return self._storages.setdefault(storage._cdata, storage)

    @property
    def tensors(self) -> set[int]:
        """The ids of the tensors that were written."""
        return {id(tensor) for tensors in self._over.values() for tensor in tensors}

    def _bytes(self, storage: Any) -> bytes:
        host = storage if storage.device.type == "cpu" else storage.cpu()
        size = host.nbytes()
        return bytes(view_at(host.data_ptr(), size)) if size else b""

    def _untyped(self, storage: Any) -> Any:
        first = self._canonical(storage)
        if first is not storage:
            return unpickle_functions.same_storage, (first,)
        size, device = storage.nbytes(), storage.device
        self.storage_bytes += size
        if size < INLINE_BYTES:
            return unpickle_functions.inline_storage, (self._bytes(storage), str(device))
        is_here = device.type == "cpu"
        over = self._over.get(storage._cdata, ())
        self.spans.append(
            Span(
                address=storage.data_ptr() if is_here else 0,
                size=size,
                keep=storage,
                hint=_counter(over),
                device=None if is_here else storage,
                watch=tuple(over),
            )
        )
        return unpickle_functions.stored_storage, (len(self.spans) - 1, str(device), size)

    def _jax_array(self, value: Any) -> Any:
        jax = self.jax
        if not value.is_fully_addressable:
            raise Refused("the jax array has parts on other hosts: gather it first")
        if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
            data = self.numpy.asarray(jax.random.key_data(value))
            return unpickle_functions.jax_key, (data, str(jax.random.key_impl(value)))
        return unpickle_functions.jax_array, (self.numpy.asarray(value),)

    def _array(self, value: Any) -> Any:
        numpy = self.numpy
        plain = numpy.asarray(value) if isinstance(value, numpy.memmap) else value
        if type(plain) is not numpy.ndarray or plain.dtype.hasobject:
            return self._otherwise(value)
        flat, start, known = self.shared.get(id(value), (None, 0, None))
        if known is value:
            first = plain.__array_interface__["data"][0] - start
            return unpickle_functions.array_view, (
                flat,
                plain.dtype,
                plain.shape,
                first,
                plain.strides,
                int(plain.flags.writeable),
            )
        root = owner(numpy, plain)
        if plain.size and root is not None:
            self.arrays[id(value)] = (*memory_bounds(plain), root, value)
        if not (plain.flags.c_contiguous or plain.flags.f_contiguous):
            plain = plain.copy(order="C")
        return plain.__reduce_ex__(5)


class _Plain(Reducers, pickle.Pickler):
    """Plain pickle with these reducers."""


@functools.cache
def _cloud() -> Any:
    """A pickler class that also writes lambdas and local classes, by value."""
    cloudpickle = importlib.import_module("cloudpickle")
    return type("_Cloud", (Reducers, cloudpickle.Pickler), {})


@dataclass(frozen=True, slots=True)
class Dumped:
    """A state as a stream, and the addresses of its large buffers."""

    skeleton: bytes
    spans: list[Span]
    optimizers: list[Any]
    keep: Any
    """What else keeps the memory of the spans alive, apart from the state itself."""
    parts: Sequence[Part] = ()
    at_once: Sequence[Span] = ()
    """Of ``spans``: gradients, which the next iteration changes before any step."""
    size: tuple[int, int] = (0, 0)
    """How many large buffers, and how many bytes of tensors: if these change, the state may be built differently."""


Describe = Callable[[Reducers], Any]
"""Returns what is written after the state, with the same objects; ``None``: nothing."""


def dump(value: object, *, by_value: bool = False, describe: Describe = lambda _: None) -> Dumped:
    """The stream and its buffers, which are still the live ones, not copies.

    Args:
        by_value: write what cannot be found by name (lambdas, local classes) by value, through cloudpickle.
    Raises:
        Refused: an object that pickle would save wrongly.
        Exception: whatever the objects' own code raises.
    """
    shared: dict[int, tuple[Any, int, Any]] = {}
    while True:
        out = io.BytesIO()
        cls: Any = _cloud() if by_value else _Plain
        pickler = cls(out, shared)
        pickler.dump(value)
        size = len(pickler.spans), pickler.storage_bytes
        if not shared and (shared := overlaps(pickler.numpy, pickler.arrays)):
            continue  # there are overlapping arrays: write all again, these as views of common bytes
        if (more := describe(pickler)) is not None:
            pickler.dump(more)
        return Dumped(
            skeleton=out.getvalue(),
            spans=pickler.spans,
            optimizers=pickler.optimizers,
            keep=shared,
            parts=pickler.parts,
            at_once=pickler.spans[size[0] :],
            size=size,
        )


class StateUnpickler(pickle.Unpickler):
    """Reads what ``dump`` wrote; ``records`` are the ``StateDict`` records in it.

    A second ``load`` returns what was written after the state, if anything was; else it raises EOFError.

    Args:
        buffers: memory with the content of each buffer: torch storages where the stream needs one, else
            writable bytes, which the loaded arrays use as their memory.
    """

    def __init__(self, skeleton: bytes, buffers: Sequence[Any]) -> None:
        self.records: list[StateDict] = []
        self._buffers = buffers
        self._next = 0
        super().__init__(io.BytesIO(skeleton), buffers=self._out_of_band())

    def _out_of_band(self) -> Iterator[Any]:
        while True:
            self._next += 1
            yield self._buffers[self._next - 1]

    def find_class(self, module: str, name: str) -> Any:
        """The class or function of that name; two of qcity's own are methods of this class."""
        if (module, name) == (unpickle_functions.__name__, "stored_storage"):
            return self._stored_storage
        if (module, name) == (__name__, "StateDict"):
            return self._record
        return super().find_class(module, name)

    def _stored_storage(self, index: int, device: str, size: int) -> Any:
        # Buffers are numbered in the stream's order; this one must not be used for the next array.
        self._next = max(self._next, index + 1)
        storage = self._buffers[index]
        if storage.nbytes() != size:
            raise pickle.UnpicklingError(f"buffer {index} has {storage.nbytes()} bytes, not {size}")
        return unpickle_functions.move_to_device(storage, device)

    def _record(self, kind: str) -> StateDict:
        record = StateDict(kind)
        self.records.append(record)
        return record
