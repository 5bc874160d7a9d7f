"""Named crash points: where a test may kill, stop or fault this process.

The names are the seams of the protocol (docs/design.md, "Crash points"). Unarmed, a hit costs one global
look-up. ``qcity_nb.testing.chaos`` arms them.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["AT_A_HUB", "NAMES", "arm", "hit"]

NAMES = (
    "capture.before",
    "capture.after",
    "local.before",
    "local.pack",
    "local.after",
    "publish.pack",
    "publish.files.before",
    "publish.files.after",
    "publish.head.before",
    "publish.head.after",
    "outbox.before",
    "outbox.after",
    "drain.before",
    "drain.after",
    "cell.before",
    "cell.after",
    "end.before",
    "end.after",
)
"""Every run of a notebook passes all of these."""

AT_A_HUB = ("publish.upload", "publish.commit")
"""And with a store on the Hub these: large content is about to be sent, a commit is."""

_hook: Callable[[str], None] | None = None


def arm(hook: Callable[[str], None] | None) -> None:
    """Call ``hook(name)`` at every hit from now on; ``None`` disarms."""
    global _hook
    _hook = hook


def hit(name: str) -> None:
    """Mark a crash point."""
    if _hook is not None:
        _hook(name)
