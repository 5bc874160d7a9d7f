"""Scheduled jobs of the Hub emulator: when they run, by a clock that the test moves."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from huggingface_hub import HfApi, JobInfo
from huggingface_hub.errors import BadRequestError, HfHubHTTPError, JobNotFoundError
from job_world import USER, emulator, log_of, over, wait_for

from qcity_nb.testing.emulators.hub import cron
from qcity_nb.testing.emulators.hub.accounts import Users
from qcity_nb.testing.emulators.hub.emulator import Options
from qcity_nb.testing.emulators.hub.scheduled import timetable_of
from qcity_nb.testing.emulators.hub.sealed import Seal
from qcity_nb.testing.emulators.hub.server import HubServer
from qcity_nb.testing.emulators.hub.web import User

BEGIN = datetime(2026, 3, 2, 10, 7, 30, tzinfo=UTC)  # a Monday


class Hands:
    """A clock's."""

    def __init__(self) -> None:
        self.time = BEGIN

    def now(self) -> datetime:
        return self.time


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture
def server(tmp_path: Path, hands: Hands) -> Iterator[HubServer]:
    with emulator(tmp_path / "hub", options=Options(now=hands.now)) as (server, _):
        yield server


@pytest.fixture
def api(server: HubServer) -> HfApi:
    return HfApi(endpoint=server.url, token="hf_any")


def schedule(api: HfApi, script: str = "true", when: str = "*/10 * * * *", **more: object) -> str:
    scheduled = api.create_scheduled_job(image="python:3.12", command=["sh", "-c", script], schedule=when, **more)  # type: ignore[arg-type]
    return scheduled.id


def runs(api: HfApi) -> list[JobInfo]:
    return list(api.list_jobs(namespace=USER))


def ran(api: HfApi, count: int) -> list[JobInfo]:
    """The jobs, once there are so many and they are over."""
    all_runs = wait_for(lambda: len(all_ := runs(api)) >= count and all_, what=f"{count} runs")
    assert all_runs
    return [over(api, job) for job in all_runs]


@pytest.mark.parametrize(
    ("text", "after", "expected"),
    [
        ("* * * * *", "2026-03-02 10:07:30", "2026-03-02 10:08"),
        ("*/10 * * * *", "2026-03-02 10:07:30", "2026-03-02 10:10"),
        ("*/10 * * * *", "2026-03-02 10:10:00", "2026-03-02 10:20"),
        ("5/20 * * * *", "2026-03-02 10:07:30", "2026-03-02 10:25"),
        ("@hourly", "2026-03-02 10:07:30", "2026-03-02 11:00"),
        ("@daily", "2026-12-31 23:59:59", "2027-01-01 00:00"),
        ("@weekly", "2026-03-02 10:07:30", "2026-03-08 00:00"),
        ("@monthly", "2026-03-02 10:07:30", "2026-04-01 00:00"),
        ("@yearly", "2026-03-02 10:07:30", "2027-01-01 00:00"),
        ("@annually", "2026-03-02 10:07:30", "2027-01-01 00:00"),
        ("0 9 * * 1", "2026-03-02 10:07:30", "2026-03-09 09:00"),
        ("0 9 * * 7", "2026-03-02 10:07:30", "2026-03-08 09:00"),
        ("0 9-11 * * 1-5", "2026-03-06 11:30:00", "2026-03-09 09:00"),
        ("15,45 8 * * *", "2026-03-02 08:15:00", "2026-03-02 08:45"),
        ("0 0 29 2 *", "2026-03-02 10:07:30", "2028-02-29 00:00"),
        ("0 0 13 * 5", "2026-03-02 10:07:30", "2026-03-06 00:00"),  # the 13th or a Friday
    ],
)
def test_when_a_schedule_comes_next(text: str, after: str, expected: str) -> None:
    moment = datetime.fromisoformat(after).replace(tzinfo=UTC)
    assert cron.parse(text).next_after(moment) == datetime.fromisoformat(expected).replace(tzinfo=UTC)


def test_a_schedule_is_in_utc() -> None:
    moment = datetime.fromisoformat("2026-03-02T23:30:00-05:00")
    assert cron.parse("0 5 * * *").next_after(moment) == datetime(2026, 3, 3, 5, tzinfo=UTC)


NONE = """
@never|* * * *|* * * * * *|60 * * * *|0 24 * * *|0 0 0 * *|0 0 30 2 *|1-0 * * * *|*/0,5 * * * *|MON * * * *
"""


