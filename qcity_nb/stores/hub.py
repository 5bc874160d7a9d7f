"""A store in a repository on the Hugging Face Hub: `hf://user/repo`.

    branch run/<run>      one a run; a ``/`` in the id is a ``+``
      qcity.head          a stamp, then the head (`hub_address.read_head`)
      files/<name>        objects
      README.md, …        what people see of the run

One commit publishes everything: files, head, and the deletion of what the head dropped. It names its parent, so of two
writers one wins (`parent_commit`); nothing is visible before it, and no file without the head that names it. A commit
whose reply was lost is looked for by its stamp, never sent again blindly: should it land late, a second one on the same
parent cannot.

A version is the stamp, not the commit: commits that change no head (a deletion, a squashed history) leave it alone.

Source: the Hub's documentation of commits, storage limits and rate limits; docs/hosts/huggingface.md has what of it was
not tried on the real service.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcity_nb import points
from qcity_nb.clock import Clock
from qcity_nb.errors import Conflict, Missing, StoreError, StoreUnavailable, UsageError
from qcity_nb.ports import Source, Stamped, Usage, Version
from qcity_nb.stores import hub_address, hub_pages
from qcity_nb.stores.hub_address import FILES, HEAD, HubAddress, Stamp, branch_of
from qcity_nb.stores.hub_client import NoEntry, NoRepository, NoRevision, Stale
from qcity_nb.stores.hub_repository import HubRepository
from qcity_nb.stores.naming import check_name, check_run

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd

__all__ = ["SQUASH_AFTER", "HubStore", "open_store"]

SQUASH_AFTER = 300
"""So many commits of a branch are squashed into one: the Hub slows down after a few thousand."""
COMMIT_FILES = 99
"""The Hub advises fewer than 100 files a commit."""
ERASE_AFTER_S = 24 * 3600.0
"""Content younger than this may have been uploaded for a commit that is still to come."""
_TRIES = 6
"""Against others who commit to the same branch without changing the head."""
_LOOKS = 3
"""For a head that is older than the last one seen, or gone."""
_PACKS = f"{FILES}packs/"
_LFS = f"{_PACKS}** filter=lfs diff=lfs merge=lfs -text\n".encode()


def open_store(address: str) -> HubStore:
    """Open the store at ``hf://user/repo``; asks nobody yet. The repository is made, private, with the first run.

    Raises:
        UsageError: the address is not one.
    """
    return HubStore(hub_address.parse(address))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """A run's branch, as last read or written."""

    version: Version
    tip: str
    """Its newest commit."""
    commits: int
    data: bytes = b""
    now_s: float | None = None


