"""SQLite connections to a file: opened again.

Not kept: functions and collations registered on it, ``detect_types``, ``check_same_thread``.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from qcity_nb.namespace.loss import Lost

__all__ = ["HANDLERS", "connection"]


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


HANDLERS: dict[str, Any] = {"sqlite3.Connection": _connection}
