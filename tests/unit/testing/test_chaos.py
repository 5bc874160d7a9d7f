"""Chaos strikes where its plan says, once, and what it struck can be told."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from qcity_nb.testing import chaos

HOST = """
import json, os, sys, time
from qcity_nb import crashpoints
from qcity_nb.testing import chaos
plan = sys.argv[1]
chaos.arm(plan)
for name in sys.argv[2:]:
    crashpoints.hit(name)
if os.getpid() in [pid for _, pid in chaos.struck(json.loads(plan)["log"])]:
    time.sleep(20)  # the strike is on its way
"""


def host(plan: chaos.Plan, job: str, *names: str) -> int:
    """A process that comes to these points, and how it ended."""
    environ = {"JOB_ID": job, "PATH": ""}
    command = [sys.executable, "-c", HOST, plan.dumps(), *names]
    return subprocess.run(command, env=environ, check=False, timeout=30).returncode


def test_deaths_apart_are_in_attempts_of_their_own(tmp_path: Path) -> None:
    """The second point's turn comes while the first strike is on its way: it waits for the next attempt."""
    plan = chaos.Plan(
        log=str(tmp_path / "hits"),
        at={"publish.commit": [1], "local.pack": [2]},
        late={"publish.commit": 0.2},
        apart=True,
    )
    dies = -signal.SIGKILL
    assert host(plan, f"{tmp_path.name}-a", "publish.commit", "local.pack", "local.pack", "local.pack") == dies
    assert [name for name, _ in chaos.struck(plan.log)] == ["publish.commit"]
    assert host(plan, f"{tmp_path.name}-b", "publish.commit", "local.pack") == dies
    assert [name for name, _ in chaos.struck(plan.log)] == ["publish.commit", "local.pack"]
    assert host(plan, f"{tmp_path.name}-c", "publish.commit", "local.pack", "local.pack") == 0
    assert len({pid for _, pid in chaos.struck(plan.log)}) == 2


def test_a_number_strikes_at_that_hit_alone(tmp_path: Path) -> None:
    plan = chaos.Plan(log=str(tmp_path / "hits"), at={"local.pack": [2]})
    assert host(plan, f"{tmp_path.name}-a", "local.pack", "publish.commit") == 0
    assert host(plan, f"{tmp_path.name}-b", "local.pack") == -signal.SIGKILL
    assert host(plan, f"{tmp_path.name}-c", "local.pack", "local.pack") == 0
    assert [name for name, _ in chaos.hits(plan.log)] == ["local.pack", "publish.commit", *["local.pack"] * 3]
