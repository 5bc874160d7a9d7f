"""The code that a loop stands in: its variables, its source, and what the functions that it calls do with globals."""

from __future__ import annotations

import contextlib
import dis
import functools
import linecache
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from inspect import CO_NEWLOCALS
from pathlib import Path
from typing import Any

from qcity_nb.cells.expressions import prefixes
from qcity_nb.cells.loop_body import LoopBody
from qcity_nb.cells.loop_statement import LoopStatement, find_statement, function_body
from qcity_nb.kernel.changes.live_objects import MISSING, attributes, is_own, kind_of

__all__ = ["Caller", "Reach", "Variables", "body_of", "is_cache", "is_write_only"]

MOST_FUNCTIONS = 40
MOST_FRAMES = 24
MOST_IN_CONTAINER = 16
_LOADS = {"LOAD_GLOBAL", "LOAD_DEREF", "LOAD_NAME"}
_STORES = {"STORE_GLOBAL", "STORE_DEREF"}
_STORE_CODES = {dis.opmap[name] for name in _STORES}


@dataclass(frozen=True, slots=True)
class Reach:
    """Variables outside of a loop's body that the functions called in it use."""

    read: frozenset[str]
    carried: frozenset[str]
    """Bound by a function that reads them first: `global count; count += 1`."""
    early: frozenset[str] = frozenset()
    """Bound by the loop's body, but read before that by a function that it calls."""
    functions: tuple[tuple[str, types.FunctionType], ...] = ()
    """The functions, with the names by which they are called."""

    def hidden(self, variables: Variables) -> Iterator[tuple[str, str, object]]:
        """What functions keep between calls: their own variable of an outer function, or a default."""
        for name, function in self.functions:
            cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
            for variable, cell in cells:
                with contextlib.suppress(ValueError):  # an empty cell
                    if variables.own.get(variable, MISSING) is not cell.cell_contents:
                        yield name, variable, cell.cell_contents
            for number, value in enumerate(function.__defaults__ or ()):
                yield name, f"default {number}", value
            for variable, value in (function.__kwdefaults__ or {}).items():
                yield name, variable, value

    def changes(self, path: str) -> bool:
        """Does one of the functions change that variable, and not as a cache of what depends on the key alone?"""
        bodies = [body_of(function) for function in self._mentioning(path)]
        return not bodies or any(body is None or path in body.mutated | body.touched for body in bodies)

    def uses(self, path: str) -> bool:
        """Does one of the functions read it, and not only to call a method whose result is dropped?"""
        bodies = [body_of(function) for function in self._mentioning(path)]
        return any(body is None or path in body.reads for body in bodies)

    def resets(self, path: str) -> bool:
        """Does each function that uses it reset it first?"""
        bodies = [body_of(function) for function in self._mentioning(path)]
        return bool(bodies) and all(body is not None and path in body.fresh for body in bodies)

    def _mentioning(self, path: str) -> Iterator[types.FunctionType]:
        for _, function in self.functions:
            if path in function.__code__.co_names + function.__code__.co_freevars:
                yield function


def body_of(function: types.FunctionType) -> LoopBody | None:
    """What a function does with variables; ``None``: it has no source."""
    return _body_of(function.__code__)


@functools.lru_cache(maxsize=256)
def _body_of(code: types.CodeType) -> LoopBody | None:
    return function_body("".join(linecache.getlines(code.co_filename)[code.co_firstlineno - 1 :]))


def is_cache(cls: type, name: str) -> bool:
    """Do methods of the class fill that attribute with what depends on their keys alone, and change it no otherwise?"""
    bodies = _methods(cls, name)
    return bool(bodies) and not any(
        body is None or path in body.mutated | body.touched | body.bound for path, body in bodies
    )


def is_write_only(cls: type, name: str) -> bool:
    """Do methods of the class change that attribute, and none of them read it for anything else?"""
    bodies = _methods(cls, name)
    return bool(bodies) and not any(body is None or path in body.reads for path, body in bodies)


