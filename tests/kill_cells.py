"""Books killed many times, through a directory store and the Hub emulator: ``make kill``.

python tests/kill_cells.py                       # 20 kills of each book through each store
python tests/kill_cells.py --kills 3 tied plots  # fewer, of some
python tests/kill_cells.py --seed 17 tied        # one again

Prints a table for benchmarks/README.md. Exit code 1: something differs from an uninterrupted run, or a finished cell
that the store had ran again.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "support"), str(HERE.parent)]
os.environ.update(HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_PROGRESS_BARS="1", HF_TOKEN="any")  # read when imported

import book_world  # noqa: E402  # its place is told just above
from book_world import Outcome, World  # noqa: E402
from books import BOOKS, Book  # noqa: E402

STORES = ("directory", "Hub emulator")
COLUMNS = (
    "notebook",
    "store",
    "runs",
    "kills",
    "attempts",
    "cells begun",
    "finished cells in the store at a death",
    "of these re-run",
    "finished cells re-run in total",
    "equal",
    "undisturbed s",
    "killed s, median",
)

Open = Callable[[Path, Book], World]


@dataclass(slots=True)
class Line:
    """What became of one book through one store."""

    book: Book
    store: str
    quiet: Outcome
    outcomes: list[Outcome] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """What differs, a paragraph for each run."""
    unlike: int = 0
    failed: int = 0

    @property
    def kills(self) -> int:
        """How many hosts died."""
        return sum(len(each.deaths) for each in self.outcomes)

    def add(self, seed: int, open_world: Open, root: Path) -> None:
        """One run more, killed as its seed says."""
        kills = book_world.moments(random.Random(f"{self.book.name}-{self.store}-{seed}"), self.book)
        label = f"{self.book.name}, {self.store}, seed {seed}, {book_world.described(kills)}"
        world = open_world(root, self.book)
        try:
            outcome = world.finish(kills, quiet=self.quiet)
        except AssertionError as error:
            self.wrong.append(f"{label}: {error}")
            self.failed += 1
            return
        self.outcomes.append(outcome)
        if unlike := book_world.differences(outcome, self.quiet):
            self.unlike += 1
            self.wrong.append("\n  ".join([f"{label}: differs", *unlike]))
        if repeats := book_world.repeats(outcome, self.book):
            self.wrong.append("\n  ".join([f"{label}: ran again", *repeats]))

    def row(self) -> tuple[str, ...]:
        """A row of the table."""
        times = sorted(each.took_s for each in self.outcomes)
        return (
            self.book.name,
            self.store,
            str(len(self.outcomes) + self.failed),
            str(self.kills),
            str(sum(len(each.ran) for each in self.outcomes)),
            str(sum(len(ran) for each in self.outcomes for ran in each.ran)),
            str(sum(death.recorded for each in self.outcomes for death in each.deaths)),
            str(sum(len(book_world.repeats(each, self.book)) for each in self.outcomes)),
            str(sum(len(book_world.run_twice(each, self.book)) for each in self.outcomes)),
            f"{self.unlike + self.failed} not" if self.unlike + self.failed else "yes",
            f"{self.quiet.took_s:.1f}",
            f"{times[len(times) // 2]:.1f}" if times else "",
        )


@contextlib.contextmanager
def opened(store: str, root: Path) -> Iterator[Open]:
    """What makes a world with such a store."""
    if store == "directory":
        yield World
        return
    from huggingface_hub import HfApi

    from qcity_nb.testing.emulators.hub.server import HubServer

    with HubServer(root / "hub") as server:
        api = HfApi(endpoint=server.url, token="any")

        def open_world(folder: Path, book: Book) -> World:
            repo = api.create_repo(f"r{uuid.uuid4().hex[:12]}", private=True).repo_id
            return book_world.at_hub(folder, book, server, repo)

        yield open_world


def measured(books: list[Book], seeds: range | list[int], kills: int, folder: Path) -> list[Line]:
    """Every book through every store, until so many hosts have died."""
    lines = []
    for book in books:
        quiet = World(folder / f"{book.name}-quiet", book).finish()
        if unlike := book_world.differences(quiet, book_world.papermill(book, folder)):
            print(f"{book.name} without a kill is not papermill's:", *unlike, sep="\n  ", file=sys.stderr)
        for store in STORES:
            line = Line(book, store, quiet)
            with (
                tempfile.TemporaryDirectory(prefix="qcity-kill-", dir=folder) as name,
                opened(store, Path(name)) as way,
            ):
                for seed in seeds:
                    if line.kills >= kills:
                        break
                    line.add(seed, way, Path(name) / str(seed))
            print(" | ".join(line.row()), *line.wrong, sep="\n", file=sys.stderr, flush=True)
            lines.append(line)
    return lines


def main() -> int:
    """Kill, print the table, say whether all went well."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="BOOK", help=f"of {', '.join(BOOKS)}; default: all")
    parser.add_argument("--kills", type=int, default=20, help="of each book through each store (default 20)")
    parser.add_argument("--seed", type=int, help="only the run of this seed")
    args = parser.parse_args()
    if unknown := set(args.names) - set(BOOKS):
        parser.error(f"no such book: {', '.join(sorted(unknown))}")
    began_s = time.monotonic()
    seeds = [args.seed] if args.seed is not None else range(1000, 1000 + 2 * args.kills)
    with tempfile.TemporaryDirectory(prefix="qcity-kill-") as name:
        lines = measured([BOOKS[each] for each in args.names or BOOKS], seeds, args.kills, Path(name))
    print("| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS), sep="\n")
    for line in lines:
        print("| " + " | ".join(line.row()) + " |")
    wrong = sum(len(line.wrong) for line in lines)
    minutes = (time.monotonic() - began_s) / 60
    print(f"\n{sum(line.kills for line in lines)} kills in {minutes:.0f} minutes, {wrong} wrong.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
