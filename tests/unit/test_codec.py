"""Records survive the trip through JSON, and what is not a record is refused by name."""

from __future__ import annotations

import math

import pytest

from qcity_nb import codec
from qcity_nb.records import Head, Holder, Row

HEAD = Head(run="train-1", key="k", project="p", notebook="train.ipynb", holder=Holder(attempt="a", host="local"))


def test_a_head_comes_back_equal() -> None:
    assert codec.loads(Head, codec.dumps(HEAD)) == HEAD


def test_keys_of_a_newer_version_survive() -> None:
    data = codec.dumps(HEAD).replace(b'"heartbeat":0', b'"heartbeat":0,"tomorrow":[1,{"a":null}]')
    again = codec.loads(Head, data)
    assert again.extra == {"tomorrow": [1, {"a": None}]}
    assert b'"tomorrow":[1,{"a":null}]' in codec.dumps(again)


@pytest.mark.parametrize("value", [math.inf, -math.inf, 0.1, 1e308, -0.0])
def test_floats_come_back_exactly(value: float) -> None:
    row = Row(key="x", value=value, timestamp_ms=1, step=0, loop="", iteration=0, ordinal=0)
    again = codec.loads(Row, codec.dumps(row))
    assert math.copysign(1, again.value) == math.copysign(1, value)
    assert again.value == value


def test_nan_comes_back_as_nan() -> None:
    row = Row(key="x", value=math.nan, timestamp_ms=1, step=0, loop="", iteration=0, ordinal=0)
    assert math.isnan(codec.loads(Row, codec.dumps(row)).value)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "not JSON"),
        (b"[]", "object"),
        (b"{}", "format"),
        (b'{"format":999}', "upgrade"),
        (b'{"format":1}', "older"),
        (codec.dumps(HEAD).replace(b'"term":0', b'"term":"x"'), "term"),
        (codec.dumps(HEAD).replace(b'"run":"train-1",', b""), "run"),
        (codec.dumps(HEAD).replace(b'"state":"running"', b'"state":"bogus"', 1), "state"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_what_is_no_head_is_refused_by_name(data: bytes, word: str) -> None:
    with pytest.raises(codec.DecodeError, match=word):
        codec.loads(Head, data)
