"""Reads a notebook that is to be run: is it valid, and which parameters does it take?

Parameters are the plain assignments in the cell tagged ``parameters``, as in papermill. Values from a command line are
text; they are converted to the type of the notebook's default.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qcity_nb.errors import NotebookInvalid, UsageError

__all__ = ["RunnableNotebook", "read", "type_parameters"]

_UNKNOWN = object()
"""The default of a parameter whose value is not a plain literal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnableNotebook:
    """A notebook that can be run."""

    content: bytes
    defaults: Mapping[str, Any] | None
    """Parameters and their defaults; ``None``: no cell is tagged ``parameters``."""
    kernel: str = "python3"
    """The name of its kernel."""


def read(path: Path) -> RunnableNotebook:
    """The notebook at ``path``.

    Raises:
        NotebookInvalid: it is missing, cannot be read, is not a notebook, or has no code.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise NotebookInvalid(f"no notebook {path}") from None
    except OSError as error:
        raise NotebookInvalid(f"{path} cannot be read: {error.strerror}") from None
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise NotebookInvalid(f"{path} is not a notebook: not JSON ({error})") from None
    cells = document.get("cells") if isinstance(document, dict) else None
    if not isinstance(cells, list) or not isinstance(document.get("nbformat"), int):
        raise NotebookInvalid(f"{path} is not a notebook: it has no cells or no nbformat")
    if document["nbformat"] != 4:
        raise NotebookInvalid(
            f"{path} has nbformat {document['nbformat']}: convert it with `jupyter nbconvert --to notebook`"
        )
    if not all(isinstance(cell, dict) and isinstance(cell.get("cell_type"), str) for cell in cells):
        raise NotebookInvalid(f"{path} is not a notebook: a cell has no type")
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    if not any(_source(cell).strip() for cell in code):
        raise NotebookInvalid(f"{path} has no code to run")
    tagged = [cell for cell in code if "parameters" in (cell.get("metadata") or {}).get("tags", [])]
    kernel = ((document.get("metadata") or {}).get("kernelspec") or {}).get("name") or "python3"
    return RunnableNotebook(
        content=content, defaults=_defaults(_source(tagged[0])) if tagged else None, kernel=str(kernel)
    )


def _source(cell: Mapping[str, Any]) -> str:
    source = cell.get("source", "")
    return "".join(map(str, source)) if isinstance(source, list) else str(source)


def _defaults(source: str) -> dict[str, Any]:
    # Magics are not Python; the rest of the cell can still be parsed.
    text = re.sub(r"(?m)^[ \t]*[%!].*$", "pass", source)
    try:
        body = ast.parse(text).body
    except SyntaxError:
        names = re.findall(r"(?m)^([A-Za-z_]\w*)\s*(?::[^=\n]+)?=(?!=)", source)
        return dict.fromkeys(names, _UNKNOWN)
    defaults: dict[str, Any] = {}
    for node in body:
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        for target in targets:
            if isinstance(target, ast.Name):
                defaults[target.id] = _literal(getattr(node, "value", None))
    return defaults


def _literal(node: ast.expr | None) -> Any:
    if node is None:
        return _UNKNOWN
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return _UNKNOWN


_WORDS: Mapping[str, Any] = {
    "true": True,
    "True": True,
    "false": False,
    "False": False,
    "null": None,
    "None": None,
    "~": None,
}


def _guess(text: str) -> Any:
    """A value without a default's type: a number, a truth value, ``None``, a JSON list or object, else text."""
    if text in _WORDS:
        return _WORDS[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    if text[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def _fit(name: str, text: str, default: Any) -> Any:
    value = _guess(text)
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise UsageError(f"-p {name} {text!r}: true or false is needed (the default is {default})")
    elif isinstance(default, int | float) and (not isinstance(value, int | float) or isinstance(value, bool)):
        if value is not None:
            raise UsageError(f"-p {name} {text!r}: a number is needed (the default is {default!r})")
    elif isinstance(default, float) and isinstance(value, int):
        return float(value)
    return value


def type_parameters(
    document: RunnableNotebook, arguments: Iterable[tuple[str, str]], *, notebook: str
) -> dict[str, Any]:
    """The parameters of a command line, each checked and converted by the notebook's default.

    Raises:
        UsageError: a parameter that the notebook does not have, that occurs twice, or whose value has the wrong type.
    """
    values: dict[str, Any] = {}
    for name, text in arguments:
        if document.defaults is None:
            raise UsageError(f"-p {name}: {notebook} takes no parameters; tag the cell that sets them `parameters`")
        if name not in document.defaults:
            known = ", ".join(sorted(document.defaults)) or "none"
            raise UsageError(f"-p {name}: {notebook} has no such parameter; it has {known}")
        if name in values:
            raise UsageError(f"-p {name} is given twice")
        values[name] = _fit(name, text, document.defaults[name])
    return values
