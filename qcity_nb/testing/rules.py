"""The rules of the run record as a Hypothesis state machine, over any store:

class MineRules(HeadRules):
    def make_store(self, clock): return MyStore(...)

TestMine = MineRules.TestCase
"""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from qcity_nb.ports import Store
from qcity_nb.testing.clock import ManualClock
from qcity_nb.testing.faults import Fault
from qcity_nb.testing.head_world import ATTEMPTS, HeadWorld

__all__ = ["HeadRules"]

_attempt = st.sampled_from(ATTEMPTS)
_state = st.sampled_from(["running", "stopped"])


class HeadRules(RuleBasedStateMachine):
    """Rivals, foreign writers, observers and a bad network over one run record.

    Terms never decrease; no published checkpoint is lost; a superseded holder never publishes; lost replies are
    recovered by write id, so nothing is written twice; foreign writes cost nobody the lease and are never lost; a
    holder that may still act is never declared dead.
    """

    def make_store(self, clock: ManualClock) -> Store:
        """A new, empty store; give it ``clock`` if it takes one."""
        raise NotImplementedError

    @initialize()
    def begin(self) -> None:
        self.world = HeadWorld(self.make_store)

    @rule(attempt=_attempt, forged=st.booleans())
    def acquire(self, attempt: str, forged: bool) -> None:
        self.world.acquire(attempt, forged=forged)

    @rule(attempt=_attempt)
    def publish(self, attempt: str) -> None:
        self.world.publish(attempt)

    @rule(attempt=_attempt)
    def renew(self, attempt: str) -> None:
        self.world.renew(attempt)

    @rule(attempt=_attempt)
    def release(self, attempt: str) -> None:
        self.world.release(attempt)

    @rule(state=_state, launches=st.booleans())
    def wish(self, state: str, launches: bool) -> None:
        self.world.wish(state, launches=launches)

    @rule()
    def look(self) -> None:
        self.world.look()

    @rule()
    def be_silent(self) -> None:
        self.world.be_silent()

    @rule(by_s=st.sampled_from([0.5, 4.0, 9.0]))
    def pass_time(self, by_s: float) -> None:
        self.world.pass_time(by_s)

    @rule(faults=st.lists(st.sampled_from(get_args(Fault)), min_size=1, max_size=4))
    def spoil(self, faults: list[Fault]) -> None:
        for fault in faults:
            self.world.spoil(fault)

    @rule(attempt=_attempt, action=st.sampled_from(["acquire", "publish", "wish", "release"]))
    def get_between(self, attempt: str, action: str) -> None:
        """A rival acts between the next writer's read and its publish."""
        world = self.world
        actions: dict[str, Callable[[], None]] = {
            "acquire": lambda: world.acquire(attempt),
            "publish": lambda: world.publish(attempt),
            "wish": lambda: world.wish("stopped", launches=True),
            "release": lambda: world.release(attempt),
        }
        world.between(actions[action])

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.finish()
