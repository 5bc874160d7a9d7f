"""The keeper's table: one case for everything that it may do, and for everything that it must not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qcity_nb.ports import Observation
from qcity_nb.records import (
    CheckpointRef,
    DesiredState,
    Failure,
    Head,
    Heartbeat,
    Holder,
    Launches,
    PendingLaunch,
    Relaunch,
)
from qcity_nb.run.policy import (
    ClearPendingLaunch,
    Evidence,
    Launch,
    MarkFailed,
    MarkStopped,
    Nothing,
    Stop,
    attempts_made,
    attempts_without_progress,
    backoff_s,
    decide,
)

NEW = Head(run="r-1", key="k", project="p", notebook="n.ipynb")
HOLDER = Holder(attempt="a1", host="local", ttl_s=10)
HELD = replace(NEW, term=1, heartbeat=7, holder=HOLDER)
PENDING = PendingLaunch(
    attempt="a2", host="local", keeper="k1", declared_dead=Heartbeat(term=1, heartbeat=7), grace_s=30
)
RUNNING = Observation(state="running")
GONE = Observation(state="gone", reason="killed by signal 9", exit_code=-9)
UNKNOWN = Observation(state="unknown", reason="the status call failed")
STOP = DesiredState(state="stopped")


def at(term: int, *, seq: int = 1) -> tuple[CheckpointRef, ...]:
    return (CheckpointRef(name="c", digest="d", seq=seq, term=term),)


def run(head: Head, hosts: tuple[str, ...] = ("local",), **evidence: object) -> object:
    return decide(head, Evidence(**evidence), hosts=hosts)  # type: ignore[arg-type]  # a table of keywords


@pytest.mark.parametrize("state", ["succeeded", "failed", "stopped"])
@pytest.mark.parametrize("holder", [None, HOLDER])
def test_a_run_that_ended_is_left_alone(state: str, holder: Holder | None) -> None:
    head = replace(NEW, term=1, state=state, holder=holder)  # type: ignore[arg-type]  # a table of states
    assert isinstance(run(head, holder=GONE, silent=head.seen), Nothing)


def test_a_new_run_is_launched_at_once() -> None:
    assert run(NEW) == Launch(
        declared_dead=Heartbeat(term=0, heartbeat=0), host="local", delay_s=0.0, reason="first attempt", death=""
    )


@pytest.mark.parametrize("seen", [None, RUNNING, UNKNOWN, Observation(state="pending")])
def test_a_holder_that_is_not_known_dead_is_left_alone(seen: Observation | None) -> None:
    assert isinstance(run(HELD, holder=seen, unchanged_s=1e9), Nothing)


def test_a_holder_whose_death_is_known_is_replaced_at_once() -> None:
    action = run(HELD, holder=GONE)
    assert isinstance(action, Launch)
    assert (action.declared_dead, action.delay_s) == (Heartbeat(term=1, heartbeat=7), 0.0)
    assert action.death == "killed by signal 9"


@pytest.mark.parametrize("seen", [None, RUNNING, UNKNOWN])
def test_a_silent_holder_is_replaced_even_if_its_process_is_there(seen: Observation | None) -> None:
    action = run(HELD, holder=seen, silent=Heartbeat(term=1, heartbeat=7))
    assert isinstance(action, Launch)
    assert "silent for 10 s" in action.death


def test_a_silence_that_has_ended_counts_for_nothing() -> None:
    assert isinstance(run(HELD, silent=Heartbeat(term=1, heartbeat=6)), Nothing)


def test_a_released_run_is_launched_again() -> None:
    action = run(replace(HELD, holder=None, checkpoints=at(1)))
    assert isinstance(action, Launch)
    assert (action.reason, action.death) == ("relaunch", "")


def test_a_manual_run_is_launched_by_nobody() -> None:
    manual = replace(HELD, desired=DesiredState(manual=True))
    assert isinstance(run(manual, holder=GONE), Nothing)
    assert isinstance(run(replace(manual, holder=None)), Nothing)


# --- stop


def test_a_stop_waits_for_the_holder() -> None:
    assert isinstance(run(replace(HELD, desired=STOP), holder=RUNNING), Nothing)


def test_a_stop_with_a_dead_holder_is_written_down() -> None:
    head = replace(HELD, desired=STOP)
    assert isinstance(run(head, holder=GONE), MarkStopped)
    assert isinstance(run(head, silent=Heartbeat(term=1, heartbeat=7)), MarkStopped)


def test_a_stop_without_a_holder_is_written_down() -> None:
    assert isinstance(run(replace(NEW, desired=STOP)), MarkStopped)


def test_a_stop_waits_for_an_attempt_in_flight() -> None:
    head = replace(HELD, holder=None, desired=STOP, pending_launch=PENDING)
    assert isinstance(run(head, pending=RUNNING), Nothing)
    assert isinstance(run(head), Nothing)
    assert isinstance(run(head, pending=GONE), ClearPendingLaunch)


# --- pending launch


@pytest.mark.parametrize("holder", [None, HOLDER])
@pytest.mark.parametrize("seen", [RUNNING, UNKNOWN, Observation(state="pending")])
def test_an_attempt_in_flight_is_waited_for(seen: Observation, holder: Holder | None) -> None:
    head = replace(HELD, holder=holder, pending_launch=PENDING)
    assert isinstance(run(head, holder=GONE, pending=seen, unchanged_s=1e9), Nothing)


def test_a_pending_launch_that_nobody_took_up_is_void_after_its_grace() -> None:
    head = replace(HELD, pending_launch=PENDING)
    early = run(head, holder=GONE, unchanged_s=12)
    assert isinstance(early, Nothing)
    assert early.wait_s == 18
    late = run(head, holder=GONE, unchanged_s=30)
    assert isinstance(late, ClearPendingLaunch)
    assert late.is_failure


def test_a_launch_that_came_to_nothing_counts() -> None:
    action = run(replace(HELD, pending_launch=PENDING), holder=GONE, pending=GONE)
    assert isinstance(action, ClearPendingLaunch)
    assert action.is_failure
    assert "killed by signal 9" in action.reason


def test_a_launch_that_found_the_run_held_does_not_count() -> None:
    seen = Observation(state="gone", exit_code=5)
    action = run(replace(HELD, holder=None, pending_launch=PENDING), pending=seen)
    assert isinstance(action, ClearPendingLaunch)
    assert not action.is_failure


def test_a_pending_launch_whose_attempt_held_the_run_meanwhile_does_not_count() -> None:
    head = replace(HELD, term=2, holder=None, pending_launch=PENDING)
    action = run(head, pending=GONE)
    assert isinstance(action, ClearPendingLaunch)
    assert not action.is_failure


def test_an_attempt_that_can_never_work_ends_the_run_unless_another_host_may() -> None:
    seen = Observation(state="gone", reason="exit code 2", exit_code=2)
    head = replace(NEW, pending_launch=replace(PENDING, declared_dead=Heartbeat(term=0, heartbeat=0)))
    assert isinstance(run(head, pending=seen), MarkFailed)
    assert isinstance(run(head, ("local", "hf-jobs"), pending=seen), ClearPendingLaunch)


def test_a_pending_launch_beside_a_live_holder_is_cleared_only_once_its_attempt_is_gone() -> None:
    head = replace(HELD, pending_launch=PENDING)
    assert isinstance(run(head, holder=RUNNING, pending=RUNNING), Nothing)
    assert isinstance(run(head, holder=RUNNING, pending=None, unchanged_s=1e9), Nothing)
    action = run(head, holder=RUNNING, pending=GONE)
    assert isinstance(action, ClearPendingLaunch)
    assert not action.is_failure


# --- budget


def test_the_budget_of_attempts_is_kept() -> None:
    head = replace(HELD, term=50, checkpoints=at(50))
    assert isinstance(run(head, holder=GONE), MarkFailed)
    assert isinstance(run(replace(head, term=49), holder=GONE), Launch)


def test_deaths_without_progress_are_counted_from_the_newest_checkpoint() -> None:
    head = replace(HELD, term=8, checkpoints=at(3))
    assert attempts_without_progress(head) == 5
    action = run(head, holder=GONE)
    assert isinstance(action, MarkFailed)
    assert "5 attempts" in action.reason
    assert "killed by signal 9" in action.reason
    assert isinstance(run(replace(head, checkpoints=at(4)), holder=GONE), Launch)


def test_failed_launches_count_until_one_takes_the_lease() -> None:
    head = replace(NEW, launches=Launches(failed=5, term=0, reason="exit code 1"))
    assert isinstance(run(head), MarkFailed)
    assert attempts_made(head) == 5
    assert attempts_made(replace(head, term=1)) == 1


def test_a_person_who_resumes_grants_a_new_budget() -> None:
    spent = replace(HELD, term=60, holder=None)
    assert isinstance(run(spent), MarkFailed)
    granted = replace(spent, launches=Launches(since_term=60))
    assert attempts_made(granted) == 0
    assert isinstance(run(granted), Launch)


def test_the_other_hosts_get_their_turn_after_attempts_that_brought_nothing() -> None:
    hosts = ("kaggle", "local")
    assert [action.host for term in range(4) if isinstance(action := run(replace(NEW, term=term), hosts), Launch)] == [
        "kaggle",
        "local",
        "kaggle",
        "local",
    ]
    kept = run(replace(NEW, term=3, checkpoints=at(3)), hosts)
    assert isinstance(kept, Launch)
    assert kept.host == "kaggle"


def test_without_a_launcher_nothing_is_done() -> None:
    assert isinstance(run(NEW, ()), Nothing)


# --- the notebook's own errors


def error(times: int) -> Head:
    failure = Failure(cause="notebook", signature="s", message="ValueError: no", term=1, times=times)
    return replace(HELD, holder=None, failure=failure)


def test_an_error_of_the_notebook_is_tried_once_more() -> None:
    assert isinstance(run(error(1)), Launch)


def test_the_same_error_twice_ends_the_run_even_if_the_attempt_did_not_say_so() -> None:
    assert isinstance(run(error(2)), MarkFailed)


def test_an_old_error_does_not_end_a_later_attempt() -> None:
    assert isinstance(run(replace(error(2), term=2)), Launch)


# --- back-off


def test_the_pause_grows_and_is_the_same_for_every_keeper() -> None:
    relaunch = Relaunch(backoff_s=1, backoff_max_s=20, max_attempts_without_progress=100, max_attempts=1000)
    pauses = [backoff_s(replace(NEW, term=term, relaunch=relaunch)) for term in range(12)]
    assert pauses[:2] == [0, 0]
    for term, pause in enumerate(pauses[2:], start=2):
        full = min(20, 2 ** (term - 2))
        assert full / 2 <= pause <= full
    assert pauses == [backoff_s(replace(NEW, term=term, relaunch=relaunch)) for term in range(12)]
    other = [backoff_s(replace(NEW, run="r-2", term=term, relaunch=relaunch)) for term in range(12)]
    assert other[2:] != pauses[2:]


def test_the_pause_is_over_when_the_head_has_rested_that_long() -> None:
    head = replace(HELD, term=4)
    early = run(head, holder=GONE)
    assert isinstance(early, Launch)
    assert early.delay_s == backoff_s(head) > 0
    late = run(head, holder=GONE, unchanged_s=backoff_s(head))
    assert isinstance(late, Launch)
    assert late.delay_s == 0


def test_an_attempt_that_has_yet_to_begin_is_called_off_with_the_run() -> None:
    pending = Observation(state="pending")
    launched = replace(NEW, pending_launch=PENDING)
    assert isinstance(run(launched, pending=pending), Nothing)
    action = run(replace(launched, desired=STOP), pending=pending)
    assert isinstance(action, Stop)
    assert (action.attempt, action.host) == (PENDING.attempt, PENDING.host)
    assert isinstance(run(replace(launched, desired=STOP), pending=RUNNING), Nothing), "it stops at its next boundary"
    assert isinstance(run(replace(launched, desired=STOP), pending=UNKNOWN), Nothing)


# --- stalls


def test_a_stalled_attempt_is_stopped_only_if_the_user_says_so() -> None:
    assert isinstance(run(HELD, holder=RUNNING, stalled_s=1e9), Nothing)
    limited = replace(HELD, relaunch=Relaunch(stall_timeout_s=60))
    assert isinstance(run(limited, holder=RUNNING, stalled_s=59), Nothing)
    action = run(limited, holder=RUNNING, stalled_s=60)
    assert isinstance(action, Stop)
    assert (action.attempt, action.host) == ("a1", "local")
