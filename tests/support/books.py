"""The eight notebooks that runs are killed in: cells of ``tests/books/*.py``, each of which first notes that it ran.

Deterministic: seeds, no clock, no addresses. The last cell prints a digest of each variable (``book_digest``). Work of
one to three seconds on one core, with real libraries; aliases, views and shared objects that a later cell changes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat

__all__ = ["BOOKS", "Book", "Shown", "shown"]

FOLDER = Path(__file__).resolve().parent.parent / "books"
_MARK = re.compile(r"^# %%.*$", re.MULTILINE)
_WORDS = "a line of the project's own file\n" + "".join(f"word{k * 7919 % 10007:05d}\n" for k in range(2000))


@dataclass(frozen=True, slots=True)
class Book:
    """A notebook that is killed.

    Args:
        again: from this cell on all may run again though they are finished: it makes what cannot be carried over, and
            a later one needs it. 0: none may.
        files: what the project holds beside it, by name.
    """

    name: str
    again: int = 0
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def cells(self) -> list[str]:
        """The source of each cell, as people wrote it."""
        _, *cells = _MARK.split((FOLDER / f"{self.name}.py").read_text(encoding="utf-8"))
        return [cell.strip() for cell in cells]

    def notebook(self) -> Any:
        """The notebook; the same ids each time, so that it is the same notebook."""
        cells = [
            nbformat.v4.new_code_cell(f'__import__("book_log").ran({n})\n{source}', id=f"cell-{n}")
            for n, source in enumerate(self.cells, 1)
        ]
        spec = {"name": "python3", "display_name": "Python", "language": "python"}
        return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": spec})

    def write(self, folder: Path) -> Path:
        """Write notebook and files into a project's directory; returns the notebook's path."""
        for name, content in self.files.items():
            (folder / name).write_text(content, encoding="utf-8")
        path = folder / f"{self.name}.ipynb"
        nbformat.write(self.notebook(), path)
        return path


BOOKS = {
    book.name: book
    for book in (
        Book("frames"),
        Book("search"),
        Book("tied"),
        Book("plots"),
        Book("closures"),
        # Its generator is made in 2, and the file that only one host has in 4.
        Book("streams", again=2, files={"words.txt": _WORDS}),
        Book("widgets", again=2),
        Book("nested"),
    )
}

Shown = list[tuple[int | None, list[Any]]]
"""Of each cell: its execution count and what it shows."""

_VIEW = "application/vnd.jupyter.widget-view+json"
_STATE = "application/vnd.jupyter.widget-state+json"
_MODEL = re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")
_OURS = "application/vnd.qcity"


def shown(data: str) -> Shown:
    """What a reader of an executed notebook sees.

    Pieces of a stream are joined, for how they arrive is the network's matter; a widget is its state, not its id; the
    panel of ours is left out.
    """
    book = nbformat.reads(data, as_version=4)
    states = book.metadata.get("widgets", {}).get(_STATE, {}).get("state", {})
    result: Shown = []
    for cell in book.cells:
        mine: list[Any] = []
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                if mine and mine[-1][0] == output.name:
                    mine[-1] = (output.name, mine[-1][1] + output.text)
                else:
                    mine.append((output.name, output.text))
            elif output.output_type == "error":
                mine.append(("error", output.ename, output.evalue))
            elif not any(name.startswith(_OURS) for name in output.data):
                pieces = {name: _piece(name, each, states) for name, each in output.data.items()}
                mine.append((output.output_type, output.get("execution_count"), pieces, dict(output.metadata)))
        result.append((cell.get("execution_count"), mine))
    return result


def _piece(name: str, content: Any, states: Mapping[str, Any]) -> Any:
    if name == _VIEW:
        return _widget(content["model_id"], states, frozenset())
    return _MODEL.sub("…", content) if isinstance(content, str) else content


def _widget(model: str, states: Mapping[str, Any], above: frozenset[str]) -> Any:
    """A widget and those in it by content; ``None``: the notebook does not hold its state."""
    if model not in states or model in above:
        return None

    def plain(value: Any) -> Any:
        if isinstance(value, str) and value.startswith("IPY_MODEL_"):
            return _widget(value.removeprefix("IPY_MODEL_"), states, above | {model})
        if isinstance(value, list):
            return [plain(each) for each in value]
        return value

    state = states[model]["state"]
    return states[model]["model_name"], {key: plain(state[key]) for key in sorted(state)}
