"""All modules that answer requests; their routes are tried in this order."""

from __future__ import annotations

from importlib import import_module

__all__ = ["MODULES"]

MODULES = ("accounts", "jobs", "scheduled")

for _name in MODULES:
    import_module(f"qcity_nb.testing.hub.{_name}")