def _methods(cls: type, name: str) -> list[tuple[str, LoopBody | None]]:
    """The methods of the user's that mention an attribute: its name there, and what they do with variables."""
    bodies = []
    for method in (value for each in cls.__mro__ if is_own(each) for value in vars(each).values()):
        if not isinstance(method, types.FunctionType) or method.__name__ == "__init__":
            continue
        if name in method.__code__.co_names and method.__code__.co_argcount:
            bodies.append((f"{method.__code__.co_varnames[0]}.{name}", body_of(method)))
    return bodies


@dataclass(frozen=True, slots=True)
class Caller:
    """The place in the user's code that called ``city.loop``. It keeps no frame, and so no objects, alive."""

    code: types.CodeType
    line: int

    @classmethod
    def of(cls, frame: types.FrameType) -> Caller:
        """The place where the frame is now."""
        return cls(frame.f_code, frame.f_lineno)

    @property
    def is_function(self) -> bool:
        """Is it in a function: are its variables local?"""
        return bool(self.code.co_flags & CO_NEWLOCALS)

    @property
    def is_cell(self) -> bool:
        """Is it in a notebook's cell? Later cells may read any variable."""
        file = self.code.co_filename
        return not self.is_function and ("ipykernel" in file or not Path(file).is_file())

    @property
    def parameters(self) -> tuple[str, ...]:
        """Those of the function, which its callers see too."""
        return self.code.co_varnames[: self.code.co_argcount + self.code.co_kwonlyargcount]

    def statement(self) -> LoopStatement | None:
        """The loop's statement; ``None``: there is no source, or the loop is driven in another way."""
        return find_statement(linecache.getlines(self.code.co_filename), self.line, in_function=self.is_function)

    def variables(self) -> Variables | None:
        """The variables as they are now; ``None``: that code does not run now."""
        frame: types.FrameType | None = sys._getframe()
        for _ in range(MOST_FRAMES):
            if frame is None or frame.f_code is self.code:
                break
            frame = frame.f_back
        if frame is None or frame.f_code is not self.code:
            return None
        outer = frame.f_globals
        snapshot = frame.f_locals
        if not self.is_function:
            return Variables(snapshot, outer, snapshot)
        values = dict(snapshot)
        if sys.version_info < (3, 13) and isinstance(snapshot, dict):
            snapshot.clear()  # the frame keeps this copy, and with it large objects, for as long as it runs
        return Variables(values, outer, {name: outer[name] for name in self.code.co_names if name in outer} | values)


