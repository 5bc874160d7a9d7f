"""The rules of the run record over the built-in stores: by Hypothesis, and by seeded schedules with faults."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings

from qcity_nb.ports import Source, Store, Version
from qcity_nb.stores import open_store
from qcity_nb.stores.memory import MemoryStore
from qcity_nb.testing.clock import ManualClock
from qcity_nb.testing.head_world import HeadWorld, play
from qcity_nb.testing.rules import HeadRules


class MemoryRules(HeadRules):
    def make_store(self, clock: ManualClock) -> Store:
        return MemoryStore(clock=clock)


class DirectoryRules(HeadRules):
    """Its clock is the file system's, so only observers that wait by themselves ever judge."""

    def make_store(self, clock: ManualClock) -> Store:
        self.folder = Path(tempfile.mkdtemp(prefix="qcity-rules-"))
        return open_store(str(self.folder))

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


TestMemoryRules = MemoryRules.TestCase
TestMemoryRules.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, print_blob=True, derandomize=True
)
TestDirectoryRules = DirectoryRules.TestCase
TestDirectoryRules.settings = settings(
    max_examples=12,
    stateful_step_count=25,
    deadline=None,
    print_blob=True,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


def test_seeded_schedules_of_rivals() -> None:
    seen: Counter[str] = Counter()
    log: Counter[str] = Counter()
    for seed in range(240):
        world = HeadWorld(lambda clock: MemoryStore(clock=clock), seed=seed)
        play(world, seed)
        seen += world.seen
        log.update(line.rpartition(": ")[2] for line in world.store.log)
    # Schedules in which nothing goes wrong would prove nothing.
    for what in ("superseded", "lease lost", "declared dead", "outcome unknown", "acquire: RunHeld"):
        assert seen[what] >= 50, seen
    for what in ("took effect late", "too late", "stale", "unread", "lost", "refused", "delayed", "conflict"):
        assert log[what] >= 50, log


def test_seeded_schedules_over_a_directory(tmp_path: Path) -> None:
    for seed in range(12):
        world = HeadWorld(lambda _, seed=seed: open_store(str(tmp_path / str(seed))), seed=seed)  # type: ignore[misc]  # mypy cannot infer a lambda's default
        play(world, seed, steps=30)


def test_a_broken_rule_is_reported_with_its_seed() -> None:
    """What would happen if a store let a stale version through: the oracle says so, and says which seed."""

    class IgnoresTheVersion(MemoryStore):
        def publish(
            self,
            run: str,
            head: bytes,
            *,
            expect: Version | None,
            files: Mapping[str, Source] | None = None,
            **more: Any,
        ) -> Version:
            stamped = self.read(run)
            newest = None if stamped is None else stamped.version
            return super().publish(run, head, expect=newest, files=files, **more)

    caught = []
    for seed in range(20):
        try:
            play(HeadWorld(lambda clock: IgnoresTheVersion(clock=clock), seed=seed), seed)
        except AssertionError as error:
            caught.append(str(error).startswith(f"schedule of seed {seed}: "))
    assert all(caught)
    assert len(caught) >= 15
