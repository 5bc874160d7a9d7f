"""Templates: found in a checkout, extracted completely or not at all, and never over the files of a user."""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path

import pytest
import yaml

from qcity_nb import cli, settings
from qcity_nb.cli import templates
from qcity_nb.cli.parser import build_parser
from qcity_nb.data import Data
from qcity_nb.errors import UsageError


def test_names() -> None:
    assert templates.names() == ["blank", "digits", "space"]


@pytest.mark.parametrize("name", ["blank", "digits"])
def test_an_extracted_template_is_a_project(name: str, tmp_path: Path) -> None:
    target = tmp_path / "new" / "project"
    written = templates.extract(name, target)
    assert written == sorted(file for file in target.rglob("*") if file.is_file())
    tomllib.loads((target / "pyproject.toml").read_text())
    loaded = settings.load(target, environ={})
    assert loaded.project.root == target
    assert loaded.project.name == {"blank": "project", "digits": "digits"}[name]
    assert list(target.glob("notebooks/*.ipynb"))


def test_the_digits_need_no_network_and_no_git(tmp_path: Path) -> None:
    templates.extract("digits", tmp_path / "p")
    data = Data(tmp_path / "p")
    assert data.names() == ["data/digits.csv"]
    assert not (tmp_path / "p/data/digits.csv").exists()
    content = data["data/digits.csv"].read_bytes()
    assert hashlib.md5(content).hexdigest() == "cbadd41425371ed26ed8ac36b6b14f86"
    rows = content.decode().splitlines()
    assert len(rows) == 1798
    assert {len(row.split(",")) for row in rows} == {65}


def test_files_that_are_there_stop_it(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("mine")
    with pytest.raises(UsageError, match=r"README\.md exists already: nothing was written"):
        templates.extract("digits", tmp_path)
    assert readme.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [readme]


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    templates.extract("blank", tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_extracting_twice_is_refused(tmp_path: Path) -> None:
    written = templates.extract("blank", tmp_path)
    with pytest.raises(UsageError, match=f"exists already \\(and {len(written) - 1} more\\)"):
        templates.extract("blank", tmp_path)


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(UsageError, match="no template 'digit'; there are: blank, digits, space"):
        templates.extract("digit", Path("unused"))


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "notebooks").write_text("a file in the way of a folder")
    with pytest.raises(UsageError, match="cannot be written there"):
        templates.extract("digits", tmp_path)
    assert [item.name for item in tmp_path.rglob("*") if item.is_file()] == ["notebooks"]


def test_what_a_run_left_in_the_template_is_not_extracted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "templates"
    monkeypatch.setattr(templates, "_folder", lambda: folder)
    source = Path(__file__).parents[3] / "templates" / "digits"
    for file in sorted(templates._files(source, frozenset())):
        to = folder / "digits" / file.relative_to(source)
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(file.read_bytes())
    clean = templates.extract("digits", tmp_path / "clean")
    for leftover in (
        "data/digits.csv",
        ".dvc/cache/files/md5/ab/cd",
        ".dvc/tmp/lock",
        ".qcity/store/x",
        "models/digits.npz",
        "reports/loss.png",
        "notebooks/.ipynb_checkpoints/train.ipynb",
    ):
        file = folder / "digits" / leftover
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("left")
    again = templates.extract("digits", tmp_path / "again")
    assert [file.relative_to(tmp_path / "again") for file in again] == [
        file.relative_to(tmp_path / "clean") for file in clean
    ]


def test_ignore_lines_have_the_two_forms_that_lay_understands() -> None:
    for ignore in (Path(__file__).parents[3] / "templates").rglob(".gitignore"):
        for line in ignore.read_text().split():
            assert "*" not in line
            assert "!" not in line
            assert "/" not in line.strip("/")
            assert line.startswith("/") or line.endswith("/")


def test_the_space_is_one(tmp_path: Path) -> None:
    """Its card says what Hugging Face needs, its command is one of ours, and a run's address is all that is missing."""
    templates.extract("space", tmp_path)
    card = yaml.safe_load((tmp_path / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert (card["sdk"], card["app_port"]) == ("docker", 7860)
    assert len(card["short_description"]) <= 60
    [line] = [line for line in (tmp_path / "Dockerfile").read_text().splitlines() if line.startswith("CMD ")]
    words = json.loads(line.removeprefix("CMD "))
    args = build_parser().parse_args(words[1:])
    assert (words[0], args.command, args.host, args.port, args.keep) == (
        "qcity",
        "page",
        "0.0.0.0",
        card["app_port"],
        ("hf-jobs",),
    )
    assert settings.load(tmp_path, environ={}).store == "hf://USER/REPO"


def test_init_says_what_comes_next_without_a_notebook(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["init", "space", str(tmp_path / "s")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"next: {tmp_path}/s/README.md"
