"""Records to JSON and back: versioned, strict about types, unknown keys survive."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

__all__ = ["FORMAT", "NEWEST", "DecodeError", "Record", "canonical", "decode", "dumps", "encode", "loads"]

OLDEST, FORMAT, NEWEST = 2, 2, 3
"""This version writes ``FORMAT``, and reads ``OLDEST`` to ``NEWEST``. Format 1 had other keys and was never released.

Format 3 is that of manifests whose older records are elsewhere: a version that does not look there must not take them
for whole.
"""

T = TypeVar("T")


class DecodeError(ValueError):
    """The text is not such a record; the message names the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Base of what is stored: it keeps the keys that this version does not know, so that a newer one finds them again.

    So change a record with ``dataclasses.replace``. One that is built anew field by field loses them.
    """

    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)


@functools.cache
def _fields(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


# Run records are read and written every other second for hours, so what is known of a type is cached.
_origin: Callable[[Any], Any] = functools.cache(typing.get_origin)


@functools.cache
def _dataclass_fields(cls: type) -> tuple[dataclasses.Field[Any], ...]:
    """The fields that are stored: one with the metadata ``stored=False`` is only in memory."""
    return tuple(each for each in dataclasses.fields(cls) if each.metadata.get("stored", True))


_SCALARS: frozenset[type] = frozenset({str, int, bool})


def encode(value: object) -> Any:
    """A record (or a tree of records, tuples, mappings and scalars) as plain JSON values."""
    if value is None or type(value) in _SCALARS:
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        out: dict[str, Any] = {}
        extra: Mapping[str, Any] = {}
        for each in _dataclass_fields(type(value)):
            item = getattr(value, each.name)
            if each.name == "extra":
                extra = item
            else:
                out[each.name] = encode(item)
        return {**encode(extra), **out}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}  # strict JSON has no NaN; other readers must not choke on ours
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"a record cannot hold {type(value).__name__}")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"float"} and value["float"] in ("nan", "inf", "-inf"):
            return float(value["float"])  # any other such mapping is the user's own
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _decode(kind: Any, value: Any, where: str) -> Any:
    if kind in _SCALARS and type(value) is kind:
        return value
    origin = _origin(kind)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(kind)
        if value is None and type(None) in options:
            return None
        for option in options:
            if option is type(None):
                continue
            try:
                return _decode(option, value, where)
            except DecodeError:
                continue
        raise DecodeError(f"{where}: {value!r} is none of {kind}")
    if origin is typing.Literal:
        if value not in typing.get_args(kind):
            raise DecodeError(f"{where}: {value!r} is not one of {typing.get_args(kind)}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise DecodeError(f"{where}: a list was expected")
        args = typing.get_args(kind)
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_decode(args[0], item, f"{where}[{n}]") for n, item in enumerate(value))
        if len(args) != len(value):
            raise DecodeError(f"{where}: {len(args)} items were expected")
        return tuple(_decode(arg, item, f"{where}[{n}]") for n, (arg, item) in enumerate(zip(args, value, strict=True)))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise DecodeError(f"{where}: an object was expected")
        item_kind = typing.get_args(kind)[1]
        return {key: _decode(item_kind, item, f"{where}.{key}") for key, item in value.items()}
    if kind is Any or kind is object:
        return _plain(value)
    if dataclasses.is_dataclass(kind):
        return decode(typing.cast(type, kind), value, where=where)
    if kind is float:
        value = _plain(value)
        if isinstance(value, int) and not isinstance(value, bool):
            try:
                value = float(value)
            except OverflowError:
                raise DecodeError(f"{where}: the number is too large") from None
    if kind in (str, int, float, bool):
        if type(value) is not kind:
            raise DecodeError(f"{where}: {kind.__name__} was expected, not {type(value).__name__}")
        return value
    raise DecodeError(f"{where}: no rule for {kind}")


def decode(cls: type[T], value: Any, *, where: str = "") -> T:
    """Build a ``cls`` from plain JSON values.

    Keys that the class does not know go into the ``extra`` of a ``Record``, so that an older version does not drop
    what a newer one wrote.

    Raises:
        DecodeError: a key is missing or has the wrong type; the message names it.
    """
    where = where or cls.__name__
    if not isinstance(value, dict):
        raise DecodeError(f"{where}: an object was expected, not {type(value).__name__}")
    hints = _fields(typing.cast(Any, cls))
    known: dict[str, Any] = {}
    names = set()
    for each in _dataclass_fields(typing.cast(Any, cls)):
        names.add(each.name)
        if each.name == "extra":
            continue
        if each.name in value:
            known[each.name] = _decode(hints[each.name], value[each.name], f"{where}.{each.name}")
        elif each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING:
            raise DecodeError(f"{where}.{each.name} is missing")
    if "extra" in names:
        known["extra"] = {key: _plain(item) for key, item in value.items() if key not in names}
    return cls(**known)


def dumps(record: object, *, format: int = FORMAT) -> bytes:
    """One record as canonical JSON bytes, with the format's version."""
    return canonical({"format": format, **encode(record)})


def canonical(value: object) -> bytes:
    """Plain JSON values as the one text that they have here."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def loads(cls: type[T], data: bytes) -> T:
    """Read what ``dumps`` wrote.

    Raises:
        DecodeError: not JSON, a newer or older format than this version reads, or not such a record.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise DecodeError("an object was expected")
    version = value.pop("format", None)
    if type(version) is not int or version < 1:
        raise DecodeError(f"format {version!r} is not a version")
    if version > NEWEST:
        raise DecodeError(f"format {version} is newer than this version reads ({NEWEST}): upgrade qcity-nb")
    if version < OLDEST:
        raise DecodeError(f"format {version} is older than this version reads ({OLDEST}), and was never released")
    try:
        return decode(cls, value)
    except RecursionError:  # the JSON parser accepts deeper nesting than this module
        raise DecodeError("nested too deep") from None
