"""Takes the place of a variable that is missing: every use says so, and what to do."""

from __future__ import annotations

from typing import Any, NoReturn

from qcity_nb.errors import VariableLost
from qcity_nb.namespace.records import NotSaved

__all__ = ["Tombstone", "put_tombstone", "not_saved_of"]


class Tombstone:
    """Raises ``VariableLost`` at every use: attributes, calls, iteration, operators, ``repr``, ``isinstance``.

    ``del`` and a new assignment work, since they concern the namespace. Does not: detect ``is`` and ``type()``.
    """

    __slots__ = ("_not_saved",)

    def __getattribute__(self, name: str) -> NoReturn:
        raise _error(self)


_slot: Any = Tombstone.__dict__["_not_saved"]


def put_tombstone(not_saved: NotSaved) -> Tombstone:
    """A tombstone for ``not_saved``."""
    made = object.__new__(Tombstone)
    _slot.__set__(made, not_saved)
    return made


def not_saved_of(value: object) -> NotSaved | None:
    """The record in a tombstone; None if ``value`` is not one. The only use that does not raise."""
    if type(value) is not Tombstone:
        return None
    record: NotSaved = _slot.__get__(value)
    return record


def _error(tombstone: Any) -> VariableLost:
    not_saved = not_saved_of(tombstone)
    assert not_saved is not None
    made = f", made in {not_saved.where}," if not_saved.where else ""
    kind = not_saved.kind.removeprefix("builtins.")
    advice = not_saved.advice or "re-run the cell that made it"
    return VariableLost(f"{not_saved.name} (a {kind}){made} is not here since the restart: {not_saved.why}; {advice}")


def _raises(name: str) -> Any:
    def use(self: Any, *_: Any, **__: Any) -> NoReturn:
        raise _error(self)

    use.__name__ = name
    return use


# The interpreter looks special methods up on the class alone, past __getattribute__.
_BINARY = [
    "add",
    "sub",
    "mul",
    "matmul",
    "truediv",
    "floordiv",
    "mod",
    "divmod",
    "pow",
    "lshift",
    "rshift",
    "and",
    "xor",
    "or",
]
_SPECIAL = [
    *[
        "repr",
        "str",
        "bytes",
        "format",
        "hash",
        "bool",
        "len",
        "length_hint",
        "iter",
        "next",
        "reversed",
        "contains",
        "call",
        "index",
        "int",
        "float",
        "complex",
    ],
    *[
        "lt",
        "le",
        "eq",
        "ne",
        "gt",
        "ge",
        "getitem",
        "setitem",
        "delitem",
        "setattr",
        "delattr",
        "dir",
        "neg",
        "pos",
        "abs",
        "invert",
        "round",
        "trunc",
        "floor",
        "ceil",
    ],
    *[
        "enter",
        "exit",
        "aenter",
        "aexit",
        "aiter",
        "anext",
        "await",
        "get",
        "set",
        "delete",
        "fspath",
        "copy",
        "deepcopy",
        "sizeof",
    ],
    *["reduce", "reduce_ex", "getstate", "array"],
    *_BINARY,
    *(f"r{name}" for name in _BINARY),
    *(f"i{name}" for name in _BINARY if name != "divmod"),
]
for _name in _SPECIAL:
    setattr(Tombstone, f"__{_name}__", _raises(f"__{_name}__"))
