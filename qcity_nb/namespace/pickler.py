"""The pickler of variables: objects whole, and what the notebook defined by value.

A function is written as its code and its closure; its globals are the namespace itself, which is entry 0 of the memo of
each stream, so that it is never written. Classes that the notebook defined are in a stream of their own inside the
variable's stream (``ClassPlacement.APART``): two instances of one class then share nothing, and belong to two groups.
Classes are written among the other objects (``ClassPlacement.INLINE``) only if a variable shares something mutable with
a class's own attributes.
"""

from __future__ import annotations

import enum
import functools
import gc
import importlib
import io
import math
import pickle
import struct
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from qcity_nb.checkpoint.memory import Span
from qcity_nb.checkpoint.state.overlapping_arrays import memory_bounds, overlaps
from qcity_nb.checkpoint.state.pickling import Reducers, is_importable
from qcity_nb.namespace import gc_pause, unpickle_functions
from qcity_nb.namespace.handlers import pandas_frames, recreated, registry, string_arrays
from qcity_nb.namespace.records import NotSaved
from qcity_nb.namespace.tombstone import Tombstone, not_saved_of, put_tombstone
from qcity_nb.namespace.unpickle_functions import is_full
from qcity_nb.secrets import SecretSearch, current_search

__all__ = ["Failed", "ClassPlacement", "Overdue", "PickleContext", "PickledStream", "write", "write_scalar"]

_MISSING = object()
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a class statement made it, or a call of type
_HERE = unpickle_functions.__name__.encode()
_LIVE = b"c" + _HERE + b"\nlive_namespace\n)R\x940"  # call it, store it as entry 0 of the memo, pop it
_CLASSES = b"c" + _HERE + b"\ndefine_classes\n"


class ClassPlacement(enum.Enum):
    """Where in a stream the classes of the notebook are."""

    APART = enum.auto()
    """In a stream of their own inside this one."""
    INLINE = enum.auto()
    """Among the other objects."""
    TABLE = enum.auto()
    """The stream is that stream of classes itself."""


@dataclass(slots=True, eq=False)
class PickleContext:
    """What the picklers of one capture share."""

    live: dict[str, Any]
    own: frozenset[int] = frozenset()
    """Ids of the dicts that are the namespace: itself, and that of ``__main__``, which is the same in a kernel."""
    handlers: dict[type, registry.Handler | None] = field(default_factory=dict)
    dispatch: dict[Any, Any] = field(default_factory=dict)
    tables: dict[tuple[int, ...], PickledStream] = field(default_factory=dict)
    """Streams of classes, by the ids of the classes."""
    until_s: float = math.inf
    """When pickling is aborted, by ``time.perf_counter``."""
    secrets: SecretSearch = field(default_factory=current_search)
    clean: frozenset[str] = frozenset()
    """Names of streams that were searched for these secrets before, and hold none."""

    @classmethod
    def of(cls, live: dict[str, Any], limit_s: float = math.inf) -> PickleContext:
        """A context for one capture: a class may change between two."""
        main = sys.modules.get("__main__")
        own = {id(live)} | ({id(main.__dict__)} if main is not None else set())
        return cls(
            live=live,
            own=frozenset(own),
            dispatch=dict(_cloudpickle().Pickler.dispatch_table),
            until_s=time.perf_counter() + limit_s,
        )

    def check(self) -> None:
        """Raises: Overdue: the time limit is over."""
        if time.perf_counter() > self.until_s:
            raise Overdue

    def table(self, classes: tuple[type, ...]) -> PickledStream:
        """The stream of these classes.

        Raises:
            Failed: with what pickling raised.
        """
        key = tuple(map(id, classes))
        table = self.tables.get(key)
        if table is None:
            table = self.tables[key] = write(list(classes), self, ClassPlacement.TABLE)
        return table


