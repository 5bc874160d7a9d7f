"""When a host ends its session: the evidence in /proc, best first."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qcity_nb.clock import SystemClock
from qcity_nb.hosts.detect import NAMES
from qcity_nb.hosts.limits import LIMITS, limit_of, session
from qcity_nb.testing.clock import ManualClock

HOUR_S = 3600.0
TICKS = os.sysconf("SC_CLK_TCK")


def proc(folder: Path, *, one_s: float | None = None, up_s: float | None = None, self_s: float | None = None) -> Path:
    """A /proc in which processes began so long after the boot."""
    for pid, began_s in (("1", one_s), ("self", self_s)):
        if began_s is not None:
            (folder / pid).mkdir()
            fields = ["S", *["0"] * 18, str(int(began_s * TICKS)), "0"]
            (folder / pid / "stat").write_text(f"1 (a b) c) {' '.join(fields)}\n")
    if up_s is not None:
        (folder / "uptime").write_text(f"{up_s:.2f} 1.00\n")
    return folder


@pytest.mark.parametrize(
    ("one_s", "up_s", "self_s", "age_h", "evidence"),
    [
        (90 * HOUR_S, 100 * HOUR_S, 99 * HOUR_S, 10, "process 1"),  # a container on a machine that is up for days
        (None, 5 * HOUR_S, 99 * HOUR_S, 5, "this machine's boot"),  # process 1 is hidden
        (0, 100 * HOUR_S, 99 * HOUR_S, 1, "this process"),  # one's own computer
        (101 * HOUR_S, 100 * HOUR_S, 99 * HOUR_S, 1, "this process"),  # clocks that do not fit
        (None, None, None, 0, "this process"),  # no /proc
    ],
)
def test_the_best_evidence_counts(
    tmp_path: Path, one_s: float | None, up_s: float | None, self_s: float | None, age_h: float, evidence: str
) -> None:
    clock = ManualClock(100 * HOUR_S)
    if evidence == "this process" and up_s is not None:
        up_s = 100 * HOUR_S
    result = session(12 * HOUR_S, clock=clock, proc=proc(tmp_path, one_s=one_s, up_s=up_s, self_s=self_s))
    assert result.evidence == evidence
    assert result.age_s == pytest.approx(age_h * HOUR_S, abs=0.1)
    assert result.ends_at_s == pytest.approx((100 + 12 - age_h) * HOUR_S, abs=0.1)


def test_rubbish_is_no_evidence(tmp_path: Path) -> None:
    folder = proc(tmp_path)
    (folder / "1").mkdir()
    (folder / "1" / "stat").write_text("1 (init) S")
    (folder / "uptime").write_text("")
    assert session(HOUR_S, clock=ManualClock(), proc=folder).evidence == "this process"


def test_this_process_on_this_machine() -> None:
    now_s = SystemClock().now_s()
    result = session(1e9)
    assert 0 <= result.age_s <= now_s + 1
    assert result.ends_at_s == pytest.approx(now_s + 1e9 - result.age_s, abs=5)
    assert session(0.001).evidence == "this process"


def test_every_limit_belongs_to_a_host_that_can_be_named_and_says_its_source() -> None:
    assert LIMITS.keys() <= set(NAMES)
    assert all(limit.source.startswith("https://") and limit.limit_s > 0 for limit in LIMITS.values())
    assert limit_of("plain", {}) is None
    assert limit_of("actions", {"RUNNER_ENVIRONMENT": "self-hosted"}) not in (None, LIMITS["actions"])
