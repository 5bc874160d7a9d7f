"""Walks the statements of a loop's body in the order in which they run, and notes what they do with variables."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass, field

from qcity_nb.cells.expressions import (
    Change,
    callee,
    is_constant,
    is_range,
    item_sources,
    names_in,
    path_of,
    prefixes,
    root_of,
)
from qcity_nb.cells.known_methods import FIRST_ARGUMENT, MUTATORS, OVERWRITERS, RESETS, RETURNS_CONTENT

__all__ = ["Walker"]


@dataclass(slots=True)
class Walker:
    """What the statements that were walked do. A variable is a name or a chain of attributes."""

    defined: set[str] = field(default_factory=set)
    """What the iteration has bound for certain."""
    exposed: set[str] = field(default_factory=set)
    """What is read, or changed, before the iteration has bound it."""
    stores: dict[str, list[Change]] = field(default_factory=dict)
    mutations: dict[str, list[Change]] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)
    """What is handed to functions, or has other methods called: it may be changed."""
    reads: set[str] = field(default_factory=set)
    resets: set[str] = field(default_factory=set)
    constant: set[str] = field(default_factory=set)
    """What has a constant value now."""
    deleted: set[str] = field(default_factory=set)
    aliases: dict[str, tuple[str, bool]] = field(default_factory=dict)
    """What a name is a part of, and whether that is certain."""
    conditions: list[ast.expr] = field(default_factory=list)
    skips: list[ast.expr] = field(default_factory=list)
    nested: int = 0
    """In how many inner loops."""
    ranges: set[str] = field(default_factory=set)
    """The items of inner loops over a range that is the same in each iteration."""
    later: list[set[str]] = field(default_factory=list)
    """What nested functions read."""
    mirrored: set[tuple[str, str, str]] = field(default_factory=set)
    called: set[str] = field(default_factory=set)
    stepped: set[str] = field(default_factory=set)
    uncertain: str = ""

    # -- variables

    def is_defined(self, path: str) -> bool:
        """Has the iteration bound the variable, or what it is an attribute of?"""
        return any(prefix in self.defined for prefix in prefixes(path))

    def _alias(self, path: str) -> tuple[str, bool] | None:
        name = path.partition(".")[0]
        return self.aliases.get(name) if name in self.defined else None

    def _change(self, values: Sequence[ast.expr] = (), entry: ast.expr | None = None) -> Change:
        return Change(tuple(values), tuple(self.conditions), tuple(self.skips), entry=entry)

    def _read(self, path: str, *, counts: bool = True) -> None:
        for prefix in prefixes(path):
            if counts:
                self.reads.add(prefix)
            if not self.is_defined(prefix):
                self.exposed.add(prefix)

    def _store(self, path: str, value: ast.expr | None = None, *, is_augmented: bool = False) -> None:
        values = (value,) if value is not None else ()
        change = Change(values, tuple(self.conditions), tuple(self.skips), is_augmented)
        self.stores.setdefault(path, []).append(change)
        self.defined.add(path)
        self.aliases.pop(path, None)
        self.constant.discard(path)
        if is_constant(value) and not is_augmented and not self.conditions and not self.nested:
            self.constant.add(path)

    def _mutate(self, path: str, values: Sequence[ast.expr] = (), *, entry: ast.expr | None = None) -> None:
        """Note a change of the object of ``path``, or of what it is an alias of."""
        if (alias := self._alias(path)) is not None:
            base, is_certain = alias
            if is_certain and not self.is_defined(base):
                self.mutations.setdefault(base, []).append(self._change())
            elif not self.is_defined(base):
                self.touched.add(base)
            return
        self.constant.discard(path)
        if path and not self.is_defined(path) and path not in self.resets:
            self.mutations.setdefault(path, []).append(self._change(values, entry))
            self.exposed.add(path)

    def _overwrite(self, path: str) -> None:
        """All of its content is set. If no iteration read it before, nothing of the last one is left."""
        if not self.conditions and path not in self.exposed and self._alias(path) is None:
            self.resets.add(path)
        else:
            self._mutate(path)

    def _touch(self, path: str) -> None:
        base, _ = self._alias(path) or (path, True)
        if not self.is_defined(base):
            self.touched.add(base)

    # -- expressions

    def visit(self, node: ast.AST | None) -> None:
        """Walk an expression."""
        if node is None:
            return
        if path := path_of(node):
            self._read(path)
            return
        match node:
            case ast.Call():
                self._call(node)
            case ast.NamedExpr(target=target, value=value):
                self.visit(value)
                self._store(target.id, value)
            case ast.Lambda(args=args, body=body):
                self._function(args, [ast.Expr(body)])
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                self._comprehension(node)
            case _:
                for child in ast.iter_child_nodes(node):
                    self.visit(child)

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> None:
        own: set[str] = set()
        for part in node.generators:
            self.visit(part.iter)
            names = {each.id for each in ast.walk(part.target) if isinstance(each, ast.Name)} - self.defined
            own |= names
            self.defined |= names
            for test in part.ifs:
                self.visit(test)
        for value in (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,):
            self.visit(value)
        self.defined -= own

    def _call(self, node: ast.Call) -> None:
        name = callee(node)
        arguments = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg != "out")]
        if isinstance(node.func, ast.Name):
            if name in ("exec", "globals"):
                self.uncertain = self.uncertain or f"`{name}` may bind any variable"
            self.called.add(name)
            self._read(name)
            self._touch(name)
        elif not isinstance(node.func, ast.Attribute):
            self.visit(node.func)
        for number, argument in enumerate(arguments):
            root = root_of(argument)
            if number == 0 and name in FIRST_ARGUMENT and root:
                self.reads |= {root} if name in RETURNS_CONTENT else set()
                self._overwrite(root) if name == "copyto" else self._mutate(root)
                continue
            self.visit(argument)
            if root:
                self._touch(root)
        for keyword in node.keywords:
            if keyword.arg == "out" and (root := root_of(keyword.value)):
                self._overwrite(root)
        if isinstance(node.func, ast.Attribute):
            self._method(node.func, name, arguments)

    def _method(self, func: ast.Attribute, name: str, arguments: Sequence[ast.expr]) -> None:
        root, path = root_of(func.value), path_of(func)
        if path:
            self.called.add(path)
        if not root:
            self.visit(func.value)
            return
        if name in ("step", "update"):
            self.stepped |= {root, *(path_of(each) for each in arguments if name == "step")} - {""}
        for each in ast.walk(func.value):
            if isinstance(each, ast.Subscript):
                self.visit(each.slice)
        if name in RESETS and not self.conditions and not self.nested and path_of(func.value):
            if not self.is_defined(root):
                self.resets.add(root)
                self.mutations.pop(root, None)
        elif name in OVERWRITERS and path_of(func.value):
            self._overwrite(root)
        elif name in MUTATORS | RESETS or (name.endswith("_") and not name.startswith("_")):
            self.reads |= {root} if name in RETURNS_CONTENT else set()
            is_entry = name == "setdefault" and len(arguments) == 2
            self._mutate(root, arguments, entry=arguments[0] if is_entry else None)
        else:
            self._read(root)
            self._touch(root)

    # -- targets

    def _bind(self, target: ast.expr, value: ast.expr | None) -> None:
        match target:
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                values = list(value.elts) if isinstance(value, ast.Tuple | ast.List) else []
                is_pairwise = len(values) == len(elements)
                for number, element in enumerate(elements):
                    self._bind(element, values[number] if is_pairwise else value)
            case ast.Starred(value=inner):
                self._bind(inner, value)
            case ast.Subscript():
                self._set_entry(target, value)
            case ast.Name() | ast.Attribute() if path := path_of(target):
                if "." in path and self._alias(path) is not None:
                    self._mutate(path)
                    return
                base = root_of(value) if value is not None else ""
                source = self._alias(base) or (base, True)
                self._store(path, value)
                if base and "." not in path:
                    self.aliases[path] = source
            case ast.Attribute():
                self.visit(target.value)
                if root := root_of(target):
                    self._mutate(root)

    def _set_entry(self, target: ast.Subscript, value: ast.expr | None) -> None:
        self.visit(target.slice)
        root = root_of(target)
        if not root:
            self.visit(target.value)
            return
        values = [value] if value is not None else []
        names = names_in([target.slice])
        is_whole = isinstance(target.slice, ast.Slice) and not (target.slice.lower or target.slice.upper)
        is_whole |= isinstance(target.slice, ast.Constant) and target.slice.value is Ellipsis
        if path_of(target.value) and (is_whole or (names and names <= self.ranges)):
            self._overwrite(root)
        else:
            self._mutate(root, values, entry=target.slice if path_of(target.value) else None)
        if isinstance(target.slice, ast.Constant):
            self.mirrored |= {(root, str(target.slice.value), path) for path in names_in(values)}

    # -- statements

    def run(self, statements: Sequence[ast.stmt]) -> bool:
        """Walk a block. Returns whether its end is reached."""
        depth = len(self.skips)
        reaches = all(self._statement(statement) for statement in statements)
        del self.skips[depth:]
        return reaches

    def _statement(self, node: ast.stmt) -> bool:
        match node:
            case ast.Assign(targets=targets, value=value):
                self.visit(value)
                for target in targets:
                    self._bind(target, value)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self.visit(value)
                self._bind(target, value)
            case ast.AugAssign(target=target, value=value):
                self._augment(target, value)
            case ast.For() | ast.AsyncFor():
                self._inner_loop(node)
            case ast.While():
                self.visit(node.test)
                self._block(node.body)
                self.run(node.orelse)
            case ast.If():
                return self._branches(node.test, [node.body, node.orelse])
            case ast.Match():
                return self._match(node)
            case ast.With() | ast.AsyncWith():
                for item in node.items:
                    self.visit(item.context_expr)
                    if item.optional_vars is not None:
                        self._bind(item.optional_vars, None)
                return self.run(node.body)
            case ast.Try() | ast.TryStar():
                return self._attempt(node)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                self._definition(node)
            case ast.Import() | ast.ImportFrom():
                self._import(node)
            case ast.Delete(targets=targets):
                for target in targets:
                    self._delete(target)
            case ast.Return() | ast.Raise() | ast.Break() | ast.Continue():
                for child in ast.iter_child_nodes(node):
                    self.visit(child)
                return False
            case ast.Expr(value=value):
                self.visit(value)
            case ast.Assert(test=test):
                self.visit(test)
        return True

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            if alias.name == "*":
                self.uncertain = self.uncertain or "`import *` may bind any variable"
            else:
                self._store((alias.asname or alias.name).partition(".")[0])

    def _delete(self, target: ast.expr) -> None:
        if isinstance(target, ast.Name):
            self.defined.discard(target.id)
            self.deleted.add(target.id)
        elif root := root_of(target):
            self._mutate(root)

    def _augment(self, target: ast.expr, value: ast.expr) -> None:
        self.visit(value)
        path = path_of(target)
        if not path:
            if isinstance(target, ast.Subscript):
                self.visit(target.slice)
            self._mutate(root_of(target), [value])
        elif "." in path and self._alias(path) is not None:
            self._mutate(path)
        else:
            alias = self._alias(path)
            self._read(path, counts=False)
            self._store(path, value, is_augmented=True)
            if alias is not None:  # `p -= …` changes what `p` is a part of, if that can be changed
                self._touch(alias[0])

    def _inner_loop(self, node: ast.For | ast.AsyncFor) -> None:
        self.visit(node.iter)
        self.nested += 1
        for each in ast.walk(node.target):
            if isinstance(each, ast.Name):
                self._store(each.id)
        self.nested -= 1
        self._alias_items(node.target, node.iter)
        if is_range(node.iter) and not any(map(self.is_defined, names_in([node.iter]))):
            self.ranges.add(path_of(node.target))
        self._block(node.body)
        self.run(node.orelse)

    def _alias_items(self, target: ast.expr, items: ast.expr) -> None:
        """The items of a container are parts of it."""
        for part, source in item_sources(target, items):
            root = root_of(source)
            if root and not self.is_defined(root):
                names = [each.id for each in ast.walk(part) if isinstance(each, ast.Name)]
                self.aliases.update(dict.fromkeys(names, (root, False)))

    def _block(self, body: Sequence[ast.stmt]) -> None:
        """The body of an inner loop, which is taken to run; `break` and `continue` leave only that loop."""
        self.nested += 1
        self.run(body)
        self.nested -= 1

    def _branches(self, test: ast.expr, blocks: Sequence[Sequence[ast.stmt]]) -> bool:
        self.visit(test)
        before, ends = set(self.defined), []
        for body in blocks:
            self.defined = set(before)
            self.conditions.append(test)
            if self.run(body):
                ends.append(self.defined)
            self.conditions.pop()
        self.defined = set.intersection(*ends) if ends else before
        if len(ends) < len(blocks):
            self.skips.append(test)  # until the end of the block around this, where ``run`` removes it
        return bool(ends)

    def _match(self, node: ast.Match) -> bool:
        self.visit(node.subject)
        before, ends, is_complete = set(self.defined), [], False
        for case in node.cases:
            self.defined = set(before)
            self.conditions.append(node.subject)
            for part in ast.walk(case.pattern):
                name = getattr(part, "name", None) or getattr(part, "rest", None)
                if isinstance(name, str):
                    self._store(name)
            self.visit(case.guard)
            is_complete |= case.guard is None and isinstance(case.pattern, ast.MatchAs) and case.pattern.pattern is None
            if self.run(case.body):
                ends.append(self.defined)
            self.conditions.pop()
        if not is_complete:
            ends.append(before)
        self.defined = set.intersection(*ends) if ends else before
        return bool(ends)

    def _attempt(self, node: ast.Try | ast.TryStar) -> bool:
        """A `try` statement, whose body is taken to end without an exception."""
        before = set(self.defined)
        reaches = self.run(node.body) and self.run(node.orelse)
        after = self.defined
        for handler in node.handlers:
            self.defined = before | ({handler.name} if handler.name else set())
            self.conditions.append(handler.type or ast.Constant(None))
            reaches |= self.run(handler.body)
            self.conditions.pop()
        self.defined = after
        return self.run(node.finalbody) and reaches

    # -- nested functions and classes

    def _definition(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        for each in node.decorator_list:
            self.visit(each)
        if isinstance(node, ast.ClassDef):
            for each in node.bases:
                self.visit(each)
            self._function(None, node.body)
        else:
            self._function(node.args, node.body)
        self._store(node.name)

    def _function(self, args: ast.arguments | None, body: Sequence[ast.stmt]) -> None:
        """A nested function or class: what it reads counts at the end of the body, when it was called."""
        inner = Walker(defined=set(self.defined) if args is None else set())
        if args is not None:
            for default in [*args.defaults, *args.kw_defaults]:
                self.visit(default)
            every = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
            inner.defined = {each.arg for each in every if each is not None}
        own = set(inner.defined)
        inner.run(body)
        declared = {
            name
            for statement in body
            for each in ast.walk(statement)
            if isinstance(each, ast.Global | ast.Nonlocal)
            for name in each.names
        }
        own |= {path for path in inner.stores if "." not in path} - declared
        self.uncertain = self.uncertain or inner.uncertain
        self.called |= inner.called

        def outer(paths: set[str]) -> set[str]:
            return {path for path in paths if path.partition(".")[0] not in own}

        self.later.append(outer(inner.exposed))
        self.reads |= outer(inner.reads)
        self.touched |= {path for path in outer(inner.touched) if not self.is_defined(path)}
        self.stepped |= outer(inner.stepped)
        for path in outer(set(inner.stores)):
            self.stores.setdefault(path, []).extend(inner.stores[path])
        for path in outer(set(inner.mutations)):
            if not self.is_defined(path):
                self.mutations.setdefault(path, []).extend(inner.mutations[path])
                self.exposed.add(path)
