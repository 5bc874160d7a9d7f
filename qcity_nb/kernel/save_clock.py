"""Measures one running loop, and decides at each boundary whether a save is due."""

from __future__ import annotations

from collections import deque

from qcity_nb.kernel.loop_state import Loop
from qcity_nb.kernel.save_policy import Moment, Pace
from qcity_nb.kernel.session import Session

__all__ = ["SaveClock"]

NEWEST = 16
"""Near the end of a host's session, the longest of this many iterations counts."""


class SaveClock:
    """Follows one execution of a loop, from its first item until it is left."""

    def __init__(self, session: Session, loop: Loop, pace: Pace, *, is_new: bool) -> None:
        self.pace = pace
        self._session = session
        self._loop = loop
        self._took_s: deque[float] = deque(maxlen=NEWEST)
        self._looked_s = session.clock.now_s()
        session.bests.begin(loop.key, pace.goals, is_new=is_new)

    def is_due(self, iterations: int) -> bool:
        """Is a save due at this boundary? Call it once at each boundary.

        Args:
            iterations: finished since the loop's last save.
        """
        session = self._session
        now_s = session.clock.now_s()
        elapsed_s, cost_s = now_s - session.saved_at_s, session.save_s
        mean_s = session.history.mean_life_s(now_s)
        left_s, longest_s = None, 0.0
        if session.deadline_s is not None:
            self._took_s.append(now_s - self._looked_s)
            self._looked_s = now_s
            left_s, longest_s = session.deadline_s - now_s, max(self._took_s)
        moment = Moment(iterations, elapsed_s, cost_s, mean_s, left_s, longest_s)
        if self.pace.goals:
            value, best = session.bests.collect(self._loop.key)
            moment = moment._replace(value=value, best=best)
        return self.pace.is_due(moment)

    def keep(self) -> None:
        """Note that this boundary is about to be saved: its values are the ones to improve on."""
        self._session.bests.keep(self._loop.key)

    def close(self) -> None:
        """Note that the loop no longer runs."""
        self._session.bests.end(self._loop.key)
