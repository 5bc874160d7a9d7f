"""The papermill engine `qcity`: `papermill --engine qcity in.ipynb out.ipynb`, and what `qcity run` runs.

papermill does the executing. This adds: the run behind the notebook and its agent, honest cell status (papermill calls
cells completed that never ran), atomic writes of the executed notebook, a journal of cells, and an end of the run that
says what happened.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import signal
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nbformat
from nbclient.exceptions import CellExecutionError, DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, NotebookExecutionManager
from papermill.log import logger
from papermill.utils import merge_kwargs, remove_args

from qcity_nb import agent, codec, errors, points, settings
from qcity_nb.agent import Config
from qcity_nb.errors import CheckpointError, LeaseLost, RunStopped, StoreUnavailable
from qcity_nb.notebook import early
from qcity_nb.records import Failure, Wanted
from qcity_nb.run import identity, journal
from qcity_nb.run.desk import Answer, Desk, Status, is_alive

__all__ = ["QcityEngine", "Seat", "take_seat"]

LOOK_S = 1.0
POLL_S = 0.1
"""How often it looks for a dead kernel: where the system tells of the end by itself, and where it does not."""
WARDEN_S = 0.5
END_S = 900.0
"""How long the end of a run waits for a store that does not answer."""


@dataclass(slots=True)
class Seat:
    """This process's place in an attempt: the desk, and what it came to."""

    config: Config
    desk: Desk
    grace_s: float
    outcome: Literal["running", "succeeded", "stopped", "lost"] = "running"
    failure: Failure | None = None
    answer: Answer | None = None
    output: Path | None = None
    """A second place for the executed notebook."""
    kernel: Any = None
    """The manager of a kernel that runs already and has executed nothing; else nbclient starts one."""

    @property
    def epoch(self) -> int:
        """The attempt's epoch."""
        return self.desk.status().epoch

    def note(self, kind: str, **data: object) -> None:
        """A line for the journal."""
        self.desk.note(journal.event(kind, epoch=self.epoch, attempt=self.config.attempt, **data))


_seat: Seat | None = None


@contextmanager
def take_seat(seat: Seat) -> Iterator[Seat]:
    """Make the engine use this seat rather than make a run of its own."""
    global _seat
    _seat = seat
    try:
        yield seat
    finally:
        _seat = None


def _write_atomically(path: Path, data: bytes) -> None:
    """Replace a file; a reader, or a kill, sees the old content or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    draft.write_bytes(data)
    draft.replace(path)


def _merged(nb: Any) -> Any:
    """Adjacent pieces of one stream joined: how they arrive is the network's matter, not the notebook's."""
    for cell in nb.cells:
        outputs: list[Any] = []
        for output in cell.get("outputs", []):
            last = outputs[-1] if outputs else None
            if last is not None and output.output_type == last.output_type == "stream" and output.name == last.name:
                last.text = "".join(last.text) + "".join(output.text)
            else:
                outputs.append(output)
        if "outputs" in cell:
            cell.outputs = outputs
    return nb


class _Manager(NotebookExecutionManager):  # type: ignore[misc]  # papermill publishes no types
    """papermill's bookkeeping, with atomic writes and a status that says what happened."""

    def __init__(self, nb: Any, seat: Seat, **kwargs: Any) -> None:
        self.seat = seat
        super().__init__(nb, **kwargs)

    def save(self, **kwargs: Any) -> None:
        """Write the notebook to the desk, and to the output where that is a local file."""
        if kwargs.get("nb"):
            self.nb = kwargs["nb"]
        data = str(nbformat.writes(_merged(self.nb))).encode()
        _write_atomically(self.seat.desk.executed, data)
        output = self.output_path
        if output and "://" not in str(output) and str(output) != "-":
            _write_atomically(Path(output), data)
        elif output:
            super().save(**kwargs)
        if self.seat.output is not None:
            _write_atomically(self.seat.output, data)
        self.last_save_time = self.now()

    def cell_start(self, cell: Any, cell_index: int | None = None, **kwargs: Any) -> None:
        """A cell begins."""
        points.hit("cell.before")
        told = {"index": cell_index, "id": cell.get("id"), "source": cell.source}
        _write_atomically(self.seat.desk.path / "cell.json", json.dumps(told).encode())
        self._began_s = time.monotonic()
        super().cell_start(cell, cell_index, **kwargs)

    def cell_complete(self, cell: Any, cell_index: int | None = None, **kwargs: Any) -> None:
        """A cell ended, one way or the other."""
        if not kwargs.get("died"):
            super().cell_complete(cell, cell_index, **kwargs)
        if cell.cell_type == "code":
            self.seat.note(
                "cell",
                index=cell_index,
                id=cell.get("id"),
                status=cell.metadata.papermill["status"],
                wall_s=round(time.monotonic() - self._began_s, 3),
            )
        points.hit("cell.after")

    def notebook_complete(self, **kwargs: Any) -> None:
        """The end: cells that never ran stay pending, a cell that was cut off stays running."""
        self.end_time = self.now()
        meta = self.nb.metadata.papermill
        meta["end_time"] = self.end_time.isoformat()
        if meta.get("start_time"):
            meta["duration"] = (self.end_time - self.start_time).total_seconds()
        if self.seat.outcome == "succeeded":
            self.complete_pbar()
        self.cleanup_pbar()
        self.save()


