"""Which loops were edited between two versions of a notebook, before anything runs."""

from __future__ import annotations

import json

import pytest

from qcity_nb.kernel.changes.notebook_edits import edits_between

CELLS = [
    ("a", "lr = 0.1"),
    ("b", "for n in city.loop(range(3), state):\n    train(lr)"),
    ("c", "for n in city.loop(range(2), state):\n    test()"),
]


def notebook(cells: list[tuple[str, str]]) -> bytes:
    code = [{"cell_type": "code", "id": cell_id, "source": source} for cell_id, source in cells]
    return json.dumps({"cells": [{"cell_type": "markdown", "source": "text"}, *code]}).encode()


def lines(cells: list[tuple[str, str]]) -> list[str]:
    return edits_between(notebook(CELLS), notebook(cells))


def test_an_edited_loop_is_named_with_its_cell_and_the_line_that_restarts_it() -> None:
    (line,) = lines([("a", "lr = 0.2"), *CELLS[1:]])
    assert line == (
        'the loop in cell 3 was edited: lr = 0.1 → lr = 0.2; city.loop(…, changed="restart") begins it anew'
    )


def test_a_loop_that_is_gone_is_named() -> None:
    assert lines(CELLS[:2]) == ["the loop that was in cell 4 has no cell any more"]


@pytest.mark.parametrize(
    "cells",
    [
        CELLS,
        [("", source) for _, source in CELLS],
        [("new" + cell_id, source) for cell_id, source in CELLS],
        [("a", "# the rate\nlr = 0.1"), *CELLS[1:]],
        [*CELLS, ("d", "lr = 5")],
        [CELLS[0], CELLS[2], CELLS[1]],
        [CELLS[0], ("x", "for n in city.loop(range(9), {}):\n    new()"), *CELLS[1:]],
    ],
    ids=["the same", "ids gone", "other ids", "a comment", "a cell after it", "moved", "a new loop"],
)
def test_no_false_alarm(cells: list[tuple[str, str]]) -> None:
    assert lines(cells) == []


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"cells": [3]}'])
def test_what_is_no_notebook_says_nothing(content: bytes) -> None:
    assert edits_between(content, notebook([])) == []
