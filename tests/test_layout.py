"""The house: every module has a room, imports go one way, and each third-party import has an owner."""

from __future__ import annotations

import ast
import statistics
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest

PACKAGE = Path(__file__).parents[1] / "qcity_nb"

ROOT = {
    *("errors", "printable", "version", "git_remote", "records", "codec"),
    *("clock", "ports", "settings", "secrets", "crashpoints"),
}
"""Single modules at the root that every room may import; ``city`` is the other one."""

ROOMS: dict[str, set[str]] = {
    "run": set(),
    "checkpoint": set(),
    "cells": set(),
    "namespace": {"checkpoint", "cells"},
    "stores": set(),
    "tracking": set(),
    "data": set(),
    "hosts": {"run", "stores", "data"},
    "published": {"run", "checkpoint", "stores", "tracking"},
    "views": set(),
    "sidecar": {"run", "checkpoint", "stores", "tracking", "published", "views"},
    "kernel": {"run", "checkpoint", "cells", "namespace", "tracking", "hosts", "views", "sidecar"},
    "engine": {"run", "cells", "stores", "sidecar", "kernel"},
    "interactive": {"checkpoint", "cells", "namespace", "kernel"},
    "city": {"run", "stores", "data", "hosts", "sidecar", "kernel"},
    "cli": {
        *("run", "checkpoint", "namespace", "stores", "tracking", "hosts"),
        *("published", "views", "kernel", "engine"),
    },
    "testing": {"run", "stores", "tracking", "hosts", "kernel"},
}
"""The rooms, lowest first, and what each may import beside itself and the root; always something above it here."""

INNER: dict[str, tuple[tuple[str, ...], ...]] = {
    "checkpoint": (("buffer",), ("memory",), ("digest",), ("state", "storage"), ("formats",)),
    "namespace": (("handlers", "environment"),),
    "kernel": (("changes",),),
}
"""Order inside a room, lowest first; names in one bracket may not import each other, the room's other modules come
last. A name is a folder or a module of the room."""

PUBLIC = {"city", "interactive", "interactive.extension", "kernel.save_policy"}
"""Where the names that `import qcity_nb` offers come from."""

STANDARD_ONLY = {*ROOT, "run"}

THIRD_PARTY: dict[str, set[str]] = {
    "checkpoint.compare": {"numpy"},
    "checkpoint.digest": {"blake3", "xxhash"},
    "checkpoint.state.generators": {"numpy", "torch"},
    "checkpoint.formats.safetensors_dcp": {"numpy", "safetensors", "torch"},
    "checkpoint.state.buffer_targets": {"torch"},
    "checkpoint.state.pickling": {"cloudpickle"},
    "checkpoint.formats.portable": {"numpy"},
    "checkpoint.state.unpickle_functions": {"jax", "numpy", "torch"},
    "namespace.unpickle_functions": {"torch"},
    "namespace.handlers.own_savers": {"torch"},
    "namespace.handlers.string_arrays": {"numpy"},
    "namespace.pickler": {"cloudpickle"},
    "namespace.environment.display": {"matplotlib", "numpy", "pandas", "sklearn"},
    "namespace.environment.torch_settings": {"torch"},
    "stores.hub.store": {"huggingface_hub"},
    "stores.hub.branch": {"huggingface_hub"},
    "stores.hub.client": {"huggingface_hub"},
    "stores.hub.pages": {"huggingface_hub"},
    "stores.hub.probe": {"huggingface_hub"},
    "stores.hub.repository": {"huggingface_hub"},
    "data.dvc": {"tqdm"},
    "data.tracked": {"yaml"},
    "tracking.database": {"alembic", "mlflow", "sqlalchemy"},
    "tracking.mlflow": {"mlflow"},
    "tracking.timeouts": {"mlflow"},
    "hosts.hf_jobs.client": {"huggingface_hub"},
    "hosts.secret": {"google", "kaggle_secrets"},
    "engine.attempt": {"nbclient", "papermill"},
    "engine.kernel_prestart": {"jupyter_client"},
    "engine.kernel_process": {"jupyter_client"},
    "engine.paths": {"papermill"},
    "engine.notebook_writer": {"nbformat", "papermill"},
    "engine.client": {"nbclient", "papermill"},
    "engine.resume_plan": {"jupyter_client", "nbformat"},
    "engine.engine": {"papermill"},
    "cli.demo": {"mlflow"},
    "cli.demo_deaths": {"huggingface_hub"},
    "engine.entry": {"papermill"},
    "kernel.inline_plots": {"matplotlib_inline"},
    "kernel.panel": {"ipywidgets"},
    "views.loss_plot": {"matplotlib"},
    "cli.checkpoints": {"tqdm"},
    "cli.doctor": {"jupyter_client"},
    "cli.control": {"jupyter_client"},
}
"""The adapters, and what each may import. `testing` may import anything and is not listed."""

