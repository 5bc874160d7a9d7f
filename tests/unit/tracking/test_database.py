"""Projects in directories whose names mean something in an address: their database is in them, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from qcity_nb import settings
from qcity_nb.records import Row
from qcity_nb.tracking import database, open_tracker
from qcity_nb.tracking.mlflow import MlflowTracker

NAMES = ["plain", "what?x=1", "a%41b", "100%", "%3F", "a#b c", "ü&=;", "?uri=true&%"]


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", NAMES)
def test_the_database_is_in_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    project = tmp_path / name
    project.mkdir()
    (project / "pyproject.toml").write_text("[tool.qcity]\n")
    monkeypatch.chdir(project)
    address = settings.load(project, environ={}).tracking
    run = ""
    for _ in range(2):  # the second opens the database of the first, by the address that the first had shown
        tracker = open_tracker(address)
        assert tracker is not None
        run = tracker.start("r", experiment="e", params={}, tags={})
        tracker.send(run, [Row(key="x", value=1.0, timestamp_ms=1, step=0, loop="l", iteration=0, ordinal=0)])
        address = tracker.uri
    made = {file for file in files(tmp_path) if file.endswith(".db")}
    assert made == {str(Path(name) / ".qcity" / "mlflow.db")}
    assert [path.name for path in tmp_path.iterdir()] == [name], "nothing beside it"


@pytest.mark.parametrize("is_decoded", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_the_address_leads_back_to_the_file(monkeypatch: pytest.MonkeyPatch, name: str, is_decoded: bool) -> None:
    monkeypatch.setattr(database, "_is_decoded", lambda: is_decoded)
    path = Path("/data") / name / "mlflow.db"
    assert database.path_of(database.address_of(path)) == (path, "")
    assert database.path_of(database.address_of(path, "timeout=9")) == (path, "timeout=9")
    assert MlflowTracker(f"sqlite:///{settings.database_name(path)}").uri == database.address_of(path)


def test_an_address_without_such_names_stays_as_it_is() -> None:
    assert MlflowTracker("sqlite:////data/mlflow.db").uri == "sqlite:////data/mlflow.db"
    assert MlflowTracker("sqlite:////data/x.db?timeout=5").uri == "sqlite:////data/x.db?timeout=5"
    assert MlflowTracker("sqlite:///here.db").uri == f"sqlite:///{Path.cwd()}/here.db"
