"""A project's name is the same in every clone, on every machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from qcity_nb.git_remote import name_of_address
from qcity_nb.settings import find_project


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def repository(folder: Path, address: str = "") -> Path:
    folder.mkdir(parents=True)
    git(folder, "init", "-q")
    if address:
        git(folder, "remote", "add", "origin", address)
    return folder


@pytest.mark.parametrize(
    "address",
    [
        "https://github.com/Owner/name",
        "https://github.com/owner/name.git",
        "https://github.com/owner/name.git/",
        "https://x-token:abc123@github.com/owner/name.git",
        "ssh://git@github.com:22/owner/name.git",
        "git@github.com:owner/name.git",
        "github.com:owner/name",
    ],
)
def test_each_way_to_write_the_address_gives_one_name(address: str, tmp_path: Path) -> None:
    assert name_of_address(address) == "owner/name"
    project = find_project(repository(tmp_path / "anywhere", address))
    assert (project.name, project.name_from) == ("owner/name", "the git remote")


@pytest.mark.parametrize("address", ["", "/srv/x.git", "../x", "file:///srv/x.git", "C:\\x\\y", "~/x.git"])
def test_a_path_of_this_machine_is_no_name(address: str, tmp_path: Path) -> None:
    assert name_of_address(address) == ""
    project = find_project(repository(tmp_path / "here", address))
    assert (project.name, project.name_from) == ("here", "the directory")


def test_worktrees_and_submodules_have_their_repositorys_name(tmp_path: Path) -> None:
    main = repository(tmp_path / "main", "git@github.com:owner/name.git")
    git(main, "commit", "-q", "--allow-empty", "-m", "a")
    git(main, "worktree", "add", "-q", str(tmp_path / "tree"))
    assert find_project(tmp_path / "tree").name == "owner/name"
    outer = repository(tmp_path / "outer", "git@github.com:owner/outer.git")
    git(outer, "submodule", "add", "-q", str(main), "inner")
    git(outer / "inner", "remote", "set-url", "origin", "https://github.com/owner/inner.git")
    assert find_project(outer / "inner").name == "owner/inner"


def test_two_projects_in_one_repository_differ(tmp_path: Path) -> None:
    root = repository(tmp_path / "root", "git@github.com:owner/name.git")
    names = []
    for name in "ab":
        (root / name).mkdir()
        (root / name / "pyproject.toml").write_text("[tool.qcity]\n")
        names.append(find_project(root / name).name)
    assert names == ["owner/name/a", "owner/name/b"]


@pytest.mark.parametrize(
    ("path", "name"), [("a/../../b", "a/b"), ("a b/ü", "a-b"), ("../..", "project"), ("a//b", "a/b")]
)
def test_a_name_never_leads_elsewhere(path: str, name: str, tmp_path: Path) -> None:
    assert find_project(repository(tmp_path / "project", f"git@host:{path}")).name == name


def test_a_name_in_pyproject_comes_first(tmp_path: Path) -> None:
    root = repository(tmp_path / "root", "git@github.com:owner/name.git")
    (root / "pyproject.toml").write_text('[tool.qcity]\nproject = "mine"\n')
    project = find_project(root)
    assert (project.name, project.name_from) == ("mine", "pyproject.toml")


@pytest.mark.parametrize(
    "config", [b"\xff\xfe", b"[remote", b'[remote "origin"]\nurl', b'[remote "upstream"]\n\turl = git@a:b/c\n']
)
def test_a_config_that_cannot_be_read_leaves_the_directorys_name(config: bytes, tmp_path: Path) -> None:
    (tmp_path / "p/.git").mkdir(parents=True)
    (tmp_path / "p/.git/config").write_bytes(config)
    assert find_project(tmp_path / "p").name == "p"
