"""Who holds the notebook's own code? Found as the garbage collector does: by references that nothing explains.

Carriers of the notebook's code are functions, generators and coroutines; classes and instances lead to functions.
`audit_references` walks from the variables, up to a number of objects each, and subtracts the references that it finds
from each object's reference count. The remaining references are held elsewhere: in a library's own state, by the
interpreter, or in the part of a large variable that was not walked. The audit is *closed* if no carrier is held
elsewhere, neither directly nor through an object that leads to it, and the garbage collector knows no carrier that the
walk did not visit. Then all code of the notebook is reached through variables, along the paths that the walk found.
"""

from __future__ import annotations

import functools
import gc
import sys
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from qcity_nb.cells.names import Mention, in_code, opens

__all__ = ["ReferenceAudit", "audit_references"]

WALK = 10_000
"""Objects visited for each variable. A complete walk costs more than pickling, so it would save nothing."""
_ATOMS = frozenset(
    {int, float, complex, bool, str, bytes, type(None), type(Ellipsis), type(NotImplemented), range, slice}
    | {types.CodeType, types.MethodDescriptorType, types.WrapperDescriptorType, types.ClassMethodDescriptorType}
)
_SUSPENDED: frozenset[type] = frozenset({types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType})
_PLAIN: frozenset[type] = frozenset({list, tuple, dict, set, frozenset, deque, types.CellType, types.MappingProxyType})
_BOUND: frozenset[type] = frozenset({types.MethodType, functools.partial, staticmethod, classmethod, property})
_FIXED = (type, tuple, frozenset, types.FunctionType, types.BuiltinFunctionType, types.ModuleType)
"""If a library holds one of these too, that says nothing about the objects around it; each is checked by itself."""
_MACHINERY = frozenset({"IPython", "ipykernel", "traitlets", "zmq", "tornado", "asyncio", "threading", "_thread"})
"""Objects of these packages are not entered: the inside of a kernel leads to everything."""
_TRACES: frozenset[type] = frozenset({types.FrameType, types.TracebackType})
_GENERATED = "<string>"
"""The file name in methods that dataclasses and named tuples generate."""


@dataclass(frozen=True, slots=True)
class ReferenceAudit:
    """What the variables lead to. Objects are numbers, so that none is kept alive."""

    why: str = ""
    """Why it is not closed; empty: it is."""
    roots: Mapping[str, int] = field(default_factory=dict)
    names: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """The names of variables, by their value."""
    leads: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """From an object to objects, on paths that end at code, at a variable's value, or at access to everything."""
    mentions: Mapping[int, Mention] = field(default_factory=dict)
    shared: frozenset[str] = frozenset()
    """Variables whose objects are also held elsewhere."""


def _entries(kind: type) -> Mapping[str, Any]:
    return type.__dict__["__dict__"].__get__(kind)  # type: ignore[no-any-return]


def _modules() -> Iterator[types.ModuleType]:
    return (module for module in list(sys.modules.values()) if issubclass(type(module), types.ModuleType))


