"""The store contract at a Hub: the hooks that read without the store, and all its tests in one scratch repository.

The emulator's tests use the first half. `qcity doctor --probe hf://user/scratch --contract` is the second: it runs
each test on the real service, in branches that are deleted afterwards. It takes an hour and a half there, because
commits are paced.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi

from qcity_nb.errors import QcityError
from qcity_nb.ports import Stamped, Store, Usage, Version
from qcity_nb.stores.hub.address import HEAD, branch_of, parse, read_head
from qcity_nb.stores.hub.probe import Finding
from qcity_nb.stores.hub.store import HubStore
from qcity_nb.testing.contracts.contract_run import run_contract
from qcity_nb.testing.contracts.store_contract import StoreContract
from qcity_nb.testing.passing import PassingStore

__all__ = ["HubContract", "Scratch", "contract", "heads_of", "litter", "put_head"]

PACE_S = 30.0
"""Between two commits at huggingface.co: users report a limit of 128 an hour."""
LEFT_OUT = ("each_version", "many_versions", "lose_no_increment", "processes", "make_a_run_once", "paths", "do_not_mix")
"""Tests that make 40 commits and more, that start processes, or whose names the prefix changes."""


def heads_of(store: Store, run: str) -> list[bytes]:
    """Every version of the run record in the history of the run's branch, oldest first."""
    address = parse(store.address)
    api, repo = HfApi(endpoint=address.endpoint or None), address.repo
    heads: list[bytes] = []
    with tempfile.TemporaryDirectory() as folder:
        for commit in reversed(api.list_repo_commits(repo, revision=branch_of(run), repo_type=address.kind)):
            at: dict[str, Any] = {"revision": commit.commit_id, "repo_type": address.kind}
            if not api.file_exists(repo, HEAD, **at):
                continue
            file = api.hf_hub_download(repo, HEAD, local_dir=folder, force_download=True, **at)
            head = read_head(Path(file).read_bytes())[1]
            if not heads or head != heads[-1]:
                heads.append(head)
    return heads


def _commit(store: Store, run: str, files: dict[str, bytes]) -> None:
    address = parse(store.address)
    HfApi(endpoint=address.endpoint or None).create_commit(
        address.repo,
        [CommitOperationAdd(name, content) for name, content in files.items()],
        commit_message="by hand",
        revision=branch_of(run),
        repo_type=address.kind,
    )


def put_head(store: Store, run: str, data: bytes) -> None:
    """Overwrite the run record with a commit, as a foreign program may."""
    _commit(store, run, {HEAD: data})


def litter(store: Store, run: str) -> None:
    """Branches without a run record, files that are not ours."""
    address = parse(store.address)
    api = HfApi(endpoint=address.endpoint or None)
    for branch in (branch_of(f"{run}-half-made"), f"other-{run.replace('/', '-')}"):
        api.create_branch(address.repo, branch=branch, repo_type=address.kind)
    _commit(store, run, dict.fromkeys(("x.txt", "head.tmp", "heads/1"), b"x"))


class HubContract(StoreContract):
    """What ``StoreContract`` needs to know about a Hub's store."""

    shows_files_first = False

    def raw_heads(self, store: Store, run: str) -> list[bytes]:
        return heads_of(store, run)

    def raw_put_head(self, store: Store, run: str, data: bytes) -> None:
        put_head(store, run, data)

    def raw_litter(self, store: Store, run: str) -> None:
        litter(store, run)


class Scratch(PassingStore):
    """A part of a Hub's store that looks like an empty store.

    Args:
        prefix: what its runs' ids begin with, there.
        pace_s: the least time between two commits.
    """

    def __init__(self, store: Store, prefix: str, *, pace_s: float = 0.0) -> None:
        super().__init__(store)
        self.prefix = prefix
        self._pace_s = pace_s
        self._last_s = float("-inf")

    def _there(self, run: str) -> str:
        return f"{self.prefix}/{run}"

    def _wait(self) -> None:
        time.sleep(max(0.0, self._last_s + self._pace_s - time.monotonic()))
        self._last_s = time.monotonic()

    def runs(self) -> list[str]:
        start = f"{self.prefix}/"
        return [run.removeprefix(start) for run in self.store.runs() if run.startswith(start)]

    def read(self, run: str) -> Stamped | None:
        return self.store.read(self._there(run))

    def publish(self, run: str, head: bytes, *, expect: Version | None, **more: Any) -> Version:
        self._wait()
        return self.store.publish(self._there(run), head, expect=expect, **more)

    def get(self, run: str, name: str) -> bytes:
        return self.store.get(self._there(run), name)

    def fetch(self, run: str, name: str, path: Path) -> None:
        self.store.fetch(self._there(run), name, path)

    def names(self, run: str) -> list[str]:
        return self.store.names(self._there(run))

    def delete(self, run: str, names: Any) -> None:
        self._wait()
        self.store.delete(self._there(run), names)

    def usage(self, run: str) -> Usage:
        return self.store.usage(self._there(run))

    def reclaim(self, run: str) -> None:
        self.store.reclaim(self._there(run))

    def forget(self, run: str) -> None:
        self.store.forget(self._there(run))


class _ScratchContract(HubContract):
    def reopen(self, store: Store) -> Store:
        assert isinstance(store, Scratch)
        return Scratch(HubStore(parse(store.address)), store.prefix, pace_s=store._pace_s)

    def raw_heads(self, store: Store, run: str) -> list[bytes]:
        assert isinstance(store, Scratch)
        return heads_of(store, store._there(run))

    def raw_put_head(self, store: Store, run: str, data: bytes) -> None:
        assert isinstance(store, Scratch)
        put_head(store, store._there(run), data)

    def raw_litter(self, store: Store, run: str) -> None:
        assert isinstance(store, Scratch)
        litter(store, store._there(run))


def contract(address: str, *, is_selected: Callable[[str], bool] = lambda name: True) -> Iterator[Finding]:
    """Run the store contract at the Hub, each test in branches of its own that are deleted afterwards.

    Args:
        is_selected: by the test's name; those in ``LEFT_OUT`` are never run.
    Raises:
        QcityError: the repository cannot be read.
    """
    where = parse(address)
    pace_s = PACE_S if not where.endpoint and HubStore(where).address == str(where) else 0.0
    prefix = f"probe-{time.time_ns() // 1_000_000:x}"
    made: list[Scratch] = []

    def make_store() -> Store:
        made.append(Scratch(HubStore(where), f"{prefix}-{len(made)}", pace_s=pace_s))
        return made[-1]

    def is_run(name: str) -> bool:
        return is_selected(name) and not any(part in name for part in LEFT_OUT)

    HubStore(where).runs()
    with tempfile.TemporaryDirectory(prefix="qcity-contract-") as folder:
        for name, failure in run_contract(_ScratchContract(), make_store, Path(folder), is_selected=is_run):
            detail = " ".join(str(failure).split())[:300] if failure is not None else ""
            yield Finding(name=name.removeprefix("test_").replace("_", " "), is_as_expected=not failure, detail=detail)
            _clean(made[-1])


def _clean(scratch: Scratch) -> None:
    address = parse(scratch.address)
    api = HfApi(endpoint=address.endpoint or None)
    # A branch that remains has a name that says what it was.
    with contextlib.suppress(QcityError, OSError):
        for branch in api.list_repo_refs(address.repo, repo_type=address.kind).branches:
            if scratch.prefix in branch.name:
                api.delete_branch(address.repo, branch=branch.name, repo_type=address.kind)
