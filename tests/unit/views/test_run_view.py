"""The panel's HTML and text: escaped, self-contained, the deaths marked; and the panel's updates."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcity_nb.kernel.output_recorder import PANEL_MIME
from qcity_nb.kernel.panel import Panel, is_panel
from qcity_nb.views.curve import loss_svg, thin_out
from qcity_nb.views.run_view import LoopView, PanelView, Saved, panel_html, text

EVIL = "<script>alert('x')</script>\"&'><img src=x onerror=1>"
LOSS = [(n, 1 / (n + 1)) for n in range(50)]


def full(word: str) -> PanelView:
    """A view with ``word`` wherever a text can stand."""
    return PanelView(
        run=word, state=word, host=word, evidence=word, term=3, attempt=word, holder=word, lease=word,
        loops=(LoopView(name=word, done=3, total=10, rate=2.0, eta_s=3.5),),
        local=Saved(seq=5, step=3, age_s=1.0), published=Saved(seq=4, step=2, age_s=200.0),
        rows_waiting=2, rows_drained=1234, metrics={word: LOSS}, deaths=(7, 20),
        store=word, tracker=word, messages=(word,), at=word,
    )  # fmt: skip


class Page(HTMLParser):
    """Tags, attributes and text of a piece of HTML; fails on tags that do not close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open.append(tag)
        self.attributes += attrs

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_every_text_is_escaped_and_shown() -> None:
    page = Page(panel_html(full(EVIL)))
    assert set(page.tags) <= {"div", "span", "b", "svg", "polyline", "line", "title"}
    # run, state, host, holder, lease, loop, metric, store, tracker, message, at
    assert sum(word.count(EVIL) for word in page.words) == 11
    assert EVIL in [value for name, value in page.attributes if name == "title"]


@given(st.text(max_size=40))
def test_no_text_becomes_a_tag_or_an_attribute(word: str) -> None:
    plain, page = Page(panel_html(full("a"))), Page(panel_html(full(word or "a")))
    assert page.tags == plain.tags
    assert [name for name, _ in page.attributes] == [name for name, _ in plain.attributes]


def test_nothing_runs_and_nothing_is_fetched() -> None:
    html = panel_html(full("a"))
    assert not re.search(r"<script|<style|<link|<img|<iframe|javascript:|url\(|https?://|\bon\w+=", html)


def test_colours_of_the_page_are_kept() -> None:
    html = panel_html(full("a"))
    assert not re.search(r"[;\"](color|background):(#fff|#000|white|black)", html)


def test_all_details_are_there() -> None:
    words = " ".join(Page(panel_html(full("run-1"))).words)
    texts = ["3 / 10", "30%", "2/s", "4 s left", "local #5 at step 3, 1 s ago", "2 waiting", "attempt 3", "0.02"]
    texts += ["published #4 at step 2, 3 min ago", "1,234 sent to the tracker", "at step 7, 20"]
    for fact in texts:
        assert fact in words
    plain = text(full("run-1"))
    for fact in ("run-1", "3 / 10", "4 s left", "published #4", "2 waiting", "died at step 7, 20", "! run-1"):
        assert fact in plain


def test_a_view_with_nothing_in_it_is_small() -> None:
    view = PanelView(run="r")
    assert text(view) == "qcity r: running"
    assert Page(panel_html(view)).words == ["r", " ", "running", " ", " "]


@pytest.mark.parametrize(
    "loop",
    [
        LoopView(name="l", done=0, total=0),
        LoopView(name="l", done=5, total=3, rate=0.0, eta_s=math.inf),
        LoopView(name="l", done=5, rate=math.nan, eta_s=math.nan),
        LoopView(name="l", done=5, rate=1e-9, eta_s=-1),
    ],
)
def test_odd_progress_is_shown_without_fuss(loop: LoopView) -> None:
    view = PanelView(run="r", loops=(loop,), metrics={"m": [(0, math.nan)], "none": []})
    Page(panel_html(view))
    widths = [float(w) for w in re.findall(r"width:([\d.]+)%", panel_html(view))]
    assert all(0 <= w <= 100 for w in widths)
    assert "nan" in text(view)


def coordinates(svg: str) -> list[tuple[float, float]]:
    points = " ".join(re.findall(r'points="([^"]*)"', svg)).split()
    return [(float(x), float(y)) for x, y in (p.split(",") for p in points)]


