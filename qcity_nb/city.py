"""The composition root: what `qcity.up()` puts together, and the object that a notebook holds. Read this first.

    up()
      settings   defaults < pyproject.toml < environment < arguments
      host       which machine is this, by what evidence
      run        found by its key, or made                      run/identity.py
      agent      a process: lease, beats, publishes, drains     agent/
      session    this kernel: rows, loops, checkpoints          kernel/session.py

Under `qcity run` the engine has done the first four already, and `up()` joins them.
"""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from qcity_nb import codec, crashpoints, settings
from qcity_nb.errors import RunHeld, UsageError
from qcity_nb.hosts import limits
from qcity_nb.hosts.detect import HostFacts, detect, notebook_path
from qcity_nb.records import DesiredState, Head
from qcity_nb.run import identity
from qcity_nb.run.lease import amend
from qcity_nb.run.mailbox import Mailbox, Status
from qcity_nb.settings import Settings
from qcity_nb.sidecar import start as sidecar

if TYPE_CHECKING:
    from qcity_nb.data import Data
    from qcity_nb.kernel.panel import Panel
    from qcity_nb.kernel.save_policy import Every

__all__ = ["City", "up"]

T = TypeVar("T")

_city: City | None = None


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
    """Bring up the run that this notebook belongs to, and go on where it was.

    Args:
        run: what the run is called after, where the notebook's path cannot be told (Colab).
        name: tells apart several runs of one notebook with the same parameters.
        params: the parameters that make this run, when it is run by hand.
        state: where runs live: a directory or a store's address. Default: ``.qcity/store`` in the project.
        tracking: MLflow tracking address. Default: ``.qcity/mlflow.db`` in the project.
        fresh: begin a new run, even if an unfinished one is there.
        take_over: take the run from the host that holds it now.
        overrides: any other setting by name (see ``qcity doctor``).
    Raises:
        RunHeld: another host holds the run and is alive; the message names it and says what you can do.
        UsageError: a setting is wrong, or the notebook's path cannot be told and ``run`` is missing.
        StoreError: the store refuses or does not answer.
    Does not: ask anything, or wait for longer than the holder's ttl plus two minutes.
    """
    global _city
    if _city is not None and not fresh and _city.is_up:
        return _city
    given = settings.load(overrides={"store": store, "tracking": tracking, **overrides})
    shell = _shell()
    scope = shell.user_ns if shell is not None else (namespace if namespace is not None else _main())
    facts = detect()
    if given.mailbox:
        city = _join(given, facts)
    else:
        city = _begin(given, facts, scope, run=run, name=name, params=params, fresh=fresh, take_over=take_over)
    if city.session.finished_cells is None:  # else it was there before, for this kernel's first cell
        crashpoints.arm_plan(given.chaos, attempt=city._config.attempt)
        if shell is not None:
            from qcity_nb.kernel import ipython_hooks

            ipython_hooks.attach(city.session, shell)
    city._asked = dict(overrides, name=name, params=params)
    _city = city
    return city


def _revive_city(asked: Mapping[str, Any], panel: str) -> City:
    """A city that a snapshot of the notebook's variables holds, in another kernel."""
    city = up(**asked)
    if panel and city._panel is None:  # else this kernel shows one already
        city._show_panel(panel)
    return city


def _main() -> Mapping[str, Any]:
    import __main__

    return vars(__main__)


