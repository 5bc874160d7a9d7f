"""papermill's client of a kernel: executes the cells that have not finished, and records the outcome."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbclient.util import run_sync
from papermill.clientwrap import PapermillNotebookClient

from qcity_nb import errors
from qcity_nb.engine.attempt_context import AttemptContext
from qcity_nb.engine.kernel_process import end_kernel, use_channels, watch_for_end
from qcity_nb.engine.resume_plan import OnceInDoubt, ResumePlan
from qcity_nb.engine.watchdog import Watchdog
from qcity_nb.records import Failure, Head
from qcity_nb.run.lease import amend, read
from qcity_nb.secrets import current_values, redact

__all__ = ["IOPUB_S", "Client"]

IOPUB_S = 60
"""How long a cell that has ended may take to deliver its outputs; nbclient's 4 s are too few on a busy machine."""
_IOPUB = "Timeout waiting for IOPub output"
"""What nbclient says if it took longer: the cell has done its work, and its host was too slow."""
LOOK_S = 1.0
POLL_S = 0.1
"""How often it checks for a dead kernel: if the system reports the end by itself, and if it does not."""


class Client(PapermillNotebookClient):  # type: ignore[misc]  # papermill publishes no types
    """papermill's client: it notices a dead kernel at once, and records why a cell failed."""

    async def _async_poll_kernel_alive(self) -> None:
        with watch_for_end(self.km.provisioner.pid) as ended:
            while True:
                if ended is None or ended.done():
                    await asyncio.sleep(POLL_S)
                else:
                    await asyncio.wait([ended], timeout=LOOK_S)
                try:
                    await self._async_check_alive()
                except DeadKernelError:
                    if self.task_poll_for_reply is not None:
                        self.task_poll_for_reply.cancel()
                    return

    def create_kernel_manager(self) -> Any:
        """As in nbclient, but the kernel itself signals that it is ready."""
        return use_channels(super().create_kernel_manager())

    async def _async_cleanup_kernel(self) -> None:
        if self.shutdown_kernel != "immediate":
            await end_kernel(self.km)
        await super()._async_cleanup_kernel()

    _cleanup_kernel = run_sync(_async_cleanup_kernel)

    def papermill_execute_cells(self) -> None:
        """Execute all cells in order, up to the first that fails."""
        context = self.nb_man.context
        provisioner = self.km.provisioner
        watch = context.mailbox.path / "watch"
        watch.write_text(str(provisioner.pid), encoding="ascii")
        try:
            with Watchdog(context, provisioner.pid):
                self._execute_all(context)
        finally:
            # From here on the kernel may end: the sidecar must not stop its heartbeats for that.
            watch.write_text("", encoding="ascii")

    def _execute_all(self, context: AttemptContext) -> None:
        context.hold()
        self.log.info(f"qcity: run {context.config.run}, attempt {context.term}")
        plan = ResumePlan(self, context.mailbox.path, self._note)
        plan.begin()
        for index in plan.installs:
            if not plan.rerun_numbered(index, run=self._execute):
                return
        plan.resume()
        self.nb_man.autosave_cell()
        for index, cell in enumerate(self.nb.cells):
            if plan.is_rerun(index):
                is_well = plan.rerun_numbered(index, run=self._execute)
            elif plan.is_skipped(index):
                if index not in plan.installs:
                    self._redisplay(cell)
                    self.nb_man.cell_skipped(cell, plan.duration_s(index))
                continue
            else:
                try:
                    is_well = self._run(index, plan)
                except OnceInDoubt as doubt:
                    self.nb_man.save()
                    _stop_run(context, doubt)
                    return
            if not is_well:
                return
        plan.wait_idle()
        context.outcome = "succeeded"

    def _note(self, kind: str, **data: Any) -> None:
        """Add an event to the journal and to papermill's log."""
        self.nb_man.context.note(kind, **data)
        if kind == "cells":
            self.log.info(f"qcity: {data['skipped']} cells finished in an earlier kernel: skipped")
        for text in [data["message"]] if "message" in data else data.get("said", []):
            self.log.info(f"qcity: {text}")

    def process_message(self, msg: Any, *args: Any, **kwargs: Any) -> Any:
        """As in papermill, without secrets in what the cell shows."""
        if values := current_values():
            msg = {**msg, "content": redact(msg["content"], values)}
        return super().process_message(msg, *args, **kwargs)

    def _redisplay(self, cell: Any) -> None:
        """Write a skipped cell's text to ``--stdout-file`` and ``--stderr-file`` again, as these begin empty."""
        files = {"stdout": self.stdout_file, "stderr": self.stderr_file}
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and (file := files.get(output.name)):
                file.write("".join(output.text))
                file.flush()

    def _run(self, index: int, plan: ResumePlan) -> bool:
        """Execute a cell that has not finished before. Returns whether the notebook continues."""
        if plan.may_begin(index, partial(_read_decision, self.nb_man.context)):
            return self._execute(index, plan)
        self.nb_man.cell_skipped(self.nb.cells[index])
        plan.finish_cell(index, 0.0)
        return True

    def _execute(self, index: int, plan: ResumePlan | None = None) -> bool:
        """Execute a cell. Returns whether the notebook continues. ``plan`` notes a cell that ended without an error."""
        context = self.nb_man.context
        cell = self.nb.cells[index]
        if plan is not None:
            plan.wait_idle()
        began_s = time.monotonic()
        self.nb_man.cell_start(cell, index)
        try:
            self.execute_cell(cell, index)
            if plan is not None:
                plan.finish_cell(index, time.monotonic() - began_s)
        except CellExecutionError as error:
            self._record_failure(index, error)
            if _is_end(error):
                if plan is not None:
                    plan.finish_cell(index, time.monotonic() - began_s, is_end=True)
                    plan.wait_idle()
                context.outcome = "succeeded"
            else:
                _classify_failure(context, index, cell, error.ename, error.evalue, error.traceback)
            return False
        except CellTimeoutError as error:
            self._record_failure(index, error)
            text = str(error)
            _classify_failure(
                context, index, cell, "CellTimeoutError", text.partition("\n")[0], text, is_hosts=_IOPUB in text
            )
            raise
        except DeadKernelError:
            self.nb_man.cell_complete(self.nb.cells[index], cell_index=index, died=True)
            raise
        self.nb_man.cell_complete(self.nb.cells[index], cell_index=index)
        return True

    def _record_failure(self, index: int, error: Exception) -> None:
        self.nb_man.cell_exception(self.nb.cells[index], cell_index=index, exception=error)
        self.nb_man.cell_complete(self.nb.cells[index], cell_index=index)


