"""Commands on other hosts: what they cost, what is refused before anything is begun, logs as they come."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hf_world import RUN, JobsWorld, jobs_world
from job_world import wait_for

from qcity_nb import cli
from qcity_nb.hosts.hf_jobs import client
from qcity_nb.hosts.hf_jobs.client import JobsClient
from qcity_nb.hosts.hf_jobs.records import Order
from qcity_nb.records import Holder
from qcity_nb.run import lease

BOOK = {
    "cells": [{"cell_type": "code", "id": "a", "source": "1", "metadata": {}, "outputs": [], "execution_count": None}],
    "metadata": {},
    "nbformat": 4,
    "nbformat_minor": 5,
}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobsWorld]:
    with jobs_world(tmp_path, monkeypatch) as world:
        monkeypatch.chdir(world.root)
        (world.root / "train.ipynb").write_text(json.dumps(BOOK))
        yield world


def test_hosts_and_what_they_cost(
    world: JobsWorld, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert cli.main(["hosts"]) == 0, "nobody need be logged in for that"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["HOST", "PRICE", "HARDWARE"]
    assert lines[1].split()[:2] == ["hf-jobs:cpu-basic", "$0.01/h"]
    assert lines[-1].split() == ["local", "-", "this", "machine"]
    assert "hf-jobs:t4-small" in "".join(lines)
    assert cli.main(["hosts", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["hosts"] == ["hf-jobs", "local"]
    assert {"host": "hf-jobs:t4-small", "usd_per_hour": pytest.approx(0.4, abs=0.001)}.items() <= next(
        each for each in report["flavors"] if each["host"].endswith("t4-small")
    ).items()


def test_hosts_are_listed_while_the_service_is_down(world: JobsWorld, capsys: pytest.CaptureFixture[str]) -> None:
    world.server.faults.set("jobs-down", float("inf"))
    assert cli.main(["hosts"]) == 0
    output = capsys.readouterr().out
    assert "hf-jobs  not known now  asking for hardware and prices: no usable answer" in output
    assert "local" in output


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("run train.ipynb --on hf-jobs:t9", "no flavor 't9'; there are: cpu-basic"),
        ("run train.ipynb --on local:t9", "write 'local' without 't9'"),
        ("run train.ipynb --on hf-spaces", "no host named 'hf-spaces'; installed are: hf-jobs, local"),
    ],
)
def test_what_cannot_be_is_refused_before_a_run_is_made(
    world: JobsWorld, argv: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv.split()) == 2
    output = capsys.readouterr().err
    assert words in output
    assert output.count("\n") == 1
    assert world.store.runs() == []


def test_without_credit_nothing_is_retried(world: JobsWorld, capsys: pytest.CaptureFixture[str]) -> None:
    world.server.faults.set("credit", float("inf"))
    assert cli.main(["run", "train.ipynb", "--on", "hf-jobs"]) == 2
    output = capsys.readouterr().err
    assert "no credit left for jobs" in output
    assert world.server.faults.struck == ["credit"]
    [run] = world.store.runs()
    head = lease.read(world.store, run).head
    assert (head.state, head.pending_launch, head.launches.failed) == ("running", None, 0), (
        "`qcity resume` resumes it later"
    )


def test_doctor_asks_the_hosts(
    world: JobsWorld, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QCITY_HOSTS", "hf-jobs:l4x1,hf-jobs:t9,local")
    assert cli.main(["doctor"]) == 2
    output = capsys.readouterr().out
    assert "host hf-jobs:l4x1  installed, $0.80/h" in output
    assert "host hf-jobs:t9    hf-jobs has no flavor 't9'" in output
    monkeypatch.setenv("QCITY_HOSTS", "hf-jobs")
    world.server.faults.set("jobs-down", float("inf"))
    assert cli.main(["doctor"]) == 0
    assert "NOTE  host hf-jobs" in capsys.readouterr().out


def test_logs_of_a_job_are_followed_until_it_ends(
    world: JobsWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attempt = f"{RUN}-1"
    go = tmp_path / "go"
    JobsClient().run(
        Order(
            image="x",
            command=["bash", "-c", f"echo one; until test -e {go}; do sleep 0.01; done; echo two"],
            flavor="cpu-basic",
            timeout_s=600,
            labels={"qcity-attempt": attempt},
        )
    )
    world.begin(attempt, holder=Holder(attempt=attempt, host="hf-jobs"), term=1)

    def end() -> None:
        go.touch()
        wait_for(lambda: world.api.inspect_job(job_id=world.job().id).status.stage == "COMPLETED", what="the end")

        lease.amend(world.store, RUN, lambda head: replace(head, state="succeeded"))

    assert cli.main(["logs", RUN]) == 0
    assert capsys.readouterr().out.endswith("one\n")
    thread = threading.Thread(target=end)
    thread.start()
    assert cli.main(["logs", "-f", RUN]) == 0
    thread.join()
    output = capsys.readouterr()
    assert output.out.endswith("one\ntwo\n")
    assert f"==> {attempt} on hf-jobs\n" in output.err


def test_a_host_that_does_not_answer_hides_no_other_logs(
    world: JobsWorld, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    attempt = f"{RUN}-1"
    world.begin(attempt, holder=Holder(attempt=f"{RUN}-0", host="local"), term=1)
    log = world.given.local_dir / "attempts" / f"{RUN}-0.log"
    log.parent.mkdir(parents=True)
    log.write_text("printed here\n")
    world.server.faults.set("jobs-down", float("inf"))
    monkeypatch.setattr(client, "LOOK_S", 0.5)
    assert cli.main(["logs", RUN]) == 0
    output = capsys.readouterr()
    assert output.out == "printed here\n"
    assert "on hf-jobs: listing jobs: no " in output.err
