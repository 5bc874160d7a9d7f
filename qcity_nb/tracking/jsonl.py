"""Metrics as JSON lines in a directory: a tracker that needs no package and no server.

    <folder>/<experiment>/<run>-<digest>/metrics.jsonl   one line a metric value
    <folder>/<experiment>/<run>-<digest>/run.jsonl       parameters, tags and status, in the order they were set

A run's directory follows from the experiment, the run's id (the tag ``qcity.run``) and when it was made (the tag
``qcity.made``), so any number of clients that start at once agree on it.

What makes a replay exactly-once: ``send`` locks the file, reads what others have appended, appends only the lines
that are not there, and syncs. A killed process drops its lock and leaves at most a torn last line, which the next
writer cuts off; its rows are sent again. As with SQLite, a process that is *stopped* while it writes makes the others
wait: after 10 s they raise ``TrackerUnavailable``, and the rows are sent later.

What is stored differs from what was logged in two ways: an infinity becomes ±1.7976931348623157e308, as in MLflow,
and NaN becomes ``null``, since JSON has neither.

Does not promise: any bound for a file system that does not answer; NFS works where it has locks (NFS 4).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar
from urllib.parse import quote, unquote, urlsplit

from qcity_nb.errors import TrackerUnavailable, UsageError
from qcity_nb.records import Row
from qcity_nb.tracking.mlflow import ID_TAG, LARGEST, MADE_TAG, RUN_TAG, without_userinfo

__all__ = ["SCHEME", "JsonLinesTracker", "open_tracker"]

SCHEME = "jsonl"

_RUN_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*-[0-9a-f]{16}")
_NAME_CHARS = 40
"""Of a name in a path: at four bytes each, well below the 255 bytes that file systems take."""
_PATIENCE_S = 10.0
"""How long another writer may hold a file; writing takes milliseconds."""

P = ParamSpec("P")
T = TypeVar("T")


def open_tracker(uri: str) -> JsonLinesTracker:
    """The tracker in the directory that ``jsonl:///absolute/folder`` names; touches nothing before the first call.

    Raises:
        UsageError: the address names no directory.
    """
    parts = urlsplit(uri)
    path = unquote(parts.path).rstrip("/")
    if parts.netloc or parts.query or parts.fragment or not path.startswith("/") or "\0" in path:
        raise UsageError(
            f"tracking = {without_userinfo(uri)!r}: a folder for JSON lines has three slashes and an absolute path, "
            "as in jsonl:///data/metrics"
        )
    return JsonLinesTracker(Path("/" + path.lstrip("/")))


def _translated(
    method: Callable[Concatenate[JsonLinesTracker, P], T],
) -> Callable[Concatenate[JsonLinesTracker, P], T]:
    """Every failure of the file system as ``TrackerUnavailable``, in one line."""

    @wraps(method)
    def call(self: JsonLinesTracker, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(self, *args, **kwargs)
        except OSError as error:
            raise TrackerUnavailable(f"{error.filename or self.folder}: {error.strerror or error}") from None

    return call


class JsonLinesTracker:
    """The ``Tracker`` port over a directory. Safe to call from several threads, one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._runs: dict[str, _Run] = {}

    @property
    def uri(self) -> str:
        """The address; it holds no credentials."""
        return f"{SCHEME}://{quote(str(self.folder))}"

    @_translated
    def prepare(self) -> None:
        """Make the directory."""
        self.folder.mkdir(parents=True, exist_ok=True)

    @_translated
    def start(self, run: str, *, experiment: str, params: Mapping[str, object], tags: Mapping[str, str]) -> str:
        """Find the directory for ``run``, or make it; reopen the run if it had ended.

        Args:
            experiment: a folder of runs. Empty: ``Default``.
            params: those that are not there yet are added; the first value stays.
            tags: set, over older values. ``qcity.made`` and ``qcity.id`` belong to the identity: a run with
                another value, or without one, is another run.
        Returns: the run's directory, below the tracker's.
        """
        experiment = experiment or "Default"
        identity = json.dumps([experiment, run, tags.get(MADE_TAG, ""), *filter(None, [tags.get(ID_TAG)])])
        digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
        run_id = f"{_name(experiment)}/{_name(run)}-{digest}"
        folder = self.folder / run_id
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            for above in (folder.parent, self.folder, self.folder.parent):
                _sync(above)
        self._runs.pop(run_id, None)  # whatever became of its files, they are read anew
        self._at(run_id).note(params=params, tags={**tags, RUN_TAG: run}, status="RUNNING")
        return run_id

    @_translated
    def send(self, run_id: str, rows: Sequence[Row]) -> None:
        """Store rows. Sending a row again, exactly the same, stores nothing more."""
        self._at(run_id).add(rows)

    @_translated
    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags."""
        self._at(run_id).note(tags=tags)

    @_translated
    def end(self, run_id: str, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        """Set the final status."""
        self._at(run_id).note(status=status)

    def _at(self, run_id: str) -> _Run:
        folder = self.folder / run_id
        if _RUN_ID.fullmatch(run_id) is None or not folder.is_dir():
            self._runs.pop(run_id, None)
            raise TrackerUnavailable(f"{self.uri}: no run {run_id!r} is there: start it again")
        return self._runs.setdefault(run_id, _Run(folder))


class _Run:
    """One run's two files, and what has been read of them."""

    def __init__(self, folder: Path) -> None:
        self._metrics = _Lines(folder / "metrics.jsonl")
        self._description = _Lines(folder / "run.jsonl")
        self._rows: set[bytes] = set()
        self._params: dict[str, str] = {}
        self._tags: dict[str, str] = {}
        self._status = ""

    def add(self, rows: Sequence[Row]) -> None:
        lines = [
            _line({"key": row.key, "value": _finite(row.value), "step": row.step, "timestamp": row.timestamp_ms})
            for row in rows
        ]
        with self._metrics.held() as (unread, append):
            self._rows.update(unread)
            append([line for line in dict.fromkeys(lines) if line not in self._rows])

    def note(
        self, *, params: Mapping[str, object] | None = None, tags: Mapping[str, str] | None = None, status: str = ""
    ) -> None:
        with self._description.held() as (unread, append):
            for line in unread:
                self._read(line)
            fresh = {name: value for name, value in (params or {}).items() if name not in self._params}
            changed = {name: value for name, value in (tags or {}).items() if self._tags.get(name) != str(value)}
            new: list[dict[str, object]] = [{"param": name, "value": str(value)} for name, value in fresh.items()]
            new += [{"tag": name, "value": str(value)} for name, value in changed.items()]
            if status and status != self._status:
                new.append({"status": status, "at": time.time_ns() // 1_000_000})
            append([_line(item) for item in new])

    def _read(self, line: bytes) -> None:
        try:
            item = json.loads(line)
            if "param" in item:
                self._params.setdefault(item["param"], item["value"])
            elif "tag" in item:
                self._tags[item["tag"]] = item["value"]
            else:
                self._status = item["status"]
        except (ValueError, TypeError, KeyError):
            raise TrackerUnavailable(f"{self._description.path}: damaged, it holds the line {line[:80]!r}") from None


class _Lines:
    """A file of lines that grows at its end, under a lock that the kernel drops with its holder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        """How much of it has been read."""

    @contextlib.contextmanager
    def held(self) -> Iterator[tuple[list[bytes], Callable[[list[bytes]], None]]]:
        """With the file locked: the lines that this object has not read yet, and what appends lines, synced."""
        file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            self._lock(file)
            yield self._unread(file), lambda lines: self._append(file, lines)
        finally:
            os.close(file)

    def _lock(self, file: int) -> None:
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > until:
                    raise TrackerUnavailable(
                        f"{self.path}: another process has been writing for {_PATIENCE_S:g} s: is it stopped?"
                    ) from None
            time.sleep(0.01)

    def _unread(self, file: int) -> list[bytes]:
        size = os.fstat(file).st_size
        if size < self._offset:
            raise TrackerUnavailable(f"{self.path}: somebody else has changed it: start the run again")
        data = bytearray()
        while piece := os.pread(file, size - self._offset - len(data), self._offset + len(data)):
            data += piece
        whole, newline, torn = bytes(data).rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        if torn:  # its writer died, or we would not have the lock
            os.ftruncate(file, self._offset)
        return whole.split(b"\n") if newline else []

    def _append(self, file: int, lines: list[bytes]) -> None:
        rest = memoryview(b"".join(line + b"\n" for line in lines))
        if not rest:
            return
        try:
            while rest:
                rest = rest[os.write(file, rest) :]
            os.fsync(file)
        except OSError:  # a full disk: the next one begins where this one did
            with contextlib.suppress(OSError):
                os.ftruncate(file, self._offset)
            raise
        if not self._offset:
            _sync(self.path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _line(item: Mapping[str, Any]) -> bytes:
    return json.dumps(item, allow_nan=False, separators=(",", ":")).encode("ascii")


def _finite(value: float) -> float | None:
    value = float(value)  # a numpy scalar's repr is not JSON
    return max(-LARGEST, min(LARGEST, value)) if value == value else None


def _name(text: str) -> str:
    """The text as a part of a path."""
    return re.sub(r"[^\w.-]+", "-", text)[:_NAME_CHARS].lstrip(".") or "-"
