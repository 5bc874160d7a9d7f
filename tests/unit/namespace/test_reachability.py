"""Small programs run for real: what changed must be within reach, and each rule of it is needed."""

from __future__ import annotations

import dataclasses
import functools
import gc
import itertools
import json
import random
import subprocess
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tiers import nightly_but

from qcity_nb.cells import names as mention
from qcity_nb.namespace import reachability, reference_audit
from qcity_nb.namespace.reachability import Reach

LIBRARY = """
import sys, weakref
_callbacks, _kept, _methods = [], [], []
def register(call): _callbacks.append(call)
def register_with(call, value): _callbacks.append(lambda: call(value))
def fire():
    for call in list(_callbacks): call()
def keep(value): _kept.append(value)
def poke():
    for value in _kept:
        value.append(0)
def by_name(expression): return eval(expression, sys._getframe(1).f_globals)
def guarded(call):
    try: call()
    except Exception: pass
def forget():
    _callbacks.clear(); _kept.clear()
class Box:
    def __init__(self, value): self.value = value
    def call(self): return self.value()
"""

START = """
import functools, weakref, lib
hooks = {}
class Thing:
    made = []
    def __init__(self, inner): self.inner = inner
    def push(self): self.inner.append(len(self.inner))
    def count(self): Thing.made.append(1)
class Loud:
    def __init__(self, inner): self.inner = inner
    def __del__(self): lib.guarded(lambda: d0.append(-1))
def twice(call):
    @functools.wraps(call)
    def inner(*args):
        call(*args)
        return call(*args)
    return inner
def make(inner):
    def add(): inner.append(len(inner))
    return add
def gen(inner):
    while True:
        inner.append(1)
        d3.append(2)
        yield
d0 = [0]; d1 = [1]; d2 = {'k': [2]}; d3 = [d0]
o0 = Thing([5]); o1 = Thing(d1)
def f0(): d0.append(1)
def f1(x=[]): x.append(1)
f2 = make([1])
"""

CELLS = [
    "{d} = [{n}]",
    "{d} = {{'k': [{n}]}}",
    "{d} = {e}",
    "{d} = [{e}, {n}]",
    "del {d}",
    "{d}.append({n})",
    "{d}[0].append({n})",
    "{d}['k'].append({n})",
    "def {f}(): {d}.append({n})",
    "def {f}(x={d}): x.append({n})",
    "def {f}(*, x=[{n}]): x.append({n})",
    "def {f}(): {g}()",
    "def {f}():\n    global {d}\n    {d} = [{n}]",
    "def {f}():\n    def inner(): {d}.append({n})\n    return inner()",
    "{f} = make({d})",
    "{f} = lambda: {d}.append({n})",
    "{f} = twice({g})",
    "@twice\ndef {f}(): {d}.append({n})",
    "{f} = functools.partial(list.append, {d}, {n})",
    "{f} = functools.partial({g})",
    "{f} = {o}.push",
    "{f} = {d}.append",
    "{f} = lib.Box({g}).call",
    "{f} = functools.lru_cache(lambda: {d})",
    "{f}()",
    "{f}().append({n})",
    "[{f}() for _ in range(2)]",
    "hooks['a'] = {f}",
    "hooks['a']()",
    "hooks['b'] = ({f}, [{g}])",
    "hooks['b'][1][0]()",
    "hooks.clear()",
    "{o} = Thing({d})",
    "{o}.push()",
    "{o}.count()",
    "{o}.call = {f}",
    "{o}.call()",
    "{o}.inner.append({n})",
    "{o} = Loud([{n}])",
    "{o} = lib.Box({f})",
    "class Thing:\n    made = []\n    def __init__(self, inner): self.inner = inner\n"
    "    def push(self): {d}.append({n})\n    def count(self): type(self).made.append({n})",
    "class Thing:\n    made = [{n}]\n    def __init__(self, inner): self.inner = inner\n    @property\n"
    "    def push(self): {f}(); return len\n    @classmethod\n    def count(cls): cls.made.append({n})",
    "{f} = weakref.ref({o})",
    "{f}().inner.append({n})",
    "{f} = gen({d})",
    "next({f})",
    "lib.register({f})",
    "lib.register({o}.push)",
    "lib.register(lambda: {d}.append({n}))",
    "lib.register_with({f}, {d})",
    "lib.fire()",
    "lib.keep({d})",
    "lib.poke()",
    "lib.forget()",
    "lib.by_name('{d}.append({n})')",
    "weakref.finalize({o}, lib.guarded, {f}).atexit = False",
    "exec('{d}.append({n})')",
    "globals()['{d}'] = [{n}]",
    "vars()['{d}'].append({n})",
    "globals()['d' + str({n} % 4)] = [{n}]",
    "eval(''.join(['d', str({n} % 4)])).append({n})",
    "n = {n}",
    "n = len({d})",
]


