"""Settings of Python itself: recursion limit, rounding of decimal numbers, locale."""

from __future__ import annotations

import decimal
import locale
import sys
from collections.abc import Iterator
from typing import Any

from qcity_nb.namespace.environment.library import Library

__all__ = ["library"]

_CATEGORIES = ("LC_CTYPE", "LC_COLLATE", "LC_TIME", "LC_MONETARY", "LC_NUMERIC", "LC_MESSAGES")


def _now() -> dict[str, Any]:
    context = decimal.getcontext()
    # Without a second argument it only reads.
    categories = {name: locale.setlocale(getattr(locale, name)) for name in _CATEGORIES if hasattr(locale, name)}
    return {
        "recursion_limit": sys.getrecursionlimit(),
        "decimal.prec": context.prec,
        "decimal.rounding": context.rounding,
        **categories,
    }


def _put(name: str, value: Any) -> None:
    if name == "recursion_limit":
        sys.setrecursionlimit(value)
    elif name.startswith("decimal."):
        setattr(decimal.getcontext(), name.removeprefix("decimal."), value)
    else:
        locale.setlocale(getattr(locale, name), value)


def library() -> Library:
    """These settings; their current values are the initial ones."""
    before = _now()

    def look() -> Iterator[tuple[str, Any]]:
        return ((name, value) for name, value in _now().items() if value != before.get(name))

    return Library("python", look, _put)
