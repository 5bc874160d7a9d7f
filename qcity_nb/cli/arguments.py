"""What command-line arguments mean: paths, addresses, settings."""

from __future__ import annotations

from pathlib import Path

from qcity_nb import settings
from qcity_nb.settings import Settings

__all__ = ["address_of", "settings_for"]


def settings_for(notebook: Path, store: str | None) -> Settings:
    """The working directory's project where the notebook lies in it, else the notebook's own."""
    given = settings.load(overrides={"store": address_of(store)})
    if notebook.is_relative_to(given.project.root):
        return given
    return settings.load(notebook.parent, {"store": address_of(store)})


def address_of(store: str | None) -> str | None:
    """What was typed as a path means the working directory's, not the project's."""
    return str(Path(store).expanduser().absolute()) if store and "://" not in store else store
