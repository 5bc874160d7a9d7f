"""Files on the Hub emulator: listed, described, downloaded by the real client, and the headers that it builds on."""

from __future__ import annotations

import hashlib
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hub_world import HubWorld, ask
from huggingface_hub import CommitOperationAdd as Add
from huggingface_hub import get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, RemoteEntryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile, RepoFolder

from qcity_nb.testing.emulators.hub import git

LARGE = bytes(range(256)) * 40


def put(hub: HubWorld, files: dict[str, bytes], **more: Any) -> str:
    more.setdefault("commit_message", "put")
    return str(hub.api.create_commit(hub.repo, [Add(path, data) for path, data in files.items()], **more).oid)


@pytest.fixture
def full(hub: HubWorld) -> HubWorld:
    """The repository with a few files, on a branch with a slash in its name too."""
    put(hub, {"a.txt": b"first", "d/b.txt": b"b", "d/e/c.bin": LARGE}, commit_message="one")
    put(hub, {"a.txt": b"second", "d/f.txt": b"f"}, commit_message="two")
    hub.api.create_branch(hub.repo, branch="run/x")
    return hub


# --- listing


def test_a_tree(full: HubWorld) -> None:
    entries = {entry.path: entry for entry in full.api.list_repo_tree(full.repo)}
    assert set(entries) == {".gitattributes", "a.txt", "d"}
    assert isinstance(entries["d"], RepoFolder)
    assert isinstance(entries["a.txt"], RepoFile)
    assert (entries["a.txt"].size, entries["a.txt"].blob_id) == (6, git.blob_oid(b"second"))
    below = {entry.path for entry in full.api.list_repo_tree(full.repo, "d")}
    assert below == {"d/b.txt", "d/e", "d/f.txt"}


@pytest.mark.parametrize("revision", ["main", "run/x", "refs/heads/run/x"])
def test_a_whole_tree(full: HubWorld, revision: str) -> None:
    entries = {entry.path: entry for entry in full.api.list_repo_tree(full.repo, recursive=True, revision=revision)}
    assert set(entries) == {".gitattributes", "a.txt", "d", "d/b.txt", "d/e", "d/e/c.bin", "d/f.txt"}
    large = entries["d/e/c.bin"]
    assert isinstance(large, RepoFile)
    assert large.lfs is not None
    assert (large.lfs.sha256, large.lfs.size) == (hashlib.sha256(LARGE).hexdigest(), len(LARGE))
    pointer = git.pointer(large.lfs.sha256, len(LARGE))
    assert (large.blob_id, large.lfs.pointer_size) == (git.blob_oid(pointer), len(pointer))


def test_an_expanded_tree(full: HubWorld) -> None:
    last_commits = {
        entry.path: entry.last_commit for entry in full.api.list_repo_tree(full.repo, recursive=True, expand=True)
    }
    titles = {path: last.title for path, last in last_commits.items() if last is not None}
    assert titles == {
        ".gitattributes": "initial commit",
        **dict.fromkeys(["a.txt", "d", "d/f.txt"], "two"),
        **dict.fromkeys(["d/b.txt", "d/e", "d/e/c.bin"], "one"),
    }


def test_trees_come_in_pages(hub: HubWorld) -> None:
    hub.options.tree_page, hub.options.expanded_page = 4, 2
    put(hub, {f"f{number}": b"x" for number in range(9)})
    names = {".gitattributes", *(f"f{number}" for number in range(9))}
    for expand, pages in ((False, 3), (True, 5)):
        assert {entry.path for entry in hub.api.list_repo_tree(hub.repo, expand=expand)} == names
        seen, url = 0, hub.api_url("/tree/main", expand=str(expand).lower())
        while url:
            reply = ask(url)
            seen += 1
            url = reply.headers.get("link", "").partition(">")[0].removeprefix("<")
        assert seen == pages
    assert ask(hub.api_url("/tree/main", cursor="x")).status == 400


def test_the_default_pages_are_the_hubs() -> None:
    from qcity_nb.testing.emulators.hub.emulator import Options

    assert (Options().tree_page, Options().expanded_page, Options().lfs_threshold) == (1000, 50, 10_000_000)


def test_a_tree_that_is_not_there(full: HubWorld) -> None:
    for path in ("gone", "a.txt"):
        with pytest.raises(EntryNotFoundError):
            list(full.api.list_repo_tree(full.repo, path))
    with pytest.raises(RevisionNotFoundError):
        list(full.api.list_repo_tree(full.repo, revision="gone"))


