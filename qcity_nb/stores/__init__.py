"""Where runs live: one module a kind of store.

    open_store("/data/runs")        a directory (also file:///data/runs)
    open_store("hf://user/repo")    a repository on the Hugging Face Hub
    open_store("memory://name")     this process's memory, for tests

Other schemes come from the entry point group ``qcity_nb.stores``: key = scheme, value = a callable that takes
the address and returns a ``ports.Store``.

May import: root. Imported by: hosts, published, sidecar, engine, city, cli, testing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from qcity_nb.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qcity_nb.ports import Store

__all__ = ["GROUP", "open_store"]

GROUP = "qcity_nb.stores"

# The same entries are in pyproject.toml. They are repeated here because reading every installed distribution's entry
# points takes tens of milliseconds, and `qcity.up()` has a budget of 500 ms.
_BUILT_IN = {
    "file": "qcity_nb.stores.directory",
    "hf": "qcity_nb.stores.hub.store",
    "memory": "qcity_nb.stores.memory",
}


def open_store(address: str) -> Store:
    """Open the store at ``address``: a path, ``file://…``, ``memory://name``, or an installed scheme.

    Raises:
        UsageError: no installed package knows the scheme; the message names the known ones.
        StoreRefused: this location cannot be a store; the message says why and what to use.
    """
    scheme, separator, _ = str(address).partition("://")
    if not separator:
        scheme = "file"
    if scheme in _BUILT_IN:
        opener = import_module(_BUILT_IN[scheme]).open_store
    else:
        from importlib.metadata import entry_points

        entries = {entry.name: entry for entry in entry_points(group=GROUP)}
        if scheme not in entries:
            known = ", ".join(f"{name}://" for name in sorted({*_BUILT_IN, *entries}))
            raise UsageError(
                f"store {address!r}: no installed package knows this scheme; use a directory's path or one of {known}"
            )
        opener = entries[scheme].load()
    return cast("Callable[[str], Store]", opener)(str(address))
