"""A store in a repository on the Hugging Face Hub: `hf://user/repo`.

    branch run/<run>      one for each run; a ``/`` in the id is a ``+``
      qcity.head          a stamp, then the run record (`address.read_head`)
      files/<name>        objects
      README.md, …        what people see of the run

One commit publishes everything: the files, the run record, and the deletion of what that record dropped. It names its
parent, so of two writers one wins (`parent_commit`). Nothing is visible before it, and no file without the run record
that names it. After a lost reply the commit is looked for by its stamp, never sent again blindly: if it is made late, a
second one on the same parent is refused.

A version is the stamp, not the commit: commits that change no run record (a deletion, a squashed history) keep it.

Source: the Hub's documentation of commits, storage limits and rate limits; docs/hosts/huggingface.md says what was not
tried on the real service.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from qcity_nb.clock import Clock
from qcity_nb.errors import Missing, StoreError, StoreUnavailable, UsageError
from qcity_nb.ports import Source, Stamped, Usage, Version
from qcity_nb.stores.hub import pages
from qcity_nb.stores.hub.address import FILES, HEAD, HubAddress, Stamp, parse, run_of, write_head
from qcity_nb.stores.hub.branch import COMMIT_FILES, PACKS, HubBranch
from qcity_nb.stores.hub.client import NoEntry, NoRepository, NoRevision
from qcity_nb.stores.hub.repository import HubRepository
from qcity_nb.stores.naming import check_name, check_run

__all__ = ["SQUASH_AFTER", "HubStore", "open_store"]

SQUASH_AFTER = 300
"""After this many commits a branch's history is squashed: the Hub slows down after a few thousand."""
ERASE_AFTER_S = 24 * 3600.0
"""Younger content may have been uploaded for a commit that has not been made yet."""
_READS = 6
"""Tries of a read while the history is squashed between two calls."""


def open_store(address: str) -> HubStore:
    """Open the store at ``hf://user/repo``, without a request. A private repository is made with the first run.

    Raises:
        UsageError: the address is malformed.
    """
    return HubStore(parse(address))


