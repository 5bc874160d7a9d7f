"""Functions and classes of a notebook come back in a new process, over its live namespace."""

from __future__ import annotations

from pathlib import Path

import pytest
from snapshot import cell, in_new_process, kept, names, restored

from qcity_nb.namespace.snapshot import NamespaceSnapshotter

FUNCTIONS = """
import functools
n = 3
def plain(x, *more, k=2): return x + n + k
plain.note = "kept"
def fact(k): return 1 if k < 2 else k * fact(k - 1)
def even(k): return k == 0 or odd(k - 1)
def odd(k): return k != 0 and even(k - 1)
def counter():
    k = 0
    def up():
        nonlocal k
        k += 1
        return k
    def look(): return k
    return up, look
up, look = counter()
up()
def local():
    def inner(m): return 1 if m < 2 else m * inner(m - 1)
    return inner
inner = local()
def twice(f):
    @functools.wraps(f)
    def wrapper(*a): return 2 * f(*a)
    return wrapper
@twice
def three(): "doc"; return 3
lam = lambda q: q * n
alias = plain
part = functools.partial(plain, 1)
@functools.lru_cache(maxsize=7)
def slow(x): return x + n
@functools.singledispatch
def kind(x): return "any"
@kind.register
def kind_int(x: int): return "int"
def made(default=[]): return default
"""

FUNCTIONS_CHECK = """
assert not not_saved, not_saved
assert plain(1) == 6 and plain.note == "kept" and plain.__module__ == "__main__" and part() == 6
n = 10
assert plain(1) == 13 and plain(1, k=0) == 11 and lam(2) == 20 and slow(1) == 11, "the namespace is live"
assert plain.__globals__ is globals() and alias is plain
assert fact(5) == 120 and even(10) and odd(3) and inner(4) == 24
assert up() == 2 and look() == 2, "the cell is shared"
assert three() == 6 and three.__name__ == "three" and three.__doc__ == "doc" and three.__wrapped__() == 3
assert slow.cache_parameters()["maxsize"] == 7
assert kind(1) == "int" and kind("") == "any"
def fact(k): return "other"
assert even(2) and made() is made()
"""

CLASSES = """
import abc, collections, dataclasses, enum, typing
n = 1
class C:
    shared = 5
    def __init__(self, v): self.v = v
    def total(self): return self.v + n
    @property
    def double(self): return 2 * self.v
    @classmethod
    def make(cls): return cls(7)
    @staticmethod
    def fixed(): return "fixed"
class D(C):
    def __init__(self, v): super().__init__(v + 1)
    def total(self): return super().total() * 10
c, d, pair = C(1), D(2), [C(3), D(4)]
@dataclasses.dataclass
class P:
    x: int = 0
    items: list = dataclasses.field(default_factory=list)
p = P(1, [2])
class Color(enum.Enum):
    RED = 1
    BLUE = 2
red = {"c": Color.RED}
NT = collections.namedtuple("NT", "a b")
nt = NT(1, [2])
class Typed(typing.NamedTuple):
    a: int
    b: str = "x"
typed = Typed(4)
class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...
class Square(Shape):
    def area(self): return 9
square = Square()
class Slots:
    __slots__ = ("a",)
slots = Slots(); slots.a = [1]
class Gone:
    def hello(self): return "hello"
gone, gone_too = Gone(), Gone()
del Gone
class Old:
    def version(self): return 1
old = Old()
class Old:
    def version(self): return 2
new = Old()
class Meta(type):
    def __call__(cls, *a): return super().__call__(*a)
class WithMeta(metaclass=Meta): pass
with_meta = WithMeta()
class Node:
    def __init__(self): self.me = self
node = Node()
Node.first = Node()
bound = c.total
T = typing.TypeVar("T")
class Box(typing.Generic[T]): pass
box = Box()
Uid = typing.NewType("Uid", int)
class Error(Exception): pass
error = Error("x", 2)
"""

