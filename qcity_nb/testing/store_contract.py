"""The contract of ``ports.Store``, as tests to subclass:

    class TestMine(StoreContract):
        def make_store(self, tmp_path): return MyStore(...)
        def raw_heads(self, store, run): ...        # past the store, to its bytes
        ...

Interleavings are made, not hoped for: while a publish is under way, its crash points (``points``) run a rival
or a reader. A store may hit further names inside its own ``publish``; each becomes one more interleaving.
"""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from qcity_nb import points
from qcity_nb.errors import Conflict, Missing, StoreUnavailable, UsageError
from qcity_nb.ports import Stamped, Store
from qcity_nb.stores import open_store

__all__ = ["StoreContract", "at_every_point"]

T = TypeVar("T")

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

_RACER = """
import sys
from qcity_nb.errors import Conflict
from qcity_nb.stores import open_store
store = open_store(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    expect = line.strip() or None
    try:
        store.publish("race", sys.argv[2].encode(), expect=expect, files={"f-" + sys.argv[2]: b"x"})
        print("won", flush=True)
    except Conflict:
        print("lost", flush=True)
"""


def at_every_point(
    prepare: Callable[[str], T], publish: Callable[[str, T], object], action: Callable[[str, T], object]
) -> Iterator[tuple[str, T]]:
    """Run ``action`` once at each point that ``publish`` hits, each time in a run of its own.

    Args:
        prepare: makes the run of that id ready; what it returns goes to the other two.
    Yields: each run, after its publish, to be looked at.
    """
    hits: list[str] = []
    ready = prepare("undisturbed")
    points.arm(hits.append)
    try:
        publish("undisturbed", ready)
    finally:
        points.arm(None)
    assert "publish.files.after" in hits, "a publish with files marks its crash points"
    for chosen in range(len(hits)):
        run = f"at-{chosen}"
        ready = prepare(run)
        countdown = [chosen]

        def hook(_: str, run: str = run, ready: T = ready, countdown: list[int] = countdown) -> None:
            if countdown[0] == 0:
                points.arm(None)
                action(run, ready)
            countdown[0] -= 1

        points.arm(hook)
        try:
            publish(run, ready)
        finally:
            points.arm(None)
        assert countdown[0] < 0, f"point {chosen} of {hits} was not hit the second time"
        yield run, ready


def _sealed(number: int, size: int) -> bytes:
    """A head that can prove itself whole."""
    body = b"%d:" % number + b"x" * size
    return hashlib.sha256(body).hexdigest().encode() + b":" + body


def _unsealed(stamped: Stamped | None) -> int:
    assert stamped is not None
    digest, _, body = stamped.data.partition(b":")
    assert hashlib.sha256(body).hexdigest().encode() == digest, f"a torn head: {stamped.data[:80]!r}"
    return int(body.partition(b":")[0])


