"""A disk that is full while a file says so: for tests, which cannot mount one without being root.

``install(folder)`` writes a ``sitecustomize.py`` there; with that folder first in PYTHONPATH, every process refuses to
open a file for writing below the directory that ``FULL_DISK`` names, as long as ``<directory>.full`` exists.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["install"]

_CODE = """
import errno, io, os
where = os.environ.get("FULL_DISK", "")
if where:
    real_open, real_io = os.open, io.open

    def check(path, writes):
        if writes and isinstance(path, (str, os.PathLike)) and os.path.exists(where + ".full"):
            if os.path.abspath(os.fspath(path)).startswith(where + os.sep):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path))

    def opened(path, flags, *args, **kwargs):
        check(path, flags & (os.O_WRONLY | os.O_RDWR))
        return real_open(path, flags, *args, **kwargs)

    def io_opened(file, mode="r", *args, **kwargs):
        check(file, set(mode) & set("wax+"))
        return real_io(file, mode, *args, **kwargs)

    import builtins
    os.open, io.open, builtins.open = opened, io_opened, io_opened
"""


def install(folder: Path) -> Path:
    """Write it; returns the folder for PYTHONPATH."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(_CODE)
    return folder