@dataclass(slots=True, eq=False)
class PickledStream:
    """A stream, and the objects in it, which this keeps alive."""

    skeleton: bytes
    spans: list[Span] = field(default_factory=list)
    optimizers: list[Any] = field(default_factory=list)
    visited: Callable[[], list[Any]] = list
    """Returns each object that was written, once, and some of the pickler's own."""
    own: frozenset[int] = frozenset()
    """Ids of the pickler's own objects."""
    by_value: set[int] = field(default_factory=set)
    """Ids of the functions that were written by value."""
    bounds: list[tuple[int, int]] = field(default_factory=list)
    """Memory that its arrays and tensors use."""
    classes: tuple[type, ...] = ()
    table: PickledStream | None = None
    """The stream of ``classes``."""
    keep: Any = None
    fresh: set[str] = field(default_factory=set)
    """What of it, apart from classes, is re-created instead of restored: ``recreated.WORDS``."""

    @property
    def all_fresh(self) -> tuple[str, ...]:
        """Like ``fresh``, including what its classes contain."""
        return tuple(sorted(self.fresh | (self.table.fresh if self.table is not None else set())))


def _cloudpickle() -> Any:
    return importlib.import_module("cloudpickle")


class Overdue(Exception):
    """Pickling took longer than its limit."""


class _Sheet(io.BytesIO):
    """An output stream. The pickler writes 64 KB at a time, so that it can be aborted in the middle."""

    def __init__(self, context: PickleContext) -> None:
        self._context = context

    def write(self, data: Any) -> int:
        self._context.check()
        return super().write(data)


