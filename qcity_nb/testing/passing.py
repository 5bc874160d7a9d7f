"""A store that passes every call on: a base for those that change some calls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qcity_nb.ports import Stamped, Store, Usage, Version

__all__ = ["PassingStore"]


class PassingStore:
    """See ``ports.Store`` for each call.

    Args:
        store: where they go.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    @property
    def release_s(self) -> float:
        return self.store.release_s

    @property
    def has_pages(self) -> bool:
        return self.store.has_pages

    @property
    def address(self) -> str:
        return self.store.address

    def runs(self) -> list[str]:
        return self.store.runs()

    def read(self, run: str) -> Stamped | None:
        return self.store.read(run)

    def publish(self, run: str, head: bytes, *, expect: Version | None, **more: Any) -> Version:
        return self.store.publish(run, head, expect=expect, **more)

    def get(self, run: str, name: str) -> bytes:
        return self.store.get(run, name)

    def fetch(self, run: str, name: str, path: Path) -> None:
        self.store.fetch(run, name, path)

    def names(self, run: str) -> list[str]:
        return self.store.names(run)

    def delete(self, run: str, names: Sequence[str]) -> None:
        self.store.delete(run, names)

    def usage(self, run: str) -> Usage:
        return self.store.usage(run)

    def reclaim(self, run: str) -> None:
        self.store.reclaim(run)

    def forget(self, run: str) -> None:
        self.store.forget(run)
