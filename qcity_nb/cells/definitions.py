"""What the names of a piece of code were defined as: by assignments, imports, functions, and changes in place."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from qcity_nb.cells.expressions import callee, path_of, root_of
from qcity_nb.cells.known_methods import FIRST_ARGUMENT
from qcity_nb.cells.names import words
from qcity_nb.cells.syntax import digest
from qcity_nb.secrets import looks_secret

__all__ = ["Definition", "Definitions", "bodies", "calls_loop", "is_loop", "items_of", "names_in"]

TEXT_CHARS = 40
_UPS = (digest("qcity_nb"), digest("0qcity_nb:up"))
"""Imports of `qcity_nb`, and of `up` from it."""
_READERS = {"head"} | words(
    "tail describe info nunique value_counts keys summary show plot hist scatter display print to_csv to_parquet "
    "savefig close flush write debug warning error parameters numel count item tolist view"
)
"""Methods that are called for what they show."""
_SEEDERS = words("seed manual_seed manual_seed_all seed_everything set_seed set_random_seed seed_all")
_SEED = "(…)"
_LATE = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


@dataclass(frozen=True, slots=True)
class Definition:
    """What a name was defined as, and how it was changed since."""

    parts: tuple[str, ...] = ()
    """Digests."""
    reads: frozenset[str] = frozenset()
    text: str = ""
    """The source, if it is one short assignment of a value that is no secret."""
    is_import: bool = False
    is_city: bool = False
    """Is it what `qcity.up()` returned?"""
    where: Definitions | None = None
    """Where the names that it reads are defined, if not where it is."""
    earlier: tuple[tuple[str, Definition], ...] = ()
    """What some of these names were defined as then; those of a function count as they are when it is called."""


@dataclass(eq=False, slots=True)
class Definitions:
    """The definitions at one point of the code."""

    names: dict[str, Definition] = field(default_factory=dict)
    outer: Definitions | None = None
    """Those around a function."""
    cells: Sequence[ast.Module] = ()
    """The program that they are the global ones of."""

    @property
    def root(self) -> Definitions:
        """The global definitions."""
        return self.outer.root if self.outer is not None else self

    def find(self, name: str) -> tuple[Definition, Definitions] | None:
        """The definition of a name, and where the names that it reads are to be looked for."""
        place: Definitions | None = self
        while place is not None:
            if (definition := place.names.get(name)) is not None:
                return definition, definition.where or place
            place = place.outer
        return None

    def add(self, statements: Iterable[ast.stmt], conditions: tuple[str, ...] = (), reads: Iterable[str] = ()) -> None:
        """Add what these statements define, in their order.

        Args:
            conditions: digests of the tests under which they run.
            reads: the names in these tests.
        """
        for statement in statements:
            self._add(statement, conditions, frozenset(reads))

    def define(
        self,
        name: str,
        nodes: Sequence[ast.AST | str],
        conditions: tuple[str, ...] = (),
        *,
        where: Definitions | None = None,
        is_import: bool = False,
    ) -> None:
        """Define a name anew; under conditions, in addition.

        Args:
            nodes: the values, or texts that stand for them.
            where: where the names in them are defined.
        """
        reads = names_in(node for node in nodes if isinstance(node, ast.AST))
        definition = Definition(
            (digest(*nodes, *conditions),),
            reads,
            _text(name, nodes[0]) if len(nodes) == 1 and not conditions else "",
            is_import=is_import,
            is_city=len(nodes) == 1 and self._is_up(nodes[0]),
            where=where,
            earlier=() if where is not None or isinstance(nodes[0], _LATE) else self._versions(reads),
        )
        if conditions and name in self.names:
            old = self.names[name]
            definition = replace(
                definition,
                parts=old.parts + definition.parts,
                reads=old.reads | reads,
                earlier=old.earlier + definition.earlier,
            )
        self.names[name] = definition

    def _versions(self, names: Iterable[str]) -> tuple[tuple[str, Definition], ...]:
        return tuple((name, self.names[name]) for name in sorted(names) if name in self.names)

    def seeds(self) -> frozenset[str]:
        """The names under which calls that seed random generators are kept."""
        outer = self.outer.seeds() if self.outer is not None else frozenset()
        return outer | {name for name in self.names if name.endswith(_SEED)}

    def _is_up(self, node: ast.AST | str) -> bool:
        if not isinstance(node, ast.Call) or callee(node) != "up":
            return False
        module = self.find(root_of(node.func).partition(".")[0])
        return module is not None and module[0].parts[0] in _UPS

    def add_header(self, node: ast.stmt) -> None:
        """Add what a compound statement itself binds: a loop's target, and what `with` names."""
        if isinstance(node, ast.For | ast.AsyncFor):
            call = calls_loop(node.iter)
            self._assign(node.target, call.args[0] if call is not None and call.args else node.iter, node, ())
        for item in getattr(node, "items", ()):
            if item.optional_vars is not None:
                self._assign(item.optional_vars, item.context_expr, node, ())

    def change(self, name: str, node: ast.AST, conditions: tuple[str, ...] = ()) -> None:
        """Note that a statement changes the object of that name in place."""
        old = self.find(name)
        if not name or (old is not None and old[0].is_import):
            return
        known = old[0] if old is not None else Definition()
        own = names_in([node]) - {name}
        self.names[name] = replace(
            known,
            parts=(*known.parts, digest(node, *conditions)),
            reads=known.reads | own,
            earlier=known.earlier + self._versions(own),
            text="",
        )

    def _add(self, node: ast.stmt, conditions: tuple[str, ...], reads: frozenset[str]) -> None:
        for part in _own_expressions(node):
            for each in ast.walk(part):
                if isinstance(each, ast.NamedExpr) and isinstance(each.target, ast.Name):
                    self.define(each.target.id, [each.value], conditions)
        match node:
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    self._assign(target, value, node, conditions)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self._assign(target, value, node, conditions)
            case ast.AugAssign(target=target):
                self.change(root_of(target).partition(".")[0], node, conditions)
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                source = f"{node.level}{node.module}:" if isinstance(node, ast.ImportFrom) else ""
                for alias in names:
                    name = alias.asname or alias.name.partition(".")[0]
                    path = alias.name if alias.asname or source else name
                    self.define(name, [f"{source}{path}"], conditions, is_import=True)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                self.define(node.name, [node], conditions)
                for each in ast.walk(node):
                    for name in each.names if isinstance(each, ast.Global) else ():
                        self.change(name, node, conditions)
            case ast.Expr(value=ast.Call() as call):
                self._call(call, node, conditions)
            case _:
                self._compound(node, conditions, reads)

    def _call(self, call: ast.Call, node: ast.stmt, conditions: tuple[str, ...]) -> None:
        if callee(call) in _SEEDERS:
            self.define(path_of(call.func) + _SEED, [call], conditions)
            return
        if isinstance(call.func, ast.Attribute) and callee(call) not in _READERS:
            self.change(root_of(call.func.value).partition(".")[0], node, conditions)
        if callee(call) in FIRST_ARGUMENT and call.args:
            self.change(root_of(call.args[0]).partition(".")[0], node, conditions)

    def _compound(self, node: ast.stmt, conditions: tuple[str, ...], reads: frozenset[str]) -> None:
        if is_loop(node):
            return  # what its body changes is restored; a change of it is that loop's
        headers = _own_expressions(node)
        inner = conditions if isinstance(node, ast.With | ast.AsyncWith) else (*conditions, digest(*headers))
        names = reads | names_in(headers)
        if isinstance(node, ast.For | ast.AsyncFor):
            self._assign(node.target, node.iter, node, inner)
        for item in getattr(node, "items", ()):
            if item.optional_vars is not None:
                self._assign(item.optional_vars, item.context_expr, node, conditions)
        before = dict(self.names)
        for number, body in enumerate(bodies(node)):
            self.add(body, (*inner, str(number)) if inner != conditions else conditions, names)
        if inner != conditions:
            for name, definition in self.names.items():
                if before.get(name) is not definition:
                    self.names[name] = replace(definition, reads=definition.reads | names - {name})

    def _assign(self, target: ast.expr, value: ast.expr, node: ast.stmt, conditions: tuple[str, ...]) -> None:
        match target, value:
            case ast.Name(id=name), _:
                self.define(name, [value], conditions)
            case ast.Tuple(elts=targets) | ast.List(elts=targets), ast.Tuple(elts=values) | ast.List(elts=values) if (
                len(targets) == len(values) and not any(isinstance(each, ast.Starred) for each in (*targets, *values))
            ):
                for part, source in zip(targets, values, strict=True):
                    self._assign(part, source, node, conditions)
            case ast.Tuple(elts=targets) | ast.List(elts=targets), _:
                for number, part in enumerate(targets):
                    if isinstance(part, ast.Name):
                        self.define(part.id, [value, str(number)], conditions)
                    else:
                        self._assign(part, value, node, conditions)
            case ast.Starred(value=part), _:
                self._assign(part, value, node, conditions)
            case _:
                self.change(root_of(target).partition(".")[0], node, conditions)


