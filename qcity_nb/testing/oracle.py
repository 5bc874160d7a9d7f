"""An oracle for run records: it sees each successful write, knows who sent it, and trusts only the JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from qcity_nb.errors import StoreUnavailable
from qcity_nb.ports import Store, Version
from qcity_nb.records import Heartbeat
from qcity_nb.testing.clock import ManualClock
from qcity_nb.testing.passing import PassingStore

__all__ = ["Oracle", "Signed"]


class _Shown:
    """Two versions of the run record, formatted only when needed."""

    def __init__(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        self._heads = old, new

    def __str__(self) -> str:
        return " -> ".join(map(str, self._heads))


class Oracle(PassingStore):
    """Passes calls on, and checks each new version of the run record against the one before it.

    Each version carries its sender's name (``extra["by"]``), because a late write takes effect during somebody else's
    call.

    Args:
        quiet: ends the faults of the store's own network.
    """

    def __init__(self, store: Store, clock: ManualClock, *, quiet: Callable[[], None] = lambda: None) -> None:
        super().__init__(store)
        self.quiet = quiet
        self.clock = clock
        self.heads: list[dict[str, Any]] = []
        self._writes: set[str] = set()
        self.moved_s = clock.now_s()
        """When (term, heartbeat) last changed."""

    @property
    def head(self) -> dict[str, Any]:
        """The newest version."""
        return self.heads[-1]

    @property
    def seen(self) -> Heartbeat:
        """What an observer would see."""
        return Heartbeat(term=self.head["term"], heartbeat=self.head["heartbeat"])

    @property
    def holder(self) -> str | None:
        """The attempt that holds the run."""
        return self.head["holder"] and str(self.head["holder"]["attempt"])

    def note_write(self, new: dict[str, Any]) -> None:
        """Check a new version against the rules (docs/design.md, "The central idea")."""
        if not self.heads:
            self._writes.update(new["writes"])
            self.heads.append(new)
            return
        old, sender = self.head, new["by"]
        holds, held = new["holder"] and new["holder"]["attempt"], self.holder
        where = _Shown(old, new)
        assert new["writes"][-1] not in self._writes, f"written twice: {where}"
        self._writes.add(new["writes"][-1])
        assert new["writes"][:-1] == old["writes"][-15:], f"a write id was lost: {where}"
        if new["term"] != old["term"]:
            assert new["term"] == old["term"] + 1, f"a term grows by one: {where}"
            assert (holds, new["heartbeat"]) == (sender, 0), f"the new holder wrote for another: {where}"
            declared_dead = new["declared_dead"]
            assert held in (None, sender) or declared_dead == [old["term"], old["heartbeat"]], (
                f"taken from a holder that was not declared dead: {where}"
            )
            assert new["checkpoints"] == old["checkpoints"], f"taking over changes no checkpoint: {where}"
        elif (new["heartbeat"], holds) != (old["heartbeat"], held) or new["checkpoints"] != old["checkpoints"]:
            assert held == sender, f"{sender} published without holding: {where}"
            assert holds in (held, None), f"the holder changed within a term: {where}"
            assert new["heartbeat"] == old["heartbeat"] + 1, f"the heartbeat grows by one: {where}"
            added = len(new["checkpoints"]) - len(old["checkpoints"])
            assert new["checkpoints"][added:] == old["checkpoints"], f"a checkpoint was lost: {where}"
            assert all(ref["term"] == new["term"] for ref in new["checkpoints"][:added]), where
        if sender != "foreigner":
            assert new["desired"] == old["desired"], f"a foreign desired state was lost: {where}"
            assert new["pending_launch"] == old["pending_launch"] or new["pending_launch"] is None, (
                f"a foreign pending launch was lost: {where}"
            )
            assert new["notes"] == old["notes"], f"a foreign note was lost: {where}"
        else:
            assert (new["term"], new["heartbeat"], holds) == (old["term"], old["heartbeat"], held), where
            assert new["notes"][:-1] == old["notes"], f"a foreign note was lost: {where}"
        if (new["term"], new["heartbeat"]) != (old["term"], old["heartbeat"]):
            self.moved_s = self.clock.now_s()
        self.heads.append(new)

    def publish(self, run: str, head: bytes, *, expect: Version | None, **more: Any) -> Version:
        """See ``ports.Store``."""
        try:
            version = self.store.publish(run, head, expect=expect, **more)
        except StoreUnavailable:
            # A store with a network of its own: what it holds after the faults have ended counts.
            self.quiet()
            stamped = self.store.read(run)
            if stamped is not None and stamped.data == head:
                self.note_write(json.loads(head))
            raise
        self.note_write(json.loads(head))
        return version


class Signed(PassingStore):
    """A store handle that writes the sender into each run record (see ``Oracle``)."""

    def __init__(self, store: Store, actor: str, declared_dead: Heartbeat | None = None) -> None:
        super().__init__(store)
        self._signature = {
            "by": actor,
            "declared_dead": declared_dead and [declared_dead.term, declared_dead.heartbeat],
        }

    def publish(self, run: str, head: bytes, *, expect: Version | None, **more: Any) -> Version:
        """See ``ports.Store``."""
        signed = json.dumps({**json.loads(head), **self._signature}).encode()
        return self.store.publish(run, signed, expect=expect, **more)
