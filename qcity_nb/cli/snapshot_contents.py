"""What the snapshot after a finished cell holds, variable by variable: size, cost, and how each comes back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from qcity_nb import codec
from qcity_nb.checkpoint.storage.manifest import CellRecord, GroupRecord, ObjectRef
from qcity_nb.engine.rerun import RERUN_S, last_with_names
from qcity_nb.kernel.finished_cells import fold, groups_of, objects_of, size_of
from qcity_nb.namespace.records import NotSaved

__all__ = ["Contents", "Variable", "list_contents", "snapshots"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One variable, as a new kernel would have it. Only code cells are counted, from 1."""

    name: str
    back: Literal["restored", "imported", "not saved"]
    kind: str = ""
    """Its type's qualified name; empty: the record does not have it."""
    shares: tuple[str, ...] = ()
    """The other variables of its group: they share an object, so they are saved as one."""
    size_bytes: int = 0
    """Of its whole group, stored."""
    cost_s: float = 0.0
    """What pickling its whole group took, when it was last changed."""
    changed: tuple[int, int] | None = None
    """It was last changed in one of these cells, the first and the last of them."""
    fresh: tuple[str, ...] = ()
    """The parts of it that are new objects after a restore: "lock", "cache"."""
    module: str = ""
    """Which module is imported."""
    why: str = ""
    """Why it is not saved."""
    advice: str = ""
    rerun: int = 0
    """If a later cell needs a variable that is not saved, the cells from this one on are re-run."""
    rerun_s: float = 0.0
    """How long these cells took."""
    has_loop: bool = False
    """One of these cells has a finished loop, which is not re-run."""

    @property
    def is_rerun(self) -> bool:
        """Whether cells are re-run for it. If not, its use is an error that names it."""
        return self.back == "not saved" and self.rerun_s <= RERUN_S and not self.has_loop


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """All variables after one cell, and what the snapshots cost."""

    cell: int
    variables: tuple[Variable, ...]
    """Those not saved, the saved ones by size, the modules."""
    size_bytes: int
    """What two groups have in common is counted once."""
    cost_s: float
    """How much of the notebook's time the snapshot took."""
    others_bytes: int
    """What the snapshots after other cells hold in addition."""


def snapshots(records: Sequence[CellRecord]) -> list[int]:
    """The cells that are followed by a snapshot."""
    return [number for number, record in enumerate(records, 1) if record.namespace is not None]


def list_contents(records: Sequence[CellRecord], stored: Mapping[str, ObjectRef], cell: int) -> Contents:
    """The contents of the snapshot after that cell.

    Args:
        stored: the objects of the checkpoint that has these records, by name.
        cell: one of ``snapshots``.
    """
    namespace = records[cell - 1].namespace
    assert namespace is not None
    groups = fold(records[:cell])
    objects = objects_of(groups.values())
    size_bytes = size_of(objects, stored)
    modules = [
        Variable(name=name, back="imported", kind="module", module=module)
        for name, module in sorted(namespace.modules.items())
        if "." not in name
    ]
    return Contents(
        cell=cell,
        variables=(*_not_saved(records[:cell]), *_saved(records[:cell], groups, stored), *modules),
        size_bytes=size_bytes,
        cost_s=namespace.cost_s,
        others_bytes=size_of(objects_of(groups_of(records)) - objects, stored),
    )


def _not_saved(records: Sequence[CellRecord]) -> Iterator[Variable]:
    not_saved = [_decode(each.namespace.not_saved) if each.namespace is not None else None for each in records]
    newest = not_saved[-1] or {}
    for name, variable in sorted(newest.items()):
        saved_until = last_with_names(not_saved, len(records), {name})
        yield Variable(
            name=name,
            back="not saved",
            kind=variable.kind,
            why=variable.why,
            advice=variable.advice,
            rerun=saved_until + 1,
            rerun_s=round(sum(record.wall_s for record in records[saved_until:]), 3),
            has_loop=any(record.extra.get("loops") for record in records[saved_until:]),
        )


def _decode(not_saved: Sequence[Mapping[str, Any]]) -> dict[str, NotSaved]:
    return {variable.name: variable for variable in (codec.decode(NotSaved, each) for each in not_saved)}


def _saved(
    records: Sequence[CellRecord], groups: Mapping[tuple[str, ...], GroupRecord], stored: Mapping[str, ObjectRef]
) -> Iterator[Variable]:
    sizes = {names: size_of(objects_of([group]), stored) for names, group in groups.items()}
    changed = _changed(records)
    for names, group in sorted(groups.items(), key=lambda item: (-sizes[item[0]], item[0])):
        for name in names:
            yield Variable(
                name=name,
                back="restored",
                kind=group.kinds.get(name, ""),
                shares=tuple(other for other in names if other != name),
                size_bytes=sizes[names],
                cost_s=group.cost_s,
                changed=changed[names],
                fresh=group.fresh,
            )


def _changed(records: Sequence[CellRecord]) -> dict[tuple[str, ...], tuple[int, int]]:
    """The cells of which one changed each group last: all cells since the snapshot before."""
    changed: dict[tuple[str, ...], tuple[int, int]] = {}
    first = 1
    for number in snapshots(records):
        namespace = records[number - 1].namespace
        assert namespace is not None
        changed.update((group.names, (first, number)) for group in namespace.groups)
        first = number + 1
    return changed