CLASSES_CHECK = """
assert not not_saved, not_saved
assert type(c) is C and type(d) is D and isinstance(d, C) and type(pair[0]) is C and type(pair[1]) is D
n = 100
assert c.total() == 101 and d.total() == 1030 and C(0).total() == 100 and bound() == 101
assert c.double == 2 and type(D.make()) is D and C.fixed() == "fixed" and D(1).v == 2
C.shared = 6
assert c.shared == d.shared == 6
assert p == P(1, [2]) and type(p) is P and P() == P(0, []) and dataclasses.replace(p, x=2).x == 2
assert red["c"] is Color.RED and Color(2) is Color.BLUE
assert nt == NT(1, [2]) and type(nt) is NT and typed == Typed(4, "x") and type(typed) is Typed
assert isinstance(square, Shape) and square.area() == 9
try: Shape()
except TypeError: pass
else: assert False
assert slots.a == [1] and type(slots) is Slots
assert gone.hello() == "hello" and type(gone) is type(gone_too) and "Gone" not in globals()
assert old.version() == 1 and new.version() == 2 and type(new) is Old and type(old) is not Old
assert type(WithMeta) is Meta and type(with_meta) is WithMeta
assert node.me is node and type(node) is Node and type(Node.first) is Node
assert type(box) is Box and Box[int] and Uid(3) == 3
try: raise Error
except Error: pass
assert type(error) is Error and error.args == ("x", 2)
"""


@pytest.mark.parametrize(("source", "check"), [(FUNCTIONS, FUNCTIONS_CHECK), (CLASSES, CLASSES_CHECK)])
def test_what_a_notebook_defines_comes_back_in_a_new_process(source: str, check: str, tmp_path: Path) -> None:
    keep = kept(cell(source))
    assert not keep.not_saved
    in_new_process(keep, check, tmp_path)


def test_what_came_back_is_captured_again(tmp_path: Path) -> None:
    for source, check in ((FUNCTIONS, FUNCTIONS_CHECK), (CLASSES, CLASSES_CHECK)):
        again = kept(restored(kept(cell(source))))
        assert not again.not_saved
        in_new_process(again, check, tmp_path)


@pytest.mark.parametrize("source", [FUNCTIONS, CLASSES])
def test_the_same_definitions_give_the_same_bytes(source: str) -> None:
    live = cell(source)
    snapshotter = NamespaceSnapshotter(live)
    streams = [{group.names: group.captured.skeleton for group in snapshotter.capture().groups} for _ in range(3)]
    live["more"] = [1]
    streams.append({group.names: group.captured.skeleton for group in snapshotter.capture().groups})
    del streams[3][("more",)]
    assert streams[0] == streams[1] == streams[2] == streams[3]


def test_instances_of_a_class_are_groups_of_their_own() -> None:
    live = cell("class C:\n def f(self): return super().__repr__()\na, b = C(), C()\nclass D(C): pass\nd = D()")
    assert names(NamespaceSnapshotter(live).capture().groups) == {("C",), ("D",), ("a",), ("b",), ("d",)}


def test_a_variable_that_a_class_holds_too_stays_the_same_object(tmp_path: Path) -> None:
    keep = kept(cell("registry = {}\nclass C:\n    known = registry\nc, other = C(), [1]"))
    assert ("C", "c", "registry") in keep.groups
    in_new_process(keep, "assert C.known is registry is c.known and type(c) is C and not not_saved", tmp_path)


def test_a_changed_class_is_noticed_though_its_instance_is_skipped() -> None:
    live = cell("class C:\n    n = 1\nc = C()")
    snapshotter = NamespaceSnapshotter(live)
    snapshotter.capture()
    assert snapshotter.capture(skip={"c"}).kept == [("c",)]
    live["C"].n = 2
    assert snapshotter.capture(skip={"c"}).kept == []
    assert snapshotter.capture(skip={"c"}).kept == [("c",)]


def test_functions_of_libraries_stay_by_name() -> None:
    live = cell("import json\nfrom textwrap import dedent\nfrom json import JSONDecoder\nf = [dedent]")
    snapshot = NamespaceSnapshotter(live).capture()
    assert names(snapshot.groups) == {("dedent",), ("JSONDecoder",), ("f",)}
    assert all(b"textwrap" in g.captured.skeleton or b"json" in g.captured.skeleton for g in snapshot.groups)
    assert all(g.size_bytes < 300 for g in snapshot.groups)
