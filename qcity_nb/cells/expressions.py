"""What an expression is about: the variables in it, the one that it is a part of, what it calls."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from qcity_nb.cells.known_methods import ITEM_VIEWS, PASSES_ITEMS

__all__ = [
    "Change",
    "callee",
    "counter_of",
    "is_constant",
    "is_range",
    "is_true_for_zero",
    "item_sources",
    "names_in",
    "path_of",
    "prefixes",
    "root_of",
]


@dataclass(frozen=True, slots=True)
class Change:
    """One binding of a variable, or one change of an object in place."""

    values: tuple[ast.expr, ...]
    conditions: tuple[ast.expr, ...] = ()
    """The tests under which it happens."""
    skips: tuple[ast.expr, ...] = ()
    """The tests after which the iteration may have ended before it."""
    is_augmented: bool = False
    entry: ast.expr | None = None
    """The key, if it sets an entry."""
    is_part: bool = False
    """Not the object itself is changed, but one that it contains."""


def path_of(node: ast.AST) -> str:
    """A name, or a chain of attributes of one; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = path_of(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def root_of(node: ast.AST) -> str:
    """The chain that an expression is a part of: `history` for `history["loss"][0].x`."""
    while not (path := path_of(node)):
        if not isinstance(node, ast.Subscript | ast.Attribute | ast.Starred):
            return ""
        node = node.value
    return path


def prefixes(path: str) -> Iterator[str]:
    """The chain and what it is a part of: `a.b.c`, `a.b`, `a`."""
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        yield ".".join(parts[:count])


def names_in(nodes: Iterable[ast.AST]) -> set[str]:
    """The chains that are read; the functions that are called are left out."""
    names: set[str] = set()
    stack = list(nodes)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Call):
            stack += [*node.args, *(keyword.value for keyword in node.keywords)]
            if isinstance(node.func, ast.Attribute):
                stack.append(node.func.value)
        elif path := path_of(node):
            names.add(path)
        else:
            stack += ast.iter_child_nodes(node)
    return names


def is_constant(node: ast.expr | None) -> bool:
    """Is it a number, a text, ``None``, or an empty container that is made anew?"""
    match node:
        case ast.Constant(value=value):
            return not isinstance(value, bool)
        case ast.List(elts=[]) | ast.Dict(keys=[]) | ast.Tuple(elts=[]):
            return True
        case ast.Call(func=ast.Name(id="list" | "dict" | "set"), args=[], keywords=[]):
            return True
        case ast.UnaryOp(operand=operand):
            return is_constant(operand)
    return False


def callee(node: ast.Call) -> str:
    """The last part of the name that is called."""
    match node.func:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""


def is_range(node: ast.expr) -> bool:
    """Does a loop over it count?"""
    return isinstance(node, ast.Call) and callee(node) in ("range", "trange", "prange")


def counter_of(target: ast.expr, items: ast.expr) -> str:
    """The variable of a loop that counts from 0: `i` in `i, x in enumerate(xs)`; empty: there is none."""
    match items, target:
        case ast.Call(func=ast.Name(id="enumerate"), args=[_], keywords=[]), ast.Tuple(elts=[ast.Name(id=name), *_]):
            return name
        case ast.Call(args=[_] | [ast.Constant(value=0), *_]), ast.Name(id=name) if is_range(items):
            return name
    return ""


def is_true_for_zero(test: ast.expr, counters: set[str]) -> bool:
    """Does it hold in a loop's first pass: `i == 0`, `i % 100 == 0`, `not i % 100`?"""
    match test:
        case ast.Compare(left=left, ops=[ast.Eq()], comparators=[ast.Constant(value=0)]):
            pass
        case ast.UnaryOp(op=ast.Not(), operand=left):
            pass
        case _:
            return False
    return path_of(left.left if isinstance(left, ast.BinOp) and isinstance(left.op, ast.Mod) else left) in counters


def item_sources(target: ast.expr, items: ast.expr) -> list[tuple[ast.expr, ast.expr]]:
    """What the parts of a loop's target are items of: `(p, q)` in `zip(a, b.values())` of `a` and `b`."""
    sources = [items]
    while isinstance(call := sources[0], ast.Call) and len(sources) == 1:
        if callee(call) in ITEM_VIEWS and isinstance(call.func, ast.Attribute) and not call.args:
            sources = [call.func.value]
        elif callee(call) in PASSES_ITEMS and call.args:
            sources = list(call.args)
        else:
            return []
    targets = target.elts if isinstance(target, ast.Tuple) else [target]
    is_pairwise = len(sources) == len(targets)
    return [(part, sources[number if is_pairwise else 0]) for number, part in enumerate(targets)]
