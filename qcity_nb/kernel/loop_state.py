"""A loop in the kernel: where its last boundary is, and what a checkpoint holds of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from qcity_nb import crashpoints
from qcity_nb.checkpoint.digest import name_of
from qcity_nb.checkpoint.encode import encode_state
from qcity_nb.checkpoint.engine import Engine
from qcity_nb.checkpoint.state.capture import Captured, capture_generators
from qcity_nb.checkpoint.state.freezer import Lazily
from qcity_nb.checkpoint.state.structure import Structure
from qcity_nb.checkpoint.storage.manifest import Encoded, LoopRecord
from qcity_nb.kernel.changes.auto_state import AutoState
from qcity_nb.kernel.changes.item_record import ItemRecord
from qcity_nb.kernel.metric_log import RowScope
from qcity_nb.kernel.output_recorder import Recorder, join_parts

__all__ = ["LoopSnapshot", "Loop", "Piece"]

PIECE = 64 * 1024
"""A piece of recorded output grows to about this many bytes, then the next one begins."""


@dataclass(slots=True, eq=False)
class Piece:
    """Recorded output: its name, and its content while it may grow or is not in the local tier."""

    name: str
    content: bytes = b""


@dataclass(slots=True, eq=False)
class LoopSnapshot:
    """A loop as the next checkpoint records it. The loop may continue while it is written."""

    loop: Loop
    base: LoopRecord
    """The record with what is in the local tier already."""
    state: Captured | None
    generators: Captured | None
    begun: Captured | None
    pieces: list[tuple[str, bytes]]

    def record(self, objects: dict[str, Any]) -> LoopRecord:
        """The record for a manifest; its content goes into ``objects``. This hashes, so not in the loop's time.

        Raises:
            Discarded: the state was changed while it was copied.
        """
        record = self.base
        if self.state is not None:
            record = replace(record, state=_encode(self.state, objects))
        if self.generators is not None:
            record = replace(record, generators=_encode(self.generators, objects))
        if self.begun is not None:
            record = replace(record, begun=_encode(self.begun, objects))
        objects.update({name: content for name, content in self.pieces if content})
        return record


@dataclass(slots=True, eq=False)
class Loop:
    """One loop. Compared by identity: a new pass of the same loop is another one."""

    key: str
    name: str
    source: str = ""
    total: int | None = None
    done: int = 0
    count: int = 0
    passes: int = 1
    finished: bool = False
    state: object = None
    auto: AutoState | None = None
    """What ``state`` is collected by: ``state="auto"``."""
    parent: Loop | None = None
    row_scope: RowScope | None = None
    """The scope of the running iteration."""
    items: ItemRecord = field(default_factory=ItemRecord)
    structure: Structure = field(default_factory=Structure)
    """How the state was built when the loop began here."""
    touched: bool = False
    """It has begun in this kernel."""
    left: bool = False
    """Its iterator was closed early, by ``break`` or by an exception: it is finished once the code after it runs."""
    trouble: Exception | None = None
    """Why its state could not be captured when it was left."""
    has_inner: bool = False
    """It has inner loops, whose checkpoints need its state at each of its boundaries."""
    is_fresh: bool = False
    """The captured or saved state belongs to the present boundary."""
    lazily: Lazily = "gated"
    """Which parts of the state may be copied after the next iteration has begun."""
    snap: tuple[Captured | None, Captured] | None = None
    """State and generators at the present boundary, until a save takes them over."""
    begun: Captured | None = None
    """The generators when the pass began, until they are in the local tier."""
    saved_state: Encoded | None = None
    saved_generators: Encoded | None = None
    saved_begun: Encoded | None = None
    record: LoopRecord | None = None
    """Its record in the local tier, as long as nothing has changed since."""
    outputs: list[Piece] = field(default_factory=list)
    out_from: int = 0
    """Output from this position on is not in ``outputs`` yet."""
    started_s: float = 0.0
    started_done: int = 0
    code: Mapping[str, Any] = field(default_factory=dict)
    """The code that it runs (kernel/changes/loop_edits.py)."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What a newer version wrote into the loop's record."""

    @classmethod
    def of(cls, record: LoopRecord) -> Loop:
        """The loop of a checkpoint's record."""
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
            items=ItemRecord(record.items),
            record=record,
            code=record.code,
            extra=record.extra,
        )

    def freeze(self, recorder: Recorder, engine: Engine, *, at_once: bool, may_stream: bool) -> bool:
        """Capture state, generators and output at this boundary.

        Args:
            at_once: copy all of the state before this returns: no iteration follows whose optimizer would wait.
            may_stream: the save follows before anything else, so if memory is short nothing need be copied.
        Returns: whether memory was short.

        Raises:
            StateRefused: a variable cannot be saved.
        """
        crashpoints.hit("capture.before")
        self.drop_snap()
        self.record = None
        state = None
        if self.auto is not None:
            self.auto.collect()
        if self.state is not None:
            lazily = "never" if at_once else self.lazily
            state = engine.capture(self.state, lazily=lazily, may_stream=may_stream, structure=self.structure)
        self.snap = (state, capture_generators())
        self.is_fresh = True
        self._cut(recorder)
        crashpoints.hit("capture.after")
        return state is not None and state.buffer is not None and state.buffer.is_live

    def _cut(self, recorder: Recorder) -> None:
        shown = recorder.part_since(self.out_from)
        self.out_from = recorder.position()
        if not shown.content:
            return
        if shown.is_clean:  # the cell cleared its earlier output
            self.outputs.clear()
        last = self.outputs[-1] if self.outputs else None
        if last is not None and 0 < len(last.content) < PIECE:
            self.outputs.pop()
            shown = join_parts(last.content, shown.content)
        self.outputs.append(Piece(name_of(shown.content), shown.content))

    def advance(self) -> None:
        """Count one more finished iteration; what was captured belongs to the previous boundary and is dropped."""
        self.done += 1
        self.count += 1
        self.is_fresh = False
        self.drop_snap()

    def drop_snap(self) -> None:
        """Drop what was captured and not saved."""
        if self.snap is not None and self.snap[0] is not None:
            self.snap[0].release()
        self.snap = None

    def snapshot(self) -> LoopSnapshot:
        """The loop for the next checkpoint, which takes over what was captured."""
        if self.finished and self.record is not None:
            return LoopSnapshot(self, self.record, None, None, None, [])
        state, generators = self.snap if self.snap is not None else (None, None)
        begun, self.snap, self.begun = self.begun, None, None
        kept = self.saved_state if generators is None else None
        base = LoopRecord(
            key=self.key,
            name=self.name,
            source=self.source,
            done=self.done,
            count=self.count,
            total=self.total,
            finished=self.finished,
            passes=self.passes,
            state=kept,
            generators=self.saved_generators if generators is None else None,
            begun=self.saved_begun if begun is None else None,
            outputs=tuple(piece.name for piece in self.outputs),
            items=self.items.values(),
            code=self.code,
            extra=self.extra,
        )
        pieces = [(piece.name, piece.content) for piece in self.outputs]
        return LoopSnapshot(self, base, state, generators, begun, pieces)

    def mark_saved(self, record: LoopRecord) -> None:
        """Note that this record is in the local tier."""
        self.saved_state, self.saved_generators, self.saved_begun = record.state, record.generators, record.begun
        there = set(record.outputs)
        is_over = self.finished and record.finished and self.snap is None
        for piece in self.outputs if is_over else self.outputs[:-1]:  # else the newest piece may still grow
            if piece.name in there:
                piece.content = b""
        if is_over:
            self.record, self.state, self.auto = record, None, None  # whoever needs the state of a finished loop has it


def _encode(captured: Captured, objects: dict[str, Any]) -> Encoded:
    encoded, content = encode_state(captured)
    objects.update(content)
    return encoded
