"""LFS on the Hub emulator: by the real client, in one piece and in parts, and the protocol's own refusals."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hub_world import HubWorld, Reply, ask
from huggingface_hub import CommitOperationAdd as Add
from huggingface_hub.errors import HfHubHTTPError

from qcity_nb.testing.emulators.hub import objects


def batch(hub: HubWorld, *contents: bytes, operation: str = "upload", transfers: tuple[str, ...] = ()) -> Reply:
    objects = [{"oid": hashlib.sha256(data).hexdigest(), "size": len(data)} for data in contents]
    body = {"operation": operation, "transfers": transfers or ("basic", "multipart"), "objects": objects}
    return ask(hub.url(f"/{hub.repo}.git/info/lfs/objects/batch"), "POST", body=json.dumps(body).encode())


def actions(hub: HubWorld, data: bytes) -> dict[str, Any]:
    (answer,) = batch(hub, data).json()["objects"]
    action_of: dict[str, Any] = answer.get("actions", {})
    return action_of


def stored(hub: HubWorld, data: bytes) -> bool:
    return objects.lfs_path(hub.server.hub.folder, hashlib.sha256(data).hexdigest()).exists()


def incoming(hub: HubWorld) -> list[Path]:
    """What is on its way in; uploads in parts that a test gave up stay until the server starts again."""
    paths = hub.server.hub.folder.glob("incoming/*")
    return [path for path in paths if not path.name.startswith("upload-")]


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 250, 1000])
def test_uploads_of_every_size(hub: HubWorld, tmp_path: Path, size: int) -> None:
    hub.options.part_size = 100
    data = os.urandom(size)
    (tmp_path / "f").write_bytes(data)
    hub.api.upload_file(path_or_fileobj=tmp_path / "f", path_in_repo="f.bin", repo_id=hub.repo)
    file = hub.api.hf_hub_download(hub.repo, "f.bin", cache_dir=tmp_path)
    assert Path(file).read_bytes() == data
    assert not incoming(hub)


def test_many_files_at_once(hub: HubWorld, tmp_path: Path) -> None:
    hub.options.part_size = 100
    data = {f"{number}.bin": os.urandom(40 * number + 1) for number in range(12)}
    hub.api.create_commit(hub.repo, [Add(name, content) for name, content in data.items()], commit_message="m")
    folder = Path(hub.api.snapshot_download(hub.repo, cache_dir=tmp_path))
    assert {name: (folder / name).read_bytes() for name in data} == data


def test_what_is_stored_is_not_sent_again(hub: HubWorld) -> None:
    data = os.urandom(100)
    assert "upload" in actions(hub, data)
    hub.api.upload_file(path_or_fileobj=data, path_in_repo="a.bin", repo_id=hub.repo)
    assert actions(hub, data) == {}
    begun: list[str] = []
    hub.faults.on("upload.begin", lambda name, kind: begun.append(kind))
    hub.api.upload_file(path_or_fileobj=data, path_in_repo="b.bin", repo_id=hub.repo)
    assert begun == ["commit"]


def test_one_piece_or_parts(hub: HubWorld) -> None:
    hub.options.part_size = 100
    small, large = b"s" * 100, b"l" * 250
    assert batch(hub, small).json()["transfer"] == "basic"
    answer = batch(hub, small, large).json()
    assert answer["transfer"] == "multipart"
    first, second = (item["actions"]["upload"] for item in answer["objects"])
    assert "header" not in first
    assert second["header"]["chunk_size"] == "100"
    assert [key for key in second["header"] if key != "chunk_size"] == ["00001", "00002", "00003"]
    assert batch(hub, large, transfers=("basic",)).json()["transfer"] == "basic"


def test_downloads_are_told_where(hub: HubWorld) -> None:
    data = os.urandom(50)
    hub.api.upload_file(path_or_fileobj=data, path_in_repo="a.bin", repo_id=hub.repo)
    known, unknown = batch(hub, data, b"never", operation="download").json()["objects"]
    assert ask(known["actions"]["download"]["href"], token=None).body == data
    assert unknown["error"]["code"] == 404


@pytest.mark.parametrize(
    "body", [b"{}", b"[]", b'{"objects": [{"oid": "x", "size": 1}]}', b'{"objects": [{"size": -1}]}']
)
def test_a_malformed_batch(hub: HubWorld, body: bytes) -> None:
    assert ask(hub.url(f"/{hub.repo}.git/info/lfs/objects/batch"), "POST", body=body).status in (400, 422)


# --- content that is not what was promised


@pytest.mark.parametrize("size", [28, 7, 55])
def test_wrong_content_is_refused(hub: HubWorld, size: int) -> None:
    promised, sent = os.urandom(28), os.urandom(size)
    href = actions(hub, promised)["upload"]["href"]
    reply = ask(href, "PUT", body=sent, token=None)
    assert (reply.status, reply.headers["x-error-message"][:9]) == (400, "BadDigest")
    assert not stored(hub, promised)
    assert not stored(hub, sent)
    assert not incoming(hub)
    assert ask(href, "PUT", body=promised, token=None).status == 200
    assert stored(hub, promised)


def test_an_upload_address_is_signed(hub: HubWorld) -> None:
    data = b"content"
    href = actions(hub, data)["upload"]["href"]
    assert ask(href.replace("size=7", "size=8"), "PUT", body=data, token=None).status == 403
    assert ask(href.partition("?")[0], "PUT", body=data, token=None).status == 403


class Parts:
    """An upload in parts, made by hand."""

    def __init__(self, hub: HubWorld, data: bytes, size: int) -> None:
        hub.options.part_size = size
        self.data, self.size = data, size
        self.upload = actions(hub, data)["upload"]
        self.oid = hashlib.sha256(data).hexdigest()

    def put(self, number: int, data: bytes | None = None) -> Reply:
        content = self.data[(number - 1) * self.size : number * self.size] if data is None else data
        return ask(self.upload["header"][f"{number:05}"], "PUT", body=content, token=None)

    def complete(self, *etags: str, oid: str = "") -> Reply:
        parts = [{"partNumber": number, "etag": etag} for number, etag in enumerate(etags, 1)]
        body = json.dumps({"oid": oid or self.oid, "parts": parts}).encode()
        return ask(self.upload["href"], "POST", body=body, token=None)


def test_parts_must_all_be_there(hub: HubWorld) -> None:
    parts = Parts(hub, os.urandom(250), 100)
    first, third = parts.put(1).headers["etag"], parts.put(3).headers["etag"]
    assert parts.complete(first, third).status == 400
    assert parts.complete(first, first, third).status == 400
    second = parts.put(2).headers["etag"]
    assert parts.complete(first, third, second).status == 400
    assert parts.complete(first, second, third, oid="0" * 64).status == 400
    assert not stored(hub, parts.data)
    assert parts.complete(first, second, third).status == 200
    assert stored(hub, parts.data)
    assert parts.complete(first, second, third).status == 200  # the reply was lost, the client asks again


@pytest.mark.parametrize("content", [b"x" * 99, b"x" * 101])
def test_a_part_has_its_size(hub: HubWorld, content: bytes) -> None:
    parts = Parts(hub, os.urandom(250), 100)
    assert parts.put(1, content).status == 400
    assert parts.put(3, content).status == 400


def test_a_part_may_be_sent_again(hub: HubWorld) -> None:
    parts = Parts(hub, os.urandom(250), 100)
    parts.put(1, b"x" * 100)
    etags = [parts.put(number).headers["etag"] for number in (1, 2, 3)]
    assert parts.complete(*etags).status == 200
    assert stored(hub, parts.data)


def test_parts_that_are_not_the_object(hub: HubWorld) -> None:
    parts = Parts(hub, os.urandom(250), 100)
    etags = [parts.put(1).headers["etag"], parts.put(2, b"y" * 100).headers["etag"], parts.put(3).headers["etag"]]
    reply = parts.complete(*etags)
    assert (reply.status, "sha256" in reply.headers["x-error-message"]) == (400, True)
    assert not stored(hub, parts.data)


def test_verify(hub: HubWorld) -> None:
    data = os.urandom(10)
    todo = actions(hub, data)
    body = json.dumps({"oid": hashlib.sha256(data).hexdigest(), "size": 10}).encode()
    assert ask(todo["verify"]["href"], "POST", body=body).status == 404
    ask(todo["upload"]["href"], "PUT", body=data, token=None)
    assert ask(todo["verify"]["href"], "POST", body=body).status == 200


# --- storage


def test_a_namespace_is_full(hub: HubWorld) -> None:
    from qcity_nb.testing.emulators.hub import usage

    with hub.server.hub.db.read() as db:
        used = usage.used_bytes(db, namespace="user")
    hub.options.storage_limit = used + 100
    hub.api.upload_file(path_or_fileobj=b"\0" * 60, path_in_repo="a.bin", repo_id=hub.repo)
    with pytest.raises(HfHubHTTPError, match="storage limit reached") as error:
        hub.api.upload_file(path_or_fileobj=b"\1" * 60, path_in_repo="b.bin", repo_id=hub.repo)
    assert error.value.response.status_code == 403
    assert hub.api.list_repo_files(hub.repo) == [".gitattributes", "a.bin"]
    hub.api.upload_file(path_or_fileobj=b"\0" * 60, path_in_repo="same.bin", repo_id=hub.repo)  # takes no more
    hub.options.storage_limit = None
    hub.api.upload_file(path_or_fileobj=b"\1" * 60, path_in_repo="b.bin", repo_id=hub.repo)


def test_a_deleted_repository_gives_its_storage_back(hub: HubWorld) -> None:
    repo = hub.api.create_repo(f"{hub.repo}-short").repo_id
    data = os.urandom(100)
    hub.api.upload_file(path_or_fileobj=data, path_in_repo="a.bin", repo_id=repo)
    assert stored(hub, data)
    hub.api.delete_repo(repo)
    assert not stored(hub, data)


def test_contents_are_shared_and_stay_while_one_repository_has_them(hub: HubWorld) -> None:
    repo = hub.api.create_repo(f"{hub.repo}-twin").repo_id
    data = os.urandom(100)
    for name in (repo, hub.repo):
        hub.api.upload_file(path_or_fileobj=data, path_in_repo="a.bin", repo_id=name)
    hub.api.delete_repo(repo)
    assert stored(hub, data)
