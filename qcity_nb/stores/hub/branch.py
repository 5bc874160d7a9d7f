"""One run's branch on the Hub: what it holds, and the one commit that changes it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcity_nb import crashpoints
from qcity_nb.errors import Conflict, StoreError, StoreUnavailable, UsageError
from qcity_nb.ports import Source, Version
from qcity_nb.stores.hub import address
from qcity_nb.stores.hub.address import FILES, HEAD, Stamp
from qcity_nb.stores.hub.client import NoEntry, NoRepository, NoRevision, Stale
from qcity_nb.stores.hub.repository import HubRepository

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd

__all__ = ["COMMIT_FILES", "PACKS", "BranchState", "HubBranch"]

COMMIT_FILES = 99
"""The Hub advises fewer than 100 files a commit."""
PACKS = f"{FILES}packs/"
_LFS = f"{PACKS}** filter=lfs diff=lfs merge=lfs -text\n".encode()
_TRIES = 6
"""Tries of a commit while others commit to the same branch without changing the run record."""
_LOOKS = 3
"""Reads of a run record that is older than the last one seen, or gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchState:
    """A branch and its run record, as last read or written."""

    version: Version
    tip: str
    """The branch's newest commit."""
    commits: int
    data: bytes = b""
    now_s: float | None = None
    """The Hub's clock when it was read."""


