"""At a loop's first boundaries: is what one iteration passes to the next in ``state``?

Joins what the source of the body does with variables (`cells/loop_body.py`) with the live objects. What the source
shows for certain is reported at the first boundary; what only the objects show (a function changes a list, a generator
draws) once it was seen to change between two boundaries. In doubt nothing is reported.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Protocol

from qcity_nb.cells.expressions import prefixes
from qcity_nb.cells.loop_body import LoopBody
from qcity_nb.cells.loop_statement import LoopStatement, is_read_first
from qcity_nb.errors import StateRefused
from qcity_nb.kernel.changes.auto_state import AutoState
from qcity_nb.kernel.changes.caller import Caller, Reach, Variables, is_cache, is_write_only
from qcity_nb.kernel.changes.live_objects import (
    MISSING,
    Saved,
    attributes,
    contains_others,
    fingerprint,
    holds_stream,
    in_place,
    is_own,
    kind_of,
    parameter_ids,
    saves_attributes,
)
from qcity_nb.kernel.changes.run_history import ChangeKind, RunHistory
from qcity_nb.kernel.changes.state_problems import Passed, Problem, message

__all__ = ["BOUNDARIES", "StateCheck"]

BOUNDARIES = 3
"""So many boundaries are looked at."""
_FOR_PEOPLE = re.compile(r"progress|(^|_)p?bar\b|tqdm|timer|clock|stopwatch", re.I)
"""Names of objects and classes that show people how far the loop is."""
_WRITERS = re.compile(r"log(ger|s|ging|file|book)?\b|writer|profil|console", re.I)
"""Names of objects and classes that write what they get."""
_CLOSED = r"(?!\.(?:close|flush|finish|stop)\b)"
_EMPTY = LoopStatement(body=LoopBody())


class _Loop(Protocol):
    name: str
    state: Any
    auto: AutoState | None
    done: int


class _Session(Protocol):
    """What is needed of ``kernel.session.Session``."""

    sidecar: Any
    history: RunHistory

    def announce(self, kind: ChangeKind, text: str, *, step: int | None = None) -> None:
        """Tell people what changed."""


class StateCheck:
    """Looks at one loop's first boundaries."""

    def __init__(self, session: _Session, loop: _Loop, caller: Caller | None, *, is_strict: bool) -> None:
        self._session = session
        self._loop = loop
        self._caller = caller
        self._auto = loop.auto
        self._is_strict = is_strict
        self._left = BOUNDARIES if caller is not None else 0
        self._statement: LoopStatement | None = None
        self._reach: Reach | None = None
        self._earlier: dict[str, tuple[Any, Any]] = {}

    def begin(self) -> None:
        """Look at the objects before the first iteration: what changes in it is then seen at its boundary."""
        if self._auto is not None:
            self._auto.collect()
            self._auto.add_missing(self._look())

    def at_boundary(self) -> None:
        """Look at the state after one more iteration.

        Raises:
            StateRefused: it lacks something, and ``strict_state`` is set. Under the engine the run is stopped first.
        """
        if not self._left or self._caller is None:
            return
        self._left -= 1
        place = (self._caller.code.co_filename, self._caller.line)
        if place in self._session.history.checked_loops and self._auto is None:
            self._left = 0
            return
        if self._auto is not None:
            self._auto.collect()
        problems = self._look()
        if self._auto is not None:
            problems = self._auto.add_missing(problems)
            if self._loop.done == 1:
                names = " and ".join(f"`{each}`" for each in self._auto.entries) or "nothing"
                self._session.sidecar.show(f'city.loop {self._loop.name!r}, state="auto": saves {names}')
        if not self._left:
            self._earlier, self._reach = {}, None
            self._session.history.checked_loops.add(place)
        self._report(problems)

    def _look(self) -> list[Problem]:
        try:
            return self._find_problems()
        except Exception as error:
            if self._auto is not None:
                raise  # what it saves would not be known
            # The user's objects may raise anything where they are looked at: no loop ends for that.
            self._left = 0
            self._session.sidecar.note("trouble", message=f"what the state lacks was not looked at: {error!r}")
            return []

    def _find_problems(self) -> list[Problem]:
        if self._caller is None or (variables := self._caller.variables()) is None:
            self._left = 0
            return []
        if self._statement is None:
            self._statement = self._caller.statement() or _EMPTY
        if self._reach is None:
            self._statement = replace(self._statement, body=variables.resolve_views(self._statement.body))
            self._reach = variables.reach(self._statement.body)
        look = _Look(self._statement, self._caller, variables, self._reach, self._loop, self._earlier)
        problems = list(look.problems())
        self._earlier = look.now
        return problems

    def _report(self, problems: list[Problem]) -> None:
        """Say what was not said before, by this attempt or an earlier one; ``strict_state`` says it at each attempt."""
        loop = f"city.loop {self._loop.name!r}"
        changes = self._session.history.changes if not self._is_strict else []
        earlier = [each["text"] for each in changes if each.get("kind") == "state" and each["text"].startswith(loop)]
        problems = [each for each in problems if not any(f"`{each.path}`" in text for text in earlier)]
        if not problems:
            return
        statement, state = self._statement or _EMPTY, self._loop.state
        is_empty = state is None or (isinstance(state, dict) and not state)
        passed = Passed(statement.state, isinstance(state, dict), dict(statement.entries), is_empty)
        text = message(f"{loop}, line {self._caller.line if self._caller else 0}", problems, passed)
        if self._is_strict:
            self._session.sidecar.refuse("state", text)  # stops the run under the engine, so that nobody relaunches it
            raise StateRefused(text)
        self._session.announce("state", text)