@pytest.mark.parametrize("text", ["", *NONE.strip().split("|")])
def test_what_is_no_schedule(text: str, api: HfApi) -> None:
    with pytest.raises(BadRequestError, match="schedule"):
        schedule(api, when=text)
    assert api.list_scheduled_jobs() == []


def test_a_scheduled_job_is_kept_and_shown(api: HfApi) -> None:
    made = schedule(api, "true", "@hourly", env={"A": "b"}, labels={"team": "ml"}, timeout="2h", attempts=2)
    [scheduled] = api.list_scheduled_jobs()
    assert scheduled == api.inspect_scheduled_job(scheduled_job_id=made)
    assert (scheduled.id, scheduled.schedule, scheduled.suspend, scheduled.concurrency) == (
        made,
        "@hourly",
        False,
        False,
    )
    assert (scheduled.owner.name, scheduled.created_at) == (USER, BEGIN)
    spec = scheduled.job_spec
    assert (spec.docker_image, spec.command, spec.environment) == ("python:3.12", ["sh", "-c", "true"], {"A": "b"})
    assert (spec.flavor, spec.timeout, spec.retry) == ("cpu-basic", 7200, 1)
    assert scheduled.status.last_job is None
    assert scheduled.status.next_job_run_at == datetime(2026, 3, 2, 11, tzinfo=UTC)
    assert [each.id for each in api.list_scheduled_jobs(labels={"team": "ml"})] == [made]
    assert api.list_scheduled_jobs(labels={"team": "other"}) == []
    api.update_scheduled_job_labels(scheduled_job_id=made, labels={"team": "other"})
    assert [each.id for each in api.list_scheduled_jobs(labels={"team": "other"})] == [made]


def test_it_runs_when_its_time_comes(api: HfApi, hands: Hands) -> None:
    made = schedule(api, "echo $TOKEN$A", env={"A": "b"}, secrets={"TOKEN": "t"}, labels={"x": "y"})
    hands.time += timedelta(minutes=3)
    [job] = ran(api, 1)
    assert job.status.stage == "COMPLETED"
    assert log_of(api, job) == ["tb"]
    assert job.labels is not None
    assert job.labels["x"] == "y"
    assert job.initiator is not None
    assert (job.initiator.type, job.initiator.id) == ("scheduled-job", made)
    scheduled = api.inspect_scheduled_job(scheduled_job_id=made)
    assert scheduled.status.last_job is not None
    assert (scheduled.status.last_job.id, scheduled.status.last_job.at) == (job.id, hands.time)
    assert scheduled.status.next_job_run_at == datetime(2026, 3, 2, 10, 20, tzinfo=UTC)
    hands.time += timedelta(minutes=30)  # over three of its times: they are not made up for
    assert len(ran(api, 2)) == 2
    scheduled = api.inspect_scheduled_job(scheduled_job_id=made)
    assert scheduled.status.next_job_run_at == datetime(2026, 3, 2, 10, 50, tzinfo=UTC)


def test_one_at_a_time_unless_it_may_be_more(api: HfApi, hands: Hands, server: HubServer) -> None:
    alone = schedule(api, "sleep 1000", labels={"kind": "alone"})
    several = schedule(api, "sleep 1000", labels={"kind": "several"}, concurrency=True)
    for minutes in (3, 10):
        hands.time += timedelta(minutes=minutes)
        wait_for(lambda: min(next_runs(api)) > hands.time, what="the runs that are due")
        timetable_of(server.hub).tick()  # after the thread's own, in which these began
    kinds = [job.labels["kind"] for job in runs(api) if job.labels]
    assert sorted(kinds) == ["alone", "several", "several"]
    with pytest.raises(HfHubHTTPError, match="409") as caught:
        api.trigger_scheduled_job(scheduled_job_id=alone)
    assert "set `concurrency`" in str(caught.value)
    assert api.trigger_scheduled_job(scheduled_job_id=several).status.stage == "SCHEDULING"


def next_runs(api: HfApi) -> set[datetime]:
    return {each.status.next_job_run_at for each in api.list_scheduled_jobs() if each.status.next_job_run_at}


def test_suspended_and_resumed(api: HfApi, hands: Hands) -> None:
    made = schedule(api, suspend=True)
    hands.time += timedelta(minutes=3)
    wait_for(lambda: min(next_runs(api)) > hands.time, what="its time to pass")
    assert runs(api) == []
    api.resume_scheduled_job(scheduled_job_id=made)
    assert api.inspect_scheduled_job(scheduled_job_id=made).suspend is False
    hands.time += timedelta(minutes=10)
    assert len(ran(api, 1)) == 1
    api.suspend_scheduled_job(scheduled_job_id=made)
    assert api.inspect_scheduled_job(scheduled_job_id=made).suspend is True
    assert over(api, api.trigger_scheduled_job(scheduled_job_id=made)).status.stage == "COMPLETED"


