"""The mailbox: the directory through which the processes of one attempt exchange messages.

    <local_dir>/attempts/<attempt>/
      status.json         written by the sidecar alone, replaced atomically
      requests/<id>.json  written by kernel and engine; the sidecar answers in answers/<id>.json
      events.jsonl        journal lines of kernel and engine, appended; the sidecar publishes them
      executed.ipynb      the executed notebook so far
      earlier.json        metrics before this attempt, thinned; the sidecar writes it once, for the panel
      sidecar.log
      sidecar.lock        held by the sidecar that lives, so that there is only one

Any of these processes may die at any time: no message is lost with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from qcity_nb import codec
from qcity_nb.codec import Record
from qcity_nb.records import Event

__all__ = ["Answer", "Mailbox", "Request", "Status"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Status(Record):
    """What the sidecar knows; kernel and engine act on it."""

    state: Literal["starting", "held", "lost", "refused", "ended"] = "starting"
    run: str = ""
    term: int = 0
    pid: int = 0
    until_s: float = 0.0
    """Until when outside effects are allowed, on the lease clock."""
    reason: str = ""
    """Why the lease is lost or refused, in one line for people."""
    error: str = ""
    """The error in ``errors`` that ``reason`` belongs to, by name."""
    stop: str = ""
    """If not empty: end at the next boundary, for this reason."""
    tier: str = ""
    """The directory of this attempt's local tier."""
    restored_seq: int = 0
    """The checkpoint from which this attempt resumes; 0: none, it starts from the beginning."""
    restored_from: str = ""
    published_seq: int = 0
    published_step: int = 0
    published_at_s: float = 0.0
    drained_seq: int = 0
    drained_rows: int = 0
    """Rows that this attempt's sidecar has sent."""
    names_left: int | None = None
    """How many more checkpoints can be given a name."""
    store: str = ""
    tracking: str = ""
    tracking_run: str = ""
    message: str = ""
    """The newest problem that needs no action, such as a store that does not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Record):
    """What kernel or engine ask of the sidecar."""

    id: str
    op: Literal["flush", "end", "release", "stop"]
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Record):
    """The outcome of a request."""

    id: str
    ok: bool
    reason: str = ""
    error: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


def _replace(path: Path, data: bytes) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:6]}")
    draft.write_bytes(data)
    draft.replace(path)


class Mailbox:
    """Read and write one attempt's directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.executed = path / "executed.ipynb"
        self.log = path / "sidecar.log"

    def open(self) -> Mailbox:
        """Make the directories."""
        for folder in ("requests", "answers"):
            (self.path / folder).mkdir(parents=True, exist_ok=True)
        return self

    def claim(self) -> bool:
        """Become the only sidecar of this attempt, until this process ends; ``False`` if there is another one."""
        handle = os.open(self.path / "sidecar.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        return True  # the handle stays open, and with it the lock

    def write_status(self, status: Status) -> None:
        """Replace the status. Only the sidecar calls this."""
        _replace(self.path / "status.json", codec.dumps(status))

    def status(self) -> Status:
        """The newest status; the default one before the sidecar has written any."""
        try:
            return codec.loads(Status, (self.path / "status.json").read_bytes())
        except FileNotFoundError:
            return Status()

    def version(self) -> tuple[int, int]:
        """Changes whenever the status is replaced; costs less than reading it."""
        with contextlib.suppress(FileNotFoundError):
            stat = os.stat(self.path / "status.json")  # noqa: PTH116  # looked at several times a second
            return stat.st_mtime_ns, stat.st_ino
        return 0, 0

    def ask(self, op: Literal["flush", "end", "release", "stop"], **data: object) -> str:
        """File a request; returns its id."""
        request = Request(id=uuid.uuid4().hex[:12], op=op, data=data)
        _replace(self.path / "requests" / f"{time.time_ns():020d}-{request.id}.json", codec.dumps(request))
        return request.id

    def requests(self) -> list[tuple[Path, Request]]:
        """Open requests, oldest first."""
        requests = []
        names = [name for name in os.listdir(self.path / "requests") if name[0].isdigit()]  # noqa: PTH208  # ten times a second
        for file in (self.path / "requests" / name for name in sorted(names)):
            try:
                requests.append((file, codec.loads(Request, file.read_bytes())))
            except (FileNotFoundError, codec.DecodeError):
                continue
        return requests

    def answer(self, file: Path, answer: Answer) -> None:
        """Answer a request, then remove it."""
        _replace(self.path / "answers" / f"{answer.id}.json", codec.dumps(answer))
        file.unlink(missing_ok=True)

    def answer_to(self, request: str) -> Answer | None:
        """The answer to a request, once there is one."""
        try:
            return codec.loads(Answer, (self.path / "answers" / f"{request}.json").read_bytes())
        except FileNotFoundError:
            return None

    def note(self, event: Event) -> None:
        """Append one event for the journal, in one write call, so that lines of two processes never mix.

        Does not raise if the disk is full: a line is not worth an attempt.
        """
        line = codec.dumps(event) + b"\n"
        with contextlib.suppress(OSError):
            fd = os.open(self.path / "events.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                if os.write(fd, line) < len(line):
                    os.write(fd, b"\n")
            finally:
                os.close(fd)

    def events_since(self, offset: int) -> tuple[bytes, int]:
        """Whole lines after ``offset``, and the offset after them."""
        try:
            with (self.path / "events.jsonl").open("rb") as file:
                file.seek(offset)
                data = file.read()
        except FileNotFoundError:
            return b"", offset
        end = data.rfind(b"\n") + 1
        # A line that a full disk cut off is no event.
        whole = [line for line in data[:end].splitlines(keepends=True) if line.endswith(b"}\n")]
        return b"".join(whole), offset + end

    def write_earlier(self, series: Mapping[str, Sequence[tuple[int, float]]]) -> None:
        """Write the metrics before this attempt, for the panel: (step, value) by name."""
        _replace(self.path / "earlier.json", json.dumps(series).encode())

    def earlier(self) -> dict[str, list[tuple[int, float]]] | None:
        """Metrics before this attempt; ``None`` if the sidecar has not written them yet."""
        try:
            series = json.loads((self.path / "earlier.json").read_bytes())
            return {key: [(step, value) for step, value in points] for key, points in series.items()}
        except FileNotFoundError:
            return None
        except (OSError, ValueError):  # a curve in the panel is not worth the training
            return {}

    def offset(self) -> int:
        """How much of the events has been published."""
        try:
            return int((self.path / "events.offset").read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return 0

    def write_offset(self, offset: int) -> None:
        """Remember how much of the events has been published."""
        _replace(self.path / "events.offset", str(offset).encode())
