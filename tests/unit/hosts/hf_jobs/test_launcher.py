"""The host hf-jobs, with the real client against the Hub emulator."""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hf_world import RUN, TOKEN, JobsWorld, jobs_world
from huggingface_hub import HfApi
from hypothesis import given as examples
from hypothesis import strategies as st
from job_world import wait_for

from qcity_nb import __version__, hosts
from qcity_nb.errors import QcityError, StoreUnavailable, UnknownHost, UsageError
from qcity_nb.hosts.hf_jobs import client
from qcity_nb.hosts.hf_jobs.client import JobsClient, is_here
from qcity_nb.hosts.hf_jobs.launcher import HfJobsLauncher, command, environment, label, observe_job
from qcity_nb.hosts.hf_jobs.records import Flavor, Job, Order
from qcity_nb.ports import Observation
from qcity_nb.records import AttemptSpec
from qcity_nb.testing.clock import ManualClock
from qcity_nb.testing.emulators.hub.accounts import Users
from qcity_nb.testing.emulators.hub.web import User

ATTEMPT = f"{RUN}-1"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobsWorld]:
    with jobs_world(tmp_path, monkeypatch) as world:
        yield world


def sleeper(world: JobsWorld, attempt: str = ATTEMPT, script: str = "sleep 1000", **more: float) -> str:
    """A job with the attempt's label that does something else."""
    order = Order(
        image="python:3.12",
        command=["bash", "-c", script],
        flavor="cpu-basic",
        timeout_s=more.get("timeout_s", 600),
        labels={"qcity-attempt": label(attempt)},
    )
    return JobsClient().run(order).id


# --- launching


def test_what_a_job_is_asked_for(world: JobsWorld) -> None:
    spec = world.spec(project="/home/me/secret-place", output="/home/me/out.ipynb", needs={"timeout": "90m"})
    world.launcher("t4-small").launch(spec)
    job = world.job()
    assert (job.docker_image, job.flavor) == ("python:3.12", "t4-small")
    assert job.command == ["bash", "-c", "exec python -m qcity_nb.hosts.container"]
    assert job.labels == {"qcity-run": RUN, "qcity-attempt": ATTEMPT, "name": RUN}
    environ = job.environment
    asked = json.loads(environ.pop("QCITY_SPEC"))
    assert (asked["attempt"], asked["store"]) == (ATTEMPT, world.given.store)
    assert "/home/me" not in json.dumps(asked), "this machine's paths are none of the service's business"
    assert environ == {
        "HF_ENDPOINT": world.server.url,
        "QCITY_STORE": world.given.store,
        "QCITY_TRACKING": "none",
        "QCITY_SESSION_LIMIT_S": "5400",
        "QCITY_TTL_S": "10",
        "QCITY_HEARTBEAT_S": "0.001",
        "QCITY_PUBLISH_S": "2",
        "QCITY_STOP_GRACE_S": "30",
        "QCITY_KEEP_LAST": "3",
        "QCITY_SNAPSHOT_TIME_SHARE": "0.1",
        **({"QCITY_STORAGE_BUDGET": environ["QCITY_STORAGE_BUDGET"]} if "QCITY_STORAGE_BUDGET" in environ else {}),
    }
    assert sorted(job.secrets) == ["HF_TOKEN", "PYTHONPATH"]
    with world.server.hub.db.read() as db:
        [row] = db.execute("SELECT spec FROM jobs").fetchall()
    assert json.loads(row["spec"])["timeout"] == 5400, "not the service's own half hour"


def test_the_token_is_seen_nowhere(world: JobsWorld, tmp_path: Path) -> None:
    world.launcher().launch(world.spec())
    world.ended(world.launcher())
    assert TOKEN not in repr(world.job())
    assert TOKEN not in world.log()
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert TOKEN.encode() not in file.read_bytes(), file


def test_a_lost_reply_is_looked_for_and_not_asked_again(world: JobsWorld) -> None:
    launcher = world.launcher()
    world.server.faults.set("job-lost")
    launcher.launch(world.spec())
    assert world.job().labels["qcity-attempt"] == ATTEMPT, "there is one job, and only one"
    assert world.server.faults.struck == ["job-lost"]


