"""The composition root: what `qcity.up()` puts together, and the object that a notebook holds. Read this first.

    qcity.up()
      settings   defaults < pyproject.toml < environment < arguments              settings.py
      host       which machine this is, and by what evidence                      hosts/detect.py
      run        this notebook's unfinished run, or a new one                     run/identity.py
      sidecar    a process: holds the lease, sends heartbeats, publishes, drains  sidecar/
      session    this kernel: loops, metric rows, checkpoints                     kernel/session.py

Under `qcity run` the papermill engine has done the first four already, and `up()` joins its attempt.

Read next: `ports.py`, what the protocol asks of stores, launchers and trackers; then `run/lease.py`, who may publish.
"""

from __future__ import annotations

import sys
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from qcity_nb import codec, crashpoints
from qcity_nb.errors import RunHeld, UsageError
from qcity_nb.hosts import limits
from qcity_nb.hosts.detect import DetectedHost, detect, notebook_path
from qcity_nb.kernel.changes.notebook_edits import check_by_hand
from qcity_nb.records import DesiredState, Head
from qcity_nb.run import identity
from qcity_nb.run.lease import amend
from qcity_nb.run.mailbox import Mailbox, Status
from qcity_nb.run.up_arguments import UpArguments
from qcity_nb.settings import Settings
from qcity_nb.settings import load as load_settings
from qcity_nb.sidecar import start as sidecar

if TYPE_CHECKING:
    from qcity_nb.data import Data
    from qcity_nb.kernel.loop import Changed
    from qcity_nb.kernel.panel import Panel
    from qcity_nb.kernel.save_policy import Every

__all__ = ["City", "up"]

T = TypeVar("T")

_city: City | None = None
_lock = threading.RLock()


def up(
    *,
    run: str | None = None,
    name: str = "",
    params: Mapping[str, Any] | None = None,
    store: str | None = None,
    tracking: str | None = None,
    fresh: bool = False,
    take_over: bool = False,
    namespace: MutableMapping[str, Any] | None = None,
    **overrides: Any,
) -> City:
    """Bring up the run that this notebook belongs to. An unfinished run resumes where it stopped.

    Args:
        run: identifies the run instead of the notebook's path; needed where that path is unknown (Colab).
        name: distinguishes several runs of one notebook with the same parameters.
        params: the parameters that identify this run, if it is run by hand.
        store: where runs live: a directory or a store's address. Default: ``.qcity/store`` in the project.
        tracking: MLflow tracking address, or ``jsonl:///folder``. Default: ``.qcity/mlflow.db`` in the project.
        fresh: begin a new run, even if an unfinished one exists.
        take_over: take the run from the host that holds it now.
        namespace: the variables in which to look for the notebook's path, outside IPython. Default: ``__main__``'s.
        overrides: any other setting by name, such as ``heartbeat="5s"`` (``qcity doctor`` lists them).
    Returns: this kernel's city. While it holds the run, a call with the same arguments or only some of them returns the
        same one; ``fresh`` releases its run. Under the engine every call returns that of its attempt: what identifies
        a run has no effect there, and settings that cannot hold are named.
    Raises:
        RunHeld: another host holds the run and is alive; the message names it and says what you can do.
        UsageError: a setting is wrong, the notebook's path is unknown and ``run`` is missing, or a run is open in this
            kernel that was begun with other arguments.
        StoreError: the store refuses or does not answer.
    Does not: prompt, or wait for longer than the holder's ttl plus two minutes.
    """
    asked = UpArguments(run=run, name=name, params=params, settings={"store": store, "tracking": tracking, **overrides})
    path = _path_of(namespace) if namespace is not None and _shell() is None else None
    with _lock:
        city = _city if _city is not None and _city.is_up else None
        if city is None or (fresh and not city.settings.mailbox):
            city = _open(asked, namespace, fresh=fresh, take_over=take_over)
        from qcity_nb.kernel.between_loops import accept

        accept(city.session, replace(asked, path=str(path or "")), city._arguments, city.settings, city._config)
    return city


