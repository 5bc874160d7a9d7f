"""Re-runs the magics of finished cells that configure the shell."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator
from typing import Any

from qcity_nb.cells.setup_magics import setup_lines

__all__ = ["rerun"]


def rerun(shell: Any, sources: Iterable[str]) -> list[str]:
    """Re-run the magics in these cells that configure the shell, in order; their output is discarded.

    Returns: a sentence for each that failed.
    """
    return [note for source in sources for line in setup_lines(source) for note in _run(shell, line)]


def _run(shell: Any, line: str) -> Iterator[str]:
    code = shell.transform_cell(line)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            exec(code, shell.user_ns)  # noqa: S102 - as the cell ran it: a magic's `$name` is a variable of the caller's
    except Exception as error:  # noqa: BLE001 - an extension runs any code
        yield f"`{line}` could not be re-run ({type(error).__name__}: {error})."
