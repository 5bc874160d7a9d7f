"""Which host this is, and launchers for others: one folder for each launcher.

Launchers are found by the entry point group ``qcity_nb.hosts``. Each entry is a callable that takes the settings and
the flavor, which is what follows the colon in the host's name (``hf-jobs:t4-small``) or empty, and returns a
``ports.Launcher``.

May import: root, run, stores, data. Imported by: kernel, city, cli, testing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from qcity_nb.ports import Launcher
    from qcity_nb.settings import Settings

__all__ = ["kind", "launcher", "names", "finder"]

GROUP = "qcity_nb.hosts"

# The same entries are in pyproject.toml. They are repeated here because reading every installed distribution's entry
# points takes tens of milliseconds.
_BUILT_IN = {
    "hf-jobs": ("qcity_nb.hosts.hf_jobs.launcher", "HfJobsLauncher"),
    "local": ("qcity_nb.hosts.local.launcher", "LocalLauncher"),
}


def kind(name: str) -> str:
    """The host's name without its flavor: the name of the entry point."""
    return name.partition(":")[0]


def names() -> list[str]:
    """The installed launchers, sorted."""
    from importlib.metadata import entry_points

    return sorted({*_BUILT_IN, *(entry.name for entry in entry_points(group=GROUP))})


def launcher(name: str, settings: Settings) -> Launcher:
    """The launcher of that name; a flavor may follow a colon.

    Raises:
        UnknownHost: it is not installed; the message lists those that are.
        UsageError: it has no flavors.
    """
    from importlib import import_module
    from importlib.metadata import entry_points

    from qcity_nb.errors import UnknownHost

    base, _, flavor = name.partition(":")
    if base in _BUILT_IN:
        module, attribute = _BUILT_IN[base]
        return cast("Launcher", getattr(import_module(module), attribute)(settings, flavor))
    for entry in entry_points(group=GROUP, name=base):
        return cast("Launcher", entry.load()(settings, flavor))
    raise UnknownHost(f"no host named {name!r}; installed are: {', '.join(names()) or 'none'}")


def finder(settings: Settings, kinds: Collection[str] = ()) -> Callable[[str], Launcher]:
    """A function from a host's name to its launcher, for a keeper.

    Args:
        kinds: restricts the keeper to these kinds of host; empty: all. A keeper in a container must not launch
            ``local`` runs in it: the container is not the user's machine.
    Raises (when called):
        UnknownHost: another kind, or no such launcher.
    """

    def find(name: str) -> Launcher:
        from qcity_nb.errors import UnknownHost

        if kinds and kind(name) not in kinds:
            raise UnknownHost(f"this keeper launches only on {', '.join(sorted(kinds))}, not on {name!r}")
        return launcher(name, settings)

    return find
