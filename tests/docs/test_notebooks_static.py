"""Notebooks and templates as files: valid, explained, free of secrets and paths; the data committed whole."""

from __future__ import annotations

import ast
import hashlib
import re
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

ROOT = Path(__file__).parents[2]
OWN = sorted(ROOT.glob("notebooks/*.ipynb"))
EXTRACTED = sorted(ROOT.glob("templates/*/notebooks/*.ipynb"))
EVERY = pytest.mark.parametrize("file", OWN + EXTRACTED, ids=lambda file: file.relative_to(ROOT).as_posix())

FORBIDDEN = {
    "a home or temporary folder": re.compile(r"/(?:home|Users|root|tmp|content|private|var)/\w"),
    "a Windows path": re.compile(r"[A-Z]:\\\\"),
    "a token": re.compile(r"\b(?:hf_|ghp_|gho_|github_pat_|sk-|AKIA|xox[bp]-)[A-Za-z0-9_-]{8,}"),
    "a secret's value": re.compile(r"(?i)\b(?:password|token|secret|api_key)\s*=\s*[\"'][^\"']+"),
    "credentials in an address": re.compile(r"://[^/\s\"'@]+:[^/\s\"'@]+@"),
}


def read(file: Path) -> Any:
    return nbformat.read(file, as_version=4)


def cells(file: Path, kind: str) -> list[Any]:
    return [cell for cell in read(file).cells if cell.cell_type == kind]


def tags(cell: Any) -> list[str]:
    return list(cell.metadata.get("tags", []))


def test_the_notebooks_are_these() -> None:
    """Their names are in dvc.yaml, the README and the command line's help."""
    assert [file.stem for file in OWN] == ["evaluate", "prepare", "quickstart", "train"]
    assert [file.relative_to(ROOT / "templates").as_posix() for file in EXTRACTED] == [
        "blank/notebooks/main.ipynb",
        "digits/notebooks/train.ipynb",
    ]


@EVERY
def test_is_a_notebook_that_papermill_can_run(file: Path) -> None:
    notebook = read(file)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert dict(notebook.metadata.kernelspec)["name"] == "python3"
    assert notebook.metadata.language_info["name"] == "python"
    assert sum("parameters" in tags(cell) for cell in notebook.cells) == 1
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    for cell in cells(file, "code"):
        ast.parse(re.sub("^%", "# ", cell.source, flags=re.MULTILINE))


@EVERY
def test_parameters_are_plain_values(file: Path) -> None:
    (cell,) = [cell for cell in cells(file, "code") if "parameters" in tags(cell)]
    for statement in ast.parse(cell.source).body:
        assert isinstance(statement, ast.Assign)
        ast.literal_eval(statement.value)


@EVERY
def test_is_short_and_explained(file: Path) -> None:
    all_cells = read(file).cells
    assert all_cells[0].cell_type == "markdown"
    assert all_cells[0].source.startswith("# ")
    assert len(all_cells) <= 24
    code = [cell.cell_type == "code" for cell in all_cells]
    assert not any(a and b and c for (a, b), (_, c) in pairwise(pairwise(code))), "three code cells in a row"
    assert sum(len(cell.source) for cell in cells(file, "markdown")) > 400
    for cell in cells(file, "code"):
        assert cell.source.strip()
        assert len(cell.source.splitlines()) <= 45


@EVERY
def test_brings_the_run_up_and_ends_it(file: Path) -> None:
    source = "\n".join(cell.source for cell in cells(file, "code"))
    assert re.search(r"qcity\.up\(run=\"\w+\"\)", source)
    assert cells(file, "code")[-1].source == "city.finish()"


@pytest.mark.parametrize("file", [*OWN, EXTRACTED[-1]], ids=lambda file: file.relative_to(ROOT).as_posix())
def test_has_a_plot(file: Path) -> None:
    assert any("plt.subplots" in cell.source for cell in cells(file, "code"))