ON_DEMAND: dict[str, set[str]] = {
    "cli.demo": {"testing.chaos"},
    "cli.demo_deaths": {"testing.chaos"},
    "cli.doctor": {"testing.contracts.at_hub"},
}
"""Which testing tools may be imported, inside a function: the demo's kills, the contract at the real Hub."""

EMULATES = {"cli.hub"}
"""Where the Hub emulator may be imported: the command that serves it."""

MAX_LINES, MEDIAN_LINES, MAX_MODULES = 450, 250, 24
MAY_BE_LARGE = {"testing/emulators/hub"}
"""Folders that may hold more modules: an emulator has as many as its service has parts."""


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


def room(module: str) -> str | None:
    """The room that a module belongs to: ``root``, ``city`` or a folder; ``None``: it has no place."""
    top = module.partition(".")[0]
    if top in ("", *ROOT):
        return "root"
    return top if top in ROOMS else None


def inner_level(module: str) -> tuple[str, int, str]:
    """The room, how high in it the module stands, and the name in ``INNER`` that says so."""
    top, _, below = module.partition(".")
    levels = INNER.get(top, ())
    name = below.partition(".")[0]
    for level, names in enumerate(levels):
        if name in names:
            return top, level, name
    return top, len(levels), ""


def violations(modules: Mapping[str, str]) -> list[str]:
    """What is wrong with the imports of ``modules``, one line each."""
    found = []
    for module, source in modules.items():
        here = room(module)
        if here is None:
            found.append(f"{module}: is in no room; give it one in ROOMS, or make it a module of a room")
            continue
        for item in imports(source, modules):
            where = f"{module or '__init__'}:{item.line}"
            root, _, below = item.name.partition(".")
            if not root:
                found.append(f"{where}: relative import {item.name}")
            elif root != "qcity_nb":
                if here == "testing" or root in sys.stdlib_module_names or root == "__main__":
                    continue
                if here in STANDARD_ONLY or here == "root":
                    found.append(f"{where}: {root} in a module that may use the standard library alone")
                elif root not in THIRD_PARTY.get(module, set()):
                    found.append(f"{where}: {root} is not in THIRD_PARTY for {module}")
            elif trouble := _misplaced(module, here, below, is_lazy=item.is_lazy):
                found.append(f"{where}: {trouble}")
    return found


def _misplaced(module: str, here: str, below: str, *, is_lazy: bool) -> str:
    """Why ``module`` may not import the module ``below``; empty: it may."""
    if module == "" and below in PUBLIC:
        return ""
    if below.startswith("testing") and here != "testing":
        if is_lazy and below in ON_DEMAND.get(module, ()):
            return ""
        return (
            "" if below.startswith("testing.emulators.hub") and module in EMULATES else f"imports {below}, a test tool"
        )
    there = room(below)
    if there is None:
        return f"imports {below}, which is in no room"
    if there == here:
        (_, mine, my_name), (_, other, other_name) = inner_level(module), inner_level(below)
        if other > mine or (other == mine and my_name != other_name):
            return f"imports {below}, which stands higher in {here} or beside it"
        return ""
    if there == "root" or there in ROOMS.get(here, ()):
        return ""
    return f"imports {below}: {here} may import {', '.join(['root', *sorted(ROOMS.get(here, ()))])}"


