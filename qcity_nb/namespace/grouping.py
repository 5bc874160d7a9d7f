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
from qcity_nb.namespace.pickler import ClassPlacement, Failed, PickleContext, Written, write, write_scalar
from qcity_nb.namespace.records import NotSaved
from qcity_nb.namespace.sharing import Families, Marks, Owners, overlapping
from qcity_nb.namespace.unsaveable import describe_not_saved, kind_name

__all__ = ["Known", "Part", "Surveyed", "survey"]

_COSTLY_S = 0.02
"""A group that took less time is pickled again, variable by variable, whenever its stream changes."""
_TRUST = 8
"""A costlier group only after so many captures: until then its variables may no longer share anything."""


@dataclass(slots=True, eq=False)
class Part:
    """Variables that were written as one stream."""

    names: tuple[str, ...]
    written: Written
    placement: ClassPlacement
    cost_s: float
    marks: list[Any] = field(default_factory=list)
    guessed: int = 0
    """How many captures ago it was last proved that they belong together."""


@dataclass(slots=True, eq=False)
class Known:
    """What is remembered of a group until the next capture: no references to its objects."""

    names: tuple[str, ...]
    identities: tuple[tuple[int, weakref.ref[Any] | None], ...]
    marks: array[int]
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
            marks=array("Q", map(id, part.marks)),
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
class Surveyed:
    """All groups."""

    parts: list[Part] = field(default_factory=list)
    kept: list[Known] = field(default_factory=list)
    not_saved: list[NotSaved] = field(default_factory=list)


def survey(
    values: Mapping[str, Any], context: PickleContext, known: Iterable[Known], skip: Collection[str]
) -> Surveyed:
    """Pickle the variables ``values``; see ``NamespaceSnapshotter.capture`` for ``skip``.

    Raises:
        Overdue: the time limit of ``context`` is over.
    """
    return _Survey(values, context, list(known)).run(frozenset(skip))


class _Survey:
    def __init__(self, values: Mapping[str, Any], context: PickleContext, known: list[Known]) -> None:
        self.values, self.context, self.known = values, context, known
        self.marks = Marks((*context.own, id(values)))
        self.found = Surveyed()
        self.parts: list[Part] = []
        self.table_marks: dict[int, list[Any]] = {}

    def run(self, skip: frozenset[str]) -> Surveyed:
        kept = [one for one in self.known if skip.issuperset(one.names) and self._may_keep(one)]
        held = {name for one in kept for name in one.names}
        self._write_all(set(self.values) - held)
        pulled = self._met(kept)
        self._write_all({name for one in pulled for name in one.names})
        self.found.kept = [one for one in kept if one not in pulled]
        self._group()
        return self.found

    # -- what need not be pickled

    def _may_keep(self, one: Known) -> bool:
        if one.placement is not ClassPlacement.APART or not one.is_same(self.values):
            return False
        if not one.classes:
            return True
        try:
            table = self.context.table(one.classes)
        except Failed:
            return False
        return name_of(table.skeleton) == one.table

    def _met(self, kept: list[Known]) -> list[Known]:
        """Those of ``kept`` that share objects or memory with what was pickled."""
        if not kept:
            return []
        ids = {id(mark) for part in self.parts for mark in part.marks}
        for part in self.parts:
            ids.update(id(mark) for mark in self._marks_of_table(part))
        memory = [(low, high, -1) for part in self.parts for low, high in part.written.bounds]
        memory += [(low, high, index) for index, one in enumerate(kept) for low, high in one.bounds]
        touched = {owner for pair in overlapping(memory) for owner in pair}
        return [one for index, one in enumerate(kept) if index in touched or not ids.isdisjoint(one.marks)]

    # -- writing

    def _write_all(self, names: set[str]) -> None:
        left = dict.fromkeys(name for name in self.values if name in names)
        for one in self.known:
            if len(one.names) < 2 or not all(name in left for name in one.names):
                continue
            part = self._guess(one)
            if part is not None:
                self.parts.append(part)
                for name in one.names:
                    del left[name]
        for name in left:
            self.context.check()
            value = self.values[name]
            if type(value) in SCALARS:
                self.parts.append(Part((name,), write_scalar({name: value}), ClassPlacement.APART, 0.0))
                continue
            try:
                self.parts.append(self._part((name,), ClassPlacement.APART))
            except Failed as failed:
                self.found.not_saved.append(describe_not_saved(name, value, failed.error, failed.met))

    def _guess(self, one: Known) -> Part | None:
        """The group as it was, if its variables still belong together."""
        may_trust = one.cost_s > _COSTLY_S and one.guessed < _TRUST and one.is_same(self.values)
        try:
            part = self._part(one.names, one.placement)
        except Failed:
            return None
        if name_of(part.written.skeleton) == one.stream:
            part.guessed = one.guessed
            return part
        part.guessed = one.guessed + 1
        return part if may_trust else None

    def _part(self, names: tuple[str, ...], placement: ClassPlacement) -> Part:
        begun = time.perf_counter()
        written = self._write({name: self.values[name] for name in names}, placement)
        cost_s = time.perf_counter() - begun
        alone = self.values[names[0]]
        marks = [alone] if len(names) == 1 and _is_flat(alone) else self.marks.of(written)
        return Part(names, written, placement, cost_s, marks)

    def _write(self, values: dict[str, Any], placement: ClassPlacement) -> Written:
        for _ in range(2):
            try:
                return write(values, self.context, placement)
            except Failed as failed:
                # Another thread changed a container meanwhile: the next try may succeed.
                if not isinstance(failed.error, RuntimeError) or isinstance(failed.error, RecursionError):
                    raise
        return write(values, self.context, placement)

    # -- grouping

    def _marks_of_table(self, part: Part) -> list[Any]:
        table = part.written.table
        if table is None:
            return []
        if id(table) not in self.table_marks:
            self.table_marks[id(table)] = self.marks.of(table)
        return self.table_marks[id(table)]

    def _group(self) -> None:
        parts = self.parts
        families = Families(len(parts))
        owners = Owners([part.marks for part in parts], families)
        for one, other in overlapping(
            [(low, high, index) for index, part in enumerate(parts) for low, high in part.written.bounds]
        ):
            families.join(one, other)
        entangled = set()
        for index, part in enumerate(parts):
            for mark in self._marks_of_table(part):
                other = owners.of(mark)
                if other >= 0:  # a variable shares objects with a class: both go into one stream, classes included
                    families.join(index, other)
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
            self._settle([parts[index] for index in group], placement)

    def _settle(self, together: list[Part], placement: ClassPlacement) -> None:
        first = together[0]
        if len(together) == 1 and first.placement is placement:
            self.found.parts.append(first)
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
                self.found.not_saved.append(NotSaved(name=name, kind=kind_name(self.values[name]), why=why))
            return
        marks = [mark for part in together for mark in part.marks]
        self.found.parts.append(Part(names, written, placement, time.perf_counter() - begun, marks))
