"""How a store's address, a run's branch and a run record's file are written on the Hub."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcity_nb.errors import UsageError
from qcity_nb.stores.hub.address import HubAddress, Stamp, branch_of, parse, read_head, run_of, write_head

# git-check-ref-format(1): what a branch's name may not hold.
_NO_BRANCH = re.compile(r"(^|/)\.|\.\.|[\000-\037\177 ~^:?*\[\\]|//|@\{|(\.lock|/|\.)(/|$)|^@$")
run_ids = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,20}(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,20}){0,3}", fullmatch=True)


def test_addresses() -> None:
    assert parse("hf://user/repo") == HubAddress(repo="user/repo")
    assert parse("hf://models/user/repo/") == HubAddress(repo="user/repo")
    assert parse("hf://datasets/user/repo") == HubAddress(repo="user/repo", kind="dataset")
    elsewhere = parse("hf://user/repo?endpoint=http%3A%2F%2F127.0.0.1%3A8080")
    assert elsewhere == HubAddress(repo="user/repo", endpoint="http://127.0.0.1:8080")
    for address in ("hf://user/repo", "hf://datasets/user/repo", str(elsewhere)):
        assert parse(str(parse(address))) == parse(address)
        assert "endpoint" not in parse(address).short


@pytest.mark.parametrize(
    "address",
    [
        "hf://",
        "hf://user",
        "hf:///user/repo",
        "hf://user/repo/deeper",
        "hf://spaces/user/app",
        "hf://user/repo@main",
        "hf://user/re po",
        "hf://user/repo?token=hf_x",
        "hf://user/repo?endpoint=ftp://x",
        "hf://us..er/repo",
        "hf://user/-repo",
    ],
)
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(UsageError, match="hf://user/repo"):
        parse(address)


@given(run_ids, run_ids)
def test_every_run_has_a_branch_of_its_own(run: str, other: str) -> None:
    branch = branch_of(run)
    assert _NO_BRANCH.search(branch) is None
    assert branch.count("/") == 1, "a branch below another run's cannot be made"
    assert run_of(branch) == run
    if run != other:
        assert branch != branch_of(other)


def test_odd_runs() -> None:
    for run in ("a.lock", "a.", "a..b", "a...b", "a/b.lock", "-", "a+b".replace("+", "/")):
        assert _NO_BRANCH.search(branch_of(run)) is None
        assert run_of(branch_of(run)) == run
    assert run_of("main") is None
    assert run_of("run/a=2Eb") is None, "no store writes this"


@given(st.binary(max_size=200))
def test_heads(data: bytes) -> None:
    stamp = Stamp(version="0123456789abcdef", commits=7)
    assert read_head(write_head(stamp, data)) == (stamp, data)


def test_heads_that_no_store_wrote() -> None:
    for data in (b"", b"{}", b"qcity-head 1 xyz 1\n{}", b"qcity-head 2 0123456789abcdef 1\n"):
        assert read_head(data) == (None, data)
