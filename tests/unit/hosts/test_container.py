"""What runs inside a job: is it still wanted, and what it does before and after the attempt."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from job_world import wait_for

from qcity_nb import codec
from qcity_nb.errors import StoreUnavailable
from qcity_nb.hosts import container
from qcity_nb.hosts.container import reason_to_skip
from qcity_nb.records import AttemptSpec, DesiredState, Head, Heartbeat, Holder, PendingLaunch, RunState
from qcity_nb.run import lease
from qcity_nb.stores import open_store

RUN = "train-abc123-1"
MINE = f"{RUN}-mine"
SPEC = AttemptSpec(run=RUN, attempt=MINE, host="hf-jobs", store="memory:x")


def pending_launch_of(attempt: str) -> PendingLaunch:
    return PendingLaunch(attempt=attempt, host="hf-jobs", keeper="k", declared_dead=Heartbeat(term=0, heartbeat=0))


def head(
    *,
    state: RunState = "running",
    desired: DesiredState | None = None,
    pending: str = "",
    holder: str = "",
) -> Head:
    return Head(
        run=RUN,
        key="k",
        project="owner/p",
        notebook="n.ipynb",
        state=state,
        desired=desired or DesiredState(),
        pending_launch=pending_launch_of(pending) if pending else None,
        holder=Holder(attempt=holder, host="local") if holder else None,
    )


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (head(pending=MINE), ""),
        (head(pending=MINE, holder="the-dead-one"), ""),
        (head(), ""),
        (head(pending="another"), ""),
        (head(holder=MINE), ""),
        (head(holder="another"), "is held by attempt 0: another"),
        (head(holder="another", pending="a-third"), "is held by attempt 0: another"),
        (head(state="succeeded"), "has succeeded"),
        (head(state="failed", pending=MINE), "has failed"),
        (head(state="stopped"), "is stopped"),
        (head(desired=DesiredState(state="stopped"), pending=MINE), "is to be stopped"),
    ],
)
def test_whether_it_is_still_desired(now: Head, why: str) -> None:
    reason = reason_to_skip(now, SPEC)
    assert bool(reason) is bool(why)
    assert why in reason
    assert "\n" not in reason


def test_the_store_is_asked_again_for_a_while(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("qcity_nb.hosts.container.time.sleep", slept.append)
    answers: list[StoreUnavailable | str] = [StoreUnavailable("down"), StoreUnavailable("down"), "there"]

    def ask() -> str:
        answer = answers.pop(0)
        if isinstance(answer, str):
            return answer
        raise answer

    assert container._ask(ask) == "there"
    assert slept == [1.0, 2.0]
    assert capsys.readouterr().err.count("asking again") == 2
    answers[:] = [StoreUnavailable("down")] * 9
    with pytest.raises(StoreUnavailable):
        container._ask(ask)
    assert slept[2:] == [1.0, 2.0, 4.0, 8.0, 16.0]


def test_a_job_without_a_spec_says_what_starts_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in ("", "{}", "rubbish"):
        monkeypatch.setenv("QCITY_SPEC", text)
        assert container.main() == 2
        printed = capsys.readouterr().err
        assert "QCITY_SPEC is not an attempt's spec" in printed
        assert printed.count("\n") == 1


STUB = """
import os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[0]).parent
signal.signal(signal.SIGTERM, lambda *_: sys.exit(21))
Path({up!r}).write_text("\\n".join([os.getcwd(), os.environ["QCITY_ATTEMPT"], os.environ["QCITY_LOCAL_DIR"],
    str("QCITY_SPEC" in os.environ), open(sys.argv[1]).read()]))
time.sleep(60)
"""


def test_a_signal_is_passed_to_the_attempt(tmp_path: Path) -> None:
    """As process 1 of a container it would be ignored."""
    store = open_store(str(tmp_path / "store"))
    lease.create(store, head(pending=MINE))
    up = tmp_path / "up"
    stub = tmp_path / "attempt.py"
    stub.write_text(STUB.format(up=str(up)))
    program = (
        "import sys, subprocess\n"
        "real = subprocess.Popen\n"
        f"subprocess.Popen = lambda words, **more: real([words[0], {str(stub)!r}, words[-1]], **more)\n"
        "from qcity_nb.hosts import container\n"
        "sys.exit(container.main())\n"
    )
    spec = AttemptSpec(run=RUN, attempt=MINE, host="hf-jobs", store=str(tmp_path / "store"))
    environ = {**os.environ, "QCITY_SPEC": codec.dumps(spec).decode(), "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", program], env=environ)
    try:
        wait_for(lambda: up.exists() and up.read_text().count("\n") >= 4, what="the attempt")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 21
    finally:
        process.kill()
        process.wait()
    folder, attempt, local, has_spec, spec_text = up.read_text().split("\n", 4)
    assert Path(folder).name == "owner-p", "named as the project, without the slash"
    assert (attempt, local, has_spec) == (MINE, f"{folder}/.qcity/local", "False")
    assert f'"project":"{folder}"' in spec_text.replace('": "', '":"')
    assert not Path(folder).exists(), "what it extracted is gone with it"
