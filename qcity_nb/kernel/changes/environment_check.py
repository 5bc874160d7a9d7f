"""Compares the environment of a kernel with that of the checkpoint which it resumes.

Only what both have imported is compared. So another order of imports, or an attempt that has imported less so far, is
no difference; a module that is imported later is compared when it appears.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from qcity_nb.kernel.changes.imported_environment import ImportedEnvironment
from qcity_nb.kernel.changes.run_history import ChangeKind

__all__ = ["EnvironmentCheck", "differences", "summary"]

MOST_SHOWN = 8
_NAMES = {"python": "Python", "platform": "platform", "qcity_nb": "qcity_nb"}


def differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """What differs among the things that both records have: a phrase by its name.

    Args:
        earlier, now: records of ``ImportedEnvironment``, or parts of them.
    """
    changed = {
        name: f"{shown} {earlier[name]} → {now[name]}"
        for name, shown in _NAMES.items()
        if name in earlier and name in now and earlier[name] != now[name]
    }
    for path in _same_keys(earlier, now, "files"):
        changed[f"files/{path}"] = f"{path} was edited"
    old = earlier.get("packages", {})
    for name, version in _same_keys(earlier, now, "packages").items():
        changed[f"packages/{name}"] = f"{name} {old[name]} → {version}"
    return changed


def _same_keys(earlier: Mapping[str, Any], now: Mapping[str, Any], part: str) -> dict[str, str]:
    old, new = earlier.get(part, {}), now.get(part, {})
    return {name: new[name] for name in sorted(new) if name in old and old[name] != new[name]}


def summary(phrases: list[str]) -> str:
    """A sentence that names the differences, at most eight."""
    rest = len(phrases) - MOST_SHOWN
    more = f" and {rest} more" if rest > 0 else ""
    return f"the environment is not that of the checkpoint: {', '.join(phrases[:MOST_SHOWN])}{more}"


class _Session(Protocol):
    """What is needed of ``kernel.session.Session``."""

    sidecar: Any
    manifest: Any
    open: Any

    def announce(self, kind: ChangeKind, text: str, *, step: int | None = None) -> None:
        """Tell people what changed."""


class EnvironmentCheck:
    """One kernel's environment, and what was recorded of the one before."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        """Args: values: those of the checkpoint that is resumed."""
        recorded = values.get("environment", {})
        self._before: dict[str, Any] = dict(recorded) if isinstance(recorded, Mapping) else {}
        self._imported: ImportedEnvironment | None = None
        self._is_strict = False
        self._seen: set[str] = set()
        """The differences that were announced."""
        self.refusal = ""
        """Why this kernel must not work on the run; empty: it may."""

    def begin(self, session: _Session, root: Path, *, strict: bool) -> None:
        """Begin to follow this kernel's imports, and put what is imported now into the journal."""
        self._is_strict = strict
        if self._imported is None:
            self._imported = ImportedEnvironment(root)
            self._imported.refresh()
            session.sidecar.note("environment", **self._imported.record())

    def check(self, session: _Session) -> dict[str, Any]:
        """Announce each difference once.

        Returns: what a checkpoint keeps: this environment, and of the one before what is not imported here yet.
        Raises:
            Changed: there is a difference, and ``strict_environment`` is set.
        """
        if self._imported is None:
            return self._before
        self._imported.refresh()
        now = self._imported.record()
        changed = differences(self._before, now)
        new = [phrase for name, phrase in changed.items() if name not in self._seen]
        if self.refusal or (new and self._is_strict):
            self.refusal = self.refusal or (
                f"{summary(new)}. Restore it, or resume with strict_environment=False to accept the new one"
            )
            raise session.sidecar.refuse("environment", self.refusal)
        if new:
            self._seen.update(changed)
            resumed = session.manifest.step if session.manifest is not None and not session.open else None
            session.announce("environment", summary(new), step=resumed)
        return {**now, **{part: {**self._before.get(part, {}), **now[part]} for part in ("packages", "files")}}
