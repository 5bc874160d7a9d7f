"""Large groups are read while small ones are loaded, and no thread is left running afterwards."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from qcity_nb.checkpoint.state.capture import Captured
from qcity_nb.errors import CheckpointCorrupt
from qcity_nb.namespace import prefetch
from qcity_nb.namespace.prefetch import read_ahead

WAIT_S = 30.0


class Slow:
    """A buffer that is read once it may be."""

    def __init__(self, size: int, may: threading.Event | None = None, error: Exception | None = None) -> None:
        self.size = size
        self.may = may
        self.error = error
        self.begun, self.done = threading.Event(), threading.Event()

    def read_into(self, target: memoryview) -> None:
        self.begun.set()
        try:
            if self.may is not None and not self.may.wait(WAIT_S):
                raise AssertionError("nobody continued meanwhile")
            if self.error is not None:
                raise self.error
            target[:] = b"x" * self.size
        finally:
            self.done.set()

    def parts(self) -> Iterator[tuple[str, None]]:
        raise NotImplementedError


def group(*buffers: Slow) -> Captured:
    return Captured(skeleton=b"", buffers=buffers)


LARGE = prefetch._LARGE_BYTES


def test_small_groups_come_while_a_large_one_is_read() -> None:
    may = threading.Event()
    large = Slow(LARGE, may)
    order = []
    for name, _, read_buffers in read_ahead([("large", group(large)), ("small", group(Slow(9))), ("none", group())]):
        order.append(name)
        if name == "small":
            assert large.begun.wait(WAIT_S)
            assert not large.done.is_set()
            may.set()
        assert [bytes(each) for each in read_buffers()] == {"large": [b"x" * LARGE], "small": [b"x" * 9], "none": []}[
            name
        ]
    assert order == ["none", "small", "large"]


def test_what_reading_raises_is_raised_where_the_group_is_loaded() -> None:
    bad = Slow(LARGE, error=CheckpointCorrupt("damaged"))
    result = {
        name: read_buffers for name, _, read_buffers in read_ahead([("bad", group(bad)), ("good", group(Slow(3)))])
    }
    assert result["good"]() == [b"xxx"]
    with pytest.raises(CheckpointCorrupt, match="damaged"):
        result["bad"]()


def test_nothing_is_read_after_it_is_closed() -> None:
    may = threading.Event()
    first, second = Slow(LARGE, may), Slow(LARGE + 1)
    each = read_ahead([("first", group(first)), ("second", group(second))])
    next(each)
    assert first.begun.wait(WAIT_S)
    closing = threading.Thread(target=each.close)
    closing.start()
    may.set()
    closing.join(WAIT_S)
    assert not closing.is_alive()
    assert first.done.is_set()
    assert second.begun.is_set() == second.done.is_set()


def test_only_so_much_is_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "_AHEAD_BYTES", 2 * LARGE + 10)
    buffers = [Slow(LARGE + place) for place in range(4)]
    each = read_ahead([(str(place), group(buffer)) for place, buffer in enumerate(buffers)])
    for place in range(4):
        _, _, read_buffers = next(each)
        read_buffers()
        begun = [buffer.begun.is_set() for buffer in buffers]
        assert not any(begun[place + 2 :])
    assert next(each, None) is None
