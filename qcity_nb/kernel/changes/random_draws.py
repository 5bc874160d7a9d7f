"""Random generators: did code draw from one of them?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from qcity_nb.checkpoint.state import generators

__all__ = ["generator_states"]

_METHODS = ("getstate", "get_state")
"""How generators of Python, numpy and torch give their state; numpy's newer ones have a ``bit_generator`` instead."""


def generator_states(state: object) -> str:
    """A digest of the global random generators and of those in ``state``: equal if nobody drew in between."""
    digest = hashlib.blake2b(digest_size=16)
    _add(generators.states(), digest)
    for each in _own_generators(state):
        _add(each, digest)
    return digest.hexdigest()


def _add(value: Any, digest: hashlib.blake2b) -> None:
    """Add what a generator gave as its state: numbers, arrays and tensors in containers."""
    if isinstance(value, dict):
        value = [part for pair in value.items() for part in pair]
    if isinstance(value, list | tuple):
        digest.update(b"(%d" % len(value))
        if all(type(part) is int for part in value):  # those of `random`
            digest.update(repr(value).encode())
            return
        for part in value:
            _add(part, digest)
    elif hasattr(value, "cpu"):
        digest.update(value.cpu().numpy().tobytes())
    else:
        digest.update(value.tobytes() if hasattr(value, "tobytes") else repr(value).encode())


def _own_generators(state: object) -> Iterator[Any]:
    """The states of generators that are in ``state`` itself, in its containers, or attributes of these."""
    level: list[object] = [state]
    for _ in range(3):
        following: list[object] = []
        for each in level:
            if type(each).__module__.partition(".")[0] in ("random", "numpy", "torch"):
                if hasattr(each, "bit_generator"):
                    yield each.bit_generator.state
                else:
                    yield from (getattr(each, name)() for name in _METHODS if hasattr(each, name))
            elif isinstance(each, dict):
                following += each.values()
            elif isinstance(each, list | tuple):
                following += each if len(each) <= 64 else ()
            else:
                following += getattr(each, "__dict__", {}).values()
        level = following
