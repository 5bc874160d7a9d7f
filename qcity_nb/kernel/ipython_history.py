"""IPython's memory of earlier cells: ``In``, ``Out`` and their short names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["put", "put_results", "user_owns"]

_RESULT = re.compile(r"_(\d+)")


def user_owns(hidden: Callable[[str, object], bool]) -> Callable[[str, object], bool]:
    """A predicate for ``NamespaceSnapshotter``: hides what ``hidden`` hides, except results, which may share objects
    with variables."""
    return lambda name, value: hidden(name, value) and _RESULT.fullmatch(name) is None


def put(shell: Any, sources: Mapping[int, str], number: int) -> None:
    """Put these cells into the shell's history as if it had run them; their results are in its namespace already.

    Args:
        sources: by execution count.
        number: the execution count of the next cell.
    """
    history = shell.history_manager
    raw, parsed = history.input_hist_raw, history.input_hist_parsed
    for n in range(len(raw), number):
        source = sources.get(n, "").rstrip("\n")
        raw.append(source)
        parsed.append(shell.transform_cell(source).rstrip("\n") if source else "")
        shell.push({f"_i{n}": source}, interactive=False)
    last = [sources.get(n, "") for n in (number - 1, number - 2, number - 3)]
    history._i00, history._i, history._ii = last
    put_results(shell, {})
    shell.execution_count = number


def put_results(shell: Any, results: Mapping[int, object]) -> None:
    """Put these results, and those already in the shell's namespace, into ``Out``, by execution count."""
    namespace = shell.user_ns
    shell.push({f"_{n}": value for n, value in results.items()}, interactive=False)
    known = {int(match[1]): value for name, value in namespace.items() if (match := _RESULT.fullmatch(name))}
    namespace["_oh"].update(dict(sorted(known.items())))
    newest = [value for _, value in sorted(known.items())][-3:][::-1]
    unders = dict(zip(("_", "__", "___"), newest, strict=False))
    for name, value in unders.items():
        setattr(shell.displayhook, name, value)
    shell.push(unders, interactive=False)  # else IPython takes them for the user's own and no longer updates them