class HubStore:
    """See the module.

    Args:
        address: which repository.
        clock: for the waits that the Hub asks for.
    """

    release_s = 36 * 3600.0
    """Within this time the Hub frees the storage of content that no commit names (its storage limits page)."""
    has_pages = True

    def __init__(self, address: HubAddress, *, clock: Clock | None = None) -> None:
        self._where = address.short
        self._repository = HubRepository(address, clock=clock)
        self._branches: dict[str, HubBranch] = {}

    def _branch(self, run: str) -> HubBranch:
        if run not in self._branches:
            self._branches.setdefault(run, HubBranch(self._repository, check_run(run)))
        return self._branches[run]

    @property
    def address(self) -> str:
        """The repository; with its endpoint, if that is not the client's default."""
        address, endpoint = self._repository.address, self._repository.endpoint
        return str(address if endpoint == "https://huggingface.co" else replace(address, endpoint=endpoint))

    # --- reading

    def runs(self) -> list[str]:
        """See ``ports.Store``."""
        try:
            branches, _ = self._repository.refs()
        except NoRepository:
            self._repository.check_own()
            return []
        runs = []
        for branch, tip in branches.items():
            run = run_of(branch)
            if run is None:
                continue
            known = self._branch(run)
            # A branch may have no run record: its maker died before writing one, or is about to.
            if (known.seen is not None and known.seen.tip == tip) or known.look() is not None:
                runs.append(run)
        return sorted(runs)

    def read(self, run: str) -> Stamped | None:
        """See ``ports.Store``."""
        branch = self._branch(run)
        for _ in range(_READS):
            try:
                seen = branch.look()
            except NoRepository:
                self._repository.check_own()
                return None
            if seen is None:
                return None
            try:
                written_s = branch.written_s(seen)
            except NoRevision:
                continue  # the history was squashed since
            now_s = seen.now_s if seen.now_s is not None else written_s
            return Stamped(data=seen.data, version=seen.version, written_s=written_s, now_s=max(now_s, written_s))
        raise StoreUnavailable(f"run {run!r} in {self._where}: its history keeps being squashed")

    def get(self, run: str, name: str) -> bytes:
        """See ``ports.Store``."""
        branch = self._branch(run)
        try:
            return self._repository.read(FILES + check_name(name), branch.name).content
        except Missing:
            raise Missing(f"run {run!r} has no object {name!r} in {self._where}") from None

    def fetch(self, run: str, name: str, path: Path) -> None:
        """See ``ports.Store``. An interrupted call leaves its part of the content beside ``path``: ``.<name>.part``."""
        where, branch = FILES + check_name(name), self._branch(run).name
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise OSError(errno.ENOENT, "no such directory, or no permission to write there", str(path))
        part = path.with_name(f".{path.name}.part")
        try:
            infos = self._repository.infos([where], branch)
            if not infos:
                raise NoEntry(where)
            self._repository.download(where, branch, part, size_bytes=infos[0].size).replace(path)
        except Missing:
            raise Missing(f"run {run!r} has no object {name!r} in {self._where}") from None
        shutil.rmtree(part, ignore_errors=True)

    def names(self, run: str) -> list[str]:
        """See ``ports.Store``."""
        return sorted(self._branch(run).sizes())

    # --- writing

    def publish(
        self,
        run: str,
        head: bytes,
        *,
        expect: Version | None,
        files: Mapping[str, Source] | None = None,
        drop: Sequence[str] = (),
        page: Mapping[str, bytes] | None = None,
    ) -> Version:
        """See ``ports.Store``."""
        from huggingface_hub import CommitOperationAdd

        branch = self._branch(run)
        files = files or {}
        for name in (*files, *drop):
            check_name(name)
        for source in files.values():
            if isinstance(source, Path) and not os.access(source, os.R_OK):
                raise UsageError(f"{source} cannot be read: no such file, or no permission to read it")
        if len(files) > COMMIT_FILES // 2:
            raise UsageError(f"{len(files)} files at once: the Hub allows fewer than 100 in one commit")
        seen, operations = branch.begin() if expect is None else (branch.at(expect), [])
        operations += branch.additions(files, seen.tip)
        mine = Stamp(version=uuid.uuid4().hex[:16], commits=seen.commits + 1)
        operations += [CommitOperationAdd(name, content) for name, content in (page or {}).items()]
        operations.append(CommitOperationAdd(HEAD, write_head(mine, head)))
        drop = [name for name in drop if name not in files][: COMMIT_FILES - len(operations)]
        branch.commit(operations, drop, tip=seen.tip, expect=expect, mine=mine)
        if expect is None:
            pages.announce(self._repository, run)
        return mine.version

    def delete(self, run: str, names: Sequence[str]) -> None:
        """See ``ports.Store``. In separate commits; objects that a run record drops are deleted in its own commit."""
        for name in names:
            check_name(name)
        branch = self._branch(run)
        there = branch.sizes()
        existing = [name for name in names if name in there]
        for start in range(0, len(existing), COMMIT_FILES):
            seen = branch.look()
            if seen is None:
                return
            part = existing[start : start + COMMIT_FILES]
            branch.commit([], part, tip=seen.tip, expect=seen.version, mine=None)

    def forget(self, run: str) -> None:
        """See ``ports.Store``."""
        branch = self._branch(run)
        self._branches.pop(run, None)
        try:
            self._repository.drop_branch(branch.name)
        except Missing:
            return

    # --- storage

    def usage(self, run: str) -> Usage:
        """See ``ports.Store``. ``held_bytes`` is of the whole repository: the Hub does not say whose content it is."""
        sizes = self._branch(run).sizes()
        if not sizes:
            return Usage(objects=0, size_bytes=0)
        try:
            held = sum(int(content.size) for content in self._repository.list_unnamed(PACKS))
        except StoreError:
            held = 0  # a token that may only read cannot list it
        return Usage(objects=len(sizes), size_bytes=sum(sizes.values()), held_bytes=held)

    def reclaim(self, run: str) -> None:
        """See ``ports.Store``: squashes a long history; deletes content that this process dropped and nothing names.

        What earlier attempts dropped, the Hub frees by itself after the squash. Writers that commit meanwhile lose
        nothing: the newest tree stays, and their next try reads its new parent.
        """
        branch = self._branch(run)
        if branch.seen is None or branch.seen.commits < SQUASH_AFTER:
            return
        newest_s = branch.written_s(branch.seen)
        branch.squash()
        old = [
            content
            for content in self._repository.list_unnamed(PACKS)
            if content.filename in branch.dropped and content.pushed_at.timestamp() < newest_s - ERASE_AFTER_S
        ]
        if old:
            self._repository.erase(old)
            branch.dropped.difference_update(content.filename for content in old)
