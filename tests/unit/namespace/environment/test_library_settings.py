from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from optional import part
from settings_world import carry

from qcity_nb.namespace.environment.library import Library, is_safe
from qcity_nb.namespace.environment.library_settings import Options


def test_nothing_is_imported_to_look(tmp_path: Path) -> None:
    show = "result = sorted({'numpy', 'torch', 'pandas', 'sklearn', 'matplotlib'} & sys.modules.keys())"
    result = carry(tmp_path, "", "", show)
    assert result.options == {}
    assert (result.there, result.here, result.messages) == ([], [], [])


def test_imports_alone_set_nothing_but_filters_and_loggers(tmp_path: Path) -> None:
    imports = "import numpy, torch, sklearn.linear_model, pandas, matplotlib.pyplot, warnings, logging"
    names = [name.partition(",")[0].partition(".")[0] for name in imports.split()[1:]]
    for name in names:
        part(name)
    show = """result = [
        [str(each) for each in warnings.filters],
        {name: [each.level, each.propagate, len(each.handlers)]
         for name, each in logging.Logger.manager.loggerDict.items() if isinstance(each, logging.Logger)},
    ]"""
    result = carry(tmp_path, imports, "", show)
    assert result.options.keys() <= {"warnings", "loggers"}
    assert result.there == result.here
    assert result.messages == []
    assert len(str(result.options)) < 4000, "each cell's record holds it"


def test_a_library_that_fails_costs_only_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def look() -> Iterator[tuple[str, object]]:
        yield "a", 1
        yield "b", object()
        yield "c", "password=hunter2"
        raise RuntimeError

    done: list[object] = []

    def put(name: str, value: object) -> None:
        done.append((name, value))
        raise KeyError(name)

    options = Options(tmp_path)
    monkeypatch.setattr(options, "_libraries", (Library("x", look, put), Library("y", list, put)))
    assert options.look() == {"x": {"a": 1}}
    assert options.put({"x": {"a": 1}, "z": {"b": 2}}) == ["x's option a could not be set to 1 (KeyError)."]
    assert done == [("a", 1)]


@pytest.mark.parametrize(
    ("value", "is_one"),
    [
        ({"a": [1, 2.5, None, True, "x"], "b": ()}, True),
        (float("inf"), True),
        ({1: "x"}, False),
        ([b""], False),
        ({"format": "%(message)s", "more": ["ghp_abcdefghijklmnop"]}, False),
        ({"api_key": "x"}, False),
    ],
)
def test_what_may_be_saved(value: object, is_one: bool) -> None:
    assert is_safe("name", value) is is_one


def test_looking_does_not_let_python_forget_what_it_has_shown(tmp_path: Path) -> None:
    """A warning is shown once for each place, and would be so again in each cell."""
    imports = "import warnings\nfor name in ('numpy', 'torch', 'sklearn', 'pandas', 'matplotlib.pyplot'):\n"
    imports += "    try: __import__(name)\n    except ImportError: pass"
    code = """
seen = []
warnings.showwarning = lambda *told, **more: seen.append(told)
for _ in range(3):
    warnings.warn('once', stacklevel=1)
    options.look()
result = len(seen)
"""
    result = carry(tmp_path, imports, "warnings.simplefilter('default')", code)
    assert result.there == result.here == 1
