"""Notebooks whose cells say that they ran, and attempts at them by papermill with our engine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from qcity_nb.kernel.panel import is_panel
from qcity_nb.published.read import events
from qcity_nb.records import Event, Head
from qcity_nb.run import lease
from qcity_nb.stores import open_store

ROOT = Path(__file__).parents[2]

KILL = """
import os, signal, sys
def kill():
    "Kills this kernel once the snapshot after the last cell is on the disk."
    side = sys.modules.get("qcity_nb.kernel.engine_requests")
    if side is not None and side._session is not None:
        side._session.finish_save()
    os.kill(os.getpid(), signal.SIGKILL)
"""
DIE = (
    KILL
    + """
from pathlib import Path
def die(place):
    "Kills this kernel when the run comes here for the first time."
    if not Path("deaths", place).exists():
        Path("deaths", place).touch()
        kill()
"""
)
DIED = 138
"""papermill's exit code where the kernel died."""


@dataclass(frozen=True)
class Cell:
    """A code cell."""

    source: str
    tags: tuple[str, ...] = ()


@dataclass
class ResumeWorld:
    """A directory with one notebook. Each attempt is a new kernel."""

    folder: Path
    extra: str = ""
    kernel: str = "python3"

    def __post_init__(self) -> None:
        self.folder.joinpath("deaths").mkdir(parents=True)
        self.folder.joinpath("pyproject.toml").write_text(
            f'[tool.qcity]\nproject = "resume"\ntracking = ""\n{self.extra}'
        )

    def write(self, *cells: str | Cell, first: str = DIE) -> None:
        """The notebook: ``first`` before the rest, and each cell writes its number into ``ran`` when it begins."""
        made = []
        for number, cell in enumerate((first, *cells)):
            code_cell = cell if isinstance(cell, Cell) else Cell(cell)
            log_line = f"open({str(self.folder / 'ran')!r}, 'a').write('{number}\\n')  # {'-' * 9}\n"
            lead = "" if code_cell.source.lstrip().startswith("%") else log_line.replace("open", "_ = open", 1)
            code = nbformat.v4.new_code_cell(lead + code_cell.source.strip(), id=f"c{number}")
            code.metadata["tags"] = list(code_cell.tags)
            made.append(code)
        spec = {"name": self.kernel, "display_name": "Python 3", "language": "python"}
        book = nbformat.v4.new_notebook(cells=made, metadata={"kernelspec": spec})
        nbformat.write(book, self.folder / "in.ipynb")

    def attempt(self, *options: str, code: int = 0, **environ: str) -> str:
        """One attempt; what it said on stderr."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("QCITY_")}
        path = os.pathsep.join([str(ROOT), inherited.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", "papermill", "--engine", "qcity", "in.ipynb", "out.ipynb", "--no-progress-bar"]
        environ = {"QCITY_SNAPSHOT_TIME_SHARE": "1000", **environ}
        done = subprocess.run(
            [*command, *options],
            cwd=self.folder,
            env={
                **inherited,
                "PYTHONPATH": path,
                "IPYTHONDIR": str(self.folder / "ipython"),
                "MPLBACKEND": "",
                **environ,
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, (done.returncode, done.stdout[-3000:], done.stderr[-3000:])
        return done.stderr

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Any command, there."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith("QCITY_")}
        return subprocess.run(
            command, cwd=self.folder, env=environ, capture_output=True, text=True, timeout=120, check=False
        )

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for it, a minute at most."""
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.1)

    @property
    def book(self) -> Any:
        """The executed notebook."""
        return nbformat.read(self.folder / "out.ipynb", as_version=4)

    def shown(self) -> list[list[Any]]:
        """What each code cell shows: text of streams, displays and errors, our panel aside."""
        cells = [cell for cell in self.book.cells if cell.cell_type == "code"]
        return [[_text(output) for output in cell.outputs if not is_panel(output)] for cell in cells]

    def counts(self) -> list[int | None]:
        """The cells' execution counts."""
        return [cell.execution_count for cell in self.book.cells]

    def ran(self) -> list[int]:
        """How often each cell began."""
        lines = Counter(int(line) for line in (self.folder / "ran").read_text().split())
        return [lines[number] for number in range(max(lines) + 1)]

    @property
    def head(self) -> Head:
        """The run's head; there is one run."""
        store = open_store(str(self.folder / ".qcity/store"))
        (run,) = store.runs()
        return lease.read(store, run).head

    def events(self, kind: str) -> list[Event]:
        """The run's journal, one kind of line."""
        store = open_store(str(self.folder / ".qcity/store"))
        head = self.head
        return [event for event in events(store, head.run, head) if event.kind == kind]


def _text(output: Any) -> Any:
    if output.output_type == "stream":
        return output.text
    if output.output_type == "error":
        return f"{output.ename}: {output.evalue}"
    return output.data.get("text/html") or output.data["text/plain"]
