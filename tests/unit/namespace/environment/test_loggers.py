from __future__ import annotations

from pathlib import Path

import pytest
from settings_world import carry

SHOW = """
def shown(handler):
    lines = handler.formatter
    stream = getattr(handler, 'stream', None)
    return [type(handler).__name__, handler.level, lines and lines._fmt, lines and lines.datefmt,
            lines and type(lines._style).__name__, {id(sys.stdout): 'out', id(sys.stderr): 'err'}.get(id(stream)),
            getattr(handler, 'baseFilename', None), getattr(handler, 'encoding', None)]
def told(logger):
    return [logger.level, logger.propagate, logger.disabled, [shown(each) for each in logger.handlers]]
loggers = {n: each for n, each in logging.Logger.manager.loggerDict.items() if isinstance(each, logging.Logger)}
result = {n: told(each) for n, each in {'': logging.root, **loggers}.items()}
"""
IMPORTS = "import logging, sys"


@pytest.mark.parametrize(
    "code",
    [
        "logging.basicConfig()",
        "logging.basicConfig(level='DEBUG', stream=sys.stdout, format='{asctime} {message}', style='{', datefmt='%H')",
        "logging.basicConfig(filename='a.log', filemode='w', encoding='utf-8', level=15)",
        "logging.root.setLevel(0)",
        "logging.getLogger('a.b').setLevel(5)\nlogging.getLogger('a.b').propagate = False",
        "logging.getLogger('a').disabled = True\nlogging.getLogger('a').addHandler(logging.StreamHandler())",
        "logging.getLogger('own').handlers.clear()",
        "logging.getLogger('own').handlers[0].setLevel(33)",
        "logging.getLogger('own').setLevel(0)",
    ],
)
def test_loggers(tmp_path: Path, code: str) -> None:
    first = "import logging\nown = logging.getLogger('own')\nown.addHandler(logging.StreamHandler())\nown.setLevel(40)"
    result = carry(tmp_path, IMPORTS, code, SHOW, first=first)
    assert result.here == result.there
    assert result.options.keys() == {"loggers"}
    assert result.messages == []


def test_a_file_is_gone_on_with(tmp_path: Path) -> None:
    code = "logging.basicConfig(filename='a.log', filemode='w')\nlogging.warning('one')"
    carry(tmp_path, IMPORTS, code, "logging.warning('two'); result = 0")
    assert [line.rpartition(":")[2] for line in (tmp_path / "a.log").read_text().split()] == ["one", "two", "two"]


def test_a_file_is_made_with_its_first_line(tmp_path: Path) -> None:
    code = "Path('d').mkdir()\nlogging.basicConfig(filename='d/a.log')\nPath('d/a.log').unlink()"
    result = carry(tmp_path, IMPORTS, code, "result = Path('d/a.log').exists()")
    assert result.options["loggers"]["root"]["handlers"][0]["file"] == "d/a.log"
    assert (result.here, result.messages) == (False, [])


def test_a_directory_that_is_not_here_is_reported(tmp_path: Path) -> None:
    code = "Path('d').mkdir()\nlogging.basicConfig(filename='d/a.log')\nPath('d/a.log').unlink()\nPath('d').rmdir()"
    result = carry(tmp_path, IMPORTS, code, "result = len(logging.root.handlers)")
    (sentence,) = result.messages
    assert "d/a.log" in sentence
    assert (result.here, Path(tmp_path / "d").exists()) == (0, False)


def test_other_handlers_formatters_and_filters_are_named(tmp_path: Path) -> None:
    code = """
import logging.handlers
class Own(logging.Formatter): pass
logging.getLogger('a').addHandler(logging.handlers.MemoryHandler(3))
plain = logging.StreamHandler()
plain.setFormatter(Own())
logging.getLogger('b').addHandler(plain)
logging.getLogger('c').addFilter(logging.Filter('c'))
logging.getLogger('d').addHandler(logging.StreamHandler(open('x', 'w')))
logging.getLogger('e').addHandler(logging.NullHandler())
"""
    result = carry(tmp_path, IMPORTS, code, "result = 0")
    assert [sentence.partition(" is not")[0] for sentence in result.messages] == [
        "The MemoryHandler of the logger a",
        "The StreamHandler of the logger b",
        "The Filter that filters the logger c",
        "The StreamHandler of the logger d",
    ]


def test_what_a_package_sets_up_itself_is_left_to_it(tmp_path: Path) -> None:
    tmp_path.joinpath("pack.py").write_text(
        "import logging\nclass Own(logging.Formatter): pass\nlogger = logging.getLogger('pack.x')\n"
        "handler = logging.StreamHandler()\nhandler.setFormatter(Own())\nlogger.addHandler(handler)\n"
        "logger.propagate = False"
    )
    result = carry(tmp_path, IMPORTS + "; sys.path.insert(0, '.'); import pack", "pack.logger.setLevel(10)", SHOW)
    assert result.options["loggers"] == {"pack.x": {"level": 10}}
    assert result.here == result.there
    assert result.messages == []


def test_no_secret_is_saved(tmp_path: Path) -> None:
    code = """
logging.basicConfig(format='token=ghp_abcdefghijklmnop %(message)s')
Path('password=hunter2').mkdir()
logging.getLogger('a').addHandler(logging.FileHandler('password=hunter2/x'))
"""
    result = carry(tmp_path, IMPORTS, code, "result = 0")
    assert "ghp_" not in str(result.options)
    assert "hunter2" not in str(result.options)
    assert len(result.messages) == 2
    assert "hunter2" not in str(result.messages)


def test_a_handler_that_has_a_name_is_that_one(tmp_path: Path) -> None:
    """A handler among the variables has come back already: `removeHandler` must take it away."""
    imports = IMPORTS + "\nhandler = logging.StreamHandler(sys.stderr)\nhandler.setLevel(20)"
    result = carry(tmp_path, imports, "logging.root.addHandler(handler)", "result = logging.root.handlers == [handler]")
    assert (result.there, result.here) == (True, True)


def test_what_holds_for_all(tmp_path: Path) -> None:
    show = "import warnings; result = [logging.root.manager.disable, warnings.showwarning is logging._showwarning]"
    result = carry(tmp_path, IMPORTS, "logging.disable(20)\nlogging.captureWarnings(True)", show)
    assert result.here == result.there == [20, True]
    assert result.options == {"logging": {"disable": 20, "captureWarnings": True}}


def test_a_package_that_is_imported_later_has_its_handlers_once(tmp_path: Path) -> None:
    tmp_path.joinpath("pack.py").write_text(
        "import logging\nlogging.getLogger('pack').addHandler(logging.StreamHandler())"
    )
    show = "import pack; result = len(logging.getLogger('pack').handlers)"
    result = carry(tmp_path, IMPORTS + "; sys.path.insert(0, '.')", "import pack", show)
    assert (result.there, result.here, result.messages) == (1, 1, [])
