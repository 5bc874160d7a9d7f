"""A store over a bad network: what a protocol over ``ports.Store`` must survive."""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Literal, get_args

from qcity_nb.errors import Conflict, StoreUnavailable
from qcity_nb.ports import Stamped, Store, Version
from qcity_nb.testing.passing import PassingStore

__all__ = ["Fault", "FaultyStore"]

Fault = Literal["refused", "lost", "delayed", "stale", "unread"]
"""What may happen to one call:

* ``refused``   publish: nothing is stored, the reply is an error
* ``lost``      publish: it takes effect (or conflicts), the reply is lost
* ``delayed``   publish: the reply is an error, and it takes effect some calls later, if it still can
* ``stale``     read: the version before the newest, once
* ``unread``    read: the reply is an error
"""

_OF_PUBLISH: tuple[Fault, ...] = ("refused", "lost", "delayed")
_OF_READ: tuple[Fault, ...] = ("stale", "unread")


class FaultyStore(PassingStore):
    """Passes calls on to ``store``, and makes some of them fail.

    Args:
        seed: faults at random, reproducibly; ``None``: only scheduled and injected ones.
        schedule: faults in order, each for the next call that it can happen to.
        rate: share of calls with a random fault.
        delay: a delayed write takes effect so many calls later; with a seed, at most so many.

    Attributes:
        log: what happened to each publish and each failed read, in order; ``repr`` shows it with the seed.
        before_publish: called once, just before the next publish is sent: a rival can write there.
    """

    def __init__(
        self,
        store: Store,
        *,
        seed: int | None = None,
        schedule: Iterable[Fault] = (),
        rate: float = 0.2,
        delay: int = 4,
    ) -> None:
        super().__init__(store)
        self.seed = seed
        self.rate = rate
        self.delay = delay
        self.log: list[str] = []
        self.before_publish: Callable[[], None] | None = None
        self._random = None if seed is None else random.Random(seed)
        self._planned: deque[Fault] = deque()
        self._late: list[tuple[int, Callable[[], None]]] = []
        self._previous: dict[str, Stamped] = {}
        self._lock = threading.RLock()
        for fault in schedule:
            self.inject(fault)

    def __repr__(self) -> str:
        return f"FaultyStore({self.address}, seed={self.seed}, log={self.log})"

    def inject(self, fault: Fault) -> None:
        """Let ``fault`` happen to the next call that it can happen to."""
        if fault not in get_args(Fault):
            raise ValueError(f"no such fault: {fault!r}")
        self._planned.append(fault)

    def clear(self) -> None:
        """No more faults, planned or random; delayed writes still take effect (``settle``)."""
        self._planned.clear()
        self._random = None

    def settle(self) -> None:
        """Let every delayed write take effect now, or fail."""
        with self._lock:
            late, self._late = self._late, []
        for _, land in late:
            land()

    def _pick(self, possible: tuple[Fault, ...]) -> Fault | None:
        with self._lock:
            if self._planned and self._planned[0] in possible:
                return self._planned.popleft()
            if self._random is not None and self._random.random() < self.rate:
                return self._random.choice(possible)
        return None

    def _tick(self) -> None:
        """One more call: delayed writes come closer, and some take effect."""
        with self._lock:
            due = [land for left, land in self._late if left <= 1]
            self._late = [(left - 1, land) for left, land in self._late if left > 1]
        for land in due:
            land()

    def read(self, run: str) -> Stamped | None:
        """See ``ports.Store``; may fail."""
        self._tick()
        fault = self._pick(_OF_READ)
        if fault == "unread":
            self.log.append("read: unread")
            raise StoreUnavailable("injected: no answer to a read")
        fresh = self.store.read(run)
        if fault == "stale" and fresh is not None and run in self._previous:
            self.log.append("read: stale")
            return replace(self._previous.pop(run), now_s=fresh.now_s)
        return fresh

    def publish(self, run: str, head: bytes, *, expect: Version | None, **more: Any) -> Version:
        """See ``ports.Store``; may fail."""
        between, self.before_publish = self.before_publish, None
        if between is not None:
            between()
        self._tick()
        fault = self._pick(_OF_PUBLISH)

        def send() -> Version:
            before = self.store.read(run)
            version = self.store.publish(run, head, expect=expect, **more)
            if before is not None:
                self._previous[run] = before
            return version

        def land() -> None:
            try:
                send()
                self.log.append(f"publish on {expect}: took effect late")
            except Conflict:
                self.log.append(f"publish on {expect}: too late")
            except StoreUnavailable:
                self.log.append(f"publish on {expect}: late, outcome unknown")

        if fault is None:
            try:
                version = send()
            except Conflict:
                self.log.append(f"publish on {expect}: conflict")
                raise
            self.log.append(f"publish on {expect}: done")
            return version
        self.log.append(f"publish on {expect}: {fault}")
        if fault == "lost":
            land()
        elif fault == "delayed":
            with self._lock:
                self._late.append((self._random.randint(1, self.delay) if self._random else self.delay, land))
        raise StoreUnavailable(f"injected: {fault}")
