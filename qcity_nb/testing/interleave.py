"""Interleavings that are made, not hoped for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from qcity_nb import crashpoints

__all__ = ["at_every_point", "in_threads"]

T = TypeVar("T")


def at_every_point(
    prepare: Callable[[str], T], publish: Callable[[str, T], object], action: Callable[[str, T], object]
) -> Iterator[tuple[str, T]]:
    """Run ``action`` once at each point that ``publish`` hits, each time in a run of its own.

    Args:
        prepare: makes the run of that id ready; what it returns goes to the other two.
    Yields: each run, after its publish, to be looked at.
    """
    hits: list[str] = []
    ready = prepare("undisturbed")
    crashpoints.arm(hits.append)
    try:
        publish("undisturbed", ready)
    finally:
        crashpoints.arm(None)
    assert "publish.files.after" in hits, "a publish with files marks its crash points"
    for chosen in range(len(hits)):
        run = f"at-{chosen}"
        ready = prepare(run)
        countdown = [chosen]

        def hook(_: str, run: str = run, ready: T = ready, countdown: list[int] = countdown) -> None:
            if countdown[0] == 0:
                crashpoints.arm(None)
                action(run, ready)
            countdown[0] -= 1

        crashpoints.arm(hook)
        try:
            publish(run, ready)
        finally:
            crashpoints.arm(None)
        assert countdown[0] < 0, f"point {chosen} of {hits} was not hit the second time"
        yield run, ready


def in_threads(actions: list[Callable[[], None]]) -> None:
    """Run them at once; a failure in any of them is this test's failure."""
    failures: list[BaseException] = []
    start = threading.Barrier(len(actions))

    def run(action: Callable[[], None]) -> None:
        try:
            start.wait(10)
            action()
        except BaseException as error:  # noqa: BLE001  # carried over to the thread that asserts
            failures.append(error)

    threads = [threading.Thread(target=run, args=(action,), daemon=True) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread hangs"
    if failures:
        raise failures[0]