class _Walk:
    """The objects visited so far, each with a number, and the references between them."""

    def __init__(self, live: Mapping[str, Any]) -> None:
        self.held: list[Any] = []
        self.edges: list[list[int]] = []
        self.counts: list[int] = []
        self.index: dict[int, int] = {}
        self.code: dict[int, Mention] = {}
        self.openings: dict[int, Mention] = {}
        self.carriers: set[int] = set()
        self.generated: set[int] = set()
        self.inert: set[int] = set()
        self._live = live
        self._home = live.get("__name__", "__main__")
        # Not `module.__dict__`: a lazy module would load itself.
        self._foreign = {id(object.__getattribute__(each, "__dict__")) for each in _modules()} | {id(live)}
        self._ours: dict[int, bool] = {}
        self._entered: set[int] = set()

    def is_ours(self, function: types.FunctionType) -> bool:
        """Did the notebook define it? An unpickled function may have a namespace of its own."""
        home = function.__globals__
        return home is self._live or (home.get("__name__") == self._home and id(home) not in self._foreign)

    def is_our_class(self, kind: type) -> bool:
        """Did the notebook define it, or a class that it inherits from?"""
        known = self._ours.get(id(kind))
        if known is None:
            here = _entries(kind).get("__module__") == self._home
            here |= any(type(each) is types.FunctionType and self.is_ours(each) for each in _entries(kind).values())
            known = self._ours[id(kind)] = here or any(self.is_our_class(above) for above in kind.__mro__[1:])
        return known

    def _note_generated(self, kind: type) -> None:
        """Note the methods that dataclasses and named tuples generated in a class: they call no other code."""
        entries = _entries(kind)
        if "__dataclass_fields__" not in entries and "_fields" not in entries:
            return
        for name, item in entries.items():
            if type(item) is types.FunctionType and name.startswith("__") and name.endswith("__"):
                inner = item.__dict__.get("__wrapped__", item)  # `__repr__` is wrapped against recursion
                if type(inner) is types.FunctionType and inner.__code__.co_filename == _GENERATED:
                    self.generated.add(id(inner))

    def is_carrier(self, value: Any) -> bool:
        """Is it a function of the notebook, or a suspended one (generator, coroutine)?

        Classes and instances need no check: whatever holds them holds their functions.
        """
        if type(value) is types.FunctionType:
            # A frame holds a "function" of that name while a cell or a script runs; it is never called again.
            return self.is_ours(value) and value.__code__.co_name != "<module>"
        if type(value) in _SUSPENDED:
            return any(type(each) is types.FunctionType and self.is_ours(each) for each in gc.get_referents(value))
        return False

    def node(self, value: Any) -> int | None:
        """Its number; None for atoms and for a library's own objects."""
        known = self.index.get(id(value))
        if known is not None:
            return known
        kind = type(value)
        if kind in _ATOMS:
            return None
        reason = "a variable holds the namespace itself" if value is self._live else opens(value)
        if not reason:
            if issubclass(kind, types.ModuleType) or id(value) in self._foreign:
                return None
            if issubclass(kind, type):
                if not self.is_our_class(value):
                    return None
                self._note_generated(value)
        number = self.index[id(value)] = len(self.held)
        self.held.append(value)
        self.edges.append([])
        self.counts.append(0)
        if reason:
            self.openings[number] = Mention(everything=reason)
        elif self.is_carrier(value):
            self.carriers.add(number)
        if kind is types.FunctionType and self.is_ours(value):
            self.code[number] = in_code(value.__code__)
        return number

    def walk(self, start: int, *, into_frames: bool = False) -> None:
        """Visit what ``start`` leads to, nearest first."""
        waits, left = deque([start]), WALK
        while waits:
            here = waits.popleft()
            value = self.held[here]
            kind = type(value)
            is_closed = here in self.openings and not (into_frames and kind is types.FrameType)
            if here in self._entered or is_closed or _home(kind) in _MACHINERY:
                continue
            self._entered.add(here)
            # A function leads to its namespace only by `__globals__`, and that name counts as everything.
            around = self._live if kind in (types.FunctionType, types.FrameType) else None
            for child in gc.get_referents(value):
                if child is around:
                    continue
                if (left := left - 1) < 0:
                    return
                number = self.node(child)
                if number is not None:
                    self.counts[number] += 1
                    self.edges[here].append(number)
                    waits.append(number)

    def follow_weak(self) -> None:
        """Follow weak references: they lead to objects too, though they do not keep them alive."""
        for number, value in enumerate(self.held):
            if type(value) in weakref.ProxyTypes:
                self.openings[number] = Mention(everything="a weak proxy hides what it leads to")
            elif issubclass(type(value), weakref.ReferenceType) and value() is not None:
                target = self.index.get(id(value()))
                if target is not None:
                    self.edges[number].append(target)
                elif _home(type(value())) not in sys.modules or self.is_our_class(type(value())):
                    self.openings[number] = Mention(everything="a weak reference leads to an unknown object")

    def left_over(self) -> set[int]:
        """Objects with references that the walk did not find."""
        probe = [object()]
        usual = sys.getrefcount(probe[0])
        counts = enumerate(self.counts)
        return {each for each, met in counts if sys.getrefcount(self.held[each]) > usual + met} - self.inert

    def reach_through_own(self, roots: set[int]) -> set[int]:
        """What is reached only through containers and objects of the notebook, not through a library's objects."""

        def is_open(number: int) -> bool:
            kind = type(self.held[number])
            return kind in _PLAIN or kind in _BOUND or number in self.carriers or self.is_our_class(kind)

        return _closure(roots, lambda number: self.edges[number] if is_open(number) else ())


def _home(kind: type) -> str:
    return str(kind.__module__).partition(".")[0]


def _closure(starts: Iterable[int], below: Callable[[int], Iterable[int]]) -> set[int]:
    reached = set(starts)
    waits = list(reached)
    while waits:
        for number in below(waits.pop()):
            if number not in reached:
                reached.add(number)
                waits.append(number)
    return reached


