"""Where papermill finds a notebook."""

from __future__ import annotations

from pathlib import Path

from papermill.iorw import LocalHandler, papermill_io

__all__ = ["local_path", "path_of"]


def local_path(path: object) -> Path | None:
    """Where papermill reads or writes that path on this machine's disk; ``None``: it is elsewhere.

    papermill's paths are relative to the directory where it was called, whatever ``--cwd`` says.
    """
    handler = papermill_io.get_handler(path)
    if not isinstance(handler, LocalHandler):
        return None
    # Links are followed, so that the file itself is replaced.
    return Path(handler._cwd or ".", str(path)).resolve()


def path_of(source: object) -> Path:
    """The path of papermill's input, from which the project is looked up; a notebook passed as an object has none."""
    return local_path(source) or Path(source if isinstance(source, str) else "notebook")
