"""What a keeper may do about one run: a pure table from what is known to one action.

    decide(head, evidence) -> Nothing | Launch | ClearIntent | MarkFailed | MarkStopped | Stop

Rules (docs/design.md, "Expiry", "Who launches"):

* A holder is dead when its launcher *knows* (``gone``), or when it was silent for its ttl. A status call that
  failed proves nothing; neither does slowness.
* The ``(epoch, beat)`` judged dead goes with the launch: the attempt takes the lease only from exactly that.
* An intent is somebody's launch in flight. It is followed until its attempt is known to be gone, or, when no
  launcher here has heard of it, until the head has not changed for its grace.
* The budget counts attempts that took the lease (the epoch) plus those that did not (``head.launches``), and
  apart from that those since the newest checkpoint: deaths that made no progress.
* The pause before a relaunch comes from the head alone, jitter included, so every keeper waits the same.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from qcity_nb.ports import Observation
from qcity_nb.records import Head, Heartbeat, PendingLaunch

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
    "decide",
    "failed_launches",
    "declare_dead",
]

_USAGE = 2
"""Exit code of an attempt that can never work (``errors.UsageError``)."""
_SUPERFLUOUS = (4, 5)
"""Exit codes of an attempt that found the run stopped, ended or held: its launch did not fail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What one keeper knows at this moment, beside the head."""

    holder: Observation | None = None
    """The launcher's word on the holder's attempt; ``None``: no launcher here has heard of it."""
    pending: Observation | None = None
    """The same for the intent's attempt."""
    silent: Heartbeat | None = None
    """The ``(epoch, beat)`` that an ``Observer`` found silent for its ttl."""
    unchanged_s: float = 0.0
    """How long the head has been as it is, by the store's clock or the keeper's own."""
    stalled_s: float = 0.0
    """How long this keeper has seen the holder alive without a newer checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nothing:
    """Leave the run alone."""

    reason: str
    wait_s: float | None = None
    """When looking again may change the answer; ``None``: at the keeper's own pace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Write an intent and launch, once ``delay_s`` has passed."""

    declared_dead: Heartbeat
    host: str
    delay_s: float
    reason: str
    death: str = ""
    """Why the holder is judged dead; empty when nobody held the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClearPendingLaunch:
    """Take the intent back: nothing will come of it."""

    reason: str
    is_failure: bool
    """Whether it counts against the budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkFailed:
    """Give the run up for good."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkStopped:
    """Nobody is left to answer the wish to stop: write it down."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """End the attempt: it lives, but the user's ``stall_timeout`` is over; or it has yet to begin and should not."""

    attempt: str
    host: str
    reason: str


Action = Nothing | Launch | ClearPendingLaunch | MarkFailed | MarkStopped | Stop


def failed_launches(head: Head) -> int:
    """Launches since the newest lease that came to nothing."""
    return head.launches.failed if head.launches.term == head.term else 0


def attempts_made(head: Head) -> int:
    """Attempts that count against ``relaunch.attempts``."""
    return head.term - head.launches.since_term + failed_launches(head)


def attempts_without_progress(head: Head) -> int:
    """Attempts since the newest checkpoint, or since a person last resumed the run."""
    progress = max(head.checkpoint.term if head.checkpoint else 0, head.launches.since_term)
    return max(0, head.term - progress) + failed_launches(head)


def backoff_s(head: Head) -> float:
    """The pause before the next launch, in seconds, counted from the head's last change.

    None for a first attempt, after progress, and for the first death without it; then doubling, up to
    ``relaunch.backoff_max_s``, between half and all of it. The jitter is drawn from the run's id and epoch,
    so that it spreads runs, not the keepers of one run.
    """
    times = attempts_without_progress(head)
    if times <= 1:
        return 0.0
    full = min(head.relaunch.backoff_max_s, head.relaunch.backoff_s * 2.0 ** min(times - 2, 60))
    jitter = random.Random(f"{head.run}/{head.term}/{failed_launches(head)}").random()
    return full * (0.5 + 0.5 * jitter)


