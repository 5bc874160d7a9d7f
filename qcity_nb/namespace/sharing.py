"""What two variables share: mutable objects, memory, objects of a class."""

from __future__ import annotations

import enum
import sys
import types
from collections.abc import Iterable, Sequence, Set
from typing import Any

from qcity_nb.namespace.pickler import PickledStream

__all__ = ["Families", "MutableObjects", "Owners", "overlapping"]

_FIXED = frozenset(
    [
        "builtins.str",
        "builtins.bytes",
        "builtins.int",
        "builtins.float",
        "builtins.complex",
        "builtins.bool",
        "builtins.NoneType",
        "builtins.tuple",
        "builtins.frozenset",
        "builtins.range",
        "builtins.slice",
        "builtins.ellipsis",
        "builtins.code",
        "builtins.builtin_function_or_method",
        "builtins.method_descriptor",
        "builtins.wrapper_descriptor",
        "builtins.method-wrapper",
        "builtins.getset_descriptor",
        "builtins.member_descriptor",
        "builtins.classmethod_descriptor",
        "builtins.NotImplementedType",
        "builtins.module",
        "pickle.PickleBuffer",
        "_pickle.PickleBuffer",
        "re.Pattern",
        "logging.Logger",
        "logging.RootLogger",
        "datetime.date",
        "datetime.time",
        "datetime.timedelta",
        "datetime.tzinfo",
        "decimal.Decimal",
        "fractions.Fraction",
        "uuid.UUID",
        "pathlib.PurePath",
        "types.GenericAlias",
        "typing._Final",
        "zoneinfo.ZoneInfo",
        "numpy.generic",
        "numpy.dtype",
        "numpy.ufunc",
        "torch.dtype",
        "torch.device",
        "torch.Size",
        "torch.layout",
        "torch.memory_format",
        "pandas._libs.tslibs.offsets.BaseOffset",
        "pandas.core.dtypes.base.ExtensionDtype",
        "pandas._libs.tslibs.timestamps.Timestamp",
        "pandas._libs.missing.NAType",
        "qcity_nb.namespace.tombstone.Tombstone",
        "qcity_nb.namespace.pickler._Home",
    ]
)
"""Types (and subclasses) whose objects cannot change, are saved by name, or are made only for the pickler."""


def _select_referenced(values: list[Any], kinds: Set[type], usual: int, ignore: Set[int]) -> list[Any]:
    """The values of these types that have more than ``usual`` references."""
    count = sys.getrefcount  # one pass: each access to an object that is not in the processor's cache is slow
    return [value for value in values if type(value) in kinds and count(value) > usual and id(value) not in ignore]


def _references() -> int:
    """The ``getrefcount`` in ``_held`` of an object that only the list and its pickler's memo refer to."""
    memo = [object()]
    return next(usual for usual in range(1, 100) if not _select_referenced(list(memo), {object}, usual, frozenset()))


_TEMPORARY = _references()


class MutableObjects:
    """Selects the objects of a stream that can be shared."""

    def __init__(self, ignore: Iterable[int]) -> None:
        self._ignore = frozenset(ignore)
        self._is_fixed: dict[type, bool] = {}

    def of(self, written: PickledStream) -> list[Any]:
        """The mutable objects in it, once each. Their ids are valid as long as the list exists."""
        visited = written.visited()  # this list must have no second name: references are counted
        kinds = set(map(type, visited))
        for cls in kinds - self._is_fixed.keys():
            self._is_fixed[cls] = _is_fixed(cls)
        counting = {cls for cls in kinds if not self._is_fixed[cls]}
        mutables = _select_referenced(visited, counting, _TEMPORARY, self._ignore | written.own)
        if types.FunctionType in counting:
            by_value = written.by_value
            mutables = [value for value in mutables if type(value) is not types.FunctionType or id(value) in by_value]
        return mutables


def _is_fixed(cls: type) -> bool:
    if issubclass(cls, type | enum.Enum):
        return True
    if issubclass(cls, tuple | frozenset | str | bytes | int | float) and not hasattr(cls, "__dict__"):
        return True
    return any(f"{kind.__module__}.{kind.__qualname__}" in _FIXED for kind in cls.__mro__[:-1])


class Families:
    """Sets of numbers that are joined step by step (union-find)."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def top(self, number: int) -> int:
        """The number that represents the set of ``number``."""
        while self._parent[number] != number:
            self._parent[number] = self._parent[self._parent[number]]
            number = self._parent[number]
        return number

    def join(self, first: int, second: int) -> None:
        """Join the sets of both."""
        self._parent[self.top(first)] = self.top(second)


class Owners:
    """Knows which of several lists has an object; lists with a common object are joined.

    The longest list is not indexed: often it is much longer than all others.
    """

    def __init__(self, lists: Sequence[Sequence[Any]], families: Families) -> None:
        self._owner: dict[int, int] = {}
        order = sorted(range(len(lists)), key=lambda index: len(lists[index]))
        self._last = order.pop() if order else -1
        self._longest: Sequence[Any] = lists[self._last] if lists else ()
        self._in_longest: frozenset[int] | None = None
        for index in order:
            self._join(index, lists[index], families)
            self._owner.update(dict.fromkeys(map(id, lists[index]), index))
        self._join(self._last, self._longest, families)

    def _join(self, index: int, values: Sequence[Any], families: Families) -> None:
        for number in self._owner.keys() & map(id, values):
            families.join(index, self._owner[number])

    def of(self, value: object) -> int:
        """The index of a list that has it; -1: none."""
        index = self._owner.get(id(value), -1)
        if index < 0:
            if self._in_longest is None:
                self._in_longest = frozenset(map(id, self._longest))
            index = self._last if id(value) in self._in_longest else -1
        return index


def overlapping(memory: Sequence[tuple[int, int, int]]) -> Iterable[tuple[int, int]]:
    """Pairs of owners whose memory overlaps, enough to find all families; from (low, high, owner)."""
    end, owner = 0, -1
    for low, high, other in sorted(memory):
        if low < end and other != owner:
            yield owner, other
        if high > end:
            end, owner = high, other
