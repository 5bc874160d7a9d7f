"""What a loop's source is, as a small record: two of them show whether the loop was edited, and where.

    {"items": digest, "state": digest, "body": digest, "reads": {name: "digest text"}, "item_reads": {…},
     "around": [digest, …], "is_top": true}

``reads`` are the names that the body and the state depend on, through definitions and the user's functions; each has
the digest of what it was defined as, and the source if that is one short assignment. ``item_reads`` are those that only
the items depend on. ``around`` are the bodies of the other loops of the cell or file; ``is_top``: it is in no function.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qcity_nb.cells.definitions import Definition, Definitions, bodies, calls_loop, items_of, names_in
from qcity_nb.cells.expressions import callee, root_of
from qcity_nb.cells.syntax import digest, dump, parse

__all__ = ["LoopCode", "differences", "loop_bodies", "loop_code", "loops_in", "loops_of_cells", "newest"]

LoopCode = dict[str, Any]

RECORD_BYTES = 12 * 1024
_MOST_CALLS = 8
_DEPTH = 6
_MOST_AROUND = 32
_REST = "*"
"""The entry for the names that are left out of a large record."""
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True, slots=True)
class _Place:
    """A node in a program of several cells; a script has one."""

    cells: tuple[ast.Module, ...]
    cell: int
    path: tuple[ast.AST, ...]
    """The statements around the node, from the outermost one on, and the node."""


_Callers = Iterable[tuple[_Place, ast.Call | None]]


def newest(cells: Iterable[str]) -> list[str]:
    """The cells without those that are executed again later."""
    return list(dict.fromkeys(reversed(list(cells))))[::-1]


def loops_in(cells: Sequence[str]) -> list[LoopCode]:
    """The records of all loops in a notebook's cells, or in a script as the only cell."""
    return [code for _, code in loops_of_cells(newest(cells))]


def loops_of_cells(cells: Sequence[str]) -> list[tuple[int, LoopCode]]:
    """The records of all loops in these cells, each with its cell's index."""
    trees = tuple(parse(cell) for cell in cells)
    records = []
    for number, tree in enumerate(trees):
        if "loop(" in cells[number]:
            for path, items in _loops(tree):
                place = _Place(trees, number, path)
                records.append((number, _record(place, items, _definitions(place, _Search(trees)))))
    return records


def loop_bodies(cells: Sequence[str]) -> list[tuple[int, str, bool]]:
    """Of all loops in these cells: the cell's index, the body's digest, and whether it is in no function."""
    return [
        (number, _body(path[-1]), _is_top(path))
        for number, cell in enumerate(cells)
        if "loop(" in cell
        for path, _ in _loops(parse(cell))
    ]


def loop_code(cells: Sequence[str], frames: Sequence[tuple[str, int]]) -> LoopCode | None:
    """The record of the loop that begins now; ``None``: it is not found in the source.

    Args:
        cells: what was executed so far, the running cell last; empty for a script.
        frames: the source and the line of the call of `city.loop`, and of the calls that led there, innermost first.
    """
    places = [_place_of(cells, source, line) for source, line in frames]
    if not places or places[0] is None:
        return None
    line = frames[0][1]
    for path, items in reversed(list(_loops(places[0].cells[places[0].cell]))):
        if items.lineno <= line <= (items.end_lineno or line):
            place = _Place(places[0].cells, places[0].cell, path)
            return _record(place, items, _definitions(place, _Frames(places[1:])))
    return None


def differences(before: Mapping[str, Any], now: Mapping[str, Any], *, items: bool = True) -> list[str]:
    """What was edited between two records, as phrases.

    Args:
        items: the items expression, and what only that reads, counts too.
    """
    phrases = [
        f"its {part}"
        for part in ("items", "state", "body")
        if (items or part != "items") and before.get(part) != now.get(part)
    ]
    for part in ("reads", "item_reads") if items else ("reads",):
        old, new = before.get(part, {}), now.get(part, {})
        for name in sorted({*old, *new}):
            if name in old and name in new and old[name].partition(" ")[0] != new[name].partition(" ")[0]:
                phrases.append(_phrase(name, old[name], new[name]))
    if not phrases:  # else that a name is no longer read, or newly, follows from them
        phrases = sorted({*before.get("reads", {})} ^ {*now.get("reads", {})})
    return phrases


