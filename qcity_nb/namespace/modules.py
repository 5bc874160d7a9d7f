"""Modules in the namespace: saved by name, imported on restore."""

from __future__ import annotations

import importlib
import re
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from qcity_nb.namespace.records import NotSaved
from qcity_nb.namespace.unsaveable import kind_name

__all__ = ["cells_imports", "importable", "import_all"]

_IMPORT = re.compile(r"^[ \t]*import[ \t]+([^#\n;]+)", re.MULTILINE)
_NAME = re.compile(r"\w+(\.\w+)+")


def importable(value: object) -> str:
    """The name by which a module can be imported; "" for any other object."""
    if type(value) is not types.ModuleType and not (isinstance(type(value), type) and _is_module(value)):
        return ""
    module: Any = value
    name = getattr(module, "__name__", "")
    return name if isinstance(name, str) and sys.modules.get(name) is value else ""


def _is_module(value: object) -> bool:
    return issubclass(type(value), types.ModuleType)


def cells_imports(live: Mapping[str, Any], modules: Mapping[str, str]) -> Iterator[str]:
    """Submodules that cells imported in the form ``import xml.dom.minidom``, which binds only the package.

    Only loaded modules whose package is a variable; the cells are those in IPython's ``In``.
    """
    cells = live.get("In", ())
    if not isinstance(cells, list):
        return
    for cell in list(cells):
        if not isinstance(cell, str) or "import" not in cell:
            continue
        for line in _IMPORT.findall(cell):
            for part in line.split(","):
                name = part.strip()
                package = name.partition(".")[0]
                if _NAME.fullmatch(name) and name in sys.modules and modules.get(package) == package:
                    yield name


def import_all(modules: Mapping[str, str], live: dict[str, Any]) -> Iterable[NotSaved]:
    """Import each and bind it; a key with a dot is only imported. Yields those that cannot be imported."""
    for variable, name in modules.items():
        try:
            module = importlib.import_module(name)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - importing runs any code
            root = name.partition(".")[0]
            is_missing = isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == root
            if "." in variable:
                continue  # its package is bound; using the missing part raises an error
            yield NotSaved(
                name=variable,
                kind="module",
                why=f"the module {name} is not installed here"
                if is_missing
                else f"the module {name} cannot be imported ({kind_name(error)}: {error})",
                advice=f"%pip install {root}, then import it again" if is_missing else "import it again",
            )
        else:
            if "." not in variable:
                live[variable] = module
