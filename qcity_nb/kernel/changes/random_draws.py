"""Random generators: did code draw from one of them?"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator
from typing import Any

from qcity_nb.checkpoint.state import generators

__all__ = ["generator_states"]

_METHODS = ("getstate", "get_state")
"""How generators of Python, numpy and torch give their state; numpy's newer ones have a ``bit_generator`` instead."""


def generator_states(state: object) -> str:
    """A digest of the global random generators and of those in ``state``: equal if nobody drew in between."""
    digest = hashlib.blake2b(pickle.dumps(generators.states()), digest_size=16)
    for each in _own_generators(state):
        digest.update(pickle.dumps(each))
    return digest.hexdigest()


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
