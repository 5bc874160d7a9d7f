"""Named crash points: where a test may kill, stop or fault this process.

The names are the seams of the protocol (docs/design.md, "Crash points"). Unarmed, a hit costs one global
look-up. ``arm_plan`` arms them from the setting ``chaos``, by the entry point ``qcity_nb.crashpoints``, so that no
production module imports the testing tools.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["AT_A_HUB", "NAMES", "arm", "arm_plan", "hit"]

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
"""With a store on the Hub a run also passes these: before large content is sent, and before a commit."""

GROUP = "qcity_nb.crashpoints"

_hook: Callable[[str], None] | None = None


def arm(hook: Callable[[str], None] | None) -> None:
    """Call ``hook(name)`` at every hit from now on; ``None`` disarms."""
    global _hook
    _hook = hook


def arm_plan(plan: str, *, attempt: str = "", owner: int = 0) -> None:
    """Arm this process with a plan of kills (``qcity_nb.testing.chaos``); an empty plan does nothing.

    Args:
        attempt, owner: what a kill of the whole host ends, if this process does not carry the attempt's label.
    Raises:
        ValueError: the plan is malformed, or names no crash point.
        LookupError: no entry point is installed that could execute it.
    """
    if not plan:
        return
    from importlib.metadata import entry_points  # slow to import, and needed only for a plan

    for tool in entry_points(group=GROUP):
        tool.load()(plan, attempt=attempt, owner=owner)
        return
    raise LookupError(f"a chaos plan is set, but no entry point {GROUP!r} is installed to execute it")


def hit(name: str) -> None:
    """Mark a crash point."""
    if _hook is not None:
        _hook(name)
