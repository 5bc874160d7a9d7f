"""What a run shows to people who look at its store."""

from __future__ import annotations

import math
from xml.etree import ElementTree

from qcity_nb.records import CheckpointRef, Head, Row
from qcity_nb.sidecar.store_page import page
from qcity_nb.stores.hub.pages import front
from qcity_nb.views.series import POINTS, Series

HEAD = Head(
    run="train-1a2b3c-1",
    key="k",
    project="p",
    notebook="train.ipynb",
    term=3,
    checkpoints=(CheckpointRef(name="c", digest="d", seq=9, term=3, step=8, at="2026-11-24T12:00:00.000+00:00"),),
)


def row(key: str, step: int, value: float) -> Row:
    return Row(key=key, value=value, timestamp_ms=step, step=step, loop="l", iteration=step, ordinal=0)


def test_the_page_says_what_it_is_and_how_to_go_on() -> None:
    series = Series()
    series.add([row("accuracy", 0, 0.1), *(row("loss", step, 1 / (1 + step)) for step in range(9))])
    files = page(HEAD, store="hf://user/runs", series=series, deaths=[3, 5])
    text = files["README.md"].decode()
    assert "# train-1a2b3c-1" in text
    assert "qcity resume train-1a2b3c-1 --store hf://user/runs" in text
    assert "![loss over steps](loss.svg)" in text
    picture = ElementTree.fromstring(files["loss.svg"])
    assert picture.tag == "{http://www.w3.org/2000/svg}svg", "a browser shows no svg without its name space"
    titles = [each.text for each in picture.iter("{http://www.w3.org/2000/svg}title")]
    assert titles == ["died at step 3", "died at step 5"]
    assert b"var(--" not in files["loss.svg"], "there is no Jupyter around it"


def test_a_run_without_numbers_has_no_picture() -> None:
    series = Series()
    series.add([row("loss", 0, math.nan)])
    for metrics in (Series(), series):
        files = page(HEAD, store="hf://user/runs", series=metrics, deaths=[])
        assert list(files) == ["README.md"]
        assert b"loss.svg" not in files["README.md"]


def test_a_long_series_stays_small_and_keeps_its_ends() -> None:
    series = Series()
    for step in range(5 * POINTS):
        series.add([row("loss", step, float(step))])
    points = series.metrics["loss"]
    assert len(points) <= 2 * POINTS
    assert (points[0], points[-1]) == ((0, 0.0), (5 * POINTS - 1, 5.0 * POINTS - 1))


def test_the_front_page_lists_runs_and_leaves_the_rest_alone() -> None:
    old = {"address": "hf://user/runs", "endpoint": "https://hub", "path": "user/runs"}
    first = front("", **old, runs=["a/b"])
    assert "https://hub/user/runs/tree/run%2Fa%2Bb" in first
    mine = first.replace("# runs", "# My own words")
    second = front(mine, **old, runs=["c", "a/b"])
    assert "# My own words" in second
    assert second.index("[c]") < second.index("[a/b]")
    assert second.count("<!-- qcity runs") == 1
    assert front("# A model", **old, runs=["c"]).startswith("# A model\n\n## Runs")


def test_the_page_says_what_changed_on_the_way() -> None:
    series = Series()
    series.add([row("loss", step, 1.0 / (step + 1)) for step in range(9)])
    files = page(HEAD, store="hf://user/repo", series=series, deaths=[], changes=[(4, "lr = 0.1 | <x> `y`")])
    assert "| changed | from step 4: lr = 0.1 &#124; &lt;x&gt; &#96;y&#96; |" in files["README.md"].decode()
    assert "from step 4" in files["loss.svg"].decode()
