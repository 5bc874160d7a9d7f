"""Branches, tags, commits, squashing and the deletion of LFS files on the Hub emulator, by the real client."""

from __future__ import annotations

from typing import Any

import pytest
from hub_world import HubWorld, ask
from huggingface_hub import CommitOperationAdd as Add
from huggingface_hub.errors import BadRequestError, EntryNotFoundError, HfHubHTTPError, RevisionNotFoundError


def put(hub: HubWorld, files: dict[str, bytes], **more: Any) -> str:
    more.setdefault("commit_message", "put")
    return str(hub.api.create_commit(hub.repo, [Add(path, data) for path, data in files.items()], **more).oid)


def heads(hub: HubWorld) -> dict[str, str]:
    return {branch.name: branch.target_commit for branch in hub.api.list_repo_refs(hub.repo).branches}


def test_branches_begin_where_they_are_told(hub: HubWorld) -> None:
    first = hub.head()
    second = put(hub, {"a": b"1"})
    hub.api.create_branch(hub.repo, branch="new")
    hub.api.create_branch(hub.repo, branch="run/old", revision=first)
    hub.api.create_branch(hub.repo, branch="from-branch", revision="run/old")
    hub.api.create_branch(hub.repo, branch="short", revision=first[:8])
    assert heads(hub) == {"main": second, "new": second, "run/old": first, "from-branch": first, "short": first}
    refs = hub.api.list_repo_refs(hub.repo, include_pull_requests=True)
    assert {branch.ref for branch in refs.branches} >= {"refs/heads/main", "refs/heads/run/old"}
    assert refs.pull_requests == []


def test_a_branch_that_is_there_is_409(hub: HubWorld) -> None:
    for branch in ("run/x", "main"):
        hub.api.create_branch(hub.repo, branch=branch, exist_ok=True)
        with pytest.raises(HfHubHTTPError, match=f"Reference refs/heads/{branch} already exists") as error:
            hub.api.create_branch(hub.repo, branch=branch)
        assert error.value.response.status_code == 409


def test_a_branch_may_have_a_tags_name(hub: HubWorld) -> None:
    hub.api.create_tag(hub.repo, tag="both")
    put(hub, {"a": b"1"})
    hub.api.create_branch(hub.repo, branch="both")
    assert heads(hub)["both"] == hub.head()


@pytest.mark.parametrize("branch", ["refs/pr/5", "refs/heads/x", "a b", "a..b", "a.lock", "-a", "0" * 40])
def test_bad_names_of_branches(hub: HubWorld, branch: str) -> None:
    with pytest.raises(BadRequestError, match="Invalid reference for a branch"):
        hub.api.create_branch(hub.repo, branch=branch)


def test_a_branch_from_nowhere(hub: HubWorld) -> None:
    with pytest.raises(RevisionNotFoundError):
        hub.api.create_branch(hub.repo, branch="b", revision="gone")


def test_deleting_branches(hub: HubWorld) -> None:
    hub.api.create_branch(hub.repo, branch="run/x")
    hub.api.delete_branch(hub.repo, branch="run/x")
    assert set(heads(hub)) == {"main"}
    with pytest.raises(HfHubHTTPError, match="Invalid rev id"):
        hub.api.delete_branch(hub.repo, branch="run/x")
    with pytest.raises(HfHubHTTPError, match="Cannot delete refs/heads/main") as error:
        hub.api.delete_branch(hub.repo, branch="main")
    assert error.value.response.status_code == 403


def test_tags(hub: HubWorld) -> None:
    first = hub.head()
    put(hub, {"a": b"1"})
    hub.api.create_tag(hub.repo, tag="v0", revision=first[:7], tag_message="the first")
    assert hub.api.model_info(hub.repo, revision="v0").sha == first
    assert [(each.name, each.target_commit) for each in hub.api.list_repo_refs(hub.repo).tags] == [("v0", first)]
    with pytest.raises(HfHubHTTPError) as error:
        hub.api.create_tag(hub.repo, tag="v0")
    assert error.value.response.status_code == 409
    hub.api.create_tag(hub.repo, tag="v0", exist_ok=True)
    with pytest.raises(BadRequestError):
        hub.api.create_tag(hub.repo, tag="not a tag")
    with pytest.raises(RevisionNotFoundError):
        hub.api.create_tag(hub.repo, tag="v1", revision="gone")
    hub.api.delete_tag(hub.repo, tag="v0")
    for tag in ("v0", "main"):
        with pytest.raises(RevisionNotFoundError):
            hub.api.delete_tag(hub.repo, tag=tag)


def test_commits_come_in_pages_of_fifty(hub: HubWorld) -> None:
    for number in range(60):
        put(hub, {"a": str(number).encode()}, commit_message=f"c{number}")
    commits = hub.api.list_repo_commits(hub.repo, formatted=True)
    assert [commit.title for commit in commits] == [*(f"c{number}" for number in reversed(range(60))), "initial commit"]
    assert (commits[0].formatted_title, commits[0].authors) == ("c59", ["user"])
    assert len(ask(hub.api_url("/commits/main")).json()) == 50
    assert 'rel="next"' in ask(hub.api_url("/commits/main")).headers["link"]
    part = hub.api.list_repo_commits(hub.repo, revision=commits[58].commit_id)
    assert [commit.title for commit in part] == ["c1", "c0", "initial commit"]


# --- squash


