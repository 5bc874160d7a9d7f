"""The runtime of Spaces in the Hub emulator, as the real client asks for and changes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError

import pytest
from huggingface_hub import HfApi, SpaceHardware, Volume
from huggingface_hub.errors import BadRequestError, HfHubHTTPError, RepositoryNotFoundError
from job_world import emulator, raw

from qcity_nb.testing.emulators.hub.accounts import Users
from qcity_nb.testing.emulators.hub.server import HubServer
from qcity_nb.testing.emulators.hub.web import User

SPACE = "user/keeper"
DAYS_2 = 48 * 3600


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    with emulator(tmp_path / "hub") as (server, _):
        yield server


@pytest.fixture
def api(server: HubServer) -> HfApi:
    return HfApi(endpoint=server.url, token="hf_any")


@pytest.fixture
def running(api: HfApi) -> HfApi:
    make(api)
    assert api.wait_for_space(SPACE, poll_interval=0.01).stage == "RUNNING"
    return api


def make(api: HfApi, **more: str) -> None:
    api.create_repo(SPACE, repo_type="space", space_sdk="docker", **more)  # type: ignore[arg-type]
    add(api, "Dockerfile")


def add(api: HfApi, name: str) -> None:
    api.upload_file(path_or_fileobj=b"FROM x", path_in_repo=name, repo_id=SPACE, repo_type="space")


def test_from_nothing_to_running(api: HfApi) -> None:
    api.create_repo(SPACE, repo_type="space", space_sdk="docker")
    assert api.get_space_runtime(SPACE).stage == "NO_APP_FILE"
    add(api, "Dockerfile")
    seen = api.get_space_runtime(SPACE)
    assert (seen.stage, seen.hardware, seen.requested_hardware) == ("BUILDING", None, "cpu-basic")
    assert (seen.sleep_time, seen.storage, seen.dev_mode) == (DAYS_2, None, False)
    seen = api.get_space_runtime(SPACE)
    assert (seen.stage, seen.hardware) == ("RUNNING", "cpu-basic")
    assert seen.raw["domains"] == [{"domain": "user-keeper.hf.space", "stage": "READY"}]
    add(api, "more")
    assert api.get_space_runtime(SPACE).stage == "RUNNING_BUILDING"
    assert api.get_space_runtime(SPACE).stage == "RUNNING"
    runtime = api.space_info(SPACE).runtime
    assert runtime is not None
    assert runtime.stage == "RUNNING"


def test_paused_and_restarted(running: HfApi) -> None:
    runtime = running.pause_space(SPACE)
    assert (runtime.stage, runtime.hardware, runtime.requested_hardware) == ("PAUSED", None, "cpu-basic")
    assert running.get_space_runtime(SPACE).stage == "PAUSED"
    assert running.restart_space(SPACE).stage == "BUILDING"
    assert running.wait_for_space(SPACE, poll_interval=0.01).stage == "RUNNING"
    assert running.restart_space(SPACE, factory_reboot=True).stage == "BUILDING"


def test_hardware_and_sleep(running: HfApi, server: HubServer) -> None:
    runtime = running.request_space_hardware(SPACE, SpaceHardware.T4_SMALL, sleep_time=600)
    assert (runtime.stage, runtime.requested_hardware, runtime.sleep_time) == ("BUILDING", "t4-small", 600)
    assert running.wait_for_space(SPACE, poll_interval=0.01).hardware == "t4-small"
    assert running.set_space_sleep_time(SPACE, 900).sleep_time == 900
    assert running.set_space_sleep_time(SPACE, -1).sleep_time is None
    with pytest.raises(BadRequestError):
        running.request_space_hardware(SPACE, "t0-tiny")  # type: ignore[arg-type]
    server.faults.set("credit")
    with pytest.raises(HfHubHTTPError, match="402"):
        running.request_space_hardware(SPACE, SpaceHardware.T4_MEDIUM)
    with pytest.warns(UserWarning, match="48"):
        assert running.request_space_hardware(SPACE, SpaceHardware.CPU_BASIC, sleep_time=5).sleep_time == DAYS_2
    listed = {each.name: each for each in running.list_spaces_hardware()}
    assert (listed["cpu-basic"].unit_cost_micro_usd, listed["t4-small"].unit_cost_micro_usd) == (0, 6667)


def test_secrets_are_written_and_never_read(running: HfApi, tmp_path: Path) -> None:
    running.add_space_secret(SPACE, "TOKEN", "hf_space", description="for the keeper")
    running.add_space_secret(SPACE, "OTHER", "hf_space")
    secrets = running.get_space_secrets(SPACE)
    assert sorted(secrets) == ["OTHER", "TOKEN"]
    assert secrets["TOKEN"].description == "for the keeper"
    assert secrets["TOKEN"].updated_at is not None
    running.delete_space_secret(SPACE, "OTHER")
    running.delete_space_secret(SPACE, "OTHER")
    assert "hf_space" not in str(raw(running, f"/api/spaces/{SPACE}/secrets"))
    for file in (tmp_path / "hub").rglob("*"):
        assert file.is_dir() or b"hf_space" not in file.read_bytes(), file
    with pytest.raises(BadRequestError):
        running.add_space_secret(SPACE, "1-no name", "x")


def test_variables(running: HfApi) -> None:
    assert running.add_space_variable(SPACE, "A", "1", description="first")["A"].value == "1"
    running.add_space_variable(SPACE, "B", "2")
    assert running.add_space_variable(SPACE, "A", "3")["A"].value == "3"
    assert {name: each.value for name, each in running.get_space_variables(SPACE).items()} == {"A": "3", "B": "2"}
    assert list(running.delete_space_variable(SPACE, "A")) == ["B"]


def test_what_a_space_is_made_with(api: HfApi) -> None:
    api.create_repo(
        SPACE,
        repo_type="space",
        space_sdk="docker",
        space_hardware=SpaceHardware.T4_SMALL,
        space_sleep_time=300,
        space_secrets=[{"key": "TOKEN", "value": "t", "description": "d"}],
        space_variables=[{"key": "A", "value": "b"}],
    )
    runtime = api.get_space_runtime(SPACE)
    assert (runtime.requested_hardware, runtime.sleep_time) == ("t4-small", 300)
    assert api.get_space_secrets(SPACE)["TOKEN"].description == "d"
    assert api.get_space_variables(SPACE)["A"].value == "b"


def test_volumes_are_kept(running: HfApi) -> None:
    running.set_space_volumes(SPACE, [Volume(type="bucket", source="user/b", mount_path="/data")])
    volumes = running.get_space_runtime(SPACE).volumes
    assert volumes is not None
    assert (volumes[0].source, volumes[0].mount_path) == ("user/b", "/data")
    running.delete_space_volumes(SPACE)
    assert running.get_space_runtime(SPACE).volumes is None
    with pytest.raises(BadRequestError):
        running.delete_space_volumes(SPACE)


def test_the_log_says_that_nothing_runs(running: HfApi) -> None:
    for build in (False, True):
        [line] = running.fetch_space_logs(SPACE, build=build)
        assert "emulator" in line


def test_static_spaces_always_run(api: HfApi) -> None:
    api.create_repo(SPACE, repo_type="space", space_sdk="static")
    add(api, "index.html")
    assert api.get_space_runtime(SPACE).stage == "RUNNING"
    for call in (api.pause_space, api.restart_space):
        with pytest.raises(BadRequestError):
            call(SPACE)


def test_it_outlives_the_server_but_not_its_repository(tmp_path: Path) -> None:
    with emulator(tmp_path / "hub") as (_, api):
        make(api)
        api.add_space_variable(SPACE, "A", "1")
        api.pause_space(SPACE)
    with emulator(tmp_path / "hub") as (_, api):
        assert api.get_space_runtime(SPACE).stage == "PAUSED"
        assert list(api.get_space_variables(SPACE)) == ["A"]
        api.delete_repo(SPACE, repo_type="space")
        with pytest.raises(RepositoryNotFoundError):
            api.get_space_runtime(SPACE)
        make(api)
        assert api.get_space_variables(SPACE) == {}


def test_who_may(tmp_path: Path) -> None:
    users = Users({"hf_user": User("user"), "hf_read": User("user", role="read"), "hf_bob": User("bob")})
    with emulator(tmp_path / "hub", users=users) as (server, _):
        owner, reader, bob = (HfApi(endpoint=server.url, token=token) for token in ("hf_user", "hf_read", "hf_bob"))
        make(owner)
        assert bob.get_space_runtime(SPACE).stage == "BUILDING"
        for api in (reader, bob):
            for call in (api.pause_space, api.restart_space, api.get_space_secrets):
                with pytest.raises(HfHubHTTPError, match="403"):
                    call(SPACE)
        owner.create_repo("user/model")
        with pytest.raises(HTTPError, match="404"):
            raw(owner, "/api/models/user/model/runtime")
