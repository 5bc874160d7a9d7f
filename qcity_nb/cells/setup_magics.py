"""Magics that configure the shell: what a finished cell configured also applies to the cells after it."""

from __future__ import annotations

import io
import re
import tokenize

__all__ = ["setup_lines"]

_ARGUMENTS = {
    "load_ext": r"(?!qcity_nb\b)\S+",
    "reload_ext": r"(?!qcity_nb\b)\S+",
    "autoreload": r"(?!now\b)\S+.*",  # without an argument it reloads at once, and sets nothing
    "matplotlib": r"(?![ \t]*(?:-l|--list)\b).*",
    "config": r"\w+\.\w+.*=.*",
    "precision": r".*",
    "pdb": r".*",
    "alias": r"\S+\s+\S.*",
    "xmode": r".*",
    "colors": r".*",
}
"""The magics, and the arguments that they must have: others show something, or have side effects."""

_SETUP = re.compile(
    "%(?:" + "|".join(rf"{name}(?![\w.])[ \t]*{arguments}" for name, arguments in _ARGUMENTS.items()) + ")"
)
_NO_PYTHON = re.compile(r"[%!?]|[A-Za-z_][\w.,\s\[\]\"']*=\s*[%!]")


def setup_lines(source: str) -> list[str]:
    """The cell's magics that configure the shell, in order, each as one line.

    Only whole lines without indentation are found. A cell that is a magic itself (`%%…`) has none, and nothing is found
    after a line that Python cannot tokenize.

    Does not: find magics without their `%`, in blocks and functions, or called by `get_ipython().run_line_magic`.
    """
    if source.lstrip().startswith("%%"):
        return []
    magics = []
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
        python = []  # complete statements need no second check
        if _SETUP.fullmatch(line.rstrip()):
            magics.append(line.rstrip())
    return magics


def _is_whole(lines: list[str]) -> bool | None:
    """Does the next line begin a statement: no string, bracket or line is open? ``None``: unknown."""
    if lines and lines[-1].endswith("\\"):
        return False
    try:
        for _ in tokenize.generate_tokens(io.StringIO("\n".join(lines) + "\n").readline):
            pass
    except tokenize.TokenError as error:
        # Since Python 3.12 this is also raised for other errors, and unterminated strings have another message.
        return False if re.search("EOF in multi-line|unterminated triple-quoted", str(error)) else None
    except SyntaxError:
        return None
    return True
