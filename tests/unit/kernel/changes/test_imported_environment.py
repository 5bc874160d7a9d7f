"""What a kernel has imported, from a table of modules and from folders that look like installed packages."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from qcity_nb.kernel.changes import imported_environment
from qcity_nb.kernel.changes.imported_environment import MOST_FILES, ImportedEnvironment


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project whose modules can be imported; they are forgotten afterwards."""
    root = tmp_path / "project"
    root.mkdir()
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    yield root
    for name in set(sys.modules) - before:
        del sys.modules[name]


def install(folder: Path, name: str, version: str, *, module: str = "", top_level: bool = True) -> Path:
    """A package with the metadata that pip writes."""
    module = module or name
    (folder / module).mkdir(parents=True, exist_ok=True)
    (folder / module / "__init__.py").write_text("")
    metadata = folder / f"{name}-{version}.dist-info"
    metadata.mkdir()
    if top_level:
        (metadata / "top_level.txt").write_text(f"{module}\n")
    (metadata / "RECORD").write_text(f"{module}/__init__.py,,\n{name}-{version}.dist-info/RECORD,,\n")
    return metadata


def module_of(file: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    return importlib.util.module_from_spec(spec)


def look(root: Path, modules: dict[str, ModuleType]) -> ImportedEnvironment:
    environment = ImportedEnvironment(root, modules)
    environment.refresh()
    return environment


@pytest.mark.parametrize("top_level", [True, False])
@pytest.mark.parametrize(("name", "module"), [("torchish", "torchish"), ("scikit_learnish", "sklearnish")])
def test_a_package_is_found_by_its_name_or_by_its_files(
    tmp_path: Path, name: str, module: str, top_level: bool
) -> None:
    site = tmp_path / "site-packages"
    install(site, name, "1.2.0+cpu", module=module, top_level=top_level)
    environment = look(tmp_path / "project", {module: module_of(site / module / "__init__.py", module)})
    assert environment.packages == {name: "1.2.0+cpu"}
    assert not environment.files


def test_packages_of_a_namespace_and_broken_metadata_do_no_harm(tmp_path: Path) -> None:
    site = tmp_path / "site-packages"
    install(site, "goo_cloud_store", "3.1", module="goo/cloud/store")
    (site / "goo_cloud_store-3.1.dist-info" / "top_level.txt").write_text("goo\n")
    install(site, "goo_auth", "2.0", module="goo/auth")
    (site / "goo_auth-2.0.dist-info" / "top_level.txt").write_text("goo\n")
    (site / "broken-1.dist-info").write_text("a file")
    (site / "-.dist-info").mkdir()
    namespace = ModuleType("goo")
    namespace.__path__ = [str(site / "goo")]
    odd: Any = ModuleType("odd")
    odd.__file__ = 3
    modules: dict[str, Any] = {
        "goo.cloud.store": module_of(site / "goo/cloud/store/__init__.py", "goo.cloud.store"),
        "goo.auth": module_of(site / "goo/auth/__init__.py", "goo.auth"),
        "goo": namespace,
        "nobody": module_of(site / "nobody.py", "nobody"),
        "odd": odd,
        "none": None,
        "text": "no module",
    }
    assert look(tmp_path, modules).packages == {"goo_cloud_store": "3.1", "goo_auth": "2.0"}


def test_the_projects_files_are_named_relative_to_it_and_nothing_else_is_hashed(project: Path, tmp_path: Path) -> None:
    (project / "helpers").mkdir()
    (project / "helpers/__init__.py").write_text("")
    (project / "helpers/train_it.py").write_text("x = 1\n")
    (project / "only_mine.py").write_text("x = 1\n")
    for folder in (".venv/lib/python3.11/site-packages", "elsewhere"):
        (project / folder).mkdir(parents=True)
    install(project / ".venv/lib/python3.11/site-packages", "inside", "1.0")
    site = project / ".venv/lib/python3.11/site-packages/inside/__init__.py"
    for name in ("helpers.train_it", "only_mine", "json"):
        importlib.import_module(name)
    modules = {name: sys.modules[name] for name in ("helpers", "helpers.train_it", "only_mine", "json", "qcity_nb")}
    environment = look(project, {**modules, "inside": module_of(site, "inside")})
    assert sorted(environment.files) == ["helpers/__init__.py", "helpers/train_it.py", "only_mine.py"]
    moved = look(tmp_path / "not-the-project", modules)  # a folder beside the project: by the module's name
    assert sorted(moved.files) == sorted(environment.files)


def test_the_ends_of_lines_and_compiled_files_make_no_difference(project: Path) -> None:
    (project / "lines_a.py").write_bytes(b"x = 1\ny = 2\n")
    (project / "lines_b.py").write_bytes(b"x = 1\r\ny = 2\r\n")
    for name in ("lines_a", "lines_b"):
        importlib.import_module(name)
    files = look(project, {name: sys.modules[name] for name in ("lines_a", "lines_b")}).files
    assert len(set(files.values())) == 1


def test_what_was_loaded_counts_and_not_what_the_file_is_now(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imported_environment, "_process_began_s", lambda: time.time() - 60)
    file = project / "edited_later.py"
    file.write_text("x = 1\n")
    module = importlib.import_module("edited_later")
    environment = look(project, {"edited_later": module})
    at_import = environment.files["edited_later.py"]
    file.write_text("x = 22\n")
    environment.refresh()
    assert environment.files["edited_later.py"] == at_import, "seen before the edit"
    late = look(project, {"edited_later": module}).files["edited_later.py"]
    importlib.invalidate_caches()
    importlib.reload(module)
    assert module.x == 22
    environment.refresh()
    now = environment.files["edited_later.py"]
    assert now != at_import, "loaded again"
    assert late != now, "first seen after the edit: the next import is of another source"
    assert look(project, {"edited_later": module}).files["edited_later.py"] == now


def test_a_file_that_was_only_written_again_was_not_edited(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imported_environment, "_process_began_s", lambda: time.time() - 60)
    file = project / "touched.py"
    file.write_text("def f():\n    return 1\n")
    module = importlib.import_module("touched")
    before = look(project, {"touched": module}).files
    os.utime(file, (time.time() + 5, time.time() + 5))
    assert look(project, {"touched": module}).files == before


def test_modules_imported_later_are_seen_later(project: Path) -> None:
    (project / "early.py").write_text("")
    (project / "late.py").write_text("x = 1")
    modules = {"early": importlib.import_module("early")}
    environment = look(project, modules)
    modules["late"] = importlib.import_module("late")
    assert list(environment.files) == ["early.py"]
    environment.refresh()
    assert list(environment.files) == ["early.py", "late.py"]


def test_a_record_is_small_however_much_is_imported(project: Path) -> None:
    modules = {}
    for n in range(MOST_FILES + 100):
        name = f"module_{n}_{'x' * 60}"
        (project / f"{name}.py").write_text("")
        modules[name] = module_of(project / f"{name}.py", name)
    record = look(project, modules).record()
    assert len(record["files"]) == MOST_FILES
    assert len(json.dumps(record)) < 64_000


def test_a_second_look_costs_next_to_nothing() -> None:
    environment = ImportedEnvironment(Path(os.devnull))
    environment.refresh()
    began_s = time.perf_counter()
    for _ in range(100):
        environment.refresh()
    assert (time.perf_counter() - began_s) / 100 < 0.005
