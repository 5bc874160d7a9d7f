"""Signatures of checkpoints, and what a store is trusted for without them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcity_nb import settings
from qcity_nb.checkpoint import signing
from qcity_nb.checkpoint.storage import manifest as manifests
from qcity_nb.checkpoint.storage.manifest import CellRecord, Encoded, LoopRecord, Manifest, ObjectRef
from qcity_nb.errors import CheckpointUntrusted, UsageError
from qcity_nb.stores import open_store, trust

KEY, OTHER = b"k" * 32, b"o" * 32
MADE = Manifest(
    run="r",
    term=2,
    seq=7,
    loops=(LoopRecord(key="l", state=Encoded(skeleton=("a",), buffers=(("b",),), sizes=(3,))),),
    cells=(CellRecord(chain="c", outputs="a", number=1),),
    objects={"a": ObjectRef(pack="p", offset=0, size_bytes=1), "b": ObjectRef(pack="p", offset=1, size_bytes=3)},
    values={"deaths": [1, 2]},
)


def check(manifest: Manifest, key: bytes | None, *, run: str = "r", trust_problem: str = "") -> None:
    # As it comes back from a store.
    signing.check(manifests.loads(manifests.dumps(manifest)), run, key, where="there", trust_problem=trust_problem)


def test_a_signed_checkpoint_is_taken_with_its_key_alone() -> None:
    signed = signing.sign(MADE, "r", KEY)
    check(signed, KEY)
    with pytest.raises(CheckpointUntrusted, match=r"checkpoint 7 in there is not signed with this key"):
        check(signed, OTHER)
    with pytest.raises(CheckpointUntrusted, match=f"signed with the key {signing.key_id(KEY)}: set QCITY_KEY"):
        check(signed, None)
    with pytest.raises(CheckpointUntrusted, match="not signed with this key"):
        check(signed, KEY, run="another")
    assert KEY.decode() not in str(signed)


def test_an_unsigned_one_is_taken_as_far_as_the_store_is_trusted() -> None:
    check(MADE, None)
    with pytest.raises(CheckpointUntrusted, match="is not signed, and anybody can"):
        check(MADE, None, trust_problem="anybody can")
    with pytest.raises(CheckpointUntrusted, match="is not signed, and QCITY_KEY is set"):
        check(MADE, KEY)
    assert signing.sign(signing.sign(MADE, "r", KEY), "r", None) == MADE


@pytest.mark.parametrize(
    "forged",
    [
        {"seq": 8},
        {"objects": {**MADE.objects, "a": ObjectRef(pack="p", offset=2, size_bytes=1)}},
        {"values": {"deaths": []}},
        {"cells": ()},
        {"loops": (replace(MADE.loops[0], done=1),)},
        {"signature": {"version": 2, "key": signing.key_id(KEY), "value": "x"}},
        {"signature": {"version": 1, "key": signing.key_id(KEY)}},
        {"signature": {"version": 1, "key": signing.key_id(KEY), "value": "\u00e9"}},
        {"extra": {"more": 1}},
    ],
    ids=lambda forged: next(iter(forged)),
)
def test_whatever_is_changed_shows(forged: dict[str, object]) -> None:
    with pytest.raises(CheckpointUntrusted):
        check(replace(signing.sign(MADE, "r", KEY), **forged), KEY)  # type: ignore[arg-type]


@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_no_flipped_bit_passes(at: int, bit: int) -> None:
    signed = signing.sign(MADE, "r", KEY)
    data = bytearray(manifests.dumps(signed))
    data[at % len(data)] ^= 1 << bit
    try:
        loaded = manifests.loads(bytes(data))
    except Exception:  # noqa: BLE001 - not even a manifest
        return
    if replace(loaded, signature={}) == MADE and loaded.signature.get("value") == signed.signature["value"]:
        return  # the bit was in what the signature calls its key: nothing depends on it
    with pytest.raises(CheckpointUntrusted):
        signing.check(loaded, "r", KEY, where="there", trust_problem="")


def test_a_directory_that_everybody_can_write_to_is_not_trusted(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    store.publish("r", b"1", expect=None)
    folder = tmp_path / "store"
    folder.chmod(0o700)
    assert (trust.who_writes(store), trust.trust_problem(store)) == ("you", "")
    folder.chmod(0o775)
    assert trust.who_writes(store) == "you and your group on this machine"
    assert trust.trust_problem(store) == ""
    folder.chmod(0o777)
    assert trust.who_writes(store) == "everybody on this machine"
    assert "chmod o-w" in trust.trust_problem(store)


def test_a_key_that_is_none() -> None:
    assert settings.signing_key({}) is None
    assert settings.signing_key({"QCITY_KEY": " "}) is None
    assert settings.signing_key({"QCITY_KEY": "k" * 16}) == b"k" * 16
    with pytest.raises(UsageError, match="QCITY_KEY has 3 characters, and needs 16: make one"):
        settings.signing_key({"QCITY_KEY": "abc"})
