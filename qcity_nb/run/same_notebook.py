"""Is the unfinished run that was found this notebook's? Asked where only the name of a directory says so.

Two projects that both lie in a directory called ``content`` have the same key for notebooks of one name. Their code
tells them apart: an edited notebook keeps some of its statements, another project's shares hardly any.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from qcity_nb.errors import Missing, UsageError
from qcity_nb.ports import Store
from qcity_nb.records import Head
from qcity_nb.settings import Project

__all__ = ["cells_of", "check_by_hand", "check_same_notebook", "statements"]

_SHARED = 0.2
"""Two notebooks of which less than this share of the shorter one's statements is in the other are two projects'."""
_MAGIC = re.compile(r"^\s*[%!?].*$", re.MULTILINE)
_TRIVIAL = (ast.Import, ast.ImportFrom, ast.Pass, ast.Break, ast.Continue, ast.Global, ast.Nonlocal)


def check_same_notebook(
    store: Store, head: Head, project: Project, cells: Iterable[str], *, name: str, fresh: str
) -> bool:
    """Compare the code at hand with the notebook that is stored with the run.

    Args:
        cells: the source of the code cells: of the notebook's file, or as far as this kernel executed them.
        name, fresh: how the caller's user names a run, and begins a new one.
    Returns: whether that was possible, or needless: the project has a name that is not only its directory's.
    Raises:
        UsageError: they share next to nothing, so the run is another project's; the message names it.
        StoreUnavailable: the store did not answer.
    """
    if project.name_from != "the directory":
        return True
    try:
        stored = statements(cells_of(store.get(head.run, head.source))) if head.source else set()
    except Missing:
        stored = set()
    here = statements(cells)
    if not stored or not here:
        return False
    if len(stored & here) < _SHARED * min(len(stored), len(here)):
        raise UsageError(
            f"the unfinished run {head.run}, made {head.created}, was found by the name of the directory "
            f"({project.name}) and of the notebook, but its notebook shares no code with this one: {name} names this "
            f"run, {fresh} begins a new one under the same name, and `qcity resume {head.run}` resumes the other; "
            "`project` in [tool.qcity] of pyproject.toml names the project"
        )
    return True


def check_by_hand(
    store: Store, head: Head, is_new: bool, project: Project, notebook: bytes, executed: Iterable[object]
) -> None:
    """Compare in a kernel, by the notebook's file, else by the cells that were executed so far.

    Where nothing can be compared, as in Colab, it prints which run resumes.

    Args:
        notebook: the content of its file; empty if that is not known.
    Raises: see ``check_same_notebook``.
    """
    cells = cells_of(notebook) if notebook else [str(cell) for cell in executed]
    options = {"name": 'up(name="…")', "fresh": "up(fresh=True)"}
    if not is_new and not check_same_notebook(store, head, project, cells, **options) and not notebook:
        line = f"qcity: the unfinished run {head.run}, made {head.created}, resumes"
        print(f'{line}; another project needs up(name="…")', file=sys.stderr)  # noqa: T201


def cells_of(notebook: bytes) -> list[str]:
    """The source of a notebook's code cells; empty if it is not a notebook."""
    try:
        cells: list[Mapping[str, Any]] = json.loads(notebook)["cells"]
        return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (ValueError, LookupError, TypeError):
        return []


def statements(cells: Iterable[str]) -> set[str]:
    """The simple statements, and the heads of compound ones, without layout, imports, magics and ``qcity.up()``."""
    return {text for cell in cells for text in _split(cell) if "qcity.up(" not in text}


def _split(cell: str) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a string's escapes, say: the kernel shows its own
            tree = ast.parse(_MAGIC.sub("", cell))
    except (SyntaxError, ValueError, RecursionError):  # another magic, or another language
        yield from filter(None, (line.strip() for line in cell.splitlines()))
        return
    for node in ast.walk(tree):
        if not isinstance(node, ast.stmt) or isinstance(node, _TRIVIAL):
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        text = ast.unparse(node)
        yield text.partition("\n")[0] if hasattr(node, "body") else text
