from __future__ import annotations

from pathlib import Path

import pytest
from settings_world import carry

SHOW = "result = [str(each) for each in warnings.filters]"


@pytest.mark.parametrize(
    "code",
    [
        "warnings.filterwarnings('ignore')",
        "warnings.filterwarnings('ignore', message='.*depr', module=r'a\\.b', lineno=3, category=UserWarning)",
        "warnings.simplefilter('error')\nwarnings.simplefilter('ignore', FutureWarning)",
        "warnings.simplefilter('once', ImportWarning, append=True)",
        "warnings.simplefilter('ignore', ResourceWarning)",  # moves one of Python's own to the front
        "warnings.simplefilter('ignore', ResourceWarning)\nwarnings.simplefilter('always', UserWarning)",
        "warnings.resetwarnings()",
        "warnings.resetwarnings()\nwarnings.simplefilter('module')",
        "warnings.filters.remove(warnings.filters[-1])",
    ],
)
def test_filters(tmp_path: Path, code: str) -> None:
    result = carry(tmp_path, "import warnings", code, SHOW)
    assert result.here == result.there
    assert result.messages == []
    assert result.options.keys() == {"warnings"}


def test_what_imports_add_is_there_once(tmp_path: Path) -> None:
    result = carry(tmp_path, "import warnings, numpy", "warnings.simplefilter('ignore', UserWarning)", SHOW)
    assert result.here == result.there
    assert len(set(result.here)) == len(result.here)


def test_a_filter_holds_at_once(tmp_path: Path) -> None:
    """Python remembers what it has shown until it hears that the filters changed."""
    show = """
seen = []
warnings.showwarning = lambda message, *more, **rest: seen.append(str(message))
def warn():
    warnings.warn('again', stacklevel=1)
warn(); warn()
options.put(options.look())
result = seen
"""
    result = carry(tmp_path, "import warnings", "warnings.simplefilter('always', UserWarning)", show)
    assert result.here == ["again"] * 2


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    code = """
def local():
    class Inner(UserWarning): pass
    return Inner
warnings.simplefilter('ignore', local())
warnings.filterwarnings('ignore', message='password=hunter2')
warnings.filterwarnings('error', message='fine')
"""
    result = carry(tmp_path, "import warnings", code, "result = str(warnings.filters)")
    assert "hunter2" not in str(result.options)
    assert "fine" in result.here
    (sentence,) = result.messages
    assert "Inner" in sentence


def test_a_category_of_the_notebook_and_one_that_is_gone(tmp_path: Path) -> None:
    tmp_path.joinpath("gone.py").write_text("class Gone(Warning): pass")
    code = """
import gone
warnings.simplefilter('error', gone.Gone)
warnings.simplefilter('error', Own)
Path('gone.py').unlink()
"""
    imports = "import warnings\nclass Own(UserWarning): pass"
    result = carry(tmp_path, imports, code, "result = [str(each) for each in warnings.filters if 'Own' in str(each)]")
    assert result.here == result.there
    assert len(result.here) == 1
    (sentence,) = result.messages
    assert "gone:Gone" in sentence
