"""What a loop's state lacks, in words: by name, with the line to write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Passed", "Problem", "Reason", "message"]

Reason = Literal["rebound", "mirrored", "kept", "changed", "steps", "draws", "iterator", "state", "hidden", "counted"]

_TEXTS: dict[Reason, str] = {
    "rebound": "{verb} bound anew in the body and read by the next iteration, but {verb} not in `state`",
    "mirrored": "{verb} read by the next iteration, but `state` has only a copy that nothing reads back",
    "kept": "{verb} bound in some iterations only and read later, but {verb} not in `state`",
    "changed": "{verb} changed in the body, but {verb} not in `state`",
    "steps": "{verb} stepped in the body, but {verb} not in `state`",
    "draws": "{verb} drawn from in the body, but {verb} not in `state`",
    "iterator": "{verb} drawn from in the body, and an iterator cannot be saved",
    "hidden": "{verb} called in the body and keeps something from call to call that is not in `state`",
    "counted": "around city.loop begins anew after a restart",
    "state": "{verb} bound anew in the body, but city.loop saves the object that it was called with",
}
_HELD = "{verb} bound anew in the body and read by the next iteration, but `state` holds the old object"
MOST_NAMED = 5
MOST_ENTRIES = 6


@dataclass(frozen=True, slots=True)
class Problem:
    """One variable that a restart would lose."""

    path: str
    reason: Reason
    in_place: str = ""
    """The line that sets its content in place, if that can be."""
    is_held: bool = False
    """`state` has an entry of its name."""

    @property
    def key(self) -> str:
        """The entry of `state` that it should be."""
        name, _, key = self.path.rpartition(".")[2].partition("[")
        return key.strip("]'\"") or name

    @property
    def text(self) -> str:
        """What is wrong with it."""
        return _HELD if self.reason == "rebound" and self.is_held else _TEXTS[self.reason]

    @property
    def is_entry(self) -> bool:
        """Is it enough to put the object itself into `state`?"""
        if self.reason == "rebound":
            return bool(self.in_place) and not self.is_held
        return self.reason in ("changed", "steps", "draws")

    @property
    def is_value(self) -> bool:
        """Can only an entry of `state` hold it, in place of the variable?"""
        return self.reason in ("kept", "mirrored") or (self.reason == "rebound" and not self.in_place)


@dataclass(frozen=True, slots=True)
class Passed:
    """What the loop's call passes as `state`."""

    variable: str = ""
    """Of which name; empty: it is written in the call."""
    is_dict: bool = False
    entries: dict[str, str] = field(default_factory=dict)
    """The variables by key, if it is written as a dict in the call."""
    is_empty: bool = False
    """`None`, or a dict without entries."""

    def line(self, problems: Sequence[Problem]) -> str:
        """The dict that has those too."""
        entries = dict(self.entries)
        if self.variable and not self.is_dict:
            entries[self.variable.rpartition(".")[2]] = self.variable
        entries |= {each.key: each.path for each in problems if each.is_entry or each.is_value}
        pairs = [f'"{key}": {path or "…"}' for key, path in entries.items()]
        is_unknown = not self.is_empty and not self.entries and not self.variable
        more = ["…"] if is_unknown or len(pairs) > MOST_ENTRIES else []
        return f"{{{', '.join([*more, *pairs[-MOST_ENTRIES:]])}}}"


def message(loop: str, problems: Sequence[Problem], passed: Passed) -> str:
    """What to say of them, and the line to write.

    Args:
        loop: the loop, in words.
    """
    shown = problems[:MOST_NAMED]
    rest = f"; and {len(problems) - len(shown)} more" if len(problems) > len(shown) else ""
    texts = "; ".join(_grouped(shown))
    return f"{loop}: {texts}{rest}. After a restart it would resume with wrong values. {_advice(shown, passed)}"


def _grouped(problems: Sequence[Problem]) -> list[str]:
    groups: dict[str, list[str]] = {}
    for problem in problems:
        groups.setdefault(problem.text, []).append(f"`{problem.path}`")
    return [
        f"{' and '.join(paths)} {text.format(verb='is' if len(paths) == 1 else 'are')}"
        for text, paths in groups.items()
    ]


def _advice(problems: Sequence[Problem], passed: Passed) -> str:
    lines = []
    entries = [each for each in problems if each.is_entry]
    values = [each for each in problems if each.is_value]
    if passed.variable and passed.is_dict:
        state = passed.variable
        lines += [f'{state}["{each.key}"] = {each.path} before the loop' for each in entries if not each.is_held]
    else:
        state = "state"
        if values:
            lines.append(f"state = {passed.line(problems)} before the loop, state=state in city.loop")
        elif entries:
            lines.append(f"state={passed.line(entries)}")
    lines += [f'{state}["{each.key}"] in place of {each.path}' for each in values]
    for each in problems:
        match each.reason:
            case "rebound" | "state" if each.in_place:
                lines.append(f"{each.in_place} in place of {each.path} = …")
            case "state":
                lines.append(f"to the attributes of {each.path}, in place of {each.path} = …")
            case "counted":
                lines.append(f"city.loop({each.path}(…), …) in place of {each.path}(city.loop(…))")
            case "hidden":
                lines.append(f"what {each.path} keeps into state, and hand it to {each.path} as an argument")
            case "iterator":
                lines.append(f"{each.path} = … in the body, or city.loop over its items")
    return "Write " + "; ".join(lines)
