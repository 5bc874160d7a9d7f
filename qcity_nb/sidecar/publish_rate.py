"""How far apart publishes are, where a store gives deleted content back only after a while."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["count_publish", "interval_s", "unreleased_bytes"]

HOUR_MS = 3_600_000
_CALM = 0.5
"""Below this share of the budget nothing is slowed down: most runs never come so far."""


def count_publish(sent: Mapping[str, int], size_bytes: int, *, wall_ms: int, release_s: float) -> dict[str, int]:
    """The ledger with one more publish in it.

    Args:
        sent: bytes by hour since 1970 in UTC (`Head.sent`); what the store has given back by now is left out.
    """
    hour = wall_ms // HOUR_MS
    kept = {at: size for at, size in sent.items() if hour - int(at) <= release_s / 3600 + 1}
    kept[str(hour)] = kept.get(str(hour), 0) + size_bytes
    return kept


def unreleased_bytes(sent: Mapping[str, int], *, wall_ms: int, release_s: float) -> int:
    """What was sent so lately that the store may still count it, deleted or not."""
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

    ``publish_s`` until half of the budget is in use; from there on what is left of it is spread over the time in
    which the store gives content back, so that the budget is approached and never passed.

    Args:
        publish_s: the setting.
        sent: see ``counted``.
        live_bytes: of the newest checkpoint: it is never given back.
        next_bytes: of the next publish, as far as one can tell.
        release_s: see ``ports.Store``.
    """
    if release_s <= 0:
        return publish_s
    used = max(unreleased_bytes(sent, wall_ms=wall_ms, release_s=release_s), live_bytes)
    if used + next_bytes <= _CALM * budget_bytes:
        return publish_s
    left = budget_bytes - used
    return max(publish_s, min(release_s, release_s * next_bytes / left) if left > next_bytes else release_s)