def test_a_death_is_marked_at_its_step() -> None:
    svg = loss_svg([(0, 0.0), (100, 1.0)], [25, 400])
    lines = [float(x) for x in re.findall(r'<line x1="([\d.]+)"', svg)]
    (left, _), (right, _) = coordinates(svg)
    assert lines == [pytest.approx(left + (right - left) / 4), right]
    assert "<title>died at step 25</title>" in svg
    assert "<line" not in loss_svg([(0, 0.0), (100, 1.0)])


def test_higher_values_are_drawn_higher() -> None:
    (_, low), (_, high) = coordinates(loss_svg([(0, 1.0), (1, 2.0)]))
    assert high < low


@given(st.lists(st.tuples(st.integers(-(2**53), 2**53), st.floats()), max_size=700))
def test_any_series_is_drawn_inside_its_frame(series: list[tuple[int, float]]) -> None:
    svg = loss_svg(series, [0], width=200, height=40)
    assert ("polyline" in svg) == any(math.isfinite(value) for _, value in series)
    if svg:
        Page(svg)
    for x, y in coordinates(svg):
        assert 0 <= x <= 200
        assert 0 <= y <= 40


def test_a_value_that_is_no_number_breaks_the_line() -> None:
    assert loss_svg([(0, 1.0), (1, 2.0), (2, math.nan), (3, 1.0), (4, 3.0)]).count("<polyline") == 2


def test_thinning_keeps_ends_and_extremes() -> None:
    series = [(n, math.sin(n / 50)) for n in range(10_000)]
    series[4321] = (4321, 9.0)
    kept = thin_out(series, 200)
    assert len(kept) <= 200
    assert (4321, 9.0) in kept
    assert kept[0] == series[0]
    assert kept[-1] == series[-1]
    assert kept == sorted(kept)


class FrontEnd:
    """What was published, as (bundle, display id, update)."""

    def __init__(self) -> None:
        self.sent: list[tuple[Mapping[str, Any], str, bool]] = []
        self.now_s = 100.0

    def __call__(self, data: Mapping[str, Any], *, display_id: str, update: bool) -> None:
        self.sent.append((data, display_id, update))


def test_the_panel_is_shown_once_and_updated_at_most_once_a_second() -> None:
    front = FrontEnd()
    panel = Panel("r", publish=front, now_s=lambda: front.now_s)
    assert panel.update(PanelView(run="r", term=1))
    for n in range(2, 12):
        front.now_s += 0.09
        assert not panel.update(PanelView(run="r", term=n))
    front.now_s += 0.2
    assert panel.update(PanelView(run="r", term=12))
    assert not panel.update(PanelView(run="r", term=13))
    assert panel.flush()
    assert not panel.flush()
    panel.close()
    assert [update for _, _, update in front.sent] == [False, True, True]
    assert len({display_id for _, display_id, _ in front.sent}) == 1
    assert [f"attempt {n}" in bundle["text/html"] for n, (bundle, _, _) in zip((1, 12, 13), front.sent, strict=True)]
    assert front.sent[-1][0][PANEL_MIME] == {"run": "r"}
    assert "attempt 13" in str(panel)


def test_our_displays_can_be_distinguished_from_others() -> None:
    front = FrontEnd()
    Panel("r", publish=front).update(PanelView(run="r"))
    assert is_panel({"output_type": "display_data", "data": front.sent[0][0]})
    assert not is_panel({"output_type": "display_data", "data": {"text/html": ""}})
    assert not is_panel({"output_type": "stream", "text": ""})


def test_a_front_end_that_is_gone_is_no_error() -> None:
    def broken(data: Mapping[str, Any], *, display_id: str, update: bool) -> None:
        raise OSError("gone")

    panel = Panel("r", publish=broken)
    assert not panel.update(PanelView(run="r"))
    panel.close()


def test_plain_python_shows_nothing_and_imports_nothing() -> None:
    code = """
import sys
from qcity_nb.kernel.panel import Panel
from qcity_nb.views.run_view import PanelView
panel = Panel("r", actions={"Stop": lambda: None})
assert not panel.update(PanelView(run="r"))
panel.close()
assert str(panel) == "qcity r: running"
assert not {"IPython", "ipywidgets", "matplotlib"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
