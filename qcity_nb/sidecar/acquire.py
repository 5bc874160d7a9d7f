"""How a sidecar gets the lease: if nobody holds it, from a holder declared dead, after a wait, or by rejoining."""

from __future__ import annotations

from collections.abc import Callable

from qcity_nb.clock import Clock
from qcity_nb.errors import LeaseLost, RunHeld, StoreUnavailable
from qcity_nb.ports import Store
from qcity_nb.records import Head, Heartbeat, Holder
from qcity_nb.run.lease import Lease, acquire, read, rejoin
from qcity_nb.run.observer import Observer
from qcity_nb.run.processes import is_alive
from qcity_nb.sidecar.start import Config

__all__ = ["AlreadyReleased", "LeaseAcquirer"]

LOOK_S = 0.1


class AlreadyReleased(Exception):
    """This attempt has released the run already; the sidecar that did it died before it could report it."""

    def __init__(self, head: Head) -> None:
        super().__init__(head.state)
        self.head = head


class LeaseAcquirer:
    """Acquires the lease for ``me``, as the config allows.

    Args:
        say: shows people, in one line, what it waits for.
    """

    def __init__(self, store: Store, config: Config, me: Holder, clock: Clock, *, say: Callable[[str], None]) -> None:
        self._store = store
        self._config = config
        self._me = me
        self._clock = clock
        self._say = say

    def acquire(self) -> Lease:
        """Acquire the lease.

        Raises:
            RunHeld: a live holder has it.
        """
        config = self._config
        observer = Observer(self._clock)
        first: Heartbeat | None = None
        declared_dead = config.declared_dead
        while True:
            try:
                return acquire(self._store, config.run, self._me, declared_dead=declared_dead, clock=self._clock)
            except RunHeld as held:
                snapshot = read(self._store, config.run)
                head = snapshot.head
                declared_dead = observer.declare_dead(snapshot)
                if head.holder is not None and (config.take_over or self.is_gone(head.holder)):
                    declared_dead = head.seen
                if declared_dead is None and head.holder is not None:
                    if first is None or self.is_orphan(head.holder):
                        # An orphan sends heartbeats while it publishes its last checkpoint; it is no rival at work.
                        first = head.seen
                    if head.seen != first or not config.wait or not is_alive(config.owner.pid):
                        raise
                    self._say(f"{held}: waiting up to {head.holder.ttl_s:g} s for a sign of life")
                    self._clock.sleep(LOOK_S)

    def is_gone(self, holder: Holder) -> bool:
        """Did the holder run on this machine, and are all its processes gone? Then waiting for ``ttl`` is needless.

        A dead sidecar alone is no proof: its owner starts another one.
        """
        if holder.node != self._config.node or not holder.pid:
            return False
        owner = holder.extra.get("owner", 0)
        return not is_alive(holder.pid) and not (isinstance(owner, int) and owner and is_alive(owner))

    def is_orphan(self, holder: Holder) -> bool:
        """Does the holder's sidecar run on this machine while its notebook is gone? Then it will release the lease."""
        if holder.node != self._config.node or not is_alive(holder.pid):
            return False
        owner = holder.extra.get("owner", 0)
        return isinstance(owner, int) and owner > 0 and not is_alive(owner)

    def rejoin(self, *, term: int) -> Lease:
        """Take over from a sidecar that died: the attempt holds the lease already.

        Args:
            term: of the lease.
        Raises:
            LeaseLost: another attempt holds the run.
            AlreadyReleased: this attempt has released it.
        """
        while True:
            try:
                return rejoin(self._store, self._config.run, self._me, clock=self._clock)
            except StoreUnavailable as error:
                # The notebook continues to compute into the local tier, with or without a sidecar.
                if not is_alive(self._config.owner.pid, self._config.owner.started):
                    raise
                self._say(f"store: {error}")
                self._clock.sleep(min(self._config.heartbeat_s, 5.0))
            except LeaseLost:
                head = read(self._store, self._config.run).head
                if head.holder is None and head.term == term:
                    raise AlreadyReleased(head) from None  # only the holder itself clears the holder
                raise
