"""The settings of one library: read as plain values by name, and set by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from qcity_nb.secrets import looks_secret

__all__ = ["Library", "is_safe"]


@dataclass(frozen=True, slots=True)
class Library:
    """One library's settings.

    Reading imports nothing: a library that the notebook has not imported has no settings.
    """

    name: str
    look: Callable[[], Iterable[tuple[str, Any]]]
    """The settings that changed since the beginning, as JSON values by name."""
    put: Callable[[str, Any], Iterable[str] | None]
    """Set one; returns sentences about what failed. May raise."""
    is_quiet: bool = True
    """Warnings raised by setting it are not shown: the notebook has shown them when it set it."""


def is_safe(name: str, value: object) -> bool:
    """Does it consist of JSON values, and does no string in it look like a secret?"""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and is_safe(key, each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return all(is_safe(name, each) for each in value)
    if type(value) is str:
        return not looks_secret(name, value)
    return value is None or type(value) in (int, bool, float)
