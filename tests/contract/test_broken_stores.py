"""Stores that break a promise: the contract must catch each of them, every time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qcity_nb import crashpoints
from qcity_nb.errors import Conflict
from qcity_nb.ports import Source, Stamped, Store, Version
from qcity_nb.stores.memory import MemoryStore, _Run
from qcity_nb.testing.contracts.contract_run import run_contract
from qcity_nb.testing.contracts.store_contract import StoreContract


class Parts(MemoryStore):
    """The memory store's steps, one by one, so that each can be left out or put in the wrong order."""

    def __init__(self) -> None:
        super().__init__("parts")
        self.gate = Gate()

    def found(self, run: str) -> Version | None:
        kept = self._runs.get(run)
        return kept.version if kept is not None and kept.head is not None else None

    def check(self, run: str, expect: Version | None) -> None:
        if self.found(run) != expect:
            raise Conflict("not expected")

    def store_files(self, run: str, files: Mapping[str, Source] | None) -> None:
        if files:
            crashpoints.hit("publish.files.before")
            for name, source in files.items():
                self._put(run, name, source)
            crashpoints.hit("publish.files.after")

    def set(self, run: str, head: bytes, more: Mapping[str, Any] | None = None) -> Version:
        self.drop(run, more or {})
        kept = self._runs.setdefault(run, _Run())
        self._count += 1
        kept.head, kept.version, kept.written_s = head, str(self._count), self._clock.now_s()
        return kept.version

    def drop(self, run: str, more: Mapping[str, Any]) -> None:
        for name in more.get("drop", ()):
            self._runs.setdefault(run, _Run()).files.pop(name, None)


class Gate:
    """Where a broken store loses the race: it lets a second writer come equally far before the first continues.

    Alone, a writer passes after a moment, so that the other tests still end.
    """

    def __init__(self) -> None:
        self._both = threading.Condition()
        self._inside = 0

    @contextlib.contextmanager
    def wait(self) -> Iterator[None]:
        with self._both:
            self._inside += 1
            self._both.notify_all()
            self._both.wait_for(lambda: self._inside > 1, timeout=0.002)
        try:
            yield
        finally:
            with self._both:
                self._inside -= 1


class Sound(Parts):
    """All steps in the right order: what the broken ones are held against."""

    def publish(
        self, run: str, head: bytes, *, expect: Version | None, files: Mapping[str, Source] | None = None, **more: Any
    ) -> Version:
        self.store_files(run, files)
        with self._lock:
            self.check(run, expect)
            return self.set(run, head, more)


class ExistsThenSet(Parts):
    """Looks, then writes: two writers may both have looked."""

    def publish(
        self, run: str, head: bytes, *, expect: Version | None, files: Mapping[str, Source] | None = None, **more: Any
    ) -> Version:
        self.store_files(run, files)
        self.check(run, expect)
        crashpoints.hit("window")
        return self.set(run, head, more)


class ExistsThenSetInThreads(Parts):
    """The same, without a named point in the window: only real concurrency shows it."""

    def publish(
        self, run: str, head: bytes, *, expect: Version | None, files: Mapping[str, Source] | None = None, **more: Any
    ) -> Version:
        self.store_files(run, files)
        self.check(run, expect)
        with self.gate.wait():
            return self.set(run, head, more)


class ChecksBeforeFiles(Parts):
    """Checks the version, then spends a long time on the files."""

    def publish(
        self, run: str, head: bytes, *, expect: Version | None, files: Mapping[str, Source] | None = None, **more: Any
    ) -> Version:
        self.check(run, expect)
        self.store_files(run, files)
        return self.set(run, head, more)


class IgnoresTheVersion(Parts):
    """Last writer wins."""

    def publish(
        self, run: str, head: bytes, *, expect: Version | None, files: Mapping[str, Source] | None = None, **more: Any
    ) -> Version:
        self.store_files(run, files)
        return self.set(run, head, more)


class IgnoresAbsent(Parts):
    """Compares versions, but makes a run over one that exists."""

    def publish(
        self, run: str, head: bytes, *, expect: Version | None, files: Mapping[str, Source] | None = None, **more: Any
    ) -> Version:
        self.store_files(run, files)
        if expect is not None:
            self.check(run, expect)
        return self.set(run, head, more)


