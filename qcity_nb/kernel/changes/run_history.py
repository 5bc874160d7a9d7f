"""What the run has been through: its deaths, how long it has lived, and what changed on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from qcity_nb.checkpoint.storage.manifest import Manifest

__all__ = ["MOST_CHANGES", "ChangeKind", "RunHistory"]

ChangeKind = Literal["notebook", "items", "environment", "arguments", "state", "metric"]

MOST_CHANGES = 32
"""A checkpoint lists this many changes, the newest; the journal has all."""
TEXT_CHARS = 500


@dataclass(slots=True)
class RunHistory:
    """Deaths and changes over all attempts, as each checkpoint keeps them in its ``values``."""

    deaths: list[int] = field(default_factory=list)
    """The steps that the run resumed from, one for each death."""
    changes: list[dict[str, Any]] = field(default_factory=list)
    """What changed, oldest first: ``{"step", "kind", "text", "term"}``."""
    began_s: float = 0.0
    """When this attempt's kernel began, on the session's clock."""
    alive_before_s: float = 0.0
    """How long the earlier attempts lived; those that died count up to their last checkpoint."""
    checked_loops: set[tuple[str, int]] = field(default_factory=set)
    """Where the loops stand, by file and line, whose state was checked in this kernel."""

    @classmethod
    def of(cls, manifest: Manifest | None, *, began_s: float) -> RunHistory:
        """The history up to the checkpoint from which this attempt resumes."""
        if manifest is None:
            return cls(began_s=began_s)
        values = manifest.values
        return cls(
            deaths=[*values.get("deaths", []), manifest.step],
            began_s=began_s,
            changes=list(values.get("changes", [])),
            alive_before_s=float(values.get("alive_s", 0.0)),
        )

    def alive_s(self, now_s: float) -> float:
        """How long the run has lived over all attempts."""
        return self.alive_before_s + now_s - self.began_s

    def mean_life_s(self, now_s: float) -> float | None:
        """The mean time between two deaths; ``None`` before the first."""
        return self.alive_s(now_s) / len(self.deaths) if self.deaths else None

    def values(self, now_s: float) -> dict[str, Any]:
        """What a checkpoint made now keeps of it."""
        return {"deaths": self.deaths, "changes": self.changes, "alive_s": round(self.alive_s(now_s), 3)}

    def add_change(self, kind: ChangeKind, text: str, *, step: int, term: int) -> None:
        """Note a change, once: an attempt that died before its first checkpoint has noted it in vain."""
        change = {"step": step, "kind": kind, "text": text[:TEXT_CHARS], "term": term}
        if any({**known, "term": term} == change for known in self.changes):
            return
        self.changes = [*self.changes, change][-MOST_CHANGES:]
