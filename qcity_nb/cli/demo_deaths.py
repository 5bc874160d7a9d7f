"""The kills of `qcity demo`: how the second run's hosts are killed, and in the middle of what each of them died."""

from __future__ import annotations

import json
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

KERNEL_AT, GROUP_AT, WRITING_AT = 15, 31, 47
"""The local checkpoints at which the three kills of a local run happen; cells and training epochs make them."""
UPLOAD, COMMIT, JOB_WRITING_AT = 3, 9, 50
"""The upload, commit and save in which a job is killed, counted over all jobs (or a later one, each in its own job)."""
UPLOAD_S, COMMIT_S = 0.003, 0.006
"""How long after its beginning the kill comes: over loopback either takes some 10 ms."""


def check(on: tuple[str, ...], store: str | None) -> None:
    """Check that the demo can kill these hosts.

    Raises:
        UsageError: it cannot; the message says which hosts it can kill.
    """
    if any(hosts.kind(name) != "hf-jobs" for name in on) or not str(store or "").startswith("hf://"):
        raise UsageError(f"the demo kills runs on local, or on hf-jobs with --store hf://…, not on {', '.join(on)}")
    from huggingface_hub import constants

    from qcity_nb.hosts.hf_jobs.client import is_here

    if not is_here(constants.ENDPOINT):
        raise UsageError(
            "the demo kills jobs, so it needs a Hub emulator on this machine: `qcity hub serve` starts one and prints "
            "the value for HF_ENDPOINT"
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
"""For each crash point: the point that follows when the operation is done, and the operation's name."""


def describe_deaths(log: Path) -> list[str]:
    """In the middle of what each kill came, from the log of crash points."""
    from qcity_nb.testing import chaos

    hits = chaos.hits(log)
    words = []
    for point, pid in chaos.struck(log):
        done, operation = _MIDDLE[point]
        mine = [name for name, by in hits if by == pid]
        is_done = done in mine[len(mine) - mine[::-1].index(point) :]
        words.append(f"killed {'after' if is_done else 'during'} {operation}")
    return words


@contextmanager
def second_keeper(_store: Store, run: str) -> Iterator[None]:
    """A keeper in a process of its own, beside the one in the foreground."""
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
    """Kills the kernel, later the whole process group, from outside, at two of the local checkpoints."""

    def __init__(self, settings: Settings, note: Progress) -> None:
        self._settings = settings
        self._note = note
        self._end = threading.Event()

    @contextmanager
    def __call__(self, store: Store, run: str) -> Iterator[None]:
        """Kill while the run is kept."""
        thread = threading.Thread(target=self._kill, args=(store, run), name="killer", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._end.set()
            thread.join()

    def _kill(self, store: Store, run: str) -> None:
        for number, is_whole in ((KERNEL_AT, False), (GROUP_AT, True)):
            while not self._end.wait(0.01):
                try:
                    holder = lease.read(store, run).head.holder
                except StoreError:
                    continue
                if holder is None:
                    continue
                mailbox = Mailbox(self._settings.local_dir / "attempts" / holder.attempt)
                newest, step = _newest(mailbox)
                if newest < number:
                    continue
                kernel = int((mailbox.path / "watch").read_text(encoding="ascii"))
                pids = [each.pid for each in find_labelled(holder.attempt)] if is_whole else [kernel]
                for pid in pids:
                    _kill(pid)
                target = "all its processes" if is_whole else "the kernel"
                self._note.say(f"   ✗ SIGKILL to {target} after training epoch {step}")
                break


def _newest(mailbox: Mailbox) -> tuple[int, int]:
    """The newest local checkpoint: its number, and how many training epochs it holds."""
    tier = mailbox.status().tier
    files = {int(file.stem): file for file in (Path(tier) / "checkpoints").glob("*.json")} if tier else {}
    number = max(files, default=0)
    try:
        return number, int(json.loads(files[number].read_bytes())["manifest"]["step"])
    except (KeyError, OSError, ValueError):  # none yet, or replaced by a newer one just now
        return 0, 0


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