class _NotebookPickler(Reducers):
    is_whole = True

    def __init__(
        self,
        out: io.BytesIO,
        shared: dict[int, tuple[Any, int, Any]],
        context: PickleContext,
        placement: ClassPlacement,
    ) -> None:
        super().__init__(out, shared)
        this: Any = self
        this.dispatch_table = context.dispatch
        this.memo = {id(context.live): (0, context.live)}
        self.context = context
        self.placement = placement
        self.last: Any = self
        """The object that was visited last (at first the pickler itself): the cause if pickling fails."""
        self.classes: dict[int, tuple[int, type]] = {}
        self.by_value: set[int] = set()
        self.fresh: set[str] = set()
        self._closing: set[int] = set()
        self._handlers = context.handlers
        self._alone: set[int] = set()
        """Arrays that must not be shared after a restore, although they are shared in this process."""

    def note_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        return True if self.placement is ClassPlacement.TABLE else super().note_buffer(buffer)

    def reducer_override(self, value: Any) -> Any:
        self.last = value
        cls = type(value)
        if cls is types.FunctionType:
            return self._function(value)
        handler: Any = self._handlers.get(cls, _MISSING)
        if handler is _MISSING:
            handler = self._handlers[cls] = registry.handler_of(cls)
        if handler is not None:
            reduced = handler(value)
            if handler in recreated.WORDS and reduced is not NotImplemented:
                self.fresh.add(recreated.WORDS[handler])
            return reduced
        if issubclass(cls, type):
            return self._class(value)
        if cls is types.CellType:
            return self._cell(value)
        if pandas_frames.is_block(cls) and pandas_frames.copies_on_write():
            return self._block(value)
        if cls is Tombstone:
            not_saved = not_saved_of(value)
            assert not_saved is not None
            return _put_tombstone, (not_saved.name, not_saved.kind, not_saved.why, not_saved.advice, not_saved.where)
        return super().reducer_override(value)

    # -- what the notebook defined

    def _function(self, value: types.FunctionType) -> Any:
        namespace: Any = value.__globals__
        if id(namespace) in self.context.own:
            namespace = self.context.live
        elif value.__module__ != "__main__" and is_importable(value):
            return NotImplemented
        else:
            home = sys.modules.get(str(namespace.get("__name__")))
            if home is None or home.__dict__ is not namespace:
                self.by_value.add(id(value))
                return self._otherwise(value)
            namespace = _Home(home.__name__)
        self.by_value.add(id(value))
        cells = value.__closure__ or ()
        self._closing.update(map(id, cells))
        state = {
            "cells": [(index, cell.cell_contents) for index, cell in enumerate(cells) if is_full(cell)],
            "__dict__": dict(value.__dict__),
            "__qualname__": value.__qualname__,
            "__module__": value.__module__,
            "__doc__": value.__doc__,
            "__defaults__": value.__defaults__,
            "__kwdefaults__": value.__kwdefaults__,
            "__annotations__": value.__annotations__,
        }
        if getattr(value, "__type_params__", ()):
            state["__type_params__"] = value.__type_params__  # type: ignore[attr-defined]  # Python 3.12
        arguments = value.__code__, namespace, value.__name__, value.__closure__
        return unpickle_functions.function, arguments, state, None, None, unpickle_functions.fill_function

    def _cell(self, value: types.CellType) -> Any:
        if id(value) in self._closing or not is_full(value):
            return unpickle_functions.empty_cell, ()  # its function has the content
        return unpickle_functions.empty_cell, (), value.cell_contents, None, None, unpickle_functions.fill_cell

    def _class(self, value: type) -> Any:
        if not value.__flags__ & _HEAP_TYPE or (value.__module__ != "__main__" and is_importable(value)):
            return super().reducer_override(value)
        if self.placement is ClassPlacement.APART:
            return unpickle_functions.notebook_class, (
                self.classes.setdefault(id(value), (len(self.classes), value))[0],
            )
        reduced = self._otherwise(value)
        if not isinstance(reduced, tuple) or len(reduced) != 6:
            return reduced
        make, arguments, state, _, _, fill = reduced
        state[0].pop(
            "__slotnames__", None
        )  # pickle's own cache on the class, which exists once an instance was pickled
        return make, arguments, (fill, state), None, None, unpickle_functions.fill_class

    # -- pandas

    def _block(self, value: Any) -> Any:
        reduced = value.__reduce__()
        if not isinstance(reduced, tuple) or not reduced[1] or reduced[1][0] is not value.values:
            return NotImplemented  # another version of pandas, which does it differently
        own = pandas_frames.apart(value.values)
        self._alone.update(map(id, pandas_frames.arrays_of(own)))
        make, (_, *rest), *more = reduced
        return make, (own, *rest), *more

    # -- torch

    def _tensor(self, value: Any) -> Any:
        reduced = super()._tensor(value)
        if reduced is NotImplemented or not value.is_leaf or value.grad is None:
            return reduced
        return *reduced, value.grad, None, None, unpickle_functions.set_gradient

    def _untyped(self, storage: Any) -> Any:
        if self.placement is ClassPlacement.TABLE:  # that stream has no buffers
            from qcity_nb.checkpoint.state.unpickle_functions import inline_storage

            return inline_storage, (self._bytes(storage), str(storage.device))
        flat, start, known = self.shared.get(-storage._cdata, (None, 0, None))
        if known is not None and known is self._canonical(storage):
            return unpickle_functions.storage_over, (flat, storage.data_ptr() - start, storage.nbytes())
        return super()._untyped(storage)

    # -- memory

    def _array(self, value: Any) -> Any:
        if value.dtype.hasobject and type(value) is self.numpy.ndarray and value.dtype == object:
            return string_arrays.pack_strings(value) or super()._array(value)
        reduced = super()._array(value)
        if id(value) in self._alone:
            self.arrays.pop(id(value), None)
            return reduced
        # An array over memory that numpy does not own: of a tensor, of a mapped file.
        if value.size and id(value) not in self.arrays and not value.dtype.hasobject and id(value) not in self.shared:
            self.arrays[id(value)] = (*memory_bounds(value), None, value)
        return reduced

    def memory(self) -> dict[int, tuple[int, int, Any, Any]]:
        """The memory of arrays and torch storages: first address, end, owner, and the object itself."""
        result = dict(self.arrays)
        for storage in self._storages.values():
            if storage.device.type == "cpu" and (size := storage.nbytes()):
                low = storage.data_ptr()
                result[-storage._cdata] = (low, low + size, None, storage)
        return result


