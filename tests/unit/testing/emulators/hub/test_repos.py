"""Repositories on the Hub emulator, by the real client: made, described, set, deleted, and who may do so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_world import HubWorld, ask, client, run_client
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from qcity_nb.errors import UsageError
from qcity_nb.testing.emulators.hub.accounts import Users
from qcity_nb.testing.emulators.hub.emulator import Event
from qcity_nb.testing.emulators.hub.server import HubServer
from qcity_nb.testing.emulators.hub.web import User

USERS = Users(
    {
        "t-alice": User("alice", orgs=("acme",)),
        "t-read": User("alice", "read", orgs=("acme",)),
        "t-bob": User("bob"),
        "t-carol": User("carol", orgs=("acme:read",)),
        "t-fine": User("alice", "fineGrained", ("acme",), scopes=("alice/one:repo.write", "acme:repo.content.read")),
    }
)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory, hub_server: HubServer) -> Iterator[HubServer]:
    """A server of several users, with a private repository of alice's and one of acme's."""
    with HubServer(tmp_path_factory.mktemp("town"), users=USERS) as server:
        client(server, "t-alice").create_repo("alice/one", private=True)
        client(server, "t-alice").create_repo("alice/open")
        client(server, "t-alice").create_repo("acme/shared", private=True)
        yield server


def status(error: pytest.ExceptionInfo[HfHubHTTPError]) -> int:
    return int(error.value.response.status_code)


def test_whoami(hub: HubWorld) -> None:
    account = hub.api.whoami()
    assert (account["name"], account["auth"]["accessToken"]["role"]) == ("user", "write")


def test_whoami_of_several(town: HubServer) -> None:
    account = client(town, "t-carol").whoami()
    assert [(org["name"], org["roleInOrg"]) for org in account["orgs"]] == [("acme", "read")]
    fine = client(town, "t-fine").whoami()["auth"]["accessToken"]
    assert fine["role"] == "fineGrained"
    assert {
        (scope["entity"]["name"], scope["entity"]["type"], *scope["permissions"])
        for scope in fine["fineGrained"]["scoped"]
    } == {("alice/one", "model", "repo.write"), ("acme", "org", "repo.content.read")}


def test_an_unknown_token_is_401_whatever_is_asked(town: HubServer) -> None:
    for path in ("/api/whoami-v2", "/api/models/alice/open"):
        reply = ask(town.url + path, token="t-nobody")
        assert (reply.status, reply.headers["x-error-message"]) == (401, "Invalid credentials in Authorization header")


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_create_and_delete(hub: HubWorld, kind: str) -> None:
    sdk = "docker" if kind == "space" else None
    repo = f"{hub.repo}-{kind}"
    url = hub.api.create_repo(repo, repo_type=kind, space_sdk=sdk, resource_group_id="0" * 24)
    assert (url.repo_id, url.repo_type) == (repo, kind)
    assert hub.api.repo_exists(repo, repo_type=kind)
    assert not hub.api.repo_exists(repo, repo_type="model" if kind != "model" else "dataset")
    assert hub.api.list_repo_files(repo, repo_type=kind) == [".gitattributes"]
    (first,) = hub.api.list_repo_commits(repo, repo_type=kind)
    assert first.title == "initial commit"
    with pytest.raises(HfHubHTTPError) as error:
        hub.api.create_repo(repo, repo_type=kind, space_sdk=sdk)
    assert status(error) == 409
    assert hub.api.create_repo(repo, repo_type=kind, space_sdk=sdk, exist_ok=True).repo_id == repo
    hub.api.delete_repo(repo, repo_type=kind)
    assert not hub.api.repo_exists(repo, repo_type=kind)
    with pytest.raises(RepositoryNotFoundError):
        hub.api.delete_repo(repo, repo_type=kind)
    hub.api.delete_repo(repo, repo_type=kind, missing_ok=True)


def test_a_space_needs_an_sdk(hub: HubWorld) -> None:
    assert ask(hub.url("/api/repos/create"), "POST", body=b'{"name": "s", "type": "space"}').status == 400


@pytest.mark.parametrize("name", ["a b", "..", "a/b/c", ""])
def test_bad_names_are_refused(hub: HubWorld, name: str) -> None:
    assert ask(hub.url("/api/repos/create"), "POST", body=b'{"name": "%b"}' % name.encode()).status == 400


def test_info(hub: HubWorld) -> None:
    hub.api.upload_file(path_or_fileobj=b"x" * 10, path_in_repo="a.bin", repo_id=hub.repo)
    info = hub.api.model_info(hub.repo, files_metadata=True)
    assert (info.id, info.author, info.sha, info.private) == (hub.repo, "user", hub.head(), True)
    assert info.siblings is not None
    (blob,) = (file for file in info.siblings if file.rfilename == "a.bin")
    assert blob.size == 10
    assert blob.lfs is not None
    assert blob.lfs["size"] == 10
    assert info.used_storage == 10
    assert hub.api.repo_info(hub.repo, revision="main").sha == info.sha
    assert hub.api.repo_info(hub.repo, revision=str(info.sha)[:8]).sha == info.sha
    few = hub.api.model_info(hub.repo, expand=["sha"])
    assert (few.sha, few.siblings) == (info.sha, None)
    with pytest.raises(RevisionNotFoundError, match="Invalid rev id: gone"):
        hub.api.model_info(hub.repo, revision="gone")


def test_the_case_of_a_name_does_not_matter(hub: HubWorld) -> None:
    assert hub.api.model_info(hub.repo.upper()).id == hub.repo


def test_settings(hub: HubWorld) -> None:
    hub.api.update_repo_settings(hub.repo, private=False, repo_type="model")
    assert hub.api.model_info(hub.repo, token=False).private is False
    hub.api.update_repo_settings(hub.repo, visibility="private", gated="manual", repo_type="model")
    assert hub.api.model_info(hub.repo).private is True
    assert hub.api.model_info(hub.repo).gated == "manual"
    # As client 0.36 says it.
    assert ask(hub.api_url("/settings"), "PUT", body=b'{"private": false}').json()["private"] is False


def test_events_are_told(hub: HubWorld) -> None:
    events: list[Event] = []
    hub.server.hub.subscribe(events.append)
    repo = f"{hub.repo}-told"
    hub.api.create_repo(repo)
    hub.api.upload_file(path_or_fileobj=b"x", path_in_repo="a.txt", repo_id=repo)
    hub.api.delete_repo(repo)
    mine = [event for event in events if event.repo_id == repo]
    assert [(event.action, event.scope) for event in mine] == [
        ("create", "repo"),
        ("update", "repo.content"),
        ("delete", "repo"),
    ]
    assert mine[1].details["updatedRefs"][0]["ref"] == "refs/heads/main"


# --- who may


def test_a_private_repository_is_not_there_for_strangers(town: HubServer) -> None:
    with pytest.raises(RepositoryNotFoundError) as error:
        client(town, "t-bob").model_info("alice/one")
    assert status(error) == 404
    with pytest.raises(RepositoryNotFoundError) as error:
        client(town, False).model_info("alice/one")
    assert status(error) == 401
    assert not client(town, "t-bob").repo_exists("alice/one")
    assert not client(town, "t-bob").file_exists("alice/one", ".gitattributes")


def test_everybody_reads_a_public_repository(town: HubServer) -> None:
    assert client(town, False).model_info("alice/open").id == "alice/open"
    assert client(town, "t-bob").list_repo_refs("alice/open").branches


@pytest.mark.parametrize(
    ("token", "repo", "message"),
    [
        ("t-read", "alice/one", "you must use a write token"),
        ("t-read", "acme/shared", "you must use a write token"),
        ("t-bob", "alice/open", "pass `create_pr=1`"),
        ("t-carol", "acme/shared", "pass `create_pr=1`"),
        ("t-fine", "alice/open", "required permissions"),
        ("t-fine", "acme/shared", "required permissions"),
    ],
)
def test_who_may_only_read_is_told_so(town: HubServer, token: str, repo: str, message: str) -> None:
    api = client(town, token)
    if (token, repo) != ("t-fine", "alice/open"):
        assert api.model_info(repo).id == repo
    with pytest.raises(HfHubHTTPError, match=message) as error:
        api.upload_file(path_or_fileobj=b"x", path_in_repo="a.txt", repo_id=repo)
    assert status(error) == 403
    with pytest.raises(HfHubHTTPError, match="403"):
        api.create_branch(repo, branch="b")


def test_members_and_fine_tokens_may_write_where_they_may(town: HubServer) -> None:
    for token, repo in (("t-alice", "acme/shared"), ("t-fine", "alice/one")):
        client(town, token).upload_file(path_or_fileobj=token.encode(), path_in_repo="a.txt", repo_id=repo)
    assert client(town, "t-carol").file_exists("acme/shared", "a.txt")


def test_nobody_makes_a_repository_in_anothers_name(town: HubServer) -> None:
    for token, repo in (("t-bob", "alice/new"), ("t-read", "alice/new"), ("t-carol", "acme/new")):
        with pytest.raises(HfHubHTTPError, match="don't have the rights to create a model") as error:
            client(town, token).create_repo(repo)
        assert status(error) == 403


def test_create_with_exist_ok_reads_where_it_may_not_write(town: HubServer, tmp_path: Path) -> None:
    code = "from huggingface_hub import HfApi; print(HfApi().create_repo('alice/one', exist_ok=True).repo_id)"
    assert run_client(town, tmp_path, code, xet=False, HF_TOKEN="t-read") == "alice/one\n"


# --- the users' file


def test_users_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "users.toml"
    file.write_text('[hf_a]\nname = "a"\nrole = "read"\norgs = ["x"]\n[hf_b]\nname = "b"\n')
    users = Users.load(file)
    assert users.find("hf_a") == User("a", "read", ("x",))
    assert users.find("hf_b") == User("b")
    assert users.find("hf_c") is None
    assert users.names() == {"a", "b"}
    (tmp_path / "users.json").write_text('{"hf_a": {"name": "a"}}')
    assert Users.load(tmp_path / "users.json").find("hf_a") == User("a")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not toml", "cannot be read"),
        ("", "a table for each token"),
        ("[hf_a]\nrole = 'read'\n", "name = "),
        ("[hf_a]\nname = 'a'\nrole = 'owner'\n", "role is one of"),
        ("[hf_a]\nname = 'a'\norg = 'x'\n", "unknown: org"),
        ("[hf_a]\nname = 'a'\norgs = 'x'\n", "orgs is a list"),
    ],
)
def test_a_bad_users_file_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "users.toml").write_text(text)
    with pytest.raises(UsageError, match=message) as error:
        Users.load(tmp_path / "users.toml")
    assert "\n" not in str(error.value).strip()


def test_a_token_is_not_told_in_errors(tmp_path: Path) -> None:
    (tmp_path / "users.toml").write_text("[hf_averysecrettoken]\n")
    with pytest.raises(UsageError) as error:
        Users.load(tmp_path / "users.toml")
    assert "averysecret" not in str(error.value)


# --- cards


@pytest.mark.parametrize(
    ("content", "status", "warnings"),
    [
        ("---\nlicense: mit\ntags:\n- a\n- b\n---\n# x", 200, 0),
        ("# no metadata", 200, 1),
        ("---\n---\n", 200, 1),
        ("---\nlicense mit\n---\n", 400, 0),
        ("---\n\ttabs: no\n---\n", 400, 0),
    ],
)
def test_validate_yaml(hub: HubWorld, content: str, status: int, warnings: int) -> None:
    import json

    body = json.dumps({"content": content, "repoType": "model"}).encode()
    reply = ask(hub.url("/api/validate-yaml"), "POST", body=body)
    assert reply.status == status
    assert len(reply.json()["warnings"]) == warnings
    assert bool(reply.json()["errors"]) == (status == 400)
