"""The ports: what the protocol asks of stores, trackers, launchers and clocks.

Each is a small protocol; adapters live in ``stores/``, ``tracking/`` and ``hosts/`` and are found by the entry
point groups ``qcity_nb.stores`` (by address scheme), ``qcity_nb.trackers`` and ``qcity_nb.hosts``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from qcity_nb.records import AttemptSpec, Row

__all__ = ["Launcher", "Observation", "Source", "Stamped", "Store", "Tracker", "Usage", "Version"]

Version = str
"""A store's own name for one version of a head; compared only for equality."""

Source = bytes | Path
"""Content to store: the bytes themselves, or a file that holds them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamped:
    """A head as the store gives it, with two times of the store's *own* clock."""

    data: bytes
    version: Version
    written_s: float
    """When the store took this version, seconds on the store's clock."""
    now_s: float
    """The store's clock at this read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a run occupies in its store."""

    objects: int
    size_bytes: int
    """Of the objects that are there, heads not counted."""
    held_bytes: int = 0
    """Of what was deleted and still counts against a quota, as far as the store tells."""


class Store(Protocol):
    """Where runs live: heads, checkpoints, journals, executed notebooks.

    Run ids and object names are relative POSIX paths of ``[A-Za-z0-9._-]`` segments, at most 200 characters;
    no segment starts with a dot. Every method may raise ``StoreUnavailable``.

    Does not promise: that a listing is newer than the last read, that two runs share anything, or that a
    superseded writer is stopped before its files (never its head) arrive.
    """

    @property
    def release_s(self) -> float:
        """How long a deleted object may go on counting against a quota; 0: its room is free at once."""

    @property
    def has_pages(self) -> bool:
        """Does it show ``page`` of ``publish`` to people?"""

    @property
    def address(self) -> str:
        """What ``stores.open`` takes to open this store again, here or on another machine."""

    def runs(self) -> list[str]:
        """The ids of the runs that have a head, sorted."""

    def read(self, run: str) -> Stamped | None:
        """The run's newest head, or ``None`` where there is none. Does not parse it."""

    def publish(
        self,
        run: str,
        head: bytes,
        *,
        expect: Version | None,
        files: Mapping[str, Source] | None = None,
        drop: Sequence[str] = (),
        page: Mapping[str, bytes] | None = None,
    ) -> Version:
        """Store ``files``, then make ``head`` the run's head, in one compare-and-set, and delete ``drop``.

        Args:
            expect: the version that this writer last saw, or ``None`` for a run that must not exist yet.
            files: content by name; a name that is already stored is not sent again.
            drop: objects that nobody needs once this head is there; one that is not there is no error. Where they
                cannot be deleted now, that is no error either: they stay.
            page: files for people who look at the store (``README.md``), where it ``has_pages``; the newest stay.
        Returns: the new head's version.
        Raises:
            Conflict: the head is not ``expect``; it is unchanged by this call.
            StoreUnavailable: outcome unknown; re-read and look for the write id first.
        Does not: remove files of a publish that conflicted; no head names them.
        """

    def get(self, run: str, name: str) -> bytes:
        """The object's content.

        Raises:
            Missing: no such object; re-read the head.
        """

    def fetch(self, run: str, name: str, path: Path) -> None:
        """Bring the object into the file ``path``, whole or not at all; its folder is there.

        A call after one that was cut off may go on where that stopped (it keeps what it has beside ``path``).

        Raises:
            Missing: no such object; re-read the head.
            UsageError: ``path`` cannot be written.
        Does not: check the content against anything; its reader does.
        """

    def names(self, run: str) -> list[str]:
        """The names of the run's stored objects, sorted; heads are not among them."""

    def delete(self, run: str, names: Sequence[str]) -> None:
        """Remove objects; one that is not there is no error."""

    def usage(self, run: str) -> Usage:
        """What the run occupies; nothing for a run that is not there."""

    def reclaim(self, run: str) -> None:
        """Give back room that deleted objects still take, where that is work; called now and then by the holder.

        It changes neither the head nor its version.
        """

    def forget(self, run: str) -> None:
        """Remove the run, head and all. For people and tests; no protocol step calls it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What a launcher knows of one attempt."""

    state: Literal["pending", "running", "gone", "unknown"]
    """``gone`` only when the launcher *knows*; a failed status call is ``unknown``, never a death."""
    reason: str = ""
    exit_code: int | None = None


class Launcher(Protocol):
    """Starts, observes and stops attempts on one kind of host."""

    @property
    def name(self) -> str:
        """The name that ``--on`` takes."""

    def price(self) -> str:
        """What an attempt costs there, as the host says now, for people: ``$0.40/h``; empty where nobody pays.

        Raises:
            UsageError: no attempt can ever be launched so (unknown hardware, no token); the message says why.
            StoreUnavailable: the host did not answer.
        """

    def launch(self, spec: AttemptSpec) -> None:
        """Start the attempt, labelled with its id; returns once the host has taken it.

        Raises:
            UsageError: this host can never run it (the message says why).
            StoreUnavailable: the host did not answer: look for the label before trying again.
        """

    def find(self, attempt: str) -> Observation | None:
        """What became of the attempt with that label; ``None`` if this host never saw it."""

    def stop(self, attempt: str, *, grace_s: float) -> None:
        """Ask the attempt to end, and after ``grace_s`` seconds end it, with all its processes."""

    def follow(self, attempt: str, *, until: Callable[[], bool] | None = None) -> Iterator[str] | None:
        """What the attempt wrote, in pieces of text; ``None`` if this launcher has nothing of it.

        Args:
            until: goes on with what is yet to be written, until the host says that the attempt has ended, or this
                answers true, asked whenever nothing new is there. Without it: what there is now.
        """


class Tracker(Protocol):
    """Where metrics go. Every method may raise ``TrackerUnavailable``."""

    @property
    def uri(self) -> str:
        """Address without credentials."""

    def prepare(self) -> None:
        """What takes time and asks nobody: slow imports, an empty database. The other calls do it if need be."""

    def start(self, run: str, *, experiment: str, params: Mapping[str, object], tags: Mapping[str, str]) -> str:
        """Find the tracker's run for ``run`` (by tag), or make it; reopen it if it had ended.

        A tag ``qcity.made`` belongs to the identity: runs of two stores may have the same id.

        Returns: the tracker's id for it.
        """

    def send(self, run_id: str, rows: Sequence[Row]) -> None:
        """Store rows. Sending a row again, exactly the same, stores nothing more."""

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags."""

    def end(self, run_id: str, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        """Set the final status."""
