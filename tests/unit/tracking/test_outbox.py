"""Metric rows as bytes: exact, torn lines reported, damage refused."""

import math
import struct
import time

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcity_nb.codec import DecodeError
from qcity_nb.records import Row
from qcity_nb.tracking.outbox import decode_rows, encode_rows


def row(**change: object) -> Row:
    values: dict[str, object] = {
        "key": "loss", "value": 0.25, "timestamp_ms": 1_700_000_000_000, "step": 3,
        "loop": "train", "iteration": 3, "ordinal": 0,
    }  # fmt: skip
    return Row(**{**values, **change})  # type: ignore[arg-type]  # the tests name the fields


def bits(row: Row) -> tuple[object, ...]:
    """All fields, the value as its bytes: NaN equals NaN, and -0.0 is not 0.0."""
    value = b"nan" if math.isnan(row.value) else struct.pack("d", row.value)
    return (row.key, value, row.timestamp_ms, row.step, row.loop, row.iteration, row.ordinal)


rows = st.builds(
    Row,
    key=st.text(),
    value=st.floats(),
    timestamp_ms=st.integers(0, 2**62),
    step=st.integers(-(2**62), 2**62),
    loop=st.text(),
    iteration=st.integers(0, 2**40),
    ordinal=st.integers(0, 2**40),
)


@given(st.lists(rows))
def test_every_row_comes_back_exactly(given_rows: list[Row]) -> None:
    data = encode_rows(given_rows)
    assert data.count(b"\n") == len(given_rows)
    assert list(map(bits, decode_rows(data))) == list(map(bits, given_rows))


@given(st.lists(rows), st.lists(rows))
def test_two_results_may_be_joined(first: list[Row], second: list[Row]) -> None:
    joined = decode_rows(encode_rows(first) + encode_rows(second))
    assert list(map(bits, joined)) == list(map(bits, [*first, *second]))


@given(st.lists(rows, min_size=1), st.data())
def test_a_torn_last_line_is_refused_unless_flagged(given_rows: list[Row], data: st.DataObject) -> None:
    whole = encode_rows(given_rows)
    cut = data.draw(st.integers(1, len(whole) - 1))
    piece = whole[:cut]
    if not piece.endswith(b"\n"):
        with pytest.raises(DecodeError, match=f"line {piece.count(10) + 1}: torn"):
            decode_rows(piece)
    kept = decode_rows(piece, torn=True)
    assert list(map(bits, kept)) == list(map(bits, given_rows[: piece.count(10)]))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "not a metric row"),
        (b"{}", "8 items"),
        (b'[1,"a",0.5,1,2,"l",3]', "8 items"),
        (b'[1,"a",0.5,1,2,"l",3,true]', "wrong type"),
        (b'[1,"a","0.5",1,2,"l",3,4]', "wrong type"),
        (b'[1,"a",NaN,1,2,"l",3,4]', "strict JSON"),
        (b'[2,"a",0.5,1,2,"l",3,4]', "upgrade"),
        (b'[1,"a",0.5,1,2,"l",3,4],[1,"a",0.5,1,2,"l",3,4]', "line 2"),
        (b"\xff", "not a metric row"),
        (b"[" * 100_000, "not a metric row"),
    ],
)
@pytest.mark.parametrize("torn", [False, True])
def test_damage_before_the_last_line_is_refused_and_its_line_named(line: bytes, why: str, torn: bool) -> None:
    good = encode_rows([row()])
    with pytest.raises(DecodeError, match="line 2") as caught:
        decode_rows(good + line + b"\n" + good, torn=torn)
    assert why in str(caught.value)


def test_a_whole_number_is_a_value_too() -> None:
    assert bits(decode_rows(encode_rows([row(value=3)]))[0]) == bits(row(value=3.0))
    assert bits(decode_rows(b'[1,"loss",3,1700000000000,3,"train",3,0]\n')[0]) == bits(row(value=3.0))


def test_a_numpy_scalar_is_a_value_too() -> None:
    data = encode_rows([row(value=numpy.float64(0.1)), row(value=numpy.float64("nan"))])
    assert [bits(r) for r in decode_rows(data)] == [bits(row(value=0.1)), bits(row(value=math.nan))]


def test_encoding_is_fast_enough_to_ride_on_every_checkpoint() -> None:
    many = [row(value=1 / (n + 1), step=n, iteration=n) for n in range(20_000)]

    def rate() -> float:
        start = time.thread_time()  # CPU time: other processes on the machine do not count
        encode_rows(many)
        return len(many) / (time.thread_time() - start)

    assert max(rate() for _ in range(5)) >= 200_000