def declare_dead(head: Head, evidence: Evidence) -> tuple[Heartbeat, str] | None:
    """The beat judged dead and why; ``None`` without a holder, or while it must be taken for alive."""
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
    """What the intent calls for; ``None``: nothing, go on as if there were none."""
    seen = evidence.pending
    if seen is not None and seen.state == "pending" and head.desired.state == "stopped":
        # It may wait for its hardware for hours, and would then find that nothing is left to do.
        return Stop(
            attempt=pending_launch.attempt, host=pending_launch.host, reason="a stop was asked for before it had begun"
        )
    if seen is not None and seen.state in ("pending", "running"):
        return Nothing(reason=f"attempt {pending_launch.attempt} is {seen.state}")
    if seen is not None and seen.state == "unknown":
        # It may be queued or booting; where its host cannot be asked, no other launch would work either.
        return Nothing(reason=f"attempt {pending_launch.attempt}: {seen.reason or 'its host does not answer'}")
    took_lease = head.term != pending_launch.declared_dead.term
    if seen is not None and seen.state == "gone":
        if took_lease:
            return ClearPendingLaunch(reason=f"attempt {pending_launch.attempt} has ended", is_failure=False)
        reason = f"attempt {pending_launch.attempt} ended before it held the run: {seen.reason or 'no reason given'}"
        if seen.exit_code == _USAGE and len(set(hosts)) <= 1:
            return MarkFailed(reason=reason)
        return ClearPendingLaunch(reason=reason, is_failure=seen.exit_code not in _SUPERFLUOUS)
    left_s = pending_launch.grace_s - evidence.unchanged_s
    if left_s > 0:
        return Nothing(reason=f"{pending_launch.keeper} is launching attempt {pending_launch.attempt}", wait_s=left_s)
    return ClearPendingLaunch(
        reason=f"attempt {pending_launch.attempt} did not show up within {pending_launch.grace_s:g} s",
        is_failure=not took_lease,
    )


def decide(head: Head, evidence: Evidence, *, hosts: Sequence[str]) -> Action:
    """The one thing that a keeper should do now.

    Args:
        hosts: those of ``head.wanted.hosts`` that this keeper can launch on.
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
        return Nothing(reason="attended: begun by hand, waits for `qcity resume`")
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
        return Nothing(reason="asked to stop; the holder does so at its next loop boundary")
    return Nothing(reason=f"attempt {head.holder.attempt} holds the run")


def _relaunch(head: Head, evidence: Evidence, death: tuple[Heartbeat, str] | None, hosts: Sequence[str]) -> Action:
    why = death[1] if death else ""
    failure = head.failure
    if failure is not None and failure.cause == "notebook" and failure.times >= 2 and failure.term == head.term:
        return MarkFailed(reason=f"the notebook failed {failure.times} times in the same way: {failure.message}")
    last = why or head.launches.reason or (failure.message if failure else "") or "no reason known"
    if attempts_made(head) >= head.relaunch.max_attempts:
        return MarkFailed(reason=f"{attempts_made(head)} attempts, the budget is spent; the last: {last}")
    idle = attempts_without_progress(head)
    if idle >= head.relaunch.max_attempts_without_progress:
        return MarkFailed(reason=f"{idle} attempts in a row made no new checkpoint; the last: {last}")
    if not hosts:
        return Nothing(reason=f"no launcher here for {', '.join(head.desired.hosts)}")
    delay_s = max(0.0, backoff_s(head) - evidence.unchanged_s)
    return Launch(
        declared_dead=death[0] if death else head.seen,
        # The first host while it serves; the next one after each attempt that brought nothing.
        host=hosts[idle % len(hosts)],
        delay_s=delay_s,
        reason="relaunch" if attempts_made(head) else "first attempt",
        death=why,
    )
