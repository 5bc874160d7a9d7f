"""What a loop goes over: indexed where that gives the same items, else consumed again from the start."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

__all__ = ["Items"]

SLOW_SKIP_S = 1.0
"""Consuming finished items for longer than this is told to the user."""


class Items:
    """Items that can be taken from any place on.

    Indexed are sequences, numpy arrays, and what Python itself would iterate by index (a torch data set): all else
    with ``[]`` may mean a label, a key or a column by it.
    """

    def __init__(self, source: Any) -> None:
        self._source = source
        try:
            self.total: int | None = len(source)
        except TypeError:  # no length, or one that it does not know (a loader over a stream)
            self.total = None
        self.is_indexed = self.total is not None and (
            isinstance(source, Sequence)
            or (hasattr(source, "__array_interface__") and hasattr(source, "__getitem__"))
            or (hasattr(source, "__getitem__") and not hasattr(source, "__iter__"))
        )

    def after(self, done: int, slow: Callable[[int], None]) -> Iterator[Any]:
        """The items after the first ``done``, which are consumed before this returns.

        Args:
            slow: called once if that takes longer than ``SLOW_SKIP_S``, with how many are consumed so far.
        """
        if self.is_indexed:
            return self._indexed(done)
        values: Iterator[Any] = iter(self._source)
        until = time.monotonic() + SLOW_SKIP_S
        told = False
        for n in range(done):
            try:
                next(values)
            except StopIteration:
                break
            if not told and time.monotonic() > until:
                told = True
                slow(n + 1)
        return values

    def _indexed(self, start: int) -> Iterator[Any]:
        index = start
        while index < len(self._source):
            try:
                value = self._source[index]
            except IndexError:  # how data sets without an iterator of their own say that they end
                return
            yield value
            index += 1