def test_paths_info(full: HubWorld) -> None:
    entries = full.api.get_paths_info(full.repo, ["a.txt", "d", "gone", "d/e/c.bin"], expand=True, revision="run/x")
    assert [(entry.path, entry.last_commit.title if entry.last_commit else None) for entry in entries] == [
        ("a.txt", "two"),
        ("d", "two"),
        ("d/e/c.bin", "one"),
    ]
    assert full.api.get_paths_info(full.repo, "a.txt")[0].last_commit is None
    with pytest.raises(RevisionNotFoundError):
        full.api.get_paths_info(full.repo, "a.txt", revision="gone")


def test_file_exists(full: HubWorld) -> None:
    assert full.api.file_exists(full.repo, "d/e/c.bin", revision="run/x")
    assert not full.api.file_exists(full.repo, "d/e")
    assert not full.api.file_exists(full.repo, "a.txt", revision="gone")
    assert not full.api.file_exists(f"{full.repo}-gone", "a.txt")


# --- downloads by the client


@pytest.mark.parametrize("path", ["a.txt", "d/e/c.bin"])
def test_download(full: HubWorld, tmp_path: Path, path: str) -> None:
    file = full.api.hf_hub_download(full.repo, path, revision="run/x", cache_dir=tmp_path)
    assert Path(file).read_bytes() == (LARGE if path.endswith("bin") else b"second")
    assert full.head("run/x") in str(file)
    again = full.api.hf_hub_download(full.repo, path, revision="run/x", cache_dir=tmp_path)
    assert again == file


def test_download_of_an_older_commit(full: HubWorld, tmp_path: Path) -> None:
    older = full.api.list_repo_commits(full.repo)[1].commit_id
    file = full.api.hf_hub_download(full.repo, "a.txt", revision=older, cache_dir=tmp_path)
    assert Path(file).read_bytes() == b"first"


def test_download_of_what_is_not_there(full: HubWorld, tmp_path: Path) -> None:
    with pytest.raises(RemoteEntryNotFoundError) as error:
        full.api.hf_hub_download(full.repo, "gone.txt", cache_dir=tmp_path)
    assert error.value.response.headers["x-repo-commit"] == full.head()
    assert list(tmp_path.glob("*/.no_exist/*/gone.txt"))  # remembered under that commit


def test_odd_names(hub: HubWorld, tmp_path: Path) -> None:
    names = ["sp ace/pl+us.txt", "per%cent.txt", "ünïcode/文.txt", "q?.txt", "h#.txt", 'quo"te.txt', "a&b=c.bin"]
    put(hub, {name: name.encode() for name in names})
    assert set(hub.api.list_repo_files(hub.repo)) == {".gitattributes", *names}
    for name in names:
        file = hub.api.hf_hub_download(hub.repo, name, cache_dir=tmp_path)
        assert Path(file).read_bytes() == name.encode()


def test_snapshot(full: HubWorld, tmp_path: Path) -> None:
    folder = Path(full.api.snapshot_download(full.repo, revision="run/x", cache_dir=tmp_path / "cache"))
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert files == {".gitattributes", "a.txt", "d/b.txt", "d/e/c.bin", "d/f.txt"}
    assert (folder / "d/e/c.bin").read_bytes() == LARGE
    here = full.api.snapshot_download(full.repo, local_dir=tmp_path / "here", allow_patterns="d/*")
    assert sorted(file.name for file in Path(here, "d").glob("*.txt")) == ["b.txt", "f.txt"]
    assert not Path(here, "a.txt").exists()


def test_metadata(full: HubWorld) -> None:
    for path, size, etag in (
        ("a.txt", 6, git.blob_oid(b"second")),
        ("d/e/c.bin", len(LARGE), hashlib.sha256(LARGE).hexdigest()),
    ):
        url = hf_hub_url(full.repo, path, endpoint=full.server.url, revision="run/x")
        metadata = get_hf_file_metadata(url, token="any", endpoint=full.server.url)
        assert (metadata.commit_hash, metadata.etag, metadata.size) == (full.head("run/x"), etag, size)
        assert metadata.location.startswith(full.server.url if path == "a.txt" else full.server.hub.storage_url)


# --- on the wire


def resolve(hub: HubWorld, path: str, revision: str = "main") -> str:
    return hub.url(f"/{hub.repo}/resolve/{revision}/{quote(path)}")


def test_headers_of_a_file_that_git_holds(full: HubWorld) -> None:
    for method in ("GET", "HEAD"):
        reply = ask(resolve(full, "a.txt", "run%2Fx"), method)
        assert reply.status == 200
        assert reply.body == (b"second" if method == "GET" else b"")
        assert reply.headers["x-repo-commit"] == full.head()
        assert reply.headers["etag"] == f'"{git.blob_oid(b"second")}"'
        assert reply.headers["content-length"] == "6"
        assert reply.headers["accept-ranges"] == "bytes"
        assert reply.headers["content-disposition"] == "inline; filename*=UTF-8''a.txt; filename=\"a.txt\";"
        assert reply.headers["x-qcity-emulator"] == "1"
        assert parsedate_to_datetime(reply.headers["date"]).tzinfo is not None


