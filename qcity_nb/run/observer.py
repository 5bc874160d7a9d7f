"""The observer: decides when a silent holder is dead (docs/design.md, "Expiry")."""

from __future__ import annotations

from qcity_nb.clock import Clock, SystemClock
from qcity_nb.records import Heartbeat
from qcity_nb.run.lease import Snapshot

__all__ = ["Observer"]


class Observer:
    """Pass it every run record that you read; it says when the holder may be superseded.

    A holder is dead when its ``(term, heartbeat)`` has not changed for its ttl. The observer either waits that long on
    its own clock, or subtracts two times of the store's own clock. It never compares two machines' clocks.

    Does not promise: that the holder's process has ended; it may only be unable to write. The fence protects the store.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._since: dict[str, tuple[Heartbeat, float]] = {}

    def declare_dead(self, snapshot: Snapshot) -> Heartbeat | None:
        """The ``(term, heartbeat)`` that may be superseded.

        Returns: ``None`` if nobody holds the run, or its holder has not been silent for long enough.
        """
        head = snapshot.head
        if head.holder is None:
            self._since.pop(head.run, None)
            return None
        now = self._clock.now_s()
        seen, since = self._since.get(head.run, (None, now))
        if seen != head.seen:
            self._since[head.run] = (head.seen, now)
            since = now
        silent_s = max(now - since, snapshot.now_s - snapshot.written_s)
        return head.seen if silent_s >= head.holder.ttl_s else None
