"""Walks the statements of a loop's body in the order in which they run, and notes what they do with variables."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from qcity_nb.cells.expressions import (
    callee,
    counter_of,
    is_range,
    is_true_for_zero,
    item_sources,
    names_in,
    path_of,
    root_of,
)
from qcity_nb.cells.known_methods import FIRST_ARGUMENT, MUTATORS, OVERWRITERS, READERS, RESETS, RETURNS_CONTENT
from qcity_nb.cells.variable_use import VariableUse

__all__ = ["Walker"]


class Walker(VariableUse):
    """Walks statements, and notes what they do."""

    # -- expressions

    def visit(self, node: ast.AST | None) -> None:
        """Walk an expression."""
        if node is None:
            return
        if path := path_of(node):
            self.read(path)
            return
        match node:
            case ast.Call():
                self._call(node)
            case ast.NamedExpr(target=target, value=value):
                self.visit(value)
                self.store(target.id, value)
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

    def _call(self, node: ast.Call, *, is_used: bool = True) -> None:
        name = callee(node)
        arguments = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg != "out")]
        if isinstance(node.func, ast.Name):
            if name in ("exec", "globals"):
                self.uncertain = self.uncertain or f"`{name}` may bind any variable"
            self.call(name)
            self.read(name)
            self.touch(name)
        elif not isinstance(node.func, ast.Attribute):
            self.visit(node.func)
        for number, argument in enumerate(arguments):
            root = root_of(argument)
            if number == 0 and name in FIRST_ARGUMENT and root:
                self.reads |= {root} if name in RETURNS_CONTENT else set()
                self.overwrite(root) if name == "copyto" else self.mutate(root)
                continue
            self.visit(argument)
            if root and name not in READERS:
                self.touch(root)
        for keyword in node.keywords:
            if keyword.arg == "out" and (root := root_of(keyword.value)):
                self.overwrite(root)
        if isinstance(node.func, ast.Attribute):
            self._method(node.func, name, arguments, is_used=is_used)

    def _method(self, func: ast.Attribute, name: str, arguments: Sequence[ast.expr], *, is_used: bool) -> None:
        root, path = root_of(func.value), path_of(func)
        if path:
            self.call(path)
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
            self.overwrite(root)
        elif name in MUTATORS | RESETS or (name.endswith("_") and not name.startswith("_")):
            self.reads |= {root} if is_used or name in RETURNS_CONTENT else set()
            is_entry = name == "setdefault" and len(arguments) == 2
            is_part = not path_of(func.value)
            self.mutate(root, *arguments, entry=arguments[0] if is_entry else None, is_part=is_part)
        else:
            self.read(root, counts=is_used)
            self.touch(root)

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
                if "." in path and self.alias(path) is not None:
                    self.mutate(path)
                    return
                base = root_of(value) if value is not None else ""
                source = self.alias(base) or (base, True)
                self.store(path, value)
                if base and "." not in path:
                    self.aliases[path] = source
            case ast.Attribute():
                self.visit(target.value)
                if root := root_of(target):
                    self.mutate(root, is_part=True)

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
            self.overwrite(root)
        else:
            is_part = not path_of(target.value)
            if not self.set_entry(target):
                self.mutate(root, *values, entry=None if is_part else target.slice, is_part=is_part)
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
            case ast.Expr(value=ast.Call() as call):
                self._call(call, is_used=False)
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
                self.store((alias.asname or alias.name).partition(".")[0])

    def _delete(self, target: ast.expr) -> None:
        if isinstance(target, ast.Name):
            self.defined.discard(target.id)
            self.deleted.add(target.id)
        elif root := root_of(target):
            self.mutate(root)

    def _augment(self, target: ast.expr, value: ast.expr) -> None:
        self.visit(value)
        path = path_of(target)
        if not path:
            if isinstance(target, ast.Subscript):
                self.visit(target.slice)
            if not self.has_entry(target):
                self.mutate(root_of(target), value)
        elif "." in path and self.alias(path) is not None:
            self.mutate(path)
        else:
            alias = self.alias(path)
            self.read(path, counts=False)
            self.store(path, value, is_augmented=True)
            if alias is not None:  # `p -= …` changes what `p` is a part of, if that can be changed
                self.touch(alias[0])

    def _inner_loop(self, node: ast.For | ast.AsyncFor) -> None:
        self.visit(node.iter)
        self.nested += 1
        for each in ast.walk(node.target):
            if isinstance(each, ast.Name):
                self.store(each.id)
        self.nested -= 1
        self._alias_items(node.target, node.iter)
        if is_range(node.iter) and not any(map(self.is_defined, names_in([node.iter]))):
            self.ranges.add(path_of(node.target))
        self.counters.add(counter_of(node.target, node.iter))
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
        before, ends = set(self.defined), dict[int, set[str]]()
        for number, body in enumerate(blocks):
            self.defined = set(before)
            self.conditions.append(test)
            if self.run(body):
                ends[number] = self.defined
            self.conditions.pop()
        self.defined = set.intersection(*ends.values()) if ends else before
        if 0 in ends and is_true_for_zero(test, self.counters - {""}):
            self.defined = ends[0]
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
                    self.store(name)
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
        self.store(node.name)

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
        self.called_later |= {*inner.called, *inner.called_later}

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
