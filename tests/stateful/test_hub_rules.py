"""The rules of the run record over the Hub store, on the emulator: by Hypothesis, and seeded schedules with faults."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import hub_stores
import pytest
from hypothesis import HealthCheck, settings
from tiers import nightly_but

from qcity_nb.ports import Store
from qcity_nb.testing.clock import ManualClock
from qcity_nb.testing.emulators.hub.server import HubServer
from qcity_nb.testing.head_world import HeadWorld, play
from qcity_nb.testing.rules import HeadRules

FAULTS = ("commit-lost", "commit-500", "commit-500-before", "commit-412", "stale-read")
SCHEDULES = 200
PARTS = 8
"""Each of them has all faults; two run with each change."""


_servers: list[HubServer] = []


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    with hub_stores.serve(tmp_path_factory.mktemp("hub")) as server:
        _servers[:] = [server]
        yield server


class HubRules(HeadRules):
    """Its clock is the Hub's, so only observers that wait by themselves ever judge."""

    def make_store(self, clock: ManualClock) -> Store:
        return hub_stores.new_store(_servers[0], clock=clock)


TestHubRules = HubRules.TestCase
TestHubRules.settings = settings(
    max_examples=8,
    stateful_step_count=20,
    deadline=None,
    print_blob=True,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.parametrize("part", nightly_but([0, 1], range(PARTS)))
def test_seeded_schedules_of_rivals(server: HubServer, part: int) -> None:
    """Lost replies, commits that landed though the Hub answered 500, false 412s, reads of yesterday's branch."""
    seen: Counter[str] = Counter()
    server.faults.struck.clear()

    def spoil(dice: random.Random) -> None:
        if dice.random() < 0.5:
            server.faults.set(dice.choice(FAULTS))

    for seed in range(part, SCHEDULES, PARTS):
        world = HeadWorld(lambda clock: hub_stores.new_store(server, clock=clock), seed=seed, quiet=server.faults.clear)
        play(world, seed, steps=24, spoil=spoil)
        seen += world.seen
    struck = Counter(server.faults.struck)
    # Schedules in which nothing goes wrong would prove nothing.
    assert min(struck[fault] for fault in FAULTS) >= 10, struck
    assert min(seen[what] for what in ("superseded", "lease lost", "outcome unknown", "acquire: RunHeld")) >= 2, seen
