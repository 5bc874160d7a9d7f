# %%
import enum
import functools
from collections import Counter, defaultdict, deque, namedtuple
from dataclasses import dataclass, field

scale = 2
Point = namedtuple("Point", "x y")


class Suit(enum.Enum):
    RED = 1
    BLACK = 2


# %%
class Shape:
    made = 0
    registry = {}

    def __init__(self, name):
        self.name = name
        type(self).registry[name] = self
        Shape.made += 1

    def __init_subclass__(cls, **more):
        super().__init_subclass__(**more)
        cls.suit = Suit.RED

    @property
    def area(self):
        return 0.0


class Square(Shape):
    def __init__(self, name, side):
        super().__init__(name)
        self.side = side

    @property
    def area(self):
        return scale * self.side**2  # the global as it is when asked

    def __eq__(self, other):
        return isinstance(other, Square) and self.side == other.side

    def __hash__(self):
        return hash(self.side)


squares = [Square(f"s{k}", k) for k in range(1, 6)]
print(Shape.made, squares[2].area, Square.registry is Shape.registry)


# %%
def counter():
    count = 0

    def up(by=1):
        nonlocal count
        count += by
        return count

    def look():
        return count

    return up, look


up, look = counter()  # two closures over one cell
up(), up(5)


def scaled(value, seen=[]):  # noqa: B006  # a default that remembers
    seen.append(value)
    return scale * value + len(seen)


print(look(), scaled(3), scaled(4))


# %%
def counted(function):
    @functools.wraps(function)
    def inner(*args):
        inner.calls += 1
        return function(*args)

    inner.calls = 0
    return inner


@counted
def collatz(n):
    steps = 0
    while n != 1:
        n, steps = (n // 2 if n % 2 == 0 else 3 * n + 1), steps + 1
    return steps


longest = max(range(1, 90_000), key=collatz)
print(longest, collatz.calls, scaled(1))


# %%
scale = 3  # functions defined before see this


@dataclass
class Node:
    name: str
    parent: "Node | None" = None
    children: list["Node"] = field(default_factory=list)

    def add(self, name):
        child = Node(name, self)
        self.children.append(child)
        return child


root = Node("root")  # a tree with ways back up: cycles
leaf = functools.reduce(lambda node, k: node.add(f"n{k}"), range(30), root)
print(squares[2].area, scaled(3), leaf.parent.name)
squares[-1].area

# %%
words = Counter()
graph = defaultdict(list)
recent = deque(maxlen=50)
for k in range(900_000):
    key = f"w{(k * k) % 997}"
    words[key] += 1
    recent.append(key)
    if k % 300 == 0:
        graph[key].append(Point(k, key))
same = words  # two names
nested = {"words": words, "graph": graph, "list": [recent, recent]}
print(words.most_common(3), len(graph))

# %%
same["w1"] += 1000  # through the other name
nested["list"][0].append("last")
leaf.name = "leaf"
Shape.made += 100
by_suit = {Suit.RED: squares[:2], Suit.BLACK: {squares[0], squares[3]}}
print(words["w1"], recent[-1], root.children[0].name, Square.made)

# %%
double = functools.partial(scaled, 7)
area_of = Square.area.fget
bound = squares[1].__eq__
sieve = bytearray([1]) * 30_000_000
for p in range(2, 5478):
    if sieve[p]:
        sieve[p * p :: p] = bytes(len(range(p * p, len(sieve), p)))
primes = sum(sieve) - 2
print(double(), area_of(squares[0]), bound(squares[1]), primes, up())

# %%
scale = 5
print(look(), squares[0].area, scaled(0), double(), collatz(27), isinstance(squares[0], Shape), Suit(1) is Suit.RED)
print(root.children[0].parent is root, [type(each).__name__ for each in Shape.registry.values()])
__import__("book_digest").tell(globals())
