from __future__ import annotations

from pathlib import Path

from settings_world import carry

SHOW = """
c = decimal.getcontext()
result = [sys.getrecursionlimit(), c.prec, c.rounding, locale.setlocale(locale.LC_ALL)]
"""


def test_what_changed(tmp_path: Path) -> None:
    code = """
sys.setrecursionlimit(2345)
decimal.getcontext().prec = 7
decimal.getcontext().rounding = decimal.ROUND_UP
locale.setlocale(locale.LC_TIME, 'POSIX')
locale.setlocale(locale.LC_NUMERIC, 'C.UTF-8')
"""
    result = carry(tmp_path, "import decimal, locale, sys", code, SHOW)
    assert result.here == result.there
    assert result.here[:3] == [2345, 7, "ROUND_UP"]
    assert result.options["python"]["LC_NUMERIC"] == "C.UTF-8"
    assert result.options.keys() == {"python"}
    assert result.messages == []


def test_a_locale_that_is_not_here_is_reported(tmp_path: Path) -> None:
    code = """
real = locale.setlocale
locale.setlocale = lambda category, *value: 'tlh_QO' if category == locale.LC_TIME else real(category, *value)
"""
    result = carry(tmp_path, "import decimal, locale, sys", code, "result = locale.setlocale(locale.LC_TIME)")
    assert result.here == "C"
    (sentence,) = result.messages
    assert "LC_TIME" in sentence
    assert "tlh_QO" in sentence
