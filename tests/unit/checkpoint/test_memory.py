"""Memory that is not filled yet."""

from __future__ import annotations

import pytest

from qcity_nb.checkpoint.memory import PAGE, address_of, allocate


@pytest.mark.parametrize("size", [0, 1, PAGE, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (5 << 20) + 17])
def test_unfilled_memory_is_a_bytearray_of_that_size(size: int) -> None:
    made = allocate(size)
    made[:] = content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    assert type(made) is bytearray
    assert made == content
    made += b"more"
    assert made == content + b"more"


def test_large_memory_begins_at_a_page() -> None:
    assert all(address_of(allocate((1 << 20) + extra)) % PAGE == 0 for extra in (0, 1, 4095, 4096))
