"""From a state to named buffers, and back in place.

    captured = capture(state)        # the state may change now
    restore(state, captured)         # … and is as it was, the same objects
    load(captured)                   # new objects

How each kind is restored: docs/design.md, "Runs, loops, steps", State. Not saved: hooks and training mode of modules;
gradients and ``requires_grad``, except those of a loop that need it (``training.py``); whatever an object's own
``state_dict`` or ``__getstate__`` leaves out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from qcity_nb.checkpoint.memory import Span, view_at
from qcity_nb.checkpoint.state import buffer_targets, kinds, pickling, restore_in_place, training, unsaveable
from qcity_nb.checkpoint.state.freezer import CaptureBuffer, Freezer, Lazily
from qcity_nb.checkpoint.state.frozen_buffer import Content, SmallBuffer
from qcity_nb.checkpoint.state.structure import Structure
from qcity_nb.errors import CheckpointError, StateRefused
from qcity_nb.secrets import SecretSearch, current_search, current_values

__all__ = [
    "Captured",
    "capture",
    "capture_generators",
    "check_state",
    "copy_span",
    "load",
    "restore",
    "restore_generators",
]


_DEEPEST = 20
"""How deep the holder of a secret is looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """A copy of a state: once ``buffer.copied`` is set, it shares nothing with the live objects."""

    skeleton: bytes
    """The pickle-5 stream, without its large buffers."""
    buffers: Sequence[Content] = ()
    """The large buffers, in the stream's order."""
    buffer: CaptureBuffer | None = None
    """Their memory, if a freezer allocated it: valid until ``release``."""

    @property
    def size_bytes(self) -> int:
        """Bytes of stream and buffers."""
        return len(self.skeleton) + sum(buffer.size for buffer in self.buffers)

    def release(self) -> None:
        """Its content is no longer needed: the next capture may use the memory."""
        if self.buffer is not None:
            self.buffer.release()


def check_state(state: object) -> None:
    """Refuse a top-level ``state`` that cannot be restored in place. ``None`` is allowed: nothing carries over.

    Raises:
        StateRefused: it is immutable, or of a type that only a new object can hold.
    """
    if state is not None and not kinds.is_fillable(state):
        raise StateRefused(
            f"state is a {type(state).__qualname__}, which cannot be restored in place:"
            " use a dict that holds what the loop changes"
        )


def capture(
    state: object,
    freezer: Freezer | None = None,
    *,
    stored: Collection[str] = (),
    lazily: Lazily = "never",
    may_stream: bool = False,
    structure: Structure | None = None,
) -> Captured:
    """Copy ``state``.

    Args:
        freezer: allocates the memory, and knows what has not changed; without one each buffer is copied to new memory.
        stored: names of the objects of the newest checkpoint, which are not copied again.
        lazily: what may be copied after the call returned; see ``CaptureBuffer.copied``.
        may_stream: if memory is short, return the live buffers themselves; see ``CaptureBuffer.is_live``.
        structure: the state's loop. With it gradients in flight and changed parameter groups are captured too, and its
            ``take_news`` returns what a new process cannot restore.
    Raises:
        StateRefused: a variable cannot be saved; the message names it and says why.
    """
    try:
        dumped = _dump(state, structure)
    except Exception as error:
        path, value, cause = _blame(state, error)
        raise StateRefused(f"{path} cannot be saved: {unsaveable.reason(value, cause)}") from error
    if name := current_search().name_in(dumped.skeleton):
        raise StateRefused(
            f"{_holder_of(state, name)} cannot be saved: it holds the secret {name}, which is written nowhere; "
            f'keep it out of state: city.secret("{name}") returns it on each host'
        )
    if structure is not None:
        structure.compare(state, dumped)
    if freezer is None:
        return Captured(skeleton=dumped.skeleton, buffers=[copy_span(span) for span in dumped.spans])
    try:
        buffers, capture_buffer = freezer.freeze(dumped, stored=stored, lazily=lazily, may_stream=may_stream)
    except MemoryError as error:
        raise StateRefused(f"state cannot be saved: {error}") from error
    return Captured(skeleton=dumped.skeleton, buffers=buffers, buffer=capture_buffer)


def copy_span(span: Span) -> SmallBuffer:
    """A buffer in memory of its own."""
    if span.device is None:
        return SmallBuffer(bytes(view_at(span.address, span.size)) if span.size else b"")
    host = span.device.cpu()
    return SmallBuffer(bytes(view_at(host.data_ptr(), span.size)))


