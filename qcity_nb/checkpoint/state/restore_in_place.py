"""Fills live objects with loaded values: which objects keep their identity, and what they are filled with.

Two passes. *Pair* walks the live and the saved state side by side and decides which live object each saved one is
filled into: the first live object at the same place, if it is of the same kind and no other saved object has claimed
it. *Build* then fills them; a reference to a saved object that has a live partner becomes a reference to the partner.
So the result has the aliases of the saved state and the identities of the live one.
"""

from __future__ import annotations

import bisect
import contextlib
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from qcity_nb.checkpoint.state import training, unsaveable
from qcity_nb.checkpoint.state.kinds import SCALARS, is_plain, kind_of
from qcity_nb.checkpoint.state.overlapping_arrays import memory_bounds
from qcity_nb.checkpoint.state.pickling import StateDict, has_state_dict
from qcity_nb.errors import CheckpointError

__all__ = ["Loaded", "Misplaced", "place"]

_MISSING = object()
_DEPTH = 100_000


class Misplaced(Exception):
    """A live array that was already read into would be filled with another array's content."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A state as new objects, to fill live ones with."""

    state: Any
    records: list[StateDict]
    more: Any = None
    """What was written after it: ``training.describe``."""


def place(target: Any, loaded: Loaded, filled: dict[int, tuple[int, Any]], *, has_gradients: bool) -> None:
    """Fill ``target`` with what was saved.

    Args:
        has_gradients: gradients are restored too: none, or those that were saved.
        filled: live memory that has its content already: bytes and live object by address (``buffer_targets``).
    Raises:
        CheckpointError: the two do not fit; the message names the variable.
        Misplaced: ``filled`` does not match how the two fit; so far only arrays were filled, perhaps partly.
    """
    saved = loaded.state
    work = _Placing(loaded, filled)
    work.pair(target, saved)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, _DEPTH))  # what pickle could write must not be nested too deeply to restore
    try:
        result = work.value(saved)
    finally:
        sys.setrecursionlimit(limit)
    if result is not target:
        raise CheckpointError(
            f"state is now {_describe(target)}, and the checkpoint holds {_describe(saved)}:"
            " it cannot be restored in place (put it into a dict)"
        )
    for record in loaded.records:
        if id(record) not in work.done:
            raise work.homeless(record)
    if has_gradients and work.optimizers:
        training.restore_gradients((loaded.more or {}).get("gradients", ()), work.optimizers, work.live)


def _describe(value: Any) -> str:
    if isinstance(value, StateDict):
        return f"the state_dict of a {value.kind}"
    shape = getattr(value, "shape", None)
    return f"a {type(value).__qualname__}" + (f" of shape {tuple(shape)}, {value.dtype}" if shape is not None else "")


