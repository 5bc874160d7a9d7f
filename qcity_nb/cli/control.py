"""Starting and stopping runs, and finishing their tracking: what the commands do, without their output."""

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


def check_hosts(names: tuple[str, ...], settings: Settings) -> None:
    """Raise an error if one of these hosts cannot be launched on. Called before a run is started."""
    for name in names:
        hosts.launcher(name, settings).quote()


def check_kernel(name: str, notebook: Path) -> None:
    """Check that the notebook's kernel is installed here. Called before a run is started.

    Raises:
        NotebookInvalid: it is not; the message lists those that are.
    """
    from jupyter_client.kernelspec import KernelSpecManager

    kernels = KernelSpecManager().find_kernel_specs()
    if name not in kernels:
        hint = f"there are: {', '.join(sorted(kernels))}" if kernels else 'pip install "qcity-nb[local]" installs one'
        raise NotebookInvalid(f"{short(notebook)} asks for the kernel {name!r}, which is not installed; {hint}")


def tracking_finisher(store: Store, settings: Settings) -> Callable[[str], None]:
    """A function that sends the last rows of an ended run to the tracker and closes its tracker run."""

    def finish(run: str) -> None:
        from qcity_nb.published.finish_tracking import finish_tracking  # imports the tracker, so only when needed

        finish_tracking(store, run, tracking=settings.tracking, experiment=settings.project.name)

    return finish


def detach(store: Store, settings: Settings, run: str) -> Path:
    """Start ``qcity keep --run`` in a session of its own; returns the path of its log."""
    if store.address.startswith("memory:"):
        raise UsageError(f"a keeper in the background cannot see {store.address}: use a directory")
    log = settings.local_dir / "keepers" / f"{run}.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        file = log.open("ab")
    except OSError as error:
        raise StoreRefused(f"{log} cannot be written: {error.strerror}") from None
    # An attempt may start a keeper. The keeper must outlive it, so it does not carry the attempt's label.
    environment = {name: value for name, value in os.environ.items() if name != LABEL}
    with file:
        child = subprocess.Popen(
            [sys.executable, "-m", "qcity_nb.cli", "keep", "--run", run, "--store", store.address],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=settings.project.root,
            env=environment,
            start_new_session=True,
        )
    child.returncode = 0  # nobody waits for it: when this process ends, init reaps it
    return log


def ask_stop(store: Store, run: str) -> Head:
    """Ask for a stop. A run that nobody holds or launches is stopped at once."""

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
