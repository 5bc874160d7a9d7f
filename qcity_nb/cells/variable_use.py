"""What the statements of a loop's body do with variables, noted while they are walked in the order of execution."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from qcity_nb.cells.expressions import Change, is_constant, path_of, prefixes

__all__ = ["VariableUse"]


@dataclass(slots=True)
class VariableUse:
    """What the statements that were walked do. A variable is a name or a chain of attributes."""

    defined: set[str] = field(default_factory=set)
    """What the iteration has bound for certain."""
    exposed: set[str] = field(default_factory=set)
    """What is read, or changed, before the iteration has bound it."""
    stores: dict[str, list[Change]] = field(default_factory=dict)
    mutations: dict[str, list[Change]] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)
    """What is handed to functions, or has other methods called: it may be changed."""
    reads: set[str] = field(default_factory=set)
    resets: set[str] = field(default_factory=set)
    constant: set[str] = field(default_factory=set)
    """What has a constant value now."""
    deleted: set[str] = field(default_factory=set)
    aliases: dict[str, tuple[str, bool]] = field(default_factory=dict)
    """What a name is a part of, and whether that is certain."""
    conditions: list[ast.expr] = field(default_factory=list)
    skips: list[ast.expr] = field(default_factory=list)
    nested: int = 0
    """In how many inner loops."""
    ranges: set[str] = field(default_factory=set)
    """The items of inner loops over a range that is the same in each iteration."""
    counters: set[str] = field(default_factory=set)
    """What counts the passes of inner loops from 0."""
    later: list[set[str]] = field(default_factory=list)
    """What nested functions read."""
    mirrored: set[tuple[str, str, str]] = field(default_factory=set)
    called: dict[str, frozenset[str]] = field(default_factory=dict)
    """The functions that are called, and what the iteration has bound before each call of them."""
    entries: set[str] = field(default_factory=set)
    """Entries of containers, such as `stats["loss"]`, that the iteration has set."""
    called_later: set[str] = field(default_factory=set)
    """What nested functions call."""
    stepped: set[str] = field(default_factory=set)
    uncertain: str = ""

    def is_defined(self, path: str) -> bool:
        """Has the iteration bound the variable, or what it is an attribute of?"""
        return any(prefix in self.defined for prefix in prefixes(path))

    def alias(self, path: str) -> tuple[str, bool] | None:
        """What the variable is a part of, if the iteration has bound it to that; and whether that is certain."""
        name = path.partition(".")[0]
        return self.aliases.get(name) if name in self.defined else None

    def change(self, *values: ast.expr, entry: ast.expr | None = None, is_part: bool = False) -> Change:
        """A change under the conditions that hold now."""
        return Change(values, tuple(self.conditions), tuple(self.skips), entry=entry, is_part=is_part)

    def call(self, path: str) -> None:
        """Note that a function is called now."""
        base, _ = self.alias(path) or (path, True)  # an item of a container of functions
        for each in (path, base):
            self.called[each] = self.called.get(each, frozenset(self.defined)) & self.defined

    def read(self, path: str, *, counts: bool = True) -> None:
        """Note that it is read; ``counts``: and what is read is used."""
        for prefix in prefixes(path):
            if counts:
                self.reads.add(prefix)
            if not self.is_defined(prefix):
                self.exposed.add(prefix)

    def store(self, path: str, value: ast.expr | None = None, *, is_augmented: bool = False) -> None:
        """Note that it is bound to a value."""
        values = (value,) if value is not None else ()
        change = Change(values, tuple(self.conditions), tuple(self.skips), is_augmented)
        self.stores.setdefault(path, []).append(change)
        self.defined.add(path)
        self.aliases.pop(path, None)
        self.constant.discard(path)
        if is_constant(value) and not is_augmented and not self.conditions and not self.nested:
            self.constant.add(path)

    def mutate(self, path: str, *values: ast.expr, entry: ast.expr | None = None, is_part: bool = False) -> None:
        """Note a change of the object of ``path``, or of what it is an alias of.

        Args:
            is_part: not the object itself is changed, but one that it contains.
        """
        if (alias := self.alias(path)) is not None:
            base, is_certain = alias
            if is_certain and not self.is_defined(base):
                whole = any(path_of(value) for change in self.stores.get(path, ()) for value in change.values)
                self.mutations.setdefault(base, []).append(self.change(is_part=not whole))
            elif not self.is_defined(base):
                self.touched.add(base)
            return
        self.constant.discard(path)
        if path and not self.is_defined(path) and path not in self.resets:
            self.mutations.setdefault(path, []).append(self.change(*values, entry=entry, is_part=is_part))
            self.exposed.add(path)

    def overwrite(self, path: str) -> None:
        """All of its content is set. If no iteration read it before, nothing of the last one is left."""
        if not self.conditions and path not in self.exposed and self.alias(path) is None:
            self.resets.add(path)
        else:
            self.mutate(path)

    def set_entry(self, target: ast.Subscript) -> bool:
        """Note that an entry with a constant key is set, such as `stats["loss"]`.

        Returns: whether nothing is left of the entry that the last iteration set: nothing has read the container yet.
        """
        path = path_of(target.value)
        is_certain = isinstance(target.slice, ast.Constant) and target.slice.value is not Ellipsis and path
        if not is_certain or self.conditions or self.skips or self.nested or self.alias(path) is not None:
            return False
        if path in self.exposed or path in self.touched or self.is_defined(path):
            return self.has_entry(target)
        self.entries.add(ast.dump(target))
        return True

    def has_entry(self, target: ast.expr) -> bool:
        """Has the iteration set that entry?"""
        return bool(self.entries) and ast.dump(target) in self.entries

    def touch(self, path: str) -> None:
        """Note that a function gets it, and may change it."""
        base, _ = self.alias(path) or (path, True)
        if not self.is_defined(base):
            self.touched.add(base)