def _is_end(error: CellExecutionError) -> bool:
    """Did the cell end the notebook without an error, by ``sys.exit()``? The rule is papermill's."""
    return error.ename == "SystemExit" and error.evalue in ("", "0")


def _read_decision(context: AttemptContext) -> Mapping[str, Any]:
    """A person's decision about a cell that must not run twice (`qcity resume --once`)."""
    from qcity_nb.stores import open_store

    decision: Mapping[str, Any] = read(open_store(context.config.store), context.config.run).head.extra.get("once", {})
    return decision


def _stop_run(context: AttemptContext, doubt: OnceInDoubt) -> None:
    """Stop the run until a person has said whether the cell has done its work."""
    from qcity_nb.stores import open_store

    def set_stopped(head: Head) -> Head:
        question = {"index": doubt.index, "chain": doubt.chain, "message": str(doubt)}
        return replace(head, desired=replace(head.desired, state="stopped"), extra={**head.extra, "once": question})

    reason = str(doubt).replace("RUN", context.config.run)
    context.note("once", index=doubt.index, message=reason)
    context.mailbox.ask("stop", reason=reason)
    amend(open_store(context.config.store), context.config.run, set_stopped)
    context.outcome = "stopped"


_ADDRESS = re.compile(r"0x[0-9a-f]+|\d+\.\d+s")


def _classify_failure(
    context: AttemptContext,
    index: int,
    cell: Any,
    ename: str,
    evalue: str,
    traceback: str,
    *,
    is_hosts: bool = False,
) -> None:
    """Record why a cell failed: a requested stop, a lost lease, the host, or the notebook's own error.

    Args:
        is_hosts: it is known to be the host's.
    """
    status = context.mailbox.status()
    evalue, traceback = redact([str(evalue), str(traceback)], current_values())
    if ename in ("RunStopped", "Changed", "StateRefused", "KeyboardInterrupt") and status.stop:
        context.outcome = "stopped"
        return
    if ename == "LeaseLost" or status.state == "lost":
        context.outcome = "lost"
        return
    words = f"{ename}|{_ADDRESS.sub('', str(evalue))}|{cell.source}"
    # Of qcity's own errors only these are the host's fault: its disk is full or damaged, or the store does not answer.
    is_hosts = is_hosts or ename in ("CheckpointError", "CheckpointCorrupt", "StoreUnavailable", "StoreRefused")
    context.failure = Failure(
        cause="host" if is_hosts else "notebook",
        signature=hashlib.blake2b(words.encode(), digest_size=8).hexdigest(),
        message=f"cell {index + 1}: {ename}: {evalue}",
        traceback=str(traceback),
        seq=status.published_seq,
        error=ename if ename in errors.__all__ else "",
    )
