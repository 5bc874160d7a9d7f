"""What the store contract needs to know about one kind of store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qcity_nb import crashpoints
from qcity_nb.ports import Store
from qcity_nb.stores import open_store

__all__ = ["StoreHooks"]


class StoreHooks:
    """Makes stores, and reads and writes their bytes without them."""

    shares_processes = True
    """Whether another process can open the store by its address. A test checks that the declaration is true."""

    shows_files_first = True
    """Whether files can be seen before the run record that names them. False if one commit has both."""

    def make_store(self, tmp_path: Path) -> Store:
        """A new, empty store."""
        raise NotImplementedError

    def reopen(self, store: Store) -> Store:
        """The same store as another process would open it."""
        return open_store(store.address)

    def raw_heads(self, store: Store, run: str) -> list[bytes]:
        """The versions of the run record that the backend keeps, oldest first, read without the store."""
        raise NotImplementedError

    def raw_put_head(self, store: Store, run: str, data: bytes) -> None:
        """Make ``data`` the newest run record, without the store: what a damaged disk or a foreign program may do."""
        raise NotImplementedError

    def raw_litter(self, store: Store, run: str) -> None:
        """Leave what dead writers and foreign programs leave: half files, strange names."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        yield self.make_store(tmp_path)
        crashpoints.arm(None)
