"""One repository on the Hub: every call of the Hub's client that the store makes, and no other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcity_nb.clock import Clock
from qcity_nb.errors import StoreRefused
from qcity_nb.stores.hub.address import HubAddress
from qcity_nb.stores.hub.client import HubClient, NoRevision, Reply

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd

__all__ = ["HubRepository"]


class HubRepository:
    """Raises what ``HubClient.ask`` raises.

    Args:
        address: which repository.
        clock: for waits that the Hub asks for.
    """

    def __init__(self, address: HubAddress, *, clock: Clock | None = None) -> None:
        self.address = address
        self._client = HubClient(address, clock=clock)
        self._at: dict[str, Any] = {"repo_id": address.repo, "repo_type": address.kind}

    @property
    def endpoint(self) -> str:
        """Where the client sends its requests."""
        return str(self._client.api.endpoint).rstrip("/")

    # --- whose it is

    def make(self) -> None:
        """Make it, private; nothing if it is there."""
        self._client.ask(
            "making the repository", lambda: self._client.api.create_repo(**self._at, private=True, exist_ok=True)
        )

    def check_own(self) -> None:
        """There is no such repository: may it be made?

        Raises:
            StoreRefused: not by this user, or it is one of another kind; the message says which.
        """
        api, where, repo = self._client.api, self.address.short, self.address.repo
        if not self._client.has_token():
            raise StoreRefused(f"{where}: without a token nothing is there; run `hf auth login`, or set HF_TOKEN")
        for kind, advice in (
            ("model", f": write hf://{repo}"),
            ("dataset", f": write hf://datasets/{repo}"),
            ("space", ", which cannot be a store"),
        ):
            if kind != self.address.kind and self._is_a(kind):
                raise StoreRefused(f"{where} is a {kind}{advice}")
        me = self._client.ask("asking whose token this is", lambda: api.whoami())
        if self.address.owner not in {str(one["name"]) for one in (me, *me.get("orgs", ()))}:
            raise StoreRefused(
                f"{where}: no such repository, or not for you: the token is {me['name']}'s; "
                f"ask {self.address.owner} to let you in, or name a repository of your own"
            )

    def _is_a(self, kind: str) -> bool:
        return self._client.ask(
            "looking what it is", lambda: self._client.api.repo_exists(self.address.repo, repo_type=kind)
        )

    # --- branches and commits

    def refs(self) -> tuple[dict[str, str], dict[str, str]]:
        """The newest commits of the branches, and of the tags, by name."""
        found = self._client.ask("listing the branches", lambda: self._client.api.list_repo_refs(**self._at))
        branches, tags = ({ref.name: ref.target_commit for ref in kind} for kind in (found.branches, found.tags))
        return branches, tags

    def tip(self, branch: str) -> str:
        """The newest commit of the branch."""
        info = self._client.ask(
            f"reading branch {branch!r}", lambda: self._client.api.repo_info(**self._at, revision=branch)
        )
        if not info.sha:
            raise NoRevision(f"{self.address.short}: branch {branch!r} has no commit")
        return str(info.sha)

    def make_branch(self, branch: str) -> None:
        """From ``main``; nothing if it is there."""
        self._client.ask(
            f"making branch {branch!r}",
            lambda: self._client.api.create_branch(**self._at, branch=branch, exist_ok=True),
        )

    def drop_branch(self, branch: str) -> None:
        """Delete it."""
        self._client.ask(
            f"deleting branch {branch!r}", lambda: self._client.api.delete_branch(**self._at, branch=branch)
        )

    def commit(self, branch: str, operations: Sequence[Any], *, parent: str, title: str) -> str:
        """Commit, if the branch still points to ``parent``; returns the new commit.

        Raises:
            Stale: it does not.
            NoEntry: a file to be deleted is not there.
            StoreUnavailable: unknown whether it landed.
        """
        done = self._client.ask(
            f"committing ({title})",
            lambda: self._client.api.create_commit(
                **self._at, operations=operations, commit_message=title, revision=branch, parent_commit=parent
            ),
            size_bytes=sum(one.upload_info.size for one in operations if hasattr(one, "upload_info")),
        )
        return str(done.oid)

    def squash(self, branch: str, *, title: str) -> None:
        """Make all its commits one. What others commit meanwhile is in it, or comes after it."""
        self._client.ask(
            "squashing the history",
            lambda: self._client.api.super_squash_history(**self._at, branch=branch, commit_message=title),
        )

    # --- files

    def read(self, path: str, revision: str) -> Reply:
        """A file, and the commit that ``revision`` is."""
        return self._client.get(path, revision)

    def infos(self, paths: Sequence[str], revision: str, *, dated: bool = False) -> list[Any]:
        """What is known of those paths that are files there; ``dated``: with their last commits."""
        found = self._client.ask(
            "looking for files",
            lambda: self._client.api.get_paths_info(**self._at, paths=list(paths), expand=dated, revision=revision),
        )
        return [one for one in found if hasattr(one, "size")]

    def tree(self, revision: str, folder: str | None = None, *, recursive: bool = True) -> list[Any]:
        """Files, and folders where it is not ``recursive``."""
        found = self._client.ask(
            "listing files",
            lambda: list(
                self._client.api.list_repo_tree(**self._at, path_in_repo=folder, recursive=recursive, revision=revision)
            ),
        )
        return [one for one in found if not recursive or hasattr(one, "size")]

    def download(self, path: str, revision: str, folder: Path, *, size_bytes: int) -> Path:
        """Into ``folder``, going on where an earlier call for the same content stopped; returns the file."""
        return Path(
            self._client.ask(
                f"fetching {path!r}",
                lambda: self._client.api.hf_hub_download(
                    **self._at, filename=path, revision=revision, local_dir=folder
                ),
                size_bytes=size_bytes,
            )
        )

    def upload(self, branch: str, additions: Sequence[CommitOperationAdd]) -> None:
        """Send the content of large files ahead of their commit."""
        self._client.ask(
            "uploading",
            lambda: self._client.api.preupload_lfs_files(
                **self._at, additions=additions, revision=branch, free_memory=False
            ),
            size_bytes=sum(one.upload_info.size for one in additions),
        )

    # --- room

    def stored(self) -> list[Any]:
        """Large content that the Hub keeps for the repository, named or not."""
        return self._client.ask("listing what is stored", lambda: list(self._client.api.list_lfs_files(**self._at)))

    def unnamed(self, folder: str) -> list[Any]:
        """Large content stored for files below ``folder`` that no branch and no tag has any more."""
        ours = [one for one in self.stored() if str(one.filename).startswith(folder)]
        if not ours:
            return []
        branches, tags = self.refs()
        named = set()
        for commit in {*branches.values(), *tags.values()}:
            for one in self.tree(commit):
                if one.lfs is not None:
                    named.add(one.lfs.sha256)
        return [one for one in ours if one.file_oid not in named]

    def erase(self, stored: Sequence[Any]) -> None:
        """Delete stored content for good. The history keeps its names, and they lead nowhere."""
        self._client.ask(
            "deleting what nothing names",
            lambda: self._client.api.permanently_delete_lfs_files(**self._at, lfs_files=stored, rewrite_history=False),
        )
