"""The arguments of `qcity.up()`, compared with those of the run that is open in this kernel already.

Values are compared, not spellings: ``heartbeat="5s"`` is 5, and a relative store is the absolute one. An argument that
a later call leaves out is the same as before.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qcity_nb import codec
from qcity_nb.errors import UsageError
from qcity_nb.settings import Settings, load, setting_name

__all__ = ["UpArguments", "check_same", "find_ignored"]

IN_THE_KERNEL = {"session_limit_s", "strict_state", "strict_environment", "mailbox", "chaos"}
"""Settings that the kernel itself reads: under the engine too, those of `up()` hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpArguments:
    """What `up()` was called with."""

    run: str | None = None
    """For an open run: what identifies it, which is the notebook's path where no ``run`` was given."""
    name: str = ""
    params: Mapping[str, Any] | None = None
    path: str = ""
    """The notebook's path, if ``namespace`` has it."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """``store``, ``tracking`` and the others, as the caller spelled them."""

    @property
    def named_settings(self) -> dict[str, object]:
        """The settings that were given, by their full names."""
        return {setting_name(name): value for name, value in self.settings.items() if value is not None}

    @classmethod
    def of(cls, saved: Mapping[str, Any]) -> UpArguments:
        """What ``elsewhere`` returned in another kernel."""
        settings = {name: value for name, value in saved.items() if name not in ("name", "params")}
        return cls(name=saved.get("name", ""), params=saved.get("params"), settings=settings)

    def elsewhere(self) -> dict[str, Any]:
        """What holds in another kernel too; where the run lives is that kernel's own matter."""
        settings = {name: value for name, value in self.named_settings.items() if name not in ("store", "tracking")}
        return {**settings, "name": self.name, "params": self.params}


def _compare_settings(asked: UpArguments, opened: UpArguments, present: Settings) -> Iterator[tuple[str, object]]:
    # Read with the earlier ones, because some settings depend on others: a store on the Hub has its own heartbeat.
    loaded = load(present.project.root, {**opened.named_settings, **asked.named_settings, **asked.settings})
    for spelled, value in asked.settings.items():
        name = setting_name(spelled)
        if value is not None and _normalize(getattr(loaded, name)) != _normalize(getattr(present, name)):
            yield spelled, value


def _normalize(value: object) -> object:
    if isinstance(value, Path) or (isinstance(value, str) and value and "://" not in value):
        return Path(value).expanduser().resolve()
    return value.rstrip("/") if isinstance(value, str) else value


def _encode(params: Mapping[str, Any] | None) -> str:
    try:
        return json.dumps(codec.encode(dict(params or {})), sort_keys=True)  # 1 and 1.0 differ, as in a run's key
    except TypeError:
        return repr(params)


def check_same(asked: UpArguments, opened: UpArguments, settings: Settings, *, run: str) -> None:
    """Check that a later call of `up()` asks for the open run.

    Args:
        opened: the arguments of the call that opened it.
        settings: what holds for it.
        run: its id.
    Raises:
        UsageError: an argument differs, or no setting has that name; the message says what can be done.
    """
    differing = [f"{spelled}={value!r}" for spelled, value in _compare_settings(asked, opened, settings)]
    if asked.path and asked.path != opened.path:
        differing.insert(0, f"namespace= of {asked.path}")
    if asked.params is not None and _encode(asked.params) != _encode(opened.params):
        differing.insert(0, f"params={asked.params!r}")
    if asked.name and asked.name != opened.name:
        differing.insert(0, f"name={asked.name!r}")
    if asked.run is not None and asked.run != opened.run:
        differing.insert(0, f"run={asked.run!r}")
    if differing:
        raise UsageError(
            f"qcity.up({', '.join(differing)}): run {run!r} is open in this kernel, and was begun with other arguments."
            " Call city.finish() first, or restart the kernel; fresh=True begins a new run beside it"
        )


def find_ignored(asked: UpArguments, attempt: Settings) -> list[str]:
    """The settings that `up()` was given under the engine and that differ from those of the engine's attempt.

    Args:
        attempt: what holds for the attempt.
    Returns: a sentence for each.
    """
    return [
        f"qcity.up({spelled}={value!r}) has no effect under `qcity run`, which began this attempt with"
        f" {spelled} = {_shown(getattr(attempt, setting_name(spelled)))}"
        for spelled, value in _compare_settings(asked, UpArguments(), attempt)
        if setting_name(spelled) not in IN_THE_KERNEL
    ]


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(str(value)) if isinstance(value, Path) else repr(value)
