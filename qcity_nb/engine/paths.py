"""Where papermill finds a notebook."""

from __future__ import annotations

from pathlib import Path

from papermill.iorw import LocalHandler, papermill_io

__all__ = ["local_path", "path_of"]


def local_path(path: object) -> Path | None:
    """Where papermill reads or writes that path on this machine's disk; ``None``: elsewhere.

    papermill's paths start from where it was called, whatever ``--cwd`` says.
    """
    handler = papermill_io.get_handler(path)
    if not isinstance(handler, LocalHandler):
        return None
    # Links are followed: what is replaced is the file.
    return Path(handler._cwd or ".", str(path)).resolve()


def path_of(given: object) -> Path:
    """The path of papermill's input, to look for the project around it; a notebook given as an object has none."""
    return local_path(given) or Path(given if isinstance(given, str) else "notebook")
