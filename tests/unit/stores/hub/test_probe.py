"""The probes of a Hub: the emulator passes them, and a Hub that behaves differently does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import hub_stores
import pytest
from huggingface_hub import HfApi

from qcity_nb import cli
from qcity_nb.stores.hub.branch import HubBranch
from qcity_nb.stores.hub.probe import PROBES
from qcity_nb.stores.hub.repository import HubRepository
from qcity_nb.testing.contracts import at_hub
from qcity_nb.testing.emulators.hub.server import HubServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    with hub_stores.serve(tmp_path_factory.mktemp("hub")) as server:
        yield server


def run(server: HubServer, *more: str) -> int:
    return cli.main(["doctor", "--probe", hub_stores.fresh_address(server), *more])


def test_the_emulator_is_as_the_store_expects(server: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(server) == 0
    out = capsys.readouterr().out
    assert "DIFFERS" not in out
    assert out.count("OK ") == len(PROBES)
    assert f"all {len(PROBES)} are as expected" in out


def test_a_hub_with_stale_reads_is_reported(server: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    # The fifth commit is the first of those that are read at once.
    count = 0

    def after_a_commit(**event: object) -> None:
        nonlocal count
        count += 1
        if count == 5:
            server.faults.set("stale-read")

    remove = server.faults.on("commit.landed", after_a_commit)
    try:
        assert run(server, "--json") == 2
    finally:
        remove()
        server.faults.clear()
    findings = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert not findings["reads follow writes"]["is_as_expected"]
    assert "1 of 10 reads" in findings["reads follow writes"]["detail"]
    assert findings["one of two wins"]["is_as_expected"]


def test_nothing_is_left_on_the_hub(server: HubServer) -> None:
    address = hub_stores.fresh_address(server)
    assert cli.main(["doctor", "--probe", address]) == 0
    api, repo = HfApi(endpoint=server.url, token="any"), address.partition("//")[2].partition("?")[0]
    assert [branch.name for branch in api.list_repo_refs(repo).branches] == ["main"]


def test_a_probe_without_rights_says_so(server: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--probe", f"hf://somebody/else?endpoint={server.url}"]) == 6
    assert capsys.readouterr().err.count("\n") == 1
    assert cli.main(["doctor", "--probe", "here"]) == 2


def test_the_contract_can_be_run_at_a_hub(server: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    address = hub_stores.fresh_address(server)
    assert cli.main(["doctor", "--probe", address, "--contract"]) == 0
    lines = [line.removeprefix("OK").strip() for line in capsys.readouterr().out.splitlines()]
    for name in ("files are whole before the head names them", "a rival at every point of a publish", "deleting"):
        assert name in lines
    assert len(lines) > len(PROBES) + 15
    api, repo = HfApi(endpoint=server.url, token="any"), address.partition("//")[2].partition("?")[0]
    assert [branch.name for branch in api.list_repo_refs(repo).branches] == ["main"], "nothing is left there"
    assert cli.main(["doctor", "--contract"]) == 2


def forced(repository: HubRepository, branch: str, operations: list[Any], *, parent: str, title: str) -> str:
    """As a service that does not look at ``parent_commit``."""
    api = repository._client.api
    return str(api.create_commit(**repository._at, operations=operations, commit_message=title, revision=branch).oid)


def test_a_hub_that_breaks_the_contract_is_reported(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HubBranch, "at", lambda branch, expect: branch.look())
    monkeypatch.setattr(HubRepository, "commit", forced)
    parts = ("only_the_newest", "names_are")
    address = hub_stores.fresh_address(server)
    findings = at_hub.contract(address, is_selected=lambda name: any(part in name for part in parts))
    assert {finding.name: finding.is_as_expected for finding in findings} == {
        "only the newest version is expected": False,
        "names are listed": True,
    }
