"""Where the buffers of a stored state are read to: into live arrays and tensors that fit, else into new memory.

The stream is read twice. The first time uses stand-ins, which create nothing and run no code of the state's classes, to
learn which buffer belongs where. Then all buffers are read in parallel, and the second time the stream is loaded over
memory that has the content already. A buffer is read into a live array only if the saved array is at the same place
(reached through plain containers, or a module's or optimizer's own ``state_dict``), has the same shape and type, and
covers the whole buffer.
"""

from __future__ import annotations

import collections
import contextlib
import importlib
import io
import pickle
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from qcity_nb.checkpoint.memory import allocate, view_at
from qcity_nb.checkpoint.state import pickling, unpickle_functions
from qcity_nb.checkpoint.state.frozen_buffer import Content, fill
from qcity_nb.checkpoint.state.kinds import SCALARS
from qcity_nb.checkpoint.state.overlapping_arrays import memory_bounds
from qcity_nb.errors import CheckpointError

__all__ = ["TargetMemory", "read_buffers"]

_MISSING = object()


@dataclass(slots=True, eq=False)
class TargetMemory:
    """Memory with the content of each buffer, as ``StateUnpickler`` needs it."""

    memory: list[Any] = field(default_factory=list)
    filled: dict[int, tuple[int, Any]] = field(default_factory=dict)
    """Live memory that was read into: its bytes and live object, by address."""


class _Idle(type):
    """Metaclass of ``_Nothing``, which is its own instance."""

    def __call__(cls, *_: Any, **__: Any) -> Any:
        return cls

    def __setstate__(cls, state: Any) -> None:
        pass

    def __setitem__(cls, key: Any, value: Any) -> None:
        pass

    def append(cls, value: Any) -> None:
        """As a list has it; ignored."""

    def extend(cls, values: Any) -> None:
        """As a list has it; ignored."""

    def add(cls, value: Any) -> None:
        """As a set has it; ignored."""


class _Nothing(metaclass=_Idle):
    """A stand-in for any object, class or function of the state. Creates and does nothing.

    It is a class because a call may return one (the notebook's), of which the stream then makes an instance.
    """

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return cls


@dataclass(slots=True, eq=False)
class _Array:
    """A saved numpy array over buffer ``index``."""

    index: int
    dtype: Any
    shape: tuple[int, ...]
    order: str


@dataclass(slots=True, eq=False)
class _Storage:
    index: int
    size: int


@dataclass(slots=True, eq=False)
class _Tensor:
    """A saved tensor over a storage."""

    storage: _Storage
    dtype: Any
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Token(bytearray):
    """A stand-in for an out-of-band buffer."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.number = index


class _Plan(pickle.Unpickler):
    """Reads a stream with stand-ins."""

    def __init__(self, skeleton: bytes) -> None:
        self.storages: set[int] = set()
        """Buffers that torch needs as storages."""
        self._next = 0
        super().__init__(io.BytesIO(skeleton), buffers=self._tokens())

    def _tokens(self) -> Iterator[_Token]:
        while True:
            self._next += 1
            yield _Token(self._next - 1)

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in, except for arrays and what contains them."""
        if module == unpickle_functions.__name__:
            return {"stored_storage": self._storage, "tensor": self._tensor}.get(name, _Nothing)
        if (module, name) == (pickling.__name__, "StateDict"):
            return pickling.StateDict
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("numpy", "dtype") or (module.startswith("numpy.dtypes") and name.endswith("DType")):
            return super().find_class(module, name)
        if name == "_frombuffer" and module.startswith("numpy."):
            return self._array
        if module == "torch":
            value = getattr(importlib.import_module("torch"), name, None)
            if type(value).__name__ == "dtype":
                return value
        return _Nothing

    def _storage(self, index: int, device: str, size: int) -> _Storage:
        self._next = max(self._next, index + 1)
        self.storages.add(index)
        return _Storage(index, size if device == "cpu" else -1)

    def _tensor(self, storage: Any, dtype: Any, offset: int, shape: Any, stride: Any, *_: Any) -> Any:
        return _Tensor(storage, dtype, offset, shape, stride) if isinstance(storage, _Storage) else _Nothing()

    def _array(self, buffer: Any, dtype: Any, shape: Any, order: str, *rest: Any) -> Any:
        token = buffer.obj if isinstance(buffer, memoryview) else buffer  # a view: the array was read-only
        if rest or not isinstance(token, _Token):
            return _Nothing()
        return _Array(token.number, dtype, tuple(shape), order)


def read_buffers(skeleton: bytes, buffers: Sequence[Content], *, into: Any = None) -> TargetMemory:
    """Read every buffer, into the live arrays of ``into`` where one fits.

    Raises:
        CheckpointCorrupt: a buffer is damaged. Live arrays may then hold a part of the checkpoint.
        CheckpointError: qcity did not write the stream.
    """
    target_memory = TargetMemory()
    if not buffers:
        return target_memory
    places = _Places([buffer.size for buffer in buffers])
    storages: set[int] = set()
    if (
        into is not None or unpickle_functions.stored_storage.__name__.encode() in skeleton
    ):  # else the stream needs only bytes
        plan = _Plan(skeleton)
        try:
            tree = plan.load()
            with contextlib.suppress(EOFError):
                plan.load()  # what was written after the state has buffers too
        except Exception as error:
            raise CheckpointError(f"the checkpoint's state cannot be loaded: {error}") from error
        storages = plan.storages
        if into is not None:
            places.walk(into, tree)
    target_memory.filled = places.filled
    live: list[tuple[Content, memoryview]] = []
    own: list[tuple[Content, memoryview]] = []
    for index, buffer in enumerate(buffers):
        is_live = index in places.targets
        target, memory = places.targets[index] if is_live else _allocate_own(index in storages, buffer.size)
        target_memory.memory.append(memory)
        if buffer.size:
            (live if is_live else own).append((buffer, target))
    fill(own, is_own=True)  # first: damage here leaves the live arrays unchanged
    fill(live)
    return target_memory


