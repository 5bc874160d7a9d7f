"""Open files: reopened where they were. What was written after the capture is cut off.

Not kept: the ``newline`` argument of a text file, and ``buffering``; Python does not tell them. SQLite connections to a
file are opened again, without the functions and collations registered on them, ``detect_types`` and
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
    """``sys.stdout`` and its kin, as they are here."""
    return getattr(sys, name)


def open_file(
    path: str, mode: str, position: int, size: int, is_text: bool, encoding: str | None, errors: str | None
) -> IO[Any]:
    """The file at ``path``, at ``position``.

    Args:
        mode: as it was opened.
        size: what it had; a file that is written to is cut to it.
    Raises:
        Lost: it is not there, or is shorter.
    """
    try:
        found = Path(path).stat().st_size
    except OSError as error:
        raise Lost(
            f"its file {path} cannot be found ({error.strerror})", "bring the file, then open it again"
        ) from None
    if found < size:
        raise Lost(f"its file {path} has {found} bytes, and had {size}", "run the cell that writes it again")
    is_appended = mode.startswith("a")
    is_written = is_appended or "w" in mode or "x" in mode or "+" in mode
    how = "a+" if is_appended and "+" in mode else "a" if is_appended else "r+" if is_written else "r"
    try:
        made: IO[Any] = open(  # noqa: SIM115, PTH123 - it stays open: the notebook has it
            path, how if is_text else f"{how}b", encoding=encoding, errors=errors
        )
    except OSError as error:
        raise Lost(f"its file {path} cannot be opened ({error.strerror})", "mend that, then open it again") from None
    try:
        if is_written and found > size:
            os.truncate(made.fileno(), size)
        made.seek(position)
    except (OSError, ValueError) as error:
        made.close()
        raise Lost(f"its file {path} cannot be put where it was ({error})", "open it again") from None
    return made


def closed_file(name: str, mode: str, is_text: bool) -> IO[Any]:
    """A file that is closed: what ``with`` leaves behind."""
    made: Any = open(os.devnull, "r" if is_text else "rb")  # noqa: SIM115, PTH123 - closed below
    raw = made.buffer.raw if is_text else made.raw
    made.close()
    raw.name = name
    if is_text:
        made.mode = mode
    return made  # type: ignore[no-any-return]  # it has attributes that IO has not


def _has_own_way(cls: type) -> bool:
    """Does a library's file say itself how it is pickled? Those of fsspec do."""
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
        raise Lost("it is an open stream, and lives only in this process", "open it again")
    name: Any = getattr(value, "name", None)
    mode = str(getattr(value, "mode", ""))
    if value.closed:
        return closed_file, (str(name), mode, is_text)
    if not isinstance(name, str):
        raise Lost("it is an open file without a name", "open it again")
    if "r" not in mode or "+" in mode:
        value.flush()
    found = os.fstat(value.fileno())
    if not stat.S_ISREG(found.st_mode):
        raise Lost(f"{name} is no plain file", "open it again")
    try:
        is_there = os.path.samestat(found, Path(name).stat())
    except OSError:
        is_there = False
    if not is_there:
        raise Lost(f"its file {name} was deleted or moved", "open it again")
    try:
        position = value.tell()
    except OSError as error:
        raise Lost(f"where it stands cannot be told ({error})", "read it with readline() or read()") from None
    encoding, errors = (value.encoding, value.errors) if is_text else (None, None)
    return open_file, (name, mode, position, found.st_size, is_text, encoding, errors)


def connection(path: str, isolation_level: str | None, row_factory: Any, text_factory: Any) -> Any:
    """A connection to the database at ``path``; a closed one if that is empty.

    Raises:
        Lost: there is no such file.
    """
    sqlite3 = importlib.import_module("sqlite3")
    if not path:
        made = sqlite3.connect(":memory:")
        made.close()
        return made
    if not Path(path).is_file():  # SQLite would make an empty one
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
