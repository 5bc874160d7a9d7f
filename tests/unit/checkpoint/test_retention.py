"""Which checkpoints stay, against a brute-force oracle; and that nothing that is gone is asked for again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcity_nb.checkpoint.retention import MAX_KEPT, Candidate, Keep, check_name, keep_of, names_left, select
from qcity_nb.errors import UsageError


@st.composite
def histories(draw: st.DrawFn, *, most: int = 40) -> list[Candidate]:
    """Checkpoints oldest first; steps mostly grow, and go back where an attempt resumed from an older one."""
    step, made = 0, []
    for seq in range(1, draw(st.integers(0, most)) + 1):
        step = max(step + draw(st.sampled_from([0, 1, 1, 2, 7, -3])), 0)
        value = draw(st.none() | st.sampled_from([math.nan, -1.0, 0.0, 0.5, 0.5, 2.0]))
        name = draw(st.sampled_from(["", "", "", "", "mine"]))
        made.append(Candidate(seq=seq, step=step, value=value, name=name))
    return made


keeps = st.builds(
    Keep,
    last=st.integers(1, 5),
    every=st.none() | st.integers(1, 6),
    best=st.none() | st.just("score"),
    best_mode=st.sampled_from(["max", "min"]),
)


def oracle(history: Sequence[Candidate], keep: Keep) -> list[int]:
    """Every rule spelled out for each checkpoint on its own."""
    kept = []
    for candidate in history:
        newer = [other for other in history if other.seq > candidate.seq]
        older = [other for other in history if other.seq < candidate.seq]
        values = [c.value for c in history if c.value is not None and not math.isnan(c.value)]
        is_last = len(newer) < keep.last
        is_first = keep.every is not None and not any(
            c.step // keep.every == candidate.step // keep.every for c in older
        )
        top = (max if keep.best_mode == "max" else min)(values) if values else None
        is_best = (
            keep.best is not None and top is not None and candidate.value == top and all(c.value != top for c in older)
        )
        if is_last or is_first or is_best or candidate.name:
            kept.append(candidate.seq)
    return kept[::-1]


def fold(history: Sequence[Candidate], keep: Keep, limit: int = MAX_KEPT) -> list[list[Candidate]]:
    """What the head holds after each publish."""
    held: list[Candidate] = []
    held_after = []
    for candidate in history:
        held = select([candidate, *held], keep, limit=limit)
        held_after.append(held)
    return held_after


def seqs(kept: Sequence[Candidate]) -> list[int]:
    return [candidate.seq for candidate in kept]


@given(histories(), keeps, st.randoms(use_true_random=False))
def test_it_agrees_with_the_oracle_in_any_order(history: list[Candidate], keep: Keep, chance: Any) -> None:
    expected = oracle(history, keep)
    assert seqs(select(history, keep)) == expected
    shuffled = list(history)
    chance.shuffle(shuffled)
    assert seqs(select(shuffled, keep)) == expected


@given(histories(), keeps)
def test_publish_by_publish_it_comes_to_the_same_as_with_all_of_history(history: list[Candidate], keep: Keep) -> None:
    for n, held in enumerate(fold(history, keep), start=1):
        assert seqs(held) == oracle(history[:n], keep)


@given(histories(), keeps, st.integers(1, 12))
def test_what_was_dropped_is_never_selected_again(history: list[Candidate], keep: Keep, limit: int) -> None:
    dropped: set[int] = set()
    for n in range(1, len(history) + 1):
        kept = set(seqs(select(history[:n], keep, limit=limit)))
        assert not kept & dropped
        dropped |= {candidate.seq for candidate in history[:n]} - kept


@given(histories(), keeps, st.integers(4, 12))
def test_a_full_run_record_keeps_names_the_best_and_the_newest(
    history: list[Candidate], keep: Keep, limit: int
) -> None:
    # Names are refused as they are by the publisher.
    held: list[Candidate] = []
    best: Candidate | None = None
    for candidate in history:
        named = sum(1 for each in held if each.name)
        new = candidate if names_left(named, keep, limit=limit) else replace(candidate, name="")
        names_before = {each.seq for each in held if each.name}
        held = select([new, *held], keep, limit=limit)
        assert seqs(held) == sorted(seqs(held), reverse=True)
        assert len(held) <= max(limit, keep.last + (keep.best is not None))
        assert held[0] == new
        assert names_before <= set(seqs(held))
        assert new.seq in seqs(held)
        aim = keep.goal
        if aim is not None:
            if new.value is not None and aim.is_better(new.value, best.value if best is not None else None):
                best = new
            assert best is None or best.seq in seqs(held)


def test_those_of_every_thin_out_oldest_first() -> None:
    history = [Candidate(seq=n, step=n * 10, value=float(-n), name="first" if n == 2 else "") for n in range(1, 301)]
    kept = seqs(select(history, Keep(last=3, every=10, best="score")))
    assert len(kept) == MAX_KEPT
    assert kept == [*range(300, 102, -1), 2, 1]  # 1 is the best
    assert seqs(fold(history, Keep(last=3, every=10, best="score"))[-1]) == kept


def test_names_are_refused_before_the_run_record_is_full() -> None:
    keep = Keep(last=3, best="acc")
    assert names_left(0, keep) == MAX_KEPT - 4
    assert names_left(MAX_KEPT - 4, keep) == 0
    assert names_left(MAX_KEPT, keep) == 0
    history = [Candidate(seq=n, step=n, name=str(n)) for n in range(1, MAX_KEPT + 1)]
    wide = Keep(last=100)  # raised later: names do not give way, the newest stays
    kept = seqs(select([*history, Candidate(seq=999, step=999)], wide))
    assert kept == [999, *range(MAX_KEPT, 0, -1)]


def test_the_first_of_each_bucket_of_steps_stays() -> None:
    history = [Candidate(seq=n, step=step) for n, step in enumerate([0, 4, 8, 12, 17, 19, 31, 30], start=1)]
    assert seqs(select(history, Keep(last=1, every=10))) == [8, 7, 4, 1]
    assert seqs(select(history, Keep(last=1))) == [8]
    assert select([], Keep()) == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: Keep(last=0),
        lambda: Keep(last=101),
        lambda: Keep(last=True),
        lambda: Keep(every=0),
        lambda: Keep(every=1.5),  # type: ignore[arg-type]  # that is the mistake
        lambda: Keep(best=" "),
        lambda: Keep(best="acc", best_mode="up"),  # type: ignore[arg-type]  # that is the mistake
        lambda: check_name(""),
        lambda: check_name("  "),
        lambda: check_name("x" * 101),
        lambda: check_name("a\nb"),
        lambda: check_name(3),  # type: ignore[arg-type]  # that is the mistake
    ],
)
def test_what_cannot_be_is_refused(make: Any) -> None:
    with pytest.raises(UsageError):
        make()


def test_the_settings_say_it_in_one_word() -> None:
    assert keep_of(3, None, "") == Keep()
    assert keep_of(5, 100, "acc") == Keep(last=5, every=100, best="acc")
    assert keep_of(3, None, "fid:min") == Keep(best="fid", best_mode="min")
    assert keep_of(3, None, "a:b") == Keep(best="a:b")
    keep = keep_of(3, None, "score:max").goal
    assert keep is not None
    assert keep.mode == "max"
