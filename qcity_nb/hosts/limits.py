"""How long a host lets a session live, and how old this session is.

Kaggle, Colab, GitHub Actions and HF Jobs end a session at a fixed age, without a warning. Nothing here promises that
it lives that long.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qcity_nb.clock import Clock, SystemClock

__all__ = ["LIMITS", "Limit", "Session", "limit_of", "session"]

_HOUR_S = 3600.0
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A host's limit, and where it is documented."""

    limit_s: float
    source: str


LIMITS: Mapping[str, Limit] = {
    "kaggle": Limit(limit_s=12 * _HOUR_S, source="https://www.kaggle.com/docs/notebooks"),
    # Paid plans: up to 24 h. A session older than 12 h shows that it is one of these, see kernel/save_policy.py.
    "colab": Limit(limit_s=12 * _HOUR_S, source="https://research.google.com/colaboratory/faq.html"),
    # The default: a job cannot see its own timeout. Whoever gives it another timeout also sets `session_limit`.
    "hf-job": Limit(limit_s=0.5 * _HOUR_S, source="https://huggingface.co/docs/huggingface_hub/guides/jobs"),
    "actions": Limit(limit_s=6 * _HOUR_S, source="https://docs.github.com/en/actions/reference/limits"),
}
"""By the host's name (``detect.NAMES``)."""

_SELF_HOSTED = Limit(
    limit_s=5 * 24 * _HOUR_S,
    source="https://docs.github.com/en/actions/reference/usage-limits-for-self-hosted-runners",
)


def limit_of(host: str, environ: Mapping[str, str]) -> Limit | None:
    """The limit of a host by name; ``None`` if none is known."""
    if host == "actions" and environ.get("RUNNER_ENVIRONMENT") == "self-hosted":
        return _SELF_HOSTED
    return LIMITS.get(host)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """This host's session, as far as it is known."""

    limit_s: float
    age_s: float
    """How long ago it began."""
    evidence: str
    """How its age was determined."""
    ends_at_s: float
    """When the limit is reached, in the time of ``clock.now_s``."""


def session(limit_s: float, *, clock: Clock | None = None, proc: Path = _PROC) -> Session:
    """When the session of this process began, and when the host will end it.

    The best evidence comes first: the start of process 1 (in a container its own), then the machine's boot. Each counts
    only if it is younger than the limit, since a computer of one's own is often older. Else: the start of this process.

    Args:
        limit_s: how long the session may live.
        clock: one that counts since this machine's boot, such as Linux's CLOCK_BOOTTIME.
        proc: the directory ``/proc``; tests pass another one.
    """
    clock = clock or SystemClock()
    now_s = clock.now_s()
    ages = {"process 1": _age_s(proc, "1", now_s), "this machine's boot": _uptime_s(proc)}
    young = {evidence: age_s for evidence, age_s in ages.items() if age_s is not None and 0 <= age_s < limit_s}
    evidence = next(iter(young), "this process")
    age_s = young.get(evidence, max(_age_s(proc, "self", now_s) or 0.0, 0.0))
    return Session(limit_s=limit_s, age_s=age_s, evidence=evidence, ends_at_s=now_s + limit_s - age_s)


def _age_s(proc: Path, pid: str, now_s: float) -> float | None:
    """How old a process is; its start is counted in ticks since the boot (proc(5), field 22)."""
    try:
        text = (proc / pid / "stat").read_text(encoding="utf-8", errors="replace")
        return now_s - int(text.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return None


def _uptime_s(proc: Path) -> float | None:
    try:
        return float((proc / "uptime").read_text(encoding="ascii").split()[0])
    except (OSError, IndexError, ValueError):
        return None