@contextmanager
def _told_of_end(pid: int | None) -> Iterator[asyncio.Future[None] | None]:
    """A future that is done when the process has ended; ``None`` where the system cannot tell (no pidfd)."""
    loop = asyncio.get_running_loop()
    handle = None
    with suppress(OSError, AttributeError, NotImplementedError):
        handle = os.pidfd_open(pid) if pid else None
    if handle is None:
        yield None
        return
    ended: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        loop.remove_reader(handle)
        ended.set_result(None)

    try:
        loop.add_reader(handle, tell)
        yield ended
    finally:
        loop.remove_reader(handle)
        os.close(handle)


class _Client(PapermillNotebookClient):  # type: ignore[misc]  # papermill publishes no types
    """papermill's client: notices a dead kernel at once, and tells who fell."""

    async def _async_poll_kernel_alive(self) -> None:
        with _told_of_end(self.km.provisioner.pid) as ended:
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

    def papermill_execute_cells(self) -> None:
        """All cells in order, up to the first that fails."""
        seat = self.nb_man.seat
        provisioner = self.km.provisioner
        watch = seat.desk.path / "watch"
        watch.write_text(str(provisioner.pid), encoding="ascii")
        try:
            with _Warden(seat, provisioner.pid):
                self._execute_all(seat)
        finally:
            # From here on the kernel may go: the agent must not take that for a reason to fall silent.
            watch.write_text("", encoding="ascii")

    def _execute_all(self, seat: Seat) -> None:
        for index, cell in enumerate(self.nb.cells):
            self.nb_man.cell_start(cell, index)
            try:
                self.execute_cell(cell, index)
            except CellExecutionError as error:
                self.nb_man.cell_exception(self.nb.cells[index], cell_index=index, exception=error)
                self.nb_man.cell_complete(self.nb.cells[index], cell_index=index)
                _judge(seat, error, index, cell)
                return
            except DeadKernelError:
                self.nb_man.cell_complete(self.nb.cells[index], cell_index=index, died=True)
                raise
            self.nb_man.cell_complete(self.nb.cells[index], cell_index=index)
        seat.outcome = "succeeded"


_ADDRESS = re.compile(r"0x[0-9a-f]+|\d+\.\d+s")


def _judge(seat: Seat, error: Any, index: int, cell: Any) -> None:
    """What a failed cell means: a stop that was asked for, a lost lease, or the notebook's own error."""
    status = seat.desk.status()
    if error.ename in ("RunStopped", "KeyboardInterrupt") and status.stop:
        seat.outcome = "stopped"
        return
    if error.ename == "LeaseLost" or status.state == "lost":
        seat.outcome = "lost"
        return
    words = f"{error.ename}|{_ADDRESS.sub('', str(error.evalue))}|{cell.source}"
    # Of our own errors only these are the host's: its disk is full or damaged, or the store does not answer.
    is_hosts = error.ename in ("CheckpointError", "CheckpointCorrupt", "StoreUnavailable", "StoreRefused")
    seat.failure = Failure(
        cause="host" if is_hosts else "notebook",
        signature=hashlib.blake2b(words.encode(), digest_size=8).hexdigest(),
        message=f"cell {index + 1}: {error.ename}: {error.evalue}",
        traceback=str(error.traceback),
        seq=status.published_seq,
        error=error.ename if error.ename in errors.__all__ else "",
    )


