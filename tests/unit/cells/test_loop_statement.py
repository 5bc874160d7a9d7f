"""Where a loop's statement is in its source."""

from __future__ import annotations

import textwrap

import pytest

from qcity_nb.cells.loop_statement import LoopStatement, find_statement, is_read_first


def find(source: str, *, in_function: bool = False) -> LoopStatement | None:
    lines = textwrap.dedent(source).splitlines(keepends=True)
    line = next(number for number, text in enumerate(lines, 1) if "city.loop" in text)
    return find_statement(lines, line, in_function=in_function)


@pytest.mark.parametrize(
    "source",
    [
        "for n in city.loop(range(3), state):\n    w = w + 1\nprint(w)",
        "for n in city.loop(range(3), state): w = w + 1\nprint(w)",
        "for n in tqdm(\n    enumerate(\n        city.loop(\n            range(3),\n            state,\n        )\n"
        "    )\n):\n    w = w + 1\nprint(w)",
        "for n in city.loop(range(3), state):\n    '''\nno indent\n'''\n    w = w + 1\nprint(w)",
        "for n in city.loop(range(3), state):\n    w = f(\n  w\n)\n    # done\n# a comment\nprint(w)",
        "def f():\n    if True:\n        for n in city.loop(range(3), state):\n            w = w + 1\n    print(w)\n",
        "for n in city.loop(range(3), state):\n    w = w + 1\nelse:\n    pass\nprint(w)",
        "for k in range(3):\n    for n in city.loop(range(3), state):\n        w = w + 1\nprint(w)",
        "async def f():\n    async for n in city.loop(range(3), state):\n        w = w + 1\n    print(w)",
    ],
)
def test_the_loop_and_what_comes_after_it(source: str) -> None:
    statement = find(source, in_function="def f" in source)
    assert statement is not None
    assert statement.body.carried == {"w"}
    assert statement.state == "state"
    assert "print(w)" in statement.after


def test_a_comprehension_is_a_loop_too() -> None:
    statement = find("values = [history.append(n) for n in city.loop(range(3), None)]")
    assert statement is not None
    assert statement.body.mutated == {"history"}


def test_a_state_written_as_a_dict() -> None:
    statement = find("for n in city.loop(range(3), state={'w': w, 'm': self.model, 'x': 1}):\n    pass")
    assert statement is not None
    assert statement.entries == {"w": "w", "m": "self.model", "x": ""}


@pytest.mark.parametrize("source", ["batches = city.loop(range(3), {})", "def f(:\n    for n in city.loop(x):"])
def test_what_is_no_loop_or_no_python_has_no_statement(source: str) -> None:
    assert find(source) is None


def test_an_inner_loop_of_another_line_is_another_loop() -> None:
    statement = find_statement(
        [
            "for k in city.loop(range(3), outer):\n",
            "    for n in city.loop(range(3), inner):\n",
            "        w = w + 1\n",
            "    v = v + 1\n",
        ],
        2,
        in_function=False,
    )
    assert statement is not None
    assert statement.state == "inner"
    assert statement.body.carried == {"w"}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("print(w)", True),
        ("w = 1\nprint(w)", False),
        ("if x:\n    w = 1\nprint(w)", True),
        ("def show():\n    print(w)\nshow()", True),
        ("model.w = 1\nwide = 2", None),
        ("x = (w\n     + 1)", True),
        ("print(w", True),
    ],
)
def test_what_the_code_after_the_loop_reads(source: str, expected: bool | None) -> None:
    assert is_read_first(source, "w") is expected
