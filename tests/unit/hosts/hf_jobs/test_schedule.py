"""A store watched by scheduled jobs: made once, found again, changed, taken away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hf_world import RUN, TOKEN, JobsWorld, jobs_world
from job_world import log_of, over

from qcity_nb import cli, settings
from qcity_nb.errors import StoreUnavailable, UsageError
from qcity_nb.hosts.hf_jobs import client as hf_client
from qcity_nb.hosts.hf_jobs import schedule
from qcity_nb.hosts.hf_jobs.client import JobsClient
from qcity_nb.records import DesiredState, Head
from qcity_nb.run import lease


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobsWorld]:
    with jobs_world(tmp_path, monkeypatch) as world:
        monkeypatch.chdir(world.root)
        monkeypatch.setenv("QCITY_JOB_INSTALL", "none")
        monkeypatch.setenv("QCITY_JOB_SECRETS", "PYTHONPATH")
        yield world


@pytest.mark.parametrize(
    ("every", "cron"),
    [
        ("1m", "*/1 * * * *"),
        ("10m", "*/10 * * * *"),
        ("600", "*/10 * * * *"),
        ("1h", "0 */1 * * *"),
        ("60m", "0 */1 * * *"),
        ("12h", "0 */12 * * *"),
        ("24h", "0 0 * * *"),
        ("1d", "0 0 * * *"),
    ],
)
def test_times_are_a_clock_s(every: str, cron: str) -> None:
    assert schedule.cron(settings.seconds(every, name="--every")) == cron


@pytest.mark.parametrize("every", ["7m", "90m", "30s", "0", "2d", "5h"])
def test_a_time_that_no_clock_shows_is_refused(every: str) -> None:
    with pytest.raises(UsageError, match=r"--every .* choose 1, 2, 3, .*30 minutes, 1, .*12 hours or 1d"):
        schedule.cron(settings.seconds(every, name="--every"))


def test_one_watch_for_each_store_however_often_it_is_asked_for(world: JobsWorld) -> None:
    client = JobsClient()
    watch, is_new = schedule.watch(world.given, client, 600)
    assert (watch.cron, watch.store, is_new) == ("*/10 * * * *", world.given.store, True)
    again, is_new = schedule.watch(world.given, client, 600)
    assert (again.id, is_new) == (watch.id, False)
    changed, is_new = schedule.watch(world.given, client, 3600)
    assert changed.id != watch.id
    assert is_new
    other, _ = schedule.watch(world.settings(store=str(world.root / "other")), client, 600)
    assert {each.id for each in schedule.list_schedules(client)} == {changed.id, other.id}
    assert [each.id for each in schedule.forget(client, world.given.store)] == [changed.id]
    assert [each.id for each in schedule.list_schedules(client)] == [other.id]
    assert schedule.forget(client, world.given.store) == []


def test_a_suspended_watch_is_made_anew(world: JobsWorld) -> None:
    client = JobsClient()
    watch, _ = schedule.watch(world.given, client, 600)
    world.api.suspend_scheduled_job(scheduled_job_id=watch.id)
    assert [each.is_suspended for each in schedule.list_schedules(client)] == [True]
    again, is_new = schedule.watch(world.given, client, 600)
    assert is_new
    assert [each.id for each in schedule.list_schedules(client)] == [again.id]


def test_other_people_s_scheduled_jobs_are_left_alone(world: JobsWorld) -> None:
    world.api.create_scheduled_job(image="x", command=["true"], schedule="@hourly", labels={"team": "ml"})
    client = JobsClient()
    schedule.watch(world.given, client, 600)
    schedule.forget(client, world.given.store)
    assert len(world.api.list_scheduled_jobs(namespace="user")) == 1


def test_no_answer_leaves_it_open(world: JobsWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf_client, "LOOK_S", 0.5)
    world.server.faults.set("jobs-down", float("inf"))
    with pytest.raises(StoreUnavailable, match="listing scheduled jobs"):
        schedule.watch(world.given, JobsClient(), 600)


def test_what_a_look_does(world: JobsWorld) -> None:
    """The scheduled job is a keeper: it launches what wants to run on jobs, and leaves the rest alone."""
    for run, host in (("here-1", "local"), (RUN, "hf-jobs")):
        lease.create(
            world.store,
            Head(run=run, key=run, project="digits", notebook="x.ipynb", desired=DesiredState(hosts=(host,))),
        )
    assert cli.main(["keep", "--schedule", "hf-jobs", "--every", "10m"]) == 0
    [scheduled] = world.api.list_scheduled_jobs(namespace="user")
    command = " ".join(scheduled.job_spec.command or [])
    assert "qcity_nb.cli keep --once --on hf-jobs --store" in command
    assert TOKEN not in repr(scheduled)
    look = world.api.trigger_scheduled_job(scheduled_job_id=scheduled.id)
    done = over(world.api, look)
    log = "\n".join(log_of(world.api, look))
    assert done.status.stage == "COMPLETED", log
    assert f"{RUN}: first attempt on hf-jobs, $0.01/h" in log
    [job] = world.api.list_jobs(namespace="user", labels={"qcity-run": RUN})
    assert "PYTHONPATH" in (job.secrets or {}), "the settings of the watch hold for what it launches"
    over(world.api, job)
    assert lease.read(world.store, "here-1").head.pending_launch is None, "that container is not the user's machine"


def test_the_command_line(world: JobsWorld, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["keep", "--schedule", "hf-jobs", "--list"]) == 0
    assert capsys.readouterr().out == "user has no scheduled keeper\n"
    assert cli.main(["keep", "--schedule", "hf-jobs"]) == 0
    assert f"{world.given.store}: a keeper is scheduled, */10 * * * *, as job" in capsys.readouterr().out
    assert cli.main(["keep", "--schedule", "hf-jobs:cpu-basic"]) == 0
    assert "already scheduled" in capsys.readouterr().out
    assert cli.main(["keep", "--schedule", "hf-jobs", "--list"]) == 0
    assert world.given.store in capsys.readouterr().out
    assert cli.main(["keep", "--schedule", "hf-jobs", "--off"]) == 0
    assert cli.main(["keep", "--schedule", "hf-jobs", "--off"]) == 0
    assert "there was no scheduled keeper" in capsys.readouterr().out
    for argv, words in (
        (["keep", "--schedule", "local"], "only hf-jobs can run a keeper on a schedule"),
        (["keep", "--schedule", "hf-jobs", "--every", "7m"], "choose 1, 2, 3"),
        (["keep", "--schedule", "hf-jobs", "--every", "soon"], "--every = 'soon': write seconds"),
    ):
        assert cli.main(argv) == 2
        printed = capsys.readouterr().err
        assert words in printed
        assert printed.count("\n") == 1
