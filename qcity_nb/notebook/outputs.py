"""What a cell showed inside a loop: recorded with each checkpoint, shown again when the loop resumes.

A resumed cell then shows what an uninterrupted one would have, in any front end. Only a kernel's own channels are
recorded (streams, displays, updates, clear_output); in a plain script nothing is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from qcity_nb.notebook.panel import MIME

__all__ = ["Recorder", "merge"]

Output = dict[str, Any]


def merge(outputs: list[Output]) -> list[Output]:
    """Adjacent pieces of one stream joined; of several updates to one display only the last."""
    merged: list[Output] = []
    last: dict[str, int] = {}
    for output in outputs:
        if output["kind"] == "stream" and merged and merged[-1].get("name") == output["name"]:
            merged[-1] = {**merged[-1], "text": merged[-1]["text"] + output["text"]}
            continue
        if output["kind"] == "update":
            key = output["content"].get("transient", {}).get("display_id", "")
            if key in last:
                merged[last[key]] = {"kind": "gone"}
            last[key] = len(merged)
        merged.append(output)
    return [output for output in merged if output["kind"] != "gone"]


class Recorder:
    """Taps the kernel's output channels; ``mark`` and ``since`` cut the record into pieces."""

    def __init__(self) -> None:
        self.outputs: list[Output] = []
        self.is_on = False
        self._shell: Any = None
        self._undo: list[Callable[[], None]] = []
        self._untap: list[Callable[[], None]] = []

    def attach(self, shell: Any) -> None:
        """Follow ``shell``, an IPython shell with a kernel behind it; ``start_cell`` begins the recording."""
        self._shell = shell
        self.is_on = True
        publisher = shell.display_pub
        if hasattr(publisher, "register_hook"):
            publisher.register_hook(self._displayed)
            self._undo.append(lambda: publisher.unregister_hook(self._displayed))

    def detach(self) -> None:
        """Leave the channels as they were."""
        self.end_cell()
        while self._undo:
            self._undo.pop()()
        self.is_on = False

    def start_cell(self) -> None:
        """A new cell: its record begins empty."""
        self.outputs.clear()
        self.end_cell()
        if self.is_on:
            # Anew for each cell: IPython 9 wraps the streams itself for the time of a cell, and unwraps them.
            for name in ("stdout", "stderr"):
                self._tap(name, getattr(sys, name))

    def end_cell(self) -> None:
        """The cell is over: give the streams back."""
        while self._untap:
            self._untap.pop()()

    def _tap(self, name: str, stream: Any) -> None:
        write = stream.write

        def tapped(text: str) -> Any:
            result = write(text)
            if text:
                self.outputs.append({"kind": "stream", "name": name, "text": text})
            return result

        try:
            stream.write = tapped
        except AttributeError:  # a stream that cannot be tapped is not one of a kernel's
            return

        def undo() -> None:
            if stream.write is tapped:
                stream.write = write

        self._untap.append(undo)

    def _displayed(self, message: Any) -> Any:
        kind = message["header"]["msg_type"]
        content = message["content"]
        if MIME in content.get("data", {}):
            return message
        kinds = {"display_data": "display", "update_display_data": "update", "clear_output": "clear"}
        if kind in kinds:
            self.outputs.append({"kind": kinds[kind], "content": json.loads(json.dumps(content, default=str))})
        return message

    def mark(self) -> int:
        """The place in the record that is now."""
        return len(self.outputs)

    def since(self, start: int) -> bytes:
        """The record from ``start`` on, as bytes for a checkpoint; empty if there is none."""
        part = merge(self.outputs[start:])
        return json.dumps(part, separators=(",", ":")).encode() if part else b""

    def replay(self, data: bytes) -> None:
        """Show a recorded piece again, through the same channels (which records it again)."""
        if not self.is_on:
            return
        publisher = self._shell.display_pub
        for output in json.loads(data):
            if output["kind"] == "stream":
                getattr(sys, output["name"]).write(output["text"])
                continue
            sys.stdout.flush()
            sys.stderr.flush()
            content = output["content"]
            if output["kind"] == "clear":
                publisher.clear_output(wait=content.get("wait", False))
            else:
                publisher.publish(
                    data=content["data"],
                    metadata=content.get("metadata", {}),
                    transient=content.get("transient", {}),
                    update=output["kind"] == "update",
                )
