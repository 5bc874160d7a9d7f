"""Which warnings are shown: filters that the notebook and its imports added to the kernel's own."""

from __future__ import annotations

import importlib
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Any

from qcity_nb.namespace.environment.library import Library, is_safe

__all__ = ["library"]


class _Odd(Exception):
    """A filter that cannot be saved."""


def _pattern(value: Any) -> Any:
    if value is None or type(value) is str:  # Python's own filters have a plain string here
        return value
    if isinstance(value, re.Pattern) and isinstance(value.pattern, str):
        return [value.pattern, value.flags & ~int(re.UNICODE)]
    raise _Odd


def _category(value: Any) -> str:
    name = f"{value.__module__}:{value.__qualname__}"
    if _loaded_category(name) is not value:
        raise _Odd
    return name


def _loaded_category(category: str) -> Any:
    """The category, if its module is loaded; imports nothing."""
    module, _, name = category.partition(":")
    try:
        return attrgetter(name)(sys.modules[module])
    except (KeyError, AttributeError):
        return None


def _filter_record(item: Any) -> dict[str, Any] | None:
    try:
        action, message, category, module, line = item
        record = {"action": action, "category": _category(category)}
        parts = {"message": _pattern(message), "module": _pattern(module), "line": line}
    except (_Odd, TypeError, ValueError, AttributeError):
        return None
    record |= {name: value for name, value in parts.items() if value}
    return record if is_safe("filter", record) else None


def _make_filter(record: Mapping[str, Any]) -> Any:
    message, module = (
        re.compile(*value) if isinstance(value, list | tuple) else value
        for value in (record.get("message"), record.get("module"))
    )
    category = _loaded_category(record["category"])
    if category is None:
        importlib.import_module(record["category"].partition(":")[0])
        category = _loaded_category(record["category"])
    if not (isinstance(category, type) and issubclass(category, Warning)):
        raise TypeError(f"{record['category']} is not a warning")
    return record["action"], message, category, module, record.get("line", 0)


def _make_filters(records: Any, filters: list[tuple[Any, bool]]) -> Iterator[str]:
    """Append each filter to ``filters``, and whether it was the kernel's own."""
    for record in records:
        try:
            filters.append((_make_filter(record), bool(record.get("own"))))
        except Exception as error:  # noqa: BLE001 - importing a category's module runs any code
            yield f"A filter for warnings of {record.get('category')} is not restored ({type(error).__name__})."


def library() -> Library:
    """These filters; the current ones are the kernel's own."""
    own: list[Any] = list(warnings.filters)

    def look() -> Iterator[tuple[str, Any]]:
        now, tail = list(warnings.filters), list(own)
        if now == own:
            return
        pairs = [(item, _filter_record(item)) for item in now]
        if odd := [str(getattr(item[2], "__qualname__", item[2])) for item, record in pairs if record is None]:
            yield "odd", odd
        if not any(item in own for item in now):  # `warnings.resetwarnings()`
            yield "all", [record for _, record in pairs if record is not None]
            return
        while pairs and tail and pairs[-1][0] == tail[-1]:
            del pairs[-1], tail[-1]
        yield (
            "filters",
            [record | ({"own": True} if item in own else {}) for item, record in pairs if record is not None],
        )
        if removed := [record for item in own if item not in now and (record := _filter_record(item)) is not None]:
            yield "gone", removed

    def put(name: str, value: Any) -> Iterator[str]:
        now: Any = warnings.filters  # a list, whatever typeshed says: `resetwarnings` empties it in place
        if name == "odd":
            there = {getattr(item[2], "__qualname__", "") for item in now}
            yield from (f"A filter for warnings of {each} is not restored." for each in value if each not in there)
            return
        saved: list[tuple[Any, bool]] = []
        yield from _make_filters(value, saved)
        filters = [item for item, _ in saved]
        if name == "gone":
            now[:] = [item for item in now if item not in filters]
        elif name == "all":
            now[:] = filters
        else:
            rest = [item for item in now if item not in filters]
            # Do not add another kernel's own filters to this kernel.
            saved = [(item, is_own) for item, is_own in saved if item in now or not is_own]
            place = next((n for n, (_, is_own) in enumerate(saved) if is_own), len(saved))
            filters = [item for item, _ in saved]
            # Filters that imports added here, and that could not be saved, come after the notebook's own.
            others = [item for item in rest if item not in own]
            now[:] = [*filters[:place], *others, *filters[place:], *(item for item in rest if item in own)]
        with warnings.catch_warnings():
            pass  # its exit tells Python that the list has changed

    return Library("warnings", look, put, is_quiet=False)