def circles(modules: Mapping[str, str]) -> list[str]:
    """Modules that import each other in a ring, imports inside functions counted."""
    graph = {
        module: {
            name
            for item in imports(source, modules)
            if item.name.startswith("qcity_nb.")
            for name in [item.name.removeprefix("qcity_nb.")]
            if name in modules and name != module
        }
        for module, source in modules.items()
        if module  # the public names at the root, which nobody inside imports
    }
    while True:
        needed = set().union(*graph.values()) if graph else set()
        ends = {module for module, its in graph.items() if not its & graph.keys() or module not in needed}
        if not ends:
            return sorted(graph)
        for module in ends:
            del graph[module]


def sizes(lines: Mapping[str, int], name: str = "a module") -> list[str]:
    """Modules that are too long, and whether most of them are; ``lines`` by path below the package."""
    found = [f"{path}: {count} lines, {MAX_LINES} at most" for path, count in lines.items() if count > MAX_LINES]
    middle = statistics.median(lines.values())
    if middle > MEDIAN_LINES:
        found.append(f"the median of {name} is {middle:g} lines, {MEDIAN_LINES} at most")
    return found


def crowded(paths: Iterable[str]) -> list[str]:
    """Folders with too many modules; ``paths`` below the package, ``__init__`` not counted."""
    counts = Counter(PurePosixPath(path).parent.as_posix() for path in paths if not path.endswith("__init__.py"))
    return [
        f"{folder}: {count} modules, {MAX_MODULES} at most"
        for folder, count in counts.items()
        if count > MAX_MODULES and folder not in MAY_BE_LARGE
    ]


def unsigned(folder: str, docstring: str) -> list[str]:
    """What the first words of a folder's ``__init__`` do not say of what it imports and who imports it."""
    top = folder.partition(".")[0]
    if folder != top:
        return [] if docstring.strip() else [f"{folder}: says nothing of what is in it"]
    allowed = ["root", *(name for name in ROOMS if name in ROOMS[top])]
    users = [name for name, its in ROOMS.items() if top in its]
    wanted = [f"May import: {', '.join(allowed)}.", f"Imported by: {', '.join(users) or 'nobody'}."]
    text = " ".join(docstring.split())
    return [f"{folder}: its __init__ should say {line!r}" for line in wanted if line not in text]


def test_imports_go_one_way() -> None:
    assert not violations(sources())


def test_each_room_imports_rooms_below_it_alone() -> None:
    order = list(ROOMS)
    assert not [
        (name, other) for name, its in ROOMS.items() for other in its if order.index(other) >= order.index(name)
    ]


def test_no_room_may_import_what_it_does_not() -> None:
    modules = sources()
    used: dict[str, set[str]] = {name: set() for name in ROOMS}
    for module, source in modules.items():
        for item in imports(source, modules):
            if item.name.startswith("qcity_nb.") and (here := room(module)) in used and here is not None:
                used[here].add(str(room(item.name.removeprefix("qcity_nb."))))
    assert not {name: sorted(its - used[name]) for name, its in ROOMS.items() if its - used[name]}


def test_no_import_circle() -> None:
    assert not circles(sources())


def test_modules_are_short() -> None:
    files = [file for file in PACKAGE.rglob("*.py") if file.name != "__init__.py"]
    counted = {file.relative_to(PACKAGE).as_posix(): len(file.read_text("utf-8").splitlines()) for file in files}
    assert not sizes(counted)


def test_no_folder_is_crowded() -> None:
    assert not crowded(file.relative_to(PACKAGE).as_posix() for file in PACKAGE.rglob("*.py"))


def test_every_folder_says_what_is_in_it() -> None:
    folders = {
        file.parent.relative_to(PACKAGE).as_posix().replace("/", "."): ast.get_docstring(
            ast.parse(file.read_text("utf-8"))
        )
        for file in PACKAGE.rglob("__init__.py")
        if file.parent != PACKAGE
    }
    assert folders.keys() >= ROOMS.keys() - {"city"}
    assert not [line for folder, text in folders.items() for line in unsigned(folder, text or "")]


