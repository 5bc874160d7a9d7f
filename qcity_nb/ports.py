"""The ports: what the protocol asks of stores, launchers and trackers, on one page.

    Store       where runs live          adapters in stores/    entry point group qcity_nb.stores, by address scheme
    Launcher    where attempts run       adapters in hosts/     entry point group qcity_nb.hosts, by host name
    Tracker     where metrics go         adapters in tracking/  entry point group qcity_nb.trackers, by address scheme

Each is a small protocol. The shipped contract suites (``testing/contracts/``) test an adapter of your own. Everything
else in the package knows these protocols only: a new backend is one class and one entry point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from qcity_nb.records import AttemptSpec, Row

__all__ = ["Launcher", "Observation", "Source", "Stamped", "Store", "Tracker", "Usage", "Version"]

Version = str
"""A store's own name for one version of a run record; compared only for equality."""

Source = bytes | Path
"""Content to store: the bytes themselves, or a file that holds them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamped:
    """A run record as the store returns it, with two times of the store's *own* clock.

    A reader may subtract the two. It must not compare either of them with its own clock.
    """

    data: bytes
    version: Version
    written_s: float
    """When the store accepted this version, in seconds on the store's clock."""
    now_s: float
    """The store's clock at this read, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a run occupies in its store."""

    objects: int
    """How many objects there are; run records are not counted."""
    size_bytes: int
    """Of these objects."""
    held_bytes: int = 0
    """Of deleted objects that still count against a quota, as far as the store says."""


class Store(Protocol):
    """Where runs live: run records, checkpoints, journals, executed notebooks.

    A run is one record, changed only by compare-and-set, and any number of immutable objects. Run ids and object names
    are relative POSIX paths of ``[A-Za-z0-9._-]`` segments, at most 200 characters; no segment starts with a dot. Every
    method may raise ``StoreUnavailable``.

    Does not promise: that a listing is newer than the last read; that two runs share anything; or that the files of a
    superseded writer never arrive (its run record never does).
    Contract suite: ``testing/contracts/store_contract.py``.
    """

    @property
    def release_s(self) -> float:
        """How long a deleted object may still count against a quota, in seconds; 0: its storage is free at once."""

    @property
    def has_pages(self) -> bool:
        """Does it show the ``page`` of ``publish`` to people?"""

    @property
    def address(self) -> str:
        """What ``stores.open_store`` needs to open this store again, here or on another machine."""

    def runs(self) -> list[str]:
        """The ids of the runs that have a run record, sorted."""

    def read(self, run: str) -> Stamped | None:
        """The newest run record, or ``None`` if there is none. Does not parse it."""

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
        """Store ``files``, then replace the run record by ``head`` in one compare-and-set, then delete ``drop``.

        Args:
            head: the new run record; it may name the files.
            expect: the version that this writer last saw, or ``None`` for a run that must not exist yet. It is the
                fence: a writer that was superseded holds an old version.
            files: content by name; a name that is already stored is not sent again.
            drop: objects that the new record no longer needs. Missing ones are no error. If they cannot be deleted now,
                that is no error either: they stay.
            page: files for people who look at the store (``README.md``), if it ``has_pages``; the newest ones stay.
        Returns: the new run record's version.
        Raises:
            Conflict: the run record is not ``expect``; this call did not change it.
            StoreUnavailable: outcome unknown; read the record again and look for the write id first.
        Does not: remove the files of a publish that conflicted; no run record names them.
        """

    def get(self, run: str, name: str) -> bytes:
        """The object's content.

        Raises:
            Missing: no such object; read the run record again.
        """

    def fetch(self, run: str, name: str, path: Path) -> None:
        """Write the object's content to the file ``path``, completely or not at all.

        A call after an interrupted one may continue where that stopped: it keeps its part of the content beside
        ``path``.

        Args:
            path: in a directory that exists.
        Raises:
            Missing: no such object; read the run record again.
            OSError: ``path`` cannot be written.
        Does not: verify the content; its reader does.
        """

    def names(self, run: str) -> list[str]:
        """The names of the run's stored objects, sorted; run records are not among them."""

    def delete(self, run: str, names: Sequence[str]) -> None:
        """Delete objects; missing ones are no error."""

    def usage(self, run: str) -> Usage:
        """What the run occupies; zeros for a run that does not exist."""

    def reclaim(self, run: str) -> None:
        """Free the storage that deleted objects still occupy, if that takes work; the holder calls it now and then.

        Changes neither the run record nor its version.
        """

    def forget(self, run: str) -> None:
        """Remove the run completely. For people and tests; no step of the protocol calls it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What a launcher knows of one attempt."""

    state: Literal["pending", "running", "gone", "unknown"]
    """``gone`` only if the launcher *knows* it; a failed status call is ``unknown``, never a death."""
    reason: str = ""
    exit_code: int | None = None


class Launcher(Protocol):
    """Starts, observes and stops attempts on one kind of host."""

    @property
    def name(self) -> str:
        """The name that ``--on`` accepts."""

    def quote(self) -> str:
        """What an attempt costs there now, for people: ``$0.40/h``; empty if nobody pays.

        Asked before a launch, so it also refuses what could never be launched.

        Raises:
            UsageError: no attempt can ever be launched this way (unknown hardware, no token); the message says why.
            StoreUnavailable: the host did not answer.
        """

    def launch(self, spec: AttemptSpec) -> None:
        """Start the attempt, labelled with its id. Returns once the host has accepted it.

        Raises:
            UsageError: this host can never run it; the message says why.
            StoreUnavailable: the host did not answer: look for the label before trying again.
        """

    def find(self, attempt: str) -> Observation | None:
        """What is known of the attempt with that label; ``None`` if this host never saw it."""

    def stop(self, attempt: str, *, grace_s: float) -> None:
        """Ask the attempt to end; after ``grace_s`` seconds end it, with all its processes."""

    def follow(self, attempt: str, *, until: Callable[[], bool] | None = None) -> Iterator[str] | None:
        """What the attempt has printed, in pieces of text; ``None`` if this launcher has none of it.

        Args:
            until: keep reading until the host says that the attempt has ended, or until this returns true; it is called
                whenever there is nothing new. ``None``: only what there is now.
        """


class Tracker(Protocol):
    """Where metrics go. Every method may raise ``TrackerUnavailable``.

    Contract suite: ``testing/contracts/tracker_contract.py``.
    """

    @property
    def uri(self) -> str:
        """The address, without credentials."""

    def prepare(self) -> None:
        """Do what is slow and needs no network: imports, an empty database. The other calls do it if necessary."""

    def start(self, run: str, *, experiment: str, params: Mapping[str, object], tags: Mapping[str, str]) -> str:
        """Find the tracker's run for ``run`` (by tag), or make it. One that had ended is reopened.

        Args:
            experiment: the name under which the tracker groups runs.
            tags: ``qcity.made`` is part of the identity, since two stores may have runs of the same id.
        Returns: the tracker's own id for the run.
        """

    def send(self, run_id: str, rows: Sequence[Row]) -> None:
        """Store rows. Sending exactly the same row again stores nothing more."""

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags."""

    def end(self, run_id: str, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        """Set the final status."""
