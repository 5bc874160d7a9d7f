"""The part of the store contract about writers and readers at the same time: one winner, nothing torn."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
import threading

import pytest

from qcity_nb import crashpoints
from qcity_nb.errors import Conflict, StoreUnavailable
from qcity_nb.ports import Stamped, Store
from qcity_nb.testing.contracts.store_hooks import StoreHooks
from qcity_nb.testing.interleave import at_every_point, in_threads

__all__ = ["RaceContract"]

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


def _with_digest(number: int, size: int) -> bytes:
    """A run record with a digest."""
    body = b"%d:" % number + b"x" * size
    return hashlib.sha256(body).hexdigest().encode() + b":" + body


def _check_digest(stamped: Stamped | None) -> int:
    assert stamped is not None
    digest, _, body = stamped.data.partition(b":")
    assert hashlib.sha256(body).hexdigest().encode() == digest, f"a torn run record: {stamped.data[:80]!r}"
    return int(body.partition(b":")[0])


class RaceContract(StoreHooks):
    """One winner, in any order; no reader sees half of anything."""

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
            stamped = rival.read(run)
            assert stamped is not None
            assert stamped.data == won[0]

    def test_a_writer_stopped_over_many_versions_does_not_come_back(self, store: Store) -> None:
        rival = self.reopen(store)
        replies: list[str] = []
        newest: dict[str, str] = {}

        def prepare(run: str) -> str:
            return store.publish(run, b"0", expect=None)

        def publish(run: str, expect: str) -> None:
            try:
                store.publish(run, b"late", expect=expect, files={"f": b""})
                replies.append("done")
            except (Conflict, StoreUnavailable) as error:
                replies.append(type(error).__name__)

        def interrupt(run: str, expect: str) -> None:
            newest[run] = expect
            for n in range(1, 41):
                newest[run] = rival.publish(run, b"%d" % n, expect=newest[run])

        for run, _ in at_every_point(prepare, publish, interrupt):
            assert replies[-1] != "done"
            for handle in (store, rival):
                stamped = handle.read(run)
                assert stamped is not None
                assert (stamped.data, stamped.version) == (b"40", newest[run])
            assert b"late" not in self.raw_heads(store, run)
            store.publish(run, b"after", expect=newest[run])

    def test_threads_lose_no_increment(self, store: Store) -> None:
        store.publish("r", b"0", expect=None)

        def count() -> None:
            mine = self.reopen(store)
            for _ in range(12):
                while True:
                    stamped = mine.read("r")
                    assert stamped is not None
                    try:
                        mine.publish("r", b"%d" % (int(stamped.data) + 1), expect=stamped.version)
                    except Conflict:
                        continue
                    break

        in_threads([count] * 4)
        stamped = store.read("r")
        assert stamped is not None
        assert stamped.data == b"48"

    def test_threads_make_a_run_once(self, store: Store) -> None:
        for turn in range(8):
            won: list[bytes] = []

            def make(name: bytes, turn: int = turn, won: list[bytes] = won) -> None:
                with contextlib.suppress(Conflict):
                    store.publish(f"r{turn}", name, expect=None, files={"f": name})
                    won.append(name)

            in_threads([lambda name=name: make(name) for name in (b"a", b"b", b"c", b"d")])  # type: ignore[misc]  # mypy cannot infer a lambda's default
            stamped = store.read(f"r{turn}")
            assert stamped is not None
            assert won == [stamped.data]
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
                stamped = store.read("race")
                assert stamped is not None
                assert stamped.data == b"%d" % replies.index("won")
                expect = stamped.version
            for order, _ in pipes:
                assert order is not None
                order.close()

    def test_what_is_declared_about_processes_is_true(self, store: Store) -> None:
        store.publish("r", b"x", expect=None)
        code = "import sys, qcity_nb.stores as s; print(s.open_store(sys.argv[1]).read('r') is not None)"
        run = subprocess.run([sys.executable, "-c", code, store.address], text=True, capture_output=True, check=True)
        assert run.stdout.strip() == str(self.shares_processes)

    def test_no_point_of_a_publish_shows_a_torn_head(self, store: Store) -> None:
        reader = self.reopen(store)
        looks: list[str] = []
        version = store.publish("r", _with_digest(0, 3000), expect=None)

        def look(name: str) -> None:
            assert _check_digest(reader.read("r")) in (number - 1, number)
            looks.append(name)

        crashpoints.arm(look)
        for number in range(1, 4):
            version = store.publish(
                "r", _with_digest(number, 3000 * number), expect=version, files={f"f{number}": b"x"}
            )
            assert _check_digest(reader.read("r")) == number
        assert len(looks) >= 6

    def test_readers_in_threads_see_whole_heads_in_order(self, store: Store) -> None:
        version = store.publish("r", _with_digest(0, 0), expect=None)
        done, reading = threading.Event(), threading.Barrier(3)

        def read() -> None:
            mine = self.reopen(store)
            reading.wait(10)
            last = 0
            while not done.is_set():
                number = _check_digest(mine.read("r"))
                assert number >= last
                last = number

        def write() -> None:
            nonlocal version
            reading.wait(10)
            try:
                for number in range(1, 60):
                    version = store.publish("r", _with_digest(number, number * 100), expect=version)
            finally:
                done.set()

        in_threads([read, read, write])
