"""The contract of ``ports.Store``, as tests to subclass:

    class TestMine(StoreContract):
        def make_store(self, tmp_path): return MyStore(...)
        def raw_heads(self, store, run): ...        # reads the bytes without the store
        def raw_put_head(self, store, run, data): ...
        def raw_litter(self, store, run): ...

Interleavings are forced: during a publish, its crash points (``crashpoints``) run a rival or a reader. A store may hit
further names inside its own ``publish``; each becomes one more interleaving.

For asserts that explain themselves, call ``pytest.register_assert_rewrite("qcity_nb.testing")`` in a conftest.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qcity_nb.errors import Conflict, Missing, UsageError
from qcity_nb.ports import Store
from qcity_nb.testing.contracts.store_objects import ObjectContract
from qcity_nb.testing.contracts.store_races import RaceContract

__all__ = ["StoreContract"]

BAD_PATHS = [
    "",
    ".",
    "..",
    "../up",
    "/abs",
    "a//b",
    "a/",
    "a/../b",
    ".hidden",
    "a/.b",
    "a b",
    "a\n",
    "ä",
    "x" * 201,
]
GOOD_PATHS = ["a", "A-b_c.d", "-", "a/b/c.json", "x" * 200]


class StoreContract(RaceContract, ObjectContract):
    """What every store must do. Subclass it, and give it the hooks of ``StoreHooks``."""

    def test_a_run_that_is_not_there(self, store: Store) -> None:
        assert store.read("nobody") is None
        assert store.runs() == []
        assert store.names("nobody") == []
        with pytest.raises(Missing):
            store.get("nobody", "a")
        store.delete("nobody", ["a"])
        store.forget("nobody")

    def test_what_is_published_is_read(self, store: Store) -> None:
        data = bytes(range(256))
        version = store.publish("r", data, expect=None)
        for handle in (store, self.reopen(store)):
            stamped = handle.read("r")
            assert stamped is not None
            assert (stamped.data, stamped.version) == (data, version)
            assert handle.runs() == ["r"]
        assert self.raw_heads(store, "r")[-1] == data

    def test_each_version_has_its_own_name(self, store: Store) -> None:
        version = store.publish("r", b"same", expect=None)
        seen = {version}
        for _ in range(40):
            version = store.publish("r", b"same", expect=version)
            seen.add(version)
        assert len(seen) == 41

    def test_a_run_is_made_once(self, store: Store) -> None:
        store.publish("r", b"first", expect=None)
        with pytest.raises(Conflict):
            self.reopen(store).publish("r", b"second", expect=None)
        assert self.raw_heads(store, "r")[-1] == b"first"

    def test_only_the_newest_version_is_expected(self, store: Store) -> None:
        old = store.publish("r", b"one", expect=None)
        new = store.publish("r", b"two", expect=old)
        for wrong in (old, "no-such-version", "0", "999999", ""):
            with pytest.raises(Conflict):
                store.publish("r", b"wrong", expect=wrong)
        assert b"wrong" not in self.raw_heads(store, "r")
        store.publish("r", b"three", expect=new)
        stamped = store.read("r")
        assert stamped is not None
        assert stamped.data == b"three"

    def test_a_version_of_a_run_that_is_not_there(self, store: Store) -> None:
        with pytest.raises(Conflict):
            store.publish("r", b"x", expect="1")
        assert store.runs() == []

    def test_runs_do_not_mix(self, store: Store) -> None:
        for run in ("a", "a/heads", "a/files", "a/b", "b"):
            store.publish(run, run.encode(), expect=None, files={"heads/1": run.encode()})
        assert store.runs() == ["a", "a/b", "a/files", "a/heads", "b"]
        for run in store.runs():
            stamped = store.read(run)
            assert stamped is not None
            assert stamped.data == store.get(run, "heads/1") == run.encode()
            assert store.names(run) == ["heads/1"]

    def test_a_corrupt_head_is_handed_out_as_it_is(self, store: Store) -> None:
        store.publish("r", b"good", expect=None)
        for garbage in (b"", b"\x00\xff{", b"{" * 5000):
            self.raw_put_head(store, "r", garbage)
            stamped = store.read("r")
            assert stamped is not None
            assert stamped.data == garbage
            store.publish("r", b"mended", expect=stamped.version)
            assert self.raw_heads(store, "r")[-1] == b"mended"

    def test_litter_is_no_head_and_no_object(self, store: Store) -> None:
        version = store.publish("r", b"1", expect=None, files={"f": b"f"})
        self.raw_litter(store, "r")
        for handle in (store, self.reopen(store)):
            stamped = handle.read("r")
            assert stamped is not None
            assert (stamped.data, stamped.version) == (b"1", version)
            assert handle.names("r") == ["f"]
            assert handle.runs() == ["r"]
            version = handle.publish("r", b"1", expect=version)

    @pytest.mark.parametrize("path", BAD_PATHS)
    def test_paths_that_may_not_be(self, store: Store, path: str) -> None:
        calls: list[Callable[[], Any]] = [
            lambda: store.read(path),
            lambda: store.publish(path, b"", expect=None),
            lambda: store.publish("r", b"", expect=None, files={"ok": b"", path: b""}),
            lambda: store.publish("r", b"", expect=None, drop=[path]),
            lambda: store.fetch("r", path, Path("nothing")),
            lambda: store.usage(path),
            lambda: store.get(path, "a"),
            lambda: store.get("r", path),
            lambda: store.names(path),
            lambda: store.delete(path, []),
            lambda: store.delete("r", ["a", path]),
            lambda: store.forget(path),
        ]
        for call in calls:
            with pytest.raises(UsageError):
                call()
        assert store.runs() == []
        assert store.names("r") == []

    @pytest.mark.parametrize("path", GOOD_PATHS)
    def test_paths_that_may_be(self, store: Store, path: str) -> None:
        store.publish(path, b"h", expect=None, files={path: b"x"})
        assert store.get(path, path) == b"x"
        assert store.runs() == store.names(path) == [path]

    def test_the_clock_is_one_and_near(self, store: Store) -> None:
        slack_s = 0.05  # the tick of a file system's clock
        version, started_s, first_s, last_s = None, time.monotonic(), None, 0.0
        for _ in range(5):
            version = store.publish("r", b"h", expect=version)
            for handle in (store, self.reopen(store), store):
                stamped = handle.read("r")
                assert stamped is not None
                assert stamped.written_s >= last_s - slack_s
                assert stamped.now_s >= stamped.written_s
                assert stamped.now_s - stamped.written_s < 5
                first_s = stamped.written_s if first_s is None else first_s
                passed_s = time.monotonic() - started_s
                assert stamped.now_s - first_s == pytest.approx(passed_s, abs=1 + slack_s)
                last_s = stamped.now_s

    def test_a_head_has_one_time_of_writing(self, store: Store) -> None:
        store.publish("r", b"h", expect=None)
        first, second = store.read("r"), self.reopen(store).read("r")
        assert first is not None
        assert second is not None
        assert first.written_s == second.written_s
