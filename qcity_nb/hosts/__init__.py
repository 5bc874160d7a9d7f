"""Where we are, and how to launch elsewhere: one module a host.

Launchers are found by the entry point group ``qcity_nb.hosts``: each entry is a callable that takes the
settings and returns a ``Launcher``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from qcity_nb.ports import Launcher
    from qcity_nb.settings import Settings

__all__ = ["launcher", "names"]

GROUP = "qcity_nb.hosts"

# The same line stands in pyproject.toml; here too, because reading every installed distribution's entry points
# costs tens of milliseconds.
_BUILT_IN = {"local": ("qcity_nb.hosts.local", "LocalLauncher")}


def names() -> list[str]:
    """The installed launchers, sorted."""
    from importlib.metadata import entry_points

    return sorted({*_BUILT_IN, *(entry.name for entry in entry_points(group=GROUP))})


def launcher(name: str, settings: Settings) -> Launcher:
    """The launcher of that name.

    Raises:
        UnknownHost: none is installed; the message lists those that are.
    """
    from importlib import import_module
    from importlib.metadata import entry_points

    from qcity_nb.errors import UnknownHost

    if name in _BUILT_IN:
        module, attribute = _BUILT_IN[name]
        return cast("Launcher", getattr(import_module(module), attribute)(settings))
    for entry in entry_points(group=GROUP, name=name):
        return cast("Launcher", entry.load()(settings))
    raise UnknownHost(f"no host named {name!r}; installed are: {', '.join(names()) or 'none'}")
