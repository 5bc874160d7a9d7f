"""Kinds of cells, by their source and their tags."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = [
    "check_tags",
    "installs",
    "is_once",
    "is_rerun",
    "lines_of",
    "program_of",
    "shell_line",
    "skips_snapshot",
]

RERUN, ONCE, SKIP_SNAPSHOT = "qcity-rerun", "qcity-once", "qcity-skip-snapshot"
_TAGS = (RERUN, ONCE, SKIP_SNAPSHOT)

_PYTHON = (
    r"(?:\{?\s*sys\.executable\s*\}?|\$\{?sys\.executable\}?|\S*python[\d.]*(?:\.exe)?)[\"']?(?:\s+-[A-Za-ln-z]\S*)*"
)
_TOOLS = (
    rf"(?:[\"']?{_PYTHON}\s+-m\s+)?(?:\S*/)?(?:pip[\d.]*|uv\s+pip|pipx)(?:\s+-\S+)*\s+(?:install|uninstall|sync)\b",
    r"(?:\S*/)?uv\s+(?:add|remove|sync)\b",
    r"(?:\S*/)?(?:conda|mamba|micromamba)(?:\s+-\S+)*\s+(?:install|update|upgrade|uninstall|remove|env\s+(?:update|create))\b",
    r"(?:\S*/)?(?:apt|apt-get|apk|yum|dnf|brew)(?:\s+-\S+)*\s+(?:install|add|update|upgrade|remove)\b",
    r"(?:\S*/)?(?:poetry|pdm|pixi)\s+(?:install|add|remove|sync|update)\b",
)
_BEFORE = r"(?:(?:sudo|env|time|exec|yes\s*\|)\s+(?:-\S+\s+)*|[A-Za-z_]\w*=\S*\s+)*"
_COMMAND = re.compile(rf"(?:^|&&|\|\||[;|(])\s*{_BEFORE}(?:{'|'.join(_TOOLS)})", re.MULTILINE)
_LINE_MAGIC = re.compile(r"^\s*%\s*(pip|conda|mamba|micromamba|uv)\s+(.*)$")
_BARE_MAGIC = re.compile(r"^\s*(pip|conda|mamba)\s+(?:install|uninstall)\s+[\w\"'.\-]")
_SHELL_LINE = re.compile(r"^\s*(?:[A-Za-z_][\w.,\s\[\]\"']*=\s*)?(!{1,2}(?!=)|%(?:sx|system)\s)(.*)$")
_CELL_MAGIC = re.compile(r"^\s*%%(\w+|!)")
_SHELLS = frozenset({"bash", "sh", "script", "sx", "system", "!"})


def lines_of(source: str) -> list[str]:
    """A cell's lines, without empty lines at its start and a `%%time` or `%%capture` there.

    A line that continues on the next one (backslash) counts as one line, as in a shell and for a magic.
    """
    lines = re.sub(r"\\\r?\n", " ", source).splitlines()
    first = next((number for number, line in enumerate(lines) if line.strip()), len(lines))
    while first < len(lines) and re.match(r"\s*%%(?:time|timeit|capture|prun)\b", lines[first]):
        first += 1
    return lines[first:]


def program_of(lines: list[str]) -> str:
    """The cell magic that gets the lines (`bash`, `html`, …); empty: they are Python code."""
    magic = _CELL_MAGIC.match(lines[0]) if lines else None
    return magic[1] if magic else ""


def shell_line(line: str) -> str | None:
    """The command of `!…`, `x = !…`, `%sx …`; ``None``: the line is not a shell command."""
    match = _SHELL_LINE.match(line)
    return match[2] if match else None


def installs(source: str) -> bool:
    """Does the cell install packages, so that it must be re-run on a new host?

    It may miss some: `subprocess.run([..., "pip", "install", ...])` and scripts that install are not checked.
    """
    lines = lines_of(source)
    if magic := program_of(lines):
        if magic not in _SHELLS:
            return False  # a file's text, or another language
        shell = [line for line in lines[1:] if not line.lstrip().startswith("#")]
        return any(_COMMAND.search(line) for line in shell)
    for line in lines:
        if match := _LINE_MAGIC.match(line):
            command = " ".join(match.groups())
        elif (shown := shell_line(line)) is not None:
            command = shown
        elif _BARE_MAGIC.match(line):
            command = line
        else:
            continue
        if _COMMAND.search(command.strip()):
            return True
    return False


def is_rerun(tags: Iterable[str]) -> bool:
    """Is the cell re-run in each new kernel?"""
    return RERUN in set(tags)


def is_once(tags: Iterable[str]) -> bool:
    """Must the cell run at most once, whatever dies?"""
    return ONCE in set(tags)


def skips_snapshot(tags: Iterable[str]) -> bool:
    """Is no snapshot taken after the cell?"""
    return SKIP_SNAPSHOT in set(tags)


def check_tags(tags: Iterable[str]) -> str:
    """What is wrong with the tags that begin with `qcity-`, as a sentence; empty: nothing."""
    present = set(tags)
    unknown = sorted(tag for tag in present if tag.lower().startswith(("qcity-", "qcity_")) and tag not in _TAGS)
    if unknown:
        return f"There is no tag {', '.join(unknown)}: the tags are {', '.join(_TAGS)}."
    if {RERUN, ONCE} <= present:
        return f"A cell cannot be both {RERUN} and {ONCE}."
    return ""
