"""What the body of a loop does with variables: binds them, changes them in place, reads them before it binds them.

    body = analyze(statements, targets=["n"])
    body.carried     # bound by an iteration, and read by the next one before it binds them
    body.kept        # bound in some iterations only, and not read before in the body: the last value stays
    body.mutated     # changed in place, and not made in the iteration

A variable is a name or a chain of attributes (`self.best`). Loops inside the body are taken to run at least once, `try`
blocks to end without an exception: in doubt nothing is reported. Left out are what each iteration makes anew or resets,
times of a clock, and caches whose entries depend on their keys alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from qcity_nb.cells.body_walk import Walker
from qcity_nb.cells.expressions import Change, callee, is_constant, names_in, path_of, prefixes
from qcity_nb.cells.known_methods import CLOCKS, CONVERSIONS

__all__ = ["LoopBody", "analyze"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopBody:
    """The variables of one loop's body; the sets hold names and chains such as ``self.best``."""

    carried: frozenset[str] = frozenset()
    augmented: frozenset[str] = frozenset()
    """Those of ``carried`` that only `+=` and the like bind: in place, if their object can be changed."""
    kept: frozenset[str] = frozenset()
    """Bound under a condition that depends on what the loop computes, and not read before in the body."""
    kept_with_carried: frozenset[str] = frozenset()
    """The same, where the condition reads what the loop passes on, such as the best value so far."""
    mutated: frozenset[str] = frozenset()
    touched: frozenset[str] = frozenset()
    """What functions are called with, or other methods are called of: it may be changed."""
    bound: frozenset[str] = frozenset()
    varying: frozenset[str] = frozenset()
    """Those of ``bound`` that get other values than constants and times."""
    fresh: frozenset[str] = frozenset()
    """What each iteration resets."""
    reads: frozenset[str] = frozenset()
    """Read otherwise than to change it."""
    mirrored: frozenset[tuple[str, str, str]] = frozenset()
    """(container, key, variable): the body sets ``container[key]`` to a value that depends on the variable."""
    exposed: frozenset[str] = frozenset()
    """Read, or changed, before the body has bound it."""
    mutated_parts: frozenset[str] = frozenset()
    """Those of ``mutated`` of which only objects that they contain are changed."""
    called: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """The functions that are called, and what the body has bound before each call of them."""
    stepped: frozenset[str] = frozenset()
    """What `.step()` or `.update()` is called of, or `.step(…)` with."""
    uncertain: str = ""
    """Why the body may bind any variable; empty: it cannot."""


def analyze(statements: Sequence[ast.stmt], targets: Iterable[str] = ()) -> LoopBody:
    """What these statements, the body of a loop, do with variables.

    Args:
        targets: the names that the loop itself binds.
    """
    items = frozenset(targets)
    walk = Walker(defined=set(items))
    walk.run(statements)
    for path in walk.called_later:
        walk.called.setdefault(path, frozenset(walk.defined))
    for names in walk.later:
        walk.exposed |= {path for path in names if not walk.is_defined(path)}
    return _Summary(walk, items).body()