class TornHead(Parts):
    """Writes in place: the run record is visible before it is complete."""

    def publish(
        self, run: str, head: bytes, *, expect: Version | None, files: Mapping[str, Source] | None = None, **more: Any
    ) -> Version:
        self.store_files(run, files)
        self.check(run, expect)
        self.set(run, head[: len(head) // 2])
        crashpoints.hit("half")
        return self.set(run, head, more)


class HeadFirst(Parts):
    """The run record names files that are not stored yet."""

    def publish(
        self, run: str, head: bytes, *, expect: Version | None, files: Mapping[str, Source] | None = None, **more: Any
    ) -> Version:
        self.check(run, expect)
        version = self.set(run, head, more)
        self.store_files(run, files)
        return version


class TornFile(Sound):
    """A file is visible under its name before it is complete: the rename is missing."""

    def store_files(self, run: str, files: Mapping[str, Source] | None) -> None:
        if files:
            crashpoints.hit("publish.files.before")
            for name, source in files.items():
                content = source.read_bytes() if isinstance(source, Path) else source
                stored = self._runs.setdefault(run, _Run()).files
                stored[name] = content[:10]
                crashpoints.hit("half a file")
                stored[name] = content
            crashpoints.hit("publish.files.after")


class SendsAgain(Parts):
    """Overwrites an object that is stored already."""

    def _put(self, run: str, name: str, source: Source) -> None:
        self._runs.setdefault(run, _Run()).files.pop(name, None)
        super()._put(run, name, source)


class HandsOutOneVersion(Parts):
    """Versions come round again: an old one is taken for the newest."""

    def read(self, run: str) -> Stamped | None:
        stamped = super().read(run)
        return stamped and replace(stamped, version=str(int(stamped.version) % 4))

    def found(self, run: str) -> Version | None:
        version = super().found(run)
        return None if version is None else str(int(version) % 4)

    def publish(
        self, run: str, head: bytes, *, expect: Version | None, files: Mapping[str, Source] | None = None, **more: Any
    ) -> Version:
        self.store_files(run, files)
        with self._lock:
            self.check(run, expect)
            return str(int(self.set(run, head, more)) % 4)


class DropsFirst(Parts):
    """Deletes what a run record drops, although that record may never be stored."""

    def publish(
        self, run: str, head: bytes, *, expect: Version | None, files: Mapping[str, Source] | None = None, **more: Any
    ) -> Version:
        self.drop(run, more)
        self.store_files(run, files)
        with self._lock:
            self.check(run, expect)
            return self.set(run, head)


class FetchesInPlace(Sound):
    """Writes an object over the file that was there, and leaves half of it where it fails."""

    def fetch(self, run: str, name: str, path: Path) -> None:
        path.write_bytes(b"")
        path.write_bytes(self.get(run, name))


class Contract(StoreContract):
    """The contract over a store that is handed in. (Not named Test…: pytest must not collect it.)"""

    shares_processes = False

    def reopen(self, store: Store) -> Store:
        return store

    def raw_heads(self, store: Store, run: str) -> list[bytes]:
        assert isinstance(store, MemoryStore)
        head = store._runs[run].head
        return [] if head is None else [head]

    def raw_put_head(self, store: Store, run: str, data: bytes) -> None:
        assert isinstance(store, Parts)
        store.set(run, data)

    def raw_litter(self, store: Store, run: str) -> None:
        """Nothing to leave in a dict."""


def failures(kind: type[Parts], tmp_path: Path) -> set[str]:
    """The names of the contract's tests that ``kind`` fails."""
    # Parts checks no names, and lives in one process.
    results = run_contract(
        Contract(), kind, tmp_path, is_selected=lambda name: "process" not in name and "paths" not in name
    )
    return {name.removeprefix("test_") for name, failure in results if failure is not None}


def test_the_sound_store_passes(tmp_path: Path) -> None:
    assert failures(Sound, tmp_path) == set()


@pytest.mark.parametrize(
    ("kind", "caught_by"),
    [
        (ExistsThenSet, {"a_rival_at_every_point_of_a_publish"}),
        (ExistsThenSetInThreads, {"threads_make_a_run_once"}),
        (ChecksBeforeFiles, {"a_rival_at_every_point_of_a_publish"}),
        (IgnoresTheVersion, {"only_the_newest_version_is_expected", "a_rival_at_every_point_of_a_publish"}),
        (IgnoresAbsent, {"a_run_is_made_once", "a_rival_at_every_point_of_a_publish"}),
        (TornHead, {"no_point_of_a_publish_shows_a_torn_head"}),
        (HeadFirst, {"files_are_whole_before_the_head_names_them"}),
        (TornFile, {"files_are_whole_before_the_head_names_them"}),
        (SendsAgain, {"a_stored_name_is_not_sent_again"}),
        (DropsFirst, {"what_a_head_drops_goes_with_it"}),
        (FetchesInPlace, {"an_object_as_a_file"}),
        (HandsOutOneVersion, {"each_version_has_its_own_name"}),
    ],
)
def test_a_broken_store_is_caught(kind: type[Parts], caught_by: set[str], tmp_path: Path) -> None:
    assert caught_by <= failures(kind, tmp_path)
