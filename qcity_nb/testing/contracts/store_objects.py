"""The part of the store contract about objects: what is stored beside the run record."""

from __future__ import annotations

from pathlib import Path

import pytest

from qcity_nb import crashpoints
from qcity_nb.errors import Conflict, Missing, UsageError
from qcity_nb.ports import Store, Usage
from qcity_nb.testing.contracts.store_hooks import StoreHooks

__all__ = ["ObjectContract"]

PAGE = b"---\ntags:\n- qcity-nb\n---\n# r\n"


class ObjectContract(StoreHooks):
    """Objects are complete before a run record names them, are stored once, and are deleted on request."""

    def test_files_are_whole_before_the_head_names_them(self, store: Store, tmp_path: Path) -> None:
        reader = self.reopen(store)
        source = tmp_path / "source.bin"
        source.write_bytes(b"from a path" * 1000)
        version = store.publish("r", b"old", expect=None)
        seen: dict[str, list[str]] = {}

        def look(name: str) -> None:
            stamped = reader.read("r")
            assert stamped is not None
            if stamped.data == b"new":
                seen["new"] = reader.names("r")
                return
            for stored in reader.names("r"):
                expected = b"bytes" * 1000 if stored == "d/b" else b"from a path" * 1000
                assert reader.get("r", stored) == expected
            seen[name] = reader.names("r")

        crashpoints.arm(look)
        store.publish("r", b"new", expect=version, files={"d/b": b"bytes" * 1000, "p": source})
        crashpoints.arm(None)
        assert seen.get("publish.files.before") == [], "the run record came before its files"
        assert seen.get("publish.files.after") == (["d/b", "p"] if self.shows_files_first else [])
        assert seen.get("new", ["d/b", "p"]) == ["d/b", "p"]
        assert reader.get("r", "d/b") == b"bytes" * 1000
        assert reader.get("r", "p") == b"from a path" * 1000

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
        stamped = store.read("r")
        assert stamped is not None
        assert stamped.data == b"i"

    def test_what_a_head_drops_goes_with_it(self, store: Store) -> None:
        version = store.publish("r", b"1", expect=None, files={"a/1": b"1", "a/2": b"2", "b": b"b"})
        with pytest.raises(Conflict):
            store.publish("r", b"late", expect=None, drop=["b"])
        assert store.names("r") == ["a/1", "a/2", "b"], "a publish that lost has dropped something"
        newest = store.publish("r", b"2", expect=version, files={"c": b"c"}, drop=["a/1", "b", "never-was"])
        assert store.names("r") == ["a/2", "c"]
        with pytest.raises(Missing):
            store.get("r", "b")
        store.publish("r", b"3", expect=newest, drop=["b"])
        assert store.names("r") == ["a/2", "c"]

    def test_an_object_as_a_file(self, store: Store, tmp_path: Path) -> None:
        content = bytes(range(256)) * (9 << 12)
        store.publish("r", b"h", expect=None, files={"packs/big": content, "small": b""})
        for name, expected in (("packs/big", content), ("small", b"")):
            target = tmp_path / "here" / name.replace("/", "_")
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(b"an older file")
            self.reopen(store).fetch("r", name, target)
            assert target.read_bytes() == expected
        with pytest.raises(Missing):
            store.fetch("r", "packs", tmp_path / "nothing")
        with pytest.raises(Missing):
            store.fetch("nobody", "small", tmp_path / "nothing")
        assert not (tmp_path / "nothing").exists()
        with pytest.raises(OSError, match="nowhere"):
            store.fetch("r", "small", tmp_path / "nowhere" / "small")

    def test_what_a_run_occupies(self, store: Store) -> None:
        assert store.usage("nobody") == Usage(objects=0, size_bytes=0)
        version = store.publish("r", b"h", expect=None, files={"a": b"123", "d/b": b"4567"})
        store.reclaim("r")
        used = store.usage("r")
        assert (used.objects, used.size_bytes) == (2, 7)
        store.publish("r", b"i", expect=version, drop=["a"])
        assert store.usage("r").size_bytes == 4

    def test_a_page_is_no_object(self, store: Store) -> None:
        version = store.publish("r", b"h", expect=None, page={"README.md": PAGE})
        store.publish(
            "r",
            b"i",
            expect=version,
            files={"a": b"1"},
            page={"README.md": PAGE + b"again"},
        )
        assert store.names("r") == ["a"]
        stamped = store.read("r")
        assert stamped is not None
        assert stamped.data == b"i"

    def test_forgetting(self, store: Store) -> None:
        store.publish("r", b"h", expect=None, files={"a": b"1"})
        store.publish("other", b"h", expect=None, files={"a": b"1"})
        for _ in range(2):
            store.forget("r")
        assert (store.read("r"), store.names("r"), store.runs()) == (None, [], ["other"])
        store.publish("r", b"new", expect=None)
        assert store.names("r") == []
