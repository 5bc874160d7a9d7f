"""The public surface of qcity_nb is what is written here, and every module's __all__ tells the truth."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import qcity_nb

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for file in (ROOT / "qcity_nb").rglob("*.py")
    if file.name != "__main__.py"
)


def public(source: str) -> set[str]:
    """Functions and classes without an underscore that ``source`` itself defines at its top level.

    Constants and type aliases may stay a module's own; those that others import are looked at below.
    """
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for node in ast.parse(source).body if isinstance(node, kinds) and not node.name.startswith("_")}


def taken(sources: dict[str, str]) -> set[tuple[str, str]]:
    """(module, name) for each name that some module of the package imports from another."""
    return {
        (str(node.module), alias.name)
        for source in sources.values()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and node.module in MODULES
        for alias in node.names
        if f"{node.module}.{alias.name}" not in MODULES
    }


def falsehoods(source: str, declared: object, has: set[str]) -> list[str]:
    """What an ``__all__`` of ``declared`` gets wrong for a module that ``has`` these attributes."""
    defined = public(source)
    if declared is None:
        return [f"no __all__, yet it defines {sorted(defined)}"] if defined else []
    if not isinstance(declared, list) or len(set(declared)) != len(declared):
        return [f"__all__ is not a list of distinct names: {declared!r}"]
    return [
        *(f"{name} is exported and missing" for name in declared if name not in has),
        *(f"{name} is public and not exported" for name in sorted(defined - set(declared))),
    ]


def test_the_surface() -> None:
    assert qcity_nb.__all__ == [
        "City",
        "__version__",
        "every_steps",
        "every_time",
        "load_ipython_extension",
        "on_best",
        "unload_ipython_extension",
        "up",
    ]


@pytest.mark.parametrize(
    ("name", "module"),
    [("City", "city"), ("up", "city")]
    + [(name, "kernel.save_policy") for name in ("every_steps", "every_time", "on_best")],
)
def test_lazy_names_resolve(name: str, module: str) -> None:
    assert getattr(qcity_nb, name) is getattr(importlib.import_module(f"qcity_nb.{module}"), name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'down'"):
        qcity_nb.__getattr__("down")


@pytest.mark.parametrize("name", MODULES)
def test_all_is_true(name: str) -> None:
    module = importlib.import_module(name)
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    has = set(dir(module)) | (set(qcity_nb.__all__) if module is qcity_nb else set())
    assert not falsehoods(source, getattr(module, "__all__", None), has)


@pytest.mark.parametrize(
    ("source", "declared", "has"),
    [
        ("def f(): ...", None, {"f"}),
        ("def f(): ...", [], {"f"}),
        ("class C: ...", [], {"C"}),
        ("", ["gone"], set()),
        ("def f(): ...", ["f", "f"], {"f"}),
        ("def f(): ...", ("f",), {"f"}),
    ],
)
def test_a_false_all_is_found(source: str, declared: object, has: set[str]) -> None:
    assert falsehoods(source, declared, has)


def test_what_other_modules_import_is_exported() -> None:
    files = {name: Path(str(importlib.import_module(name).__file__)) for name in MODULES}
    sources = {name: file.read_text(encoding="utf-8") for name, file in files.items()}
    hidden = {
        f"{module}.{name}"
        for module, name in taken(sources)
        if name not in getattr(importlib.import_module(module), "__all__", [])
    }
    assert not hidden


def test_an_import_of_a_name_is_seen() -> None:
    planted = {"x": "def late():\n    from qcity_nb.codec import _private"}
    assert taken(planted) == {("qcity_nb.codec", "_private")}