def test_unit_tests_mirror_the_package() -> None:
    here = Path(__file__).parent / "unit"
    folders = {file.parent.relative_to(here) for file in here.rglob("test_*.py")}
    assert not sorted(
        str(folder) for folder in folders if folder.parts != ("support",) and not (PACKAGE / folder).is_dir()
    )


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
        ("run.keeper", "from qcity_nb import hosts"),
        ("run.lease", "import importlib\nimportlib.import_module('qcity_nb.cli')"),
        ("run.lease", "import numpy"),
        ("settings", "import yaml"),
        ("settings", "from qcity_nb.run import lease"),
        ("views.words", "from qcity_nb.stores import open_store"),
        ("published.read", "from qcity_nb.sidecar.restore import adopt"),
        ("kernel.session", "from qcity_nb.engine import engine"),
        ("engine.attempt", "from qcity_nb.interactive import extension"),
        ("interactive.follower", "from qcity_nb.engine import attempt"),
        ("checkpoint.storage.pack", "from qcity_nb.checkpoint.state.capture import capture"),
        ("checkpoint.state.capture", "from qcity_nb.checkpoint.storage import pack"),
        ("checkpoint.memory", "from qcity_nb.checkpoint.state import gpu"),
        ("checkpoint.state.capture", "from qcity_nb.checkpoint.engine import Engine"),
        ("namespace.handlers.files", "from qcity_nb.namespace.snapshot import Space"),
        ("data.tracked", "import dvc.api"),
        ("checkpoint.state.capture", "from qcity_nb.testing import chaos"),
        ("checkpoint.state.capture", "def late():\n    from qcity_nb.testing import chaos"),
        ("city", "def late():\n    from qcity_nb.testing import chaos"),
        ("cli.demo", "from qcity_nb.testing import chaos"),
        ("cli.run", "from qcity_nb.testing.emulators.hub.server import HubServer"),
        ("city", "from . import keeper"),
        ("city", "from qcity_nb import City"),
        ("city", "from qcity_nb.cli import main"),
        ("helpers", ""),
        ("notebook.loop", ""),
    ],
)
def test_a_planted_import_is_refused(module: str, source: str) -> None:
    assert violations({module: source})


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("city", "from qcity_nb.sidecar import start"),
        ("cli.run", "from qcity_nb import codec\nfrom qcity_nb.run.keeper import Keeper"),
        ("cli.demo", "def late():\n    from qcity_nb.testing import chaos"),
        ("cli.hub", "from qcity_nb.testing.emulators.hub.server import HubServer"),
        ("checkpoint.engine", "from qcity_nb.checkpoint.state import freezer"),
        ("checkpoint.formats.flat", "from qcity_nb.checkpoint.state.pickling import dump"),
        ("data.tracked", "import yaml, json"),
        ("testing.chaos", "import pytest\nfrom qcity_nb.kernel.session import Session"),
    ],
)
def test_what_the_design_allows_is_allowed(module: str, source: str) -> None:
    assert not violations({module: source})


def test_the_hub_emulator_needs_the_standard_library_alone() -> None:
    foreign = {
        f"{module}: {item.name}"
        for module, source in sources().items()
        if module.startswith("testing.emulators.hub")
        for item in imports(source, sources())
        if item.name.partition(".")[0] not in {*sys.stdlib_module_names, "qcity_nb"}
    }
    assert not foreign


@pytest.mark.parametrize(
    "back", ["from qcity_nb.run.a import x", "def late():\n    from qcity_nb.run.a import x", "import qcity_nb.run.a"]
)
def test_a_planted_circle_is_found(back: str) -> None:
    ring = {"run.a": "import qcity_nb.run.b", "run.b": back, "run.c": "import qcity_nb.run.a", "run.d": "import json"}
    assert circles(ring) == ["run.a", "run.b"]


def test_planted_sizes_are_found() -> None:
    assert sizes({"a.py": MAX_LINES + 1, "b.py": 10, "c.py": 10})
    assert sizes({"a.py": MEDIAN_LINES + 1, "b.py": MEDIAN_LINES + 1, "c.py": 10})
    assert crowded([f"run/m{n}.py" for n in range(MAX_MODULES + 1)])
    assert not crowded([*(f"run/m{n}.py" for n in range(MAX_MODULES)), "run/__init__.py"])


def test_a_folder_that_says_nothing_is_found() -> None:
    assert unsigned("run", "The protocol.")
    assert unsigned("stores.hub", "")
