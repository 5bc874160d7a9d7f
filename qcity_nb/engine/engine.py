"""The papermill engine `qcity`: `papermill --engine qcity in.ipynb out.ipynb`, and what `qcity run` runs.

papermill executes the cells. This adds: a run and a sidecar for the notebook, the true status of each cell (papermill
calls cells completed that never ran), atomic writes of the executed notebook, a journal of cells, and an outcome.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from papermill.engines import NBClientEngine
from papermill.log import logger
from papermill.utils import merge_kwargs, remove_args

from qcity_nb import codec, errors
from qcity_nb.engine import kernel_prestart
from qcity_nb.engine.attempt_context import AttemptContext
from qcity_nb.engine.client import IOPUB_S, Client
from qcity_nb.engine.notebook_writer import NotebookWriter
from qcity_nb.engine.paths import path_of
from qcity_nb.errors import CheckpointError, LeaseLost, RunStopped, StoreUnavailable
from qcity_nb.records import DesiredState
from qcity_nb.run import identity
from qcity_nb.run.processes import is_alive
from qcity_nb.run.same_notebook import cells_of, check_same_notebook
from qcity_nb.sidecar import start as sidecar

__all__ = ["QcityEngine"]

END_S = 900.0
"""How long the end of a run waits for a store that does not answer."""


class QcityEngine(NBClientEngine):  # type: ignore[misc]  # papermill publishes no types
    """Executes a notebook as a durable run."""

    @classmethod
    def execute_notebook(
        cls,
        nb: Any,
        kernel_name: str,
        output_path: str | None = None,
        progress_bar: Any = True,
        log_output: bool = False,
        autosave_cell_every: int = 30,
        context: AttemptContext | None = None,
        start: kernel_prestart.StartedAttempt | None = None,
        **kwargs: Any,
    ) -> Any:
        """Execute ``nb``; papermill's options mean what they mean in papermill.

        Args:
            context: of the attempt; without it, the run with this notebook and these parameters is found or made.
            start: an attempt that has begun; needed without ``context``.
        Raises:
            DeadKernelError: the kernel died; the run stays unfinished and the next attempt resumes.
            LeaseLost: another attempt took the run over.
            RunStopped: the run was stopped; what was finished is saved.
        """
        if context is None:
            assert start is not None
            context = _make_context(nb, path_of(kwargs.get("input_path")), start)
        writer = NotebookWriter(
            nb,
            context,
            output_path=output_path,
            progress_bar=progress_bar,
            log_output=log_output,
            autosave_cell_every=autosave_cell_every,
        )
        writer.notebook_start()
        with _signals(context):
            try:
                cls.execute_managed_notebook(writer, kernel_name, log_output=log_output, **kwargs)
            finally:
                writer.notebook_complete()
                _conclude(context)
        return writer.nb

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: NotebookWriter,
        kernel_name: str,
        log_output: bool = False,
        stdout_file: Any = None,
        stderr_file: Any = None,
        start_timeout: int = 60,
        execution_timeout: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the cells in a kernel that knows its mailbox."""
        rest = remove_args(["timeout", "startup_timeout", "input_path"], **kwargs)
        final = merge_kwargs(
            rest,
            timeout=execution_timeout or kwargs.get("timeout"),
            startup_timeout=start_timeout,
            kernel_name=kernel_name,
            log=logger,
            log_output=log_output,
            stdout_file=stdout_file,
            stderr_file=stderr_file,
            iopub_timeout=kwargs.get("iopub_timeout", IOPUB_S),
        )
        context = nb_man.context
        client = Client(nb_man, km=context.kernel, **final)
        client.owns_km = True  # this execution ends the kernel, whoever started it
        return client.execute(
            env={**os.environ, **kernel_prestart.environ(context.config.attempt, context.mailbox.path)}
        )


def _make_context(nb: Any, full: Path, start: kernel_prestart.StartedAttempt) -> AttemptContext:
    """For papermill without `qcity run`: find or make the run with this notebook and these parameters."""
    from qcity_nb.stores import open_store

    settings = start.settings
    root = settings.project.root
    parameters: Mapping[str, Any] = dict(nb.metadata.get("papermill", {}).get("parameters", {}))
    name = full.relative_to(root).as_posix() if full.is_relative_to(root) else full.name
    store, content = open_store(settings.store), full.read_bytes() if full.is_file() else b""
    head, is_new = identity.find_or_create(
        store,
        project=settings.project.name,
        notebook=name,
        parameters=parameters,
        source=content,
        desired=DesiredState(manual=True),  # another scheduler started it, and will start it again
    )
    if not is_new:
        options = {"name": "another file name", "fresh": "`qcity run --fresh`"}
        check_same_notebook(store, head, settings.project, cells_of(content), **options)
    config = sidecar.config_for(
        settings,
        run=head.run,
        attempt=start.attempt,
        host="papermill",
        wait=True,
    )
    mailbox, process = sidecar.spawn(config)
    return AttemptContext(
        config=config, mailbox=mailbox, grace_s=settings.stop_grace_s, process=process, kernel=start.kernel
    )


@contextmanager
def _signals(context: AttemptContext) -> Iterator[None]:
    """SIGTERM and the first Ctrl-C ask for a stop at the next boundary; the second Ctrl-C interrupts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: object) -> None:
        context.mailbox.ask("stop", reason="terminated" if number == signal.SIGTERM else "interrupted")
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _conclude(context: AttemptContext) -> None:
    """Tell the sidecar how the execution ended, and wait until that is published.

    Raises:
        LeaseLost, RunStopped: the execution ended so.
        RunHeld, StoreError, …: the execution has not begun.
        StoreUnavailable: the store did not answer in time; the local tier has everything.
    """
    context.hold()
    status = context.mailbox.status()
    if context.outcome == "lost" or status.state == "lost":
        context.outcome = "lost"
        raise LeaseLost(status.reason)
    state = {"succeeded": "succeeded"}.get(context.outcome, "running")
    failure = codec.encode(context.failure) if context.failure else None
    request = context.mailbox.ask("end", state=state, failure=failure)
    until = time.monotonic() + END_S
    while (answer := context.mailbox.answer_to(request)) is None:
        status = context.mailbox.status()
        if status.state in ("lost", "refused"):
            # Refused: a second sidecar could not take over from the first.
            context.outcome = "lost"
            raise getattr(errors, status.error, LeaseLost)(status.reason)
        if status.state == "held" and status.pid and not is_alive(status.pid):
            sidecar.spawn(sidecar.respawn(context.config))
            time.sleep(1.0)
        if time.monotonic() > until:
            raise StoreUnavailable(status.message or "qcity's background process did not answer")
        time.sleep(0.02)
    context.answer = answer
    if not answer.ok:
        context.outcome = "running"
        raise getattr(errors, answer.error, CheckpointError)(answer.reason)
    if context.outcome == "stopped":
        raise RunStopped(status.stop or "stopped")
