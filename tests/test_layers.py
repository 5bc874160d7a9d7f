"""Imports go one way, the facts need the standard library alone, and each third-party import has an owner."""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "qcity_nb"

LAYERS: list[set[str]] = [
    {"errors", "records", "clock", "codec", "points", "ports", "settings"},
    {"run"},
    {"checkpoint"},
    {"namespace"},
    {"stores"},
    {"tracking"},
    {"data"},
    {"hosts"},
    {"agent"},
    {"notebook"},
    {"template", "keeper"},
    {"city"},
    {"cli", "demo", "page"},
]
"""By the name below qcity_nb; a module whose name starts with one of these and "_" belongs there too."""

STANDARD_ONLY = LAYERS[0] | LAYERS[1]

THIRD_PARTY: dict[str, set[str]] = {
    "checkpoint.compare": {"numpy"},
    "checkpoint.digest": {"blake3", "xxhash"},
    "checkpoint.generators": {"numpy", "torch"},
    "checkpoint.interop": {"numpy", "safetensors", "torch"},
    "checkpoint.landing": {"torch"},
    "checkpoint.pickling": {"cloudpickle"},
    "checkpoint.portable": {"numpy"},
    "checkpoint.rebuild": {"jax", "numpy", "torch"},
    "namespace.rebuild": {"torch"},
    "namespace.savers": {"torch"},
    "namespace.texts": {"numpy"},
    "namespace.whole": {"cloudpickle"},
    "namespace.options_shown": {"matplotlib", "numpy", "pandas", "sklearn"},
    "namespace.options_torch": {"torch"},
    "stores.hub": {"huggingface_hub"},
    "stores.hub_branch": {"huggingface_hub"},
    "stores.hub_client": {"huggingface_hub"},
    "stores.hub_pages": {"huggingface_hub"},
    "stores.hub_probe": {"huggingface_hub"},
    "stores.hub_repository": {"huggingface_hub"},
    "data.dvc": {"tqdm"},
    "data.tracked": {"yaml"},
    "tracking.database": {"alembic", "mlflow", "sqlalchemy"},
    "tracking.mlflow": {"mlflow"},
    "tracking.patience": {"mlflow"},
    "hosts.hf_client": {"huggingface_hub"},
    "hosts.secret": {"google", "kaggle_secrets"},
    "notebook.attempt": {"nbclient", "papermill"},
    "notebook.early": {"jupyter_client"},
    "notebook.lifetime": {"jupyter_client"},
    "notebook.paths": {"papermill"},
    "notebook.bookkeeper": {"nbformat", "papermill"},
    "notebook.client": {"nbclient", "papermill"},
    "notebook.course": {"jupyter_client", "nbformat"},
    "notebook.engine": {"papermill"},
    "demo": {"mlflow"},
    "demo_deaths": {"huggingface_hub"},
    "notebook.entry": {"papermill"},
    "notebook.plotting": {"matplotlib_inline"},
    "notebook.panel": {"ipywidgets"},
    "notebook.plot": {"matplotlib"},
    "cli_checkpoint": {"tqdm"},
    "cli_doctor": {"jupyter_client"},
    "cli_run": {"jupyter_client"},
}
"""The adapters, and what each may import. `testing` may import anything and is not listed."""

MAY_ARM = {"agent", "notebook", "hosts", "city", "cli", "demo", "demo_deaths"}
"""Where `qcity_nb.testing.chaos` may be imported, inside a function: crash points are armed on demand."""

ASKS_A_HUB = {"cli_doctor"}
"""Where `qcity_nb.testing.at_hub` may be imported, inside a function: the contract at the real Hub, on demand."""

EMULATES = {"cli_hub"}
"""Where `qcity_nb.testing.hub` may be imported: the command that serves the Hub emulator."""


@dataclass(frozen=True, slots=True)
class Imported:
    """One import of a module: what it names, and whether it runs when the module is loaded."""

    name: str
    is_lazy: bool
    line: int


