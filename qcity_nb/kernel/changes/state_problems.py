"""What a loop's state lacks, in words: by name, with the line to write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Problem", "Reason", "message"]

Reason = Literal["rebound", "mirrored", "kept", "changed", "steps", "draws", "iterator", "state", "hidden", "counted"]

_TEXTS: dict[Reason, str] = {
    "rebound": "is bound anew in the body and read by the next iteration, but {where}",
    "mirrored": "is read by the next iteration, but only a copy of it is in `state`",
    "kept": "keeps what an earlier iteration bound, but is not in `state`",
    "changed": "is changed by the body, but is not in `state`",
    "steps": "is stepped in the body, but is not in `state`",
    "draws": "draws random numbers, but is not in `state`",
    "iterator": "is an iterator that the body draws from; it cannot be saved",
    "hidden": "is a function that keeps something from call to call, which is not in `state`",
    "counted": "around city.loop begins anew after a restart",
    "state": "is bound anew in the body, but city.loop keeps the object that it was called with",
}
MOST_NAMED = 6


@dataclass(frozen=True, slots=True)
class Problem:
    """One variable that a restart would lose."""

    path: str
    reason: Reason
    is_array: bool = False
    """Its content could be set in place."""
    is_held: bool = False
    """`state` has an entry of its name."""

    @property
    def key(self) -> str:
        """The entry of `state` that it should be."""
        return self.path.rpartition(".")[2].partition("[")[0]

    def text(self) -> str:
        """What is wrong with it."""
        where = "`state` holds the old object" if self.is_held else "it is not in `state`"
        return f"`{self.path}` {_TEXTS[self.reason].format(where=where)}"


def message(name: str, problems: Sequence[Problem]) -> str:
    """What to say of them, and the line to write.

    Args:
        name: the loop's.
    """
    shown = problems[:MOST_NAMED]
    rest = f"; and {len(problems) - len(shown)} more" if len(problems) > len(shown) else ""
    texts = "; ".join(_grouped(shown))
    return (
        f"city.loop {name!r}: {texts}{rest}. After a restart the loop would resume with wrong values. {_advice(shown)}"
    )


def _grouped(problems: Sequence[Problem]) -> list[str]:
    groups: dict[str, list[str]] = {}
    for problem in problems:
        path, _, text = problem.text().partition("` ")
        groups.setdefault(text, []).append(f"{path}`")
    return [f"{' and '.join(paths)}{' each' if len(paths) > 1 else ''} {text}" for text, paths in groups.items()]


def _advice(problems: Sequence[Problem]) -> str:
    lines = []
    entries = [each for each in problems if each.reason in ("changed", "steps", "draws")]
    entries += [each for each in problems if each.reason == "rebound" and each.is_array and not each.is_held]
    if entries:
        pairs = ", ".join(f'"{each.key}": {each.path}' for each in entries)
        lines.append(f"state={{{pairs}, …}}")
    for each in problems:
        if each.reason == "rebound" and each.is_array:
            lines.append(f"{each.path}[...] = … in place of {each.path} = …")
    names = [each for each in problems if each.reason in ("kept", "mirrored", "rebound") and not each.is_array]
    if names:
        pairs = ", ".join(f'state["{each.key}"] in place of {each.path}' for each in names)
        lines.append(pairs)
    if any(each.reason == "state" for each in problems):
        (path,) = {each.path for each in problems if each.reason == "state"}
        lines.append(f"{path}.update(…) in place of {path} = …")
    for each in problems:
        if each.reason == "counted":
            lines.append(f"city.loop({each.path}(…), …) in place of {each.path}(city.loop(…))")
    if any(each.reason == "hidden" for each in problems):
        lines.append("what the function keeps into state, and hand it over as an argument")
    if any(each.reason == "iterator" for each in problems):
        lines.append("city.loop(…) over its items, or make it in the body")
    return "Write " + "; and ".join(lines)
