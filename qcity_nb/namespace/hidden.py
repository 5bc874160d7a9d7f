"""What of a kernel's namespace is not the user's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

__all__ = ["hidden_by", "is_hidden"]

_NAMES = frozenset({"In", "Out", "get_ipython", "exit", "quit", "_", "_dh", "_oh", "_ih", "_sh", "_exit_code"})
_NUMBERED = re.compile(r"_(i{1,3}|i?\d+)")
_MISSING = object()


def is_hidden(name: str, value: object) -> bool:
    """Is the variable one of IPython's own, or one that begins with two underscores?

    Source: IPython.core.interactiveshell.InteractiveShell.init_user_ns; IPython.core.displayhook and history.
    """
    if name.startswith("_"):
        return name.startswith("__") or name in _NAMES or _NUMBERED.fullmatch(name) is not None
    if name in _NAMES:
        return True
    return name == "open" and str(getattr(value, "__module__", "")).partition(".")[0] in ("IPython", "io", "_io")


def hidden_by(shell: Mapping[str, object]) -> Callable[[str, object], bool]:
    """A predicate for ``Space`` that also hides what stands in ``shell``, IPython's ``user_ns_hidden``.

    A variable of such a name that the user has bound anew is not hidden.
    """

    def hidden(name: str, value: object) -> bool:
        return is_hidden(name, value) or shell.get(name, _MISSING) is value

    return hidden