def test_headers_of_an_lfs_file(full: HubWorld) -> None:
    digest = hashlib.sha256(LARGE).hexdigest()
    for method in ("GET", "HEAD"):
        reply = ask(resolve(full, "d/e/c.bin"), method)
        assert reply.status == 302
        assert reply.headers["x-linked-etag"] == reply.headers["etag"] == f'"{digest}"'
        assert reply.headers["x-linked-size"] == str(len(LARGE))
        assert reply.headers["x-repo-commit"] == full.head()
    stored = ask(reply.headers["location"], token=None)
    assert (stored.status, stored.body) == (200, LARGE)
    raw = ask(full.url(f"/{full.repo}/raw/main/d/e/c.bin"))
    assert raw.body == git.pointer(digest, len(LARGE))


def test_an_address_of_the_storage_is_signed(full: HubWorld) -> None:
    location = ask(resolve(full, "d/e/c.bin")).headers["location"]
    assert ask(location[:-1] + ("0" if location[-1] != "0" else "1"), token=None).status == 403
    assert ask(location.partition("?")[0], token=None).status == 403


RANGES = [
    ("bytes=0-9", 206, slice(0, 10)),
    ("bytes=100-", 206, slice(100, None)),
    ("bytes=-7", 206, slice(-7, None)),
    ("bytes=10-999999", 206, slice(10, None)),
    ("bytes=-999999", 206, slice(0, None)),
    ("bytes=999999-", 416, slice(0, 0)),
    ("bytes=9-3", 416, slice(0, 0)),
    ("bytes=-", 200, slice(0, None)),
    ("lines=1-2", 200, slice(0, None)),
    ("bytes=0-1,4-5", 200, slice(0, None)),
]


@pytest.mark.parametrize(("header", "status", "part"), RANGES)
@pytest.mark.parametrize("is_large", [False, True])
def test_ranges(hub: HubWorld, header: str, status: int, part: slice, is_large: bool) -> None:
    data = b"".join(b"%05d " % number for number in range(425))
    hub.options.lfs_threshold = 100 if is_large else 10_000
    put(hub, {"f.txt": data})
    url = resolve(hub, "f.txt")
    if is_large:
        url = ask(url).headers["location"]
    reply = ask(url, Range=header)
    assert reply.status == status
    if status == 416:
        assert reply.headers["content-range"] == f"bytes */{len(data)}"
        return
    assert reply.body == data[part]
    if status == 206:
        start = range(len(data))[part].start
        assert reply.headers["content-range"] == f"bytes {start}-{start + len(reply.body) - 1}/{len(data)}"
    etag = reply.headers["etag"]
    assert ask(url, Range=header, If_Range=etag).body == data[part]
    assert ask(url, Range=header, If_Range='"other"').body == data
    assert ask(url, If_None_Match=etag).status == 304


def test_errors_are_told_as_the_hub_tells_them(full: HubWorld) -> None:
    for url, status, code in (
        (resolve(full, "gone"), 404, "EntryNotFound"),
        (resolve(full, "d"), 404, "EntryNotFound"),
        (resolve(full, "a.txt", "gone"), 404, "RevisionNotFound"),
        (full.url("/user/gone/resolve/main/a.txt"), 404, "RepoNotFound"),
    ):
        for method in ("GET", "HEAD"):
            reply = ask(url, method)
            assert (reply.status, reply.headers["x-error-code"]) == (status, code)
            assert reply.headers["x-error-message"]
        assert ask(url).json()["error"] == reply.headers["x-error-message"]
    assert ask(resolve(full, "a.txt"), token=None).status == 401
    assert ask(resolve(full, "a.txt"), token=None).headers["x-error-code"] == "RepoNotFound"


def test_datasets_have_their_own_addresses(hub: HubWorld, tmp_path: Path) -> None:
    repo = hub.api.create_repo(hub.repo, repo_type="dataset").repo_id
    hub.api.upload_file(path_or_fileobj=LARGE, path_in_repo="x.jpg", repo_id=repo, repo_type="dataset")
    file = hub.api.hf_hub_download(repo, "x.jpg", repo_type="dataset", cache_dir=tmp_path)
    assert Path(file).read_bytes() == LARGE
    assert ask(hub.url(f"/datasets/{repo}/resolve/main/x.jpg")).status == 302  # media are LFS in a dataset
    assert not hub.api.file_exists(repo, "x.jpg")
