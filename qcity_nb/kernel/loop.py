"""`city.loop`: iterate, and resume where a dead host stopped.

    for epoch in city.loop(range(100), state={"model": model, "optimizer": optimizer}):
        …

An iteration is finished when the next item is asked for. That is the boundary: the state is captured there, and a stop
or a lost lease is raised there. See docs/design.md, "Runs, loops, steps".
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal, TypeVar

from qcity_nb.checkpoint.state.capture import capture_generators, check_state, restore, restore_generators
from qcity_nb.checkpoint.state.freezer import Lazily
from qcity_nb.errors import UsageError
from qcity_nb.kernel.changes.auto_state import AutoState
from qcity_nb.kernel.changes.caller import Caller
from qcity_nb.kernel.changes.item_record import ItemRecord
from qcity_nb.kernel.changes.moved_loops import KEY, same_place
from qcity_nb.kernel.changes.random_draws import generator_states
from qcity_nb.kernel.changes.state_check import StateCheck
from qcity_nb.kernel.items import Items
from qcity_nb.kernel.loop_state import Loop
from qcity_nb.kernel.save_clock import SaveClock
from qcity_nb.kernel.save_policy import Every, Pace, pace
from qcity_nb.kernel.session import Session

__all__ = ["Changed", "LoopOptions", "begin"]

T = TypeVar("T")

Changed = Literal["restart", "resume"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopOptions:
    """How a loop is to run: the arguments of ``city.loop`` (``City.loop`` explains them)."""

    every: Every = None
    name: str | None = None
    lazy: bool | None = None
    changed: Changed | None = None
    strict_state: bool = False


def begin(
    session: Session, items: Iterable[T], state: object, options: LoopOptions, frame: FrameType | None = None
) -> Iterator[T]:
    """Check the arguments now; the iteration begins when the first item is asked for.

    Args:
        frame: the user's code that the loop stands in; without it, nothing is said of what ``state`` lacks.
    Raises:
        StateRefused: ``state`` is immutable, so it could not be restored in place.
        UsageError: ``every`` or ``changed`` is not valid, or ``items`` cannot be iterated or have no order, or
            ``state="auto"`` cannot know or set the variables.
    """
    caller = Caller.of(frame) if frame is not None else None
    auto = AutoState(caller) if isinstance(state, str) and state == "auto" and caller is not None else None
    check_state(state if auto is None else auto.entries)
    if not hasattr(items, "__iter__") and not hasattr(items, "__getitem__"):
        hint = f"; did you mean range({items})?" if isinstance(items, int) else ""
        raise UsageError(f"city.loop: a {type(items).__name__} has no items{hint}")
    if isinstance(items, set | frozenset):
        raise UsageError(
            f"city.loop: a {type(items).__name__} comes in another order in the next process, so a resumed loop would"
            " do some items twice and others never: write sorted(…), or a list"
        )
    if options.changed not in (None, "restart", "resume"):
        raise UsageError(f'city.loop(changed={options.changed!r}): write "restart" or "resume", or leave it out')
    code = session.loop_edits.reader.read(frame)
    return _run(session, items, state if auto is None else auto, pace(options.every), options, caller, code)


def _find(session: Session, name: str | None, code: Mapping[str, Any]) -> tuple[Loop, bool]:
    """The loop that begins here, new or from a checkpoint; and whether it is to be restored."""
    key = session.key_of(name)
    place = key
    known, key = session.loop_edits.moved.find(session, key, code, name)
    source = session.cell[1]
    if known is not None and known.saved_generators is not None:
        if not (known.finished and session.finished_passes.get(known.key) == known.passes):
            known.source = source
            return known, True
        # Run again in the same kernel: a new pass. The count over the whole run continues.
        return _new_pass(known, code, source), False
    code = code if key == place else {**code, KEY: place}
    return Loop(key=key, name=name or key, source=source, count=known.count if known else 0, code=code), False


def _new_pass(loop: Loop, code: Mapping[str, Any], source: str) -> Loop:
    code = same_place(loop.code, code)
    return Loop(key=loop.key, name=loop.name, source=source, count=loop.count, passes=loop.passes + 1, code=code)


def _check_items(
    session: Session, loop: Loop, items: Items, options: LoopOptions, code: Mapping[str, Any]
) -> tuple[Loop, bool]:
    """Compare the finished items of a loop that is to be restored with those that it has now.

    Returns: the loop, and whether it is to be restored. ``changed="restart"`` makes a new pass, once: that has these.
    Raises:
        Changed: they are others, and nobody has decided what to do.
    """
    difference = loop.items.difference(items.source, loop.name)
    was, now = loop.items.total, items.total
    if difference and options.changed is None:
        advice = (
            f'write changed="resume" to continue after {loop.done} items with these, or changed="restart" to begin anew'
        )
        raise session.sidecar.refuse("items", f"{difference}; {advice}")
    is_longer = was is not None and now is not None and now > was
    if options.changed == "restart" and (difference or is_longer):
        session.announce("items", f"{difference or _length(loop, now)}; city.loop {loop.name!r} begins anew")
        session.drop_inner(loop)
        return _new_pass(loop, code, loop.source), False
    if difference:
        session.announce("items", f"{difference}; it continues after {loop.done} items")
    elif is_longer and loop.finished and options.changed is None:
        advice = 'changed="resume" does the others, changed="restart" begins anew'
        session.announce("items", f"{_length(loop, now)}; it is finished and is not re-run: {advice}")
    elif was is not None and now is not None and was != now:
        loop.finished = loop.finished and not is_longer
        session.announce("items", f"{_length(loop, now)}; it continues after {loop.done}")
    return loop, True


def _length(loop: Loop, now: int | None) -> str:
    return f"city.loop {loop.name!r} had {loop.items.total} items and has {now} now"


def _check_code(
    session: Session, loop: Loop, code: Mapping[str, Any], options: LoopOptions, *, is_known: bool
) -> tuple[Loop, bool, str]:
    """Compare the loop's code with that of its checkpoint. Returns as ``_check_items``, and what to announce."""
    session.loop_edits.moved.announce_orphans(session, loop)
    if not is_known:
        return loop, False, ""
    decision = session.loop_edits.decide(session, loop, code, options.changed)
    if decision.restarts:
        session.drop_inner(loop)
        return _new_pass(loop, decision.code, loop.source), False, decision.text
    loop.code = decision.code
    return loop, True, decision.text