class _Home:
    """A stand-in for the globals of a module."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> Any:
        return unpickle_functions.module_globals, (self.name,)


def _put_tombstone(*fields: str) -> Tombstone:
    name, kind, why, advice, where = fields
    return put_tombstone(NotSaved(name=name, kind=kind, why=why, advice=advice, where=where))


@functools.cache
def _pickler() -> Any:
    # cloudpickle writes code and classes by value. It is imported only when needed.
    return type("_Pickler", (_NotebookPickler, _cloudpickle().Pickler), {})


class Failed(Exception):
    """Pickling raised an exception."""

    def __init__(self, error: BaseException, visited: Any) -> None:
        super().__init__(str(error))
        self.error = error
        self.visited = visited
        """The object that was visited last."""


def write(value: object, context: PickleContext, placement: ClassPlacement = ClassPlacement.APART) -> PickledStream:
    """The stream of ``value``; its buffers are still the live ones.

    Raises:
        Failed: with whatever the objects' own code raised.
        Overdue: ``context.until_s`` is over.
    """
    shared: dict[int, tuple[Any, int, Any]] = {}
    bounds: list[tuple[int, int]] = []
    while True:
        out = _Sheet(context)
        pickler = _pickler()(out, shared, context, placement)
        own = frozenset(map(id, gc.get_referents(pickler)))
        try:
            pickler.dump(value)
        except (KeyboardInterrupt, Overdue):
            raise
        except BaseException as error:
            raise Failed(error, pickler.last) from error
        memory = pickler.memory()
        if not shared and placement is not ClassPlacement.TABLE and (shared := overlaps(pickler.numpy, memory)):
            bounds = [(low, high) for low, high, _, _ in memory.values()]
            continue  # what overlaps is written again, as views of common bytes
        break
    pickler.last = None
    classes = tuple(cls for _, cls in pickler.classes.values())
    table = context.table(classes) if classes else None
    return PickledStream(
        skeleton=_stream(out.getvalue(), table),
        spans=pickler.spans,
        optimizers=pickler.optimizers,
        visited=functools.partial(_visited_objects, pickler),
        own=own,
        by_value=pickler.by_value,
        bounds=bounds or [(low, high) for low, high, _, _ in memory.values()],
        classes=classes,
        table=table,
        keep=shared,
        fresh=pickler.fresh,
    )


def _visited_objects(pickler: Any) -> list[Any]:
    """The objects in a pickler's memo, and what else it refers to."""
    if _is_memo_visible():
        return gc.get_referents(pickler)
    with gc_pause.still():  # it creates and drops up to a million tuples
        return [value for _, value in pickler.memo.copy().values()]


@functools.cache
def _is_memo_visible() -> bool:
    """Does the garbage collector see a pickler's memo? Its list is ten times as fast as a copy of the memo."""
    probe, other = [object()], object()
    pickler: Any = pickle.Pickler(io.BytesIO(), 5)
    pickler.memo = {id(probe): (0, probe), id(other): (1, other)}
    seen = set(map(id, gc.get_referents(pickler)))
    return {id(probe), id(other)} <= seen


def _stream(body: bytes, table: PickledStream | None) -> bytes:
    start = body[:2] + _LIVE
    if table is not None:
        size = struct.pack("<Q", len(table.skeleton))
        start += _CLASSES + b"\x8e" + size + table.skeleton + b"\x85R0"  # BINBYTES8, a tuple of it, call, drop
    return start + body[2:]


def write_scalar(value: dict[str, Any]) -> PickledStream:
    """The stream of a variable that is a number or a string: it shares nothing."""
    return PickledStream(skeleton=pickle.dumps(value, 5))
