"""A user's own project: scripts and notebooks in it, run as a user runs them, in real processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripted_run import environment

from qcity_nb.records import Event, Head
from qcity_nb.run import journal, lease
from qcity_nb.stores import open_store

__all__ = ["UserProject"]


@dataclass
class UserProject:
    """A directory with ``[tool.qcity]`` and files beside it."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write("pyproject.toml", '[tool.qcity]\nproject = "mine"\ntracking = "none"\n')

    def write(self, name: str, text: str) -> None:
        """Write a file of the project."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def notebook(self, name: str, cells: Sequence[str]) -> None:
        """Write a notebook."""
        code: list[dict[str, object]] = [
            {"cell_type": "code", "source": text, "outputs": [], "execution_count": None, "id": f"c{n}", "metadata": {}}
            for n, text in enumerate(cells)
        ]
        self.write(name, json.dumps({"cells": code, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))

    def run(self, *command: str, **environ: str) -> tuple[int, str]:
        """Run Python in it; its exit code, and what it printed."""
        done = subprocess.run(
            [sys.executable, *command],
            cwd=self.folder,
            env={**environment(), **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        return done.returncode, done.stdout

    def qcity(self, *arguments: str, **environ: str) -> tuple[int, str]:
        """Run the command line."""
        return self.run("-m", "qcity_nb.cli", *arguments, **environ)

    def heads(self, store: str = ".qcity/store") -> list[Head]:
        """The run records of a store."""
        opened = open_store(str(self.folder / store))
        return [lease.read(opened, run).head for run in sorted(opened.runs())]

    def events(self, kind: str) -> list[Event]:
        """The events of that kind in the journal of the only run."""
        (head,) = self.heads()
        opened = open_store(str(self.folder / ".qcity/store"))
        events = journal.decode_events(head.journal, lambda name: opened.get(head.run, name))
        return [event for event in events if event.kind == kind]

    def shown(self) -> str:
        """What the cells of the executed notebook show as text."""
        (file,) = self.folder.glob(".qcity/executed/*.ipynb")
        outputs = [output for cell in json.loads(file.read_text())["cells"] for output in cell.get("outputs", [])]
        return "".join("".join(output.get("text", "")) for output in outputs)