def _own_expressions(node: ast.AST) -> list[ast.AST]:
    """The expressions of a statement, without the statements in it."""
    kinds = (ast.expr, ast.withitem, ast.pattern)
    return [each for each in ast.iter_child_nodes(node) if isinstance(each, kinds)]


def bodies(node: ast.AST) -> Iterator[list[ast.stmt]]:
    """The lists of statements in a compound statement."""
    for name in ("body", "orelse", "finalbody"):
        statements = getattr(node, name, None)
        yield statements if isinstance(statements, list) else []
    for part in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
        yield part.body


def items_of(node: ast.AST) -> ast.expr | None:
    """What a `for` statement or a comprehension iterates over."""
    if isinstance(node, ast.For | ast.AsyncFor):
        return node.iter
    if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
        return node.generators[0].iter
    return None


def calls_loop(items: ast.expr) -> ast.Call | None:
    """The call of `city.loop` in an expression."""
    calls = (each for each in ast.walk(items) if isinstance(each, ast.Call))
    return next((each for each in calls if callee(each) == "loop"), None)


def is_loop(node: ast.AST) -> bool:
    """Is it a loop over `city.loop`?"""
    return (items := items_of(node)) is not None and calls_loop(items) is not None


def names_in(nodes: Iterable[ast.AST]) -> frozenset[str]:
    """The variables that the code reads and does not bind itself as a function's own; and `self.x` of methods."""
    names: set[str] = set()
    for node in nodes:
        _collect(node, frozenset(), names)
    return frozenset(names)