class _Look:
    """One boundary."""

    def __init__(
        self,
        statement: LoopStatement,
        caller: Caller,
        variables: Variables,
        reach: Reach,
        loop: _Loop,
        earlier: dict[str, tuple[Any, Any]],
    ) -> None:
        self.statement = statement
        self.body = statement.body
        self.caller = caller
        self.variables = variables
        self.state = loop.state
        self.is_auto = loop.auto is not None
        self.saved = Saved(loop.state)
        self.earlier = earlier
        self.now: dict[str, tuple[Any, Any]] = {}
        self.reach = reach

    def problems(self) -> Iterator[Problem]:
        """What is wrong, each variable once; of several items of a list the list."""
        named: set[str] = set()
        for problem in self._all():
            path = re.sub(r"\[\d+\]$", "", problem.path)
            if path not in named and not self._is_part(path, named):
                named.add(path)
                yield replace(problem, path=path)

    @staticmethod
    def _is_part(path: str, named: set[str]) -> bool:
        return any(prefix in named for prefix in prefixes(path.partition("[")[0]))

    def _all(self) -> Iterator[Problem]:
        if self.statement.counted:
            yield Problem(self.statement.counted, "counted")
        yield from self._rebound_state()
        yield from self._bound(self.body.carried | self.reach.carried | self.reach.early)
        yield from self._kept()
        yield from self._changed()
        yield from self._torch()
        yield from self._touched()

    # -- variables

    def _is_in_saved(self, path: str) -> bool:
        """Is it an attribute of an object that is saved as a whole?"""
        parents = list(prefixes(path))[1:]
        values = [self.variables.get(parent) for parent in parents]
        return any(value is not MISSING and self.saved.has(value) and saves_attributes(value) for value in values)

    def _is_aid(self, path: str, value: object) -> bool:
        """Is it an object that serves people, such as a progress bar, or that only writes what it gets?"""
        if kind_of(value) not in ("own", "other"):
            return False
        names = (path.rpartition(".")[2], type(value).__name__)
        if any(map(_FOR_PEOPLE.search, names)):
            return True
        if path in self.body.reads or self.reach.uses(path):
            return False
        return not self._is_read(path) or holds_stream(value) or any(map(_WRITERS.search, names))

    def _is_held(self, path: str) -> bool:
        key = path.rpartition(".")[2]
        if path in self.statement.entries.values():
            return True
        return key in self.state if isinstance(self.state, dict) else key in attributes(self.state)

    def _is_mirrored(self, path: str) -> bool:
        return any(container == self.statement.state and name == path for container, _, name in self.body.mirrored)

    def _is_same(self, path: str, value: object) -> bool | None:
        """Is it the object of the boundary before? ``None``: there was none."""
        self.now.setdefault(path, (_reference(value), None))
        if path not in self.earlier:
            return None
        reference = self.earlier[path][0]
        return bool((reference() if isinstance(reference, weakref.ref) else reference) is value)

    def _rebound_state(self) -> Iterator[Problem]:
        name = self.statement.state
        if name in self.body.bound and self.state is not None:
            value = self.variables.get(name)
            if value is not MISSING and value is not self.state:
                yield Problem(name, "state", in_place(name, value))

    def _bound(self, paths: Iterable[str]) -> Iterator[Problem]:
        """Variables that the body binds anew, and whose last value the next iteration reads."""
        for path in sorted(paths):
            value = self.variables.get(path)
            kind = kind_of(value)
            if path == self.statement.state or value is MISSING or self._is_aid(path, value):
                continue
            if kind == "other" and not hasattr(value, "__dataclass_fields__"):
                continue
            if path.startswith("_") or self._is_in_saved(path):
                continue
            if kind == "iterator":
                yield Problem(path, "iterator")
            elif path in self.body.augmented and kind in ("array", "container"):
                if not self.saved.has(value):
                    is_held = self._is_held(path)
                    yield Problem(path, "rebound" if is_held else "changed", in_place(path, value), is_held)
            elif kind in ("scalar", "array", "container", "other"):
                if self._is_mirrored(path):
                    yield Problem(path, "mirrored")
                elif kind == "scalar" or not self.saved.has(value) or self._is_same(path, value) is False:
                    yield Problem(path, "rebound", in_place(path, value), self._is_held(path))
            elif self._is_same(path, value) is False:
                yield Problem(path, "rebound", is_held=self._is_held(path))

    def _kept(self) -> Iterator[Problem]:
        """Variables that only some iterations bind, and that code after the loop reads."""
        for path in sorted(self.body.kept | self.body.kept_with_carried):
            value = self.variables.get(path)
            is_read = is_read_first(self.statement.after, path)
            if is_read is None:  # a later cell may read it
                is_read = self.caller.is_cell and path in self.body.kept_with_carried
            is_known = value is MISSING or (kind_of(value) != "other" and not self._is_aid(path, value))
            if is_read and is_known and not self._is_mirrored(path) and not path.startswith("_"):
                yield Problem(path, "kept")

    def _is_read_after(self, path: str) -> bool:
        return re.search(rf"(?<![\w.]){re.escape(path)}\b{_CLOSED}", self.statement.after) is not None

    def _is_read(self, path: str) -> bool:
        """Is what the body puts into a container read anywhere, as far as can be seen?"""
        if self.is_auto or self.caller.is_cell or "." in path or path in self.body.reads:
            return True
        return self._is_read_after(path) or path in self.caller.parameters or path in self.reach.read

    def _changed(self) -> Iterator[Problem]:
        """Objects that the body changes in place."""
        for path in sorted(self.body.mutated - self.body.carried):
            value = self.variables.get(path)
            if value is MISSING or not self.saved.is_complete or self.saved.has(value) or self._is_in_saved(path):
                continue
            if self._is_aid(path, value):
                continue
            kind = kind_of(value)
            if path in self.body.mutated_parts and contains_others(value):
                continue
            if kind == "container" and not value:  # it passes nothing on: a function has emptied it
                continue
            if kind == "iterator":
                yield Problem(path, "iterator")
            elif kind in ("array", "estimator") or (kind == "container" and self._is_read(path)):
                yield Problem(path, "changed")

    # -- optimizers and what belongs to them

    def _parts_of_training(self) -> list[tuple[str, Any]]:
        """The optimizers, models and what belongs to them, each by the name that the body uses, if it has several."""
        used = self.body.reads | self.body.touched | self.body.stepped

        def rank(path: str) -> tuple[bool, bool, bool]:
            return re.split(r"[.\[]", path)[0] not in used, "[" in path, "." in path

        names: dict[int, tuple[str, Any]] = {}
        for path, value in self.variables.objects():
            if kind_of(value) not in _SCANNED or self._is_anew(path):
                continue
            if id(value) not in names or rank(path) < rank(names[id(value)][0]):
                names[id(value)] = path, value
        return list(names.values())

    def _torch(self) -> Iterator[Problem]:
        objects = self._parts_of_training()
        missing = [(path, value) for path, value in objects if not self.saved.has(value)]
        stepping = list(self.saved.optimizers)
        schedulers = [value for _, value in objects if kind_of(value) == "scheduler"]
        for path, value in missing:
            if kind_of(value) != "optimizer":
                continue
            has_changed = self._has_changed(path, value)
            is_stepped = path in self.body.stepped
            if has_changed or is_stepped:
                stepping.append(value)
            has_state = any(value.state.values()) or any(each.optimizer is value for each in schedulers)
            if has_changed or (is_stepped and has_state):
                yield Problem(path, "steps")
        for path, value in missing:
            kind = kind_of(value)
            if kind in ("scheduler", "scaler"):
                is_idle = kind == "scaler" and not value.is_enabled()
                if not is_idle and (self._has_changed(path, value) or path in self.body.stepped):
                    yield Problem(path, "steps")
            elif kind == "generator" and self._has_changed(path, value):
                yield Problem(path, "draws")
        trained = set[int]().union(*(parameter_ids(each) for each in stepping))
        modules = [(path, value) for path, value in missing if kind_of(value) == "module"]
        for path, value in sorted(modules, key=lambda pair: -len(parameter_ids(pair[1]))):
            own = parameter_ids(value)
            is_changed = bool(own & trained) or path in self.body.mutated or self._has_changed(path, value)
            if own and not own <= self.saved.ids and is_changed:
                trained -= own
                yield Problem(path, "changed")

    def _is_anew(self, path: str) -> bool:
        """Does each iteration make it, or set it to the same beginning?"""
        name = path.partition("[")[0]
        return any(
            prefix in self.body.fresh or (prefix in self.body.bound and prefix not in self.body.carried)
            for prefix in prefixes(name)
        )

    # -- what was seen to change

    def _has_changed(self, path: str, value: object, *, is_same: bool = False) -> bool:
        """Has the object changed since the boundary before?

        Args:
            is_same: another object in its place is a change too.
        """
        before = self.earlier.get(path)
        print_now = fingerprint(value, self.saved)
        self.now[path] = (_reference(value), print_now)
        if before is None or before[1] is None:
            return False
        reference = before[0]() if isinstance(before[0], weakref.ref) else before[0]
        return (is_same or reference is value) and before[1] != print_now

    def _touched(self) -> Iterator[Problem]:
        """Objects that functions may have changed, and did."""
        paths = self.body.touched | self.reach.read | self.body.mutated
        for path in sorted(paths - self.body.carried):
            value = self.variables.get(path)
            if value is MISSING or self.saved.has(value) or self._is_in_saved(path) or self._is_aid(path, value):
                continue
            if path.startswith("_") or self._is_anew(path) or not self.saved.is_complete:
                continue
            is_direct = path in self.body.touched | self.body.mutated
            if not is_direct and self.reach.resets(path):
                continue
            kind = kind_of(value)
            if kind == "own" or (isinstance(value, type) and is_own(value)):
                yield from self._parts(path, value)
                continue
            is_seen = kind in ("container", "array") and self._has_changed(path, value) and self._is_read(path)
            if is_seen and (is_direct or self.reach.changes(path)):
                yield Problem(path, "changed")
        yield from self._hidden()

    def _hidden(self) -> Iterator[Problem]:
        """What functions keep from call to call, and changed."""
        for name, variable, value in self.reach.hidden(self.variables):
            if kind_of(value) not in ("scalar", "container", "array") or self._is_aid(variable, value):
                continue
            if not self.saved.has(value) and self._has_changed(f"{name}({variable})", value, is_same=True):
                yield Problem(name, "hidden")

    def _is_attribute_read(self, path: str) -> bool:
        name = path.rpartition(".")[2]
        return path in self.body.reads or re.search(rf"\.{name}\b", self.statement.after) is not None

    def _parts(self, path: str, value: object) -> Iterator[Problem]:
        """The attributes of an object of the user's that changed."""
        changed = []
        items = {**vars(value)} if isinstance(value, type) else attributes(value)
        for name, item in items.items():
            part = f"{path}.{name}"
            if part in self.body.bound or kind_of(item) in ("other", *_SCANNED) or self._is_aid(part, item):
                continue
            before = self.earlier.get(part)
            print_now = fingerprint(item, self.saved)
            self.now[part] = (None, print_now)
            is_changed = before is not None and before[1] != print_now and not self.saved.has(item)
            cls = value if isinstance(value, type) else type(value)
            is_counter = kind_of(item) == "scalar" and is_write_only(cls, name) and not self._is_attribute_read(part)
            if is_changed and not is_counter and not is_cache(cls, name):
                changed.append(part)
        if changed:
            parts = [item for item in items.values() if kind_of(item) != "scalar"]
            is_by_part = isinstance(value, type) or any(map(self.saved.has, parts))
            yield from (Problem(each, "changed") for each in changed) if is_by_part else [Problem(path, "changed")]


_SCANNED = ("optimizer", "scheduler", "scaler", "generator", "module")


def _reference(value: object) -> Any:
    """The object, without keeping it alive where that is possible."""
    try:
        return weakref.ref(value)
    except TypeError:
        return value
