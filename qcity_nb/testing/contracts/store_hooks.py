"""What the store contract needs to know of one kind of store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qcity_nb import crashpoints
from qcity_nb.ports import Store
from qcity_nb.stores import open_store

__all__ = ["StoreHooks"]


class StoreHooks:
    """Makes stores, and looks past them at their bytes."""

    shares_processes = True
    """Can another process open the store by its address? A test holds the declaration against the truth."""

    shows_files_first = True
    """Can files be seen before the head that names them? False where one commit brings both."""

    def make_store(self, tmp_path: Path) -> Store:
        """A new, empty store."""
        raise NotImplementedError

    def reopen(self, store: Store) -> Store:
        """The same store as another process would open it."""
        return open_store(store.address)

    def raw_heads(self, store: Store, run: str) -> list[bytes]:
        """The head versions that the backend keeps, oldest first, read past the store."""
        raise NotImplementedError

    def raw_put_head(self, store: Store, run: str, data: bytes) -> None:
        """Make ``data`` the newest head, past the store: what a damaged disk or a foreign program may do."""
        raise NotImplementedError

    def raw_litter(self, store: Store, run: str) -> None:
        """Leave what dead writers and foreign programs leave: half files, strange names."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        yield self.make_store(tmp_path)
        crashpoints.arm(None)
