"""State to named buffers and back, in place.

    captured = capture(state)        # the state may change from here on
    restore(state, captured)         # … and is as it was, the same objects
    load(captured)                   # fresh objects

What is restored how: docs/design.md, "Runs, loops, steps", State. Not saved: gradients, hooks,
``requires_grad`` and training mode of modules; whatever an object's own ``state_dict`` or ``__getstate__``
leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qcity_nb.checkpoint import kind, pickling, placing, refusal
from qcity_nb.checkpoint.pickling import Buffer
from qcity_nb.errors import CheckpointError, StateRefused

__all__ = ["Captured", "capture", "capture_generators", "check_state", "load", "restore", "restore_generators"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """A frozen copy of a state: nothing in it is shared with the live objects."""

    skeleton: bytes
    """The pickle-5 stream, without its bulk."""
    buffers: tuple[Buffer, ...] = ()
    """The bulk, in the stream's order."""

    @property
    def size_bytes(self) -> int:
        """Bytes of all of it."""
        return len(self.skeleton) + sum(len(buffer) for buffer in self.buffers)


def check_state(state: object) -> None:
    """Refuse a top-level ``state`` that could not be restored in place. ``None`` is fine: nothing carries over.

    Raises:
        StateRefused: it is immutable, or is built in a way that only a fresh object can be.
    """
    if state is not None and not kind.is_fillable(state):
        raise StateRefused(
            f"state is a {type(state).__qualname__}, which cannot be restored in place:"
            " use a dict that holds what the loop changes"
        )


def capture(state: object) -> Captured:
    """Copy ``state``.

    Raises:
        StateRefused: a variable cannot be saved; the message names it and says why.
    """
    try:
        skeleton, buffers = _dump(state)
    except Exception as error:
        path, value, cause = _blame(state, error)
        raise StateRefused(f"{path} cannot be saved: {refusal.reason(value, cause)}") from error
    return Captured(skeleton=skeleton, buffers=tuple(buffers))


def _dump(state: object) -> tuple[bytes, list[Buffer]]:
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
        for suffix, item in refusal.children(value):
            try:
                _dump(item)
            except Exception as inner:  # noqa: BLE001 - the same
                path, value, error = path + suffix, item, inner
                break
    return path, value, error


def _load(captured: Captured) -> tuple[Any, list[pickling.StateDict]]:
    unpickler = pickling.StateUnpickler(captured.skeleton, captured.buffers)
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
    return _load(captured)[0]


def restore(state: object, captured: Captured) -> None:
    """Make ``state`` what was captured, in place.

    Raises:
        CheckpointError: it does not fit (another architecture, a module that is not built yet, …); the
            message names the variable. ``state`` may then be restored in part.
    """
    saved, records = _load(captured)
    if state is None and saved is None:
        return
    placing.place(state, saved, records)


def capture_generators() -> Captured:
    """The global generators of Python, numpy and torch, of the libraries that are imported."""
    from qcity_nb.checkpoint import generators

    return capture(generators.states())


def restore_generators(captured: Captured) -> None:
    """Put the global generators back; imports numpy or torch where the checkpoint holds theirs."""
    from qcity_nb.checkpoint import generators

    generators.put(load(captured))
