"""Which names the source of cells mentions: rather too many than too few."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

__all__ = ["mentioned", "mentioned_in_bodies"]

_NAME = re.compile(r"[^\W\d]\w*")


def mentioned(sources: Iterable[str]) -> set[str]:
    """All words in them; what code makes up at run time is not seen."""
    return {name for source in sources for name in _NAME.findall(source)}


def mentioned_in_bodies(sources: Iterable[str]) -> set[str]:
    """The words in functions and classes that they define, which later code may call."""
    found: set[str] = set()
    for source in sources:
        try:
            tree = ast.parse(source)
        except SyntaxError:  # magics
            found |= mentioned([source])
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
                found |= mentioned([ast.unparse(node)])
    return found
