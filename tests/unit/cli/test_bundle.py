"""What travels with a run: packed only for hosts without the files, and brought home whole or with a word."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from qcity_nb.cli import bundle
from qcity_nb.records import DesiredState, Head
from qcity_nb.run import lease
from qcity_nb.settings import Settings, load
from qcity_nb.stores.memory import MemoryStore

HEAD = Head(
    run="r-1",
    key="k",
    project="p",
    notebook="n.ipynb",
    output="out/r.ipynb",
    executed="executed/t1-x.ipynb",
    state="succeeded",
    desired=DesiredState(hosts=("local", "hf-jobs:l4x1")),
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "pyproject.toml").write_text("[tool.qcity]\nproject = 'p'\n")
    return load(tmp_path, environ={})


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    lease.create(store, HEAD, files={HEAD.executed: b"{}"})
    return store


def test_only_hosts_without_the_files_get_a_bundle(settings: Settings) -> None:
    lines: list[str] = []
    assert bundle.pack_for_hosts(settings, ["local"], lines.append) == ("", b"")
    assert lines == []
    name, data = bundle.pack_for_hosts(settings, ["local", "hf-jobs:l4x1"], lines.append)
    assert name.startswith("project-")
    assert data
    assert "1 files of project p are sent" in lines[-1]
    assert "`bundle = [...]` in [tool.qcity]" in lines[-1]
    (settings.project.root / ".env").write_text("X=1")
    bundle.pack_for_hosts(replace(settings, bundle=(".env*",)), ["hf-jobs"], lines.append)
    assert 'not sent: .env (by its name it may hold a secret; if it may be sent, name it: bundle = [".env"])' in lines


def test_the_notebook_comes_home(settings: Settings, store: MemoryStore) -> None:
    lines: list[str] = []
    bundle.bring_home(store, settings, HEAD, lines.append)
    assert [path.name for path in (settings.project.root / "out").iterdir()] == ["r.ipynb"]
    assert lines == []


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
def test_nothing_comes_that_is_here_or_not_this_project_s(settings: Settings, store: MemoryStore, head: Head) -> None:
    bundle.bring_home(store, settings, head, lambda _: None)
    assert not (settings.project.root / "out").exists()


def test_what_cannot_come_home_is_said(settings: Settings, store: MemoryStore) -> None:
    lines: list[str] = []
    bundle.bring_home(store, settings, replace(HEAD, executed="executed/gone.ipynb"), lines.append)
    (settings.project.root / "out").write_text("a file in the way")
    bundle.bring_home(store, settings, HEAD, lines.append)
    assert "is only in the store" in lines[0]
    assert "cannot be written to" in lines[1]
