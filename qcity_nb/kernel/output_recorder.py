"""What a cell shows inside a loop: recorded with each checkpoint, shown again when the loop resumes.

In a notebook run by hand, all that a cell shows is recorded too, its result included (``interactive``).

A resumed cell then shows what an uninterrupted one would have shown, in any front end. Only a kernel's own channels are
recorded (streams, displays, updates, clear_output); in a plain script nothing is. Not recorded: widgets' own
messages, and displays sent by threads other than the cell's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qcity_nb.secrets import current_values, redact

__all__ = ["PANEL_MIME", "WIDGET_MIME", "Part", "Recorder", "join_parts", "merge"]

Output = dict[str, Any]

WIDGET_MIME = "application/vnd.jupyter.widget-view+json"
PANEL_MIME = "application/vnd.qcity.panel+json"
"""Beside the HTML in each of our displays, to distinguish them from the notebook's own outputs."""
MANY = 1_000
"""Above this many outputs of a cell they are merged, if no loop needs them one by one."""
_KINDS = {"display_data": "display", "update_display_data": "update", "clear_output": "clear"}


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the record, as bytes for a checkpoint; no bytes if nothing was shown."""

    content: bytes
    is_clean: bool = False
    """The cell cleared what it had shown before this part."""


def merge(outputs: list[Output]) -> tuple[list[Output], bool]:
    """Only what is still visible: streams joined, the last of several updates, nothing that was cleared.

    Returns: the outputs, and whether the cell was cleared before them.
    """
    merged: list[Output] = []
    is_clean = False
    for output in outputs:
        kind = output["kind"]
        if kind == "gone":
            continue
        if merged and merged[-1]["kind"] == "clear" and kind != "clear":
            # A clear with wait=True takes effect with the next output. Updates of displays in other cells stay.
            is_clean = True
            merged = [item for item in merged[:-1] if item["kind"] == "update"] + merged[-1:]
        last = merged[-1] if merged else None
        if kind == "stream" and last is not None and last.get("name") == output["name"]:
            merged[-1] = {**last, "text": last["text"] + output["text"]}
            continue
        if kind == "update":
            merged = [item for item in merged if item["kind"] != "update" or _id(item) != _id(output)]
        merged.append(output)
    return merged, is_clean


def _id(output: Output) -> str:
    return str(output["content"].get("transient", {}).get("display_id", ""))


def join_parts(first: bytes, second: bytes) -> Part:
    """Two parts joined into one."""
    return _part(json.loads(first) + json.loads(second))


def _part(outputs: list[Output]) -> Part:
    merged, is_clean = merge(outputs)
    return Part(json.dumps(merged, separators=(",", ":")).encode() if merged else b"", is_clean)


class Recorder:
    """Records the kernel's output channels; ``position`` and ``part_since`` cut the record into parts."""

    def __init__(self) -> None:
        self.is_on = False
        """It is attached to a kernel."""
        self.is_recording = False
        """A loop runs. What is shown outside of loops is shown again by the code that is re-run."""
        self.records_cell = False
        """All that this cell shows is recorded, for ``cell_outputs``."""
        self._outputs: list[Output] = []
        self._kept: list[Output] = []
        """What no loop needs any more, of a cell whose whole output is recorded."""
        self._dropped = 0
        self._displays: list[str] = []
        """The display ids of this cell in order: a display keeps its index when re-run code makes up another id."""
        self._shell: Any = None
        self._undo: list[Callable[[], None]] = []
        self._untap: list[Callable[[], None]] = []

    def attach(self, shell: Any) -> None:
        """Follow ``shell``, the IPython shell of a kernel; ``start_cell`` starts the recording."""
        self._shell = shell
        self.is_on = True
        publisher = shell.display_pub
        publisher.register_hook(self._on_display)
        self._undo.append(lambda: publisher.unregister_hook(self._on_display))
        if not _hooks_clear(publisher):
            clear = publisher.clear_output

            def tapped(wait: bool = False) -> None:  # IPython's own signature
                clear(wait)
                self._add({"kind": "clear", "content": {"wait": wait}})

            publisher.clear_output = tapped
            self._undo.append(lambda: setattr(publisher, "clear_output", clear))
        hook = shell.displayhook
        write = hook.write_format_data

        def result(data: Any, metadata: Any = None) -> None:
            write(data, metadata)
            if not (self.is_recording or self.records_cell):
                return
            content = {"data": data, "metadata": metadata or {}}
            self._add({"kind": "result", "content": json.loads(json.dumps(content, default=str))})

        hook.write_format_data = result
        self._undo.append(lambda: setattr(hook, "write_format_data", write))

    def detach(self) -> None:
        """Restore the channels."""
        self.end_cell()
        while self._undo:
            self._undo.pop()()
        self.is_on = False

    def start_cell(self) -> None:
        """Start the record of a new cell, empty."""
        self.end_cell()
        self._outputs.clear()
        self._kept.clear()
        self._displays.clear()
        self._dropped = 0
        if self.is_on:
            # For each cell again: IPython 9 itself wraps the streams during a cell and unwraps them after it.
            for name in ("stdout", "stderr"):
                self._tap(name, getattr(sys, name))

    def end_cell(self) -> None:
        """End the record of the cell, and restore the streams."""
        self.is_recording = self.records_cell = False
        while self._untap:
            self._untap.pop()()

    def _tap(self, name: str, stream: Any) -> None:
        write = stream.write

        def tapped(text: str) -> Any:
            result = write(text)
            if text:
                self._add({"kind": "stream", "name": name, "text": text})
            return result

        try:
            stream.write = tapped
        except AttributeError:  # a stream that cannot be wrapped is not a kernel's
            return

        def undo() -> None:
            if stream.write is tapped:
                stream.write = write

        self._untap.append(undo)

    def _on_display(self, message: Any) -> Any:
        kind = _KINDS.get(message["header"]["msg_type"])
        content = message["content"]
        if kind is None or (PANEL_MIME in content.get("data", {}) and not self._is_panel_kept(kind, content)):
            return message
        output: Output = {"kind": kind}
        if display_id := content.get("transient", {}).get("display_id"):
            if kind == "display":
                output["nth"] = len(self._displays)
                self._displays.append(display_id)
            elif display_id in self._displays:
                output["nth"] = self._displays.index(display_id)
        if self.is_recording or self.records_cell:
            output["content"] = json.loads(json.dumps(content, default=str))
            self._add(output)
        return message

    def _is_panel_kept(self, kind: str, content: Any) -> bool:
        # A skipped cell must show its panel too. The buttons are left out: the kernel that they call is gone.
        return self.records_cell and kind == "display" and "text/html" in content["data"]

    def _add(self, output: Output) -> None:
        if self.is_recording or self.records_cell:
            self._outputs.append(redact(output, current_values()))
            if len(self._outputs) > MANY and not self.is_recording:
                self.drop(self.position())

    def position(self) -> int:
        """The present position in the record."""
        return self._dropped + len(self._outputs)

    def part_since(self, start: int) -> Part:
        """The record from ``start`` on."""
        if start >= self.position():
            return Part(b"")
        return _part(self._outputs[max(0, start - self._dropped) :])

    def drop(self, upto: int) -> None:
        """Drop what was recorded before that position: no running loop needs it any more."""
        count = min(upto - self._dropped, len(self._outputs))
        if count > 0:
            if self.records_cell:
                self._kept, _ = merge(self._kept + self._outputs[:count])
            del self._outputs[:count]
            self._dropped += count

    def cell_outputs(self) -> bytes:
        """All that the newest cell showed, if that was recorded; else no bytes."""
        return _part(self._kept + self._outputs).content

    def replay(self, data: bytes) -> None:
        """Show a recorded part again, through the same channels (which records it again)."""
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
            if output["kind"] == "result":
                hook = self._shell.displayhook
                hook.start_displayhook()
                hook.write_output_prompt()
                hook.write_format_data(content["data"], content["metadata"])
                hook.finish_displayhook()
                continue
            if output["kind"] == "clear":
                publisher.clear_output(wait=content.get("wait", False))
                continue
            transient = dict(content.get("transient", {}))
            nth = output.get("nth")
            if output["kind"] == "update" and nth is not None and nth < len(self._displays):
                transient["display_id"] = self._displays[nth]
            while output["kind"] == "display" and nth is not None and len(self._displays) < nth:
                self._displays.append("")  # a display that was cleared
            publisher.publish(
                data=content["data"],
                metadata=content.get("metadata", {}),
                transient=transient,
                update=output["kind"] == "update",
            )


def _hooks_clear(publisher: Any) -> bool:
    """Do the publisher's hooks get clear_output? In older kernels they do not."""
    code = getattr(type(publisher).clear_output, "__code__", None)
    return code is None or "_hooks" in code.co_names
