"""The syntax tree of a cell's or a script's source, as far as it changes what the code computes.

Comments, layout, docstrings, annotations outside of classes and IPython's magics are left out; so is how often a loop
saves. Digests of such trees are equal on all versions of Python, unlike `ast.dump`.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import re
import warnings
from collections.abc import Iterable, Iterator

__all__ = ["digest", "dump", "parse"]

LOOP_OPTIONS = frozenset({"every", "lazy", "name", "changed", "strict_state"})
"""Arguments of `city.loop` that change nothing of what the body computes."""
_DIGITS = 12
_SKIPPED = frozenset({"ctx", "type_comment", "kind", "returns", "type_ignores"})
_CODE_MAGICS = frozenset({"time", "timeit", "capture", "prun"})
_MAGIC = re.compile(r"(?m)^([ \t]*)(?:[%!?].*|[\w.]+\?{1,2}[ \t]*)$")
_TIMED = re.compile(r"(?m)^([ \t]*)%(?:time|timeit)[ \t]+")
_ASSIGNED = re.compile(r"(?m)^([ \t]*[\w, \t]+=[ \t]*)([%!].*)$")
_CELL_MAGIC = re.compile(r"\s*%%(\w+)[^\n]*\n?")


@functools.lru_cache(maxsize=512)
def parse(source: str) -> ast.Module:
    """The tree of a source, with line numbers as in ``source``; empty if it is not Python.

    Magics are left out: lines that begin with `%` or `!`, and the calls of `get_ipython()` that IPython makes of them.
    `%time`, `%timeit` and `%%capture` leave the code that they run.
    """
    magic = _CELL_MAGIC.match(source)
    if magic is not None:
        if magic[1] not in _CODE_MAGICS:
            return ast.Module(body=[], type_ignores=[])
        source = "\n" * magic[0].count("\n") + source[magic.end() :]
    tree = _python(source)
    if tree is None:
        text = _TIMED.sub(r"\1", source)
        text = _ASSIGNED.sub(lambda match: match[1] + repr(match[2]), text)
        tree = _python(_MAGIC.sub(r"\1pass", text))
    if tree is None:
        return ast.Module(body=[], type_ignores=[])
    if "get_ipython" in source:
        for node in ast.walk(tree):
            for name in ("body", "orelse", "finalbody"):
                if isinstance(statements := getattr(node, name, None), list):
                    setattr(node, name, [each for statement in statements for each in _without_magic(statement)])
    return tree


def _python(source: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the kernel shows a cell's SyntaxWarnings
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _without_magic(statement: ast.stmt) -> Iterable[ast.stmt]:
    match statement:
        case ast.Expr(
            value=ast.Call(
                func=ast.Attribute(value=ast.Call(func=ast.Name(id="get_ipython")), attr=method),
                args=[ast.Constant(value=str(name)), *_] as arguments,
            )
        ):
            last = arguments[-1]
            if method.startswith("run_") and name in _CODE_MAGICS and isinstance(last, ast.Constant):
                return parse(str(last.value)).body
            return []
    return [statement]


def digest(*nodes: ast.AST | str | None) -> str:
    """A digest of the trees, 12 hexadecimal digits."""
    text = "|".join(node if isinstance(node, str) else dump(node) for node in nodes)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGITS // 2).hexdigest()


def dump(node: ast.AST | None) -> str:
    """The tree as text: equal for code that differs in nothing that counts."""
    parts: list[str] = []
    _write(node, parts, in_class=False)
    return "".join(parts)


def _write(node: object, parts: list[str], *, in_class: bool) -> None:
    if isinstance(node, ast.AST):
        node = _plain(node, in_class=in_class)
        parts.append(f"{type(node).__name__}(")
        for name in node._fields:
            inside = isinstance(node, ast.ClassDef) and name == "body"
            value = getattr(node, name, None)
            if isinstance(value, list):
                value = list(_statements(value, in_class=inside))
            if name in _SKIPPED or value is None or value == []:
                continue
            if name == "annotation" and not (in_class and isinstance(node, ast.AnnAssign)):
                continue
            parts.append(f"{name}=")
            _write(value, parts, in_class=inside)
            parts.append(",")
        parts.append(")")
    elif isinstance(node, list):
        parts.append("[")
        for each in node:
            _write(each, parts, in_class=in_class)
            parts.append(",")
        parts.append("]")
    else:
        parts.append(f"{type(node).__name__}:{node!r}")


def _plain(node: ast.AST, *, in_class: bool) -> ast.AST:
    match node:
        case ast.AnnAssign(target=target, value=ast.expr() as value) if not in_class:
            return ast.Assign(targets=[target], value=value)
        case ast.Call(func=ast.Attribute(attr="loop"), keywords=keywords):
            kept = [keyword for keyword in keywords if keyword.arg not in LOOP_OPTIONS]
            return ast.Call(func=node.func, args=node.args, keywords=kept)
        case ast.JoinedStr(values=values):
            return ast.JoinedStr(values=_joined(values))
    return node


def _joined(values: list[ast.expr]) -> list[ast.expr]:
    """The parts of an f-string, of which some versions of Python make more than others."""
    parts: list[ast.expr] = []
    for value in values:
        last = parts[-1] if parts else None
        if isinstance(value, ast.Constant) and isinstance(last, ast.Constant):
            parts[-1] = ast.Constant(value=str(last.value) + str(value.value))
        elif not (isinstance(value, ast.Constant) and value.value == ""):
            parts.append(value)
    return parts


def _statements(nodes: list[object], *, in_class: bool) -> Iterator[object]:
    for node in nodes:
        if isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            continue  # docstrings too
        if isinstance(node, ast.AnnAssign) and node.value is None and not in_class:
            continue
        yield node
