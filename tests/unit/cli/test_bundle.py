"""What travels with a run: packed only for hosts without the files, and brought home whole or with a word."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from qcity_nb import settings
from qcity_nb.cli import bundle
from qcity_nb.records import DesiredState, Head
from qcity_nb.run import lease
from qcity_nb.settings import Settings
from qcity_nb.stores.memory import MemoryStore

HEAD = Head(
    run="r-1",
    key="k",
    project="p",
    notebook="n.ipynb",
    output="out/r.ipynb",
    executed="executed/e1-x.ipynb",
    state="succeeded",
    desired=DesiredState(hosts=("local", "hf-jobs:l4x1")),
)


@pytest.fixture
def given(tmp_path: Path) -> Settings:
    (tmp_path / "pyproject.toml").write_text("[tool.qcity]\nproject = 'p'\n")
    return settings.load(tmp_path, environ={})


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    lease.create(store, HEAD, files={HEAD.executed: b"{}"})
    return store


def test_only_hosts_without_the_files_get_a_bundle(given: Settings) -> None:
    said: list[str] = []
    assert bundle.pack_for_hosts(given, ["local"], said.append) == ("", b"")
    assert said == []
    name, data = bundle.pack_for_hosts(given, ["local", "hf-jobs:l4x1"], said.append)
    assert name.startswith("project-")
    assert data
    assert "1 files of project p go along" in said[-1]
    assert "`bundle = [...]` in [tool.qcity]" in said[-1]
    (given.project.root / ".env").write_text("X=1")
    bundle.pack_for_hosts(replace(given, bundle=(".env",)), ["hf-jobs"], said.append)
    assert "stays here: .env (by its name it may hold a secret)" in said


def test_the_notebook_comes_home(given: Settings, store: MemoryStore) -> None:
    said: list[str] = []
    bundle.bring_home(store, given, HEAD, said.append)
    assert [path.name for path in (given.project.root / "out").iterdir()] == ["r.ipynb"]
    assert said == []


@pytest.mark.parametrize(
    "head",
    [
        replace(HEAD, desired=DesiredState(hosts=("local",))),
        replace(HEAD, state="running"),
        replace(HEAD, executed=""),
        replace(HEAD, output=""),
        replace(HEAD, project="another"),
    ],
)
def test_nothing_comes_that_is_here_or_not_this_project_s(given: Settings, store: MemoryStore, head: Head) -> None:
    bundle.bring_home(store, given, head, lambda _: None)
    assert not (given.project.root / "out").exists()


def test_what_cannot_come_home_is_said(given: Settings, store: MemoryStore) -> None:
    said: list[str] = []
    bundle.bring_home(store, given, replace(HEAD, executed="executed/gone.ipynb"), said.append)
    (given.project.root / "out").write_text("a file in the way")
    bundle.bring_home(store, given, HEAD, said.append)
    assert "stays in the store" in said[0]
    assert "cannot be written to" in said[1]
