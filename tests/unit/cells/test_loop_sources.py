"""What counts as an edit of a loop, and what does not."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from qcity_nb.cells.loop_sources import differences, loops_in

NOTEBOOK = [
    "import qcity_nb as qcity\nimport numpy as np\ncity = qcity.up()",
    "lr = 0.1\ndecay, width = 0.5, 3\nunused = 1\ncfg = {'drop': 0.1}",
    '''
def loss_of(w, batch):
    """How far it is."""
    return scale(w) * batch.mean()

def scale(w):
    return w * width

def plot(w):
    print(w)
''',
    "cfg['clip'] = 1.0\nw = np.zeros(width)",
    """
state = {"w": w}
for epoch in city.loop(range(10), state, every=1):
    loss = loss_of(w, data) + cfg["clip"]
    w -= lr * loss
    city.log(loss=loss)
print("done", loss)
""",
]


def edited(cell: int, old: str, new: str) -> list[str]:
    assert old in NOTEBOOK[cell]
    return [*NOTEBOOK[:cell], NOTEBOOK[cell].replace(old, new), *NOTEBOOK[cell + 1 :]]


def compare(old: list[str], new: list[str]) -> list[str]:
    (before,), (now,) = loops_in(old), loops_in(new)
    return differences(before, now)


COUNTS = {
    "a constant": (edited(1, "lr = 0.1", "lr = 0.01"), ["lr = 0.1 → lr = 0.01"]),
    "one of a tuple": (edited(1, "0.5, 3", "0.5, 4"), ["width = 3 → width = 4"]),
    "the body": (edited(4, "w -= lr", "w += lr"), ["its body"]),
    "the items": (edited(4, "range(10)", "range(20)"), ["its items"]),
    "a function": (edited(2, "batch.mean()", "batch.sum()"), ["loss_of"]),
    "a function that a function calls": (edited(2, "w * width", "w + width"), ["scale"]),
    "an entry": (edited(3, "= 1.0", "= 2.0"), ["cfg"]),
    "a changed value": ([*NOTEBOOK[:4], "lr *= 0.5", NOTEBOOK[4]], ["lr"]),
    "before the loop in its cell": (edited(4, "state = ", "lr = 0.3\nstate = "), ["lr = 0.1 → lr = 0.3"]),
    "an import": (edited(0, "import numpy as np", "import torch as np"), ["np"]),
    "the state": (edited(4, '{"w": w}', '{"v": w}'), ["state = {'w': w} → state = {'v': w}"]),
    "a condition": (edited(1, "lr = 0.1", "lr = 0.1\nif width > 2:\n    lr = 0.2"), ["lr"]),
    "in place": ([*NOTEBOOK[:4], "cfg.update(clip=3)", NOTEBOOK[4]], ["cfg"]),
}

DOES_NOT_COUNT = {
    "a comment": edited(4, "    w -= lr", "    # slower\n    w -= lr"),
    "black": edited(
        4, "city.loop(range(10), state, every=1)", "city.loop(\n    range(10),\n    state,\n    every=1,\n)"
    ),
    "quotes": edited(4, '{"w": w}', "{'w': w}"),
    "an equal constant": edited(1, "lr = 0.1", "lr = 1e-1"),
    "parentheses": edited(4, "lr * loss", "(lr * loss)"),
    "a semicolon": edited(1, "lr = 0.1", "lr = 0.1;"),
    "a type comment": edited(1, "lr = 0.1", "lr = 0.1  # type: float"),
    "an annotation": edited(1, "lr = 0.1", "lr: float = 0.1"),
    "annotated parameters": edited(2, "(w, batch)", "(w: Array, batch: Array) -> float"),
    "a docstring": edited(2, "How far it is.", "The distance."),
    "code after the loop": edited(4, 'print("done", loss)', "print('end')\nlr = 3"),
    "a cell after it": [*NOTEBOOK, "lr = 5"],
    "a variable that it does not read": edited(1, "unused = 1", "unused = 2"),
    "a function that it does not call": edited(2, "print(w)", "print(w, w)"),
    "how often it saves": edited(4, "every=1", "every='60s', changed='restart', lazy=False"),
    "the arguments of up": edited(0, "qcity.up()", "qcity.up(heartbeat='5s')"),
    "a cell that reads": [*NOTEBOOK[:3], "print(lr)\nplt.hist(cfg)\nlr", *NOTEBOOK[3:]],
    "moved cells": [NOTEBOOK[0], NOTEBOOK[2], NOTEBOOK[1], *NOTEBOOK[3:]],
    "split cells": [NOTEBOOK[0], *NOTEBOOK[1].split("\n"), *NOTEBOOK[2:]],
    "merged cells": ["\n".join(NOTEBOOK)],
    "a magic line": [NOTEBOOK[0], "!pip install x\n%matplotlib inline\n" + NOTEBOOK[1], *NOTEBOOK[2:]],
    "%time": edited(3, "w = np", "%time w = np"),
    "%%time": [*NOTEBOOK[:4], "%%time\n" + NOTEBOOK[4].lstrip()],
    "a call of get_ipython": edited(1, "lr = 0.1", "get_ipython().run_line_magic('time', 'lr = 0.1')"),
    "a cell of another language": [NOTEBOOK[0], "%%bash\nlr=5", *NOTEBOOK[1:]],
    "a cell that is executed twice": [NOTEBOOK[0], NOTEBOOK[1], *NOTEBOOK[1:]],
    "an earlier value": [NOTEBOOK[0], "lr = 7", *NOTEBOOK[1:]],
    "a name inside of a function": edited(2, "print(w)", "lr = 2"),
}


@pytest.mark.parametrize("name", COUNTS)
def test_an_edit_that_counts_is_named(name: str) -> None:
    cells, expected = COUNTS[name]
    assert compare(NOTEBOOK, cells) == expected


@pytest.mark.parametrize("name", DOES_NOT_COUNT)
def test_no_false_alarm(name: str) -> None:
    assert compare(NOTEBOOK, DOES_NOT_COUNT[name]) == []


FUNCTION = [
    "lr = 0.1",
    """
