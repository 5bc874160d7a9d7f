"""`qcity demo` shows what it says, and notices when it is not so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.kill, pytest.mark.kernel, pytest.mark.timeout(300)]


def demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "qcity_nb.cli", "demo", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_three_deaths_change_nothing(tmp_path: Path) -> None:
    done = demo(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Equal, as if nothing had happened." in done.stdout
    assert "killed 3 times" in done.stdout
    folder = tmp_path / ".qcity" / "demo" / "1"
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "killed.ipynb").is_file()


@pytest.mark.parametrize(
    ("fault", "line"), [("generators", "weights       DIFFERENT"), ("rows", "metrics       DIFFERENT")]
)
def test_a_planted_fault_is_noticed(tmp_path: Path, fault: str, line: str) -> None:
    done = demo(tmp_path, "--plant", fault)
    assert done.returncode == 1, done.stdout + done.stderr
    assert line in done.stdout
    assert "NOT EQUAL" in done.stdout
