"""Read-only cells: they do not change variables, so that the cells after them do not depend on them.

`x`, `df.head()`, `print(a, len(b))`, `df?`, `!nvidia-smi`: people add and delete such cells while they work. A cell
counts as read-only only if its source shows that; in doubt it does not.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Container

__all__ = ["asks_for_results", "is_read_only"]

_CALLS = frozenset(
    {"print", "repr", "len", "type", "display", "isinstance", "id", "dir", "help", "callable", "hasattr"}
)
_METHODS = frozenset({"head", "tail", "describe", "info", "nunique", "value_counts", "keys"})
_NODES = (
    *(ast.Module, ast.Expr, ast.Expression, ast.Load, ast.Constant, ast.Name, ast.Attribute, ast.Subscript, ast.Slice),
    *(ast.Tuple, ast.JoinedStr, ast.FormattedValue, ast.Call, ast.keyword),
    *(ast.Compare, ast.cmpop, ast.BoolOp, ast.boolop, ast.UnaryOp, ast.unaryop),
)
_HELP = re.compile(
    r"\s*(?:\?{1,2}\s*[\w.]+|[\w.]+\s*\?{1,2}|%(?:whos?|pinfo2?|pdoc|psource|history|lsmagic)\b[^\n]*)\s*"
)
_LISTS = re.compile(
    r"(?:[!%]\s*(?:ls|pwd|ll)|!\s*(?:nvidia-smi|df|free|cat|head|tail|wc|du|nproc|which|pip (?:list|show|freeze)))"
    r"(?:\s[^>|;&$`{]*)?"
)
_RESULT = re.compile(r"(?<![\w.])(?:_{1,3}|_i{1,3}|_i?\d+|Out|In|_oh|_ih)(?!\w)")


def is_read_only(source: str, rebound: Container[str] = ()) -> bool:
    """Does the cell only read variables?

    Args:
        rebound: names that the notebook has defined: its own function `print` may do anything.
    Does not promise: that a property, `__repr__` or `__getitem__` of the user's changes nothing.
    """
    lines = [line.strip() for line in source.splitlines() if line.strip()]
    if lines and all(_HELP.fullmatch(line) or _LISTS.fullmatch(line) for line in lines):
        return True
    if asks_for_results(source):
        return False
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):  # magics
        return False
    return bool(tree.body) and all(_is_read_only(node, rebound) for node in ast.walk(tree))


def _is_read_only(node: ast.AST, rebound: Container[str]) -> bool:
    if not isinstance(node, _NODES):
        return False
    if not isinstance(node, ast.Call):
        return True
    if isinstance(node.func, ast.Name):
        return node.func.id in _CALLS and node.func.id not in rebound
    return isinstance(node.func, ast.Attribute) and node.func.attr in _METHODS


def asks_for_results(source: str) -> bool:
    """Does the cell use `_`, `_3`, `Out` or `In`? Their values also depend on read-only cells."""
    try:
        names = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)]
    except (SyntaxError, ValueError, RecursionError):  # magics
        return _RESULT.search(source) is not None
    bound = {node.id for node in names if isinstance(node.ctx, ast.Store)}  # `for _ in …` has its own `_`
    return any(_RESULT.fullmatch(node.id) and node.id not in bound for node in names)
