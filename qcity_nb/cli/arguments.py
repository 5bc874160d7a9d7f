"""What command-line arguments mean: paths, addresses, settings."""

from __future__ import annotations

from pathlib import Path

from qcity_nb.settings import Settings, load

__all__ = ["address_of", "load_settings", "settings_for"]


def load_settings(store: str | None) -> Settings:
    """The settings of the working directory's project, with ``--store`` where it was given."""
    return load(overrides={"store": address_of(store)})


def settings_for(notebook: Path, store: str | None) -> Settings:
    """The settings of the working directory's project if the notebook is in it, else of the notebook's own project."""
    settings = load_settings(store)
    if notebook.is_relative_to(settings.project.root):
        return settings
    return load(notebook.parent, {"store": address_of(store)})


def address_of(store: str | None) -> str | None:
    """A store typed as a path is relative to the working directory, not to the project."""
    return str(Path(store).expanduser().absolute()) if store and "://" not in store else store
