"""Syntax trees as digests: the same on all versions of Python."""

from __future__ import annotations

import ast

import pytest

from qcity_nb.cells.syntax import digest, dump, parse

SOURCE = '''
import numpy as np
from a.b import c as d

@jit(2)
async def f(x: int, /, y=1, *args, z: str = "s", **options) -> None:
    """Text."""
    global total
    async with open(f"{x!r:>{y}} {{}}") as file:
        total += [n for n in range(3) if n % 2][0]
    return lambda q: q if q else -1.5e3j

class A(B, metaclass=M):
    x: int = 3
    y: float

try:
    match value:
        case {"a": [1, *rest], **more} if rest:
            del more
        case A(x=1) | None:
            pass
except (E, F) as error:
    raise G from error
finally:
    assert a < b <= c, b"bytes"
while (n := n - 1) and not done:
    x[1:2, ...] = yield_ = {**a, "k": {1, 2}}
'''


def test_the_digest_is_the_same_on_all_versions_of_python() -> None:
    assert digest(parse(SOURCE)) == "7737554790ed"


def test_a_source_that_is_no_python_is_empty() -> None:
    for source in ("a b", "%%html\n<b>", "x = (", "\0", "%%writefile a.py\nx = 1"):
        assert parse(source).body == []


@pytest.mark.parametrize(
    ("source", "left"),
    [
        ("%time x = 1", "x = 1"),
        ("%%time\nx = 1", "x = 1"),
        ("%%capture out\nx = 1\n!ls", "x = 1"),
        ("!ls\nx = 1\ny?\n?y\n%cd /", "x = 1"),
        ("if a:\n    !ls\n    x = 1", "if a:\n    x = 1"),
        ("if a:\n    %time x = 1", "if a:\n    x = 1"),
        ("get_ipython().system('ls')\nx = 1", "x = 1"),
        ("get_ipython().run_cell_magic('time', '', 'x = 1\\n')", "x = 1"),
        ("get_ipython().run_cell_magic('bash', '', 'x = 1\\n')", ""),
        ("x = '''\n%d\n'''", "x = '''\n%d\n'''"),
        ("x: int = 1", "x = 1"),
        ("x: int\n'a text'\npass\n...", ""),
    ],
)
def test_what_is_left_of_magics_and_what_does_not_count(source: str, left: str) -> None:
    assert dump(parse(source)) == dump(ast.parse(left))


def test_lines_are_those_of_the_source() -> None:
    (statement,) = parse("%%time\n!ls\nx = 1").body[-1:]
    assert statement.lineno == 3
