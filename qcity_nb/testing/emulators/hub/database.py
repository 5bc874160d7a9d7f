"""The emulator's SQLite: tables that modules ask for, readers that never wait, one writer at a time."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Database", "table"]

_SCHEMA: list[str] = []


def table(statement: str) -> None:
    """Have ``CREATE TABLE IF NOT EXISTS …`` (or an index) run for each new database. Called when a module loads."""
    _SCHEMA.append(statement)


class Database:
    """One file in WAL mode; what a ``write`` block did is there after a kill of the process, or none of it.

    Does not promise to survive a power cut: that costs a sync for each commit, and tests have no use for it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._writing = threading.RLock()
        self._all: list[sqlite3.Connection] = []
        with self.write() as db:
            for statement in _SCHEMA:
                db.execute(statement)

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self._path, timeout=60, isolation_level=None, check_same_thread=False)
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("PRAGMA foreign_keys=ON")
            self._local.connection = connection
            with self._writing:
                self._all.append(connection)
        return connection

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A view that does not change while the block lasts; inside ``write`` it is the writer's own."""
        db = self._connection()
        if db.in_transaction:
            yield db
            return
        db.execute("BEGIN")
        try:
            yield db
        finally:
            db.execute("ROLLBACK")

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction; undone if the block raises. Blocks nest: the outermost commits."""
        db = self._connection()
        if db.in_transaction:
            yield db
            return
        with self._writing:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:  # whatever ends the request: the lock on the database must not stay
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    def forget(self) -> None:
        """Close the calling thread's connection; called at a thread's end."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is not None:
            with self._writing:
                self._all.remove(connection)
            connection.close()
            del self._local.connection

    def close(self) -> None:
        """Close all connections, those of threads that have ended too."""
        with self._writing:
            for connection in self._all:
                connection.close()
            self._all.clear()
