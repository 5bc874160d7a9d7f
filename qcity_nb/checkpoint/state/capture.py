"""State to named buffers and back, in place.

    captured = capture(state)        # the state may change from here on
    restore(state, captured)         # … and is as it was, the same objects
    load(captured)                   # fresh objects

What is restored how: docs/design.md, "Runs, loops, steps", State. Not saved: gradients, hooks,
``requires_grad`` and training mode of modules; whatever an object's own ``state_dict`` or ``__getstate__``
leaves out.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from qcity_nb.checkpoint.memory import Span, view_at
from qcity_nb.checkpoint.state import buffer_targets, kinds, pickling, restore_in_place, unsaveable
from qcity_nb.checkpoint.state.freezer import CaptureBuffer, Freezer, Lazily
from qcity_nb.checkpoint.state.frozen_buffer import Content, Held
from qcity_nb.errors import CheckpointError, StateRefused

__all__ = ["Captured", "capture", "capture_generators", "check_state", "held", "load", "restore", "restore_generators"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """A frozen copy of a state: once ``shot.copied`` is set, nothing in it is shared with the live objects."""

    skeleton: bytes
    """The pickle-5 stream, without its bulk."""
    buffers: Sequence[Content] = ()
    """The bulk, in the stream's order."""
    buffer: CaptureBuffer | None = None
    """The memory that it lies in, where a freezer made it: usable until ``release``."""

    @property
    def size_bytes(self) -> int:
        """Bytes of all of it."""
        return len(self.skeleton) + sum(buffer.size for buffer in self.buffers)

    def release(self) -> None:
        """Its content is not needed any more: the next capture may have the memory."""
        if self.buffer is not None:
            self.buffer.release()


def check_state(state: object) -> None:
    """Refuse a top-level ``state`` that could not be restored in place. ``None`` is fine: nothing carries over.

    Raises:
        StateRefused: it is immutable, or is built in a way that only a fresh object can be.
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
) -> Captured:
    """Copy ``state``.

    Args:
        freezer: brings the memory, and knows what has not changed; without one every buffer gets memory of its own.
        stored: the names of the objects of the newest checkpoint: what is among them is not copied again.
        lazily: what may be copied after the call returned; see ``Shot.copied``.
        may_stream: where memory is short, the live buffers themselves are handed on; see ``Shot.is_live``.
    Raises:
        StateRefused: a variable cannot be saved; the message names it and says why.
    """
    try:
        dumped = _dump(state)
    except Exception as error:
        path, value, cause = _blame(state, error)
        raise StateRefused(f"{path} cannot be saved: {unsaveable.reason(value, cause)}") from error
    if freezer is None:
        return Captured(skeleton=dumped.skeleton, buffers=[held(span) for span in dumped.spans])
    try:
        buffers, capture_buffer = freezer.freeze(dumped, stored=stored, lazily=lazily, may_stream=may_stream)
    except MemoryError as error:
        raise StateRefused(f"state cannot be saved: {error}") from error
    return Captured(skeleton=dumped.skeleton, buffers=buffers, buffer=capture_buffer)


def held(span: Span) -> Held:
    """A buffer in memory of its own."""
    if span.device is None:
        return Held(bytes(view_at(span.address, span.size)) if span.size else b"")
    host = span.device.cpu()
    return Held(bytes(view_at(host.data_ptr(), span.size)))


def _dump(state: object) -> pickling.Dumped:
    try:
        return pickling.dump(state)
    except (pickling.Refused, MemoryError):
        raise
    except Exception:  # noqa: BLE001 - objects raise what they like when they cannot be pickled
        # What no module's name leads to (a lambda, a class made in a function) needs cloudpickle.
        return pickling.dump(state, by_value=True)


def _blame(state: object, error: Exception) -> tuple[str, object, Exception]:
    """The innermost variable that fails by itself."""
    path, value = "state", state
    seen: set[int] = set()
    while id(value) not in seen:
        seen.add(id(value))
        for suffix, item in unsaveable.children(value):
            try:
                _dump(item)
            except Exception as inner:  # noqa: BLE001 - the same
                path, value, error = path + suffix, item, inner
                break
    return path, value, error


def _load(captured: Captured, memory: Sequence[Any]) -> tuple[Any, list[pickling.StateDict]]:
    unpickler = pickling.StateUnpickler(captured.skeleton, memory)
    try:
        return unpickler.load(), unpickler.records
    except (AttributeError, ImportError) as error:
        raise CheckpointError(
            f"the checkpoint holds an object whose class is not there ({error}):"
            " define or install it before the loop starts"
        ) from error
    except Exception as error:
        raise CheckpointError(f"the checkpoint's state cannot be loaded: {error}") from error


def load(captured: Captured) -> Any:
    """The state as fresh objects.

    Objects with a ``state_dict`` come back as ``pickling.StateDict``: there is nothing to load it into.

    Raises:
        CheckpointError: a class that it needs is missing, or the stream is not one of ours.
    """
    return _load(captured, buffer_targets.land(captured.skeleton, captured.buffers).memory)[0]


def restore(state: object, captured: Captured) -> None:
    """Make ``state`` what was captured, in place: live arrays and tensors that fit are read into directly.

    Raises:
        CheckpointError: it does not fit (another architecture, a module that is not built yet, …); the
            message names the variable. ``state`` may then be restored in part.
    """
    landed = buffer_targets.land(captured.skeleton, captured.buffers, into=state)
    saved, records = _load(captured, landed.memory)
    if state is None and saved is None:
        return
    try:
        restore_in_place.place(state, saved, records, landed.taken)
    except restore_in_place.Misplaced:
        # Live arrays share memory in a way that the saved ones do not: read everything beside them, then copy.
        saved, records = _load(captured, buffer_targets.land(captured.skeleton, captured.buffers).memory)
        restore_in_place.place(state, saved, records, {})


def capture_generators() -> Captured:
    """The global generators of Python, numpy and torch, of the libraries that are imported."""
    from qcity_nb.checkpoint.state import generators

    return capture(generators.states())


def restore_generators(captured: Captured) -> None:
    """Put the global generators back; imports numpy or torch where the checkpoint holds theirs."""
    from qcity_nb.checkpoint.state import generators

    generators.put(load(captured))