def _shell() -> Any:
    """The IPython shell with a kernel behind it, if that is where we are."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return shell if getattr(shell, "kernel", None) is not None else None


def _join(given: Settings, facts: HostFacts) -> City:
    """Under the engine: its agent holds the lease already."""
    mailbox = Mailbox(Path(given.mailbox))
    config = codec.loads(sidecar.Config, (mailbox.path / "sidecar.json").read_bytes())
    return City(given, facts, config, mailbox, sidecar.wait_held(mailbox))


def _begin(
    given: Settings,
    facts: HostFacts,
    scope: Mapping[str, Any],
    *,
    run: str | None,
    name: str,
    params: Mapping[str, Any] | None,
    fresh: bool,
    take_over: bool,
) -> City:
    """By hand: find or make the run, start an agent."""
    from qcity_nb.stores import open_store

    found = notebook_path(scope)
    path = found[0].resolve() if found is not None else None
    if run is not None:
        notebook = run
    elif path is not None:
        root = given.project.root
        notebook = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
    else:
        raise UsageError(
            f"the notebook's path cannot be told here ({facts.name}): say which run this is, "
            'as in qcity.up(run="train")'
        )
    content = path.read_bytes() if path is not None and path.suffix == ".ipynb" and path.is_file() else b""
    store = open_store(given.store)
    head, _ = identity.find_or_create(
        store,
        project=given.project.name,
        notebook=notebook,
        parameters=dict(params or {}),
        name=name,
        fresh=fresh,
        source=content,
        desired=DesiredState(manual=True),
    )
    head = identity.renew_source(store, head, content)
    if head.state == "stopped" or head.desired.state == "stopped":
        head = amend(store, head.run, _resume_run)
    config = sidecar.config_for(
        given,
        run=head.run,
        attempt=f"{head.run}-{uuid.uuid4().hex[:8]}",
        host=facts.name,
        take_over=take_over,
        wait=True,
    )
    mailbox, process = sidecar.spawn(config)
    from qcity_nb.kernel import session  # noqa: F401  # comes in while the agent takes the lease

    try:
        status = sidecar.wait_held(mailbox, process)
    except RunHeld as held:
        if facts.is_interactive:
            raise RunHeld(
                f"{held}. Take it over with qcity.up(take_over=True), or watch it with `qcity show {head.run}`"
            ) from None
        raise
    return City(given, facts, config, mailbox, status, process)


def _resume_run(head: Head) -> Head:
    """Somebody runs a stopped run again, by hand."""
    desired = replace(head.desired, state="running", manual=True)
    return head if head.is_over else replace(head, state="running", desired=desired)


class City:
    """What a notebook holds: one attempt at one run."""

    def __init__(
        self,
        given: Settings,
        facts: HostFacts,
        config: sidecar.Config,
        mailbox: Mailbox,
        status: Status,
        process: Any = None,
    ) -> None:
        self.settings = given
        self.host = facts
        self.run = config.run
        self._config = config
        self._mailbox = mailbox
        self._process = process
        self._panel: Panel | None = None
        self._data: Data | None = None
        self._began_s = time.monotonic()
        self._asked: dict[str, Any] = {}
        from qcity_nb.kernel.engine_requests import session_here
        from qcity_nb.kernel.session import Session

        limit_s = given.session_limit_s or facts.session_limit_s
        deadline_s = limits.session(limit_s).ends_at_s if limit_s is not None else None
        self.session = session_here(mailbox) or Session(mailbox, status, revive=self._revive)
        self.session.deadline_s = deadline_s

    def __repr__(self) -> str:
        status = self.session.sidecar.look(now=True)
        return f"<City run={self.run!r} {status.state} epoch={status.term} host={self.host.name}>"

    def __reduce__(self) -> Any:
        # What a city is lies in its kernel's process: another kernel brings up its own.
        return _revive_city, (self._asked, self._panel.display_id if self._panel is not None else "")

    @property
    def is_up(self) -> bool:
        """Does this attempt still hold the run?"""
        return self.session.sidecar.look(now=True).state == "held"

    def _revive(self) -> None:
        """The agent died while this attempt lives: start another one for it."""
        self.session.sidecar.note("sidecar-died", message="the agent died; a new one goes on")
        sidecar.spawn(sidecar.respawn(self._config))

    def loop(
        self,
        items: Iterable[T],
        state: object,
        *,
        every: Every = None,
        name: str | None = None,
        lazy: bool | None = None,
    ) -> Iterator[T]:
        """Iterate over ``items``, and go on where a dead host stopped.

        Args:
            items: a sequence resumes by index; any other iterable must be deterministic, and its finished items
                are consumed again without running the body.
            state: what one iteration hands to the next: a dict of arrays, modules, optimizers, estimators or
                plain objects, or one such object. It is restored in place before the first item comes.
                ``None`` declares that nothing carries over. Your own random generators belong in it; the global
                ones of Python, numpy and torch are saved anyway.
            every: iterations (a whole number), a time ("60s", a timedelta), ``every_steps``, ``every_time`` or
                ``on_best``, joined by ``|`` and ``&``. By default saving takes under 1% of the loop's time, and less
                if the run seldom dies (kernel/save_policy.py). Where the host's session is about to end, every boundary
                is saved.
            name: the loop's key; by default its cell and place in it.
            lazy: by default what a torch optimizer in the state steps over is copied while the next iteration has
                begun, and the step waits for it: until then weights may be read, not written by other means. False
                copies everything at the boundary. True copies everything later: call ``city.wait()`` before you
                change anything.
        Raises:
            StateRefused: a variable cannot be saved; the message names it and says why.
            LeaseLost, RunStopped: at a boundary, never inside an iteration.
        Does not: undo what the unfinished iteration did outside ``state``.
        """
        from qcity_nb.kernel import loop

        return loop.begin(self.session, items, state, every, name, lazy)

    def wait(self) -> None:
        """Wait until the state of the last boundary is copied and may be changed by any means (``lazy=True``)."""
        self.session.engine.wait_copied()

    def log(self, *, step: int | None = None, **metrics: float) -> None:
        """Log metrics: one row each, which reaches the tracker exactly once, after the checkpoint that covers it.

        Args:
            step: by default the innermost loop's 0-based count over the whole run; 0 outside loops.
        """
        self.session.log(metrics, step)

    def checkpoint(self, *, name: str = "") -> int:
        """Save and publish now; inside a loop at its next boundary. Returns the newest checkpoint's number.

        Args:
            name: it is called so, and stays in the store for ever. A loop then waits, at that boundary, until the
                store has it, a minute at most. Code that runs again after a death gives the name again: the newest
                checkpoint of a name is the one that counts.
        Raises:
            UsageError: no name that can be shown, another one is waiting for the same boundary, or the run has as
                many names as its head has room for (about 200).
        """
        self.session.sidecar.check()
        if name:
            self._label(name)
        if self.session.open:
            self.session.force = True
            return self.session.seq
        if sys.exc_info()[0] is None or not self.session.has_left:
            self.session.save("asked for", strict=True)  # else: an exception left the loop, and may yet end the cell
        return int(self.session.sidecar.ask("flush", wait_s=60)["seq"])

    def _label(self, name: str) -> None:
        from qcity_nb.checkpoint.retention import check_name

        session = self.session
        check_name(name)
        if session.label and session.label != name:
            raise UsageError(f"checkpoint(name={name!r}): the next boundary's is called {session.label!r} already")
        if session.sidecar.look(now=True).names_left == 0:
            raise UsageError(
                f"checkpoint(name={name!r}): this run has as many named checkpoints as its head has room for; "
                "leave out the name"
            )
        session.label = name

    def restore(self, state: object = None, *, name: str | None = None) -> Any:
        """Fill ``state`` in place from the newest checkpoint of a loop; without ``state``, return a fresh object.

        Args:
            name: the loop's name or key; may be left out if there is one loop.
        Raises:
            UsageError: no checkpoint yet, or no such loop; the message lists what there is.
        """
        from qcity_nb.checkpoint.state.capture import load, restore

        loops = [one for one in self.session.loops.values() if one.saved_state is not None]
        found = [one for one in loops if name is None or name == one.key]
        found = found or [one for one in loops if name == one.name]
        if len(found) != 1:
            names = ", ".join(sorted(one.key for one in loops)) or "none yet"
            raise UsageError(f"restore(name={name!r}): name one of the loops with a checkpoint: {names}")
        captured, _ = self.session.read_loop_state(found[0])
        assert captured is not None
        if state is None:
            return load(captured)
        restore(state, captured)
        return state

    def finish(self) -> None:
        """By hand: end the run as succeeded; everything is published, drained and closed.

        Under `qcity run` the engine ends the run, and this does nothing.
        """
        if self.settings.mailbox:
            return
        self.session.commit("finish")
        self.session.sidecar.ask("end", wait_s=90, state="succeeded")
        self._finish_saves()

    def hand_over(self) -> None:
        """Publish everything and let go, so that a keeper elsewhere goes on with the run."""
        self.session.commit("hand over")
        self.session.sidecar.ask("release", wait_s=90, hand_over=True)
        self._finish_saves()

    def _finish_saves(self) -> None:
        """Let the agent say its last word, so that what is shown, and a next `up()`, find the attempt ended."""
        until = time.monotonic() + 5
        while self.is_up and time.monotonic() < until:
            time.sleep(0.005)
        self.refresh()
        if self._panel is not None:
            self._panel.close()  # the buttons would ask an agent that is gone
        if self._process is not None:
            self._process.wait(timeout=30)
        self.session.engine.close()  # its arena is as large as the state

    @property
    def data(self) -> Data:
        """DVC-tracked data of the project: ``city.data["data/digits.csv"]`` is a verified local path."""
        if self._data is None:
            from qcity_nb.data import Data

            self._data = Data(self.settings.project.root)
        return self._data

    def secret(self, name: str) -> str:
        """A secret by name, from the environment, Colab's or Kaggle's store. It is never logged or saved.

        Raises:
            UsageError: nobody has it; the message says where to put it on this host.
        """
        from qcity_nb.hosts.secret import find

        return find(name, self.host)

    def panel(self) -> None:
        """Show the run's panel below this cell; it updates by itself and stays in the saved notebook."""
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