class HubBranch:
    """Any thread may call it. Raises what ``HubClient.ask`` raises, if nothing else is said.

    Args:
        repository: where the branch is.
        run: whose branch it is.

    Attributes:
        seen: the branch as last read or written; ``None``: never, or without a run record.
        dropped: what confirmed commits of this process deleted.
    """

    def __init__(self, repository: HubRepository, run: str) -> None:
        self.name = address.branch_of(run)
        self.seen: BranchState | None = None
        self.dropped: set[str] = set()
        self._repository = repository
        self._run = run
        self._written: tuple[Version, float] | None = None
        self._sent: dict[str, CommitOperationAdd] = {}
        """What was uploaded for a commit that has not been made yet, by name."""

    # --- reading

    def look(self) -> BranchState | None:
        """The run record as the Hub has it now; ``None``: there is none.

        Raises:
            NoRepository: there is none, or none that this token may see.
        """
        known = self.seen
        for turn in range(_LOOKS):
            try:
                reply = self._repository.read(HEAD, self.name)
            except (NoRevision, NoEntry):
                if known is not None and turn < _LOOKS - 1:
                    continue
                self.seen = None
                return None
            stamp, data = address.read_head(reply.content)
            if stamp is None:
                # Another program wrote it. It is returned as it is, with its digest as version, so it can be replaced.
                stamp = Stamp(version=uuid.uuid5(uuid.NAMESPACE_OID, reply.content.hex()).hex[:16], commits=0)
            seen = BranchState(
                version=stamp.version, tip=reply.commit, commits=stamp.commits, data=data, now_s=reply.now_s
            )
            if known is None or seen.commits >= known.commits or turn == _LOOKS - 1:
                break  # else: a cache returned an older one; or the history was squashed since, which is rare
        self.seen = seen
        return seen

    def written_s(self, seen: BranchState) -> float:
        """When the Hub accepted this run record, on its own clock: the date of the last commit that changed it.

        Raises:
            NoRevision: the history was squashed since.
        """
        if self._written is not None and self._written[0] == seen.version:
            return self._written[1]
        infos = self._repository.infos([HEAD], seen.tip, dated=True)
        last = infos[0].last_commit if infos else None
        # Without a date no holder can be declared dead by the Hub's clock, only by waiting.
        written_s = last.date.timestamp() if last is not None else seen.now_s or 0.0
        self._written = (seen.version, written_s)
        return written_s

    def at(self, expect: Version) -> BranchState:
        """The branch with the run record ``expect``.

        Raises:
            Conflict: it has another run record.
        """
        seen = self.seen
        if seen is None or seen.version != expect:
            try:
                seen = self.look()
            except NoRepository:
                self._repository.check_own()
                seen = None
        if seen is None or seen.version != expect:
            raise self._conflict(seen, expect)
        return seen

    def _conflict(self, seen: BranchState | None, expect: Version | None) -> Conflict:
        version = seen.version if seen else None
        return Conflict(f"run {self._run!r}: the run record is version {version}, not {expect}")

    def sizes(self) -> dict[str, int]:
        """Bytes of each object, by name."""
        try:
            entries = self._repository.tree(self.name, FILES.rstrip("/"))
        except (NoRevision, NoEntry):
            return {}
        except NoRepository:
            self._repository.check_own()
            return {}
        return {entry.path.removeprefix(FILES): int(entry.size) for entry in entries}

    # --- writing

    def begin(self) -> tuple[BranchState, list[Any]]:
        """Make the branch.

        Returns: the branch, and the operations of its first commit that remove other content of the repository from it.
        Raises:
            Conflict: there is already a run record.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        repository = self._repository
        try:
            seen = self.look()
        except NoRepository:
            repository.check_own()
            repository.make()
            seen = None
        if seen is not None:
            raise self._conflict(seen, None)
        repository.make_branch(self.name)
        tip = self._tip_without_record()
        inherited = repository.tree(tip, recursive=False)
        operations: list[Any] = [
            CommitOperationDelete(entry.path, is_folder=not hasattr(entry, "size"))
            for entry in inherited
            if entry.path not in (".gitattributes", "README.md")
        ]
        rules = b""
        if any(entry.path == ".gitattributes" for entry in inherited):
            rules = repository.read(".gitattributes", tip).content
        if _LFS not in rules:
            operations.append(CommitOperationAdd(".gitattributes", rules + _LFS))
        return BranchState(version="", tip=tip, commits=0), operations

    def _tip_without_record(self) -> str:
        """The tip, if that very commit has no run record: one written since the last look would be replaced."""
        tip = self._repository.tip(self.name)
        if self._repository.infos([HEAD], tip):
            raise Conflict(f"another writer has made run {self._run!r} meanwhile")
        return tip

    def additions(self, files: Mapping[str, Source], tip: str) -> list[CommitOperationAdd]:
        """The commit operations for what is not stored yet.

        Large content is sent now. The run record may change meanwhile, and then nothing has to be sent again.
        """
        if not files:
            return []
        try:
            stored = {info.path for info in self._repository.infos([FILES + name for name in files], tip)}
        except NoRevision:
            stored = set()  # squashed since: the commit on this parent will fail and show it
        additions = [self._addition(name, source) for name, source in files.items() if FILES + name not in stored]
        crashpoints.hit("publish.files.before")
        large = [each for each in additions if isinstance(each.path_or_fileobj, str) and not each._is_uploaded]
        if large:
            crashpoints.hit("publish.upload")
            self._repository.upload(self.name, large)
        crashpoints.hit("publish.files.after")
        return additions

    def _addition(self, name: str, source: Source) -> CommitOperationAdd:
        """The same object for the same name and content, so that nothing is sent twice after a lost commit."""
        from huggingface_hub import CommitOperationAdd

        content = str(source) if isinstance(source, Path) else bytes(source)
        known = self._sent.get(name)
        if known is None or known.path_or_fileobj != content:
            while len(self._sent) >= COMMIT_FILES:
                self._sent.pop(next(iter(self._sent)))
            try:
                known = CommitOperationAdd(FILES + name, content)
            except (ValueError, OSError) as error:
                raise UsageError(f"{source!r} cannot be read: {error}") from None
            self._sent[name] = known
        return known

    def commit(
        self,
        operations: Sequence[Any],
        drop: Sequence[str],
        *,
        tip: str,
        expect: Version | None,
        mine: Stamp | None,
    ) -> None:
        """Make one commit while the run record is ``expect``.

        Args:
            drop: names of objects to delete; missing ones are skipped.
            tip: the branch's newest commit, as far as known.
            mine: the stamp of the run record in this commit, if it has one.
        Raises:
            Conflict: there is another run record; nothing of this commit is visible.
            StoreUnavailable: it is unknown whether the commit was made.
        """
        from huggingface_hub import CommitOperationDelete

        title = _title(operations, drop)
        for _ in range(_TRIES):
            deletions = [CommitOperationDelete(FILES + name, is_folder=False) for name in drop]
            crashpoints.hit("publish.commit")
            try:
                done = self._repository.commit(self.name, [*operations, *deletions], parent=tip, title=title)
            except NoEntry:
                there = self.sizes()
                drop = [name for name in drop if name in there]  # some were already gone
                if not drop and mine is None:
                    return
            except (Stale, NoRevision):
                moved = self._find_new_tip(expect, mine)
                if moved is None:
                    break
                tip = moved
            except StoreUnavailable:
                # A reply was lost, or the Hub answered 5xx although it made the commit (it does: huggingface/datasets
                # pull request 7708). If the run record is ours, it was made; if not, it may still be.
                if mine is None or not self._is_there(mine):
                    raise
                break
            else:
                if mine is not None:
                    self.seen = BranchState(version=mine.version, tip=done, commits=mine.commits)
                elif self.seen is not None:
                    self.seen = replace(self.seen, tip=done, commits=self.seen.commits + 1)
                break
        else:
            raise StoreUnavailable(f"run {self._run!r}: {_TRIES} other commits in a row were faster")
        self.dropped.update(FILES + name for name in drop)
        for operation in operations:
            self._sent.pop(operation.path_in_repo.removeprefix(FILES), None)

    def _find_new_tip(self, expect: Version | None, mine: Stamp | None) -> str | None:
        """The branch's new tip, after a commit on an outdated parent, if the run record is still the same.

        ``None``: the run record is already the new one: an earlier try of the same request was made.
        """
        seen = self.look()
        version = seen.version if seen is not None else None
        if mine is not None and version == mine.version:
            return None
        if version != expect:
            raise self._conflict(seen, expect)
        return seen.tip if seen is not None else self._tip_without_record()

    def _is_there(self, mine: Stamp) -> bool:
        try:
            seen = self.look()
        except StoreError:
            return False
        return seen is not None and seen.version == mine.version

    def squash(self) -> None:
        """Replace its history by one commit; neither the run record nor its version changes."""
        self._repository.squash(self.name, title=f"Run {self._run}")
        if self.seen is not None:
            self.seen = replace(self.seen, commits=0)


def _title(operations: Sequence[Any], drop: Sequence[str]) -> str:
    """A commit's title, for people who look at the history."""
    folder = f"{FILES}checkpoints/"
    names = [each.path_in_repo for each in operations if each.path_in_repo.startswith(folder)]
    if names:
        return f"Checkpoint {names[0].removeprefix(folder).rpartition('-')[0] or names[0]}"
    if any(each.path_in_repo == HEAD for each in operations):
        return "Heartbeat" if len(operations) == 1 else "Run record"
    return f"Delete {len(drop)} objects"
