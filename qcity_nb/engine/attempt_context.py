"""An execution's place in an attempt: what `qcity run` hands to the papermill engine."""

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
    """This process's place in an attempt: the desk, and what it came to."""

    config: Config
    mailbox: Mailbox
    grace_s: float
    outcome: Literal["running", "succeeded", "stopped", "lost"] = "running"
    failure: Failure | None = None
    answer: Answer | None = None
    output: Path | None = None
    """A second place for the executed notebook."""
    process: subprocess.Popen[bytes] | None = None
    """The agent, as long as it is not known to have the lease: nothing is this attempt's before that."""
    kernel: Any = None
    """The manager of a kernel that runs already and has executed nothing; else nbclient starts one."""

    @property
    def term(self) -> int:
        """The attempt's epoch."""
        return self.mailbox.status().term

    def hold(self) -> None:
        """Wait until the agent has the lease.

        Raises:
            RunHeld, StoreError, …: whatever the agent says why it has not.
        """
        if self.process is not None:
            wait_held(self.mailbox, self.process)
            self.process = None

    def note(self, kind: str, **data: object) -> None:
        """A line for the journal."""
        self.mailbox.note(journal.event(kind, term=self.term, attempt=self.config.attempt, **data))