class _Warden(threading.Thread):
    """Interrupts the kernel when the lease is lost, or when a stop finds no boundary in time."""

    def __init__(self, seat: Seat, kernel_pid: int) -> None:
        super().__init__(name="warden", daemon=True)
        self._seat = seat
        self._pid = kernel_pid
        self._end = threading.Event()

    def __enter__(self) -> _Warden:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()

    def run(self) -> None:
        since_s: float | None = None
        seen: tuple[int, int] | None = None
        status = Status()
        while not self._end.wait(WARDEN_S):
            if (found := self._seat.desk.version()) != seen:
                seen, status = found, self._seat.desk.status()
            if status.state == "held" and status.pid and not is_alive(status.pid):
                agent.spawn(agent.again(self._seat.config))
                self._end.wait(2.0)
                continue
            if not (status.state == "lost" or status.stop):
                continue
            now = time.monotonic()
            since_s = since_s if since_s is not None else now
            patience_s = 1.0 if status.state == "lost" else self._seat.grace_s
            if now - since_s >= patience_s and is_alive(self._pid):
                # Its loop did not end by itself: cells that make no call of ours are interrupted.
                os.kill(self._pid, signal.SIGINT)
                since_s = now


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
        **kwargs: Any,
    ) -> Any:
        """Execute ``nb``; papermill's options mean what they mean in papermill.

        Raises:
            DeadKernelError: the kernel died; the run stays unfinished and the next attempt goes on.
            LeaseLost: another attempt took the run over.
            RunStopped: the run was stopped; what was finished is saved.
        """
        seat = _seat or _own_seat(nb, str(kwargs.get("input_path") or "notebook"))
        manager = _Manager(
            nb,
            seat,
            output_path=output_path,
            progress_bar=progress_bar,
            log_output=log_output,
            autosave_cell_every=autosave_cell_every,
        )
        manager.notebook_start()
        with _signals(seat):
            try:
                cls.execute_managed_notebook(manager, kernel_name, log_output=log_output, **kwargs)
            finally:
                manager.notebook_complete()
                _conclude(seat)
        return manager.nb

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: _Manager,
        kernel_name: str,
        log_output: bool = False,
        stdout_file: Any = None,
        stderr_file: Any = None,
        start_timeout: int = 60,
        execution_timeout: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the cells in a kernel that knows its desk."""
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
        )
        seat = nb_man.seat
        client = _Client(nb_man, km=seat.kernel, **final)
        client.owns_km = True  # whoever started it: this execution ends it
        return client.execute(env={**os.environ, **early.environ(seat.config)})


def _own_seat(nb: Any, input_path: str) -> Seat:
    """papermill alone: find or make the run that this notebook and its parameters mean."""
    from qcity_nb.stores import open_store

    path = Path(input_path)
    given = settings.load(path.parent if path.parent.is_dir() else None)
    full = path.resolve()
    root = given.project.root
    parameters: Mapping[str, Any] = dict(nb.metadata.get("papermill", {}).get("parameters", {}))
    name = full.relative_to(root).as_posix() if full.is_relative_to(root) else full.name
    head, _ = identity.find_or_create(
        open_store(given.store),
        project=given.project.name,
        notebook=name,
        parameters=parameters,
        source=full.read_bytes() if full.is_file() else b"",
        wanted=Wanted(attended=True),  # somebody else's scheduler started it, and starts it again
    )
    config = agent.config_for(
        given,
        run=head.run,
        attempt=f"{head.run}-{uuid.uuid4().hex[:8]}",
        host="papermill",
        wait=True,
    )
    desk, process = agent.spawn(config)
    agent.wait_held(desk, process)
    logger.info(f"qcity: run {head.run}, epoch {desk.status().epoch}")
    return Seat(config=config, desk=desk, grace_s=given.stop_grace_s)


@contextmanager
def _signals(seat: Seat) -> Iterator[None]:
    """SIGTERM and the first Ctrl-C ask for a stop at the next boundary; the second Ctrl-C interrupts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: object) -> None:
        seat.desk.ask("stop", reason="terminated" if number == signal.SIGTERM else "interrupted")
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _conclude(seat: Seat) -> None:
    """Tell the agent how it ended, and wait until that is published.

    Raises:
        LeaseLost, RunStopped: that is how it ended.
        StoreUnavailable: the store did not answer in time; the local tier has everything.
    """
    status = seat.desk.status()
    if seat.outcome == "lost" or status.state == "lost":
        seat.outcome = "lost"
        raise LeaseLost(status.reason)
    state = {"succeeded": "succeeded"}.get(seat.outcome, "running")
    failure = codec.encode(seat.failure) if seat.failure else None
    request = seat.desk.ask("end", state=state, failure=failure)
    until = time.monotonic() + END_S
    while (answer := seat.desk.answered(request)) is None:
        status = seat.desk.status()
        if status.state in ("lost", "refused"):
            # Refused: a second agent could not go on for the first.
            seat.outcome = "lost"
            raise getattr(errors, status.error, LeaseLost)(status.reason)
        if status.state == "held" and status.pid and not is_alive(status.pid):
            agent.spawn(agent.again(seat.config))
            time.sleep(1.0)
        if time.monotonic() > until:
            raise StoreUnavailable(status.message or "the agent did not answer")
        time.sleep(0.02)
    seat.answer = answer
    if not answer.ok:
        seat.outcome = "running"
        raise getattr(errors, answer.error, CheckpointError)(answer.reason)
    if seat.outcome == "stopped":
        raise RunStopped(status.stop or "stopped")
