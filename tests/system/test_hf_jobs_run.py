"""Whole runs on hf-jobs: the real client, jobs as processes of the Hub emulator, a store that both see."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from hf_world import RUN, JobsWorld, jobs_world
from job_world import over, wait_for

from qcity_nb import cli
from qcity_nb.cli import templates
from qcity_nb.errors import UnknownRun
from qcity_nb.hosts import bundle
from qcity_nb.published.read import events, published_rows
from qcity_nb.records import DesiredState, Head, Holder
from qcity_nb.run import lease
from qcity_nb.stores import open_store
from qcity_nb.testing.emulators.hub.fleet import fleet_of
from qcity_nb.tracking.outbox import decode_rows

pytestmark = pytest.mark.kernel

LOOP = """
import os, signal
from pathlib import Path
import numpy as np
import qcity_nb as qcity

city = qcity.up()
print("this is", city.host.name, city.host.session_limit_s)
state = {"done": [], "at": np.zeros(3)}
for i in city.loop(range(8), state=state, every=1):
    if i == DIES_AT and not Path(MARK).exists():
        Path(MARK).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    state["done"].append(i)
    state["at"] += i
    city.log(value=float(i))
"""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobsWorld]:
    with jobs_world(tmp_path, monkeypatch) as world:
        monkeypatch.chdir(world.root)
        for name, value in (
            ("JOB_INSTALL", "none"),
            ("JOB_SECRETS", "PYTHONPATH"),
            ("HEARTBEAT", "0.5"),
            ("PUBLISH", "0.1"),
        ):
            monkeypatch.setenv(f"QCITY_{name}", value)
        yield world


def write(world: JobsWorld, dies_at: int) -> None:
    """A notebook whose kernel dies once."""
    book = nbformat.v4.new_notebook()
    values = f"DIES_AT = {dies_at}\nMARK = {str(world.root.parent / 'died')!r}"
    book.cells = [nbformat.v4.new_code_cell(values), nbformat.v4.new_code_cell(LOOP)]
    book.metadata.kernelspec = {"name": "python3", "language": "python", "display_name": "Python 3"}
    nbformat.write(book, world.root / "train.ipynb")


def the_run(world: JobsWorld) -> Head:
    store = open_store(str(world.root / ".qcity" / "store"))
    [run] = store.runs()
    return lease.read(store, run).head


def deaths(world: JobsWorld, head: Head) -> list[str]:
    store = open_store(str(world.root / ".qcity" / "store"))
    return [str(event.data["reason"]) for event in events(store, head.run, head) if event.kind == "died"]


@pytest.mark.kill
def test_a_run_goes_through_jobs_that_die(world: JobsWorld, capsys: pytest.CaptureFixture[str]) -> None:
    world.root.joinpath("pyproject.toml").unlink()
    templates.extract("digits", world.root)
    fleet = fleet_of(world.server.hub)

    def job_of(head: Head) -> str:
        assert head.holder is not None
        return str(world.job(head.holder.attempt).id)

    ways: list[Callable[[str], None]] = [fleet.evict, lambda job: world.api.cancel_job(job_id=job)]

    def kill() -> None:
        for term, way in enumerate(ways, 1):

            def has_come_far(term: int = term) -> Head | None:
                try:
                    head = the_run(world)
                except (UnknownRun, ValueError):
                    return None
                far = head.checkpoint is not None and head.checkpoint.term == term and head.checkpoint.step > 3 * term
                return head if head.term == term and far else None

            job = wait_for(has_come_far, what=f"attempt {term} to get going")
            assert job is not None
            way(job_of(job))

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    argv = ["run", "notebooks/train.ipynb", "--on", "hf-jobs:t4-small", "-o", "out.ipynb"]
    assert cli.main([*argv, *["-p", "epochs", "40", "-p", "hidden", "256", "-p", "batch_size", "8"]]) == 0
    killer.join(timeout=10)
    head = the_run(world)
    assert (head.state, head.term) == ("succeeded", 3)
    assert [reason.partition(":")[0] for reason in deaths(world, head)] == ["evicted", "cancelled"]
    output = capsys.readouterr()
    assert "first attempt on hf-jobs:t4-small, $0.40/h" in output.err
    assert "files of project digits are sent" in output.err
    assert "executed notebook: out.ipynb" in output.out
    outputs = json.dumps(json.loads((world.root / "out.ipynb").read_text())["cells"])
    assert "40 epochs; the loss fell: True" in outputs
    store = open_store(str(world.root / ".qcity" / "store"))
    blocks = published_rows(store, head, 0)
    rows = [(row.key, row.step) for seq in sorted(blocks) for row in decode_rows(blocks[seq])]
    assert sorted(rows) == sorted((key, step) for key in ("loss", "accuracy") for step in range(40))
    assert not (world.root / "models").exists(), "it ran in a directory of its own"


@pytest.mark.kill
def test_a_dead_kernel_s_work_is_published_before_the_job_ends(
    world: JobsWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QCITY_PUBLISH", "1h")  # nothing but the last word is published
    write(world, dies_at=5)
    assert cli.main(["run", "train.ipynb", "--on", "hf-jobs"]) == 0
    head = the_run(world)
    assert (head.state, head.term) == ("succeeded", 2)
    assert deaths(world, head) in ([], ["exit code 138"])
    store = open_store(str(world.root / ".qcity" / "store"))
    second = next(event for event in events(store, head.run, head) if event.kind == "lease" and event.term == 2)
    assert (second.data["step"], second.data["source"]) == (5, "store")
    executed = world.root / ".qcity" / "executed" / f"{head.run}.ipynb"
    assert "this is hf-job" in executed.read_text(), "brought home"


def test_a_job_that_is_no_longer_desired_does_nothing(world: JobsWorld) -> None:
    launcher = world.launcher()
    world.begin(desired=DesiredState(state="stopped"))
    launcher.launch(world.spec())
    assert world.ended(launcher).exit_code == 0
    assert "nothing to do: run train-abc123-1 is to be stopped" in world.log()


def test_a_job_whose_run_another_holds_does_nothing(world: JobsWorld) -> None:
    launcher = world.launcher()
    world.begin(f"{RUN}-2", holder=Holder(attempt=f"{RUN}-2", host="local"), term=1)
    launcher.launch(world.spec())
    assert world.ended(launcher).exit_code == 0
    assert f"is held by attempt 1: {RUN}-2" in world.log()


def test_a_bundle_that_is_damaged_ends_the_job(world: JobsWorld) -> None:
    launcher = world.launcher()
    whole = bundle.pack(world.root)
    world.begin(bundle=whole.name, files={whole.name: whole.data[:-20]})
    launcher.launch(world.spec())
    assert world.ended(launcher).exit_code == 7
    assert f"the project's bundle {whole.name} cannot be unpacked" in world.log()


def test_a_stopped_run_ends_its_job(world: JobsWorld) -> None:
    """`qcity stop` reaches a job through the head; the job ends by itself, its work saved."""
    write(world, dies_at=-1)
    source = (world.root / "train.ipynb").read_text().replace("city.log(", "import time; time.sleep(0.3); city.log(")
    (world.root / "train.ipynb").write_text(source.replace("range(8)", "range(1000)"))
    assert cli.main(["run", "train.ipynb", "--on", "hf-jobs", "--detach"]) == 0
    wait_for(lambda: the_run(world).checkpoint, what="a checkpoint")
    run = the_run(world).run
    assert cli.main(["stop", run]) == 0
    wait_for(lambda: the_run(world).state == "stopped", what="the run to stop")
    [job] = world.api.list_jobs(namespace="user")
    assert over(world.api, job.id).status.message == "Job failed with exit code: 4. Reason: Error"
