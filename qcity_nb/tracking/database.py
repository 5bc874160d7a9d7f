"""A new embedded MLflow database: made in a temporary file, and put in its place in one step.

mlflow itself makes one in place, by running all its migrations, which takes seconds: two processes that start at the
same time break each other's database, and one that dies half way leaves a file that mlflow cannot open.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import uuid
from pathlib import Path
from urllib.parse import quote, unquote

from qcity_nb.errors import TrackerUnavailable
from qcity_nb.tracking.timeouts import short_timeouts

__all__ = ["SCHEME", "address_of", "path_of", "prepare"]

SCHEME = "sqlite:///"

_LEFTOVER_S = 3600.0
"""Age at which an unfinished database of another process is removed; a migration takes seconds."""


def path_of(address: str) -> tuple[Path, str]:
    """The file that an address names, and the query after it. ``%3F`` in it stands for a question mark.

    Args:
        address: ``sqlite:///`` and a path, or as ``address_of`` returns it.
    """
    name, _, query = address.removeprefix(SCHEME).partition("?")
    options = query.split("&")
    if not name.startswith("file:") or "uri=true" not in options:
        return Path(unquote(name)).absolute(), query
    name = unquote(name.removeprefix("file:"))
    return Path(unquote(name) if _is_decoded() else name), "&".join(each for each in options if each != "uri=true")


def address_of(path: Path, query: str = "") -> str:
    """The address of a file for the installed mlflow and SQLAlchemy.

    mlflow makes the directory of the path as it is written; SQLAlchemy decodes it, from 2.1 on. Where these differ,
    it is an address of SQLite's own without any slash.
    """
    name, options = str(path), [query] if query else []
    if "%" in name or "?" in name:
        name = quote(name, safe="")
        name, options = f"file:{quote(name) if _is_decoded() else name}", ["uri=true", *options]
    return f"{SCHEME}{name}{'?' if options else ''}{'&'.join(options)}"


def _is_decoded() -> bool:
    try:
        from sqlalchemy.engine import make_url
    except ImportError:  # then ``prepare`` says what is missing
        return True
    return make_url(f"{SCHEME}/%41").database == "/A"


def prepare(path: Path) -> None:
    """Make the SQLite file at ``path`` a database that mlflow opens, unless one is there.

    Any number of processes may call this at the same time: one of their complete databases becomes the file.

    Raises:
        ImportError: only mlflow-skinny is installed.
        TrackerUnavailable: the directory cannot be written, or the file is no database.
    """
    import alembic  # noqa: F401  # what mlflow-skinny lacks; raises here, before anything is written
    import sqlalchemy  # noqa: F401

    try:
        if path.exists():
            _check(path)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in path.parent.glob(f".{path.name}.new-*"):
            with contextlib.suppress(OSError):
                if time.time() - old.stat().st_mtime > _LEFTOVER_S:
                    old.unlink()
        fresh = path.parent / f".{path.name}.new-{uuid.uuid4().hex[:12]}"
        fresh.touch(exist_ok=False)  # a read-only directory raises here, not after ten tries of mlflow
        try:
            with short_timeouts():
                _create(fresh)
            # Unlike a rename, a link never replaces a file that another process put there first.
            with contextlib.suppress(FileExistsError):
                os.link(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)
    except OSError as error:
        raise TrackerUnavailable(f"{path}: {error.strerror or error}") from None


def _check(path: Path) -> None:
    # mlflow itself would try ten times, for minutes, before it raised.
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=5)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error as error:
        raise TrackerUnavailable(f"{path}: {error}") from None


def _create(path: Path) -> None:
    from mlflow import MlflowClient

    uri = address_of(path)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.get_experiment_by_name("Default")
    # Pooled connections would keep the file open under its temporary name.
    engine = getattr(getattr(getattr(client, "_tracking_client", None), "store", None), "engine", None)
    if engine is not None:
        engine.dispose()
    with path.open("rb") as file:
        os.fsync(file.fileno())
