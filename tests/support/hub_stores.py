"""Stores on the Hub emulator, for tests: one server a process, a new repository each."""

from __future__ import annotations

import itertools
import os
import random
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from huggingface_hub import HfApi

from qcity_nb.clock import Clock
from qcity_nb.errors import StoreRefused, StoreUnavailable
from qcity_nb.ports import Source, Stamped, Store, Usage, Version
from qcity_nb.stores.hub.address import parse
from qcity_nb.stores.hub.store import HubStore
from qcity_nb.testing.clock import ManualClock
from qcity_nb.testing.emulators.hub.server import HubServer

__all__ = [
    "PatientStore",
    "api_of",
    "fresh_address",
    "new_store",
    "serve",
    "unsigned",
]

TOKEN = "any-token"  # the emulator takes any
T = TypeVar("T")

SPEEDS = {"upload-slow": 20_000_000, "commit-slow": 0.03}
"""Faults that are a rate in bytes a second, or seconds."""

_count = itertools.count()


def serve(folder: Path) -> HubServer:
    """A server, at HF_ENDPOINT where that is set.

    Clients before 1.0 know one endpoint, the environment's (`HubClient.api`): tests with them set it, and run in one
    process.
    """
    endpoint = os.environ.get("HF_ENDPOINT", "")
    return HubServer(folder, port=urlsplit(endpoint).port or 0)


def fresh_address(server: HubServer) -> str:
    """The address of a store in a repository that nobody has made yet."""
    return f"hf://user/runs-{next(_count)}?endpoint={server.url}"


def new_store(server: HubServer, *, clock: Clock | None = None) -> HubStore:
    """An empty store."""
    return HubStore(parse(fresh_address(server)), clock=clock)


def api_of(store: Store) -> tuple[HfApi, str]:
    """The client itself, past the store, and the repository."""
    address = parse(store.address)
    return HfApi(endpoint=address.endpoint, token=TOKEN), address.repo


class PatientStore:
    """Over a store whose replies get lost: asks again, and looks for its own write first, as the lease does.

    Args:
        server: its switches are set by what ``faults`` and ``seed`` draw, before some of the calls.
    """

    has_pages = True

    def __init__(self, server: HubServer, faults: Sequence[str], *, seed: int, store: HubStore | None = None) -> None:
        self.server = server
        self.faults = faults
        self.clock = ManualClock()
        self.store = store or new_store(server, clock=self.clock)
        self.release_s = self.store.release_s
        self._dice = random.Random(seed)
        self._lock = threading.Lock()

    def reopened(self) -> PatientStore:
        """Another handle on the same store."""
        clock = ManualClock()
        other = PatientStore(self.server, self.faults, seed=0, store=HubStore(parse(self.address), clock=clock))
        other.clock, other._dice, other._lock = clock, self._dice, self._lock
        return other

    def _again(self, call: Callable[[], T], *, spoiled: bool = True) -> T:
        if spoiled:
            with self._lock:
                if self._dice.random() < 0.5:
                    fault = self._dice.choice(self.faults)
                    self.server.faults.set(fault, SPEEDS.get(fault, 1), times=1 if fault in SPEEDS else None)
        for _ in range(30):
            try:
                return call()
            except StoreUnavailable as error:
                self.clock.advance(error.retry_after_s)
            except StoreRefused as error:
                # As the sidecar does: somebody may free storage.
                if "storage" not in str(error):
                    raise
        raise AssertionError("thirty tries in a row")

    @property
    def address(self) -> str:
        return self.store.address

    def runs(self) -> list[str]:
        return self._again(self.store.runs)

    def _read(self, run: str) -> tuple[Stamped | None, list[bytes]]:
        # Readers would pile up what only a commit can meet.
        stamped = self._again(lambda: self.store.read(run), spoiled=False)
        if stamped is None:
            return None, []
        ids, data = unsigned(stamped.data)
        return replace(stamped, data=data), ids

    def read(self, run: str) -> Stamped | None:
        return self._read(run)[0]

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
        mine = uuid.uuid4().hex.encode()

        def send() -> Version:
            stamped, ids = self._read(run)
            if mine in ids:
                assert stamped is not None
                return stamped.version
            signed = b"ids " + b",".join([*ids[-15:], mine]) + b"\n" + head
            return self.store.publish(run, signed, expect=expect, files=files, drop=drop, page=page)

        return self._again(send)

    def get(self, run: str, name: str) -> bytes:
        return self._again(lambda: self.store.get(run, name))

    def fetch(self, run: str, name: str, path: Path) -> None:
        self._again(lambda: self.store.fetch(run, name, path))

    def names(self, run: str) -> list[str]:
        return self._again(lambda: self.store.names(run))

    def delete(self, run: str, names: Sequence[str]) -> None:
        self._again(lambda: self.store.delete(run, names))

    def usage(self, run: str) -> Usage:
        return self._again(lambda: self.store.usage(run))

    def reclaim(self, run: str) -> None:
        self._again(lambda: self.store.reclaim(run))

    def forget(self, run: str) -> None:
        self._again(lambda: self.store.forget(run))


def unsigned(data: bytes) -> tuple[list[bytes], bytes]:
    """The write ids that ``PatientStore`` put before a head, and the head."""
    line, separator, head = data.partition(b"\n")
    return (line[4:].split(b","), head) if separator and line.startswith(b"ids ") else ([], data)