def _open(
    asked: UpArguments, namespace: Mapping[str, Any] | None = None, *, fresh: bool = False, take_over: bool = False
) -> City:
    """Make this kernel's city, in place of an earlier one."""
    global _city
    shell = _shell()
    names = shell.user_ns if shell is not None else namespace or vars(sys.modules["__main__"])
    settings = load_settings(overrides=asked.settings)
    host = detect()
    if settings.mailbox:
        city = _join(settings, host)
    else:
        city = _begin(settings, host, names, asked, fresh=fresh, take_over=take_over)
    if city.session.finished_cells is None:  # else the engine set it up before this kernel's first cell
        crashpoints.arm_plan(settings.chaos, attempt=city._config.attempt)
        if shell is not None:
            from qcity_nb.kernel import ipython_hooks

            ipython_hooks.attach(city.session, shell)
    earlier, _city = _city, city
    if earlier is not None and earlier.session is not city.session:
        from qcity_nb.kernel.between_loops import leave_run

        leave_run(earlier.session, f"qcity.up() has brought up run {city.run!r} since: use the city that it returned")
    return city


def _revive_city(asked: Mapping[str, Any], panel: str) -> City:
    """What a city in a snapshot of the notebook's variables becomes in another kernel: that kernel's own city."""
    city = _city if _city is not None and _city.is_up else _open(UpArguments.of(asked))
    if panel and city._panel is None:  # else this kernel already shows one
        city._show_panel(panel)
    return city