def sources(package: Path = PACKAGE) -> dict[str, str]:
    """Source by dotted name below the package; the package itself is the empty name."""
    found = {}
    for file in sorted(package.rglob("*.py")):
        parts = list(file.relative_to(package).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        found[".".join(parts)] = file.read_text(encoding="utf-8")
    return found


def imports(source: str, known: Collection[str] = ()) -> Iterator[Imported]:
    """Every import in ``source``, `import_module("a literal")` included; ``known`` are the package's modules."""

    def walk(node: ast.AST, *, is_lazy: bool) -> Iterator[Imported]:
        for child in ast.iter_child_nodes(node):
            inside = is_lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Imported(alias.name, inside, child.lineno)
            elif isinstance(child, ast.ImportFrom):
                module = "." * child.level + (child.module or "")
                for alias in child.names:
                    # `from qcity_nb.data import fetch` names a module; any other `from` names a module's member.
                    full = f"{module}.{alias.name}"
                    is_module = module in ("qcity_nb", "qcity_nb.testing") or full.partition(".")[2] in known
                    name = full if is_module else module
                    yield Imported(name, inside, child.lineno)
            elif isinstance(child, ast.Call) and getattr(child.func, "attr", getattr(child.func, "id", "")) in (
                "import_module",
                "__import__",
            ):
                for argument in child.args[:1]:
                    if isinstance(argument, ast.Constant):
                        yield Imported(str(argument.value), inside, child.lineno)
            yield from walk(child, is_lazy=inside)

    yield from walk(ast.parse(source), is_lazy=False)


def layer(name: str) -> int | None:
    top = name.partition(".")[0]
    for position, names in enumerate(LAYERS):
        if top in names or any(top.startswith(f"{known}_") for known in names):
            return position
    return None


def violations(modules: Mapping[str, str]) -> list[str]:
    """What is wrong with the imports of ``modules``, one line each."""
    found = []
    for module, source in modules.items():
        top = module.partition(".")[0]
        if top == "testing":
            continue
        here = layer(module)
        if here is None and module:
            found.append(f"{module}: is in no layer; place it in LAYERS")
            continue
        for item in imports(source, modules):
            where = f"{module or '__init__'}:{item.line}"
            root, _, below = item.name.partition(".")
            if not root:
                found.append(f"{where}: relative import {item.name}")
            elif root != "qcity_nb":
                if root in sys.stdlib_module_names or root == "__main__":
                    continue
                if top in STANDARD_ONLY:
                    found.append(f"{where}: {root} in a module that may use the standard library alone")
                elif root not in THIRD_PARTY.get(module, set()):
                    found.append(f"{where}: {root} is not in THIRD_PARTY for {module}")
            elif below.startswith("testing"):
                may_arm = item.is_lazy and below == "testing.chaos" and top.partition("_")[0] in MAY_ARM
                may_arm |= item.is_lazy and below == "testing.at_hub" and module in ASKS_A_HUB
                if not may_arm and not (below.startswith("testing.hub") and module in EMULATES):
                    found.append(f"{where}: imports {item.name}")
            elif here is not None and below and below != "__version__":
                there = layer(below)
                if there is None or there > here:
                    found.append(f"{where}: imports {item.name}, a layer below it")
    return found


def cycles(modules: Mapping[str, str]) -> list[str]:
    """Modules that import each other in a ring when loaded."""
    graph = {
        module: {
            name
            for item in imports(source, modules)
            if not item.is_lazy and item.name.startswith("qcity_nb.")
            for name in [item.name.removeprefix("qcity_nb.")]
            if name in modules
        }
        for module, source in modules.items()
        if module  # the root's imports are for type checkers
    }
    while leaves := {module for module, needed in graph.items() if not needed & graph.keys()}:
        for module in leaves:
            del graph[module]
    return sorted(graph)


def test_imports_go_one_way() -> None:
    assert not violations(sources())


def test_no_import_ring() -> None:
    assert not cycles(sources())


def test_every_entry_of_the_third_party_table_is_used() -> None:
    modules = sources()
    unused = [
        f"{module}: {name}"
        for module, names in THIRD_PARTY.items()
        for name in sorted(names)
        if name not in {item.name.partition(".")[0] for item in imports(modules.get(module, ""))}
    ]
    assert not unused


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("run.lease", "from qcity_nb.stores import open_store"),
        ("run.lease", "def late():\n    import qcity_nb.city"),
        ("run.lease", "from qcity_nb import keeper"),
        ("run.lease", "import importlib\nimportlib.import_module('qcity_nb.cli')"),
        ("run.lease", "import numpy"),
        ("settings", "import yaml"),
        ("data.tracked", "import dvc.api"),
        ("checkpoint.capture", "from qcity_nb.testing import chaos"),
        ("checkpoint.capture", "def late():\n    from qcity_nb.testing import chaos"),
        ("city", "from qcity_nb.testing import chaos"),
        ("city", "def late():\n    from qcity_nb.testing import store_contract"),
        ("cli", "from qcity_nb.testing.hub.server import HubServer"),
        ("city", "from . import keeper"),
        ("city", "from qcity_nb import City"),
        ("helpers", ""),
    ],
)
def test_a_planted_import_is_refused(module: str, source: str) -> None:
    assert violations({module: source})


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("city", "def late():\n    from qcity_nb.testing import chaos"),
        ("city", "from qcity_nb.keeper import keep"),
        ("cli_views", "from qcity_nb import __version__, codec"),
        ("cli_hub", "from qcity_nb.testing.hub.server import HubServer"),
        ("data.tracked", "import yaml, json"),
        ("testing.chaos", "import pytest\nfrom qcity_nb.cli import main"),
    ],
)
def test_what_the_design_allows_is_allowed(module: str, source: str) -> None:
    assert not violations({module: source})


def test_the_hub_emulator_needs_the_standard_library_alone() -> None:
    foreign = {
        f"{module}: {item.name}"
        for module, source in sources().items()
        if module.startswith("testing.hub")
        for item in imports(source, sources())
        if item.name.partition(".")[0] not in {*sys.stdlib_module_names, "qcity_nb"}
    }
    assert not foreign


def test_a_planted_ring_is_found() -> None:
    ring = {"run.a": "import qcity_nb.run.b", "run.b": "from qcity_nb.run.a import x", "run.c": "import json"}
    assert cycles(ring) == ["run.a", "run.b"]