def train(rate, epochs=3):
    w = [0.0]
    step = rate / 2
    for epoch in city.loop(range(epochs), {"w": w}):
        w[0] += step
    print(w)
    return w
""",
    "train(lr)",
]


@pytest.mark.parametrize(
    ("cell", "old", "new", "expected"),
    [
        (0, "0.1", "0.2", ["lr = 0.1 → lr = 0.2"]),
        (1, "rate / 2", "rate / 3", ["step = rate / 2 → step = rate / 3"]),
        (1, "w[0] += step", "w[0] -= step", ["its body"]),
        (1, "epochs=3", "epochs=4", ["epochs"]),
        (2, "train(lr)", "train(0.3)", ["rate"]),
        (1, "print(w)", "print('w')", []),
        (1, "return w", "return None", []),
    ],
)
def test_a_loop_in_a_function(cell: int, old: str, new: str, expected: list[str]) -> None:
    changed = [*FUNCTION]
    changed[cell] = changed[cell].replace(old, new)
    shown = compare(FUNCTION, changed)
    assert [phrase.partition(" ")[0] for phrase in shown] == [phrase.partition(" ")[0] for phrase in expected], shown


def test_secrets_are_never_kept_as_text() -> None:
    cells = [
        "api_key = 'abc'\npassword = 1234\nwhere = 'https://me:pw@host/x'\ntoken, lr = 'hf_abcdefghijkl', 0.1",
        "for n in city.loop(range(3), {}):\n    use(api_key, password, where, token, lr)",
    ]
    (code,) = loops_in(cells)
    text = json.dumps(code)
    assert "lr = 0.1" in text
    for secret in ("abc'", "1234", "pw@", "hf_"):
        assert secret not in text


def test_the_record_is_small() -> None:
    names = [f"a_name_that_is_rather_long_as_people_write_them_sometimes_{n}" for n in range(400)]
    cells = ["\n".join(f"{name} = {n}" for n, name in enumerate(names))]
    cells.append("for n in city.loop(range(3), {}):\n    " + "\n    ".join(f"use({name})" for name in names))
    (code,) = loops_in(cells)
    assert len(json.dumps(code)) <= 16 * 1024


def test_of_names_that_are_the_same_at_several_levels_each_counts() -> None:
    cells = [*FUNCTION[:2], "def run_all(lr):\n    return train(rate=lr)", "run_all(lr * 2)"]
    assert compare(cells, ["lr = 0.2", *cells[1:]]) == ["lr"]
    assert compare(cells, [*cells[:3], "run_all(lr * 3)"]) == ["lr"]
    assert compare(cells, [*cells, "other(lr)"]) == []


METHOD = [
    """
class Trainer:
    def __init__(self, rate):
        self.rate = rate

    def step(self, w):
        return w * self.rate

    def plot(self):
        show(self)

    def fit(self, count):
        w = 1
        for n in city.loop(range(count), {}):
            w = self.step(w)
        return w
