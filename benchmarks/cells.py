"""What skipping finished cells costs a run that nobody kills: eight notebooks under papermill, plain and with qcity.

The books of the kill tests (``tests/books``): pandas, scikit-learn, torch, plots, classes, files, widgets, loops. Each
whole command is timed, start to end, in a fresh directory: ``papermill in out`` beside ``papermill --engine qcity in
out`` on the embedded default without a tracker, and plain papermill once more as the noise floor. A second figure
leaves out what comes before the first cell, such as papermill's own import.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import measure
from measure import Budget, Report, Spread, interleave, pairwise, spread

sys.path.insert(0, str(measure.ROOT / "tests" / "support"))

import book_world  # its place is told just above
from books import BOOKS, Book

BUDGET = 1.05
ENGINES = {"plain": "", "qcity": "qcity", "again": ""}


def ran(book: Book, folder: Path, engine: str, cells_s: list[float]) -> float:
    """Seconds of one whole command; those from its first cell on go into ``cells_s``."""
    outcome = book_world.papermill(book, folder, engine=engine)
    cells_s.append(outcome.ended_s - outcome.cell_starts[0].at_s)
    return outcome.took_s


def of_book(book: Book, rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Whole commands and their cells alone, by contestant."""
    cells: dict[str, list[float]] = {name: [] for name in ENGINES}
    with tempfile.TemporaryDirectory(prefix="qcity-bench-") as name:
        folder = Path(name)

        def turn(contestant: str) -> float:
            return ran(book, folder, ENGINES[contestant], cells[contestant])

        contestants = {each: (lambda each=each: turn(each)) for each in ENGINES}
        samples = interleave(contestants, rounds=rounds)
    return samples, {each: taken[-len(samples[each]) :] for each, taken in cells.items()}


def measured(quick: bool) -> Report:
    """Every book in turn."""
    rows: list[tuple[str, ...]] = []
    ratios: dict[str, list[Spread]] = {"whole": [], "noise": [], "cells": [], "cells noise": []}
    for book in [BOOKS["closures"], BOOKS["streams"]] if quick else BOOKS.values():
        whole, cells = of_book(book, 1 if quick else 7)
        measured_s = {
            "whole": pairwise(whole["qcity"], whole["plain"]),
            "noise": pairwise(whole["again"], whole["plain"]),
            "cells": pairwise(cells["qcity"], cells["plain"]),
            "cells noise": pairwise(cells["again"], cells["plain"]),
        }
        for name, each in measured_s.items():
            ratios[name].append(each)
        rows.append(
            (
                book.name,
                spread(whole["plain"]).text(unit="s"),
                spread(whole["qcity"]).text(unit="s"),
                *(measured_s[name].text(digits=3, unit="x") for name in ratios),
            )
        )
    middle = {name: spread([each.median for each in measured_s]) for name, measured_s in ratios.items()}
    rows.append(("**median of them**", "", "", *(each.text(digits=3, unit="x") for each in middle.values())))
    return Report(
        name="cells",
        title="Notebooks beside plain papermill",
        columns=(
            "notebook",
            "papermill",
            "with `--engine qcity`",
            "beside it",
            "papermill beside itself (noise floor)",
            "from the first cell on",
            "that noise floor",
        ),
        rows=rows,
        budgets=[
            Budget(
                what="notebooks beside plain papermill, median",
                limit=BUDGET,
                measured=middle["whole"].median,
                unit="x papermill",
                why=f"Papermill beside itself: {middle['noise'].text(digits=3, unit='x')}.",
            )
        ],
        notes=["Whole commands in fresh directories, without a tracker; each notebook works for 1 to 4 s on one core."],
        numbers={name.replace(" ", "_"): each.median for name, each in middle.items()},
    )


if __name__ == "__main__":
    measure.command_line(measured)
