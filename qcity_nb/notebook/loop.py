"""`city.loop`: iterate, and go on where a dead host stopped.

    for epoch in city.loop(range(100), state={"model": model, "optimizer": optimizer}):
        …

An iteration is finished when the next item is asked for: there is the boundary, there the state is captured, there a
stop or a lost lease is raised. See docs/design.md, "Runs, loops, steps".
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from qcity_nb.checkpoint.capture import check_state, restore, restore_generators
from qcity_nb.notebook.pace import Every, Pace, pace
from qcity_nb.notebook.session import Loop, Scope, Session

__all__ = ["begin"]

T = TypeVar("T")

SLOW_SKIP_S = 1.0
"""Consuming finished items of an iterable for longer than this is told to the user."""


def begin(session: Session, items: Iterable[T], state: object, every: Every, name: str | None) -> Iterator[T]:
    """Check the arguments at once; the iteration itself begins with the first item asked for.

    Raises:
        StateRefused: ``state`` is immutable, so it could not be restored in place.
        UsageError: ``every`` means nothing.
    """
    check_state(state)
    return _run(session, items, state, pace(every), name)


def _resolve(items: Any) -> tuple[Any, int | None, bool]:
    """Items, how many they are if that can be told, and whether they can be indexed."""
    if hasattr(items, "__getitem__") and hasattr(items, "__len__") and not isinstance(items, Mapping):
        return items, len(items), True
    total = len(items) if hasattr(items, "__len__") else None
    return items, total, False


def _enter(session: Session, state: object, name: str | None, total: int | None) -> tuple[Loop, bool]:
    """The loop that begins here, new or as a checkpoint knows it; and whether it is to be restored."""
    key = session.key_of(name)
    known = session.loops.get(key)
    parent = session.open[-1] if session.open else None
    if known is not None and known.finished and known.touched:
        # Run again in the same kernel: a new pass. The count over the whole run goes on.
        known = Loop(key=key, name=known.name, count=known.count, passes=known.passes + 1)
        is_known = False
    elif known is None or known.saved_generators is None:
        known = Loop(key=key, name=name or key, count=known.count if known else 0)
        is_known = False
    else:
        is_known = True
    known.total, known.state, known.parent = total, state, parent
    known.touched, known.left = True, False
    session.loops[key] = known
    if parent is not None:
        parent.has_inner = True
        parent.has_sequence = parent.has_sequence or session.scopes[-1].loops > 1
    return known, is_known


def _restore(session: Session, loop: Loop) -> None:
    captured, generators = session.restored(loop)
    if captured is not None and loop.state is not None:
        restore(loop.state, captured)
    loop.out_from = session.recorder.mark()
    session.replay(loop)
    loop.out_from = session.recorder.mark()
    if generators is not None:
        restore_generators(generators)


def _run(session: Session, items: Iterable[T], state: object, when: Pace, name: str | None) -> Iterator[T]:
    session.check()
    source, total, is_indexed = _resolve(items)
    loop, is_known = _enter(session, state, name, total)
    session.open.append(loop)
    loop.started_s = session.clock.now_s()
    if is_known:
        _restore(session, loop)
        session.note("loop", loop=loop.name, done=loop.done, total=total, finished=loop.finished, seq=session.seq)
        if loop.finished:
            session.open.remove(loop)
            return
    else:
        loop.out_from = session.recorder.mark()
        # At the start, before any work: state that cannot be saved is told now, not after a night.
        session.snapshot(loop)
        if loop.parent is None:
            session.save("loop begins", step=loop.count)
            session.stop_if_asked()
    loop.started_done = loop.done
    saved_done = loop.done
    values = _rest(session, source, loop.done, is_indexed=is_indexed)
    scope = session._scope(loop.key, loop.count, loop.count)
    session.scopes.append(scope)
    complete = False
    try:
        while True:
            try:
                value = next(values)
            except StopIteration:
                complete = True
                break
            yield value
            _drop_left(session, loop, scope)
            loop.done += 1
            loop.count += 1
            loop.is_fresh = False
            loop.snap = None
            session.drop_inner(loop)
            scope = session.scopes[-1] = session._scope(loop.key, loop.count, loop.count)
            session.check()
            stop = bool(session.look().stop)
            due = (
                stop
                or session.force
                or when.is_due(
                    iterations=loop.done - saved_done,
                    elapsed_s=session.clock.now_s() - session.saved_at_s,
                    cost_s=session.save_s,
                )
            )
            if total is not None and loop.done >= total and not stop:
                continue  # it is over: the final state is saved as such
            if due or loop.has_inner:
                session.snapshot(loop)
            if due and session.can_save():
                session.save("stop" if stop else "every", step=loop.count)
                saved_done = loop.done
            if stop:
                session.stop_if_asked()
    finally:
        if complete:
            if session.scopes[-1] is scope:
                session.scopes.pop()
            session.finish_loop(loop)
            if loop in session.open:
                session.open.remove(loop)
        else:
            loop.left = True
    session.stop_if_asked()


def _drop_left(session: Session, loop: Loop, scope: Scope) -> None:
    """Back in ``loop``: inner loops that never ended (their iterator is still held) are over with the iteration."""
    while session.open and session.open[-1] is not loop and loop in session.open:
        session.open.pop()
    while session.scopes and session.scopes[-1] is not scope and scope in session.scopes:
        session.scopes.pop()


def _rest(session: Session, source: Any, done: int, *, is_indexed: bool) -> Iterator[Any]:
    """The items after the finished ones."""
    if is_indexed:
        for index in range(done, len(source)):
            yield source[index]
        return
    values = iter(source)
    began = time.monotonic()
    told = False
    for n in range(done):
        try:
            next(values)
        except StopIteration:
            return
        if not told and time.monotonic() - began > SLOW_SKIP_S:
            told = True
            session.note("slow-skip", done=done, at=n)
            warnings.warn(
                f"city.loop goes through {done} finished items of an iterable to reach the next one; "
                "a sequence (a list, a range) would be indexed at once",
                stacklevel=4,
            )
    yield from values
