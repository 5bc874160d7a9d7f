"""The record of what a cell showed: what still counts of it, cut where a loop's boundaries are."""

from __future__ import annotations

import json
from typing import Any

from qcity_nb.kernel.output_recorder import Recorder, join_parts, merge


def text(value: str, name: str = "stdout") -> dict[str, Any]:
    return {"kind": "stream", "name": name, "text": value}


def show(kind: str, value: str, display_id: str = "") -> dict[str, Any]:
    return {"kind": kind, "content": {"data": {"text/plain": value}, "transient": {"display_id": display_id}}}


def clear(*, wait: bool) -> dict[str, Any]:
    return {"kind": "clear", "content": {"wait": wait}}


def test_streams_are_joined_and_of_updates_the_last_counts() -> None:
    outputs = [text("a"), text("b"), text("c", "stderr"), show("update", "1", "x"), show("update", "2", "x"), text("d")]
    assert merge(outputs) == ([text("ab"), text("c", "stderr"), show("update", "2", "x"), text("d")], False)


def test_what_was_cleared_away_is_gone_but_updates_of_other_displays_stay() -> None:
    outputs = [text("a"), show("update", "1", "x"), clear(wait=True), text("b")]
    assert merge(outputs) == ([show("update", "1", "x"), clear(wait=True), text("b")], True)


def test_a_clear_that_nothing_follows_yet_takes_nothing_away() -> None:
    outputs = [text("a"), clear(wait=True)]
    assert merge(outputs) == (outputs, False)
    part = join_parts(json.dumps(outputs).encode(), json.dumps([text("b")]).encode())
    assert json.loads(part.content) == [clear(wait=True), text("b")]
    assert part.is_clean


def test_the_record_is_bounded_by_what_running_loops_need() -> None:
    recorder = Recorder()
    recorder.is_recording = True
    for n in range(10):
        recorder._add(text(str(n)))
    place = recorder.position()
    assert json.loads(recorder.part_since(4).content) == [text("456789")]
    recorder.drop(7)
    assert len(recorder._outputs) == 3
    assert recorder.position() == place
    assert json.loads(recorder.part_since(8).content) == [text("89")]
    assert recorder.part_since(place).content == b""
    recorder.is_recording = False
    recorder._add(text("outside of loops"))
    assert recorder.position() == place