def text_of(value: object, seen: dict[int, int], shared: set[int] | None = None) -> str:
    """A value's deep content as text; ``shared`` gets the ids of the mutable objects in it."""
    if value is None or isinstance(value, int | str | float):
        return repr(value)
    if id(value) in seen:
        return f"#{seen[id(value)]}"
    seen[id(value)] = len(seen)

    def also(*parts: object) -> str:
        return ", ".join(text_of(part, seen, shared) for part in parts)

    if shared is not None and isinstance(value, list | dict | set | types.CellType):
        shared.add(id(value))
    match value:
        case dict():
            return "{" + also(*[part for pair in value.items() for part in pair]) + "}"
        case list() | tuple():
            return type(value).__name__ + f"[{also(*value)}]"
        case types.FunctionType():
            if value.__module__ == "lib":
                return value.__qualname__
            rest = (value.__defaults__, value.__kwdefaults__, *(value.__closure__ or ()))
            return f"{value.__qualname__}{value.__code__.co_firstlineno, value.__code__.co_names}({also(*rest)})"
        case types.CellType():
            try:
                return f"cell({also(value.cell_contents)})"
            except ValueError:
                return "cell()"
        case functools.partial():
            return f"partial({also(value.func, value.args)})"
        case types.MethodType():
            return f"method({also(value.__func__, value.__self__)})"
        case types.BuiltinFunctionType():
            holder = value.__self__
            return f"{value.__name__}({also(holder) if isinstance(holder, list) else ''})"
        case type():
            if not value.__module__.startswith("nb"):
                return value.__qualname__
            own = {name: each for name, each in vars(value).items() if isinstance(each, list)}
            return f"class {value.__qualname__}({also(own)})"
    if isinstance(value, types.ModuleType | weakref.ref) or not hasattr(value, "__dict__"):
        return type(value).__name__
    if type(value).__module__.startswith(("nb", "lib")):
        if shared is not None:
            shared.add(id(value))
        return f"{type(value).__qualname__}({also(value.__dict__)})"
    return type(value).__name__


def contents(live: dict[str, Any]) -> tuple[dict[str, str], dict[str, frozenset[int]]]:
    texts, parts = {}, {}
    for name in [name for name in live if not name.startswith("__")]:
        shared: set[int] = set()
        texts[name] = text_of(live[name], {}, shared)
        parts[name] = frozenset(shared)
    return texts, parts


@pytest.fixture(scope="module")
def collector() -> Iterator[None]:
    """To collect all that this process has costs a second where other tests have brought torch: once is enough."""
    gc.collect()
    yield
    gc.unfreeze()


@pytest.fixture
def live(collector: None) -> Iterator[Callable[[], dict[str, Any]]]:
    """Makes fresh namespaces; what this process had before is hidden from the collector, which is then quick."""

    def fresh() -> dict[str, Any]:
        # A name for each: what finalizers still hold of the last one is not this one's code.
        for name in ("lib", home := f"nb{next(count)}"):
            sys.modules[name] = types.ModuleType(name)
        run(vars(sys.modules["lib"]), LIBRARY)
        return vars(sys.modules.pop(home))

    count = itertools.count()
    gc.freeze()
    yield fresh
    sys.modules.pop("lib", None)


def run(namespace: dict[str, Any], source: str) -> None:
    try:
        exec(compile(source, "<cell>", "exec"), namespace)
    except Exception as error:  # noqa: BLE001 - a cell that fails half way is a case, too
        error.__traceback__ = None


