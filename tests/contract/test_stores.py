"""The store contract over the built-in stores."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path

from qcity_nb.ports import Store
from qcity_nb.stores import open_store
from qcity_nb.stores.directory import DirectoryStore
from qcity_nb.stores.memory import MemoryStore
from qcity_nb.testing.contracts.store_contract import StoreContract


class TestMemory(StoreContract):
    shares_processes = False

    def make_store(self, tmp_path: Path) -> Store:
        return open_store(f"memory://{uuid.uuid4().hex}")

    def raw_heads(self, store: Store, run: str) -> list[bytes]:
        assert isinstance(store, MemoryStore)
        kept = store._runs[run]
        return [] if kept.head is None else [kept.head]

    def raw_put_head(self, store: Store, run: str, data: bytes) -> None:
        assert isinstance(store, MemoryStore)
        kept = store._runs[run]
        kept.head, kept.version = data, f"planted-{kept.version}"

    def raw_litter(self, store: Store, run: str) -> None:
        """A dict holds nothing that its one writer did not put there."""


class TestDirectory(StoreContract):
    def make_store(self, tmp_path: Path) -> Store:
        return open_store(str(tmp_path / "a store"))

    def raw_heads(self, store: Store, run: str) -> list[bytes]:
        heads = Path(store.address, "runs", run.replace("/", "+"), "heads")
        return [path.read_bytes() for path in sorted(heads.iterdir(), key=lambda path: int(path.name))]

    def raw_put_head(self, store: Store, run: str, data: bytes) -> None:
        heads = Path(store.address, "runs", run, "heads")
        newest = max(int(path.name) for path in heads.iterdir())
        (heads / str(newest + 1)).write_bytes(data)

    def raw_litter(self, store: Store, run: str) -> None:
        root = Path(store.address)
        for name in (".DS_Store", "2.tmp", "02", "²", "-3", "head"):
            (root / "runs" / run / "heads" / name).write_bytes(b"torn")
        (root / "runs" / "no-run").mkdir()
        (root / "runs" / "half-made" / "heads").mkdir(parents=True)
        (root / "runs" / "a file").write_bytes(b"")
        (root / "runs" / run / "files" / ".nfs0001").write_bytes(b"")
        long_ago = time.time() - 7200
        for name, age in {
            "write-elsewhere-1-abc": long_ago,
            f"write-{os.uname().nodename}-1-x": time.time(),
        }.items():
            (root / "tmp" / name).write_bytes(b"torn")
            os.utime(root / "tmp" / name, (age, age))


def test_the_directory_store_is_what_is_tested(tmp_path: Path) -> None:
    assert isinstance(TestDirectory().make_store(tmp_path), DirectoryStore)
