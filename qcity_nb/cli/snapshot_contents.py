"""What the snapshot behind a finished cell holds, variable by variable: size, cost, and how each comes back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from qcity_nb import codec
from qcity_nb.checkpoint.storage.manifest import CellRecord, GroupRecord, ObjectRef
from qcity_nb.engine.rerun import RERUN_S, last_with_names
from qcity_nb.kernel.finished_cells import fold, groups_of, objects_of, size_of
from qcity_nb.namespace.records import NotSaved

__all__ = ["Account", "Variable", "account", "snapshots"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One variable, as a new kernel would have it. Cells are counted from 1, code cells alone."""

    name: str
    back: Literal["restored", "imported", "absent"]
    kind: str = ""
    """Its type's qualified name; empty: the record does not say."""
    shares: tuple[str, ...] = ()
    """The other variables of its group: they have an object in common, and are saved as one."""
    size_bytes: int = 0
    """Of its whole group, stored."""
    cost_s: float = 0.0
    """What pickling its whole group took, when it was last changed."""
    changed: tuple[int, int] | None = None
    """It was last changed in one of these cells, the first and the last of them."""
    fresh: tuple[str, ...] = ()
    """What of it comes back new: "lock", "cache"."""
    module: str = ""
    """Which module is imported."""
    why: str = ""
    """Why it is absent."""
    advice: str = ""
    rerun: int = 0
    """The cells from this one on make an absent one again, where a later cell needs it."""
    rerun_s: float = 0.0
    """How long these took."""
    has_loop: bool = False
    """One of these has a loop that has finished: it does not run again."""

    @property
    def is_rerun(self) -> bool:
        """Do cells run again for it? Else its use is an error that names it."""
        return self.back == "absent" and self.rerun_s <= RERUN_S and not self.has_loop


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """All variables behind one cell, and what the snapshots cost."""

    cell: int
    variables: tuple[Variable, ...]
    """The absent ones, the saved ones by size, the modules."""
    size_bytes: int
    """What two groups have in common counts once."""
    cost_s: float
    """What the snapshot took of the notebook's time."""
    others_bytes: int
    """What the snapshots behind other cells hold beside it."""


def snapshots(records: Sequence[CellRecord]) -> list[int]:
    """The cells with a snapshot behind them."""
    return [number for number, record in enumerate(records, 1) if record.namespace is not None]


def account(records: Sequence[CellRecord], stored: Mapping[str, ObjectRef], cell: int) -> Account:
    """What there is behind that cell.

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
    return Account(
        cell=cell,
        variables=(*_not_saved(records[:cell]), *_saved(records[:cell], groups, stored), *modules),
        size_bytes=size_bytes,
        cost_s=namespace.cost_s,
        others_bytes=size_of(objects_of(groups_of(records)) - objects, stored),
    )


def _not_saved(records: Sequence[CellRecord]) -> Iterator[Variable]:
    not_saved = [_decoded(one.namespace.not_saved) if one.namespace is not None else None for one in records]
    newest = not_saved[-1] or {}
    for name, one in sorted(newest.items()):
        behind = last_with_names(not_saved, len(records), {name})
        yield Variable(
            name=name,
            back="absent",
            kind=one.kind,
            why=one.why,
            advice=one.advice,
            rerun=behind + 1,
            rerun_s=round(sum(record.wall_s for record in records[behind:]), 3),
            has_loop=any(record.extra.get("loops") for record in records[behind:]),
        )


def _decoded(not_saved: Sequence[Mapping[str, Any]]) -> dict[str, NotSaved]:
    return {one.name: one for one in (codec.decode(NotSaved, each) for each in not_saved)}


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
    """In which cells each group was last changed: between two snapshots nobody looks."""
    found: dict[tuple[str, ...], tuple[int, int]] = {}
    first = 1
    for number in snapshots(records):
        namespace = records[number - 1].namespace
        assert namespace is not None
        found.update((group.names, (first, number)) for group in namespace.groups)
        first = number + 1
    return found