def misses(live: dict[str, Any], seed: int, kinds: Sequence[str] = (), cells: int = 25) -> tuple[str | None, int, int]:
    """The first change that was not within reach; how often the answer was some names, and everything."""
    chance = random.Random(seed)
    run(live, START)
    watch = looking(live)
    some = everything = 0
    steps = []
    kinds = kinds or chance.sample(CELLS, 15)  # few kinds at a time: they meet each other more often
    for _ in range(cells):
        source = chance.choice(kinds).format(
            d=chance.choice(["d0", "d1", "d2", "d3"]),
            e=chance.choice(["d0", "d1", "d2", "d3"]),
            f=chance.choice(["f0", "f1", "f2"]),
            g=chance.choice(["f0", "f1", "f2"]),
            o=chance.choice(["o0", "o1"]),
            n=chance.randrange(100),
        )
        steps.append(source)
        texts, parts = contents(live)
        run(live, source)
        watch.ran(source)
        reached = watch.changed_names()
        new_texts, new_parts = contents(live)
        if reached is None:
            everything += 1
        else:
            some += 1
            for name in texts.keys() | new_texts.keys():
                if texts.get(name) == new_texts.get(name) or name in reached:
                    continue
                if any(
                    of.get(name, frozenset()) & of.get(other, frozenset())
                    for of in (parts, new_parts)
                    for other in reached
                ):
                    continue
                return f"seed {seed}: {name} changed, not in {sorted(reached)}:\n" + "\n".join(steps), some, everything
        watch.clear()
    return None, some, everything


@pytest.mark.parametrize("count", [4, pytest.param(80, marks=[pytest.mark.nightly, pytest.mark.timeout(1200)])])
def test_what_changed_was_within_reach(live: Callable[[], dict[str, Any]], count: int) -> None:
    first = random.randrange(10**9)
    for seed in range(first, first + count):
        miss, _, _ = misses(live(), seed)
        assert miss is None, miss


def test_most_answers_are_some_names(live: Callable[[], dict[str, Any]]) -> None:
    """An answer that is always everything is no answer. A few seeds differ much in this: these are always the same."""
    answers = [misses(live(), seed)[1:] for seed in range(8)]
    some, everything = map(sum, zip(*answers, strict=True))
    assert some * 3 > everything, answers


def _audit(**change: Any) -> Callable[[pytest.MonkeyPatch], None]:
    def break_it(patch: pytest.MonkeyPatch) -> None:
        audit = reference_audit.audit_references
        patch.setattr(reference_audit, "audit_references", lambda live: dataclasses.replace(audit(live), **change))

    return break_it


def _no_nested_code(patch: pytest.MonkeyPatch) -> None:
    def shallow(source: str) -> mention.Mention:
        whole = mention.in_source(source)
        try:
            code = compile(source, "<cell>", "exec")
        except SyntaxError:
            return whole
        return dataclasses.replace(whole, names=frozenset(code.co_names))

    patch.setattr(reachability, "in_source", shallow)


def _no_text(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mention, "_in_text", lambda text: frozenset())
    mention.in_code.cache_clear()


def _nothing_opens(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mention, "_everything", lambda *names: "")
    mention.in_code.cache_clear()


def _no_weak_references(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reference_audit._Walk, "follow_weak", lambda self: None)


def _no_references_left_over(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reference_audit._Walk, "left_over", lambda self: set())


def _nobody_unmet(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reference_audit, "_carrier_ids", lambda walk: set())


PLAIN = ["{d} = [{n}]", "n = {n}"]
BROKEN: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], list[str]]] = {
    "values lead nowhere": (_audit(leads={}), ["hooks['a'] = {f}", "hooks['a']()", "{o}.call = {f}", "{o}.call()"]),
    "functions mention nothing": (_audit(mentions={}), ["{f}()"]),
    "always closed": (_audit(why=""), ["lib.register({f})", "lib.fire()"]),
    "libraries hold nothing": (_audit(shared=frozenset()), ["lib.keep({d})", "lib.poke()"]),
    "nested code is not read": (_no_nested_code, ["[{d}.append(_) for _ in range(2)]", "(lambda: {d}.append({n}))()"]),
    "strings are not read": (_no_text, ["lib.by_name('{d}.append({n})')"]),
    "nothing opens all doors": (_nothing_opens, ["eval(''.join(['d', str({n} % 4)])).append({n})"]),
    "weak references lead nowhere": (
        _no_weak_references,
        ["{f} = weakref.ref({o})", "{f}().inner.append({n})", "{o} = Thing([{n}])"],
    ),
    "no references are left over": (_no_references_left_over, ["lib.register({f})", "lib.fire()"]),
    "nobody is unmet": (_nobody_unmet, ["lib.register(lambda: {d}.append({n}))", "lib.fire()"]),
}


