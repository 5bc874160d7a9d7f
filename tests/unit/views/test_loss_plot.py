"""The loss plot: a real PNG, deaths drawn, and one clear line where matplotlib is missing."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest
from PIL import Image

from qcity_nb.errors import UsageError
from qcity_nb.views.loss_plot import save_loss_plot

LOSS = {"loss": [(n, 1 / (n + 1)) for n in range(50)]}


def red(path: Path) -> int:
    """How many columns of pixels have the colour of a death's line."""
    image = Image.open(path).convert("RGB")
    columns = {
        x for x in range(image.width) for y in range(0, image.height, 2) if image.getpixel((x, y)) == (0xD1, 0x24, 0x2F)
    }
    return len(columns)


def test_a_png_is_written_whole(tmp_path: Path) -> None:
    path = save_loss_plot(tmp_path / "new" / "loss.png", LOSS, [10, 20, 30], "digits")
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert b"IEND" in data[-12:]
    width, height = struct.unpack(">II", data[16:24])
    assert width > 600
    assert height > 300
    assert [item.name for item in path.parent.iterdir()] == ["loss.png"]


def test_each_death_is_drawn(tmp_path: Path) -> None:
    without = red(save_loss_plot(tmp_path / "a.png", LOSS))
    labelled = red(save_loss_plot(tmp_path / "b.png", LOSS, {10: "kernel killed", 20: "host gone"}))
    assert without == 0
    assert labelled >= 2


def test_empty_and_odd_series_are_drawn(tmp_path: Path) -> None:
    assert save_loss_plot(tmp_path / "a.png", {}).exists()
    assert save_loss_plot(tmp_path / "b.png", {"x": [], "y": [(0, float("nan"))], "z": [(5, 1.0)]}, [5]).exists()


def test_pyplot_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    assert save_loss_plot(tmp_path / "a.png", LOSS).exists()


def test_without_matplotlib_the_message_has_the_install_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r'pip install "qcity-nb\[local\]"'):
        save_loss_plot(tmp_path / "a.png", LOSS)