def _shell() -> Any:
    """The IPython shell of a Jupyter kernel; ``None`` elsewhere, as in terminal IPython, whose shell has no kernel."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return shell if getattr(shell, "kernel", None) is not None else None


def _join(settings: Settings, host: DetectedHost) -> City:
    """Under the engine: join its attempt, whose sidecar already holds the lease."""
    mailbox = Mailbox(Path(settings.mailbox))
    config = codec.loads(sidecar.Config, (mailbox.path / "sidecar.json").read_bytes())
    return City(settings, host, config, mailbox, sidecar.wait_held(mailbox))


def _begin(
    settings: Settings,
    host: DetectedHost,
    names: Mapping[str, Any],
    asked: UpArguments,
    *,
    fresh: bool,
    take_over: bool,
) -> City:
    """By hand: find or make the run, and start a sidecar that acquires its lease."""
    from qcity_nb.stores import open_store

    path = _path_of(names)
    if asked.run is not None:
        notebook = asked.run
    elif path is not None:
        root = settings.project.root
        notebook = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
    else:
        raise UsageError(
            f'the notebook\'s path is unknown here ({host.name}): name the run, as in qcity.up(run="train")'
        )
    content = path.read_bytes() if path is not None and path.suffix == ".ipynb" and path.is_file() else b""
    store = open_store(settings.store)
    head, is_new = identity.find_or_create(
        store,
        project=settings.project.name,
        notebook=notebook,
        parameters=dict(asked.params or {}),
        name=asked.name,
        fresh=fresh,
        source=content,
        desired=DesiredState(manual=True),
    )
    head = check_by_hand(store, head, is_new, settings.project, content, names.get("In", ()))
    if head.state == "stopped" or head.desired.state == "stopped":
        head = amend(store, head.run, _resume_run)
    config = sidecar.config_for(
        settings,
        run=head.run,
        attempt=f"{head.run}-{uuid.uuid4().hex[:8]}",
        host=host.name,
        take_over=take_over,
        wait=True,
    )
    mailbox, process = sidecar.spawn(config)
    from qcity_nb.kernel import session  # noqa: F401  # imported while the sidecar acquires the lease

    try:
        status = sidecar.wait_held(mailbox, process)
    except RunHeld as held:
        if host.is_interactive:
            raise RunHeld(
                f"{held}. Take over with qcity.up(take_over=True), or watch the run with `qcity show {head.run}`"
            ) from None
        raise
    city = City(settings, host, config, mailbox, status, process)
    city.session.loop_edits.moved.read_cells(content)
    city._arguments = replace(asked, run=notebook, path=str(path or ""))
    return city


def _path_of(names: Mapping[str, Any]) -> Path | None:
    return located[0].resolve() if (located := notebook_path(names)) else None


def _resume_run(head: Head) -> Head:
    """A person runs a stopped run again, by hand: a change for ``amend``."""
    desired = replace(head.desired, state="running", manual=True)
    return head if head.is_over else replace(head, state="running", desired=desired)


class City:
    """What a notebook holds: one attempt at one run. Made by ``up()``.

    Attributes:
        settings: what holds for this attempt, and where each value came from.
        host: which machine this is, and by what evidence.
        run: the run's id.
        session: this kernel's loops, metric rows and checkpoints.
    """

    def __init__(
        self,
        settings: Settings,
        host: DetectedHost,
        config: sidecar.Config,
        mailbox: Mailbox,
        status: Status,
        process: Any = None,
    ) -> None:
        self.settings = settings
        self.host = host
        self.run = config.run
        self._config = config
        self._mailbox = mailbox
        self._process = process
        self._panel: Panel | None = None
        self._data: Data | None = None
        self._began_s = time.monotonic()
        self._arguments = UpArguments()
        from qcity_nb.kernel.engine_requests import session_here
        from qcity_nb.kernel.session import Session

        limit_s = settings.session_limit_s or host.session_limit_s
        deadline_s = limits.session(limit_s).ends_at_s if limit_s is not None else None
        self.session = session_here(mailbox) or Session(mailbox, status, revive=self._revive)
        self.session.deadline_s = deadline_s
        self.session.sidecar.is_unattended = bool(settings.mailbox)
        self.session.environment.begin(self.session, settings.project.root, strict=settings.strict_environment)

    def __repr__(self) -> str:
        status = self.session.sidecar.look(now=True)
        return f"<City run={self.run!r} attempt={status.term} {status.state} host={self.host.name}>"

    def __reduce__(self) -> Any:
        # A city is bound to its kernel's process: another kernel brings up its own.
        return _revive_city, (self._arguments.elsewhere(), self._panel.display_id if self._panel is not None else "")

    @property
    def is_up(self) -> bool:
        """Does this attempt still hold the run?"""
        return self.session.sidecar.is_held

    def _revive(self) -> None:
        """The sidecar died while this attempt lives: start another one for it."""
        self.session.sidecar.note("sidecar-died", message="qcity's background process died; a new one takes its place")
        sidecar.spawn(sidecar.respawn(self._config))

    def loop(
        self,
        items: Iterable[T],
        state: object,
        *,
        every: Every = None,
        name: str | None = None,
        lazy: bool | None = None,
        changed: Changed | None = None,
        strict_state: bool | None = None,
    ) -> Iterator[T]:
        """Iterate over ``items``; resume after the last saved iteration if an earlier attempt died.

            for epoch in city.loop(range(100), state={"model": model, "optimizer": optimizer}):
                ...

        Args:
            items: a sequence resumes by index. Any other iterable must be deterministic (a set is refused): its
                finished items are consumed again without running the body.
            state: what one iteration passes to the next: a dict of arrays, modules, optimizers, estimators or plain
                objects, or one such object. It is restored in place before the first item. ``None`` declares that
                nothing carries over. Put random generators of your own in it; the global generators of Python, numpy
                and torch are saved anyway. ``"auto"`` takes what the loop's source shows: see docs/loop.md.
            every: when to save: a number of iterations, a time (``"60s"``, a timedelta), ``every_steps``,
                ``every_time`` or ``on_best``, combined with ``|`` and ``&``. By default saving takes under 1% of the
                loop's time, and less if the run seldom dies (kernel/save_policy.py). When the host's session is about
                to end, every boundary is saved.
            name: the loop's key. Default: its cell, and its position in that cell.
            lazy: when the state is copied. Default: the weights and optimizer state of a torch optimizer are copied
                while the next iteration begins, and ``optimizer.step()`` waits for that copy; until then the weights
                may be read, but written only by that step. ``False`` copies everything at the boundary. ``True`` copies
                everything later: call ``city.wait()`` before you change anything.
            changed: what to do if the finished items are other ones, or the code was edited: ``"resume"`` continues,
                and does what is new of a longer list, ``"restart"`` begins the loop anew, once. Default: other items
                are an error, and the run can be resumed; an edit is announced.
            strict_state: a state that lacks what an iteration passes to the next is an error. Default: the setting.
        Raises:
            StateRefused: a variable cannot be saved, or is missing; the message names it and says why.
            LeaseLost, RunStopped: at a boundary, never inside an iteration.
            Changed: the finished items are other ones now, or fewer.
            UsageError: an argument is not valid, or ``state="auto"`` cannot know or set a variable, which is named.
        Does not: undo what the unfinished iteration did outside ``state``.
        """
        from qcity_nb.kernel import loop

        self.session.sidecar.check()
        self.session.environment.check(self.session)
        strict = self.settings.strict_state if strict_state is None else strict_state
        options = loop.LoopOptions(every=every, name=name, lazy=lazy, changed=changed, strict_state=strict)
        return loop.begin(self.session, items, state, options, sys._getframe(1))

    def wait(self) -> None:
        """Wait until the state of the last boundary is copied and may be changed by any means (``lazy=True``)."""
        self.session.engine.wait_copied()

    def log(self, *, step: int | None = None, **metrics: float) -> None:
        """Log metrics: one row each. A row reaches the tracker exactly once, after the checkpoint that covers it.

        Args:
            step: Default: the innermost loop's 0-based count over the whole run; 0 outside loops.
            metrics: the values by name, as in ``city.log(loss=0.1, accuracy=0.9)``.
        """
        self.session.log(metrics, step)

    def checkpoint(self, *, name: str = "") -> int:
        """Save and publish now; inside a loop, at its next boundary.

        Args:
            name: a name for the checkpoint, which then stays in the store permanently. A loop waits at that boundary
                until the store has the checkpoint, for a minute at most. Code that is re-run after a death gives the
                name again: the newest checkpoint of a name is the one that counts.
        Returns: the newest checkpoint's number; inside a loop that is the one before the next boundary.
        Raises:
            UsageError: the name cannot be displayed, another name is waiting for the same boundary, or the run record
                is full (about 200 names).
        """
        from qcity_nb.kernel.between_loops import save_now

        return save_now(self.session, name)

    def restore(self, state: object = None, *, name: str | None = None) -> Any:
        """Restore the state of a loop from its newest checkpoint.

        Args:
            state: is filled in place. ``None``: the state is returned as a new object.
            name: the loop's name or key; may be left out if there is only one loop.
        Returns: ``state``, or the new object.
        Raises:
            UsageError: no checkpoint yet, or no such loop; the message lists the loops that have one.
        """
        from qcity_nb.kernel.between_loops import restore_state

        return restore_state(self.session, state, name)

    def finish(self) -> None:
        """End a run that was begun by hand, as succeeded: everything is published, drained and closed.

        Under `qcity run` the engine ends the run, and this call does nothing.
        """
        if self.settings.mailbox:
            return
        self.session.commit("finish")
        self.session.sidecar.ask("end", wait_s=90, state="succeeded")
        self._close(f"city.finish() has ended run {self.run!r}: begin the next one with `city = qcity.up()`")

    def hand_over(self) -> None:
        """Publish everything and release the run, so that a keeper elsewhere can resume it."""
        self.session.commit("hand over")
        self.session.sidecar.ask("release", wait_s=90, hand_over=True)
        self._close(f"city.hand_over() has released run {self.run!r}: resume it here with `city = qcity.up()`")

    def _close(self, why: str) -> None:
        """Wait for the sidecar's last status, so that the panel and the next `up()` see that the attempt has ended."""
        until = time.monotonic() + 5
        while self.is_up and time.monotonic() < until:
            time.sleep(0.005)
        self.refresh()
        if self._panel is not None:
            self._panel.close()  # its buttons would ask a sidecar that is gone
        if self._process is not None:
            self._process.wait(timeout=30)
        self.session.engine.close()  # its arena is as large as the state
        self.session.sidecar.closed = why

    @property
    def data(self) -> Data:
        """The project's DVC-tracked data: ``city.data["data/digits.csv"]`` is a verified local path."""
        if self._data is None:
            from qcity_nb.data import Data

            self._data = Data(self.settings.project.root)
        return self._data

    def secret(self, name: str) -> str:
        """A secret by name, from the environment, or from Colab's or Kaggle's secrets. It is never logged or saved.

        Raises:
            UsageError: there is none of that name; the message says where to put it on this host.
        """
        from qcity_nb.hosts.secret import find

        return find(name, self.host)

    def panel(self) -> None:
        """Show the run's panel below this cell. It updates itself, and stays in the saved notebook."""
        if self._panel is None:
            self._show_panel("")
        self._update_panel()

    def _show_panel(self, display_id: str) -> None:
        from qcity_nb.kernel.panel import Panel

        actions = {"Stop": self._ask_stop, "Checkpoint now": self._ask_checkpoint, "Hand over": self.hand_over}
        self._panel = Panel(self.run, actions={} if self.settings.mailbox else actions, display_id=display_id)
        self.session.listeners.append(self._update_panel)

    def _ask_stop(self) -> None:
        self._mailbox.ask("stop", reason="stopped from the panel")

    def _ask_checkpoint(self) -> None:
        self.session.force = True

    def _update_panel(self) -> None:
        from qcity_nb.kernel.panel_state import view_of

        if self._panel is not None:
            self._panel.update(view_of(self.session, self.host))

    def refresh(self) -> None:
        """Bring the panel up to date now."""
        self._update_panel()
        if self._panel is not None:
            self._panel.flush()
