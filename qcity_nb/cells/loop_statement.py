"""Finds a loop's statement in the source around its `city.loop(…)` call.

Only the statement itself is parsed: a long script takes no longer than a short one.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from qcity_nb.cells.body_walk import Walker
from qcity_nb.cells.expressions import callee, path_of, root_of
from qcity_nb.cells.loop_body import LoopBody, analyze

__all__ = ["LoopStatement", "find_statement", "function_body", "is_read_first"]

MOST_LINES_BEFORE = 30
"""The call may stand so many lines below its `for`."""
MOST_TRIES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopStatement:
    """A `for` statement, or a comprehension, over `city.loop(…)`."""

    body: LoopBody
    state: str = ""
    """The variable that is passed as ``state``; empty: it is another expression."""
    entries: Mapping[str, str] = field(default_factory=dict)
    """The variables by key, if ``state`` is written as a dict there."""
    counted: str = ""
    """What counts its iterations and is not `city.loop` itself: `enumerate` or `zip` around it."""
    after: str = ""
    """The source after the loop: of the function, else of the file or cell."""


def find_statement(lines: Sequence[str], line: int, *, in_function: bool) -> LoopStatement | None:
    """The loop whose `city.loop(…)` call is in that line, counted from 1; ``None``: it was not found."""
    for first in range(line - 1, max(line - 1 - MOST_LINES_BEFORE, -1), -1):
        if lines[first : first + 1] and _begins(lines[first]):
            end = _end(lines, first)
            for _ in range(MOST_TRIES):
                statement = _parse("".join(lines[first:end]), line - first)
                if statement is not None:
                    after = _after(lines, end, _indent(lines[first]) if in_function else 0)
                    return replace(statement, after=after)
                if end >= len(lines):
                    break
                end = _end(lines, first, end)
    return None


def _begins(line: str) -> bool:
    text = line.lstrip()
    return bool(text) and not text.startswith(("#", ")", "]", "}", ",", "."))


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _end(lines: Sequence[str], first: int, after: int = 0) -> int:
    """Where the next line stands that is indented no more than ``first``, and is not its `else`."""
    indent = _indent(lines[first])
    for number in range(max(first, after) + 1, len(lines)):
        text = lines[number].strip()
        if text and not text.startswith(("#", "else")) and _indent(lines[number]) <= indent:
            return number
    return len(lines)


def _after(lines: Sequence[str], end: int, indent: int) -> str:
    """The source from ``end`` on, as far as it is in the same function."""
    last = end
    while last < len(lines) and (not indent or not lines[last].strip() or _indent(lines[last]) > 0):
        last += 1
    return "".join(lines[end:last])


@functools.lru_cache(maxsize=64)
def _parse(text: str, line: int) -> LoopStatement | None:
    tree = _tree(text)
    for node in ast.walk(tree) if tree is not None else ():
        loop = _loop_of(node, line + text[:1].isspace())
        if loop is not None:
            target, items, call, statements = loop
            names = [each.id for each in ast.walk(target) if isinstance(each, ast.Name)]
            body = analyze(statements, names)
            state, entries = _state_of(call)
            return LoopStatement(body=body, state=state, entries=entries, counted=_counted(target, items, call, body))
    return None


def _tree(text: str) -> ast.Module | None:
    """The syntax tree of statements that may be indented; ``None``: they are incomplete, or no Python."""
    with warnings.catch_warnings(), contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
        warnings.simplefilter("ignore")  # compiling it has shown its SyntaxWarnings
        return ast.parse("if True:\n" + text if text[:1].isspace() else text)
    return None


def _counted(target: ast.expr, items: ast.expr, call: ast.Call, body: LoopBody) -> str:
    for node in ast.walk(items):
        if isinstance(node, ast.Call) and call in node.args:
            if callee(node) == "zip" and len(node.args) > 1:
                return "zip"
            if callee(node) == "enumerate" and isinstance(target, ast.Tuple) and root_of(target.elts[0]) in body.reads:
                return "enumerate"
    return ""


def function_body(text: str) -> LoopBody | None:
    """What the first function of a source, which may have more after it, does with variables; ``None``: there is none.

    Its first parameter counts as a variable of the code around: a method's object.
    """
    lines = text.splitlines(keepends=True)
    first = next(
        (number for number, line in enumerate(lines) if line.lstrip().startswith(("def ", "async def "))), None
    )
    if first is None:
        return None
    tree = _tree("".join(lines[first : _end(lines, first)]))
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            every = [each.arg for each in ast.walk(node.args) if isinstance(each, ast.arg)]
            return analyze(node.body, every[1:])
    return None


def is_read_first(text: str, path: str) -> bool | None:
    """Does the source read a variable before it binds it? ``None``: it does neither.

    Only the statements that mention it are parsed.
    """
    lines = text.splitlines(keepends=True)
    mention = re.compile(rf"(?<![\w.]){re.escape(path)}\b")
    walk = Walker()
    end = 0
    for number, line in enumerate(lines):
        if number < end or not mention.search(line):
            continue
        first = next(each for each in range(number, -1, -1) if each == end or _indent(lines[each]) <= _indent(lines[0]))
        end = max(_end(lines, first), number + 1)
        tree = _tree("".join(lines[first:end]))
        if tree is None:
            return True
        walk.run(tree.body)
        if path in walk.exposed or any(path in names for names in walk.later):
            return True
        if walk.is_defined(path):
            return False
    return None


def _loop_of(node: ast.AST, line: int) -> tuple[ast.expr, ast.expr, ast.Call, list[ast.stmt]] | None:
    match node:
        case ast.For(target=target, iter=items, body=body) | ast.AsyncFor(target=target, iter=items, body=body):
            pass
        case ast.ListComp() | ast.SetComp() | ast.GeneratorExp():
            first = node.generators[0]
            target, items = first.target, first.iter
            body = [ast.Expr(each) for each in (*first.ifs, node.elt)]
        case _:
            return None
    for each in ast.walk(items):
        if isinstance(each, ast.Call) and callee(each) == "loop" and each.lineno <= line <= (each.end_lineno or line):
            return target, items, each, body
    return None


def _state_of(call: ast.Call) -> tuple[str, dict[str, str]]:
    values = [keyword.value for keyword in call.keywords if keyword.arg == "state"] or call.args[1:2]
    match values:
        case [ast.Dict(keys=keys, values=entries)]:
            pairs = zip(keys, entries, strict=True)
            return "", {str(key.value): path_of(entry) for key, entry in pairs if isinstance(key, ast.Constant)}
        case [ast.Call(func=ast.Name(id="dict"), args=[], keywords=pairs)]:
            return "", {pair.arg: path_of(pair.value) for pair in pairs if pair.arg}
        case [value]:
            return path_of(value), {}
    return "", {}
