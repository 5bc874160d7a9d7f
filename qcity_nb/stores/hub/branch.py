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

__all__ = ["COMMIT_FILES", "PACKS", "HubBranch", "Seen"]

COMMIT_FILES = 99
"""The Hub advises fewer than 100 files a commit."""
PACKS = f"{FILES}packs/"
_LFS = f"{PACKS}** filter=lfs diff=lfs merge=lfs -text\n".encode()
_TRIES = 6
"""Against others who commit to the same branch without changing the head."""
_LOOKS = 3
"""For a head that is older than the last one seen, or gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The branch, as last read or written."""

    version: Version
    tip: str
    """Its newest commit."""
    commits: int
    data: bytes = b""
    now_s: float | None = None
    """The Hub's clock when it was read."""


class HubBranch:
    """Any thread may call it. Raises what ``HubClient.ask`` raises, where nothing else is said.

    Args:
        repository: where it is.
        run: whose it is.

    Attributes:
        seen: the branch as last read or written; ``None``: never, or without a head.
        dropped: what confirmed commits of this process deleted.
    """

    def __init__(self, repository: HubRepository, run: str) -> None:
        self.name = address.branch_of(run)
        self.seen: Seen | None = None
        self.dropped: set[str] = set()
        self._repository = repository
        self._run = run
        self._written: tuple[Version, float] | None = None
        self._sent: dict[str, CommitOperationAdd] = {}
        """What was uploaded for a commit that is still to come, by name."""

    # --- reading

    def look(self) -> Seen | None:
        """The head as the Hub has it now; ``None``: there is none.

        Raises:
            NoRepository: there is none, or none for this token.
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
                # Somebody else's work, handed out as it is; named by its content, so that it can be written over.
                stamp = Stamp(version=uuid.uuid5(uuid.NAMESPACE_OID, reply.content.hex()).hex[:16], commits=0)
            seen = Seen(version=stamp.version, tip=reply.commit, commits=stamp.commits, data=data, now_s=reply.now_s)
            if known is None or seen.commits >= known.commits or turn == _LOOKS - 1:
                break  # else: older than what was seen here already, by a cache; or squashed since, which is rare
        self.seen = seen
        return seen

    def written_s(self, seen: Seen) -> float:
        """When the Hub took this head, on its own clock: the date of the last commit that changed it.

        Raises:
            NoRevision: the history was squashed since.
        """
        if self._written is not None and self._written[0] == seen.version:
            return self._written[1]
        infos = self._repository.infos([HEAD], seen.tip, dated=True)
        last = infos[0].last_commit if infos else None
        # Without a date nobody can be judged by the Hub's clock, only by waiting.
        written_s = last.date.timestamp() if last is not None else seen.now_s or 0.0
        self._written = (seen.version, written_s)
        return written_s

    def at(self, expect: Version) -> Seen:
        """The branch with the head ``expect``.

        Raises:
            Conflict: its head is another one.
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

    def _conflict(self, seen: Seen | None, expect: Version | None) -> Conflict:
        return Conflict(f"run {self._run!r}: the head is version {seen.version if seen else None}, not {expect}")

    def sizes(self) -> dict[str, int]:
        """Bytes of each object, by name."""
        try:
            found = self._repository.tree(self.name, FILES.rstrip("/"))
        except (NoRevision, NoEntry):
            return {}
        except NoRepository:
            self._repository.check_own()
            return {}
        return {one.path.removeprefix(FILES): int(one.size) for one in found}

    # --- writing

    def begin(self) -> tuple[Seen, list[Any]]:
        """Make the branch, and what cleans it of other content of the repository, in the first commit.

        Raises:
            Conflict: there is a head already.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        repository = self._repository
        try:
            found = self.look()
        except NoRepository:
            repository.check_own()
            repository.make()
            found = None
        if found is not None:
            raise self._conflict(found, None)
        repository.make_branch(self.name)
        tip = self._headless_tip()
        inherited = repository.tree(tip, recursive=False)
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
        return Seen(version="", tip=tip, commits=0), operations

    def _headless_tip(self) -> str:
        """The tip, if no head is in that very commit: one that came since the last look would be replaced."""
        tip = self._repository.tip(self.name)
        if self._repository.infos([HEAD], tip):
            raise Conflict(f"run {self._run!r} was made meanwhile")
        return tip

    def additions(self, files: Mapping[str, Source], tip: str) -> list[CommitOperationAdd]:
        """What is not stored yet; large content is sent now, while the head may still move: no race is lost by it."""
        if not files:
            return []
        try:
            stored = {one.path for one in self._repository.infos([FILES + name for name in files], tip)}
        except NoRevision:
            stored = set()  # squashed since: the commit on this parent will say so
        additions = [self._addition(name, source) for name, source in files.items() if FILES + name not in stored]
        crashpoints.hit("publish.files.before")
        large = [one for one in additions if isinstance(one.path_or_fileobj, str) and not one._is_uploaded]
        if large:
            crashpoints.hit("publish.upload")
            self._repository.upload(self.name, large)
        crashpoints.hit("publish.files.after")
        return additions

    def _addition(self, name: str, source: Source) -> CommitOperationAdd:
        """The same one for the same name again, so that what was uploaded for a commit that lost is not sent twice."""
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
        """One commit on the head ``expect``.

        Args:
            drop: names of objects to delete; those that are not there are passed over.
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
            crashpoints.hit("publish.commit")
            try:
                done = self._repository.commit(self.name, [*operations, *deletions], parent=tip, title=title)
            except NoEntry:
                there = self.sizes()
                drop = [name for name in drop if name in there]  # some were gone already
                if not drop and mine is None:
                    return
            except (Stale, NoRevision):
                moved = self._moved(expect, mine)
                if moved is None:
                    break
                tip = moved
            except StoreUnavailable:
                # A reply was lost, or the Hub answered 5xx for a commit that landed (it does: huggingface/datasets
                # pull request 7708). If the head is ours, it has; if not, it may still.
                if mine is None or not self._is_there(mine):
                    raise
                break
            else:
                if mine is not None:
                    self.seen = Seen(version=mine.version, tip=done, commits=mine.commits)
                elif self.seen is not None:
                    self.seen = replace(self.seen, tip=done, commits=self.seen.commits + 1)
                break
        else:
            raise StoreUnavailable(f"run {self._run!r}: {_TRIES} other commits in a row were faster")
        self.dropped.update(FILES + name for name in drop)
        for one in operations:
            self._sent.pop(one.path_in_repo.removeprefix(FILES), None)

    def _moved(self, expect: Version | None, mine: Stamp | None) -> str | None:
        """The branch is not where the commit expected it: its new tip, if the head is still the same one.

        ``None``: the head is the one that was to be written; an earlier try of the same request has landed.
        """
        seen = self.look()
        version = seen.version if seen is not None else None
        if mine is not None and version == mine.version:
            return None
        if version != expect:
            raise self._conflict(seen, expect)
        return seen.tip if seen is not None else self._headless_tip()

    def _is_there(self, mine: Stamp) -> bool:
        try:
            seen = self.look()
        except StoreError:
            return False
        return seen is not None and seen.version == mine.version

    def squash(self) -> None:
        """Make its history one commit; neither the head nor its version changes."""
        self._repository.squash(self.name, title=f"Run {self._run}")
        if self.seen is not None:
            self.seen = replace(self.seen, commits=0)


def _title(operations: Sequence[Any], drop: Sequence[str]) -> str:
    """For people who look at the history."""
    folder = f"{FILES}checkpoints/"
    names = [one.path_in_repo for one in operations if one.path_in_repo.startswith(folder)]
    if names:
        return f"Checkpoint {names[0].removeprefix(folder).rpartition('-')[0] or names[0]}"
    if any(one.path_in_repo == HEAD for one in operations):
        return "Beat" if len(operations) == 1 else "Head"
    return f"Delete {len(drop)} objects"
