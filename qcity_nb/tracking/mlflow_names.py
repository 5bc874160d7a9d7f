"""Names of metrics, parameters and tags as MLflow accepts them: two different names stay two.

    acc@1           acc_x40_1        a character that MLflow refuses becomes _x, its code in hexadecimal, and _
    acc_x40_1       acc_x5f_x40_1    so a name that looks like that changes, too
    (300 letters)   (231 letters)_xx5f0c…   the end is a digest of the whole name

All other names stay as they are. The change depends on the name alone, so each attempt on each host makes the same one.
MLflow's rule: letters, digits and ``_-. /``, at most 250 characters, and what ``posixpath.normpath`` leaves unchanged
(https://mlflow.org/docs/latest/rest-api.html). New servers also accept ``:``, old ones do not. Does not promise: names
that differ only in case stay two in a database that ignores case, such as MySQL by default.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

__all__ = ["mlflow_name"]

_CHARS = 250
_DIGITS = 16
_ESCAPE = rf"_x[0-9a-f]+_|_xx[0-9a-f]{{{_DIGITS}}}\Z"
"""What changed names contain, and only these."""
_REFUSED = r"[^\w\-. /]|\A/|/\Z|/(?=/)|\A\.\.|(?:\A|(?<=/))\.{1,2}(?=/|\Z)"
_CHANGES = re.compile(f"{_ESCAPE}|{_REFUSED}")
_TO_ESCAPE = re.compile(rf"{_REFUSED}|_(?=xx?[0-9a-f])")
"""In a name that changes also each ``_`` that would be read as the beginning of an escape."""


@lru_cache(maxsize=4096)
def mlflow_name(name: str) -> str:
    """The name under which MLflow has it."""
    escaped = name
    if _CHANGES.search(name):
        escaped = _TO_ESCAPE.sub(lambda match: "".join(f"_x{ord(char):x}_" for char in match[0]), name)
    if name and len(escaped) <= _CHARS:
        return escaped
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
    return f"{escaped[: _CHARS - _DIGITS - 3].rstrip('/. ')}_xx{digest}"
