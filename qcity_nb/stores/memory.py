"""A store in this process's memory: for tests, and for studying the protocol without a disk."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qcity_nb import crashpoints
from qcity_nb.clock import Clock, SystemClock
from qcity_nb.errors import Conflict, Missing, UsageError
from qcity_nb.ports import Source, Stamped, Usage, Version
from qcity_nb.stores.naming import check_name, check_run, place

__all__ = ["MemoryStore", "open_store"]

_named: dict[str, MemoryStore] = {}
_named_lock = threading.Lock()


def open_store(address: str) -> MemoryStore:
    """The process-wide store of that name; made by the first call. It lives as long as the process."""
    name = address.removeprefix("memory://")
    with _named_lock:
        if name not in _named:
            _named[name] = MemoryStore(name)
        return _named[name]


@dataclass(slots=True)
class _Run:
    head: bytes | None = None
    version: Version = ""
    written_s: float = 0.0
    files: dict[str, bytes] = field(default_factory=dict)


class MemoryStore:
    """A dict with a lock.

    Args:
        name: what follows ``memory://`` in its address; only ``open_store`` registers it.
        clock: the store's own clock.
    """

    release_s = 0.0
    has_pages = False

    def __init__(self, name: str = "", *, clock: Clock | None = None) -> None:
        self._name = name
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._runs: dict[str, _Run] = {}
        # Never reset, so that a run that was forgotten and then made anew has no version twice.
        self._count = 0

    @property
    def address(self) -> str:
        """``memory://name``; valid in this process only."""
        return f"memory://{self._name}"

    def runs(self) -> list[str]:
        """See ``ports.Store``."""
        with self._lock:
            return sorted(run for run, kept in self._runs.items() if kept.head is not None)

    def read(self, run: str) -> Stamped | None:
        """See ``ports.Store``."""
        check_run(run)
        with self._lock:
            kept = self._runs.get(run)
            if kept is None or kept.head is None:
                return None
            return Stamped(data=kept.head, version=kept.version, written_s=kept.written_s, now_s=self._clock.now_s())

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
        """See ``ports.Store``."""
        check_run(run)
        for name in (*(files or ()), *drop):
            check_name(name)
        if files:
            crashpoints.hit("publish.files.before")
            for name, source in files.items():
                self._put(run, name, source)
            crashpoints.hit("publish.files.after")
        with self._lock:
            kept = self._runs.setdefault(run, _Run())
            version = kept.version if kept.head is not None else None
            if version != expect:
                raise Conflict(f"run {run!r}: the run record is version {version!r}, not {expect!r}")
            self._count += 1
            kept.head = bytes(head)
            kept.version = str(self._count)
            kept.written_s = self._clock.now_s()
            for name in drop:
                kept.files.pop(name, None)
            return kept.version

    def _put(self, run: str, name: str, source: Source) -> None:
        with self._lock:
            if name in self._runs.setdefault(run, _Run()).files:
                return
        if isinstance(source, Path):
            try:
                content = source.read_bytes()
            except OSError as error:
                raise UsageError(f"{source} cannot be read: {error.strerror}") from None
        else:
            content = bytes(source)
        with self._lock:
            self._runs.setdefault(run, _Run()).files.setdefault(name, content)

    def get(self, run: str, name: str) -> bytes:
        """See ``ports.Store``."""
        check_run(run)
        check_name(name)
        with self._lock:
            kept = self._runs.get(run)
            if kept is None or name not in kept.files:
                raise Missing(f"run {run!r} has no object {name!r} in {self.address}")
            return kept.files[name]

    def fetch(self, run: str, name: str, path: Path) -> None:
        """See ``ports.Store``."""
        place(path, self.get(run, name))

    def names(self, run: str) -> list[str]:
        """See ``ports.Store``."""
        check_run(run)
        with self._lock:
            return sorted(self._runs[run].files) if run in self._runs else []

    def delete(self, run: str, names: Sequence[str]) -> None:
        """See ``ports.Store``."""
        check_run(run)
        for name in names:
            check_name(name)
        with self._lock:
            for name in names:
                if run in self._runs:
                    self._runs[run].files.pop(name, None)

    def usage(self, run: str) -> Usage:
        """See ``ports.Store``."""
        check_run(run)
        with self._lock:
            sizes = [len(content) for content in self._runs[run].files.values()] if run in self._runs else []
        return Usage(objects=len(sizes), size_bytes=sum(sizes))

    def reclaim(self, run: str) -> None:
        """See ``ports.Store``: nothing is held back here."""
        check_run(run)

    def forget(self, run: str) -> None:
        """See ``ports.Store``."""
        check_run(run)
        with self._lock:
            self._runs.pop(run, None)