class _Placing:
    def __init__(self, loaded: Loaded, filled: dict[int, tuple[int, Any]]) -> None:
        self.root = loaded.state
        self.optimizers: list[Any] = []
        self._groups = {id(record): groups for record, groups in (loaded.more or {}).get("groups", ())}
        self._filled = filled
        self._starts = sorted(filled)
        self.done: dict[int, Any] = {}
        self._partner: dict[int, Any] = {}
        self._claimed: set[int] = set()
        self._memory: dict[int, list[tuple[int, int, int, bool]]] = {}
        self._states: dict[int, tuple[Any, ...]] = {}
        self._alive: list[Any] = []  # whose ids are keys above

    # -- pair

    def pair(self, target: Any, saved: Any) -> None:
        """Find the live partners of ``saved`` and of everything in it."""
        stack = [(target, saved)]
        seen: set[tuple[int, int]] = set()
        while stack:
            live, old = stack.pop()
            if live is _MISSING or (id(live), id(old)) in seen:
                continue
            seen.add((id(live), id(old)))
            kind = kind_of(old)
            if not kind or not self._fits(live, old, kind):
                continue
            if kind != "tuple":
                if id(old) in self._partner or id(live) in self._claimed:
                    continue
                self._partner[id(old)] = live
                self._claimed.add(id(live))
            # The first place in the saved state's order decides, so they are pushed in reverse.
            stack += reversed([pair for pair in self._pairs(live, old, kind) if type(pair[1]) not in SCALARS])

    def _pairs(self, live: Any, old: Any, kind: str) -> Iterator[tuple[Any, Any]]:
        if kind == "dict":
            for key, item in old.items():
                yield live.get(key, _MISSING), item
        elif kind in ("list", "tuple", "deque"):
            yield from zip(live, old, strict=False)
        elif kind == "record":
            state = live.state_dict()
            self._alive.append(state)
            yield from self._records(state, old.state)
            return
        if kind in ("object", "dict", "list"):
            yield from self._parts(self._state(live), self._state(old))

    def _records(self, live: Any, old: Any) -> Iterator[tuple[Any, Any]]:
        """Records inside a state_dict: only they need partners, load_state_dict handles the rest."""
        if isinstance(old, StateDict):
            yield live, old
        elif isinstance(old, dict) and isinstance(live, dict):
            for key, item in old.items():
                yield from self._records(live.get(key, _MISSING), item)
        elif isinstance(old, list | tuple) and isinstance(live, list | tuple):
            for live_item, item in zip(live, old, strict=False):
                yield from self._records(live_item, item)

    def _parts(self, live: Any, old: Any) -> Iterator[tuple[Any, Any]]:
        if isinstance(live, dict) and isinstance(old, dict):
            for key, item in old.items():
                yield live.get(key, _MISSING), item
        elif isinstance(live, tuple) and isinstance(old, tuple) and len(live) == len(old):
            for live_item, item in zip(live, old, strict=True):
                yield from self._parts(live_item, item)
        else:
            yield live, old

    def _fits(self, live: Any, old: Any, kind: str) -> bool:
        if kind == "record":
            return has_state_dict(live)
        if has_state_dict(live):
            return False
        if kind == "ndarray":
            return self._array_fits(live, old)
        if kind == "tensor":
            return self._tensor_fits(live, old)
        live_type, old_type = type(live), type(old)
        if live_type is not old_type and (live_type.__module__, live_type.__qualname__) != (
            old_type.__module__,
            old_type.__qualname__,
        ):
            return False
        if kind == "deque":
            return bool(live.maxlen == old.maxlen)
        if kind == "array":
            return bool(live.typecode == old.typecode)
        if kind == "torch generator":
            return bool(live.device == old.device)
        if kind == "numpy generator":
            return type(live.bit_generator) is type(old.bit_generator)
        if kind == "numpy randomstate":
            return bool(live.get_state(legacy=False)["bit_generator"] == old.get_state(legacy=False)["bit_generator"])
        return True

    def _array_fits(self, live: Any, old: Any) -> bool:
        numpy: Any = sys.modules["numpy"]
        if type(live) not in (numpy.ndarray, numpy.memmap) or not live.flags.writeable:
            return False
        if live.shape != old.shape or live.dtype != old.dtype:
            return False
        root = live
        while isinstance(getattr(root, "base", None), numpy.ndarray):
            root = root.base
        low, high = memory_bounds(live)
        old_low, _ = memory_bounds(old)
        return self._is_free(id(root), (low, high, old_low, live.strides == old.strides), live)

    def _tensor_fits(self, live: Any, old: Any) -> bool:
        torch: Any = sys.modules["torch"]
        if type(live) is not type(old) or live.layout is not torch.strided or old.layout is not torch.strided:
            return False
        if live.shape != old.shape or live.dtype != old.dtype or live.device != old.device:
            return False
        if live.requires_grad != old.requires_grad or (live.requires_grad and not live.is_leaf):
            return False
        if any(stride == 0 and size > 1 for stride, size in zip(live.stride(), live.shape, strict=True)):
            return False  # an expanded tensor cannot be filled element by element
        steps = zip(live.stride(), live.shape, strict=True)
        low = live.data_ptr()
        high = low + (sum(stride * (size - 1) for stride, size in steps if size) + 1) * live.element_size()
        same = bool(live.stride() == old.stride())
        return self._is_free(live.untyped_storage().data_ptr(), (low, high, old.data_ptr(), same), live)

    def _is_free(self, memory: int, span: tuple[int, int, int, bool], live: Any) -> bool:
        """Overlapping live arrays may all be filled only if the saved ones overlap in the same way."""
        low, high, old_low, is_same = span
        others = self._memory.setdefault(memory, [])
        for start, end, old_start, was_same in others:
            overlap = start < high and low < end
            if overlap and not (is_same and was_same and low - start == old_low - old_start):
                return False
        others.append(span)
        self._alive.append(live)
        return True

    def _state(self, value: Any) -> Any:
        """Its attributes, as pickle would save them; computed once, since custom code may return new objects."""
        if id(value) not in self._states:
            reduced = object.__reduce_ex__(value, 4) if is_plain(value) else ()
            self._states[id(value)] = (value, reduced[2] if len(reduced) > 2 else None)
        return self._states[id(value)][1]

    # -- build

    def value(self, saved: Any) -> Any:
        """The object that replaces ``saved`` in the restored state."""
        if type(saved) in SCALARS:
            return saved
        key = id(saved)
        if key in self.done:
            return self.done[key]
        kind = kind_of(saved)
        if not kind:
            return saved
        if kind == "tuple":
            items = [self.value(item) for item in saved]
            same = all(new is old for new, old in zip(items, saved, strict=True))
            self.done[key] = result = saved if same else tuple.__new__(type(saved), items)
            return result
        target = self._partner.get(key, saved)
        if kind == "record" and target is saved:
            raise self.homeless(saved)
        self.done[key] = target
        getattr(self, "_fill_" + kind.replace(" ", "_"))(target, saved)
        return target

    def live(self, saved: Any) -> Any:
        """The live object of a saved one; ``None``: a record has none."""
        return self._partner.get(id(saved)) if isinstance(saved, StateDict) else self.value(saved)

    def homeless(self, record: StateDict) -> CheckpointError:
        """The error for a saved state_dict without an object to load it into."""
        return CheckpointError(
            f"{unsaveable.find(self.root, record)} was saved as the state_dict of a {record.kind}, and there is"
            " no such object to load it into: build it before the loop starts"
        )

    def _fill_record(self, target: Any, saved: StateDict) -> None:
        state = self.value(saved.state)
        if self._filled:
            self._put_live(target, state)
        torch: Any = sys.modules.get("torch")
        if torch is not None and isinstance(target, torch.optim.Optimizer):
            self.optimizers.append(target)
            if id(saved) in self._groups:
                training.restore_groups(target, self._groups[id(saved)], self.live)
        try:
            target.load_state_dict(state)
        except Exception as error:
            path = unsaveable.find(self.root, saved)
            text = " ".join(str(error).split())
            raise CheckpointError(f"{path} does not fit the checkpoint ({saved.kind}): {text}") from error

    def _fill_dict(self, target: Any, saved: Any) -> None:
        items = [(self.value(key), self.value(item)) for key, item in saved.items()]
        if target is not saved or any(
            new is not key or item is not saved[key] for (new, item), key in zip(items, saved, strict=True)
        ):
            target.clear()
            for key, item in items:
                dict.__setitem__(target, key, item) if type(target) is Counter else target.__setitem__(key, item)
        if isinstance(target, defaultdict) and isinstance(saved, defaultdict):
            target.default_factory = saved.default_factory
        self._fill_object(target, saved)

    def _fill_list(self, target: Any, saved: Any) -> None:
        items = [self.value(item) for item in saved]
        target[:] = items
        self._fill_object(target, saved)

    def _fill_deque(self, target: Any, saved: Any) -> None:
        items = [self.value(item) for item in saved]
        target.clear()
        target.extend(items)

    def _fill_set(self, target: Any, saved: Any) -> None:
        items = [self.value(item) for item in saved]
        target.clear()
        target.update(items)

    def _fill_bytearray(self, target: Any, saved: Any) -> None:
        if target is not saved:
            target[:] = saved

    _fill_array = _fill_bytearray

    def _is_there(self, target: Any, low: int, high: int, source: int) -> bool:
        """Was this buffer read into ``target`` already?"""
        near = bisect.bisect_left(self._starts, high) - 1  # these do not overlap: the last one decides
        if near < 0:
            return False
        start = self._starts[near]
        size, live = self._filled[start]
        if low >= start + size:
            return False
        if source != low or live is not target:
            raise Misplaced
        return True

    def _put_live(self, target: Any, state: Any) -> None:
        """Replace saved tensors that use a module's memory by its own tensors: torch then need not copy them."""
        torch: Any = sys.modules["torch"]
        if not isinstance(target, torch.nn.Module) or not isinstance(state, dict):
            return
        own = dict(target.named_parameters(remove_duplicate=False))
        own.update(target.named_buffers(remove_duplicate=False))
        for key, item in state.items():
            live = own.get(key)
            if live is None or not isinstance(item, torch.Tensor) or live.data_ptr() not in self._filled:
                continue
            if live.data_ptr() == item.data_ptr() and live.shape == item.shape and live.stride() == item.stride():
                state[key] = live

    def _fill_ndarray(self, target: Any, saved: Any) -> None:
        if target is not saved and not self._is_there(
            target, *memory_bounds(target), saved.__array_interface__["data"][0]
        ):
            target[...] = saved

    def _fill_tensor(self, target: Any, saved: Any) -> None:
        if target is saved:
            return
        low, span = target.data_ptr(), 1
        span += sum(stride * (size - 1) for stride, size in zip(target.stride(), target.shape, strict=True) if size)
        if not self._is_there(target, low, low + span * target.element_size(), saved.data_ptr()):
            torch: Any = sys.modules["torch"]
            with torch.no_grad():
                target.copy_(saved)

    def _fill_random(self, target: Any, saved: Any) -> None:
        target.setstate(saved.getstate())

    def _fill_torch_generator(self, target: Any, saved: Any) -> None:
        target.set_state(saved.get_state())

    def _fill_numpy_generator(self, target: Any, saved: Any) -> None:
        # Through __reduce__, which includes the seed sequence: spawn() counts its children there.
        if target is not saved:
            target.bit_generator.__setstate__(saved.bit_generator.__reduce__()[2])

    def _fill_numpy_randomstate(self, target: Any, saved: Any) -> None:
        target.set_state(saved.get_state(legacy=False))

    def _fill_object(self, target: Any, saved: Any) -> None:
        if not is_plain(saved):
            return
        state = self._state(saved)
        new = self._rewire(state)
        if target is saved and new is state:
            return
        known = self._state(target)
        try:
            _drop(target, known, new)
            if new is None:
                return
            if hasattr(type(target), "__setstate__"):
                target.__setstate__(new)
                return
            attributes, slots = new if isinstance(new, tuple) else (new, None)
            for name, item in (attributes or {}).items():
                target.__dict__[sys.intern(name)] = item
            for name, item in (slots or {}).items():
                object.__setattr__(target, name, item)
        except Exception as error:
            raise CheckpointError(
                f"{unsaveable.find(self.root, saved)} cannot be restored into the existing"
                f" {type(target).__qualname__}: {error}"
            ) from error

    def _rewire(self, state: Any) -> Any:
        """The attributes, with live partners instead of saved objects; the same object if nothing changes."""
        if type(state) is dict:
            new = {name: self.value(item) for name, item in state.items()}
            return state if all(new[name] is state[name] for name in state) else new
        if type(state) is tuple:
            parts = tuple(self._rewire(part) for part in state)
            return (
                state if all(new_part is old_part for new_part, old_part in zip(parts, state, strict=True)) else parts
            )
        return self.value(state)


def _drop(target: Any, known: Any, new: Any) -> None:
    """Remove the attributes that the live object would save and the saved one does not have.

    What the class itself does not save (a lock, a cache) stays unchanged.
    """
    for known_names, new_names in zip(_names(known), _names(new), strict=True):
        for name in known_names - new_names:
            with contextlib.suppress(AttributeError):
                object.__delattr__(target, name)


def _names(state: Any) -> tuple[set[str], set[str]]:
    attributes, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
    return (
        set(attributes) if isinstance(attributes, dict) else set(),
        set(slots) if isinstance(slots, dict) else set(),
    )