def test_squash(hub: HubWorld) -> None:
    put(hub, {"a.txt": b"1", "b.bin": b"\0b"})
    hub.api.create_branch(hub.repo, branch="run/x")
    old = put(hub, {"a.txt": b"2"}, revision="run/x")
    hub.api.super_squash_history(hub.repo, branch="run/x", commit_message="all of it")
    (commit,) = hub.api.list_repo_commits(hub.repo, revision="run/x")
    assert (commit.title, commit.commit_id) == ("all of it", hub.head("run/x"))
    assert set(hub.api.list_repo_files(hub.repo, revision="run/x")) == {".gitattributes", "a.txt", "b.bin"}
    assert len(hub.api.list_repo_commits(hub.repo)) == 2
    with pytest.raises(RevisionNotFoundError):
        hub.api.model_info(hub.repo, revision=old)  # forgotten, as after a force-push
    with pytest.raises(HfHubHTTPError, match="412"):
        put(hub, {"c": b"1"}, revision="run/x", parent_commit=old)
    put(hub, {"c": b"1"}, revision="run/x", parent_commit=commit.commit_id)
    hub.api.super_squash_history(hub.repo)
    (commit,) = hub.api.list_repo_commits(hub.repo)
    assert commit.title == "Super-squash branch 'main' using huggingface_hub"


def test_forgotten_commits_can_be_kept_for_a_while(hub: HubWorld) -> None:
    hub.options.forget_commits_s = 1000.0
    old = put(hub, {"a": b"1"})
    put(hub, {"a": b"2"})
    hub.api.super_squash_history(hub.repo)
    assert hub.api.model_info(hub.repo, revision=old).sha == old


def test_squashing_what_is_no_branch(hub: HubWorld) -> None:
    hub.api.create_tag(hub.repo, tag="v0")
    with pytest.raises(BadRequestError, match="Invalid reference for a branch"):
        hub.api.super_squash_history(hub.repo, branch="v0")
    with pytest.raises(RevisionNotFoundError):
        hub.api.super_squash_history(hub.repo, branch="gone")


# --- LFS files


def test_list_and_delete_lfs_files(hub: HubWorld) -> None:
    put(hub, {"one.bin": b"1" * 10, "t.txt": b"text", "two.bin": b"2" * 20})
    hub.api.create_branch(hub.repo, branch="run/x")
    put(hub, {"branch.bin": b"3" * 30}, revision="run/x")
    files = {file.filename: file for file in hub.api.list_lfs_files(hub.repo)}
    assert {name: file.size for name, file in files.items()} == {"one.bin": 10, "two.bin": 20, "branch.bin": 30}
    assert {name: file.ref for name, file in files.items()} == {
        "one.bin": "refs/heads/main",
        "two.bin": "refs/heads/main",
        "branch.bin": "refs/heads/run/x",
    }
    assert hub.api.model_info(hub.repo).used_storage == 60
    before = heads(hub)
    hub.api.permanently_delete_lfs_files(hub.repo, [files["one.bin"]])
    assert {file.filename for file in hub.api.list_lfs_files(hub.repo)} == {"two.bin", "branch.bin"}
    assert set(hub.api.list_repo_files(hub.repo)) == {".gitattributes", "t.txt", "two.bin"}
    assert "one.bin" not in hub.api.list_repo_files(hub.repo, revision="run/x")
    assert all(heads(hub)[name] != oid for name, oid in before.items())  # rewritten
    assert [file.title for file in hub.api.list_repo_commits(hub.repo)] == ["put", "initial commit"]
    assert hub.api.model_info(hub.repo).used_storage == 50


def test_deleting_without_rewriting_leaves_pointers_to_nothing(hub: HubWorld) -> None:
    made = put(hub, {"one.bin": b"1" * 10})
    hub.api.permanently_delete_lfs_files(hub.repo, hub.api.list_lfs_files(hub.repo), rewrite_history=False)
    assert hub.head() == made
    assert "one.bin" in hub.api.list_repo_files(hub.repo)
    with pytest.raises(EntryNotFoundError):
        hub.api.hf_hub_download(hub.repo, "one.bin", force_download=True)
    put(hub, {"again.bin": b"1" * 10})  # uploaded anew
    assert ask(hub.url(f"/{hub.repo}/resolve/main/one.bin")).status == 302


def test_lfs_files_come_in_pages(hub: HubWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    from qcity_nb.testing.emulators.hub import history

    monkeypatch.setattr(history, "FILES_PAGE", 3)
    put(hub, {f"{number}.bin": bytes([number]) * 5 for number in range(8)})
    assert len(list(hub.api.list_lfs_files(hub.repo))) == 8


def test_deleting_a_pointer_frees_nothing_and_squashing_does_later(hub: HubWorld) -> None:
    put(hub, {"a.bin": b"1" * 10})
    put(hub, {"a.bin": b"2" * 20})
    hub.api.delete_file("a.bin", hub.repo)
    assert hub.api.model_info(hub.repo).used_storage == 30
    hub.api.super_squash_history(hub.repo)
    assert hub.api.model_info(hub.repo).used_storage == 30  # for up to 36 hours
    assert len(list(hub.api.list_lfs_files(hub.repo))) == 2


def test_released_storage_is_given_back(hub: HubWorld) -> None:
    hub.options.release_s = 0.0
    put(hub, {"a.bin": b"1" * 10, "kept.bin": b"3" * 5})
    put(hub, {"a.bin": b"2" * 20})
    hub.api.create_branch(hub.repo, branch="b")
    hub.api.super_squash_history(hub.repo)
    assert {file.size for file in hub.api.list_lfs_files(hub.repo)} == {5, 10, 20}  # the branch still has them
    hub.api.delete_branch(hub.repo, branch="b")
    assert {file.size for file in hub.api.list_lfs_files(hub.repo)} == {5, 20}
    assert hub.api.model_info(hub.repo).used_storage == 25
    put(hub, {"b.bin": b"1" * 10})
    assert {file.size for file in hub.api.list_lfs_files(hub.repo)} == {5, 10, 20}