def _slow(session: Session, done: int) -> Any:
    def tell(consumed: int) -> None:
        session.sidecar.note("slow-skip", done=done, at=consumed)
        warnings.warn(
            f"city.loop consumes {done} finished items of an iterable to reach the next one; "
            "a sequence (a list, a range) would be indexed instead",
            stacklevel=5,
        )

    return tell


def _resume(session: Session, loop: Loop, items: Items, options: LoopOptions, edit: str) -> Iterator[Any]:
    """Restore the loop's last boundary. Returns the items that are left.

    Raises:
        Changed: the finished items, consumed again, are others.
    """
    session.sidecar.note(
        "loop", loop=loop.name, done=loop.done, total=items.total, finished=loop.finished, seq=session.seq
    )
    # Items are consumed before the state is restored: their random draws came before that boundary.
    values: Iterator[Any] | None = iter(()) if loop.finished else None
    if loop.done and not loop.finished:
        begun = session.read(loop.saved_begun)
        if begun is not None:
            restore_generators(begun)  # a data loader draws its order when it begins
        again = ItemRecord()
        before = generator_states(loop.state)
        values = items.after(loop.done, _slow(session, loop.done), again.add)
        # Random items are others without the body's own draws in between, and the ones that follow are right.
        are_comparable = not items.is_indexed and generator_states(loop.state) == before
        text = loop.items.differs(again, loop.name) if are_comparable else ""
        if text and not loop.items.are_plain:
            session.announce("items", f"{text}; it continues after {loop.done} items")
        elif text and options.changed != "resume":
            advice = 'write changed="resume" to continue after them all the same, or use qcity.up(fresh=True)'
            raise session.sidecar.refuse("items", f"{text}; {advice}")
    state, generators = session.read_loop_state(loop)
    if loop.auto is not None:
        loop.auto.offer()
    if state is not None and loop.state is not None:
        restore(loop.state, state, loop.structure)
    if loop.auto is not None:
        loop.auto.bind()
    session.replay(loop)
    if edit:
        session.announce("notebook", edit, step=loop.count)
    if generators is not None:
        restore_generators(generators)
    return values if values is not None else items.after(0, _slow(session, 0))


