"""Jobs of the Hub emulator, as the real client runs, follows and ends them."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPConnection, IncompleteRead
from pathlib import Path

import pytest
from huggingface_hub import HfApi, JobStage, Volume
from huggingface_hub.errors import BadRequestError, HfHubHTTPError, JobNotFoundError
from job_world import USER, emulator, log_of, over, raw, shell, start, wait_for

from qcity_nb.testing.emulators.hub import jobs, runner
from qcity_nb.testing.emulators.hub.accounts import Users
from qcity_nb.testing.emulators.hub.emulator import Hub
from qcity_nb.testing.emulators.hub.faults import Faults
from qcity_nb.testing.emulators.hub.fleet import NO_CREDIT, fleet_of
from qcity_nb.testing.emulators.hub.server import HubServer
from qcity_nb.testing.emulators.hub.web import User


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    with emulator(tmp_path / "hub") as (server, _):
        yield server


@pytest.fixture
def api(server: HubServer) -> HfApi:
    return HfApi(endpoint=server.url, token="hf_any")


def living(label: str) -> list[int]:
    """Processes of this machine whose command line has ``mark``."""
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if label.encode() in (folder / "cmdline").read_bytes() and int(folder.name) != os.getpid():
                pids.append(int(folder.name))
        except OSError:
            continue
    return pids


def test_a_job_runs_to_its_end(api: HfApi) -> None:
    job = start(api, "python", "-c", "print('hello'); print('world')", env={"A": "1"}, labels={"team": "ml"})
    assert (job.status.stage, job.docker_image, job.flavor) == ("SCHEDULING", "python:3.12", "cpu-basic")
    assert job.url == f"{api.endpoint}/jobs/{USER}/{job.id}"
    done = over(api, job)
    assert (done.status.stage, done.status.message) == ("COMPLETED", None)
    assert log_of(api, job) == ["hello", "world"]
    assert done.command == ["python", "-c", "print('hello'); print('world')"]
    assert (done.arguments, done.environment, done.retry) == ([], {"A": "1"}, 0)
    assert done.labels is not None
    assert done.labels["team"] == "ml"
    assert done.labels["name"].startswith("python-3-12-")
    assert done.owner.name == USER
    assert done.initiator is not None
    assert done.initiator.name == USER
    assert done.created_at is not None
    assert done.started_at is not None
    assert done.finished_at is not None
    assert done.created_at <= done.started_at <= done.finished_at
    assert done.durations is not None
    assert done.durations.total_secs is not None
    assert not (set(raw(api, f"/api/jobs/{USER}/{job.id}")) & {"pid", "creator"})


def test_the_first_line_says_that_the_image_is_not_run(api: HfApi) -> None:
    first = next(iter(api.fetch_job_logs(job_id=shell(api, "true").id, follow=True)))
    assert "emulator" in first
    assert "python:3.12 is not run" in first


def test_what_a_job_sees(api: HfApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_SERVER", "1")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    monkeypatch.setenv("HF_ENDPOINT", api.endpoint)
    script = "import json, os; print(json.dumps([dict(os.environ), os.getcwd(), os.listdir()]))"
    job = start(api, "python", "-c", script, env={"A": "b"}, secrets={"S": "t"}, flavor="a10g-small")
    environment, cwd, listing = json.loads(log_of(api, job)[0])
    assert environment["PATH"].split(":")[0] == str(Path(sys.executable).parent)
    assert environment["HOME"] == cwd
    assert listing == []
    assert environment["TMPDIR"] != cwd
    expected = {"A": "b", "S": "t", "JOB_ID": job.id, "ACCELERATOR": "a10g-small", "CPU_CORES": "4", "MEMORY": "15Gi"}
    assert environment.items() >= expected.items()
    known = {"PATH", "LANG", "HOME", "TMPDIR", *expected, "PWD", "LC_CTYPE", "__CF_USER_TEXT_ENCODING"}
    how_to_compute = {name for name in os.environ if name.startswith(("OPENBLAS_", "MKL_", "BLIS_"))}
    assert set(environment) <= known | how_to_compute
    assert environment.items() >= {name: os.environ[name] for name in how_to_compute}.items()
    over(api, job)
    assert not Path(cwd).exists()
    assert log_of(api, shell(api, "echo [$ACCELERATOR]")) == ["[]"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["sh", "-c", "exit 3"], "Job failed with exit code: 3. Reason: Error"),
        (["sh", "-c", "kill -TERM $$"], "Job failed with exit code: 143. Reason: Error"),
        (["no-such-command"], "Job failed with exit code: 128. Reason: StartError"),
    ],
)
def test_how_a_failure_is_reported(api: HfApi, command: list[str], message: str) -> None:
    done = over(api, start(api, *command))
    assert (done.status.stage, done.status.message) == ("ERROR", message)


def test_a_command_that_cannot_start_says_so_in_the_log(api: HfApi) -> None:
    assert log_of(api, start(api, "no-such-command")) == ["cannot start 'no-such-command': No such file or directory"]


def test_time_out_kills_all_of_a_job(api: HfApi, tmp_path: Path) -> None:
    label = f"2{os.getpid()}1"
    done = over(api, shell(api, f"setsid sleep {label} & trap '' TERM; sleep {label}", timeout=1))
    assert (done.status.stage, done.status.message) == ("ERROR", "Job timeout")
    assert living(label) == []


def test_half_an_hour_is_the_time_that_a_job_has(api: HfApi, server: HubServer) -> None:
    job = shell(api, "sleep 1000")
    assert jobs_time(server.hub, job.id) == 1800
    assert jobs_time(server.hub, shell(api, "sleep 1000", timeout="2h").id) == 7200
    assert "timeout" not in raw(api, f"/api/jobs/{USER}/{job.id}")


def jobs_time(hub: Hub, job_id: str) -> float:
    job = fleet_of(hub).get(job_id)
    assert job is not None
    return job.spec["timeout"] or 1800.0


def test_the_command_s_end_is_the_end_of_all_that_it_started(api: HfApi) -> None:
    label = f"2{os.getpid()}2"
    done = over(api, shell(api, f"setsid sleep {label} & (setsid sh -c 'sleep {label} & sleep {label}' &); echo begun"))
    assert done.status.stage == "COMPLETED"
    assert living(label) == []


def test_cancel(api: HfApi) -> None:
    label = f"2{os.getpid()}3"
    job = shell(api, f"setsid sleep {label} & sleep {label}")
    wait_for(lambda: len(living(label)) >= 2, what="the job's processes")
    api.cancel_job(job_id=job.id)
    done = api.inspect_job(job_id=job.id)
    assert (done.status.stage, done.status.message) == ("CANCELED", None)
    assert living(label) == []
    api.cancel_job(job_id=job.id)
    assert api.inspect_job(job_id=job.id).status.stage == "CANCELED"


def test_attempts_begin_anew_on_an_empty_disk(api: HfApi, tmp_path: Path) -> None:
    count = tmp_path / "count"
    script = f"ls; echo x >> {count}; touch left-over; test $(wc -l < {count}) -ge 3"
    job = shell(api, script, attempts=3)
    assert over(api, job).status.stage == "COMPLETED"
    assert len(count.read_text()) == 6
    assert log_of(api, job) == []
    assert raw(api, f"/api/jobs/{USER}/{job.id}")["status"]["failureCount"] == 2
    count.unlink()
    done = over(api, shell(api, script, attempts=2))
    assert (done.status.stage, done.retry, len(count.read_text())) == ("ERROR", 1, 4)


def test_list_by_labels_and_stage(api: HfApi, monkeypatch: pytest.MonkeyPatch) -> None:
    first = shell(api, "true", labels={"run": "a", "attempt": "1"})
    second = shell(api, "exit 1", labels={"run": "a", "attempt": "2"})
    third = shell(api, "sleep 1000", labels={"run": "b"})
    over(api, first)
    over(api, second)

    def listed(**more: object) -> list[str]:
        return [job.id for job in api.list_jobs(namespace=USER, **more)]  # type: ignore[arg-type]

    assert listed() == [third.id, second.id, first.id]
    assert listed(labels={"run": "a"}) == [second.id, first.id]
    assert listed(labels={"run": "a", "attempt": "1"}) == [first.id]
    assert listed(labels={"run": "c"}) == []
    assert listed(status=JobStage.ERROR) == [second.id]
    assert listed(status=["error", "completed"], labels={"run": "a"}) == [second.id, first.id]
    monkeypatch.setattr(jobs, "PAGE", 1)
    assert listed() == [third.id, second.id, first.id]
    changed = api.update_job_labels(job_id=first.id, labels={"run": "c"})
    assert changed.labels == {"run": "c"}
    assert listed(labels={"run": "c"}) == [first.id]


def test_logs_are_followed_to_the_end(api: HfApi, tmp_path: Path) -> None:
    go = tmp_path / "go"
    job = shell(api, f"echo one; until test -e {go}; do sleep 0.02; done; echo two; printf three")
    lines = iter(api.fetch_job_logs(job_id=job.id, follow=True))
    assert "emulator" in next(lines)
    assert next(lines) == "one"
    go.touch()
    assert list(lines) == ["two", "three"]
    assert list(api.fetch_job_logs(job_id=job.id, tail=2)) == ["two", "three"]
    assert list(api.fetch_job_logs(job_id=job.id, tail=0)) == []


def test_logs_of_a_job_that_goes_on_end_when_nothing_more_comes(api: HfApi) -> None:
    job = shell(api, "echo here; sleep 1000")
    assert "here" in api.fetch_job_logs(job_id=job.id, follow=True)
    assert list(api.fetch_job_logs(job_id=job.id))[1:] == ["here"]


def test_a_stream_of_logs_that_was_cut_goes_on(api: HfApi, server: HubServer, tmp_path: Path) -> None:
    """The client comes back, is sent all from the beginning again, and skips what it had."""
    job = shell(api, f"echo one; until test -e {tmp_path}/go; do sleep 0.02; done; echo two")
    lines = iter(api.fetch_job_logs(job_id=job.id, follow=True))
    assert [next(lines) for _ in range(2)][1] == "one"
    server._listener.drop_all()
    (tmp_path / "go").touch()
    assert list(lines) == ["two"]
    first, second = (list(api.fetch_job_logs(job_id=job.id)) for _ in range(2))
    assert first == second


def test_a_stream_of_logs_does_not_end_in_order_with_the_server(tmp_path: Path) -> None:
    with emulator(tmp_path / "hub", end_jobs=False) as (server, api):
        job = shell(api, "echo one; sleep 1000")
        connection = HTTPConnection("127.0.0.1", int(server.url.rpartition(":")[2]), timeout=30)
        connection.request("GET", f"/api/jobs/{USER}/{job.id}/logs", headers={"Authorization": "Bearer hf_any"})
        answer = connection.getresponse()
        assert answer.headers["Content-Type"] == "text/event-stream"
        while b'"one"' not in answer.readline():
            pass
    with pytest.raises((IncompleteRead, ConnectionError)):
        answer.read()
    connection.close()
    with emulator(tmp_path / "hub") as (_, api):
        api.cancel_job(job_id=job.id)


def test_lines_of_any_characters(api: HfApi) -> None:
    script = r"import sys; sys.stdout.buffer.write('ü\u2028\x85 {\"data\"}\r\n'.encode() + b'\xff\n' + b'x' * 70000)"
    job = start(api, "python", "-c", script)
    lines = log_of(api, job)
    assert lines[:2] == ['ü\u2028\x85 {"data"}', "\ufffd"]
    assert "".join(lines[2:]) == "x" * 70000


def test_secrets_are_nowhere_to_be_seen(api: HfApi, tmp_path: Path) -> None:
    secret = f"hf_secret{os.getpid()}"
    job = shell(api, f"printenv TOKEN > {tmp_path}/token; sleep 1000", secrets={"TOKEN": secret})
    wait_for(lambda: (tmp_path / "token").exists() and (tmp_path / "token").read_text(), what="the job")
    assert (tmp_path / "token").read_text() == f"{secret}\n"
    assert raw(api, f"/api/jobs/{USER}/{job.id}")["secrets"] == ["TOKEN"]
    answers = [raw(api, f"/api/jobs/{USER}/{job.id}"), raw(api, f"/api/jobs/{USER}")[:1]]
    assert secret not in json.dumps(answers)
    assert living(secret) == []
    for file in (tmp_path / "hub" / "jobs" / job.id).rglob("*"):
        assert file.is_dir() or secret.encode() not in file.read_bytes(), file
    assert all(mode & 0o077 == 0 for mode in [(tmp_path / "hub" / "jobs" / job.id).stat().st_mode])


def test_secrets_are_not_in_the_database(api: HfApi, tmp_path: Path) -> None:
    secret = f"hf_other{os.getpid()}"
    over(api, shell(api, "true", secrets={"TOKEN": secret}))
    for file in (tmp_path / "hub").rglob("*"):
        assert file.is_dir() or secret.encode() not in file.read_bytes(), file


def test_jobs_outlive_the_server(tmp_path: Path) -> None:
    go = tmp_path / "go"
    with emulator(tmp_path / "hub", end_jobs=False) as (_, api):
        stays = shell(api, f"until test -e {go}; do sleep 0.02; done; echo done")
        ends = shell(api, f"until test -e {go}2; do sleep 0.02; done; exit 4")
        wait_for(lambda: api.inspect_job(job_id=ends.id).status.stage == "RUNNING", what="the job")
    (tmp_path / "go2").touch()
    state = tmp_path / "hub" / "jobs" / ends.id / "state.json"
    wait_for(lambda: json.loads(state.read_text())["cause"], what="the end of the job")
    with emulator(tmp_path / "hub") as (_, api):
        assert api.inspect_job(job_id=ends.id).status.message == "Job failed with exit code: 4. Reason: Error"
        assert api.inspect_job(job_id=stays.id).status.stage == "RUNNING"
        go.touch()
        assert over(api, stays).status.stage == "COMPLETED"
        assert log_of(api, stays) == ["done"]


def test_a_job_whose_processes_died_with_the_machine_is_lost(tmp_path: Path) -> None:
    label = f"2{os.getpid()}4"
    with emulator(tmp_path / "hub", end_jobs=False) as (_, api):
        job = shell(api, f"sleep {label}")
        wait_for(lambda: len(living(label)) == 2, what="the job's processes")
        pods = living(job.id)
        assert len(pods) == 1
    os.kill(pods[0], signal.SIGKILL)
    wait_for(lambda: not living(job.id), what="the pod's end")
    with emulator(tmp_path / "hub") as (_, api):
        done = api.inspect_job(job_id=job.id)
        assert (done.status.stage, done.status.message) == ("ERROR", "Job lost: its process is gone")
        assert done.finished_at is not None
        wait_for(lambda: not living(label), what="the end of what was left")


def test_a_job_whose_machine_dies_under_the_server_is_lost(api: HfApi) -> None:
    label = f"2{os.getpid()}8"
    job = shell(api, f"setsid sleep {label} & sleep {label}")
    wait_for(lambda: len(living(label)) == 3, what="the job's processes")
    os.kill(living(job.id)[0], signal.SIGKILL)
    assert over(api, job).status.message == "Job lost: its process is gone"
    wait_for(lambda: not living(label), what="the end of what was left")


def test_a_job_is_cancelled_while_it_is_launched(
    api: HfApi, server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Event(), threading.Event()
    launch = runner.launch

    def slowly(folder: Path, work: runner.Work) -> runner.Pod:
        begun.set()
        assert go.wait(30)
        return launch(folder, work)

    monkeypatch.setattr(runner, "launch", slowly)
    starting = threading.Thread(target=shell, args=(api, "sleep 1000"))
    starting.start()
    assert begun.wait(30)
    [job] = api.list_jobs(namespace=USER)
    assert job.status.stage == "SCHEDULING"
    cancelling = threading.Thread(target=api.cancel_job, kwargs={"job_id": job.id})
    cancelling.start()
    wait_for(lambda: ending(server.hub) == "cancel", what="the word to end it")
    go.set()
    starting.join(60)
    cancelling.join(60)
    assert api.inspect_job(job_id=job.id).status.stage == "CANCELED"


def ending(hub: Hub) -> str:
    with hub.db.read() as db:
        return str(db.execute("SELECT ending FROM jobs").fetchone()["ending"])


def test_a_server_ends_its_jobs_if_it_is_asked_to(tmp_path: Path) -> None:
    label = f"2{os.getpid()}5"
    with emulator(tmp_path / "hub", end_jobs=False) as (_, api):
        other = shell(api, f"sleep {label}6")
    with emulator(tmp_path / "hub") as (_, api):
        mine = shell(api, f"sleep {label}7")
        wait_for(lambda: living(f"{label}7"), what="the job")
    assert living(f"{label}7") == []
    assert len(living(f"{label}6")) == 2
    with emulator(tmp_path / "hub") as (_, api):
        assert api.inspect_job(job_id=mine.id).status.stage == "CANCELED"
        api.cancel_job(job_id=other.id)
        assert living(f"{label}6") == []


def test_no_credit(api: HfApi, server: HubServer) -> None:
    server.faults.set("credit")
    with pytest.raises(HfHubHTTPError, match="402") as caught:
        shell(api, "true")
    assert caught.value.server_message == NO_CREDIT
    assert list(api.list_jobs(namespace=USER)) == []
    assert over(api, shell(api, "true")).status.stage == "COMPLETED"


def test_credit_that_runs_out(api: HfApi, server: HubServer) -> None:
    job = shell(api, "sleep 1000", attempts=3)
    server.faults.set("credit-out")
    done = over(api, job)
    assert (done.status.stage, done.status.message) == ("CANCELED", NO_CREDIT)
    assert raw(api, f"/api/jobs/{USER}/{job.id}")["status"]["cancelReason"] == "NO_CREDITS"


def test_an_eviction(api: HfApi, server: HubServer, tmp_path: Path) -> None:
    job = shell(api, "sleep 1000")
    server.faults.set("evict")
    done = over(api, job)
    assert (done.status.stage, done.status.message) == ("ERROR", "Job failed with exit code: 137. Reason: Evicted")
    assert server.faults.struck == ["evict"]
    again = shell(api, f"echo x >> {tmp_path}/begun; test $(wc -l < {tmp_path}/begun) = 2 || sleep 1000", attempts=2)
    wait_for((tmp_path / "begun").exists, what="the first attempt")
    fleet_of(server.hub).evict(again.id)
    assert over(api, again).status.stage == "COMPLETED"


def test_a_lost_reply_leaves_a_job_behind(api: HfApi, server: HubServer) -> None:
    server.faults.set("job-lost")
    with pytest.raises(Exception, match="disconnect"):
        shell(api, "true", labels={"attempt": "7"})
    [job] = api.list_jobs(namespace=USER, labels={"attempt": "7"})
    assert over(api, job).status.stage == "COMPLETED"


def test_jobs_are_down(api: HfApi, server: HubServer) -> None:
    job = shell(api, "true")
    server.faults.set("jobs-down", 2)
    for _ in range(2):
        with pytest.raises(HfHubHTTPError, match="503"):
            api.inspect_job(job_id=job.id)
    assert api.inspect_job(job_id=job.id).id == job.id


def test_hardware_and_prices(api: HfApi) -> None:
    flavors = {flavor.name: flavor for flavor in api.list_jobs_hardware()}
    basic = flavors["cpu-basic"]
    assert (basic.pretty_name, basic.cpu, basic.ram, basic.accelerator) == ("CPU Basic", "2 vCPU", "16 GB", None)
    assert (basic.unit_cost_micro_usd, basic.unit_cost_usd, basic.unit_label) == (167, 0.000167, "minute")
    prices = {"t4-small": 0.40, "l4x1": 0.80, "a10g-small": 1.00, "a100-large": 2.50, "h200": 5.00}
    for name, price in prices.items():
        assert flavors[name].unit_cost_usd * 60 == pytest.approx(price, rel=1e-3)
        assert flavors[name].accelerator is not None


def test_metrics(api: HfApi) -> None:
    job = start(api, "python", "-c", "import time; time.sleep(1000)")
    wait_for(lambda: api.inspect_job(job_id=job.id).status.stage == "RUNNING", what="the job")
    # A process that is only just being started has no memory yet.
    wait_for(
        lambda: any(metrics["memory_used_bytes"] > 0 for metrics in api.fetch_job_metrics(job_id=job.id)),
        what="some memory",
    )
    [sample] = api.fetch_job_metrics(job_id=job.id)
    assert sample["memory_total_bytes"] == 16 << 30
    api.cancel_job(job_id=job.id)
    assert list(api.fetch_job_metrics(job_id=job.id)) == []


def test_a_job_is_run_again(api: HfApi) -> None:
    job = shell(api, "echo again; exit 1", attempts=2, labels={"a": "b"}, env={"C": "d"})
    again = api.rerun_job(job_id=job.id)
    assert again.id != job.id
    assert (again.command, again.retry, again.environment, again.labels) == (job.command, 1, {"C": "d"}, job.labels)
    assert again.initiator is not None
    assert (again.initiator.type, again.initiator.id) == ("duplicated-job", job.id)
    assert log_of(api, again) == ["again", "again"]
    with pytest.raises(HfHubHTTPError, match="keeps no job's secrets"):
        api.rerun_job(job_id=shell(api, "true", secrets={"A": "b"}).id)


def test_ports_are_recorded(api: HfApi) -> None:
    job = shell(api, "sleep 1000", expose=[8000])
    assert (job.expose, job.expose_public, job.status.expose_urls) == ([8000], [], None)
    changed = api.update_job_expose(job_id=job.id, expose=[9000], expose_public=[8000])
    assert (changed.expose, changed.expose_public) == ([9000, 8000], [8000])
    api.cancel_job(job_id=job.id)
    with pytest.raises(BadRequestError, match="not running"):
        api.update_job_expose(job_id=job.id)


@pytest.mark.parametrize(
    ("more", "wrong"),
    [
        ({"flavor": "cpu-none"}, "flavor"),
        ({"labels": {"a": "no blanks"}}, "labels.a"),
        ({"labels": {"a": "x" * 101}}, "labels.a"),
        ({"env": {"A": 1}}, "environment.A"),
        ({"attempts": -1}, "attempts"),
        ({"timeout": -5}, "timeoutSeconds"),
        ({"expose": [70000]}, "expose.ports"),
    ],
)
def test_bad_input(api: HfApi, more: dict[str, object], wrong: str) -> None:
    with pytest.raises(BadRequestError, match=wrong):
        shell(api, "true", **more)
    assert list(api.list_jobs(namespace=USER)) == []


@pytest.mark.parametrize("body", ["[]", "1", '"text"', "{", '{"flavor": [], "dockerImage": "x"}', '{"labels": 1}'])
def test_what_is_no_request_at_all(api: HfApi, body: str) -> None:
    job = shell(api, "sleep 1000")

    def status(method: str, path: str) -> int:
        request = urllib.request.Request(api.endpoint + path, body.encode(), method=method)
        request.add_header("Authorization", "Bearer hf_any")
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code

    for path in ("/api/jobs/user", "/api/scheduled-jobs/user", "/api/settings/webhooks"):
        assert status("POST", path) == 400
    # A body that says nothing of labels or ports leaves none.
    allowed = {400} if not body.startswith('{"') else {400, 200}
    for what in ("labels", "expose"):
        assert status("PUT", f"/api/jobs/user/{job.id}/{what}") in allowed


def test_what_cannot_be_done_is_refused(api: HfApi) -> None:
    with pytest.raises(HfHubHTTPError, match="mounts no volumes"):
        shell(api, "true", volumes=[Volume(type="bucket", source="user/b", mount_path="/data")])
    done = over(api, start(api))
    assert done.status.stage == "ERROR"
    assert "no command" in str(done.status.message)


def test_an_unknown_job(api: HfApi) -> None:
    with pytest.raises(JobNotFoundError):
        api.inspect_job(job_id="0" * 24)
    with pytest.raises(JobNotFoundError):
        next(iter(api.fetch_job_logs(job_id="0" * 24)))


def test_who_may_do_what(tmp_path: Path) -> None:
    users = Users(
        {
            "hf_alice": User("alice", orgs=("acme",)),
            "hf_reader": User("alice", role="read"),
            "hf_fine": User("alice", role="fineGrained", scopes=("job.write", "job.read")),
            "hf_repo": User("alice", role="fineGrained", scopes=("repo.write",)),
            "hf_bob": User("bob", orgs=("acme:read",)),
        }
    )
    with emulator(tmp_path / "hub", users=users) as (server, _):

        def client(token: str | bool) -> HfApi:
            return HfApi(endpoint=server.url, token=token)

        job = shell(client("hf_alice"), "true", namespace="acme")
        assert job.owner.type == "org"
        assert client("hf_bob").inspect_job(job_id=job.id, namespace="acme").id == job.id
        with pytest.raises(JobNotFoundError):
            client("hf_alice").inspect_job(job_id=job.id)
        for token, namespace in [
            ("hf_bob", "acme"),
            ("hf_bob", "alice"),
            ("hf_reader", "alice"),
            ("hf_repo", "alice"),
        ]:
            with pytest.raises(HfHubHTTPError, match="403"):
                shell(client(token), "true", namespace=namespace)
        with pytest.raises(HfHubHTTPError, match="401"):
            shell(client(False), "true", namespace="alice")
        assert over(client("hf_fine"), shell(client("hf_fine"), "true")).status.stage == "COMPLETED"


def test_several_jobs_are_waited_for(api: HfApi) -> None:
    started = [shell(api, f"exit {code}").id for code in (0, 1)]
    done = api.wait_for_job(started, poll_interval=0.02, timeout=60)
    assert [job.status.stage for job in done] == ["COMPLETED", "ERROR"]


def test_faults_are_known_by_name() -> None:
    for name in ("credit", "credit-out", "evict", "job-lost", "jobs-down"):
        Faults().set(name)
