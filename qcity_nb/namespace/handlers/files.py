"""Open files: reopened at their position. What was written after the capture is cut off.

Not restored: the ``newline`` argument of a text file, and ``buffering``, since Python has no way to read them. SQLite
connections to a file are opened again, without registered functions and collations, ``detect_types`` and
``check_same_thread``.
"""

from __future__ import annotations

import importlib
import io
import os
import stat
import sys
from pathlib import Path
from typing import IO, Any

from qcity_nb.namespace.handlers.not_saved import Lost

__all__ = ["HANDLERS", "closed_file", "connection", "open_file", "standard_stream"]

_STREAMS = ("stdin", "stdout", "stderr", "__stdin__", "__stdout__", "__stderr__")


def standard_stream(name: str) -> Any:
    """``sys.stdout`` and the like, as they are in this process."""
    return getattr(sys, name)


def open_file(
    path: str, mode: str, position: int, size: int, is_text: bool, encoding: str | None, errors: str | None
) -> IO[Any]:
    """The file at ``path``, at ``position``.

    Args:
        mode: the mode in which it was opened.
        size: its size at the capture; a file that is open for writing is truncated to it.
    Raises:
        Lost: it does not exist, or is shorter.
    """
    try:
        actual = Path(path).stat().st_size
    except OSError as error:
        raise Lost(
            f"its file {path} cannot be found ({error.strerror})", "bring the file, then open it again"
        ) from None
    if actual < size:
        raise Lost(f"its file {path} has {actual} bytes, and had {size}", "re-run the cell that writes it")
    is_appended = mode.startswith("a")
    is_written = is_appended or "w" in mode or "x" in mode or "+" in mode
    how = "a+" if is_appended and "+" in mode else "a" if is_appended else "r+" if is_written else "r"
    try:
        made: IO[Any] = open(  # noqa: SIM115, PTH123 - it stays open for the notebook
            path, how if is_text else f"{how}b", encoding=encoding, errors=errors
        )
    except OSError as error:
        raise Lost(f"its file {path} cannot be opened ({error.strerror})", "fix that, then open it again") from None
    try:
        if is_written and actual > size:
            os.truncate(made.fileno(), size)
        made.seek(position)
    except (OSError, ValueError) as error:
        made.close()
        raise Lost(f"its file {path} cannot be restored to its position ({error})", "open it again") from None
    return made


def closed_file(name: str, mode: str, is_text: bool) -> IO[Any]:
    """A closed file, as ``with`` leaves it."""
    made: Any = open(os.devnull, "r" if is_text else "rb")  # noqa: SIM115, PTH123 - closed below
    raw = made.buffer.raw if is_text else made.raw
    made.close()
    raw.name = name
    if is_text:
        made.mode = mode
    return made  # type: ignore[no-any-return]  # it has attributes that IO has not


def _has_own_way(cls: type) -> bool:
    """Does a library's file class define how it is pickled? Those of fsspec do."""
    for kind in cls.__mro__:
        if kind.__module__ in ("io", "_io"):
            return False
        if any(way in kind.__dict__ for way in ("__reduce__", "__reduce_ex__", "__getstate__")):
            return True
    return False


def _file(value: Any) -> Any:
    for stream in _STREAMS:
        if value is getattr(sys, stream, None):
            return standard_stream, (stream,)
    is_text = isinstance(value, io.TextIOWrapper)
    if type(value) not in (io.TextIOWrapper, io.BufferedReader, io.BufferedWriter, io.BufferedRandom, io.FileIO):
        if _has_own_way(type(value)):
            return NotImplemented
        raise Lost("it is an open stream, which lives only in this process", "open it again")
    name: Any = getattr(value, "name", None)
    mode = str(getattr(value, "mode", ""))
    if value.closed:
        return closed_file, (str(name), mode, is_text)
    if not isinstance(name, str):
        raise Lost("it is an open file without a name", "open it again")
    if "r" not in mode or "+" in mode:
        value.flush()
    status = os.fstat(value.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise Lost(f"{name} is not a regular file", "open it again")
    try:
        is_there = os.path.samestat(status, Path(name).stat())
    except OSError:
        is_there = False
    if not is_there:
        raise Lost(f"its file {name} was deleted or moved", "open it again")
    try:
        position = value.tell()
    except OSError as error:
        raise Lost(f"its position cannot be read ({error})", "read it with readline() or read()") from None
    encoding, errors = (value.encoding, value.errors) if is_text else (None, None)
    return open_file, (name, mode, position, status.st_size, is_text, encoding, errors)


def connection(path: str, isolation_level: str | None, row_factory: Any, text_factory: Any) -> Any:
    """A connection to the database at ``path``; a closed one if ``path`` is empty.

    Raises:
        Lost: the file does not exist.
    """
    sqlite3 = importlib.import_module("sqlite3")
    if not path:
        made = sqlite3.connect(":memory:")
        made.close()
        return made
    if not Path(path).is_file():  # SQLite would create an empty one
        raise Lost(f"its database {path} is not here", "bring the file, then connect again")
    made = sqlite3.connect(path, isolation_level=isolation_level)
    made.row_factory, made.text_factory = row_factory, text_factory
    return made


def _connection(value: Any) -> Any:
    sqlite3 = importlib.import_module("sqlite3")
    try:
        rows = [tuple(row) for row in value.cursor(sqlite3.Cursor).execute("PRAGMA database_list").fetchall()]
    except sqlite3.ProgrammingError as error:
        if "closed" in str(error):
            return connection, ("", None, None, str)
        raise Lost(f"it belongs to another thread ({error})", "connect again") from None
    if value.in_transaction:
        raise Lost("it is inside a transaction, which ends with this process", "commit or roll back")
    others = [row[1] for row in rows if row[1] not in ("main", "temp")]
    path = next((str(row[2]) for row in rows if row[1] == "main"), "")
    if not path:
        raise Lost("its database is in memory, and ends with this process", "keep it in a file")
    if others:
        raise Lost(f"it has other databases attached ({', '.join(others)})", "connect again")
    return connection, (path, value.isolation_level, value.row_factory, value.text_factory)


HANDLERS: dict[str, Any] = {
    "sqlite3.Connection": _connection,
    "_io.BytesIO": None,
    "_io.StringIO": None,
    "_io._IOBase": _file,
}
