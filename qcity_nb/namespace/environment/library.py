"""The settings of one library: looked at as plain values by name, and put by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from qcity_nb.secrets import looks_secret

__all__ = ["Library", "is_safe"]


@dataclass(frozen=True, slots=True)
class Library:
    """One library's settings.

    Nothing is imported to look: a library that the notebook has not imported has none.
    """

    name: str
    look: Callable[[], Iterable[tuple[str, Any]]]
    """What differs from the beginning, as JSON's values by name."""
    put: Callable[[str, Any], Iterable[str] | None]
    """Make it so; what could not be, as sentences. May raise."""
    is_quiet: bool = True
    """What setting it warns of is not shown: the notebook that set it was told already."""


def is_safe(name: str, value: object) -> bool:
    """Is it made of JSON's values, and does no text in it look like a secret?"""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and is_safe(key, each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return all(is_safe(name, each) for each in value)
    if type(value) is str:
        return not looks_secret(name, value)
    return value is None or type(value) in (int, bool, float)