""",
    "trainer = Trainer(rate=0.5)",
    "trainer.fit(3)",
]


@pytest.mark.parametrize(
    ("cell", "old", "new", "expected"),
    [
        (0, "w * self.rate", "w + self.rate", ["self.step"]),
        (0, "self.rate = rate", "self.rate = rate / 2", ["self.__init__"]),
        (0, "show(self)", "print(self)", []),
        (0, "return w\n", "return None\n", []),
        (1, "0.5", "0.25", ["self"]),
        (2, "fit(3)", "fit(4)", ["count = 3 → count = 4"]),
    ],
)
def test_a_loop_in_a_method(cell: int, old: str, new: str, expected: list[str]) -> None:
    changed = [*METHOD]
    head, separator, tail = changed[cell].rpartition(old)
    assert separator
    changed[cell] = head + new + tail
    assert compare(METHOD, changed) == expected


@pytest.mark.parametrize(
    "loop",
    [
        "it = city.loop(range(3), {})\nfor n in it:\n    use(lr)",
        "for n in tqdm(city.loop(range(3), {})):\n    use(lr)",
        "[use(lr) for n in city.loop(range(3), {})]",
        "if True:\n    for n in city.loop(range(3), {}):\n        use(lr)",
        "for fold in folds:\n    rate = lr * fold\n    for n in city.loop(range(3), {}):\n        use(rate)",
        "async def main():\n    for n in city.loop(range(3), {}):\n        await use(lr)\nawait main()",
        "%%time\nfor n in city.loop(range(3), {}):\n    use(lr)",
        "for n, x in enumerate(city.loop(range(3), {})):\n    f = lambda y: lr * y\n    f(x)",
        "for n in city.loop(range(3), {}):\n    use(cfg.lr)",
        "for n in city.loop(range(3), {}):\n    use(f'{lr}')",
    ],
)
def test_loops_of_other_forms(loop: str) -> None:
    before = ["lr = 0.1", "class cfg:\n    lr = lr", loop]
    assert compare(before, before) == []
    assert compare(before, ["lr = 0.2", *before[1:]]) == ["lr = 0.1 → lr = 0.2"]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("from config import lr", "from other import lr", ["lr"]),
        ("from config import *", "from config import *\nlr = 3", ["lr"]),
        ("lr, rest = load()", "lr, rest = load(2)", ["lr"]),
        ("lr = 0.1\nfor _ in range(3):\n    lr /= 2", "lr = 0.1\nfor _ in range(4):\n    lr /= 2", ["lr"]),
        ("def reset():\n    global lr\n    lr = 1", "def reset():\n    global lr\n    lr = 2", ["lr"]),
        ("class lr:\n    x: int = 1", "class lr:\n    x: float = 1", ["lr"]),
        ("class lr:\n    x = 1", "class lr:\n    x = 2", ["lr"]),
        ("with open('a') as lr: pass", "with open('b') as lr: pass", ["lr = open('a') → lr = open('b')"]),
        ("try:\n    lr = a\nexcept E:\n    lr = 1", "try:\n    lr = a\nexcept E:\n    lr = 2", ["lr"]),
        ("lr = base * 2\nbase = 7", "lr = base * 2\nbase = 8", ["base = 7 → base = 8"]),
        ("lr = [1]\nlr.append(2)", "lr = [1]\nlr.append(3)", ["lr"]),
        ("lr = [1]\nshuffle(lr)", "lr = [1]\nprint(lr)", ["lr"]),
        ("lr = Net()\nlr.compile(0.1)", "lr = Net()\nlr.compile(0.2)", ["lr"]),
        ("print(lr := 5)", "print(lr := 6)", ["lr = 5 → lr = 6"]),
        ("@jit\ndef lr(): return 1", "@jit(2)\ndef lr(): return 1", ["lr"]),
        ("lr = lambda x: x", "lr = lambda x: -x", ["lr = lambda x: x → lr = lambda x: -x"]),
        ("match a:\n    case 1:\n        lr = 1", "match a:\n    case 1:\n        lr = 2", ["lr"]),
        ("lr = load(1)\nlr = lr + lr", "lr = load(2)\nlr = lr + lr", ["lr"]),
        ("a = 1\nlr = a + 1\na = lr", "a = 2\nlr = a + 1\na = lr", ["a = 1 → a = 2"]),
        (
            "torch.manual_seed(1)\nlr = 1",
            "torch.manual_seed(2)\nlr = 1",
            ["torch.manual_seed(1) → torch.manual_seed(2)"],
        ),
        ("lr = 1\nset_seed(1)", "lr = 1\nset_seed(2)", ["set_seed(1) → set_seed(2)"]),
        ("lr = !echo 1", "lr = !echo 2", ["lr = '!echo 1' → lr = '!echo 2'"]),
    ],
)
def test_definitions_of_other_forms(old: str, new: str, expected: list[str]) -> None:
    loop = "for n in city.loop(range(3), {}):\n    use(lr)"
    assert compare([old, loop], [new, loop]) == expected


SCRIPTS = sorted((Path(__file__).parents[2] / "loops").rglob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_another_layout_without_comments_is_no_edit(script: Path) -> None:
    source = script.read_text(encoding="utf-8")
    assert compare_all([source], [ast.unparse(ast.parse(source))]) == []


def compare_all(old: list[str], new: list[str]) -> list[str]:
    pairs = zip(loops_in(old), loops_in(new), strict=True)
    return [phrase for before, now in pairs for phrase in differences(before, now)]


def test_of_the_numbers_in_our_scripts_nearly_all_count() -> None:
    missed, count = [], 0
    for script in SCRIPTS:
        source = script.read_text(encoding="utf-8")
        tree = ast.parse(source)
        if not loops_in([source]):
            continue
        numbers = [
            each for each in ast.walk(tree) if isinstance(each, ast.Constant) and type(each.value) in (int, float)
        ]
        for number in numbers[:8]:
            assert isinstance(number.value, int | float)
            number.value += 7
            count += 1
            if not compare_all([source], [ast.unparse(tree)]):
                missed.append(f"{script.stem}: {source.splitlines()[number.lineno - 1]}")
            number.value -= 7
    # What is left is code after the loop, values that it does not read, and files that a script writes for itself.
    assert len(missed) <= count // 50, missed