def _phrase(name: str, old: str, new: str) -> str:
    before, now = old.partition(" ")[2], new.partition(" ")[2]
    if before and now:
        return f"{before} → {now}"
    return "another name that it reads" if name == _REST else name


# -- where the loop stands


def _paths(statements: Iterable[ast.stmt], before: tuple[ast.AST, ...] = ()) -> Iterator[tuple[ast.AST, ...]]:
    """The paths of all statements, and of the comprehensions in them."""
    for statement in statements:
        path = (*before, statement)
        yield path
        for body in bodies(statement):
            yield from _paths(body, path)
        if not any(True for body in bodies(statement) if body):
            for node in ast.walk(statement):
                if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
                    yield (*path, node)


def _loops(tree: ast.Module) -> Iterator[tuple[tuple[ast.AST, ...], ast.expr]]:
    """The paths of the loops over `city.loop`, with the expression that has the call."""
    for path in _paths(tree.body):
        node = path[-1]
        items = items_of(node)
        if items is not None and calls_loop(items) is not None:
            yield path, items
        elif isinstance(node, ast.Assign) and isinstance(name := node.targets[0], ast.Name):
            if calls_loop(node.value) is None:
                continue
            around = [tree.body] if len(path) == 1 else bodies(path[-2])
            siblings = next(body for body in around if any(each is node for each in body))
            for each in siblings:
                if isinstance(each, ast.For) and name.id in names_in([each.iter]):
                    yield (*path[:-1], each), node.value
                    break


def _place_of(cells: Sequence[str], source: str, line: int) -> _Place | None:
    text = source.rstrip("\n")
    numbers = [number for number, cell in enumerate(cells) if cell.rstrip("\n") == text]
    trees = tuple(parse(cell) for cell in cells) if numbers else (parse(source),)
    number = numbers[-1] if numbers else 0
    inside = [
        path
        for path in _paths(trees[number].body)
        if isinstance(path[-1], ast.stmt) and path[-1].lineno <= line <= (path[-1].end_lineno or line)
    ]
    return _Place(trees, number, inside[-1]) if inside else None


def _calls(node: ast.AST, name: str) -> Iterator[ast.Call]:
    return (each for each in ast.walk(node) if isinstance(each, ast.Call) and callee(each) == name)


class _Search:
    """Finds the callers of a function in all cells."""

    def __init__(self, cells: tuple[ast.Module, ...]) -> None:
        self._cells = cells

    def __call__(self, function: ast.FunctionDef | ast.AsyncFunctionDef, depth: int) -> _Callers:
        count = 0
        is_method = function.args.args[:1] != [] and function.args.args[0].arg == "self"
        for number, tree in enumerate(self._cells):
            for path in _paths(tree.body):
                if function in path or any(body for body in bodies(path[-1])) or not isinstance(path[-1], ast.stmt):
                    continue
                for call in _calls(path[-1], function.name):
                    if isinstance(call.func, ast.Attribute) != is_method:
                        continue
                    yield _Place(self._cells, number, path), call
                    count += 1
                    if count == _MOST_CALLS:
                        return


class _Frames:
    """The callers of a function as they are now."""

    def __init__(self, places: Sequence[_Place | None]) -> None:
        self._places = places

    def __call__(self, function: ast.FunctionDef | ast.AsyncFunctionDef, depth: int) -> _Callers:
        place = self._places[depth] if depth < len(self._places) else None
        if place is not None:
            yield place, next(_calls(place.path[-1], function.name), None)


# -- what is defined there


