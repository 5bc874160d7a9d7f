"""A chain of hashes over the code cells: editing a cell re-runs it and everything after it, nothing before it.

What counts as an edit of a cell: anything but blanks at the ends of its lines, empty lines at its end, and how its
lines end. A comment counts: it may be a magic's line or inside a string, and telling needs a parser of both.
Blanks at the end of a line count where they could be part of a string, that is in a cell with triple quotes or with
a backslash at a line's end, and in cells that begin with `%%`, whose text is another language's.

Cells without code are never run (nbclient and papermill pass them over), so they are finished with the cell before
them, and adding or removing one is no edit. Ids of cells do not count: papermill gives the cell of its parameters
a new one each time. What that cell holds does.
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
        parameters: what the run was asked with; JSON values, anything else counts by its `repr`.
        python: major and minor version; that of this interpreter by default.
    Returns: 32 hex digits each. A cell without code has the hash of the one before it; before all code, none (``""``).
    Does not promise: that equal hashes mean equal results: files, packages and the network are not in it.
    """
    python = python or f"{sys.version_info.major}.{sys.version_info.minor}"
    start = json.dumps(["qcity-chain-1", python, dict(parameters or {})], sort_keys=True, default=repr)
    link = hashlib.blake2b(start.encode("utf-8", "surrogatepass"), digest_size=_BYTES)
    found: list[str] = []
    for source in sources:
        text = _normal(source)
        if not text.strip():
            found.append(found[-1] if found else "")
            continue
        link = hashlib.blake2b(link.digest() + text.encode("utf-8", "surrogatepass"), digest_size=_BYTES)
        found.append(link.hexdigest())
    return found


def count_finished(chain: Sequence[str], records: Sequence[str]) -> int:
    """How many leading cells the records cover, those without code that follow included.

    Args:
        chain: of the notebook as it is now.
        records: chain values of cells that were recorded as finished, of whatever versions of the notebook.
    """
    known = {"", *records}
    return next((place for place, link in enumerate(chain) if link not in known), len(chain))
