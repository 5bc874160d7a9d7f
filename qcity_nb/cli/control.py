"""Starting, stopping and settling runs: what the commands do, without their printing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from qcity_nb import hosts
from qcity_nb.errors import NotebookInvalid, StoreRefused, UsageError
from qcity_nb.hosts.labelled_processes import LABEL
from qcity_nb.ports import Store
from qcity_nb.records import Head
from qcity_nb.run import lease
from qcity_nb.settings import Settings
from qcity_nb.views.words import short

__all__ = ["ask_stop", "check_hosts", "check_kernel", "detach", "tracking_finisher"]


def check_hosts(names: tuple[str, ...], given: Settings) -> None:
    """Can they be launched on at all? Asked before anything is begun."""
    for name in names:
        hosts.launcher(name, given).quote()


def check_kernel(name: str, notebook: Path) -> None:
    """Is the notebook's kernel installed here? Asked before anything is begun.

    Raises:
        NotebookInvalid: it is not; the message lists those that are.
    """
    from jupyter_client.kernelspec import KernelSpecManager

    there = KernelSpecManager().find_kernel_specs()
    if name not in there:
        hint = f"there are: {', '.join(sorted(there))}" if there else 'pip install "qcity-nb[local]" brings one'
        raise NotebookInvalid(f"{short(notebook)} asks for the kernel {name!r}, which is not installed; {hint}")


def tracking_finisher(store: Store, given: Settings) -> Callable[[str], None]:
    """Brings the tracker's part of a run that ended to its end."""

    def settle(run: str) -> None:
        from qcity_nb.published import (
            finish_tracking as tracker_part,  # brings in the tracker: only when there is one to settle
        )

        tracker_part.finish_tracking(store, run, tracking=given.tracking, experiment=given.project.name)

    return settle


def detach(store: Store, given: Settings, run: str) -> Path:
    """Start ``qcity keep --run`` in a session of its own."""
    if store.address.startswith("memory:"):
        raise UsageError(f"a keeper in the background cannot see {store.address}: use a directory")
    log = given.local_dir / "keepers" / f"{run}.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        file = log.open("ab")
    except OSError as error:
        raise StoreRefused(f"{log} cannot be written: {error.strerror}") from None
    # A keeper that an attempt started is none of that attempt's own processes: it must outlive it.
    environment = {name: value for name, value in os.environ.items() if name != LABEL}
    with file:
        child = subprocess.Popen(
            [sys.executable, "-m", "qcity_nb.cli", "keep", "--run", run, "--store", store.address],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=given.project.root,
            env=environment,
            start_new_session=True,
        )
    child.returncode = 0  # it is not waited for: this process ends, and init takes it
    return log


def ask_stop(store: Store, run: str) -> Head:
    """Want the run stopped; with nobody holding or launching it, it is so at once."""

    def change(head: Head) -> Head:
        if head.state != "running":
            return head
        is_idle = head.holder is None and head.pending_launch is None
        return replace(
            head,
            desired=replace(head.desired, state="stopped"),
            state="stopped" if is_idle else head.state,
        )

    return lease.amend(store, run, change)
