"""A chain of hashes over the code cells: editing a cell re-runs it and everything after it, nothing before it.

Every change of a cell counts as an edit, except blanks at the ends of lines, empty lines at its end, and line endings.
A comment counts: it may belong to a magic or be inside a string, and only a parser of both could tell. Blanks at the
end of a line count if they may be part of a string: in a cell with triple quotes or with a backslash at the end of a
line, and in cells that begin with `%%`, whose text is in another language.

Cells without code are never run (nbclient and papermill skip them), so they are finished together with the cell before
them, and adding or removing one is not an edit. Cell ids do not count: papermill gives its parameters cell a new one
each time. The content of that cell counts.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["chain", "count_finished"]

_BYTES = 16


def _normal(source: str) -> str:
    text = source.replace("\r\n", "\n").replace("\r", "\n")
    is_exact = text.lstrip().startswith("%%") or '"""' in text or "'''" in text or "\\\n" in text or "\\ " in text
    lines = text.split("\n") if is_exact else [line.rstrip(" \t\f") for line in text.split("\n")]
    return "\n".join(lines).rstrip()


def chain(sources: Iterable[str], *, parameters: Mapping[str, Any] | None = None, python: str = "") -> list[str]:
    """One hash for each code cell, over it and all before it.

    Args:
        sources: the code cells in order, those without code included.
        parameters: the parameters of the run; JSON values, anything else counts by its `repr`.
        python: major and minor version; that of this interpreter by default.
    Returns: 32 hex digits each. A cell without code has the hash of the one before it; before all code it is ``""``.
    Does not promise: that equal hashes mean equal results: files, packages and the network are not included.
    """
    python = python or f"{sys.version_info.major}.{sys.version_info.minor}"
    start = json.dumps(["qcity-chain-1", python, dict(parameters or {})], sort_keys=True, default=repr)
    link = hashlib.blake2b(start.encode("utf-8", "surrogatepass"), digest_size=_BYTES)
    hashes: list[str] = []
    for source in sources:
        text = _normal(source)
        if not text.strip():
            hashes.append(hashes[-1] if hashes else "")
            continue
        link = hashlib.blake2b(link.digest() + text.encode("utf-8", "surrogatepass"), digest_size=_BYTES)
        hashes.append(link.hexdigest())
    return hashes


def count_finished(chain: Sequence[str], records: Sequence[str]) -> int:
    """How many leading cells the records cover, including cells without code that follow.

    Args:
        chain: the hashes of the current notebook.
        records: hashes of cells that were recorded as finished, in any version of the notebook.
    """
    known = {"", *records}
    return next((place for place, link in enumerate(chain) if link not in known), len(chain))
