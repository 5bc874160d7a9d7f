"""The error tree: every error names a fact and says what the user can do.

    QcityError
    ├── UsageError              exit 2   the command, a parameter or a setting is wrong
    │   ├── NotebookInvalid              the notebook is missing or cannot be read
    │   ├── UnknownHost                  no launcher of that name
    │   └── UnknownRun                   no run of that name in this store
    ├── NotebookFailed          exit 3   a cell of the notebook raised
    ├── RunStopped              exit 4   somebody asked the run to stop
    │   └── Changed                      what the run works with is no longer what it was: a person decides
    ├── RunHeld                 exit 5   another attempt holds the run
    ├── LeaseLost               exit 5   another attempt took the run over
    ├── StoreError              exit 6
    │   ├── Conflict                     another writer was first
    │   ├── Missing                      an object that a run record named is gone
    │   ├── StoreUnavailable             outcome unknown: read again before deciding
    │   ├── StoreRefused                 this location cannot be a store
    │   └── HeadCorrupt                  a run record cannot be read
    ├── CheckpointError         exit 7
    │   ├── CheckpointCorrupt            bytes do not match their digest
    │   ├── CheckpointUntrusted          its source is not trusted, so it is not loaded
    │   ├── StateRefused                 a variable in `state` cannot be saved
    │   └── VariableLost                 a variable was used that could not be saved
    ├── DataError               exit 8   a data file is missing or has the wrong md5
    ├── TrackerUnavailable      exit 9   the tracker did not answer
    │   └── TrackerMissing               a package that the tracker needs is not installed
    └── GaveUp                  exit 10  the relaunch budget is spent

Exit code 0 is success, 1 an unexpected error (a bug: please report it), 130 Ctrl-C.
"""

from __future__ import annotations

from qcity_nb.printable import printable

__all__ = [
    "Changed",
    "CheckpointCorrupt",
    "CheckpointError",
    "CheckpointUntrusted",
    "Conflict",
    "DataError",
    "GaveUp",
    "HeadCorrupt",
    "LeaseLost",
    "Missing",
    "NotebookFailed",
    "NotebookInvalid",
    "QcityError",
    "RunHeld",
    "RunStopped",
    "StateRefused",
    "StoreError",
    "StoreRefused",
    "StoreUnavailable",
    "TrackerMissing",
    "TrackerUnavailable",
    "UnknownHost",
    "UnknownRun",
    "UsageError",
    "VariableLost",
]


class QcityError(Exception):
    """Anything that qcity_nb raises on purpose. Its message has no control characters, whatever it quotes."""

    exit_code = 1

    def __str__(self) -> str:
        return printable(super().__str__())


class UsageError(QcityError):
    """The command, a parameter or a setting is wrong; nothing was changed."""

    exit_code = 2


class NotebookInvalid(UsageError):
    """The notebook is missing or is not a notebook."""


class UnknownHost(UsageError):
    """No launcher of that name is installed."""


class UnknownRun(UsageError):
    """This store has no run of that name."""


class NotebookFailed(QcityError):
    """A cell of the notebook raised: the notebook's own error, not the host's."""

    exit_code = 3


class RunStopped(QcityError):
    """Somebody asked the run to stop; what was finished is saved."""

    exit_code = 4


class Changed(RunStopped):
    """Items, notebook or environment are not what they were, so the run stopped as it was; the message says what to do.

    Nothing is lost: the run can be resumed.
    """


class RunHeld(QcityError):
    """Another attempt holds the run; its lease has not expired."""

    exit_code = 5


class LeaseLost(QcityError):
    """Another attempt took the run over; nothing of this one is published any more."""

    exit_code = 5


class StoreError(QcityError):
    """The store failed or refused."""

    exit_code = 6


class Conflict(StoreError):
    """The run record is not the version that the writer expected: another writer was first."""


class Missing(StoreError):
    """A stored object is gone; read the run record again, which no longer names it."""


class StoreUnavailable(StoreError):
    """The store did not answer: whether the write was made is unknown.

    Args:
        retry_after_s: how long the store asks callers to wait.
    """

    def __init__(self, message: str = "", *, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StoreRefused(StoreError):
    """This location cannot keep a store's promises (no atomic create, read-only, full)."""


class HeadCorrupt(StoreError):
    """The stored run record is not readable as one."""


class CheckpointError(QcityError):
    """A checkpoint cannot be written or read."""

    exit_code = 7


class CheckpointCorrupt(CheckpointError):
    """Stored bytes do not match their digest."""


class CheckpointUntrusted(CheckpointError):
    """The checkpoint's source is not trusted, so it is not loaded; the message says what to do."""


class StateRefused(CheckpointError):
    """A variable in ``state`` cannot be saved; the message names it and says why."""


class VariableLost(CheckpointError):
    """A variable was used that could not be saved, so it is missing since the notebook was restored."""


class DataError(QcityError):
    """A tracked data file is missing or differs from its recorded md5."""

    exit_code = 8


class TrackerUnavailable(QcityError):
    """The tracker did not answer; rows wait in the outbox."""

    exit_code = 9


class TrackerMissing(TrackerUnavailable):
    """A package that the tracker needs is not installed; rows stay in the outbox until it is."""


class GaveUp(QcityError):
    """The run was relaunched as often as its budget allows, without success."""

    exit_code = 10