def _carrier_ids(walk: _Walk) -> set[int]:
    """Ids of all carriers that the garbage collector knows."""
    types_of_carriers = {types.FunctionType, *_SUSPENDED}
    return {id(each) for each in gc.get_objects() if type(each) in types_of_carriers and walk.is_carrier(each)}


def _inert_holders() -> Iterator[Any]:
    """Objects that hold references, and neither call nor change what they hold."""
    # The caches of `Optional[X]` and the like; each cleanup function is a method of one.
    yield from (getattr(each, "__self__", None) for each in getattr(sys.modules.get("typing"), "_cleanups", ()))
    for name in ("last_value", "last_traceback", "last_exc"):
        yield getattr(sys, name, None)


def _ipython_results() -> Iterator[Any]:
    """References of IPython to results, apart from those in the namespace."""
    shell = getattr(sys.modules.get("IPython.core.interactiveshell"), "InteractiveShell", None)
    if shell is None or not shell.initialized():
        return
    alive = shell.instance()
    yield from list(alive.user_ns_hidden.values())
    results = (alive.last_execution_result, alive.displayhook.exec_result)
    yield from (each.result for each in {id(each): each for each in results if each is not None}.values())
    yield from (alive.displayhook.__dict__.get(name) for name in ("_", "__", "___"))


def audit_references(live: Mapping[str, Any]) -> ReferenceAudit:
    """Count the references now.

    Args:
        live: the notebook's namespace itself, not a copy: functions of the notebook are known by it, and a copy
            (or any other reference of the caller's to the variables' values) counts as a library's.
    """
    if not getattr(sys, "_is_gil_enabled", lambda: True)() or not hasattr(sys, "getrefcount"):
        return ReferenceAudit(why="this interpreter counts references in another way")
    walk = _Walk(live)
    roots: dict[str, int] = {}
    for name in list(live):
        number = walk.node(live[name])
        if number is not None:
            walk.counts[number] += 1
            roots[name] = number
    for number in roots.values():
        walk.walk(number)
    ours = len(walk.held)
    for value in _inert_holders():
        number = walk.node(value)
        if number is not None:
            walk.walk(number, into_frames=True)
            walk.inert |= {number} if number >= ours else set()
    walk.inert |= {number for number in range(ours, len(walk.held)) if type(walk.held[number]) in _TRACES}
    for value in _ipython_results():
        number = walk.index.get(id(value))
        if number is not None:
            walk.counts[number] += 1
    value = None
    unmet = _carrier_ids(walk) - walk.index.keys() - walk.generated
    if unmet and gc.isenabled():
        gc.collect()  # carriers that only wait for the collector are not held
        unmet = _carrier_ids(walk) - walk.index.keys() - walk.generated
    # IPython's history holds its table of results too, and changes it when a cell shows one.
    walk.inert |= {roots[name] for name in ("Out", "_oh") if name in roots}
    why = "code of the notebook is held by more than its variables" if unmet else ""
    return _conclude(walk, roots, why)


def _conclude(walk: _Walk, roots: dict[str, int], why: str) -> ReferenceAudit:
    walk.carriers -= {walk.index[each] for each in walk.generated & walk.index.keys()}
    held_elsewhere = walk.left_over()
    walk.follow_weak()
    beyond = _closure(held_elsewhere, walk.edges.__getitem__)
    for number in sorted(beyond & walk.carriers)[:1]:
        value = walk.held[number]
        name = getattr(value, "__qualname__", None) or f"an object of {type(value).__qualname__}"
        why = why or f"`{name}` is held by more than the notebook's variables"
    names: dict[int, list[str]] = {}
    for name, number in roots.items():
        names.setdefault(number, []).append(name)
    own = walk.reach_through_own(set(names))
    openings = {number: mention for number, mention in walk.openings.items() if number in own}
    ends = {*walk.code, *openings, *names}
    back: dict[int, list[int]] = {}
    for number, below in enumerate(walk.edges):
        for each in below:
            back.setdefault(each, []).append(number)
    leading = _closure(ends, lambda number: back.get(number, ()))
    # That a library holds a class says nothing about its instances.
    held = {number for number in own & beyond if not issubclass(type(walk.held[number]), _FIXED)}
    touched = _closure(held, lambda number: [up for up in back.get(number, ()) if up in own])
    return ReferenceAudit(
        why=why,
        roots=roots,
        names={number: tuple(each) for number, each in names.items()},
        leads={
            number: tuple({each for each in walk.edges[number] if each in leading})
            for number in leading
            if walk.edges[number]
        },
        mentions={**walk.code, **openings},
        shared=frozenset(name for number in touched & names.keys() for name in names[number]),
    )
