"""What a keeper in the foreground shows: one live line on a terminal, else a line per event."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import TextIO

from qcity_nb.printable import printable
from qcity_nb.records import Event, Head
from qcity_nb.run.keeper import Outcome
from qcity_nb.views.attempts import describe_failed_launches
from qcity_nb.views.words import age, place_of, state_of

__all__ = ["Progress"]

_STEP_EVERY_S = 10.0
"""Without a terminal, newer checkpoints alone are printed at most this often."""


def _line(event: Event) -> str:
    data = event.data
    match event.kind:
        case "launched":
            costs = f", {data['price']}" if data.get("price") else ""
            return f"{data.get('reason')} on {data.get('host')}{costs}"
        case "died":
            return f"the attempt on {data.get('host')} died: {data.get('reason')}"
        case "withdrawn" | "stalled" | "called off":
            return str(data.get("reason"))
        case "gave up":
            return f"gave up: {data.get('reason')}"
        case "stopped":
            return "stopped"
    return event.kind


class Progress:
    """Turns outcomes into lines.

    Args:
        stream: usually stderr, so that stdout has only results.
        live: rewrite one line; by default if the stream is a terminal.
    """

    def __init__(self, stream: TextIO, *, live: bool | None = None) -> None:
        self._stream = stream
        self._control: Callable[[str], object] = getattr(stream, "control", stream.write)
        self._live = stream.isatty() if live is None else live
        self._heads: dict[str, Head] = {}
        self._saved_s: dict[str, float] = {}
        self._printed_s: dict[str, float] = {}
        self._trouble: dict[str, str] = {}
        self._shown = ""

    def say(self, text: str) -> None:
        """A line that stays."""
        clear = "\r\x1b[K" if self._shown else ""
        self._control(f"{clear}{printable(text)}\n{self._shown}")
        self._stream.flush()

    def close(self) -> None:
        """Remove the live line."""
        if self._shown:
            self._control("\r\x1b[K")
            self._stream.flush()
        self._shown = ""

    def see(self, outcome: Outcome) -> None:
        """Print what is new; pass this method to ``Keeper.keep``."""
        run, now_s = outcome.run, time.monotonic()
        for event in outcome.events:
            self.say(f"{run}: {_line(event)}")
        trouble = str(outcome.error) if outcome.error else ""
        if trouble and trouble != self._trouble.get(run):
            self.say(f"{run}: {trouble}")
        self._trouble[run] = trouble
        head = outcome.head
        if head is None:
            return
        before = self._heads.get(run)
        self._heads[run] = head
        if before is not None:
            self._compare(before, head)
        newest = head.checkpoint
        if newest is not None and (before is None or before.checkpoint != newest):
            self._saved_s[run] = now_s
            if (
                not self._live
                and before is not None
                and now_s - self._printed_s.get(run, -_STEP_EVERY_S) >= _STEP_EVERY_S
            ):
                self._printed_s[run] = now_s
                self.say(f"{run}: {place_of(newest)} saved")
        if self._live:
            self._show(head, now_s)

    def _compare(self, before: Head, head: Head) -> None:
        if head.term != before.term and head.holder is not None:
            where = f"{head.holder.host}{f' ({head.holder.node})' if head.holder.node else ''}"
            newest = head.checkpoint
            stored = f"; the store has {place_of(newest)}" if newest else ""
            failed = describe_failed_launches(head)
            self.say(f"{head.run}: attempt {head.term} on {where}{stored}{f'; {failed}' if failed else ''}")
        if head.failure is not None and head.failure != before.failure and head.state == "running":
            self.say(f"{head.run}: {head.failure.message}; the next attempt shows whether it happens again")
        if head.desired.state != before.desired.state and head.state == "running":
            self.say(f"{head.run}: asked to {'stop' if head.desired.state == 'stopped' else 'continue'}")
        if head.state != before.state:
            self.say(f"{head.run}: {state_of(head)}")

    def _show(self, head: Head, now_s: float) -> None:
        parts = [head.run, state_of(head)]
        if head.holder is not None:
            parts.append(head.holder.host)
        if head.term:
            parts.append(f"attempt {head.term}")
        if head.checkpoint is not None:
            parts.append(place_of(head.checkpoint))
            parts.append(f"saved {age(now_s - self._saved_s.get(head.run, now_s))} ago")
        line = printable("  ".join(parts))[: shutil.get_terminal_size().columns - 1]
        if head.state != "running":
            line = ""
        if line != self._shown:
            self._control(f"\r\x1b[K{line}")
            self._stream.flush()
            self._shown = line