def test_no_answer_at_all_leaves_the_question_open(world: JobsWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = world.launcher()
    monkeypatch.setattr(client, "LOOK_S", 0.5)
    world.server.faults.set("jobs-down", float("inf"))
    with pytest.raises(StoreUnavailable, match="starting a job: no usable answer from http://127"):
        launcher.launch(world.spec())
    seen = launcher.find(ATTEMPT)
    assert seen is not None
    assert seen.state == "unknown"
    # How long the client itself tries depends on its version.
    assert re.match(rf"listing jobs: no (usable )?answer from {world.server.url}", seen.reason)
    world.server.faults.clear()
    monkeypatch.setattr(client, "LOOK_S", 20.0)
    assert launcher.find(ATTEMPT) is None


def test_a_service_that_does_not_answer_has_a_time_limit(world: JobsWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer = threading.Event(), threading.Event()

    def silent(self: HfApi) -> list[Any]:
        asked.set()
        answer.wait(60)
        return []

    monkeypatch.setattr(client, "LOOK_S", 0.05)
    monkeypatch.setattr(HfApi, "list_jobs_hardware", silent)
    try:
        with pytest.raises(StoreUnavailable, match=r"no answer from http://127.* in 0.05 s"):
            world.launcher().quote()
        assert asked.wait(60)
    finally:
        answer.set()


def test_missing_credit_is_reported_as_that(world: JobsWorld) -> None:
    world.server.faults.set("credit")
    with pytest.raises(UsageError, match=r"no credit left .*balance is insufficient.*settings/billing"):
        world.launcher().launch(world.spec())


def test_a_missing_permission_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users = Users({TOKEN: User("reader", "read")})
    with jobs_world(tmp_path, monkeypatch, users=users) as world:
        with pytest.raises(UsageError, match="no permission to do that"):
            world.launcher().launch(world.spec())
        monkeypatch.setenv("HF_TOKEN", "hf_unknown")
        with pytest.raises(UsageError, match=r"the token is not accepted.*hf auth login"):
            world.launcher().launch(world.spec())
        monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
        for call in (world.launcher().quote, lambda: world.launcher().launch(world.spec())):
            with pytest.raises(UsageError, match="needs a Hugging Face token"):
                call()


def test_another_namespace_pays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users = Users({TOKEN: User("me", "write", ("lab",))})
    with jobs_world(tmp_path, monkeypatch, users=users) as world:
        HfJobsLauncher(world.settings(job_namespace="lab")).launch(world.spec())
        assert [job.owner.name for job in world.api.list_jobs(namespace="lab")] == ["lab"]
        with pytest.raises(UsageError, match="no permission to do that"):
            HfJobsLauncher(world.settings(job_namespace="others")).launch(world.spec())


@pytest.mark.parametrize("installed", ["0.36.2", "1.20.1", "none"])
def test_a_client_that_is_too_old_is_refused_in_one_line(
    world: JobsWorld, monkeypatch: pytest.MonkeyPatch, installed: str
) -> None:
    monkeypatch.setattr(client, "version", lambda name: installed)
    with pytest.raises(UsageError) as caught:
        world.launcher().launch(world.spec())
    assert str(caught.value) == (
        f"hf-jobs needs huggingface_hub 1.21.0 or newer, and {installed} is installed: "
        'pip install -U "huggingface_hub>=1.21.0"'
    )
    seen = world.launcher().find(ATTEMPT)
    assert seen is not None
    assert seen.state == "unknown"


@pytest.mark.parametrize("installed", ["1.21.0", "1.27.0", "2.0.0.dev1", "10.0"])
def test_a_client_that_is_new_enough_is_taken(
    world: JobsWorld, monkeypatch: pytest.MonkeyPatch, installed: str
) -> None:
    monkeypatch.setattr(client, "version", lambda name: installed)
    assert world.launcher().quote() == "$0.01/h"


# --- flavors and prices


def test_prices_are_asked_for(world: JobsWorld) -> None:
    assert hosts.launcher("hf-jobs:t4-small", world.given).quote() == "$0.40/h"
    assert hosts.launcher("hf-jobs:t4-small", world.given).name == "hf-jobs:t4-small"
    assert hosts.launcher("hf-jobs", world.given).quote() == "$0.01/h"
    with pytest.raises(UsageError, match=r"no flavor 't9-huge'; there are: cpu-basic, .*t4-small.*h200"):
        hosts.launcher("hf-jobs:t9-huge", world.given).quote()


def test_a_price_in_another_unit_is_not_guessed() -> None:
    assert Flavor(name="x", detail="", usd_per_hour=None).price == "unknown price"


def test_hosts_are_listed_without_flavors(world: JobsWorld) -> None:
    assert hosts.names() == ["hf-jobs", "local"]
    with pytest.raises(UnknownHost, match="no host named 'moon:dark'; installed are: hf-jobs, local"):
        hosts.launcher("moon:dark", world.given)


def test_a_keeper_may_be_kept_from_other_kinds_of_host(world: JobsWorld) -> None:
    find = hosts.finder(world.given, ["hf-jobs"])
    assert find("hf-jobs:l4x1").name == "hf-jobs:l4x1"
    with pytest.raises(UnknownHost, match="launches only on hf-jobs, not on 'local'"):
        find("local")


# --- what is becoming of it


def test_any_keeper_finds_it_again(world: JobsWorld) -> None:
    world.launcher().launch(world.spec())
    other = world.launcher("a10g-small")
    assert world.ended(other).exit_code == 2, "the store has no such run"
    assert "no run 'train-abc123-1'" in world.log()
    assert other.find(f"{RUN}-2") is None


def test_it_runs_until_it_ends(world: JobsWorld, tmp_path: Path) -> None:
    launcher = world.launcher()
    sleeper(world, script=f"until test -e {tmp_path}/go; do sleep 0.01; done; exit 7")
    wait_for(lambda: (seen := launcher.find(ATTEMPT)) is not None and seen.state == "running", what="the job to run")
    (tmp_path / "go").touch()
    seen = world.ended(launcher)
    assert (seen.state, seen.reason, seen.exit_code) == ("gone", "exit code 7", 7)


def test_answers_are_kept_for_a_while(world: JobsWorld) -> None:
    clock = ManualClock()
    launcher = HfJobsLauncher(world.settings(heartbeat="60s", ttl="300s"), clock=clock)
    job = sleeper(world)
    wait_for(lambda: world.api.inspect_job(job_id=job).status.stage == "RUNNING", what="the job to run")
    first = launcher.find(ATTEMPT)
    assert first is not None
    world.api.cancel_job(job_id=job)
    assert launcher.find(ATTEMPT) is first, "the service is not asked again at once"
    clock.sleep(11)
    seen = launcher.find(ATTEMPT)
    assert seen is not None
    assert seen.state == "gone"
    world.server.faults.set("jobs-down", float("inf"))
    clock.sleep(11)
    assert launcher.find(ATTEMPT) == seen, "what is over stays over, and costs no call"


def test_a_job_that_somebody_ran_again_by_hand_is_the_attempt_while_it_lives(world: JobsWorld) -> None:
    sleeper(world, script="exit 3")
    first = world.job().id
    assert world.ended(world.launcher()).exit_code == 3
    again = sleeper(world)
    seen = world.launcher().find(ATTEMPT)
    assert seen is not None
    assert seen.state in ("pending", "running")
    world.api.cancel_job(job_id=again)
    assert first != again


def test_deaths_are_distinguished_as_the_service_reports_them(world: JobsWorld) -> None:
    def death(number: int, script: str = "sleep 1000", timeout_s: float = 600, fault: str = "") -> str:
        attempt = f"{RUN}-{number}"
        job = sleeper(world, attempt, script, timeout_s=timeout_s)
        if fault:
            world.server.faults.set(fault)
        seen = world.ended(world.launcher(), attempt)
        assert seen.state == "gone"
        assert world.api.inspect_job(job_id=job).status.stage != "COMPLETED"
        return seen.reason.partition(":")[0]

    assert death(1, "exit 5") == "exit code 5"
    assert death(2, timeout_s=1) == "timed out"
    assert death(3, fault="evict") == "evicted"
    assert death(4, fault="credit-out") == "out of credit"


@pytest.mark.parametrize(
    ("stage", "message", "state", "reason", "code"),
    [
        ("SCHEDULING", "", "pending", "", None),
        ("RUNNING", "", "running", "", None),
        ("COMPLETED", "", "gone", "exit code 0", 0),
        ("CANCELED", "", "gone", "cancelled", None),
        ("CANCELED", "by an administrator", "gone", "cancelled: by an administrator", None),
        ("CANCELED", "Pre-paid credit balance is insufficient", "gone", "out of credit: Pre-paid credit balance", None),
        ("DELETED", "", "gone", "deleted", None),
        ("ERROR", "Job timeout", "gone", "timed out: Job timeout", None),
        ("ERROR", "Job timed out after 6 hours", "gone", "timed out", None),
        ("ERROR", "Job failed with exit code: 137. Reason: OOMKilled", "gone", "out of memory", 137),
        ("ERROR", "Job failed with exit code: 137. Reason: Evicted", "gone", "evicted", 137),
        ("ERROR", "The node was drained", "gone", "evicted", None),
        ("ERROR", "Job failed with exit code: 3. Reason: Error", "gone", "exit code 3", 3),
        ("ERROR", "exit status 4", "gone", "exit code 4", 4),
        ("ERROR", "402 Payment required", "gone", "out of credit", None),
        ("ERROR", "no room for it", "gone", "error: no room for it", None),
        ("ERROR", "", "gone", "error without a message", None),
        ("BUILDING", "", "unknown", "the job is BUILDING", None),
        ("UPDATING", "soon", "unknown", "the job is UPDATING: soon", None),
    ],
)
def test_what_a_stage_and_a_message_mean(stage: str, message: str, state: str, reason: str, code: int | None) -> None:
    seen = observe_job(Job(id="1", stage=stage, message=message, created="", labels={}))
    assert (seen.state, seen.exit_code) == (state, code)
    assert seen.reason.startswith(reason)


def test_a_deleted_job_is_gone(world: JobsWorld) -> None:
    launcher = world.launcher()
    sleeper(world, script="exit 0")
    assert launcher.find(ATTEMPT) is not None
    launcher._ids[ATTEMPT] = "000000000000000000000000"  # as if it had been deleted since
    launcher._seen.clear()
    seen = launcher.find(ATTEMPT)
    assert seen is not None
    assert (seen.state, seen.reason) == ("gone", "deleted")


# --- stopping, logs


def test_stop_waits_for_a_while_and_cancels(world: JobsWorld) -> None:
    clock = ManualClock()
    launcher = world.launcher(clock=clock)
    job = sleeper(world)
    launcher.stop(ATTEMPT, grace_s=30)
    assert clock.now_s() >= 30
    assert world.api.inspect_job(job_id=job).status.stage == "CANCELED"
    assert world.ended(launcher).reason == "cancelled"
    launcher.stop(ATTEMPT, grace_s=30)
    launcher.stop("never-heard-of", grace_s=0)


def test_a_job_that_waits_for_hardware_is_cancelled_at_once(world: JobsWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    launcher = world.launcher(clock=clock)
    job = sleeper(world)
    with monkeypatch.context() as patch:
        patch.setattr("qcity_nb.hosts.hf_jobs.launcher.observe_job", lambda job: Observation(state="pending"))
        launcher.stop(ATTEMPT, grace_s=30)
    assert clock.now_s() == 1000
    assert world.api.inspect_job(job_id=job).status.stage == "CANCELED"


def test_stop_says_when_it_could_not(world: JobsWorld) -> None:
    launcher = world.launcher()
    sleeper(world)
    assert launcher.find(ATTEMPT) is not None
    world.server.faults.set("jobs-down", float("inf"))
    with pytest.raises(StoreUnavailable, match="cancelling a job"):
        launcher.stop(ATTEMPT, grace_s=0)


def test_logs_come_as_they_are_written(world: JobsWorld, tmp_path: Path) -> None:
    launcher = world.launcher()
    assert launcher.follow(ATTEMPT) is None
    sleeper(world, script=f"echo one; until test -e {tmp_path}/go; do sleep 0.01; done; echo two")
    pieces = launcher.follow(ATTEMPT, until=lambda: False)
    assert pieces is not None
    seen = []
    for piece in pieces:
        seen.append(piece)
        if piece == "one\n":
            (tmp_path / "go").touch()
    assert seen[-2:] == ["one\n", "two\n"]
    world.ended(launcher)
    assert list(launcher.follow(ATTEMPT) or ())[-2:] == ["one\n", "two\n"]


def test_a_log_that_the_client_breaks_off_is_read_to_its_end(world: JobsWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = world.launcher()
    sleeper(world, script="echo one; echo two; echo three")
    world.ended(launcher)
    read = HfApi.fetch_job_logs

    def break_off(self: HfApi, *, follow: bool, **options: Any) -> Iterable[str]:
        return itertools.islice(read(self, follow=follow, **options), 2 if follow else None)

    monkeypatch.setattr(HfApi, "fetch_job_logs", break_off)
    whole = list(launcher.follow(ATTEMPT) or ())
    assert whole[-3:] == ["one\n", "two\n", "three\n"]
    assert list(launcher.follow(ATTEMPT, until=lambda: False) or ()) == whole


def test_logs_that_break_off_say_so(world: JobsWorld) -> None:
    launcher = world.launcher()
    sleeper(world, script="true")
    pieces = launcher.follow(ATTEMPT)
    world.server.faults.set("jobs-down", float("inf"))
    with pytest.raises(QcityError, match="reading a job's logs"):
        list(pieces or ())


# --- what goes along


def test_a_tracker_of_this_machine_stays_here(world: JobsWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere(JobsClient):
        endpoint = "https://huggingface.co"

    there = Elsewhere()
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "p4ss")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    for uri in ("sqlite:////x.db", "http://127.0.0.1:5000", "http://localhost:5000"):
        around = environment(world.settings(tracking=uri), there, "hf://me/runs")
        assert around.env["QCITY_TRACKING"] == "none"
        assert "MLFLOW_TRACKING_URI" not in around.env
        assert "MLFLOW_TRACKING_PASSWORD" not in around.secrets
        assert "HF_ENDPOINT" not in around.env
    around = environment(world.settings(tracking="https://mlflow.example"), there, "hf://me/runs")
    assert around.env["QCITY_TRACKING"] == around.env["MLFLOW_TRACKING_URI"] == "https://mlflow.example"
    assert around.secrets["MLFLOW_TRACKING_PASSWORD"] == "p4ss"
    assert "p4ss" not in repr(dict(around.env))
    for store in ("/home/me/store", "file:///home/me/store", "memory:x"):
        with pytest.raises(UsageError, match=r"a job cannot reach the store .*--store hf://"):
            environment(world.given, there, store)
    with pytest.raises(UsageError, match="a job cannot reach the store"):
        world.launcher(client=there).quote()  # asked before a run is begun


def test_a_secret_that_is_not_here_is_named(world: JobsWorld) -> None:
    config = world.settings(job_secrets=["WANDB_API_KEY"])
    with pytest.raises(UsageError, match="job_secrets names WANDB_API_KEY, which is not set here"):
        environment(config, JobsClient(), config.store)


def test_what_is_installed_first(world: JobsWorld) -> None:
    words = ["python", "-m", "x"]
    default = re.escape(f"'qcity-nb[local]=={__version__}'")
    config = world.settings(job_install=None)
    del config
    for install, pattern in (
        ("none", r"exec python -m x"),
        (
            f"qcity-nb[local]=={__version__} torch>=2",
            rf"PIP_\w+=1 python -m pip install -q {default} 'torch>=2' && exec .*",
        ),
        ("a; rm -rf /", r".* -q 'a;' rm -rf / && exec python -m x"),
    ):
        shell, flag, script = command(world.settings(job_install=install), words)
        assert (shell, flag) == ("bash", "-c")
        assert re.fullmatch(pattern, script), script


@pytest.mark.parametrize("word", ["https://tok@h/x.whl", "git+https://u:p@h/x", "a --index-url=https://t@h/simple"])
def test_a_password_in_what_is_installed_is_refused(world: JobsWorld, word: str) -> None:
    with pytest.raises(UsageError, match=r"job_install .* holds a password"):
        world.settings(job_install=word)
    assert world.settings(job_install="git+ssh://git@h/x").job_install == "git+ssh://git@h/x"


@pytest.mark.parametrize(
    ("address", "is_it"),
    [
        ("http://127.0.0.1:1", True),
        ("http://localhost", True),
        ("http://[::1]:5/x", True),
        ("https://huggingface.co", False),
        ("http://127.0.0.1.evil.example", False),
        ("", False),
    ],
)
def test_this_very_machine(address: str, is_it: bool) -> None:
    assert is_here(address) is is_it


# --- labels


@examples(st.text(), st.text())
def test_labels_are_what_the_service_takes_and_tell_texts_apart(text: str, other: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{0,100}", label(text))
    assert (label(text) == label(other)) is (text == other)


@pytest.mark.parametrize("text", ["a" * 101, "run.1", "a/b", "", "ü", "a\n"])
def test_a_text_that_does_not_fit_is_cut_and_hashed(text: str) -> None:
    assert label(text) != text
    assert 0 < len(label(text)) <= 100
    assert label(label(text)) == label(text)


def test_attempts_with_strange_names_are_found(world: JobsWorld) -> None:
    attempt = "run.with.dots-" + "x" * 120
    world.launcher().launch(world.spec(attempt))
    assert world.launcher().find(attempt) is not None
    assert world.launcher().find(attempt + "y") is None


def test_a_spec_is_all_that_a_job_gets(world: JobsWorld) -> None:
    assert {name for name in AttemptSpec.__dataclass_fields__ if "token" in name or "secret" in name} == set()