class HubStore:
    """See the module.

    Args:
        address: which repository.
        clock: for the waits that the Hub asks for.
    """

    release_s = 36 * 3600.0
    """Within this time the Hub gives back the room of content that no commit names (its storage limits page)."""
    has_pages = True

    def __init__(self, address: HubAddress, *, clock: Clock | None = None) -> None:
        self._where = address.short
        self._repository = HubRepository(address, clock=clock)
        self._seen: dict[str, _Seen] = {}
        self._written: dict[str, tuple[Version, float]] = {}
        self._sent: dict[tuple[str, str], CommitOperationAdd] = {}
        """What was uploaded for a commit that is still to come, by run and name."""
        self._dropped: dict[str, set[str]] = {}
        """What confirmed publishes of this process dropped, by run: nothing else is ever erased."""

    @property
    def address(self) -> str:
        """The repository; with its endpoint, where that is not the client's own default."""
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
        found = []
        for branch, tip in branches.items():
            run = hub_address.run_of(branch)
            if run is None:
                continue
            seen = self._seen.get(run)
            # A branch without a head: its maker died between the two, or is about to write one.
            if (seen is not None and seen.tip == tip) or self._look(run) is not None:
                found.append(run)
        return sorted(found)

    def _look(self, run: str) -> _Seen | None:
        """The head as the Hub has it now; ``None``: the run has none.

        Raises:
            NoRepository: there is none, or none for this token.
        """
        known = self._seen.get(run)
        for turn in range(_LOOKS):
            try:
                reply = self._repository.read(HEAD, branch_of(run))
            except (NoRevision, NoEntry):
                if known is not None and turn < _LOOKS - 1:
                    continue
                self._seen.pop(run, None)
                return None
            stamp, data = hub_address.read_head(reply.content)
            if stamp is None:
                # Somebody else's work, handed out as it is; named by its content, so that it can be written over.
                stamp = Stamp(version=uuid.uuid5(uuid.NAMESPACE_OID, reply.content.hex()).hex[:16], commits=0)
            seen = _Seen(version=stamp.version, tip=reply.commit, commits=stamp.commits, data=data, now_s=reply.now_s)
            if known is None or seen.commits >= known.commits or turn == _LOOKS - 1:
                break  # else: older than what was seen here already, by a cache; or squashed since, which is rare
        self._seen[run] = seen
        return seen

    def read(self, run: str) -> Stamped | None:
        """See ``ports.Store``."""
        check_run(run)
        for _ in range(_TRIES):
            try:
                seen = self._look(run)
            except NoRepository:
                self._repository.check_own()
                return None
            if seen is None:
                return None
            try:
                written_s = self._written_s(run, seen)
            except NoRevision:
                continue  # the history was squashed since
            now_s = seen.now_s if seen.now_s is not None else written_s
            return Stamped(data=seen.data, version=seen.version, written_s=written_s, now_s=max(now_s, written_s))
        raise StoreUnavailable(f"run {run!r} in {self._where}: its history is squashed again and again")

    def _written_s(self, run: str, seen: _Seen) -> float:
        """When the Hub took this head: the date of the last commit that changed it."""
        known = self._written.get(run)
        if known is not None and known[0] == seen.version:
            return known[1]
        infos = self._repository.infos([HEAD], seen.tip, dated=True)
        last = infos[0].last_commit if infos else None
        # Without a date nobody can be judged by the Hub's clock, only by waiting.
        written_s = last.date.timestamp() if last is not None else seen.now_s or 0.0
        self._written[run] = (seen.version, written_s)
        return written_s

    def get(self, run: str, name: str) -> bytes:
        """See ``ports.Store``."""
        check_run(run)
        try:
            return self._repository.read(FILES + check_name(name), branch_of(run)).content
        except Missing:
            raise Missing(f"run {run!r} has no object {name!r} in {self._where}") from None

    def fetch(self, run: str, name: str, path: Path) -> None:
        """See ``ports.Store``. What a call that was cut off has, lies in ``.<name>.part`` beside ``path``."""
        check_run(run)
        where, branch = FILES + check_name(name), branch_of(run)
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise OSError(errno.ENOENT, "no such folder, or no right to write there", str(path))
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
        return sorted(self._sizes(run))

    def _sizes(self, run: str) -> dict[str, int]:
        check_run(run)
        try:
            found = self._repository.tree(branch_of(run), FILES.rstrip("/"))
        except (NoRevision, NoEntry):
            return {}
        except NoRepository:
            self._repository.check_own()
            return {}
        return {one.path.removeprefix(FILES): int(one.size) for one in found}

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

        check_run(run)
        files = files or {}
        for name in (*files, *drop):
            check_name(name)
        for source in files.values():
            if isinstance(source, Path) and not os.access(source, os.R_OK):
                raise UsageError(f"{source} cannot be read: no such file, or no right to read it")
        if len(files) > COMMIT_FILES // 2:
            raise UsageError(f"{len(files)} files at once: the Hub takes fewer than 100 in one commit")
        seen, operations = self._begin(run) if expect is None else (self._found(run, expect), [])
        operations += self._additions(run, files, seen.tip)
        mine = Stamp(version=uuid.uuid4().hex[:16], commits=seen.commits + 1)
        operations += [CommitOperationAdd(name, content) for name, content in (page or {}).items()]
        operations.append(CommitOperationAdd(HEAD, hub_address.write_head(mine, head)))
        drop = [name for name in drop if name not in files][: COMMIT_FILES - len(operations)]
        self._commit(run, operations, drop, tip=seen.tip, expect=expect, mine=mine)
        for name in files:
            self._sent.pop((run, name), None)
        if expect is None:
            hub_pages.announce(self._repository, run)
        return mine.version

    def _found(self, run: str, expect: Version) -> _Seen:
        seen = self._seen.get(run)
        if seen is None or seen.version != expect:
            try:
                seen = self._look(run)
            except NoRepository:
                self._repository.check_own()
                seen = None
        if seen is None or seen.version != expect:
            raise Conflict(f"run {run!r}: the head is version {seen.version if seen else None}, not {expect}")
        return seen

    def _begin(self, run: str) -> tuple[_Seen, list[Any]]:
        """The branch of a run that is to be made, and what cleans it of other content of the repository."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        branch, repository = branch_of(run), self._repository
        try:
            is_there = self._look(run) is not None
        except NoRepository:
            repository.check_own()
            repository.make()
            is_there = False
        if is_there:
            raise Conflict(f"run {run!r} exists already in {self._where}")
        repository.make_branch(branch)
        tip = repository.tip(branch)
        inherited = repository.tree(tip, recursive=False)
        if any(one.path == HEAD for one in inherited):
            # Made between the look and the reading of the tip: a commit on that tip would replace it.
            raise Conflict(f"run {run!r} exists already in {self._where}")
        operations: list[Any] = [
            CommitOperationDelete(one.path, is_folder=not hasattr(one, "size"))
            for one in inherited
            if one.path not in (".gitattributes", "README.md")
        ]
        rules = b""
        if any(one.path == ".gitattributes" for one in inherited):
            rules = repository.read(".gitattributes", tip).content
        if _LFS not in rules:
            operations.append(CommitOperationAdd(".gitattributes", rules + _LFS))
        return _Seen(version="", tip=tip, commits=0), operations

    def _additions(self, run: str, files: Mapping[str, Source], tip: str) -> list[CommitOperationAdd]:
        """What is not stored yet; large content is sent now, while the head may still move: no race is lost by it."""
        if not files:
            return []
        try:
            stored = {one.path for one in self._repository.infos([FILES + name for name in files], tip)}
        except NoRevision:
            stored = set()  # squashed since: the commit on this parent will say so
        additions = [self._addition(run, name, source) for name, source in files.items() if FILES + name not in stored]
        points.hit("publish.files.before")
        large = [one for one in additions if isinstance(one.path_or_fileobj, str) and not one._is_uploaded]
        if large:
            points.hit("publish.upload")
            self._repository.upload(branch_of(run), large)
        points.hit("publish.files.after")
        return additions

    def _addition(self, run: str, name: str, source: Source) -> CommitOperationAdd:
        """The same one for the same name again, so that what was uploaded for a commit that lost is not sent twice."""
        from huggingface_hub import CommitOperationAdd

        content = str(source) if isinstance(source, Path) else bytes(source)
        known = self._sent.get((run, name))
        if known is None or known.path_or_fileobj != content:
            while len(self._sent) >= COMMIT_FILES:
                self._sent.pop(next(iter(self._sent)))
            try:
                known = CommitOperationAdd(FILES + name, content)
            except (ValueError, OSError) as error:
                raise UsageError(f"{source!r} cannot be read: {error}") from None
            self._sent[run, name] = known
        return known

    def _commit(
        self,
        run: str,
        operations: Sequence[Any],
        drop: Sequence[str],
        *,
        tip: str,
        expect: Version | None,
        mine: Stamp | None,
    ) -> None:
        """One commit on the head ``expect``.

        Args:
            tip: where the branch is, as far as is known.
            mine: the stamp of the head that it brings, if it does.
        Raises:
            Conflict: the head is another one; nothing of this is visible.
            StoreUnavailable: unknown whether it landed.
        """
        from huggingface_hub import CommitOperationDelete

        title = _title(operations, drop)
        for _ in range(_TRIES):
            deletions = [CommitOperationDelete(FILES + name, is_folder=False) for name in drop]
            points.hit("publish.commit")
            try:
                done = self._repository.commit(branch_of(run), [*operations, *deletions], parent=tip, title=title)
            except NoEntry:
                there = self._sizes(run)
                drop = [name for name in drop if name in there]  # some were gone already
                if not drop and mine is None:
                    return
            except (Stale, NoRevision):
                moved = self._moved(run, expect, mine)
                if moved is None:
                    return
                tip = moved
            except StoreUnavailable:
                # A reply was lost, or the Hub answered 5xx for a commit that landed (it does: huggingface/datasets
                # pull request 7708). If the head is ours, it has; if not, it may still.
                if mine is not None and self._is_there(run, mine):
                    return
                raise
            else:
                seen = self._seen.get(run)
                if mine is not None:
                    self._seen[run] = _Seen(version=mine.version, tip=done, commits=mine.commits)
                    self._dropped.setdefault(run, set()).update(FILES + name for name in drop)
                elif seen is not None:
                    self._seen[run] = replace(seen, tip=done, commits=seen.commits + 1)
                return
        raise StoreUnavailable(f"run {run!r} in {self._where}: {_TRIES} other commits in a row were faster")

    def _moved(self, run: str, expect: Version | None, mine: Stamp | None) -> str | None:
        """The branch is not where the commit expected it: its new tip, if the head is still the same one.

        ``None``: the head is the one that was to be written; an earlier try of the same request has landed.
        """
        seen = self._look(run)
        version = seen.version if seen is not None else None
        if mine is not None and version == mine.version:
            return None
        if version != expect:
            raise Conflict(f"run {run!r}: the head is version {version}, not {expect}")
        if seen is not None:
            return seen.tip
        tip = self._repository.tip(branch_of(run))
        if self._repository.infos([HEAD], tip):
            raise Conflict(f"run {run!r} exists already in {self._where}")  # made since the look
        return tip

    def _is_there(self, run: str, mine: Stamp) -> bool:
        try:
            seen = self._look(run)
        except StoreError:
            return False
        return seen is not None and seen.version == mine.version

    def delete(self, run: str, names: Sequence[str]) -> None:
        """See ``ports.Store``. A commit of its own; objects that a head drops go with that head."""
        for name in names:
            check_name(name)
        there = self._sizes(run)
        wanted = [name for name in names if name in there]
        for start in range(0, len(wanted), COMMIT_FILES):
            seen = self._look(run)
            if seen is None:
                return
            part = wanted[start : start + COMMIT_FILES]
            self._commit(run, [], part, tip=seen.tip, expect=seen.version, mine=None)

    def forget(self, run: str) -> None:
        """See ``ports.Store``."""
        check_run(run)
        self._seen.pop(run, None)
        try:
            self._repository.drop_branch(branch_of(run))
        except Missing:
            return

    # --- room

    def usage(self, run: str) -> Usage:
        """See ``ports.Store``. What is held back is the whole repository's: the Hub does not tell whose it is."""
        sizes = self._sizes(run)
        if not sizes:
            return Usage(objects=0, size_bytes=0)
        try:
            held = sum(int(one.size) for one in self._repository.unnamed(_PACKS))
        except StoreError:
            held = 0  # a token that may only read is not told
        return Usage(objects=len(sizes), size_bytes=sum(sizes.values()), held_bytes=held)

    def reclaim(self, run: str) -> None:
        """See ``ports.Store``: squashes a long history; deletes content that this process dropped and nothing names.

        What an earlier attempt dropped, the Hub gives back by itself after the squash.

        Whoever commits meanwhile loses nothing: the newest tree stays, and their next try finds its new parent.
        """
        seen = self._seen.get(check_run(run))
        if seen is None or seen.commits < SQUASH_AFTER:
            return
        self._repository.squash(branch_of(run), title=f"Run {run}")
        self._seen[run] = replace(seen, commits=0)
        newest_s = max((at for _, at in self._written.values()), default=0.0)
        mine = self._dropped.get(run, set())
        old = [
            one
            for one in self._repository.unnamed(_PACKS)
            if one.filename in mine and one.pushed_at.timestamp() < newest_s - ERASE_AFTER_S
        ]
        if old:
            self._repository.erase(old)
            mine.difference_update(one.filename for one in old)


def _title(operations: Sequence[Any], drop: Sequence[str]) -> str:
    """For people who look at the history."""
    folder = f"{FILES}checkpoints/"
    names = [one.path_in_repo for one in operations if one.path_in_repo.startswith(folder)]
    if names:
        return f"Checkpoint {names[0].removeprefix(folder).rpartition('-')[0] or names[0]}"
    if any(one.path_in_repo == HEAD for one in operations):
        return "Beat" if len(operations) == 1 else "Head"
    return f"Delete {len(drop)} objects"
