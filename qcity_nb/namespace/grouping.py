"""Pickles all variables in groups: variables that share something mutable are written as one stream.

Each variable is pickled alone, and the objects in their streams are compared; then groups of several are pickled again,
as one stream. What was a group last time is pickled as one at once: if its stream is unchanged, its variables still
share the same objects.
"""

from __future__ import annotations

import time
import weakref
from array import array
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qcity_nb.checkpoint.digest import name_of
from qcity_nb.checkpoint.state.kinds import SCALARS
from qcity_nb.checkpoint.state.pickling import Refused
from qcity_nb.namespace.pickler import ClassPlacement, Failed, PickleContext, PickledStream, write, write_scalar
from qcity_nb.namespace.records import NotSaved
from qcity_nb.namespace.sharing import Families, MutableObjects, Owners, overlapping
from qcity_nb.namespace.unsaveable import describe_not_saved, kind_name

__all__ = ["Known", "Part", "Grouping", "group_variables"]

_COSTLY_S = 0.02
"""A group that took less time is pickled again, variable by variable, whenever its stream changes."""
_TRUST = 8
"""A costlier group only after so many captures: until then its variables may no longer share anything."""


@dataclass(slots=True, eq=False)
class Part:
    """Variables that were written as one stream."""

    names: tuple[str, ...]
    written: PickledStream
    placement: ClassPlacement
    cost_s: float
    mutables: list[Any] = field(default_factory=list)
    guessed: int = 0
    """How many captures ago it was last proved that they belong together."""


@dataclass(slots=True, eq=False)
class Known:
    """What is remembered of a group until the next capture: no references to its objects."""

    names: tuple[str, ...]
    identities: tuple[tuple[int, weakref.ref[Any] | None], ...]
    mutable_ids: array[int]
    bounds: list[tuple[int, int]]
    stream: str
    """The stream's name."""
    placement: ClassPlacement
    cost_s: float
    classes: tuple[type, ...]
    table: str
    """The name of its classes' stream."""
    guessed: int = 0

    @classmethod
    def of(cls, part: Part, values: Mapping[str, Any]) -> Known:
        """The record of ``part``, to compare with the next capture."""
        written, table = part.written, part.written.table
        return cls(
            names=part.names,
            identities=tuple(_identity(values[name]) for name in part.names),
            mutable_ids=array("Q", map(id, part.mutables)),
            bounds=written.bounds,
            stream=name_of(written.skeleton),
            placement=part.placement,
            cost_s=part.cost_s,
            classes=written.classes,
            table=name_of(table.skeleton) if table is not None else "",
            guessed=part.guessed,
        )

    def is_same(self, values: Mapping[str, Any]) -> bool:
        """Are its variables still the same objects?"""
        for name, (number, reference) in zip(self.names, self.identities, strict=True):
            value = values.get(name, self)
            if id(value) != number or (reference is not None and reference() is not value):
                return False
        return True


def _identity(value: object) -> tuple[int, weakref.ref[Any] | None]:
    try:
        return id(value), weakref.ref(value)
    except TypeError:
        return id(value), None  # lists, dicts, numbers: the caller says that they did not change


def _is_flat(value: Any) -> bool:
    """Is it a container of only numbers and strings? Then only the container itself can be shared."""
    if type(value) in (list, set):
        return SCALARS.issuperset(map(type, value))
    return (
        type(value) is dict and SCALARS.issuperset(map(type, value)) and SCALARS.issuperset(map(type, value.values()))
    )


@dataclass(slots=True, eq=False)
class Grouping:
    """All groups."""

    parts: list[Part] = field(default_factory=list)
    kept: list[Known] = field(default_factory=list)
    not_saved: list[NotSaved] = field(default_factory=list)


def group_variables(
    values: Mapping[str, Any], context: PickleContext, known: Iterable[Known], skip: Collection[str]
) -> Grouping:
    """Pickle the variables ``values``; see ``NamespaceSnapshotter.capture`` for ``skip``.

    Raises:
        Overdue: the time limit of ``context`` is over.
    """
    return _Grouper(values, context, list(known)).run(frozenset(skip))


