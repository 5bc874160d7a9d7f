"""The deaths of `qcity demo`: what kills the second run's hosts, and what can be said of it afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qcity_nb import hosts
from qcity_nb.cli.progress import Progress
from qcity_nb.errors import StoreError, UsageError
from qcity_nb.hosts.labelled_processes import find_labelled
from qcity_nb.ports import Store
from qcity_nb.run import lease
from qcity_nb.run.mailbox import Mailbox
from qcity_nb.settings import Settings

__all__ = ["Killer", "check", "in_jobs", "second_keeper", "describe_deaths", "while_saving"]

KERNEL_AT, GROUP_AT, WRITING_AT = 14, 30, 47
"""The epochs around which the three kills of a local run happen."""
UPLOAD, COMMIT, JOB_WRITING_AT = 3, 9, 50
"""Which upload, commit and save a job does not survive, counted over all jobs (or a later one, each in its own job)."""
UPLOAD_S, COMMIT_S = 0.003, 0.006
"""So long after its beginning: over loopback either takes some 10 ms."""


def check(on: tuple[str, ...], store: str | None) -> None:
    """May these hosts be killed from here?

    Raises:
        UsageError: no; the message says how.
    """
    if any(hosts.kind(name) != "hf-jobs" for name in on) or not str(store or "").startswith("hf://"):
        raise UsageError(f"the demo kills runs on local, or on hf-jobs with --store hf://…, not on {', '.join(on)}")
    from huggingface_hub import constants

    from qcity_nb.hosts.hf_jobs.client import is_here

    if not is_here(constants.ENDPOINT):
        raise UsageError(
            "the demo kills jobs, so they must be an emulator's on this machine: `qcity hub serve` starts one, and "
            "says what HF_ENDPOINT must be"
        )


def while_saving(log: str, *, plant: str = "") -> Any:
    """The third death of a local run, as a ``testing.chaos.Plan``."""
    from qcity_nb.testing.chaos import Plan

    return Plan(log=log, at={"local.pack": [WRITING_AT]}, action="host", plant=plant)


def in_jobs(log: str, *, plant: str = "") -> Any:
    """The three deaths of a run in jobs: in the middle of an upload, of a commit, of a save; a ``chaos.Plan``."""
    from qcity_nb.testing.chaos import Plan

    return Plan(
        log=log,
        at={"publish.upload": [UPLOAD], "publish.commit": [COMMIT], "local.pack": [JOB_WRITING_AT]},
        late={"publish.upload": UPLOAD_S, "publish.commit": COMMIT_S},
        apart=True,
        action="host",
        plant=plant,
    )


_MIDDLE = {
    "publish.upload": ("publish.files.after", "an upload"),
    "publish.commit": ("publish.head.after", "a commit"),
    "local.pack": ("local.after", "a save"),
}
"""By point: the one that comes when it is done, and what it is called."""


def describe_deaths(log: Path) -> list[str]:
    """What each death was in the middle of, as the crash points that were passed say."""
    from qcity_nb.testing import chaos

    hits = chaos.hits(log)
    words = []
    for point, pid in chaos.struck(log):
        done, what = _MIDDLE[point]
        mine = [name for name, by in hits if by == pid]
        is_done = done in mine[len(mine) - mine[::-1].index(point) :]
        words.append(f"killed {'after' if is_done else 'during'} {what}")
    return words


@contextmanager
def second_keeper(_store: Store, run: str) -> Iterator[None]:
    """A keeper in a process of its own, beside the one that watches in the foreground."""
    keeper = subprocess.Popen(
        [sys.executable, "-m", "qcity_nb.cli", "keep", "--run", run],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        keeper.kill()
        keeper.wait()


class Killer:
    """Kills the kernel alone, then the whole group, from outside, when the run has come so far."""

    def __init__(self, given: Settings, note: Progress) -> None:
        self._settings = given
        self._note = note
        self._end = threading.Event()

    @contextmanager
    def __call__(self, store: Store, run: str) -> Iterator[None]:
        """While the run is kept."""
        thread = threading.Thread(target=self._kill, args=(store, run), name="killer", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._end.set()
            thread.join()

    def _kill(self, store: Store, run: str) -> None:
        for epoch, whole in ((KERNEL_AT, False), (GROUP_AT, True)):
            while not self._end.wait(0.01):
                try:
                    holder = lease.read(store, run).head.holder
                except StoreError:
                    continue
                if holder is None:
                    continue
                mailbox = Mailbox(self._settings.local_dir / "attempts" / holder.attempt)
                done = _newest(mailbox)
                if done < epoch:
                    continue
                kernel = int((mailbox.path / "watch").read_text(encoding="ascii"))
                pids = [each.pid for each in find_labelled(holder.attempt)] if whole else [kernel]
                for pid in pids:
                    _kill(pid)
                self._note.say(f"   ✗ SIGKILL {'to all its processes' if whole else 'to the kernel'}, epoch {done}")
                break


def _newest(mailbox: Mailbox) -> int:
    """The newest local checkpoint's number: epochs finished, plus one for the beginning."""
    tier = mailbox.status().tier
    numbers = [int(file.stem) for file in (Path(tier) / "checkpoints").glob("*.json")] if tier else []
    return max(numbers, default=1) - 1


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
