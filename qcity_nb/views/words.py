"""Records, times and sizes in words, for people."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from qcity_nb.records import CheckpointRef, Event, Head

__all__ = ["age", "ago", "event_row", "mask", "place_of", "short", "since", "size", "state_of", "table", "when"]


def short(path: Path) -> str:
    """The path relative to the working directory if it is inside, else as it is."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def age(seconds: float) -> str:
    """A duration for people: 5 s, 3 min, 2.5 h, 4 d."""
    if seconds < 60:
        return f"{max(0, seconds):.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.0f} d"


def state_of(head: Head) -> str:
    """The run's state for people: what it is, or is about to be."""
    if head.state != "running":
        return "gave up" if head.state == "failed" and head.failure and head.failure.cause == "host" else head.state
    if head.desired.state == "stopped":
        return "stopping"
    if head.holder is not None:
        return "manual" if head.desired.manual else "running"
    return "launching" if head.pending_launch is not None else "waiting"


def place_of(checkpoint: CheckpointRef) -> str:
    """How far the run was at a checkpoint: the loop's step, finished cells, or both."""
    cells = f"{checkpoint.cells} cell{'s' if checkpoint.cells != 1 else ''}" if checkpoint.cells else ""
    if cells and not checkpoint.step:
        return cells
    return f"step {checkpoint.step}" + (f" and {cells}" if cells else "")


def since(at: str) -> float | None:
    """Seconds from an ISO time until now; only for people, since it compares two machines' clocks."""
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()
    except (ValueError, TypeError):
        return None


def when(at: str) -> str:
    """An ISO time in UTC, to the second."""
    return at[:19].replace("T", " ")


def ago(at: str) -> str:
    """How long ago an ISO time was, for people."""
    seconds = since(at)
    return f"{age(seconds)} ago" if seconds is not None else "-"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as columns of text."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def size(size_bytes: int) -> str:
    """A number of bytes for people: 12 B, 3.4 MB."""
    left = float(size_bytes)
    for unit in ("B", "KB", "MB", "GB"):
        if left < 1000:
            return f"{left:.0f} {unit}" if unit == "B" else f"{left:.1f} {unit}"
        left /= 1000
    return f"{left:.1f} TB"


def event_row(event: Event) -> tuple[str, str, str, str]:
    """An event's time, attempt, kind and data, for people."""
    # Of a table, such as the packages of an environment, only how long it is: the journal has it.
    shown = {
        key: len(value) if isinstance(value, dict) else value
        for key, value in event.data.items()
        if value not in ("", None)
    }
    data = ", ".join(f"{key}: {value}" for key, value in shown.items())
    return when(event.at), f"attempt {event.term}" if event.term else "-", event.kind, data


def mask(text: str) -> str:
    """The text without possible secrets in addresses: passwords, and tokens in queries."""
    text = re.sub(r"(://)[^/@\s]+@", r"\1***@", text)
    return re.sub(r"(?i)([?&;][^=&]*(?:token|key|secret|password|sig|signature)[^=&]*=)[^&;\s]+", r"\1***", text)
