"""What a keeper may do about one run: a pure function from what is known to one action.

    decide(head, evidence) -> Nothing | Launch | ClearPendingLaunch | MarkFailed | MarkStopped | Stop

Rules (docs/design.md, "Expiry", "Who launches"):

* A holder is dead if its launcher *knows* it (``gone``), or if it was silent for its ttl. A failed status call proves
  nothing; neither does slowness.
* The ``(term, heartbeat)`` that was declared dead goes with the launch: the attempt acquires the lease only from
  exactly that pair.
* A pending launch is some keeper's launch in flight. It stands until its attempt is known to be gone; or, if no
  launcher here has seen the attempt, until the run record has not changed for its grace.
* The budget counts attempts that acquired the lease (the term) plus launches that did not (``head.launches``). A second
  budget counts those since the newest checkpoint: deaths without progress.
* The pause before a relaunch is computed from the run record alone, jitter included, so all keepers wait equally long.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from qcity_nb.ports import Observation
from qcity_nb.records import Failure, Head, Heartbeat, PendingLaunch

__all__ = [
    "Action",
    "ClearPendingLaunch",
    "Evidence",
    "Launch",
    "MarkFailed",
    "MarkStopped",
    "Nothing",
    "Stop",
    "attempts_made",
    "attempts_without_progress",
    "backoff_s",
    "count_repeats",
    "decide",
    "failed_launches",
    "declare_dead",
]

_USAGE = 2
"""Exit code of an attempt that can never work (``errors.UsageError``)."""
_SUPERFLUOUS = (4, 5)
"""Exit codes of an attempt that saw the run stopped, ended or held: its launch did not fail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What one keeper knows at this moment, beside the run record."""

    holder: Observation | None = None
    """What its launcher says of the holder's attempt; ``None``: no launcher here has seen it."""
    pending: Observation | None = None
    """The same for the pending launch's attempt."""
    silent: Heartbeat | None = None
    """The ``(term, heartbeat)`` that an ``Observer`` saw unchanged for the holder's ttl."""
    unchanged_s: float = 0.0
    """How long the run record has not changed, by the store's clock or the keeper's own."""
    stalled_s: float = 0.0
    """How long this keeper has seen the holder alive without a newer checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nothing:
    """Leave the run alone."""

    reason: str
    wait_s: float | None = None
    """After how long the answer may change; ``None``: look again at the keeper's own pace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Write a pending launch, then launch; once ``delay_s`` has passed."""

    declared_dead: Heartbeat
    host: str
    delay_s: float
    reason: str
    death: str = ""
    """Why the holder is declared dead; empty if nobody held the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClearPendingLaunch:
    """Withdraw the pending launch: its attempt will not acquire the lease any more."""

    reason: str
    is_failure: bool
    """Does it count against the budget?"""


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkFailed:
    """Give the run up."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkStopped:
    """Record the stop: a stop was asked for, and no attempt is left that could do it."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """End the attempt: it lives, but the user's ``stall_timeout`` is over; or it has not begun and is not needed."""

    attempt: str
    host: str
    reason: str


Action = Nothing | Launch | ClearPendingLaunch | MarkFailed | MarkStopped | Stop


def failed_launches(head: Head) -> int:
    """Launches since the newest lease that failed before their attempt began."""
    return head.launches.failed if head.launches.term == head.term else 0


def attempts_made(head: Head) -> int:
    """Attempts and failed launches that count against ``relaunch.max_attempts``."""
    return head.term - head.launches.since_term + failed_launches(head)


def attempts_without_progress(head: Head) -> int:
    """Attempts and failed launches since the newest checkpoint, or since a person last resumed the run."""
    progress = max(head.checkpoint.term if head.checkpoint else 0, head.launches.since_term)
    return max(0, head.term - progress) + failed_launches(head)


def count_repeats(failure: Failure, before: Failure | None, *, term: int) -> Failure:
    """The failure of the attempt with this term; it was the same as the one before, or is the first of its kind."""
    times = before.times + 1 if before is not None and before.signature == failure.signature else 1
    return replace(failure, term=term, times=times)


def backoff_s(head: Head) -> float:
    """The pause before the next launch, in seconds, counted from the run record's last change.

    0 before the first attempt, after progress, and after the first death without progress. Then it doubles each time,
    up to ``relaunch.backoff_max_s``, and jitter reduces it by up to half. The jitter is drawn from the run's id and
    term: it spreads runs, not the keepers of one run.
    """
    times = attempts_without_progress(head)
    if times <= 1:
        return 0.0
    full = min(head.relaunch.backoff_max_s, head.relaunch.backoff_s * 2.0 ** min(times - 2, 60))
    jitter = random.Random(f"{head.run}/{head.term}/{failed_launches(head)}").random()
    return full * (0.5 + 0.5 * jitter)


def declare_dead(head: Head, evidence: Evidence) -> tuple[Heartbeat, str] | None:
    """The heartbeat to declare dead, and why; ``None`` if nobody holds the run, or the holder may be alive."""
    if head.holder is None:
        return None
    if evidence.holder is not None and evidence.holder.state == "gone":
        return head.seen, evidence.holder.reason or "its process is gone"
    if evidence.silent is not None and evidence.silent == head.seen:
        return evidence.silent, f"silent for {head.holder.ttl_s:g} s"
    return None