@pytest.mark.parametrize("rule", nightly_but(["nobody is unmet", "strings are not read"], BROKEN))
def test_each_rule_is_needed(live: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    break_it, kinds = BROKEN[rule]
    assert misses(live(), 0, PLAIN + kinds)[0] is None
    break_it(monkeypatch)
    try:
        assert any(misses(live(), seed, PLAIN + kinds)[0] for seed in range(40))
    finally:
        monkeypatch.undo()
        mention.in_code.cache_clear()


@pytest.mark.nightly
@pytest.mark.parametrize("rule", BROKEN)
def test_with_every_rule_nothing_is_missed(live: Callable[[], dict[str, Any]], rule: str) -> None:
    """What the broken ones above are held against."""
    for seed in range(3):
        assert misses(live(), seed, PLAIN + BROKEN[rule][1])[0] is None


def looking(made: dict[str, Any]) -> Reach:
    watch = Reach(made)
    assert watch.changed_names() is None, "nobody has looked yet"
    watch.clear()
    return watch


def namespace(source: str, live: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    made = live()
    exec(compile(source, "<cell>", "exec"), made)
    return made


@pytest.mark.parametrize(
    "source",
    [
        "eval(x)",
        "exec('a')",
        "globals()",
        "import gc",
        "import os as system, ctypes",
        "from os import *",
        "from sys import _getframe as frame",
        "sys.modules['x']",
        "f.__globals__",
        "get_ipython().run_line_magic('run', 'x.py')",
        "get_ipython().run_line_magic('load_ext', 'sql')",
        "get_ipython().run_cell_magic('cython', '', 'x')",
        "get_ipython().run_cell_magic('time', '', 'exec(x)')",
        "get_ipython().run_line_magic('timeit', 'eval(x)')",
        "get_ipython().system('echo {globals()}')",
        "get_ipython().events.register('post_run_cell', f)",
        "not python !",
        "x = __import__('gc')",
        "print(_)",
        "Out[3].append(1)",
        "_12.append(1)",
        "import __main__",
        "h('from __main__ import x')",
        "loop.call_later(1, x.append, 1)",
        "frame()",
        "run_it('x')",
        "space['a'] = 1",
        "hooks[0]('a')",
    ],
)
def test_everything(source: str, live: Callable[[], dict[str, Any]]) -> None:
    made = namespace("import sys\nfrom sys import _getframe as frame\nrun_it = eval\nhooks = [exec]\nx = [1]", live)
    made["space"] = made
    watch = looking(made)
    watch.ran(source)
    assert watch.changed_names() is None
    assert watch.why


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("model.eval()", {"model"}),
        ("for _ in range(3): x.append(1)", {"x", "_"}),
        ("get_ipython().run_line_magic('matplotlib', 'inline')", set()),
        ("get_ipython().run_line_magic('pip', 'install sys x')", {"sys", "x"}),
        ("get_ipython().run_cell_magic('time', '', 'f(x)')", {"f", "x"}),
        ("out = get_ipython().getoutput('ls {big}')", {"big"}),
        ("model.y = 1", {"model"}),
        ("f(1)", {"f"}),
        ("f = 2", {"f"}),
        ("reader()", {"reader", "big"}),
        ("call(1)", {"call", "reader", "big"}),
        ("load(1)", {"f", "reader", "call", "holder", "Model", "model", "big"}),
        ("holder['k']", {"holder", "reader", "big"}),
        ("await x", {"x"}),
        ("", set()),
    ],
)
def test_names(source: str, names: set[str], live: Callable[[], dict[str, Any]]) -> None:
    made = namespace(
        "import sys\nx, big = [1], [2]\ndef f(y): return y\ndef reader(): return big\nholder = {'k': reader}\n"
        "class Model:\n    def eval(self): return f\nmodel = Model()\n"
        "def call(y):\n    return [reader() for each in y]",
        live,
    )
    watch = looking(made)
    watch.ran(source)
    made["_"] = 2
    reached = watch.changed_names()
    assert reached is not None, watch.why
    more = {"Model", "f"} if "model" in source else set[str]()
    assert reached - {"_"} == (names | more) - {"_"}


def test_later_code_means_everything_for_good(live: Callable[[], dict[str, Any]]) -> None:
    watch = looking(namespace("x = [1]", live))
    watch.ran("loop.call_later(1, x.append, 1)")
    watch.clear()
    assert watch.changed_names() is None


