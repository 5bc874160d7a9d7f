"""Commits on the Hub emulator, by the real client: every operation, compare-and-set, and what is refused."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hub_world import HubWorld, Reply, ask, client
from huggingface_hub import CommitOperationAdd as Add
from huggingface_hub import CommitOperationCopy as Copy
from huggingface_hub import CommitOperationDelete as Delete
from huggingface_hub.errors import BadRequestError, EntryNotFoundError, HfHubHTTPError, RevisionNotFoundError


def put(hub: HubWorld, files: dict[str, bytes], **more: Any) -> str:
    more.setdefault("commit_message", "put")
    return str(hub.api.create_commit(hub.repo, [Add(path, data) for path, data in files.items()], **more).oid)


def content(hub: HubWorld, path: str, revision: str = "main") -> bytes:
    reply = ask(hub.url(f"/{hub.repo}/resolve/{revision}/{path}"))
    if reply.status == 302:
        reply = ask(reply.headers["location"], token=None)
    assert reply.status == 200
    return reply.body


def send(hub: HubWorld, *lines: dict[str, Any], branch: str = "main", **query: str) -> Reply:
    """A commit as the wire has it."""
    body = b"\n".join(json.dumps(line).encode() for line in lines)
    return ask(hub.api_url(f"/commit/{branch}", **query), "POST", body=body)


HEADER = {"key": "header", "value": {"summary": "s", "description": ""}}


def file(path: str, data: bytes = b"x") -> dict[str, Any]:
    text = base64.b64encode(data).decode()
    return {"key": "file", "value": {"path": path, "content": text, "encoding": "base64"}}


def test_every_operation_in_one_commit(hub: HubWorld, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"from a path")
    put(
        hub, {"old.txt": b"old", "dir/a.txt": b"a", "dir/b/c.txt": b"c", "lfs.bin": b"lfs" * 100, "reg.txt": b"regular"}
    )
    before = hub.head()
    made = hub.api.create_commit(
        hub.repo,
        [
            Add("new/regular.txt", b"bytes"),
            Add("new/path.txt", str(tmp_path / "f")),
            Add("new/buffer.txt", io.BytesIO(b"buffer")),
            Add("new/large.bin", b"\0large"),
            Delete("old.txt"),
            Delete("dir/", is_folder=True),
            Copy("lfs.bin", "copied.bin"),
            Copy("reg.txt", "copied.txt"),
        ],
        commit_message="all",
        commit_description="and why",
        parent_commit=before,
    )
    assert made.oid == hub.head()
    assert made.commit_url == hub.url(f"/{hub.repo}/commit/{made.oid}")
    assert set(hub.api.list_repo_files(hub.repo)) == {
        *(".gitattributes", "lfs.bin", "reg.txt", "copied.bin", "copied.txt"),
        *("new/regular.txt", "new/path.txt", "new/buffer.txt", "new/large.bin"),
    }
    assert content(hub, "new/path.txt") == b"from a path"
    assert content(hub, "new/buffer.txt") == b"buffer"
    assert content(hub, "new/large.bin") == b"\0large"
    assert content(hub, "copied.bin") == b"lfs" * 100
    assert content(hub, "copied.txt") == b"regular"
    newest, second, _ = hub.api.list_repo_commits(hub.repo)
    assert (newest.commit_id, newest.title, newest.message) == (made.oid, "all", "and why")
    assert second.commit_id == before


def test_copies_between_repositories(hub: HubWorld) -> None:
    put(hub, {"reg.txt": b"regular"})
    other = hub.api.create_repo(f"{hub.repo}-other", private=True).repo_id
    copy = Copy("reg.txt", "here.txt", src_repo_id=hub.repo, src_repo_type="model")
    hub.api.create_commit(other, [copy], commit_message="copy")
    assert hub.api.file_exists(other, "here.txt")


def test_what_did_not_change_makes_no_commit(hub: HubWorld) -> None:
    put(hub, {"a.txt": b"a", "b.bin": b"\0b"})
    before = hub.head()
    assert put(hub, {"a.txt": b"a", "b.bin": b"\0b"}) == before
    assert put(hub, {"a.txt": b"a", "b.bin": b"\0c"}) == hub.head() != before
    last = {
        entry.path: entry.last_commit for entry in hub.api.get_paths_info(hub.repo, ["a.txt", "b.bin"], expand=True)
    }
    assert last["a.txt"] is not None
    assert last["b.bin"] is not None
    assert (last["a.txt"].oid, last["b.bin"].oid) == (before, hub.head())


def test_preupload_lfs_files(hub: HubWorld) -> None:
    addition = Add("big.bin", b"\0" * 1000)
    hub.api.preupload_lfs_files(hub.repo, [addition])
    assert addition._is_uploaded
    assert addition.path_or_fileobj == b""  # freed
    hub.api.create_commit(hub.repo, [addition], commit_message="m")
    assert content(hub, "big.bin") == b"\0" * 1000


def test_upload_file(hub: HubWorld) -> None:
    hub.api.create_branch(hub.repo, branch="run/x")
    made = hub.api.upload_file(path_or_fileobj=b"x", path_in_repo="a/b.txt", repo_id=hub.repo, revision="run/x")
    assert made.oid == hub.head("run/x") != hub.head()


# --- what is LFS, what is ignored


@pytest.mark.parametrize(
    ("path", "data", "mode"),
    [
        ("a.txt", b"text", "regular"),
        ("a.bin", b"text", "lfs"),
        ("deep/in/a.safetensors", b"text", "lfs"),
        ("a.txt", b"bin\0ary", "lfs"),
        ("a.txt", b"not UTF-8: \xe9", "regular"),  # it may be the beginning of a letter
        ("a.txt", b"not UTF-8: \xe9!", "lfs"),
        ("a.txt", "é".encode() * 300, "regular"),
        ("a.txt", b"x" + "é".encode() * 300, "regular"),  # the sample ends within a letter
        ("a.txt", b"x" * 2000, "lfs"),  # above the threshold that this test sets
        ("a.json", b"{}", "regular"),
    ],
)
def test_the_mode_of_an_upload(hub: HubWorld, path: str, data: bytes, mode: str) -> None:
    hub.options.lfs_threshold = 1000
    put(hub, {path: data})
    (info,) = hub.api.get_paths_info(hub.repo, path)
    assert (info.lfs is not None) == (mode == "lfs")  # type: ignore[union-attr]
    assert content(hub, path) == data


def test_attributes_of_the_repository_count(hub: HubWorld) -> None:
    put(hub, {".gitattributes": b"*.dat filter=lfs diff=lfs merge=lfs -text\n"})
    put(hub, {"a.dat": b"1", "a.bin": b"2"})
    modes = {entry.path: entry.lfs is not None for entry in hub.api.get_paths_info(hub.repo, ["a.dat", "a.bin"])}  # type: ignore[union-attr]
    assert modes == {"a.dat": True, "a.bin": False}


def test_ignored_files_are_left_out(hub: HubWorld) -> None:
    put(hub, {".gitignore": b"logs/\n*.tmp\n", "a.tmp": b"1", "logs/x": b"2", "b": b"3"})
    assert set(hub.api.list_repo_files(hub.repo)) == {".gitattributes", ".gitignore", "b"}
    put(hub, {"c.tmp": b"1", "c": b"2"})
    assert "c.tmp" not in hub.api.list_repo_files(hub.repo)


# --- compare and set


def test_a_stale_parent_is_412(hub: HubWorld) -> None:
    old = hub.head()
    put(hub, {"a": b"1"}, parent_commit=old)
    with pytest.raises(HfHubHTTPError, match="The branch was updated since") as error:
        put(hub, {"b": b"1"}, parent_commit=old)
    assert error.value.response.status_code == 412
    assert hub.api.list_repo_files(hub.repo) == [".gitattributes", "a"]
    put(hub, {"c": b"1"})  # without a parent, whatever is there


def test_an_abbreviated_parent_will_do(hub: HubWorld) -> None:
    old = hub.head()
    put(hub, {"a": b"1"}, parent_commit=old[:7])
    parent = {"key": "header", "value": {"summary": "s", "parentCommit": old[:7]}}
    assert send(hub, parent, file("b")).status == 412
    assert (
        send(hub, {"key": "header", "value": {"summary": "s", "parentCommit": hub.head()[:3]}}, file("b")).status == 412
    )


def test_each_branch_has_its_own_head(hub: HubWorld) -> None:
    hub.api.create_branch(hub.repo, branch="run/1")
    main = hub.head()
    put(hub, {"a": b"1"}, revision="run/1", parent_commit=main)
    put(hub, {"a": b"2"}, parent_commit=main)
    assert (content(hub, "a", "run%2F1"), content(hub, "a")) == (b"1", b"2")


def test_six_threads_lose_nothing(hub: HubWorld) -> None:
    """Each reads the head, adds its line on top, and begins again after a 412."""
    hub.api.create_branch(hub.repo, branch="run/x")
    put(hub, {"log.txt": b""}, revision="run/x")
    refused, rounds, threads = [], 5, 6
    start = threading.Barrier(threads)
    deadline = time.monotonic() + 60

    def work(number: int) -> None:
        api = client(hub.server)
        start.wait()
        for turn in range(rounds):
            while time.monotonic() < deadline:
                head = api.repo_info(hub.repo, revision="run/x").sha
                text = content(hub, "log.txt", str(head)) + f"{number}.{turn}\n".encode()
                try:
                    api.create_commit(
                        hub.repo,
                        [Add("log.txt", text)],
                        commit_message=f"{number}.{turn}",
                        revision="run/x",
                        parent_commit=head,
                    )
                    break
                except HfHubHTTPError as error:
                    assert error.response.status_code == 412  # noqa: PT017 (every other error fails the test)
                    refused.append(number)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    lines = content(hub, "log.txt", "run%2Fx").decode().split()
    assert sorted(lines) == sorted(f"{number}.{turn}" for number in range(threads) for turn in range(rounds))
    titles = [commit.title for commit in hub.api.list_repo_commits(hub.repo, revision="run/x")]
    assert titles[:-2] == lines[::-1]
    assert refused  # else nobody raced


# --- what is refused


def test_deleting_what_is_not_there(hub: HubWorld) -> None:
    for path, message in (("gone.txt", "A file with this name"), ("gone/", "A folder with this name")):
        with pytest.raises(EntryNotFoundError, match=message) as error:
            hub.api.create_commit(hub.repo, [Delete(path)], commit_message="m")
        assert "is_folder" in str(error.value) or path == "gone/"


def test_deleting_a_folder_as_a_file(hub: HubWorld) -> None:
    put(hub, {"d/a": b"1", "d/e/b": b"2", "k": b"3"})
    hub.api.create_commit(hub.repo, [Delete("d", is_folder=False)], commit_message="m")
    assert hub.api.list_repo_files(hub.repo) == [".gitattributes", "k"]


def test_a_folder_becomes_a_file_and_back(hub: HubWorld) -> None:
    put(hub, {"p/a": b"1"})
    assert send(hub, HEADER, file("p")).status == 422
    assert send(hub, HEADER, file("p/a/b")).status == 422
    assert send(hub, HEADER, {"key": "deletedFolder", "value": {"path": "p"}}, file("p")).status == 200
    assert send(hub, HEADER, {"key": "deletedFile", "value": {"path": "p"}}, file("p/a")).status == 200
    assert hub.api.list_repo_files(hub.repo) == [".gitattributes", "p/a"]


@pytest.mark.parametrize("path", ["../a", "a/../b", "/a", "a//b", "./a", ".git/config", "..\\ddd", ""])
def test_bad_paths_are_422(hub: HubWorld, path: str) -> None:
    assert send(hub, HEADER, file(path)).status == 422
    body = json.dumps({"files": [{"path": path, "size": 1, "sample": ""}]}).encode()
    assert ask(hub.api_url("/preupload/main"), "POST", body=body).status == 422
    assert hub.api.list_repo_files(hub.repo) == [".gitattributes"]


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [file("a")],
        [{"key": "header", "value": {}}],
        [HEADER, {"key": "move", "value": {"path": "a"}}],
        [HEADER, {"key": "file", "value": {"path": "a", "content": "no base64!", "encoding": "base64"}}],
        [HEADER, {"key": "lfsFile", "value": {"path": "a", "algo": "md5", "oid": "0" * 64}}],
        [HEADER, {"value": {}}],
    ],
)
def test_malformed_commits_are_400(hub: HubWorld, lines: list[dict[str, Any]]) -> None:
    before = hub.head()
    assert send(hub, *lines).status == 400
    assert hub.head() == before


def test_an_lfs_file_must_have_been_uploaded(hub: HubWorld) -> None:
    pointer = {"path": "a.bin", "algo": "sha256", "oid": "0" * 64, "size": 5}
    reply = send(hub, HEADER, file("b"), {"key": "lfsFile", "value": pointer})
    assert reply.status == 400
    assert "LFS pointer pointed to a file that does not exist" in reply.json()["error"]
    assert hub.api.list_repo_files(hub.repo) == [".gitattributes"]  # none of it


def test_another_repositorys_object_is_not_this_ones(hub: HubWorld) -> None:
    put(hub, {"a.bin": b"secret"})
    (info,) = hub.api.get_paths_info(hub.repo, "a.bin")
    other = hub.api.create_repo(f"{hub.repo}-thief").repo_id
    pointer = {"path": "a.bin", "algo": "sha256", "oid": info.lfs.sha256, "size": 6}  # type: ignore[union-attr]
    body = json.dumps(HEADER).encode() + b"\n" + json.dumps({"key": "lfsFile", "value": pointer}).encode()
    assert ask(hub.url(f"/api/models/{other}/commit/main"), "POST", body=body).status == 400


@pytest.mark.parametrize("branch", ["gone", "v1", "0" * 40])
def test_a_commit_needs_a_branch(hub: HubWorld, branch: str) -> None:
    hub.api.create_tag(hub.repo, tag="v1")
    reply = send(hub, HEADER, file("a"), branch=branch)
    assert (reply.status, reply.headers["x-error-code"]) == (404, "RevisionNotFound")
    if branch == "gone":
        with pytest.raises(RevisionNotFoundError):
            put(hub, {"a": b"1"}, revision=branch)


def test_pull_requests_are_refused(hub: HubWorld) -> None:
    with pytest.raises(HfHubHTTPError, match="no pull requests"):
        put(hub, {"a": b"1"}, create_pr=True)


def test_too_many_files_in_one_preupload(hub: HubWorld) -> None:
    files = [{"path": f"f{n}", "size": 1, "sample": ""} for n in range(257)]
    assert ask(hub.api_url("/preupload/main"), "POST", body=json.dumps({"files": files}).encode()).status == 400
    made = put(hub, {f"many/f{n}": b"1" for n in range(300)})  # the client asks in two parts
    assert made == hub.head()


def test_a_card_is_validated(hub: HubWorld) -> None:
    with pytest.raises(ValueError, match=r"Invalid metadata in README\.md"):
        put(hub, {"README.md": b"---\nlicense mit\n---\n"})
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        put(hub, {"README.md": b"# A model"})
    assert content(hub, "README.md") == b"# A model"


def test_a_bad_request_is_the_clients_bad_request(hub: HubWorld) -> None:
    addition = Add("a.bin", b"\0never sent")
    addition._upload_mode, addition._is_uploaded = "lfs", True
    addition._should_ignore, addition._remote_oid = False, None
    with pytest.raises(BadRequestError, match="Bad request for commit endpoint"):
        hub.api.create_commit(hub.repo, [addition], commit_message="m")