def _start(session: Session, loop: Loop, items: Items, edit: str) -> Iterator[Any]:
    """The first boundary, before any work, so that state that cannot be saved is refused now and not after a night."""
    session.metric_log.default_steps.begin(loop.key, loop.count)
    loop.out_from = session.recorder.position()
    if edit:
        session.announce("notebook", edit, step=loop.count)
    session.freeze(loop, may_stream=loop.parent is None)
    if not items.is_indexed:
        loop.begun = capture_generators()
    if loop.parent is None:
        session.save("loop begins", step=loop.count, strict=True)
        session.sidecar.stop_if_asked()
    return items.after(0, _slow(session, 0))


_LAZILY: dict[bool | None, Lazily] = {None: "gated", True: "all", False: "never"}


def _run(
    session: Session,
    source: Iterable[T],
    state: object,
    when: Pace,
    options: LoopOptions,
    caller: Caller | None,
    code: Mapping[str, Any],
) -> Iterator[T]:
    session.sidecar.check()
    items = Items(source)
    loop, is_known = _find(session, options.name, code)
    if is_known:
        loop, is_known = _check_items(session, loop, items, options, code)
    loop, is_known, edit = _check_code(session, loop, code, options, is_known=is_known)
    loop.items.total = items.total
    loop.auto = state if isinstance(state, AutoState) else None
    loop.state = state.entries if isinstance(state, AutoState) else state
    loop.total, loop.touched, loop.lazily, loop.record = items.total, True, _LAZILY[options.lazy], None
    session.enter(loop)
    save_clock = SaveClock(session, loop, when, is_new=not is_known)
    state_check = StateCheck(session, loop, caller, is_strict=options.strict_state)
    try:
        values = _resume(session, loop, items, options, edit) if is_known else _start(session, loop, items, edit)
        state_check.begin()
        loop.started_s, loop.started_done = session.clock.now_s(), loop.done
        saved_done = loop.done
        for value in values:
            loop.items.hand_out(value)
            yield value
            session.advance(loop)
            loop.items.finish()
            state_check.at_boundary()
            if _boundary(session, loop, save_clock, saved_done):
                saved_done = loop.done
        if is_known and loop.finished:
            if edit and loop.parent is None:
                session.save("edited", step=loop.count)
        else:
            _finish(session, loop, save_clock, saved_done)
    except GeneratorExit:
        session.leave(loop)
        raise
    finally:
        save_clock.close()
        session.drop(loop)


def _announce(session: Session, loop: Loop) -> None:
    """Tell what was just captured and cannot be restored in a new process."""
    for text in loop.structure.take_news():
        session.announce("state", text, step=loop.count)


def _is_due(session: Session, loop: Loop, save_clock: SaveClock, saved_done: int) -> bool:
    due = save_clock.is_due(loop.done - saved_done)  # first, because it must be called at each boundary
    return due or bool(session.sidecar.look().stop) or session.force


def _boundary(session: Session, loop: Loop, save_clock: SaveClock, saved_done: int) -> bool:
    """Between two iterations. Returns whether the boundary was saved."""
    session.sidecar.check()
    if loop.done == loop.total and not session.sidecar.look().stop:
        return False  # the loop is over: its final state is saved by ``_finish``
    due = _is_due(session, loop, save_clock, saved_done)
    must = save_clock.pace.is_strict or bool(session.sidecar.look().stop) or session.force
    if due and not must and session.is_saving and not save_clock.pace.waits:
        due = False  # the last save is still being written: a later save is better than a loop that waits
    if due or loop.has_inner:
        session.freeze(loop, may_stream=due and all(other.is_fresh for other in session.open if other is not loop))
        _announce(session, loop)
    if not due or not session.can_save():
        return False
    save_clock.keep()
    session.save("every", step=loop.count, strict=must)
    session.sidecar.stop_if_asked()
    return True


def _finish(session: Session, loop: Loop, save_clock: SaveClock, saved_done: int) -> None:
    """After the last iteration. The end of an inner loop is a normal boundary; that of an outermost loop is saved."""
    session.sidecar.check()
    session.finish(loop)
    _announce(session, loop)
    if loop.parent is None or (_is_due(session, loop, save_clock, saved_done) and session.can_save()):
        session.save(
            "loop finished", step=loop.count, strict=save_clock.pace.is_strict or bool(session.sidecar.look().stop)
        )
        session.sidecar.stop_if_asked()