def _decide_pending(
    head: Head, pending_launch: PendingLaunch, evidence: Evidence, hosts: Sequence[str]
) -> Action | None:
    """What to do about the pending launch; ``None``: decide as if there were none."""
    seen = evidence.pending
    if seen is not None and seen.state == "pending" and head.desired.state == "stopped":
        # It may wait for its hardware for hours, only to see then that it is not needed.
        return Stop(
            attempt=pending_launch.attempt, host=pending_launch.host, reason="a stop was asked for before it began"
        )
    if seen is not None and seen.state in ("pending", "running"):
        return Nothing(reason=f"attempt {pending_launch.attempt} is {seen.state}")
    if seen is not None and seen.state == "unknown":
        # It may be queued or booting. If its host does not answer, another launch there would not work either.
        return Nothing(reason=f"attempt {pending_launch.attempt}: {seen.reason or 'its host does not answer'}")
    took_lease = head.term != pending_launch.declared_dead.term
    if seen is not None and seen.state == "gone":
        if took_lease:
            return ClearPendingLaunch(reason=f"attempt {pending_launch.attempt} has ended", is_failure=False)
        reason = f"attempt {pending_launch.attempt} ended before it held the run: {seen.reason or 'reason unknown'}"
        if seen.exit_code == _USAGE and len(set(hosts)) <= 1:
            return MarkFailed(reason=reason)
        return ClearPendingLaunch(reason=reason, is_failure=seen.exit_code not in _SUPERFLUOUS)
    left_s = pending_launch.grace_s - evidence.unchanged_s
    if left_s > 0:
        return Nothing(reason=f"{pending_launch.keeper} is launching attempt {pending_launch.attempt}", wait_s=left_s)
    return ClearPendingLaunch(
        reason=f"attempt {pending_launch.attempt} did not appear within {pending_launch.grace_s:g} s",
        is_failure=not took_lease,
    )


def decide(head: Head, evidence: Evidence, *, hosts: Sequence[str]) -> Action:
    """The one thing that a keeper should do now.

    Args:
        hosts: those of ``head.desired.hosts`` that this keeper can launch on.
    """
    if head.is_over:
        return Nothing(reason=head.state)
    if head.state == "stopped":
        return Nothing(reason="stopped")

    death = declare_dead(head, evidence)
    if head.holder is not None and death is None:
        return _alive(head, evidence)
    if head.pending_launch is not None:
        action = _decide_pending(head, head.pending_launch, evidence, hosts)
        if action is not None:
            return action
    if head.desired.state == "stopped":
        return MarkStopped(reason="a stop was asked for, and nobody holds the run")
    if head.desired.manual:
        return Nothing(reason="manual: begun by hand, waits for `qcity resume`")
    return _relaunch(head, evidence, death, hosts)


def _alive(head: Head, evidence: Evidence) -> Action:
    assert head.holder is not None
    pending_launch = head.pending_launch
    if (
        pending_launch is not None
        and pending_launch.attempt != head.holder.attempt
        and evidence.pending is not None
        and evidence.pending.state == "gone"
    ):
        return ClearPendingLaunch(
            reason=f"attempt {pending_launch.attempt} has ended; the run is held", is_failure=False
        )
    limit_s = head.relaunch.stall_timeout_s
    if limit_s is not None and evidence.stalled_s >= limit_s and head.desired.state == "running":
        return Stop(
            attempt=head.holder.attempt,
            host=head.holder.host,
            reason=f"no new checkpoint for {limit_s:g} s (stall_timeout)",
        )
    if head.desired.state == "stopped":
        return Nothing(reason="a stop was asked for; the holder stops at its next loop boundary")
    return Nothing(reason=f"attempt {head.holder.attempt} holds the run")


def _relaunch(head: Head, evidence: Evidence, death: tuple[Heartbeat, str] | None, hosts: Sequence[str]) -> Action:
    why = death[1] if death else ""
    failure = head.failure
    if failure is not None and failure.cause == "notebook" and failure.times >= 2 and failure.term == head.term:
        return MarkFailed(reason=f"the notebook failed {failure.times} times in the same way: {failure.message}")
    last = why or head.launches.reason or (failure.message if failure else "") or "reason unknown"
    if attempts_made(head) >= head.relaunch.max_attempts:
        return MarkFailed(reason=f"the relaunch budget is spent: {attempts_made(head)} attempts; the last: {last}")
    idle = attempts_without_progress(head)
    if idle >= head.relaunch.max_attempts_without_progress:
        return MarkFailed(reason=f"{idle} attempts in a row made no new checkpoint; the last: {last}")
    if not hosts:
        return Nothing(reason=f"this keeper has no launcher for {', '.join(head.desired.hosts)}")
    delay_s = max(0.0, backoff_s(head) - evidence.unchanged_s)
    return Launch(
        declared_dead=death[0] if death else head.seen,
        # The first host as long as its attempts make progress; the next one after each that made none.
        host=hosts[idle % len(hosts)],
        delay_s=delay_s,
        reason="relaunch" if attempts_made(head) else "first attempt",
        death=why,
    )
