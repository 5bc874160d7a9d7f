"""The context of an execution in an attempt, which `qcity run` passes to the papermill engine."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qcity_nb.records import Failure
from qcity_nb.run import journal
from qcity_nb.run.mailbox import Answer, Mailbox
from qcity_nb.sidecar.start import Config, wait_held

__all__ = ["AttemptContext"]


@dataclass(slots=True)
class AttemptContext:
    """The attempt that this process executes: its config, its mailbox, its outcome."""

    config: Config
    mailbox: Mailbox
    grace_s: float
    outcome: Literal["running", "succeeded", "stopped", "lost"] = "running"
    failure: Failure | None = None
    answer: Answer | None = None
    output: Path | None = None
    """A second place for the executed notebook."""
    process: subprocess.Popen[bytes] | None = None
    """The sidecar's process, until it is known to hold the lease: before that this attempt may write nothing."""
    kernel: Any = None
    """The manager of a kernel that runs already and has executed nothing; ``None``: nbclient starts one."""

    @property
    def term(self) -> int:
        """The attempt's term."""
        return self.mailbox.status().term

    def hold(self) -> None:
        """Wait until the sidecar holds the lease.

        Raises:
            RunHeld, StoreError, …: the sidecar's reason why it does not.
        """
        if self.process is not None:
            wait_held(self.mailbox, self.process)
            self.process = None

    def note(self, kind: str, **data: object) -> None:
        """Add an event to the journal."""
        self.mailbox.note(journal.event(kind, term=self.term, attempt=self.config.attempt, **data))