def _collect(node: ast.AST, own: frozenset[str], names: set[str]) -> None:
    if isinstance(node, ast.Name):
        if node.id not in own and isinstance(node.ctx, ast.Load):
            names.add(node.id)
        return
    if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name) and node.target.id not in own:
        names.add(node.target.id)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
        names.add(f"self.{node.attr}")
    if isinstance(node, _FUNCTIONS):
        for each in (*node.args.defaults, *node.args.kw_defaults, *getattr(node, "decorator_list", ())):
            if each is not None:
                _collect(each, own, names)
        inner = own | _locals(node)
        for each in node.body if isinstance(node.body, list) else [node.body]:
            _collect(each, inner, names)
        return
    if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
        bound = {each.id for part in node.generators for each in ast.walk(part.target) if isinstance(each, ast.Name)}
        own = own | bound
    for field_name, value in ast.iter_fields(node):
        if field_name in ("annotation", "returns"):
            continue
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, ast.AST):
                _collect(each, own, names)


def _locals(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> frozenset[str]:
    arguments = node.args
    names = {each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
    names |= {each.arg for each in (arguments.vararg, arguments.kwarg) if each is not None}
    shared: set[str] = set()
    for each in ast.walk(node):
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
            names.add(each.id)
        elif isinstance(each, ast.Global | ast.Nonlocal):
            shared.update(each.names)
        elif isinstance(each, ast.FunctionDef | ast.ClassDef) and each is not node:
            names.add(each.name)
    return frozenset(names - shared)


def _text(name: str, node: ast.AST | str) -> str:
    """A short assignment as source; empty: it is long, no value, or may be a secret."""
    if not isinstance(node, ast.expr):
        return ""
    with contextlib.suppress(ValueError, RecursionError):
        value = ast.unparse(node)
        text = value if name.endswith(_SEED) else f"{name} = {value}"
        strings = [str(each.value) for each in ast.walk(node) if isinstance(each, ast.Constant)]
        is_secret = any(looks_secret(name, each) for each in (value, text, *strings))
        return text if len(text) <= TEXT_CHARS and "\n" not in text and not is_secret else ""
    return ""
