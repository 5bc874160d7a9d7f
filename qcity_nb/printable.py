"""Text that others wrote, for a terminal: run records, journals, logs and errors must not control it."""

from __future__ import annotations

import re
from typing import Any, TextIO

__all__ = ["PrintableStream", "printable"]

_COLOR = re.compile(r"\x1b\[[0-9;:]*m")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """The text with control characters written out, as in ``\\x1b``, and those that reorder text; without colors.

    Line ends and tabs stay.
    """
    if text.isascii() and text.isprintable():
        return text
    plain = _COLOR.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), plain)


class PrintableStream:
    """A text stream that writes only what ``printable`` returns; the rest is that of ``stream``."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text that may come from anywhere."""
        self._stream.write(printable(text))
        return len(text)

    def control(self, text: str) -> None:
        """Write control characters of this program's own."""
        self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
