"""The store contract over the Hub store, against the emulator: as it is, and with each of its faults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hub_stores
import pytest

from qcity_nb.errors import Conflict
from qcity_nb.ports import Store
from qcity_nb.stores.hub.address import HEAD
from qcity_nb.testing.contracts.at_hub import HubContract, heads_of
from qcity_nb.testing.emulators.hub.server import HubServer

SEED = 20261124
PAGE = b"---\ntags:\n- qcity-nb\n---\n# r\n"


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    with hub_stores.serve(tmp_path_factory.mktemp("hub")) as server:
        yield server


class Served(HubContract):
    """The raw looks go past the faults."""

    @pytest.fixture(autouse=True)
    def _the_server(self, server: HubServer) -> Iterator[None]:
        self.server = server
        yield
        server.faults.clear()

    def raw_heads(self, store: Store, run: str) -> list[bytes]:
        self.server.faults.clear()
        return [hub_stores.unsigned(head)[1] for head in super().raw_heads(store, run)]

    def raw_put_head(self, store: Store, run: str, data: bytes) -> None:
        self.server.faults.clear()
        super().raw_put_head(store, run, data)

    def raw_litter(self, store: Store, run: str) -> None:
        self.server.faults.clear()
        super().raw_litter(store, run)


class TestHub(Served):
    def make_store(self, tmp_path: Path) -> Store:
        return hub_stores.new_store(self.server)

    def test_a_new_run_holds_nothing_of_the_repository(self, store: Store) -> None:
        """A repository that is somebody's own already, with a folder of the very name of ours."""
        api, repo = hub_stores.api_of(store)
        api.create_repo(repo, private=True)
        api.upload_file(repo_id=repo, path_or_fileobj=b"mine", path_in_repo="files/mine.txt")
        api.upload_file(repo_id=repo, path_or_fileobj=b"mine", path_in_repo="model.bin")
        store.publish("r", b"h", expect=None, files={"a": b"1"})
        assert store.names("r") == ["a"]
        assert not api.file_exists(repo, "model.bin", revision="run/r")
        assert api.file_exists(repo, "files/mine.txt"), "the user's own branch is left alone"
        assert "run%2Fr" in Path(api.hf_hub_download(repo, "README.md")).read_text(encoding="utf-8")

    def test_one_commit_a_publish(self, store: Store, tmp_path: Path) -> None:
        source = tmp_path / "pack"
        source.write_bytes(bytes(range(256)) * 100)
        version = store.publish("r", b"1", expect=None, files={"packs/t1-1-x.pack": source, "a": b"1"})
        api, repo = hub_stores.api_of(store)
        before = {commit.commit_id for commit in api.list_repo_commits(repo, revision="run/r")}
        files: dict[str, bytes | Path] = {"packs/t1-2-x.pack": source, "journal/t1-x": b"{}"}
        store.publish(
            "r",
            b"2",
            expect=version,
            files=files,
            drop=["a"],
            page={"README.md": PAGE},
        )
        new = [commit for commit in api.list_repo_commits(repo, revision="run/r") if commit.commit_id not in before]
        assert len(new) == 1
        info = api.get_paths_info(repo, ["files/packs/t1-2-x.pack", HEAD], revision="run/r")
        assert [getattr(entry, "lfs", None) is not None for entry in sorted(info, key=lambda entry: entry.path)] == [
            True,
            False,
        ]

    def test_a_repository_is_private(self, store: Store) -> None:
        store.publish("r", b"1", expect=None)
        api, repo = hub_stores.api_of(store)
        assert api.repo_info(repo).private is True


FAULTS = (
    "commit-lost",
    "commit-500",
    "commit-500-before",
    "commit-412",
    "rate-429",
    "error-500",
    "upload-cut",
    "upload-slow",
    "commit-slow",
    "storage-full",
    "down",
)
WITH_EACH = {
    "test_each_version_has_its_own_name",
    "test_only_the_newest_version_is_expected",
    "test_a_stored_name_is_not_sent_again",
    "test_a_big_file_from_a_path_is_a_copy",
    "test_what_a_head_drops_goes_with_it",
    "test_an_object_as_a_file",
    "test_threads_make_a_run_once",
}
"""What depends on the fault: commits, uploads, downloads and a race. The other tests run with each fault at night."""


class Faulty(Served):
    """Each switch strikes before many of the calls. Stale reads are for the lease to survive (``test_hub_rules``):
    no store can promise that there are none.

    Left out: interleavings, which count crash points that a repeated publish hits once more; the race of processes,
    which have no patience; names that may not be, which reach no server.
    """

    test_a_rival_at_every_point_of_a_publish = None  # type: ignore[assignment]
    test_a_writer_stopped_over_many_versions_does_not_come_back = None  # type: ignore[assignment]
    test_no_point_of_a_publish_shows_a_torn_head = None  # type: ignore[assignment]
    test_files_are_whole_before_the_head_names_them = None  # type: ignore[assignment]
    test_processes_race_and_one_wins = None  # type: ignore[assignment]
    test_paths_that_may_not_be = None  # type: ignore[assignment]
    test_paths_that_may_be = None  # type: ignore[assignment]

    @pytest.fixture(autouse=True)
    def _the_fault(self, fault: str) -> None:
        self.fault = fault

    def make_store(self, tmp_path: Path) -> Store:
        return hub_stores.PatientStore(self.server, [self.fault], seed=SEED)

    def reopen(self, store: Store) -> Store:
        assert isinstance(store, hub_stores.PatientStore)
        return store.reopened()


@pytest.mark.parametrize("fault", FAULTS, scope="class")
class TestFaults(Faulty):
    """What depends on the fault."""


@pytest.mark.nightly
@pytest.mark.parametrize("fault", FAULTS, scope="class")
class TestFaultsAtNight(Faulty):
    """The rest of the contract."""


for _name in [name for name in dir(Faulty) if name.startswith("test_")]:
    setattr(TestFaultsAtNight if _name in WITH_EACH else TestFaults, _name, None)


def test_the_faults_strike(server: HubServer) -> None:
    """A contract whose faults never struck would prove nothing: one writer with each of them, counted."""
    names = ["commit-lost", "commit-500", "commit-500-before", "commit-412", "rate-429", "error-500"]
    server.faults.struck.clear()
    store = hub_stores.PatientStore(server, names, seed=SEED)
    version = store.publish("r", b"0", expect=None)
    for number in range(1, 40):
        older, version = version, store.publish("r", b"%d" % number, expect=version)
        with pytest.raises(Conflict):
            store.publish("r", b"stale", expect=older)
    server.faults.clear()
    heads = [hub_stores.unsigned(head)[1] for head in heads_of(store, "r")]
    assert heads == [b"%d" % number for number in range(40)]
    assert {name: server.faults.struck.count(name) >= 3 for name in names} == dict.fromkeys(names, True)
