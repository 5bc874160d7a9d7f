"""A loop as the kernel knows it: where its last boundary is, and what a checkpoint keeps of it there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from qcity_nb import points
from qcity_nb.checkpoint.capture import Captured, capture, capture_generators
from qcity_nb.checkpoint.encode import encode_state
from qcity_nb.checkpoint.manifest import Encoded, LoopRecord
from qcity_nb.checkpoint.pack import digest
from qcity_nb.notebook.ledger import Scope
from qcity_nb.notebook.outputs import Recorder, joined

__all__ = ["Loop", "Piece"]

PIECE = 64 * 1024
"""A piece of recorded output grows up to about this size, then the next one begins."""


@dataclass(slots=True, eq=False)
class Piece:
    """Recorded output: its digest, and its content as long as it may grow or is not in the tier."""

    name: str
    content: bytes = b""


@dataclass(slots=True, eq=False)
class Loop:
    """One loop. Two are never equal: a new pass of the same loop is another one."""

    key: str
    name: str
    source: str = ""
    total: int | None = None
    done: int = 0
    count: int = 0
    passes: int = 1
    finished: bool = False
    state: object = None
    parent: Loop | None = None
    scope: Scope | None = None
    """Of the iteration that runs."""
    touched: bool = False
    """Begun in this kernel."""
    left: bool = False
    """Its iterator was closed before the end, by ``break`` or by an exception: it is finished once the code goes on."""
    trouble: Exception | None = None
    """Why its state could not be captured when it was left."""
    has_inner: bool = False
    """It has inner loops, whose checkpoints need this one's state at every boundary."""
    is_fresh: bool = False
    """What is captured or saved belongs to the present boundary."""
    snap: tuple[Captured | None, Captured] | None = None
    """State and generators at the present boundary, while they are not in the tier."""
    begun: Captured | None = None
    """The generators when the pass began, while they are not in the tier."""
    saved_state: Encoded | None = None
    saved_generators: Encoded | None = None
    saved_begun: Encoded | None = None
    outputs: list[Piece] = field(default_factory=list)
    out_from: int = 0
    """Output from this mark on is not in ``outputs`` yet."""
    started_s: float = 0.0
    started_done: int = 0

    @classmethod
    def of(cls, record: LoopRecord) -> Loop:
        """The loop that a checkpoint knows."""
        return cls(
            key=record.key,
            name=record.name,
            source=record.source,
            total=record.total,
            done=record.done,
            count=record.count,
            passes=record.passes,
            finished=record.finished,
            is_fresh=record.generators is not None,
            saved_state=record.state,
            saved_generators=record.generators,
            saved_begun=record.begun,
            outputs=[Piece(name) for name in record.outputs],
        )

    def freeze(self, recorder: Recorder) -> None:
        """Capture state, generators and output: this is the boundary.

        Raises:
            StateRefused: a variable cannot be saved.
        """
        points.hit("capture.before")
        self.snap = (capture(self.state) if self.state is not None else None, capture_generators())
        self.is_fresh = True
        self._cut(recorder)
        points.hit("capture.after")

    def _cut(self, recorder: Recorder) -> None:
        shown = recorder.since(self.out_from)
        self.out_from = recorder.mark()
        if not shown.content:
            return
        if shown.is_clean:  # what came before was cleared away
            self.outputs.clear()
        last = self.outputs[-1] if self.outputs else None
        if last is not None and 0 < len(last.content) < PIECE:
            self.outputs.pop()
            shown = joined(last.content, shown.content)
        self.outputs.append(Piece(digest(shown.content), shown.content))

    def advance(self) -> None:
        """One more iteration is finished; what was captured belongs to the boundary before."""
        self.done += 1
        self.count += 1
        self.is_fresh, self.snap = False, None

    def record(self, objects: dict[str, Any]) -> LoopRecord:
        """As a manifest names it; the content goes into ``objects``."""
        state, generators, begun = self.saved_state, self.saved_generators, self.saved_begun
        if self.snap is not None:
            state = _encoded(self.snap[0], objects) if self.snap[0] is not None else None
            generators = _encoded(self.snap[1], objects)
        if self.begun is not None:
            begun = _encoded(self.begun, objects)
        objects.update({piece.name: piece.content for piece in self.outputs if piece.content})
        return LoopRecord(
            key=self.key,
            name=self.name,
            source=self.source,
            done=self.done,
            count=self.count,
            total=self.total,
            finished=self.finished,
            passes=self.passes,
            state=state,
            generators=generators,
            begun=begun,
            outputs=tuple(piece.name for piece in self.outputs),
        )

    def saved(self, record: LoopRecord) -> None:
        """That record is in the tier now."""
        self.saved_state, self.saved_generators, self.saved_begun = record.state, record.generators, record.begun
        self.snap = self.begun = None
        for piece in self.outputs[:-1]:  # only the newest may still grow
            piece.content = b""


def _encoded(captured: Captured, objects: dict[str, Any]) -> Encoded:
    encoded, content = encode_state(captured)
    objects.update(content)
    return encoded
