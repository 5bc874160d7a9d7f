"""Books are killed with their host at seeded moments: a fresh host ends with what an uninterrupted run shows.

One again: ``pytest 'tests/system/test_kill_cells.py::test_directory[tied-2]' -s``. Many more: ``make kill``.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import book_world
import pytest
from book_world import Moment, Outcome, World
from books import BOOKS, Book
from hub_world import HubWorld
from optional import part
from tiers import nightly_but

pytestmark = [pytest.mark.kill, pytest.mark.kernel, pytest.mark.timeout(119)]

SEEDS = (1, 2, 3)
AT_A_HUB = (4,)
QUICK = [("tied", 1), ("closures", 2), ("plots", 1)]
QUICK_AT_A_HUB = [("widgets", 4)]
QUICK_UNDISTURBED = ["plots"]
"""A kill of each of some books; the other books and seeds come at night."""

Quiet = Callable[[Book], Outcome]


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Quiet:
    """The undisturbed run of a book, once for each."""
    known: dict[str, Outcome] = {}

    def run(book: Book) -> Outcome:
        if book.name == "tied":
            part("torch")
        if book.name not in known:
            known[book.name] = World(tmp_path_factory.mktemp("quiet"), book).finish()
        return known[book.name]

    return run


def check(world: World, kills: list[Moment], quiet: Outcome) -> Outcome:
    """Kill, and compare with the undisturbed run."""
    book = world.book
    began_s = time.monotonic()
    outcome = world.finish(kills, quiet=quiet)
    twice = book_world.run_twice(outcome, book)
    print(  # noqa: T201  # how a failure is replayed, and what it cost
        f"{book.name}: kills {book_world.described(kills)}, deaths {outcome.deaths}, finished cells run twice {twice}, "
        f"{time.monotonic() - began_s:.1f} s"
    )
    assert outcome.deaths, f"nothing was killed: {world.tail()}"
    unlike = book_world.differences(outcome, quiet)
    assert not unlike, "\n".join([*unlike, world.tail()])
    assert not book_world.repeats(outcome, book), f"{book_world.repeats(outcome, book)} {outcome.ran}"
    return outcome


@pytest.mark.parametrize(("name", "seed"), nightly_but(QUICK, [(name, seed) for name in BOOKS for seed in SEEDS]))
def test_directory(name: str, seed: int, quiet: Quiet, tmp_path: Path) -> None:
    book = BOOKS[name]
    check(World(tmp_path, book), book_world.moments(random.Random(f"{name}-{seed}"), book), quiet(book))


@pytest.mark.parametrize(
    ("name", "seed"), nightly_but(QUICK_AT_A_HUB, [(name, seed) for name in BOOKS for seed in AT_A_HUB])
)
def test_hub(name: str, seed: int, quiet: Quiet, hub: HubWorld, tmp_path: Path) -> None:
    book = BOOKS[name]
    world = book_world.at_hub(tmp_path, book, hub.server, hub.repo)
    check(world, book_world.moments(random.Random(f"{name}-{seed}"), book), quiet(book))


@pytest.mark.parametrize("name", nightly_but(QUICK_UNDISTURBED, BOOKS))
def test_an_undisturbed_run_is_papermill_s(name: str, quiet: Quiet, tmp_path: Path) -> None:
    """What all others are compared with: each cell once, and the outputs, counts and variables of plain papermill."""
    book = BOOKS[name]
    plain = book_world.papermill(book, tmp_path)
    assert plain.ran == quiet(book).ran == (tuple(range(1, len(book.cells) + 1)),)
    unlike = book_world.differences(quiet(book), plain)
    assert not unlike, "\n".join(unlike)


def test_the_store_has_the_cells_that_were_finished_long_ago(quiet: Quiet, tmp_path: Path) -> None:
    """Or nothing could ever run twice in the eyes of ``repeats``."""
    book = BOOKS["tied"]
    outcome = check(World(tmp_path, book), [Moment(point="end.before")], quiet(book))
    recorded = outcome.deaths[0].recorded
    assert recorded >= 6, outcome.deaths


def test_differences_are_seen(quiet: Quiet) -> None:
    """Counts, streams, results and digests: whatever an attempt gets wrong has a line."""
    whole = quiet(BOOKS["plots"])
    assert book_world.differences(whole, whole) == []
    for n, (count, outputs) in enumerate(whole.shown, 1):
        lost = [*whole.shown[: n - 1], (count, outputs[:-1]), *whole.shown[n:]]
        miscounted = [*whole.shown[: n - 1], ((count or 0) + 1, outputs), *whole.shown[n:]]
        for changed in (miscounted, lost) if outputs else (miscounted,):
            other = Outcome(shown=changed, ran=whole.ran, began_s=0.0, cell_starts=(), ended_s=0.0)
            assert any(line.startswith(f"cell {n}: ") for line in book_world.differences(other, whole))


def test_repeats_are_seen() -> None:
    """A recorded cell that runs again has a line; one that was not recorded, or may run again, has none."""
    book = BOOKS["streams"]
    death = book_world.Death(host=0, cell=5, recorded=4)

    def after(*ran: int) -> list[str]:
        runs = ((1, 2, 3, 4, 5), ran)
        outcome = Outcome(shown=[], ran=runs, began_s=0.0, cell_starts=(), ended_s=0.0, deaths=(death,))
        return book_world.repeats(outcome, book)

    assert after(5, 6) == after(2, 3, 4, 5, 6) == []
    assert after(1, 5) == ["host 1 ran [1], of which the store had 4"]
