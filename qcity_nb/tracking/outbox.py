"""Metric rows as bytes: JSON lines, exact for every float, fast enough to write with each checkpoint.

One row is one line: a list in the order of ``Row``'s fields. Lists are a third of the size of objects with names, and
several times faster to read. The first element is the format's version.

    [1,"loss",0.25,1700000000000,3,"train",3,0]

NaN and the infinities are the strings ``"nan"``, ``"inf"`` and ``"-inf"``: strict JSON has no such numbers.

Source: docs/design.md, "Metrics are an outbox".
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from qcity_nb.codec import DecodeError
from qcity_nb.records import Row

__all__ = ["FORMAT", "decode_rows", "encode_rows"]

FORMAT = 1
"""The version of a line; a reader refuses newer ones."""

_KINDS = (int, str, float, int, int, str, int, int)
_SPECIAL = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def encode_rows(rows: Sequence[Row]) -> bytes:
    """The rows as JSON lines, in order; every float comes back with the same value.

    Returns: UTF-8 bytes that end with a newline; empty for no rows. Two such results may be concatenated.
    """
    # Lines are formatted by hand: the generic encoder costs five times as much. A few keys and loops repeat.
    quoted: dict[str, str] = {}
    for text in {row.key for row in rows} | {row.loop for row in rows}:
        quoted[text] = json.dumps(text)
    lines = []
    for row in rows:
        value = float(row.value)  # a numpy scalar's repr is not JSON
        number = repr(value) if math.isfinite(value) else f'"{value!r}"'
        lines.append(
            f"[{FORMAT},{quoted[row.key]},{number},{row.timestamp_ms:d},{row.step:d},"
            f"{quoted[row.loop]},{row.iteration:d},{row.ordinal:d}]\n"
        )
    return "".join(lines).encode("ascii")


def decode_rows(data: bytes, *, torn: bool = False) -> list[Row]:
    """Read what ``encode_rows`` wrote.

    Args:
        torn: the writer may have died in the middle of the last line: a last line without its newline is
            left out instead of refused. Other damage is still refused.
    Raises:
        DecodeError: a line is torn or is not a row; the message names its number, counted from 1.
    """
    body, newline, tail = data.rpartition(b"\n")
    if tail and not torn:
        raise DecodeError(f"line {data.count(10) + 1}: torn, the last byte is not a newline")
    if not newline:
        return []
    lines = body.split(b"\n")
    try:
        # One call of the C decoder for all rows. Two damaged lines might be one valid row together, so the count is
        # checked.
        table = json.loads(b"[" + b",".join(lines) + b"]", parse_constant=_refuse)
        if len(table) != len(lines):
            raise ValueError
        return [_row(item) for item in table]
    except (ValueError, TypeError, RecursionError):
        raise DecodeError(_explain(lines)) from None


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not strict JSON")


def _row(item: Any) -> Row:
    if type(item) is not list or tuple(map(type, item)) != _KINDS:
        item = _convert_value(item)
    version, key, value, timestamp_ms, step, loop, iteration, ordinal = item
    if version != FORMAT:
        raise ValueError(f"format {version} is not {FORMAT}: upgrade qcity-nb")
    return Row(
        key=key,
        value=value,
        timestamp_ms=timestamp_ms,
        step=step,
        loop=loop,
        iteration=iteration,
        ordinal=ordinal,
    )


def _convert_value(item: object) -> list[Any]:
    """The list with its value as a float, if that is one of the three strings or a whole number."""
    if not isinstance(item, list) or len(item) != len(_KINDS):
        raise ValueError("not a list of 8 items")
    value = item[2]
    if isinstance(value, str) and value in _SPECIAL:
        item = [*item[:2], _SPECIAL[value], *item[3:]]
    elif type(value) is int:
        item = [*item[:2], float(value), *item[3:]]
    if tuple(map(type, item)) != _KINDS:
        raise ValueError("an item is of the wrong type")
    return list(item)


def _explain(lines: Sequence[bytes]) -> str:
    """Which line is no row, and why."""
    for number, line in enumerate(lines, 1):
        try:
            _row(json.loads(line, parse_constant=_refuse))
        except (ValueError, TypeError, RecursionError) as error:
            return f"line {number}: not a metric row: {error}"
    return "not metric rows"