class _Grouper:
    def __init__(self, values: Mapping[str, Any], context: PickleContext, known: list[Known]) -> None:
        self.values, self.context, self.known = values, context, known
        self.mutables = MutableObjects((*context.own, id(values)))
        self.grouping = Grouping()
        self.parts: list[Part] = []
        self.table_mutables: dict[int, list[Any]] = {}

    def run(self, skip: frozenset[str]) -> Grouping:
        unchanged = [group for group in self.known if skip.issuperset(group.names) and self._may_keep(group)]
        held = {name for group in unchanged for name in group.names}
        self._write_all(set(self.values) - held)
        pulled = self._find_sharing(unchanged)
        self._write_all({name for group in pulled for name in group.names})
        self.grouping.kept = [group for group in unchanged if group not in pulled]
        self._group()
        return self.grouping

    # -- what need not be pickled

    def _may_keep(self, group: Known) -> bool:
        if group.placement is not ClassPlacement.APART or not group.is_same(self.values):
            return False
        if not group.classes:
            return True
        try:
            table = self.context.table(group.classes)
        except Failed:
            return False
        return name_of(table.skeleton) == group.table

    def _find_sharing(self, groups: list[Known]) -> list[Known]:
        """Those of ``kept`` that share objects or memory with what was pickled."""
        if not groups:
            return []
        ids = {id(value) for part in self.parts for value in part.mutables}
        for part in self.parts:
            ids.update(id(value) for value in self._mutables_of_table(part))
        memory = [(low, high, -1) for part in self.parts for low, high in part.written.bounds]
        memory += [(low, high, index) for index, group in enumerate(groups) for low, high in group.bounds]
        touched = {owner for pair in overlapping(memory) for owner in pair}
        return [
            group for index, group in enumerate(groups) if index in touched or not ids.isdisjoint(group.mutable_ids)
        ]

    # -- writing

    def _write_all(self, names: set[str]) -> None:
        left = dict.fromkeys(name for name in self.values if name in names)
        for group in self.known:
            if len(group.names) < 2 or not all(name in left for name in group.names):
                continue
            part = self._guess(group)
            if part is not None:
                self.parts.append(part)
                for name in group.names:
                    del left[name]
        for name in left:
            self.context.check()
            value = self.values[name]
            try:
                if type(value) in SCALARS:
                    written = self._without_secrets(write_scalar({name: value}), value)
                    self.parts.append(Part((name,), written, ClassPlacement.APART, 0.0))
                else:
                    self.parts.append(self._part((name,), ClassPlacement.APART))
            except Failed as failed:
                self.grouping.not_saved.append(describe_not_saved(name, value, failed.error, failed.visited))

    def _guess(self, group: Known) -> Part | None:
        """The group as it was, if its variables still belong together."""
        may_trust = group.cost_s > _COSTLY_S and group.guessed < _TRUST and group.is_same(self.values)
        try:
            part = self._part(group.names, group.placement)
        except Failed:
            return None
        if name_of(part.written.skeleton) == group.stream:
            part.guessed = group.guessed
            return part
        part.guessed = group.guessed + 1
        return part if may_trust else None

    def _part(self, names: tuple[str, ...], placement: ClassPlacement) -> Part:
        begun = time.perf_counter()
        written = self._write({name: self.values[name] for name in names}, placement)
        cost_s = time.perf_counter() - begun
        alone = self.values[names[0]]
        self._without_secrets(written, alone)
        mutables = [alone] if len(names) == 1 and _is_flat(alone) else self.mutables.of(written)
        return Part(names, written, placement, cost_s, mutables)

    def _without_secrets(self, written: PickledStream, value: object) -> PickledStream:
        """The stream, if it holds no secret.

        Raises:
            Failed: it does.
        """
        if self.context.clean and name_of(written.skeleton) in self.context.clean:
            return written
        if name := self.context.secrets.name_in(written.skeleton):
            advice = f'city.secret("{name}") returns it on each host'
            raise Failed(Refused(f"it holds the secret {name}, which is written nowhere; {advice}"), value)
        return written

    def _write(self, values: dict[str, Any], placement: ClassPlacement) -> PickledStream:
        for _ in range(2):
            try:
                return write(values, self.context, placement)
            except Failed as failed:
                # Another thread changed a container meanwhile: the next try may succeed.
                if not isinstance(failed.error, RuntimeError) or isinstance(failed.error, RecursionError):
                    raise
        return write(values, self.context, placement)

    # -- grouping

    def _mutables_of_table(self, part: Part) -> list[Any]:
        table = part.written.table
        if table is None:
            return []
        if id(table) not in self.table_mutables:
            self.table_mutables[id(table)] = self.mutables.of(table)
        return self.table_mutables[id(table)]

    def _group(self) -> None:
        parts = self.parts
        families = Families(len(parts))
        owners = Owners([part.mutables for part in parts], families)
        for first, second in overlapping(
            [(low, high, index) for index, part in enumerate(parts) for low, high in part.written.bounds]
        ):
            families.join(first, second)
        entangled = set()
        for index, part in enumerate(parts):
            for value in self._mutables_of_table(part):
                second = owners.of(value)
                if second >= 0:  # a variable shares objects with a class: both go into one stream, classes included
                    families.join(index, second)
                    entangled.add(index)
        members: dict[int, list[int]] = {}
        for index in range(len(parts)):
            members.setdefault(families.top(index), []).append(index)
        for group in members.values():
            placement = ClassPlacement.INLINE if not entangled.isdisjoint(group) else ClassPlacement.APART
            placement = (
                ClassPlacement.INLINE
                if any(parts[index].placement is ClassPlacement.INLINE for index in group)
                else placement
            )
            self._write_group([parts[index] for index in group], placement)

    def _write_group(self, together: list[Part], placement: ClassPlacement) -> None:
        first = together[0]
        if len(together) == 1 and first.placement is placement:
            self.grouping.parts.append(first)
            return
        names = tuple(sorted(name for part in together for name in part.names))
        begun = time.perf_counter()
        try:
            written = self._write({name: self.values[name] for name in names}, placement)
        except Failed as failed:
            for name in names:
                others = ", ".join(other for other in names if other != name)
                why = f"it shares objects with {others}, and together they cannot be pickled ({failed})"
                if not others:
                    why = f"it shares objects with its class, and they cannot be pickled together ({failed})"
                self.grouping.not_saved.append(NotSaved(name=name, kind=kind_name(self.values[name]), why=why))
            return
        mutables = [value for part in together for value in part.mutables]
        self.grouping.parts.append(Part(names, written, placement, time.perf_counter() - begun, mutables))
