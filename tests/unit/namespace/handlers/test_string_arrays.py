"""Arrays of texts come back the same; what repeats in them takes memory once."""

from __future__ import annotations

import numpy as np
import pytest

from qcity_nb.namespace.handlers.string_arrays import pack_strings, unpack_strings

COUNT = 300_000


def back(words: list[str]) -> list[str]:
    array = np.empty(len(words), dtype=object)
    array[:] = words
    call = pack_strings(array)
    assert call is not None
    make, (data, *rest) = call
    assert make is unpack_strings
    result: list[str] = make(bytearray(data.raw()), *rest).tolist()
    return result


@pytest.mark.parametrize("distinct", [3, 1000, 50_000, 100_003, COUNT // 2])
def test_texts_that_repeat_are_one_object(distinct: int) -> None:
    words = [f"word {k % distinct} \ud800é" for k in range(COUNT)]
    result = back(words)
    assert result == words
    assert len(set(map(id, result))) == distinct


@pytest.mark.parametrize("count", [100, COUNT])
def test_texts_that_differ_come_back(count: int) -> None:
    words = [f"word {k}" for k in range(count)]
    assert back(words) == words


def test_one_text_among_some_that_differ() -> None:
    words = [f"word {k}" if k % 50 == 0 else "same" for k in range(COUNT)]
    result = back(words)
    assert result == words
    assert len(set(map(id, result))) == len(set(words))
