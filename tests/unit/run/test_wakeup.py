"""A wakeup comes for a file that is renamed into a directory, for a process's end, and when asked; else in time."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qcity_nb.run import wakeup
from qcity_nb.run.wakeup import POLL_S, Wakeup

LONG_S = 30.0
"""Far beyond any wake-up, and below the test's timeout: a wakeup that does not come is noticed."""


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits for its end."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    yield process
    process.kill()
    process.wait()
    process.stdin.close()


def waited_s(wakeup: Wakeup, timeout_s: float) -> float:
    """How long a wait took."""
    began_s = time.monotonic()
    wakeup.wait(timeout_s)
    return time.monotonic() - began_s


@pytest.mark.skipif(sys.platform != "linux", reason="declared: only Linux tells of news")
def test_it_rings_for_a_file_an_end_and_when_asked(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    wakeup = Wakeup(sleeper.pid, [tmp_path])
    assert wakeup.is_notified
    (tmp_path / "draft").write_bytes(b"")
    assert waited_s(wakeup, 0.05) >= 0.04, "a draft is no news"
    (tmp_path / "draft").replace(tmp_path / "file")
    assert waited_s(wakeup, LONG_S) < LONG_S / 2
    assert waited_s(wakeup, 0.05) >= 0.04, "it rings once for each"
    ringer = threading.Thread(target=wakeup.ring)
    ringer.start()
    assert waited_s(wakeup, LONG_S) < LONG_S / 2
    ringer.join()
    sleeper.kill()
    assert waited_s(wakeup, LONG_S) < LONG_S / 2
    wakeup.close()


def test_ringing_never_blocks(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    wakeup = Wakeup(sleeper.pid, [tmp_path])
    for _ in range(100_000):  # more than a pipe holds
        wakeup.ring()
    wakeup.wait(LONG_S)
    assert waited_s(wakeup, 0.01) < LONG_S / 2
    wakeup.close()


def test_where_the_system_does_not_tell_it_rings_often(
    tmp_path: Path, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folders: object) -> int:
        raise OSError("no more watches")

    monkeypatch.setattr(wakeup, "_inotify", refuse)
    polling = Wakeup(sleeper.pid, [tmp_path])
    assert not polling.is_notified
    assert waited_s(polling, LONG_S) < 100 * POLL_S
    polling.ring()
    assert waited_s(polling, LONG_S) < 100 * POLL_S
    polling.close()


def test_a_directory_that_is_not_there_is_no_reason_to_fail(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    wakeup = Wakeup(sleeper.pid, [tmp_path / "gone"])
    assert not wakeup.is_notified
    wakeup.close()
