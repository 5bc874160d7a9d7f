"""All modules that answer requests; their routes are tried in this order."""

from __future__ import annotations

from importlib import import_module

__all__ = ["MODULES"]

MODULES = (
    *("limits", "accounts", "repos", "refs", "history", "files", "commits", "lfs", "xet", "storage"),
    *("jobs", "scheduled", "spaces", "webhooks"),
)

for _name in MODULES:
    import_module(f"qcity_nb.testing.emulators.hub.{_name}")
