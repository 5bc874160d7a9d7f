"""The result of a capture of the variables: groups, modules, and what is not saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from qcity_nb.checkpoint.state.capture import Captured
from qcity_nb.codec import Record

__all__ = ["NotSaved", "Group", "NamespaceSnapshot"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Variables that share something mutable, or a single one."""

    names: tuple[str, ...]
    """Sorted."""
    captured: Captured
    """Its stream is a dict of the variables by name. Only ``NamespaceSnapshot.release`` releases it."""
    size_bytes: int
    cost_s: float
    """Seconds that pickling it took."""
    kinds: Mapping[str, str] = field(default_factory=dict)
    """The qualified name of each variable's type."""
    fresh: tuple[str, ...] = ()
    """What of it is re-created instead of restored: "cache", "lock"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotSaved(Record):
    """A variable that cannot be saved, or that could not be restored. A record: ``codec`` writes it as JSON."""

    name: str
    kind: str
    """Its type's qualified name."""
    why: str
    """One clause: "a generator's frame lives only in this process"."""
    advice: str = ""
    """What the user can do about it."""
    where: str = ""
    """Where it was created, if the caller knows: "cell 3"."""


def _nothing() -> None:
    """There is no arena."""


@dataclass(slots=True)
class NamespaceSnapshot:
    """The variables at one point in time."""

    groups: list[Group] = field(default_factory=list)
    kept: list[tuple[str, ...]] = field(default_factory=list)
    """Groups of the previous capture that were not pickled again (``skip``)."""
    modules: dict[str, str] = field(default_factory=dict)
    """Module name by variable. A key with a dot is not a variable but a submodule that a cell imported."""
    not_saved: list[NotSaved] = field(default_factory=list)
    is_live: bool = False
    """Memory was short: the groups' buffers are the live ones. Write them before the variables change."""
    free: Callable[[], None] = _nothing

    def release(self) -> None:
        """Free the arena: the content of the groups must not be used any more."""
        self.free()
