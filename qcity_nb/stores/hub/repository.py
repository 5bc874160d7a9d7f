"""One repository on the Hub: all calls of the Hub's client that the store makes."""

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

    # --- the repository

    def make(self) -> None:
        """Make it, as a private repository; does nothing if it exists."""
        self._client.ask(
            "making the repository", lambda: self._client.api.create_repo(**self._at, private=True, exist_ok=True)
        )

    def check_own(self) -> None:
        """Check that a repository that does not exist may be made.

        Raises:
            StoreRefused: not by this user, or it exists and is of another kind; the message says which.
        """
        api, where, repo = self._client.api, self.address.short, self.address.repo
        if not self._client.has_token():
            raise StoreRefused(f"{where}: not visible without a token; run `hf auth login`, or set HF_TOKEN")
        for kind, advice in (
            ("model", f": write hf://{repo}"),
            ("dataset", f": write hf://datasets/{repo}"),
            ("space", ", which cannot be a store"),
        ):
            if kind != self.address.kind and self._is_a(kind):
                raise StoreRefused(f"{where} is a {kind}{advice}")
        me = self._client.ask("asking whose token this is", lambda: api.whoami())
        if self.address.owner not in {str(owner["name"]) for owner in (me, *me.get("orgs", ()))}:
            raise StoreRefused(
                f"{where}: no such repository, or none that {me['name']}, whose token this is, may see; "
                f"ask {self.address.owner} for access, or use a repository of your own"
            )

    def _is_a(self, kind: str) -> bool:
        return self._client.ask(
            "asking for its kind", lambda: self._client.api.repo_exists(self.address.repo, repo_type=kind)
        )

    # --- branches and commits

    def refs(self) -> tuple[dict[str, str], dict[str, str]]:
        """The newest commits of the branches, and of the tags, by name."""
        refs = self._client.ask("listing the branches", lambda: self._client.api.list_repo_refs(**self._at))
        branches, tags = ({ref.name: ref.target_commit for ref in kind} for kind in (refs.branches, refs.tags))
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
        """Make the branch from ``main``; does nothing if it exists."""
        self._client.ask(
            f"making branch {branch!r}",
            lambda: self._client.api.create_branch(**self._at, branch=branch, exist_ok=True),
        )

    def drop_branch(self, branch: str) -> None:
        """Delete the branch."""
        self._client.ask(
            f"deleting branch {branch!r}", lambda: self._client.api.delete_branch(**self._at, branch=branch)
        )

    def commit(self, branch: str, operations: Sequence[Any], *, parent: str, title: str) -> str:
        """Commit, if the branch still points to ``parent``.

        Returns: the new commit.
        Raises:
            Stale: it does not.
            NoEntry: a file to be deleted does not exist.
            StoreUnavailable: it is unknown whether the commit was made.
        """
        done = self._client.ask(
            f"committing ({title})",
            lambda: self._client.api.create_commit(
                **self._at, operations=operations, commit_message=title, revision=branch, parent_commit=parent
            ),
            size_bytes=sum(each.upload_info.size for each in operations if hasattr(each, "upload_info")),
        )
        return str(done.oid)

    def squash(self, branch: str, *, title: str) -> None:
        """Replace the branch's history by one commit. What others commit meanwhile is in it, or follows it."""
        self._client.ask(
            "squashing the history",
            lambda: self._client.api.super_squash_history(**self._at, branch=branch, commit_message=title),
        )

    # --- files

    def read(self, path: str, revision: str) -> Reply:
        """A file's content, and the commit to which ``revision`` points."""
        return self._client.get(path, revision)

    def infos(self, paths: Sequence[str], revision: str, *, dated: bool = False) -> list[Any]:
        """Information on those paths that are files there.

        Args:
            dated: with the last commit of each.
        """
        infos = self._client.ask(
            "looking for files",
            lambda: self._client.api.get_paths_info(**self._at, paths=list(paths), expand=dated, revision=revision),
        )
        return [info for info in infos if hasattr(info, "size")]

    def tree(self, revision: str, folder: str | None = None, *, recursive: bool = True) -> list[Any]:
        """The files there; also the folders if not ``recursive``."""
        entries = self._client.ask(
            "listing files",
            lambda: list(
                self._client.api.list_repo_tree(**self._at, path_in_repo=folder, recursive=recursive, revision=revision)
            ),
        )
        return [entry for entry in entries if not recursive or hasattr(entry, "size")]

    def download(self, path: str, revision: str, folder: Path, *, size_bytes: int) -> Path:
        """Download into ``folder``, resuming where an earlier call for the same content stopped; returns the file."""
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
        """Send the content of large files before their commit."""
        self._client.ask(
            "uploading",
            lambda: self._client.api.preupload_lfs_files(
                **self._at, additions=additions, revision=branch, free_memory=False
            ),
            size_bytes=sum(addition.upload_info.size for addition in additions),
        )

    # --- storage

    def list_stored(self) -> list[Any]:
        """Large content that the Hub keeps for the repository, whether a commit names it or not."""
        return self._client.ask("listing stored content", lambda: list(self._client.api.list_lfs_files(**self._at)))

    def list_unnamed(self, folder: str) -> list[Any]:
        """Large content stored for files below ``folder`` that no branch and no tag has any more."""
        contents = [content for content in self.list_stored() if str(content.filename).startswith(folder)]
        if not contents:
            return []
        branches, tags = self.refs()
        named = set()
        for commit in {*branches.values(), *tags.values()}:
            for entry in self.tree(commit):
                if entry.lfs is not None:
                    named.add(entry.lfs.sha256)
        return [content for content in contents if content.file_oid not in named]

    def erase(self, stored: Sequence[Any]) -> None:
        """Delete stored content permanently. The history still has its names, but they lead nowhere."""
        self._client.ask(
            "deleting unused content",
            lambda: self._client.api.permanently_delete_lfs_files(**self._at, lfs_files=stored, rewrite_history=False),
        )
