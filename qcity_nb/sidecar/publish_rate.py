"""The interval between publishes for a store that frees deleted content only later."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["count_publish", "interval_s", "unreleased_bytes"]

HOUR_MS = 3_600_000
_CALM = 0.5
"""Below this share of the budget nothing is slowed down; most runs stay below it."""


def count_publish(sent: Mapping[str, int], size_bytes: int, *, wall_ms: int, release_s: float) -> dict[str, int]:
    """The account of what was sent, with one more publish.

    Args:
        sent: bytes by hour since 1970 in UTC (`Head.sent`); what the store has freed by now is left out.
    """
    hour = wall_ms // HOUR_MS
    kept = {at: size for at, size in sent.items() if hour - int(at) <= release_s / 3600 + 1}
    kept[str(hour)] = kept.get(str(hour), 0) + size_bytes
    return kept


def unreleased_bytes(sent: Mapping[str, int], *, wall_ms: int, release_s: float) -> int:
    """Bytes sent so recently that the store may still count them, deleted or not."""
    hour = wall_ms // HOUR_MS
    return sum(size for at, size in sent.items() if hour - int(at) <= release_s / 3600 + 1)


def interval_s(
    publish_s: float,
    *,
    sent: Mapping[str, int],
    live_bytes: int,
    next_bytes: int,
    budget_bytes: int,
    wall_ms: int,
    release_s: float,
) -> float:
    """Seconds between two publishes.

    ``publish_s`` until half of the budget is in use. From then on the rest is spread over the time in which the store
    frees content, so that the budget is never exceeded.

    Args:
        publish_s: the setting.
        sent: see ``count_publish``.
        live_bytes: the size of the newest checkpoint, which is never freed.
        next_bytes: the estimated size of the next publish.
        release_s: see ``ports.Store``.
    """
    if release_s <= 0:
        return publish_s
    used = max(unreleased_bytes(sent, wall_ms=wall_ms, release_s=release_s), live_bytes)
    if used + next_bytes <= _CALM * budget_bytes:
        return publish_s
    left = budget_bytes - used
    return max(publish_s, min(release_s, release_s * next_bytes / left) if left > next_bytes else release_s)