def _definitions(place: _Place, callers: Any, depth: int = 0) -> Definitions:
    functions = [number for number, node in enumerate(place.path) if isinstance(node, _FUNCTIONS)]
    if not functions:
        definitions = Definitions(cells=place.cells)
        for tree in place.cells[: place.cell]:
            definitions.add(tree.body)
        _add_until(definitions, place.cells[place.cell].body, place.path)
        return definitions
    at = functions[-1]
    function = place.path[at]
    assert isinstance(function, _FUNCTIONS)
    around = (
        [(_definitions(each, callers, depth + 1), call) for each, call in callers(function, depth)]
        if (depth < _DEPTH)
        else []
    )
    if len(functions) > 1:
        outer = _definitions(_Place(place.cells, place.cell, place.path[: at + 1]), callers, depth)
    elif around and around[-1][0].root.cells is place.cells:
        outer = around[-1][0].root
    else:
        outer = Definitions(cells=place.cells)
        for tree in place.cells[: place.cell + 1]:
            outer.add(tree.body)
    own = Definitions(outer=outer)
    parent = place.path[at - 1] if at else None
    is_method = isinstance(parent, ast.ClassDef)
    if isinstance(parent, ast.ClassDef):
        _add_methods(own, parent, place)
    _add_parameters(own, function, around, is_method=is_method)
    _add_until(own, function.body, place.path[at + 1 :])
    return own


def _add_until(definitions: Definitions, statements: Sequence[ast.stmt], path: Sequence[ast.AST]) -> None:
    """Add what is defined before the last node of the path; around it, in loops, also what is defined after it."""
    if not path:
        return
    first, *rest = path
    number = next((number for number, each in enumerate(statements) if each is first), len(statements))
    definitions.add(statements[:number])
    if not rest or not isinstance(first, ast.stmt):
        return
    definitions.add_header(first)
    body = next((body for body in bodies(first) if any(each is rest[0] for each in body)), [])
    _add_until(definitions, body, rest)
    if isinstance(first, ast.For | ast.AsyncFor | ast.While):
        after = next((number for number, each in enumerate(body) if each is rest[0]), len(body))
        definitions.add(body[after + 1 :], ("again",))


def _add_methods(own: Definitions, parent: ast.ClassDef, place: _Place) -> None:
    """Define `self` as what its class was called with, and `self.x` as the methods."""
    for method in parent.body:
        if isinstance(method, _FUNCTIONS):
            own.define(f"self.{method.name}", [method])
    calls = [call for tree in place.cells for call in _calls(tree, parent.name)]
    own.define("self", [*parent.bases, *calls[:_MOST_CALLS]])
    reads = own.names["self"].reads - {parent.name} | {"self.__init__"}
    own.names["self"] = Definition(own.names["self"].parts, reads)


def _add_parameters(
    own: Definitions,
    function: ast.FunctionDef | ast.AsyncFunctionDef,
    around: Sequence[tuple[Definitions, ast.Call | None]],
    *,
    is_method: bool,
) -> None:
    """Define the parameters as what the callers pass, else as their defaults."""
    positional = [*function.args.posonlyargs, *function.args.args]
    defaults: dict[str, ast.expr | None] = dict(
        zip([each.arg for each in reversed(positional)], reversed(function.args.defaults), strict=False)
    )
    defaults |= {
        each.arg: value for each, value in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    }
    for number, parameter in enumerate([*positional, *function.args.kwonlyargs]):
        name = parameter.arg
        if name == "self":
            continue
        place = number - is_method
        values = [_argument(call, name, place if number < len(positional) else None) for _, call in around if call]
        nodes = [each or defaults.get(name) for each in values] or [defaults.get(name)]
        own.define(name, [each for each in nodes if each is not None] or [""], where=around[-1][0] if around else None)
    for rest in (function.args.vararg, function.args.kwarg):
        if rest is not None:
            calls = [call for _, call in around if call is not None]
            own.define(rest.arg, [*calls, ""], where=around[-1][0] if around else None)


def _argument(call: ast.Call, name: str, place: int | None) -> ast.expr | None:
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    starred = [each for each in call.args if isinstance(each, ast.Starred)]
    spread = [keyword.value for keyword in call.keywords if keyword.arg is None]
    if place is not None and place < len(call.args) and not starred:
        return call.args[place]
    return next(iter([*starred, *spread]), None)


# -- the record


