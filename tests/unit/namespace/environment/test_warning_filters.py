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
    found = carry(tmp_path, "import warnings", code, SHOW)
    assert found.here == found.there
    assert found.said == []
    assert found.options.keys() == {"warnings"}


def test_what_imports_add_is_there_once(tmp_path: Path) -> None:
    found = carry(tmp_path, "import warnings, numpy", "warnings.simplefilter('ignore', UserWarning)", SHOW)
    assert found.here == found.there
    assert len(set(found.here)) == len(found.here)


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
    found = carry(tmp_path, "import warnings", "warnings.simplefilter('always', UserWarning)", show)
    assert found.here == ["rerun"] * 2


def test_what_cannot_be_told(tmp_path: Path) -> None:
    code = """
def local():
    class Inner(UserWarning): pass
    return Inner
warnings.simplefilter('ignore', local())
warnings.filterwarnings('ignore', message='password=hunter2')
warnings.filterwarnings('error', message='fine')
"""
    found = carry(tmp_path, "import warnings", code, "result = str(warnings.filters)")
    assert "hunter2" not in str(found.options)
    assert "fine" in found.here
    (said,) = found.said
    assert "Inner" in said


def test_a_category_of_the_notebook_and_one_that_is_gone(tmp_path: Path) -> None:
    tmp_path.joinpath("gone.py").write_text("class Gone(Warning): pass")
    code = """
import gone
warnings.simplefilter('error', gone.Gone)
warnings.simplefilter('error', Own)
Path('gone.py').unlink()
"""
    imports = "import warnings\nclass Own(UserWarning): pass"
    found = carry(tmp_path, imports, code, "result = [str(each) for each in warnings.filters if 'Own' in str(each)]")
    assert found.here == found.there
    assert len(found.here) == 1
    (said,) = found.said
    assert "gone:Gone" in said