@EVERY
def test_stores_no_secret_and_no_path(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    for what, pattern in FORBIDDEN.items():
        # Pictures are base64, in which anything can occur.
        found = pattern.search(re.sub(r'"image/png": "[^"]*"', "", text))
        assert found is None, f"{what}: {found and found[0]}"


@pytest.mark.parametrize(
    "text",
    [
        "/home/me/x",
        "C:\\\\data",
        "hf_abcdefghijkl",
        "ghp_0123456789",
        "password = 'x'",
        "https://me:pw@host/x",
    ],
)
def test_the_patterns_find_what_they_are_for(text: str) -> None:
    assert any(pattern.search(text) for pattern in FORBIDDEN.values())


@pytest.mark.parametrize("file", OWN, ids=lambda file: file.stem)
def test_stored_outputs_are_what_nbval_may_compare(file: Path) -> None:
    """A cell without ``nbval-ignore-output`` prints the same text everywhere; a cell's number says that it ran."""
    for number, cell in enumerate(cells(file, "code"), start=1):
        assert cell.execution_count == number
        if "nbval-ignore-output" in tags(cell):
            continue
        for output in cell.outputs:
            assert output.output_type == "stream"
            assert output.name == "stdout"
            assert not re.search(r"\d\.\d{3,}", output.text), "a measured number may differ elsewhere"
        assert bool(cell.outputs) == ("print(" in cell.source)


@pytest.mark.parametrize("file", EXTRACTED, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_templates_store_no_outputs(file: Path) -> None:
    for cell in cells(file, "code"):
        assert not cell.outputs
        assert cell.execution_count is None


def stages(file: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(file.read_text())["stages"])


@pytest.mark.parametrize("project", ["", "templates/digits"])
def test_pipelines_pass_parameters_that_the_notebooks_have(project: str) -> None:
    root = ROOT / project
    params = yaml.safe_load((root / "params.yaml").read_text())
    for stage in stages(root / "dvc.yaml").values():
        words = stage["cmd"].split()
        assert words[:2] == ["qcity", "run"]
        notebook = root / words[2]
        (cell,) = [cell for cell in cells(notebook, "code") if "parameters" in tags(cell)]
        defaults = {
            statement.targets[0].id: ast.literal_eval(statement.value)
            for statement in ast.parse(cell.source).body
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
        }
        for at, word in enumerate(words):
            if word != "-p":
                continue
            name, value = words[at + 1], words[at + 2]
            assert name in defaults, f"{notebook}: no parameter {name!r}"
            if reference := re.fullmatch(r"\$\{([\w.]+)\}", value):
                found = params
                for key in reference[1].split("."):
                    found = found[key]
                # The notebook by hand and the pipeline are to be the same run.
                assert found == defaults[name], name


@pytest.mark.parametrize("project", ["", "templates/digits"])
def test_remotes_hold_the_committed_records_whole(project: str) -> None:
    """Every object's name is its md5, and every record's object is there: a clone needs no network."""
    root = ROOT / project
    remotes = [root / "data/remote", ROOT / "templates/digits/remote"]
    stored = {
        file.parent.name + file.name: hashlib.md5(file.read_bytes()).hexdigest()
        for remote in remotes
        for file in remote.rglob("*")
        if file.is_file()
    }
    assert stored
    assert all(name == found for name, found in stored.items())
    records = yaml.safe_load((root / "data/digits.csv.dvc").read_text())["outs"]
    lock = root / "dvc.lock"
    if lock.is_file():
        records += [
            out
            for name, stage in yaml.safe_load(lock.read_text())["stages"].items()
            for out in stage["outs"]
            if out["path"] in stages(root / "dvc.yaml")[name].get("outs", [])
        ]
        assert len(records) == 3
    for record in records:
        assert record["md5"] in stored, record["path"]


@pytest.mark.parametrize("project", ["", "templates/digits"])
def test_dvc_reports_nothing_to_anybody(project: str) -> None:
    config = (ROOT / project / ".dvc/config").read_text()
    assert re.search(r"^\s+analytics = false$", config, re.MULTILINE)
    assert re.search(r"^\s+check_update = false$", config, re.MULTILINE)
    assert "://" not in config


@pytest.mark.parametrize("name", ["", "templates/blank", "templates/digits"])
def test_projects_say_that_they_are(name: str) -> None:
    table = tomllib.loads((ROOT / name / "pyproject.toml").read_text())["tool"]["qcity"]
    assert set(table) <= {"project", "bundle"}