def _dump(state: object, structure: Structure | None = None) -> pickling.Dumped:
    def describe(pickler: pickling.Reducers) -> Any:
        if structure is None or not pickler.optimizers:
            return None
        return training.describe(state, pickler, structure)

    try:
        return pickling.dump(state, describe=describe)
    except (pickling.Refused, MemoryError):
        raise
    except Exception:  # noqa: BLE001 - objects raise any type when they cannot be pickled
        # What cannot be imported by name (a lambda, a class made in a function) needs cloudpickle.
        return pickling.dump(state, by_value=True, describe=describe)


def _blame(state: object, error: Exception) -> tuple[str, object, Exception]:
    """The innermost part that fails on its own: its path, its value, the error."""
    path, value = "state", state
    seen: set[int] = set()
    while id(value) not in seen:
        seen.add(id(value))
        try:
            items = list(unsaveable.children(value))
        except Exception as inner:  # noqa: BLE001 - its own state_dict raises any type
            return path, value, inner
        for suffix, item in items:
            try:
                _dump(item)
            except Exception as inner:  # noqa: BLE001 - the same
                path, value, error = path + suffix, item, inner
                break
    return path, value, error


def _holder_of(state: object, name: str) -> str:
    """The path of the innermost part of a state that holds the secret of that name."""
    search = SecretSearch({value: known for value, known in current_values().items() if known == name})
    path, value = "state", state
    for _ in range(_DEEPEST):
        for suffix, item in unsaveable.children(value):
            with contextlib.suppress(Exception):  # a part alone may be of any kind
                if search.name_in(_dump(item).skeleton):
                    path, value = path + suffix, item
                    break
        else:
            break
    return path


def _load(captured: Captured, memory: Sequence[Any]) -> restore_in_place.Loaded:
    unpickler = pickling.StateUnpickler(captured.skeleton, memory)
    try:
        saved, more = unpickler.load(), None
        with contextlib.suppress(EOFError):
            more = unpickler.load()
        return restore_in_place.Loaded(saved, unpickler.records, more)
    except (AttributeError, ImportError) as error:
        raise CheckpointError(
            f"the checkpoint holds an object whose class does not exist here ({error}):"
            " define or install it before the loop starts"
        ) from error
    except Exception as error:
        raise CheckpointError(f"the checkpoint's state cannot be loaded: {error}") from error


def load(captured: Captured) -> Any:
    """The state as new objects.

    Objects with a ``state_dict`` become ``pickling.StateDict``: there is no object to load it into.

    Raises:
        CheckpointError: a class that it needs is missing, or qcity did not write the stream.
    """
    return _load(captured, buffer_targets.read_buffers(captured.skeleton, captured.buffers).memory).state


def restore(state: object, captured: Captured, structure: Structure | None = None) -> None:
    """Restore ``state`` in place: buffers are read directly into live arrays and tensors that fit.

    Args:
        structure: the state's loop: it notes how ``state`` is built now, and gradients are restored too.
    Raises:
        CheckpointError: it does not fit (another architecture, a module that is not built yet, …); the
            message names the variable. ``state`` may then be partly restored.
    """
    if structure is not None:
        try:
            structure.compare(state, _dump(state))
        except Exception:  # noqa: BLE001 - it may hold anything until it is restored
            structure.note_unreadable_start()
    target_memory = buffer_targets.read_buffers(captured.skeleton, captured.buffers, into=state)
    loaded = _load(captured, target_memory.memory)
    if state is None and loaded.state is None:
        return
    has_gradients = structure is not None
    try:
        restore_in_place.place(state, loaded, target_memory.filled, has_gradients=has_gradients)
    except restore_in_place.Misplaced:
        # Live arrays share memory in another way than the saved ones: read everything into new memory, then copy.
        loaded = _load(captured, buffer_targets.read_buffers(captured.skeleton, captured.buffers).memory)
        restore_in_place.place(state, loaded, {}, has_gradients=has_gradients)


def capture_generators() -> Captured:
    """The global random generators of Python, numpy and torch, if these are imported."""
    from qcity_nb.checkpoint.state import generators

    return capture(generators.states())


def restore_generators(captured: Captured) -> None:
    """Restore the global random generators; imports numpy or torch if the checkpoint has theirs."""
    from qcity_nb.checkpoint.state import generators

    generators.put(load(captured))