def _allocate_own(is_storage: bool, size: int) -> tuple[memoryview, Any]:
    if is_storage:
        # Torch's own allocation: with another alignment BLAS may compute other last bits.
        storage = importlib.import_module("torch").UntypedStorage(size)
        return view_at(storage.data_ptr(), size) if size else memoryview(b""), storage
    memory = allocate(size)
    return memoryview(memory), memory


class _Places:
    """Pairs saved arrays with live ones."""

    def __init__(self, sizes: list[int]) -> None:
        self._sizes = sizes
        self.targets: dict[int, tuple[memoryview, Any]] = {}
        """By buffer: live memory, and the object that the unpickler uses for it."""
        self.filled: dict[int, tuple[int, Any]] = {}
        self._spans: list[tuple[int, int]] = []

    def walk(self, live: Any, saved: Any) -> None:
        """Go through both side by side, as ``restore_in_place`` does."""
        stack = [(live, saved)]
        seen: set[tuple[int, int]] = set()
        while stack:
            live, saved = stack.pop()
            if live is _MISSING or (id(live), id(saved)) in seen:
                continue
            seen.add((id(live), id(saved)))
            if isinstance(saved, _Array):
                self._claim_array(live, saved)
            elif isinstance(saved, _Tensor):
                self._claim_tensor(live, saved)
            else:
                stack += reversed(_pairs(live, saved))

    def _is_free(self, index: int, low: int, high: int) -> bool:
        return index not in self.targets and all(high <= start or end <= low for start, end in self._spans)

    def _claim(self, index: int, low: int, memory: Any, live: Any) -> None:
        size = self._sizes[index]
        self._spans.append((low, low + size))
        self.targets[index] = view_at(low, size), memory
        self.filled[low] = size, live

    def _claim_array(self, live: Any, saved: _Array) -> None:
        numpy: Any = sys.modules.get("numpy")
        if numpy is None or type(live) not in (numpy.ndarray, numpy.memmap) or not live.flags.writeable:
            return
        if live.dtype != saved.dtype or live.shape != saved.shape or live.nbytes != self._sizes[saved.index]:
            return
        flags = live.flags
        if not (flags.c_contiguous if saved.order == "C" else flags.f_contiguous) or not live.nbytes:
            return
        low, high = memory_bounds(live)
        if self._is_free(saved.index, low, high):
            plain = numpy.asarray(live)
            self._claim(saved.index, low, memoryview(plain if saved.order == "C" else plain.T).cast("B"), live)

    def _claim_tensor(self, live: Any, saved: _Tensor) -> None:
        torch: Any = sys.modules.get("torch")
        index, size = saved.storage.index, saved.storage.size
        if torch is None or not isinstance(live, torch.Tensor) or live.layout is not torch.strided or not size:
            return
        if live.device.type != "cpu" or live.dtype != saved.dtype or tuple(live.shape) != tuple(saved.shape):
            return
        if saved.offset or live.storage_offset() or tuple(live.stride()) != tuple(saved.stride):
            return
        storage = live.untyped_storage()
        if live.numel() * live.element_size() != size or storage.nbytes() != size or size != self._sizes[index]:
            return
        low = live.data_ptr()
        if self._is_free(index, low, low + size):
            self._claim(index, low, storage, live)


def _pairs(live: Any, saved: Any) -> list[tuple[Any, Any]]:
    if isinstance(saved, pickling.StateDict):
        return _state_dict_pairs(live, saved.state) if pickling.has_state_dict(live) else []
    if type(saved) in (dict, collections.OrderedDict) and isinstance(live, dict):
        return [
            (live.get(key, _MISSING), item)
            for key, item in saved.items()
            if type(item) not in SCALARS and (type(key) in SCALARS or _is_key(key))
        ]
    if type(saved) in (list, tuple) and type(live) is type(saved):
        return [(live_item, item) for live_item, item in zip(live, saved, strict=False) if type(item) not in SCALARS]
    return []


def _is_key(key: Any) -> bool:
    return key is not _Nothing and not isinstance(key, _Array | _Tensor)


def _state_dict_pairs(live: Any, saved: Any) -> list[tuple[Any, Any]]:
    """What ``load_state_dict`` would fill; only of torch's modules and optimizers, whose state_dict is no copy."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not isinstance(live, torch.nn.Module | torch.optim.Optimizer):
        return []
    state = live.state_dict()
    if not isinstance(saved, dict) or state.keys() != saved.keys():
        return []  # it may load under other names than it saves
    return [(state, saved)]
