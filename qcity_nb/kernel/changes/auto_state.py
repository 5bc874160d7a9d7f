"""``state="auto"``: a loop saves what the analysis of its source says that one iteration passes to the next.

The variables are known before the first iteration, as far as the source shows them. What only the objects show (a
function appends to a list, a generator draws) is added at the boundary at which it was seen. At a resume, objects that
can be filled keep their identity; all others are bound to their names again. Nobody else can bind the variables of a
function, so there the loop refuses those.
"""

from __future__ import annotations

import types
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from qcity_nb.cells.expressions import prefixes
from qcity_nb.errors import StateRefused, UsageError
from qcity_nb.kernel.changes.caller import Caller
from qcity_nb.kernel.changes.live_objects import MISSING, kind_of, saves_attributes
from qcity_nb.kernel.changes.state_problems import Problem

__all__ = ["AutoState"]

_PARTS = ("optimizer", "scheduler", "scaler", "generator", "module", "estimator")
"""Kinds of objects that are saved wherever the body uses them."""
_CHANGED = (*_PARTS, "container", "array")
"""Kinds of objects that are saved if the body changes them."""
_NOT_ADDED = ("iterator", "hidden", "counted", "state")
_CALL = 'city.loop(state="auto")'
_ADVICE = "write state={…} with what an iteration passes to the next"


class AutoState:
    """The state of one loop, and the variables that it is taken from.

    Args:
        caller: where the loop stands; it runs now.
    Raises:
        UsageError: the variables cannot be known or not be bound again; the message says which, and what to write.
    """

    def __init__(self, caller: Caller) -> None:
        statement, variables = caller.statement(), caller.variables()
        if statement is None or variables is None:
            raise UsageError(f"{_CALL} finds no source of its loop here: {_ADVICE}")
        body = variables.resolve_views(statement.body)
        reach = variables.reach(body)
        if body.uncertain:
            raise UsageError(f"{_CALL}: {body.uncertain} in the body: {_ADVICE}")
        used = body.mutated | body.touched | body.stepped | reach.read
        rebound = body.carried | body.kept | body.kept_with_carried | reach.carried | reach.early
        paths = {path for path in rebound if _is_value(variables.get(path), or_none=True)}
        paths |= {path for path in body.mutated if kind_of(variables.get(path)) in (*_CHANGED, "iterator")}
        paths |= {path for path in used - body.bound if kind_of(variables.get(path)) in _PARTS}
        self.entries: dict[str, Any] = {}
        """The objects by variable: what the loop saves."""
        whole = {path for path in paths if saves_attributes(variables.get(path))}
        self._paths = {path for path in paths if not whole.intersection(list(prefixes(path))[1:])}
        parts = {path.partition("[")[0] for path, value in variables.objects() if kind_of(value) in _PARTS}
        self._candidates = (used | parts) - body.bound
        self._first = parts - body.bound  # saved once: what is saved later must have been there when the loop began
        for path in sorted(self._paths):
            is_in_place = path in body.augmented and kind_of(variables.get(path)) in _CHANGED
            _check(path, variables.get(path), caller if path in rebound and not is_in_place else None)
        roots = {path.partition(".")[0] for path in self._paths | self._candidates}
        own = {name: value for name, value in variables.own.items() if name in roots}
        self._function = caller.code.co_name if caller.is_function else ""
        self._variables = replace(variables, own=own, scanned={}) if caller.is_function else variables

    def collect(self) -> None:
        """Take the objects that the variables are bound to now."""
        values = {path: self._variables.get(path) for path in sorted(self._paths | self._first)}
        self._first = set()
        self.entries.clear()
        self.entries.update({path: value for path, value in values.items() if _is_value(value)})

    def offer(self) -> None:
        """Take all objects that a checkpoint may have saved, so that these are filled in place."""
        self.collect()
        for path in sorted(self._candidates):
            if kind_of(value := self._variables.get(path)) in (*_CHANGED, "own"):
                self.entries.setdefault(path, value)

    def bind(self) -> None:
        """Bind the variables to what was restored.

        Raises:
            StateRefused: a variable of a function would have to be bound, since its object could not be filled.
        """
        self._paths |= set(self.entries)
        for path, value in self.entries.items():
            base, _, name = path.rpartition(".")
            if self._variables.get(path) is value:
                continue
            if base:
                setattr(self._variables.get(base), name, value)
            elif self._function and name in self._variables.own:
                raise StateRefused(f"{_CALL} cannot set `{name}` of {self._function}(): {_in_dict(name)}")
            else:
                is_outer = self._function or (name in self._variables.outer and name not in self._variables.own)
                names: Any = self._variables.outer if is_outer else self._variables.own
                names[name] = value

    def add_missing(self, problems: Iterable[Problem]) -> list[Problem]:
        """Add what was seen to be missing; returns what cannot be added."""
        left = [each for each in problems if each.reason in _NOT_ADDED]
        added = {each.path.partition("[")[0] for each in problems if each not in left}
        self._paths |= added
        self.collect()
        return left


def _is_value(value: object, *, or_none: bool = False) -> bool:
    if value is MISSING:
        return or_none
    return not isinstance(value, type | types.ModuleType | types.FunctionType)


def _check(path: str, value: object, caller: Caller | None) -> None:
    """Refuse an iterator, and a variable that ``caller``, a function, binds anew."""
    if kind_of(value) == "iterator":
        raise UsageError(
            f"{_CALL}: `{path}` is an iterator that the body draws from, which cannot be saved:"
            f" write {path} = … in the body, or city.loop over its items"
        )
    if caller is None or not caller.is_function or "." in path:
        return
    code = caller.code
    if path in code.co_varnames + code.co_cellvars + code.co_freevars:
        raise UsageError(f"{_CALL} cannot set `{path}` of {code.co_name}() when it resumes: {_in_dict(path)}")


def _in_dict(path: str) -> str:
    line = f'state = {{"{path}": {path}, …}} before the loop, state=state, and state["{path}"] in place of {path}'
    return f"write {line}"
