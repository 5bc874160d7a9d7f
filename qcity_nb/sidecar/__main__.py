"""The sidecar's process: `python -m qcity_nb.sidecar CONFIG`."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

from qcity_nb import codec, crashpoints
from qcity_nb.errors import QcityError
from qcity_nb.run.mailbox import Mailbox, Status
from qcity_nb.sidecar.sidecar import Sidecar
from qcity_nb.sidecar.start import Config

__all__ = ["main"]


def main() -> int:
    """Run the sidecar of one attempt."""
    config = codec.loads(Config, Path(sys.argv[1]).read_bytes())
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        # It ends when its owner does; a signal to the owner's whole group must not interrupt a publish.
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(5)
    crashpoints.arm_plan(config.chaos, attempt=config.attempt, owner=config.owner.pid)
    try:
        if not Mailbox(Path(config.mailbox)).open().claim():
            return 0  # kernel and engine both found the sidecar dead, and each started another one
        sidecar = Sidecar(config)
        if sidecar.status.state in ("lost", "refused", "ended"):
            return 0  # another one was started for the same death, came first, and ended the attempt
    except QcityError as error:
        Mailbox(Path(config.mailbox)).open().write_status(
            Status(state="refused", run=config.run, reason=str(error), error=type(error).__name__)
        )
        return error.exit_code
    return sidecar.run()


if __name__ == "__main__":
    sys.exit(main())