def test_a_trigger_leaves_the_times_as_they_are(api: HfApi) -> None:
    made = schedule(api)
    job = api.trigger_scheduled_job(scheduled_job_id=made)
    scheduled = api.inspect_scheduled_job(scheduled_job_id=made)
    assert scheduled.status.next_job_run_at == datetime(2026, 3, 2, 10, 10, tzinfo=UTC)
    assert scheduled.status.last_job is not None
    assert scheduled.status.last_job.id == job.id
    changed = api.update_scheduled_job_schedule(scheduled_job_id=made, schedule="@daily")
    assert (changed.schedule, changed.status.next_job_run_at) == ("@daily", datetime(2026, 3, 3, tzinfo=UTC))


def test_no_credit_for_a_run(api: HfApi, server: HubServer, hands: Hands) -> None:
    schedule(api)
    server.faults.set("credit")
    hands.time += timedelta(minutes=3)
    wait_for(lambda: server.faults.struck == ["credit"], what="the run that cannot be paid")
    assert runs(api) == []
    hands.time += timedelta(minutes=10)
    assert len(ran(api, 1)) == 1


def test_deleted(api: HfApi, hands: Hands) -> None:
    made = schedule(api)
    api.delete_scheduled_job(scheduled_job_id=made)
    assert api.list_scheduled_jobs() == []
    for call in (api.inspect_scheduled_job, api.delete_scheduled_job, api.suspend_scheduled_job):
        with pytest.raises(JobNotFoundError):
            call(scheduled_job_id=made)


def test_it_outlives_the_server_and_what_was_missed_is_missed(tmp_path: Path, hands: Hands) -> None:
    options = Options(now=hands.now)
    with emulator(tmp_path / "hub", options=options) as (_, api):
        made = schedule(api, "echo $TOKEN", secrets={"TOKEN": "hf_sealed"})
        assert list(api.inspect_scheduled_job(scheduled_job_id=made).job_spec.secrets or ()) == ["TOKEN"]
    for file in (tmp_path / "hub").rglob("*"):
        assert file.is_dir() or b"hf_sealed" not in file.read_bytes(), file
    hands.time += timedelta(hours=1)
    with emulator(tmp_path / "hub", options=options) as (_, api):
        assert next_runs(api) == {datetime(2026, 3, 2, 11, 10, tzinfo=UTC)}
        assert runs(api) == []
        hands.time += timedelta(minutes=3)
        [job] = ran(api, 1)
        assert log_of(api, job) == ["hf_sealed"]


def test_who_may(tmp_path: Path) -> None:
    users = Users({"hf_a": User("alice"), "hf_r": User("alice", role="read"), "hf_b": User("bob")})
    with emulator(tmp_path / "hub", users=users) as (server, _):
        alice, reader, bob = (HfApi(endpoint=server.url, token=token) for token in ("hf_a", "hf_r", "hf_b"))
        made = schedule(alice)
        assert [each.id for each in reader.list_scheduled_jobs()] == [made]
        for api in (reader, bob):
            with pytest.raises(HfHubHTTPError, match="403"):
                api.delete_scheduled_job(scheduled_job_id=made, namespace="alice")


def test_what_is_sealed_is_opened_by_its_key_alone(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    seal, other = Seal(tmp_path), Seal(tmp_path / "other")
    assert (tmp_path / "sealing.key").stat().st_mode & 0o077 == 0
    closed = seal.close_up({"TOKEN": "hf_ü"})
    assert "hf_" not in bytes.fromhex(closed).decode("latin-1")
    assert closed != seal.close_up({"TOKEN": "hf_ü"})
    assert Seal(tmp_path).open_up(closed) == {"TOKEN": "hf_ü"}
    assert seal.open_up(seal.close_up({})) == {}
    with pytest.raises(ValueError, match="another key"):
        other.open_up(closed)


def test_the_database_has_no_plain_secret(tmp_path: Path, api: HfApi) -> None:
    schedule(api, secrets={"TOKEN": "hf_plain"})
    with sqlite3.connect(tmp_path / "hub" / "hub.sqlite") as db:
        assert "hf_plain" not in "".join(db.iterdump())
    db.close()