def test_what_was_bound_out_of_sight_counts(live: Callable[[], dict[str, Any]]) -> None:
    made = namespace("x, y, z = [1], [2], [3]", live)
    watch = looking(made)
    made["x"], made["new"] = [1], 1
    del made["y"]
    watch.ran("y")
    assert watch.changed_names() == frozenset({"x", "y", "new"})
    watch.clear()
    assert watch.changed_names() == frozenset()


def test_a_thread_means_everything_until_after_its_end(live: Callable[[], dict[str, Any]]) -> None:
    watch = looking(namespace("x = [1]", live))
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        assert watch.changed_names() is None
        assert "thread" in watch.why
        watch.clear()
    finally:
        end.set()
        thread.join()
    assert watch.changed_names() is None, "it ran when the last snapshot was taken"
    watch.clear()
    assert watch.changed_names() == frozenset()


def test_a_large_variable_is_not_walked_to_its_end(live: Callable[[], dict[str, Any]]) -> None:
    made = namespace("records = [{'a': [n]} for n in range(30_000)]\ndef f(): return 1\ny = 1", live)
    watch = looking(made)
    watch.ran("z = f() + y")
    assert watch.changed_names() == frozenset({"f", "y"})
    run(made, "records[-1]['a'] = f")
    watch.clear()
    watch.ran("y = 2")
    assert watch.changed_names() is None, "who holds the function was not seen"
    run(made, "records[-1]['a'] = 0")
    watch.clear()
    watch.ran("y = 2")
    assert watch.changed_names() == frozenset({"y"})


def test_records_of_a_dataclass_may_be_many(live: Callable[[], dict[str, Any]]) -> None:
    made = live()
    module = types.ModuleType(made["__name__"])
    sys.modules[module.__name__] = module  # dataclasses look the module up
    try:
        made = vars(module)
        exec(
            compile(
                "from dataclasses import dataclass\n@dataclass\nclass Record:\n    a: int = 1\n    b: str = 'x'\n"
                "records = [Record() for _ in range(20_000)]\ny = 1",
                "<cell>",
                "exec",
            ),
            made,
        )
        watch = looking(made)
    finally:
        del sys.modules[module.__name__]
    watch.ran("y = 2")
    assert watch.changed_names() == frozenset({"y"}), watch.why


SHELL = """
import json, os, sys
os.environ["IPYTHONDIR"] = sys.argv[1]
from IPython.core.interactiveshell import InteractiveShell
from qcity_nb.namespace.reachability import Reach
shell = InteractiveShell.instance()
sys.modules["__main__"] = shell.user_module
watch, said = Reach(shell.user_ns), []
watch.clear()
for cell in json.loads(sys.argv[2]):
    shell.run_cell(cell, store_history=True)
    watch.ran(shell.input_transformer_manager.transform_cell(cell))
    reached = watch.changed_names()
    said.append(watch.why if reached is None else sorted(each for each in reached if each[0] != "_"))
    watch.clear()
sys.__stdout__.write("\\n" + json.dumps(said))
"""


def test_in_a_shell(tmp_path: Path) -> None:
    pytest.importorskip("IPython")
    cells: list[tuple[str, set[str] | str]] = [
        ("records = [[n] for n in range(1000)]", {"records", "n"}),
        ("class Net:\n    def __init__(self): self.w = [0]\n    def step(self): self.w[0] += 1", {"Net"}),
        ("net = Net()\nnet", {"Net", "net"}),
        ("net.step()\nnet", {"Net", "net"}),
        ("%time net.step()", {"Net", "net"}),
        ("!echo {len(records)}", {"records"}),
        ("1/0", set()),
        ("def fail(): 1/0\nfail()", {"fail"}),
        ("def clean(): return records", {"clean", "records"}),
        ("y = 3", {"y"}),
        ("z = clean()", {"clean", "records", "z"}),
        ("get_ipython().events.register('post_run_cell', lambda result: records.append(1))", "`get_ipython` leads"),
        ("y = 4", "code of the notebook is held"),
    ]
    command = [sys.executable, "-c", SHELL, str(tmp_path), json.dumps([cell for cell, _ in cells])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    usual = {"In", "exit", "quit", "get_ipython", "open"}
    for (cell, expected), answer in zip(cells, json.loads(done.stdout.splitlines()[-1]), strict=True):
        if isinstance(expected, str):
            assert isinstance(answer, str), cell
            assert answer.startswith(expected), cell
        else:
            assert isinstance(answer, list), (cell, answer)
            assert set(answer) - usual - {"n"} == expected - {"n"}, cell
