"""Each notebook under nbval gets a store, a local tier and a tracker of its own, and is told its path."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_OPEN: dict[Path, Path] = {}


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """The kernel starts in the set-up of a notebook's first cell and inherits these."""
    place = _OPEN.get(item.path)
    if place is None:
        place = _OPEN[item.path] = Path(tempfile.mkdtemp(prefix="qcity-nbval-"))
    values = {
        "JPY_SESSION_NAME": str(item.path),  # as Jupyter's server tells a kernel its notebook
        "QCITY_STORE": str(place / "store"),
        "QCITY_LOCAL_DIR": str(place / "local"),
        "QCITY_TRACKING": f"sqlite:///{place / 'mlflow.db'}",
    }
    with _environment(values):
        return (yield)


def pytest_sessionfinish() -> None:
    """Remove what the notebooks made."""
    for place in _OPEN.values():
        shutil.rmtree(place, ignore_errors=True)
