"""Frames that copy on write: what shared memory is as independent in a new process as it was."""

from __future__ import annotations

from typing import Any

import pytest

from qcity_nb.namespace.handlers import pandas_frames
from qcity_nb.namespace.snapshot import NamespaceSnapshotter

np = pytest.importorskip("numpy")
pd = pytest.importorskip("pandas")

N = 3000


def made() -> dict[str, Any]:
    frame = pd.DataFrame(
        {
            "price": np.arange(float(N)),
            "other": np.arange(float(N)) + 0.5,
            "count": np.arange(N),
            "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(range(N), unit="D"),
            "kind": pd.Categorical(["a", "b", "c"] * (N // 3)),
            "text": ["x", "y", "z"] * (N // 3),
            "maybe": pd.array([1, None, 3] * (N // 3), dtype="Int64"),
            "flag": pd.array([True, None, False] * (N // 3), dtype="boolean"),
        }
    )
    columns = {f"c_{name}": frame[name] for name in frame.columns}
    return {"frame": frame, "same": frame, "part": frame[["price", "count"]], "rows": frame[10:2000], **columns}


def again(live: dict[str, Any]) -> dict[str, Any]:
    snapshot = NamespaceSnapshotter(live).capture()
    assert not snapshot.not_saved
    result: dict[str, Any] = {}
    assert (
        NamespaceSnapshotter(result).restore(
            [(each.names, each.captured) for each in snapshot.groups], snapshot.modules, []
        )
        == []
    )
    return result


@pytest.mark.skipif(not pandas_frames.copies_on_write(), reason="declared: this pandas does not copy on write")
def test_a_write_to_a_frame_shows_in_it_alone() -> None:
    live = again(made())
    before = made()
    frame = live["frame"]
    assert live["same"] is frame
    for name, value in {
        "price": -1.0,
        "count": -1,
        "day": pd.Timestamp(0),
        "kind": "b",
        "text": "q",
        "maybe": 77,
        "flag": False,
    }.items():
        frame.loc[11, name] = value
        assert live["same"].loc[11, name] == value
    for name in before:
        if name not in ("frame", "same"):
            assert live[name].equals(before[name]), name
            assert live[name].dtypes is not None


def test_the_same_frames_give_the_same_bytes() -> None:
    snapshotter = NamespaceSnapshotter(made())
    first = {each.names: each.captured.skeleton for each in snapshotter.capture().groups}
    assert {each.names: each.captured.skeleton for each in snapshotter.capture().groups} == first


def test_arrays_that_the_user_holds_stay_views_of_each_other() -> None:
    whole = np.zeros(N)
    live = again({"whole": whole, "half": whole[: N // 2], "frame": pd.DataFrame({"x": whole + 1})})
    live["whole"][0] = 5
    assert live["half"][0] == 5
    assert live["frame"]["x"][0] == 1