def _parts(node: ast.AST) -> tuple[ast.expr, list[ast.stmt]]:
    """The target and the body of a loop; of a comprehension, its expressions as statements."""
    if isinstance(node, ast.For | ast.AsyncFor):
        return node.target, node.body
    generators = node.generators  # type: ignore[attr-defined]
    rest = [ast.Tuple(elts=[each.target, each.iter, *each.ifs]) for each in generators[1:]]
    values = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]  # type: ignore[attr-defined]
    return generators[0].target, [ast.Expr(each) for each in (*generators[0].ifs, *rest, *values)]


def _is_top(path: Iterable[ast.AST]) -> bool:
    return not any(isinstance(each, _FUNCTIONS) for each in path)


def _body(node: ast.AST) -> str:
    target, body = _parts(node)
    return digest(target, ast.Module(body=list(body), type_ignores=[]))


def _record(place: _Place, items: ast.expr, definitions: Definitions) -> LoopCode:
    node = place.path[-1]
    call = calls_loop(items)
    assert call is not None
    states = [keyword.value for keyword in call.keywords if keyword.arg == "state"] or call.args[1:2]
    target, body = _parts(node)
    state = "".join(dump(each) for each in states)
    receiver = {root_of(call.func).partition(".")[0]}
    around = names_in(states)
    reads = _closure(_read_first(body, target) | around | definitions.seeds(), definitions, receiver)
    item_reads = _closure(names_in([items]) - around, definitions, receiver)
    record = {
        "items": digest(dump(items).replace(state, "") if state else items),
        "state": digest(state),
        "body": _body(node),
        "reads": reads,
        "item_reads": {name: text for name, text in item_reads.items() if name not in reads},
        "around": [_body(path[-1]) for path, _ in _loops(place.cells[place.cell]) if path[-1] is not node][
            :_MOST_AROUND
        ],
        "is_top": _is_top(place.path),
    }
    return _cut(record)


def _read_first(body: Sequence[ast.stmt], target: ast.AST) -> frozenset[str]:
    """The names that an iteration reads before it binds them."""
    bound = {each.id for each in ast.walk(target) if isinstance(each, ast.Name)}
    names: set[str] = set()
    for statement in body:
        names |= names_in([statement]) - bound
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for part in targets:
                elements = part.elts if isinstance(part, ast.Tuple | ast.List) else [part]
                bound |= {each.id for each in elements if isinstance(each, ast.Name)}
    return frozenset(names)


def _closure(names: Iterable[str], definitions: Definitions, receiver: set[str]) -> dict[str, str]:
    """What these names were defined as, and what those definitions read, and so on."""
    known: dict[str, list[tuple[str, str]]] = {}
    seen: set[int] = set()
    waiting = [(name, match) for name in sorted(names) if (match := definitions.find(name)) is not None]
    while waiting:
        name, (definition, place) = waiting.pop()
        if name in receiver or id(definition) in seen or definition.is_city:
            continue
        seen.add(id(definition))
        known.setdefault(name, []).append((digest(*definition.parts), definition.text))
        versions = [(each, (version, version.where or place)) for each, version in definition.earlier]
        late = definition.reads - {each for each, _ in versions}
        waiting += versions
        waiting += [(each, match) for each in sorted(late) if (match := place.find(each)) is not None]
    record = {}
    for name in sorted(known):
        digests = sorted({digits for digits, _ in known[name]})
        texts = [text for _, text in known[name] if text]
        text = texts[0] if len(texts) == 1 else ""
        record[name] = f"{digests[0] if len(digests) == 1 else digest(*digests)} {text}".rstrip()
    return record


def _cut(record: LoopCode) -> LoopCode:
    """The record, small enough: first without texts, then with one digest for all names that are left out."""
    if _size(record) <= RECORD_BYTES:
        return record
    for part in ("reads", "item_reads"):
        entries = {name: text.partition(" ")[0] for name, text in record[part].items()}
        kept: dict[str, str] = {}
        size = 0
        for name, digits in entries.items():
            size += len(name) + len(digits) + 8
            if size < RECORD_BYTES // 2 - 100:
                kept[name] = digits
        if rest := {name: digits for name, digits in entries.items() if name not in kept}:
            kept[_REST] = digest(json.dumps(rest, sort_keys=True))
        record[part] = kept
    return record


def _size(record: LoopCode) -> int:
    return len(json.dumps(record))
