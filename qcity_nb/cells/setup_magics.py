"""Magics that set the shell up: what a finished cell said with them holds for the cells to come."""

from __future__ import annotations

import io
import re
import tokenize

__all__ = ["setup_lines"]

_ARGUMENTS = {
    "load_ext": r"(?!qcity_nb\b)\S+",
    "reload_ext": r"(?!qcity_nb\b)\S+",
    "autoreload": r"(?!now\b)\S+.*",  # without a word it reloads at once, and sets nothing
    "matplotlib": r"(?![ \t]*(?:-l|--list)\b).*",
    "config": r"\w+\.\w+.*=.*",
    "precision": r".*",
    "pdb": r".*",
    "alias": r"\S+\s+\S.*",
    "xmode": r".*",
    "colors": r".*",
}
"""The magics, and what must stand behind them: the rest shows something, or does something in the world."""

_SETUP = re.compile(
    "%(?:" + "|".join(rf"{name}(?![\w.])[ \t]*{arguments}" for name, arguments in _ARGUMENTS.items()) + ")"
)
_NO_PYTHON = re.compile(r"[%!?]|[A-Za-z_][\w.,\s\[\]\"']*=\s*[%!]")


def setup_lines(source: str) -> list[str]:
    """The cell's magics that set the shell up, in order, each as one line.

    Only whole lines that stand at the left are seen. A cell that is a magic itself (`%%…`) has none, and what follows
    a line that Python cannot split into words is not looked at.

    Does not: see magics without their `%`, in blocks and functions, and by `get_ipython().run_line_magic`.
    """
    if source.lstrip().startswith("%%"):
        return []
    found = []
    python: list[str] = []
    lines = source.splitlines()
    while lines:
        line = lines.pop(0)
        if not _NO_PYTHON.match(line):
            python.append(line)
            continue
        if (is_whole := _is_whole(python)) is None:
            break
        if not is_whole:
            python.append(line)
            continue
        while line.endswith("\\") and lines:
            line = line[:-1] + " " + lines.pop(0)
        python = []  # what is whole needs no second look
        if _SETUP.fullmatch(line.rstrip()):
            found.append(line.rstrip())
    return found


def _is_whole(lines: list[str]) -> bool | None:
    """Does the next line begin a statement: is no text, bracket or line open? ``None``: it cannot be told."""
    if lines and lines[-1].endswith("\\"):
        return False
    try:
        for _ in tokenize.generate_tokens(io.StringIO("\n".join(lines) + "\n").readline):
            pass
    except tokenize.TokenError as error:
        # Since 3.12 other faults have this name too, and open texts another message.
        return False if re.search("EOF in multi-line|unterminated triple-quoted", str(error)) else None
    except SyntaxError:
        return None
    return True