@dataclass(frozen=True, slots=True)
class Variables:
    """Variables at one moment."""

    own: Mapping[str, Any]
    outer: Mapping[str, Any]
    scanned: Mapping[str, Any]
    """Those that optimizers and generators are looked for in."""

    def get(self, path: str) -> Any:
        """The object of a name or a chain of attributes; ``MISSING``: there is none, or only a property."""
        name, *rest = path.split(".")
        value = self.own[name] if name in self.own else self.outer.get(name, MISSING)
        for attribute in rest:
            if value is MISSING:
                return MISSING
            if kind_of(value) == "module" or isinstance(value, types.ModuleType):
                value = getattr(value, attribute, MISSING)
            else:
                value = attributes(value).get(attribute, MISSING)
        return value

    def resolve_views(self, body: LoopBody) -> LoopBody:
        """The body, where a change of an array's view, as of `frame.loc` or `w.data`, is one of the array."""
        views = {path: path.rpartition(".")[0] for path in body.mutated | body.carried if self._is_view(path)}
        if not views:
            return body
        mutated = {views.get(path, path) for path in body.mutated} | {
            views[path] for path in body.carried & views.keys()
        }
        return replace(body, mutated=frozenset(mutated), carried=body.carried - views.keys())

    def _is_view(self, path: str) -> bool:
        base, _, name = path.rpartition(".")
        value = self.get(base) if base else MISSING
        return value is not MISSING and kind_of(value) == "array" and hasattr(type(value), name)

    def objects(self) -> Iterator[tuple[str, Any]]:
        """All objects by path, with those in containers and in attributes of the user's own classes."""
        for name, value in list(self.scanned.items()):
            if name.startswith("_"):
                continue
            yield name, value
            if isinstance(value, types.ModuleType | type | types.FunctionType):
                continue
            if type(value) is dict and len(value) <= MOST_IN_CONTAINER:
                yield from ((f"{name}[{key!r}]", item) for key, item in list(value.items()))
            elif type(value) in (list, tuple) and len(value) <= MOST_IN_CONTAINER:
                yield from ((f"{name}[{number}]", item) for number, item in enumerate(value))
            elif is_own(type(value)):
                yield from ((f"{name}.{key}", item) for key, item in attributes(value).items())

    def reach(self, body: LoopBody) -> Reach:
        """What the functions that a body calls use of the variables here, directly and by further calls."""
        read, carried, early = set[str](), set[str](), set[str]()
        functions: list[tuple[str, types.FunctionType]] = []
        called = dict.fromkeys((body.reads | body.touched) - body.called.keys(), body.varying) | dict(body.called)
        waiting = [(path, each, bound) for path, bound in sorted(called.items()) for each in self._functions(path)]
        leaves = {path.rpartition(".")[2] for path in body.varying}
        while waiting and len(functions) < MOST_FUNCTIONS:
            path, function, bound = waiting.pop()
            if any(function is other for _, other in functions):
                continue
            functions.append((path, function))
            owner = path.rpartition(".")[0]
            for part in _nested(function.__code__):
                names = {*part.co_names, *part.co_freevars}
                is_here = function.__globals__ is self.outer
                read |= {name for name in names if is_here or name in part.co_freevars}
                if _STORE_CODES & set(part.co_code[::2]):
                    carried |= _carried(part)
                if names & leaves:
                    early |= {each for each in _exposed(function, owner) if each in body.varying} - _known(bound, body)
                for name in sorted(names):
                    value = function.__globals__.get(name, self.own.get(name))
                    if isinstance(value, types.FunctionType):
                        waiting += [(name, each, bound) for each in _own(value)]
                    elif owner:
                        waiting += [(f"{owner}.{name}", each, bound) for each in self._functions(f"{owner}.{name}")]
        return Reach(frozenset(read - carried), frozenset(carried), frozenset(early), tuple(functions))

    def _functions(self, path: str) -> list[types.FunctionType]:
        """The user's own functions that are called by that name: one, or those in a container."""
        name, _, method = path.rpartition(".")
        value = self.get(path)
        if isinstance(value, list | tuple | dict) and len(value) <= MOST_IN_CONTAINER:
            items = value.values() if isinstance(value, dict) else value
            return [each for item in items for each in _own(item)]
        owner = self.get(name) if name else MISSING
        if owner is MISSING or isinstance(owner, types.ModuleType):
            return _own(value)
        return _own(getattr(type(owner), method, None)) if is_own(type(owner)) else []


def _own(value: object) -> list[types.FunctionType]:
    value = getattr(value, "__func__", value)
    value = getattr(value, "__wrapped__", value) if not isinstance(value, type) else value
    if isinstance(value, types.FunctionType) and "site-packages" not in value.__code__.co_filename:
        return [value]
    return []


def _exposed(function: types.FunctionType, owner: str) -> set[str]:
    """What a function reads of its caller's variables before it has bound them; ``owner``: the object of a method."""
    body = body_of(function)
    own, *others = (*function.__code__.co_varnames, "")
    paths = {each.partition(".")[::2] for each in body.exposed} if body is not None else set()
    exposed = {name if not rest else f"{name}.{rest}" for name, rest in paths if name not in (own, *others)}
    return exposed | {f"{owner}.{rest}" for name, rest in paths if owner and name == own and rest}


def _known(bound: frozenset[str], body: LoopBody) -> set[str]:
    return {path for path in body.varying if any(prefix in bound for prefix in prefixes(path))}


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for value in code.co_consts:
        if isinstance(value, types.CodeType):
            yield from _nested(value)


def _carried(code: types.CodeType) -> set[str]:
    """The outer variables that the code binds after it has read them."""
    loaded: set[str] = set()
    carried: set[str] = set()
    inner = set(code.co_cellvars)
    for step in dis.get_instructions(code):
        if step.opname in _LOADS:
            loaded.add(step.argval)
        elif step.opname in _STORES and step.argval in loaded - inner:
            carried.add(step.argval)
    return carried