class _Summary:
    """Joins what the walker noted."""

    def __init__(self, walk: Walker, items: frozenset[str]) -> None:
        self.walk = walk
        self.items = items
        self.clocks: set[str] = set()
        while more := {path for path in walk.stores if path not in self.clocks and self._is_clock(path)}:
            self.clocks |= more

    def body(self) -> LoopBody:
        walk = self.walk
        stable = self.items | walk.constant | walk.deleted | self.clocks
        carried = {
            path
            for path, changes in walk.stores.items()
            if path in walk.exposed
            and path not in stable
            and not self._is_lazy_constant(path, changes)
            and not all(each.values and _is_conversion(each.values[0], path) for each in changes)
        }
        kept = {
            path
            for path, changes in walk.stores.items()
            if path not in walk.exposed | stable
            and (path not in walk.defined or any(each.skips for each in changes))
            and "." not in path
        }
        caches = {path for path, changes in walk.mutations.items() if self._is_cache(path, changes)}
        mutated = {
            path
            for path, changes in walk.mutations.items()
            if path not in walk.resets | walk.constant | self.items | caches
            and not all(self._is_time(each.values, path) for each in changes)
        }
        return LoopBody(
            carried=frozenset(carried),
            augmented=frozenset(path for path in carried if all(each.is_augmented for each in walk.stores[path])),
            kept=frozenset(path for path in kept - walk.defined if any(map(self._is_computed, walk.stores[path]))),
            kept_with_carried=frozenset(
                path for path in kept if any(_tested(each) & (carried | mutated) for each in walk.stores[path])
            ),
            mutated=frozenset(mutated),
            touched=frozenset(walk.touched - walk.resets - set(walk.stores) - caches),
            bound=frozenset(walk.stores) | self.items,
            varying=frozenset(walk.stores) - stable,
            fresh=frozenset(walk.resets),
            reads=frozenset(walk.reads),
            mirrored=frozenset(walk.mirrored),
            exposed=frozenset(walk.exposed),
            mutated_parts=frozenset(path for path in mutated if all(each.is_part for each in walk.mutations[path])),
            called=walk.called,
            stepped=frozenset(walk.stepped),
            uncertain=walk.uncertain,
        )

    def _is_clock(self, path: str) -> bool:
        """Is it only ever bound to times of a clock?"""
        values = [each.values for each in self.walk.stores[path]]
        times = [self._is_time(each, path) for each in values if not (each and all(map(is_constant, each)))]
        return bool(times) and all(times)

    def _is_time(self, values: Sequence[ast.expr], path: str) -> bool:
        """Is it computed of a clock, of constants and of nothing else that the body binds?"""
        names = names_in(values)
        calls = {callee(node) for value in values for node in ast.walk(value) if isinstance(node, ast.Call)}
        if not (names & self.clocks or calls & CLOCKS):
            return False
        return not any(name in self.walk.stores and name not in self.clocks | {path} for name in names)

    def _is_computed(self, change: Change) -> bool:
        """Does its condition depend on more than the loop's items and constants?"""
        changing = self.walk.stores.keys() | self.walk.mutations.keys()
        return any(prefix in changing for name in names_in(change.conditions) for prefix in prefixes(name))

    def _is_pure(self, values: Sequence[ast.expr], key: ast.expr | None, cache: str = "", depth: int = 3) -> bool:
        """Do the values depend on ``key`` alone, and on what the body never changes?"""
        for name in names_in(values) - (names_in([key]) if key is not None else set()):
            if name in self.items or name in self.walk.mutations or not depth:
                return False
            for each in self.walk.stores.get(name, ()):
                is_lookup = bool(each.values) and _is_lookup(each.values[0], cache)
                if not is_lookup and not (each.values and self._is_pure(each.values, key, cache, depth - 1)):
                    return False
        return True

    def _is_lazy_constant(self, path: str, changes: Sequence[Change]) -> bool:
        """`if table is None: table = make()`: the same value in each process."""
        return all(
            not each.is_augmented
            and each.values
            and any(_tests_none(test, path) for test in each.conditions)
            and self._is_pure(each.values, None)
            for each in changes
        )

    def _is_cache(self, path: str, changes: Sequence[Change]) -> bool:
        """`if key not in cache: cache[key] = f(key)`: what is missing is computed again."""
        return all(
            each.entry is not None
            and each.values
            and self._is_pure(each.values, each.entry, path)
            and any(self._tests_entry(test, path, each.entry) for test in (*each.conditions, *each.skips))
            for each in changes
        )

    def _tests_entry(self, test: ast.expr, path: str, key: ast.expr) -> bool:
        match test:
            case ast.Compare(left=left, ops=[ast.In() | ast.NotIn()], comparators=[container]):
                return path_of(container) == path and ast.dump(left) == ast.dump(key)
            case ast.Compare(left=ast.Name(id=name), ops=[ast.Is()], comparators=[ast.Constant(value=None)]):
                values = [value for each in self.walk.stores.get(name, ()) for value in each.values]
                return any(_is_lookup(value, path) for value in values)
            case ast.Name(id="KeyError"):
                return True
        return False


def _tested(change: Change) -> set[str]:
    return names_in([*change.conditions, *change.skips])


def _is_conversion(value: ast.expr, path: str) -> bool:
    """`x = x.to(device)`: the same in each iteration."""
    match value:
        case ast.Call(func=ast.Attribute(value=base)) if path_of(base) == path:
            return callee(value) in CONVERSIONS
        case ast.Call(args=[source, *_]):
            return callee(value) in CONVERSIONS and (path_of(source) == path or _is_conversion(source, path))
    return False


def _is_lookup(value: ast.expr, path: str) -> bool:
    match value:
        case ast.Call(func=ast.Attribute(value=base, attr="get")):
            return path_of(base) == path
    return False


def _tests_none(test: ast.expr, path: str) -> bool:
    match test:
        case ast.Compare(left=left, ops=[ast.Is()], comparators=[ast.Constant(value=None)]):
            return path_of(left) == path
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return path_of(operand) == path
    return False