class StoreContract:
    """What every store must do. Subclass it, and give it a store and raw access to that store's bytes."""

    shares_processes = True
    """Can another process open the store by its address? A test holds the declaration against the truth."""

    # --- what a subclass provides

    def make_store(self, tmp_path: Path) -> Store:
        """A new, empty store."""
        raise NotImplementedError

    def reopen(self, store: Store) -> Store:
        """The same store as another process would open it."""
        return open_store(store.address)

    def raw_heads(self, store: Store, run: str) -> list[bytes]:
        """The head versions that the backend keeps, oldest first, read past the store."""
        raise NotImplementedError

    def raw_put_head(self, store: Store, run: str, data: bytes) -> None:
        """Make ``data`` the newest head, past the store: what a damaged disk or a foreign program may do."""
        raise NotImplementedError

    def raw_litter(self, store: Store, run: str) -> None:
        """Leave what dead writers and foreign programs leave: half files, strange names."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        yield self.make_store(tmp_path)
        points.arm(None)

    # --- heads

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
            found = handle.read("r")
            assert found is not None
            assert (found.data, found.version) == (data, version)
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
        found = store.read("r")
        assert found is not None
        assert found.data == b"three"

    def test_a_version_of_a_run_that_is_not_there(self, store: Store) -> None:
        with pytest.raises(Conflict):
            store.publish("r", b"x", expect="1")
        assert store.runs() == []

    def test_runs_do_not_mix(self, store: Store) -> None:
        for run in ("a", "a/heads", "a/files", "a/b", "b"):
            store.publish(run, run.encode(), expect=None, files={"heads/1": run.encode()})
        assert store.runs() == ["a", "a/b", "a/files", "a/heads", "b"]
        for run in store.runs():
            found = store.read(run)
            assert found is not None
            assert found.data == store.get(run, "heads/1") == run.encode()
            assert store.names(run) == ["heads/1"]

    # --- one winner

    @pytest.mark.parametrize("create", [True, False])
    def test_a_rival_at_every_point_of_a_publish(self, store: Store, create: bool) -> None:
        rival = self.reopen(store)
        won: list[bytes] = []

        def prepare(run: str) -> str | None:
            won.clear()
            return None if create else store.publish(run, b"before", expect=None)

        def publish(run: str, expect: str | None, by: Store = store, head: bytes = b"ours") -> None:
            with contextlib.suppress(Conflict):
                by.publish(run, head, expect=expect, files={"f": head})
                won.append(head)

        def interrupt(run: str, expect: str | None) -> None:
            publish(run, expect, rival, b"theirs")

        for run, _ in at_every_point(prepare, publish, interrupt):
            assert len(won) == 1, f"{run}: {won or 'nobody'} won"
            assert self.raw_heads(store, run)[-1] == won[0]
            found = rival.read(run)
            assert found is not None
            assert found.data == won[0]

    def test_a_writer_stopped_over_many_versions_does_not_come_back(self, store: Store) -> None:
        rival = self.reopen(store)
        replies: list[str] = []
        newest: dict[str, str] = {}

        def prepare(run: str) -> str:
            return store.publish(run, b"0", expect=None)

        def publish(run: str, expect: str) -> None:
            try:
                store.publish(run, b"late", expect=expect, files={"f": b""})
                replies.append("landed")
            except (Conflict, StoreUnavailable) as error:
                replies.append(type(error).__name__)

        def interrupt(run: str, expect: str) -> None:
            newest[run] = expect
            for n in range(1, 41):
                newest[run] = rival.publish(run, b"%d" % n, expect=newest[run])

        for run, _ in at_every_point(prepare, publish, interrupt):
            assert replies[-1] != "landed"
            for handle in (store, rival):
                found = handle.read(run)
                assert found is not None
                assert (found.data, found.version) == (b"40", newest[run])
            assert b"late" not in self.raw_heads(store, run)
            store.publish(run, b"after", expect=newest[run])

    def test_threads_lose_no_increment(self, store: Store) -> None:
        store.publish("r", b"0", expect=None)

        def count() -> None:
            mine = self.reopen(store)
            for _ in range(12):
                while True:
                    found = mine.read("r")
                    assert found is not None
                    try:
                        mine.publish("r", b"%d" % (int(found.data) + 1), expect=found.version)
                    except Conflict:
                        continue
                    break

        _in_threads([count] * 4)
        found = store.read("r")
        assert found is not None
        assert found.data == b"48"

    def test_threads_make_a_run_once(self, store: Store) -> None:
        for turn in range(8):
            won: list[bytes] = []

            def make(name: bytes, turn: int = turn, won: list[bytes] = won) -> None:
                with contextlib.suppress(Conflict):
                    store.publish(f"r{turn}", name, expect=None, files={"f": name})
                    won.append(name)

            _in_threads([lambda name=name: make(name) for name in (b"a", b"b", b"c", b"d")])  # type: ignore[misc]  # mypy cannot infer a lambda's default
            found = store.read(f"r{turn}")
            assert found is not None
            assert won == [found.data]
            assert store.get(f"r{turn}", "f") in (b"a", b"b", b"c", b"d")

    def test_processes_race_and_one_wins(self, store: Store) -> None:
        if not self.shares_processes:
            pytest.skip("declared: this store lives in one process")
        command = [sys.executable, "-c", _RACER, store.address]
        with contextlib.ExitStack() as stack:
            racers = [
                stack.enter_context(
                    subprocess.Popen([*command, str(n)], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                )
                for n in range(3)
            ]
            pipes = [(racer.stdin, racer.stdout) for racer in racers]
            for _, reply in pipes:
                assert reply is not None
                assert reply.readline() == "ready\n"
            expect = ""
            for _ in range(15):
                for order, _ in pipes:
                    assert order is not None
                    order.write(expect + "\n")
                    order.flush()
                replies = [reply.readline().strip() for _, reply in pipes if reply is not None]
                assert sorted(replies) == ["lost", "lost", "won"]
                found = store.read("race")
                assert found is not None
                assert found.data == b"%d" % replies.index("won")
                expect = found.version
            for order, _ in pipes:
                assert order is not None
                order.close()

    def test_what_is_declared_about_processes_is_true(self, store: Store) -> None:
        store.publish("r", b"x", expect=None)
        code = "import sys, qcity_nb.stores as s; print(s.open_store(sys.argv[1]).read('r') is not None)"
        run = subprocess.run([sys.executable, "-c", code, store.address], text=True, capture_output=True, check=True)
        assert run.stdout.strip() == str(self.shares_processes)

    # --- no half things

    def test_no_point_of_a_publish_shows_a_torn_head(self, store: Store) -> None:
        reader = self.reopen(store)
        looks: list[str] = []
        version = store.publish("r", _sealed(0, 3000), expect=None)

        def look(name: str) -> None:
            assert _unsealed(reader.read("r")) in (number - 1, number)
            looks.append(name)

        points.arm(look)
        for number in range(1, 4):
            version = store.publish("r", _sealed(number, 3000 * number), expect=version, files={f"f{number}": b"x"})
            assert _unsealed(reader.read("r")) == number
        assert len(looks) >= 6

    def test_readers_in_threads_see_whole_heads_in_order(self, store: Store) -> None:
        version = store.publish("r", _sealed(0, 0), expect=None)
        done, reading = threading.Event(), threading.Barrier(3)

        def read() -> None:
            mine = self.reopen(store)
            reading.wait(10)
            last = 0
            while not done.is_set():
                number = _unsealed(mine.read("r"))
                assert number >= last
                last = number

        def write() -> None:
            nonlocal version
            reading.wait(10)
            try:
                for number in range(1, 60):
                    version = store.publish("r", _sealed(number, number * 100), expect=version)
            finally:
                done.set()

        _in_threads([read, read, write])

    def test_files_are_whole_before_the_head_names_them(self, store: Store, tmp_path: Path) -> None:
        reader = self.reopen(store)
        source = tmp_path / "source.bin"
        source.write_bytes(b"from a path" * 1000)
        version = store.publish("r", b"old", expect=None)
        seen: dict[str, list[str]] = {}

        def look(name: str) -> None:
            found = reader.read("r")
            assert found is not None
            if found.data == b"new":
                seen["new head"] = reader.names("r")
                return
            for stored in reader.names("r"):
                expected = b"bytes" * 1000 if stored == "d/b" else b"from a path" * 1000
                assert reader.get("r", stored) == expected
            seen[name] = reader.names("r")

        points.arm(look)
        store.publish("r", b"new", expect=version, files={"d/b": b"bytes" * 1000, "p": source})
        points.arm(None)
        assert seen.get("publish.files.before") == [], "the head came before its files"
        assert seen.get("publish.files.after") == ["d/b", "p"]
        assert seen.get("new head", ["d/b", "p"]) == ["d/b", "p"]
        assert reader.get("r", "d/b") == b"bytes" * 1000
        assert reader.get("r", "p") == b"from a path" * 1000

    # --- objects

    def test_a_stored_name_is_not_sent_again(self, store: Store) -> None:
        version = store.publish("r", b"1", expect=None, files={"f": b"first"})
        store.publish("r", b"2", expect=version, files={"f": b"second", "g": b"g"})
        assert store.get("r", "f") == b"first"
        assert store.get("r", "g") == b"g"

    def test_a_big_file_from_a_path_is_a_copy(self, store: Store, tmp_path: Path) -> None:
        source = tmp_path / "big.pack"
        content = bytes(range(256)) * (9 << 12)  # over 9 MB, and no multiple of a copy buffer
        source.write_bytes(content)
        store.publish("r", b"h", expect=None, files={"packs/big": source})
        with source.open("r+b") as file:  # as a recycled pack is: in place
            file.write(b"\xff" * 100)
        assert store.get("r", "packs/big") == content

    def test_a_source_that_is_missing(self, store: Store, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="nothing-here"):
            store.publish("r", b"h", expect=None, files={"f": tmp_path / "nothing-here"})
        assert store.read("r") is None
        assert store.names("r") == []

    def test_names_are_listed(self, store: Store) -> None:
        names = ["b", "a/2", "a/1", "a/deep/er", "heads/1"]
        store.publish("r", b"h", expect=None, files={name: name.encode() for name in names})
        assert store.names("r") == sorted(names)
        assert self.reopen(store).names("r") == sorted(names)

    def test_deleting(self, store: Store) -> None:
        version = store.publish("r", b"h", expect=None, files={"a/1": b"1", "a/2": b"2", "b": b"b"})
        for _ in range(2):
            store.delete("r", ["a/1", "b", "never-was", "b/under-a-file"])
            assert store.names("r") == ["a/2"]
        with pytest.raises(Missing):
            store.get("r", "b")
        store.publish("r", b"i", expect=version, files={"b": b"again"})
        assert store.get("r", "b") == b"again"
        found = store.read("r")
        assert found is not None
        assert found.data == b"i"

    def test_forgetting(self, store: Store) -> None:
        store.publish("r", b"h", expect=None, files={"a": b"1"})
        store.publish("other", b"h", expect=None, files={"a": b"1"})
        for _ in range(2):
            store.forget("r")
        assert (store.read("r"), store.names("r"), store.runs()) == (None, [], ["other"])
        store.publish("r", b"new", expect=None)
        assert store.names("r") == []

    # --- what must not confuse it

    def test_a_corrupt_head_is_handed_out_as_it_is(self, store: Store) -> None:
        store.publish("r", b"good", expect=None)
        for garbage in (b"", b"\x00\xff{", b"{" * 5000):
            self.raw_put_head(store, "r", garbage)
            found = store.read("r")
            assert found is not None
            assert found.data == garbage
            store.publish("r", b"mended", expect=found.version)
            assert self.raw_heads(store, "r")[-1] == b"mended"

    def test_litter_is_no_head_and_no_object(self, store: Store) -> None:
        version = store.publish("r", b"1", expect=None, files={"f": b"f"})
        self.raw_litter(store, "r")
        for handle in (store, self.reopen(store)):
            found = handle.read("r")
            assert found is not None
            assert (found.data, found.version) == (b"1", version)
            assert handle.names("r") == ["f"]
            assert handle.runs() == ["r"]
            version = handle.publish("r", b"1", expect=version)

    @pytest.mark.parametrize("path", BAD_PATHS)
    def test_paths_that_may_not_be(self, store: Store, path: str) -> None:
        calls: list[Callable[[], Any]] = [
            lambda: store.read(path),
            lambda: store.publish(path, b"", expect=None),
            lambda: store.publish("r", b"", expect=None, files={"ok": b"", path: b""}),
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

    # --- the store's clock

    def test_the_clock_is_one_and_near(self, store: Store) -> None:
        slack_s = 0.05  # the tick of a file system's clock
        version, started_s, first_s, last_s = None, time.monotonic(), None, 0.0
        for _ in range(5):
            version = store.publish("r", b"h", expect=version)
            for handle in (store, self.reopen(store), store):
                found = handle.read("r")
                assert found is not None
                assert found.written_s >= last_s - slack_s
                assert found.now_s >= found.written_s
                assert found.now_s - found.written_s < 5
                first_s = found.written_s if first_s is None else first_s
                passed_s = time.monotonic() - started_s
                assert found.now_s - first_s == pytest.approx(passed_s, abs=1 + slack_s)
                last_s = found.now_s

    def test_a_head_has_one_time_of_writing(self, store: Store) -> None:
        store.publish("r", b"h", expect=None)
        one, two = store.read("r"), self.reopen(store).read("r")
        assert one is not None
        assert two is not None
        assert one.written_s == two.written_s


def _in_threads(actions: list[Callable[[], None]]) -> None:
    """Run them at once; a failure in any of them is this test's failure."""
    failures: list[BaseException] = []
    start = threading.Barrier(len(actions))

    def run(action: Callable[[], None]) -> None:
        try:
            start.wait(10)
            action()
        except BaseException as error:  # noqa: BLE001  # carried over to the thread that asserts
            failures.append(error)

    threads = [threading.Thread(target=run, args=(action,), daemon=True) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread hangs"
    if failures:
        raise failures[0]
