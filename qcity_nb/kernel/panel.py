"""The panel in the notebook: shown once, updated in place, saved with the notebook as plain HTML."""

from __future__ import annotations

import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from qcity_nb.kernel.output_recorder import PANEL_MIME, WIDGET_MIME
from qcity_nb.views import run_view as views
from qcity_nb.views.run_view import PanelView

__all__ = ["Panel", "Publish", "is_panel"]


class Publish(Protocol):
    """Shows a MIME bundle; with ``update`` it replaces what was shown under the same display id."""

    def __call__(self, data: Mapping[str, Any], *, display_id: str, update: bool) -> None:
        """Send the bundle; an error means that the front end is gone."""


def is_panel(output: Mapping[str, Any]) -> bool:
    """Whether an output of a notebook (nbformat) is one of our displays."""
    return PANEL_MIME in output.get("data", {})


class Panel:
    """A run's panel.

    In a Jupyter kernel the first ``update`` shows it in the running cell, and later ones change it there. Elsewhere
    (plain Python, IPython in a terminal) nothing is shown automatically; ``str(panel)`` is its text.

    Args:
        run: the run's id.
        actions: buttons by label (``{"Stop": …}``). They are shown only if ipywidgets is installed and a person is at
            the front end, never in a headless run. A kernel older than ipykernel 7 calls them between cells, because
            it reads no messages while a cell runs.
        interval_s: at most one update in this many seconds.
        display_id: of a panel that another kernel showed, to update it in place; by default a new one is shown.
        publish: shows bundles; by default the Jupyter kernel's publisher, if there is one.
        now_s: a monotonic clock.

    Does not: raise when the front end is gone, since the panel must not end a training. Calls from other threads are
    safe, but an executing client such as nbclient records updates only from the thread that runs the cell.
    """

    def __init__(
        self,
        run: str,
        *,
        actions: Mapping[str, Callable[[], None]] | None = None,
        interval_s: float = 1.0,
        display_id: str = "",
        publish: Publish | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._actions = dict(actions or {})
        self._interval_s = interval_s
        self._publish = publish or _kernel_publish()
        self._now_s = now_s
        self.display_id = display_id or f"qcity-{uuid.uuid4().hex}"
        self._is_new = not display_id
        self._lock = threading.RLock()
        self._view: PanelView | None = None
        self._shown: PanelView | None = None
        self._shown_s = 0.0
        self._buttons: Any = None

    def update(self, view: PanelView) -> bool:
        """Show this view, unless one was shown less than ``interval_s`` ago.

        Returns: whether it was shown. If not, ``flush`` shows it, unless a newer view comes first.
        """
        with self._lock:
            self._view = view
            if self._shown is not None and self._now_s() - self._shown_s < self._interval_s:
                return False
            return self._show()

    def flush(self) -> bool:
        """Show the newest view now, if it is not shown already."""
        with self._lock:
            return self._view is not None and self._view is not self._shown and self._show()

    def close(self) -> None:
        """Show the newest view for the last time, and remove the buttons."""
        with self._lock:
            self.flush()
            box, self._buttons = self._buttons, None
            if box is not None:
                self._send(self._bundle(html="", plain=""), display_id=f"{self.display_id}-buttons", update=True)
                box.close()

    def __str__(self) -> str:
        return f"qcity {self._run}" if self._view is None else views.text(self._view)

    def __repr__(self) -> str:
        return str(self)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        """What a front end shows if a panel is the cell's result."""
        return self._bundle(html="" if self._view is None else views.panel_html(self._view), plain=str(self))

    def _bundle(self, *, html: str, plain: str) -> dict[str, Any]:
        return {"text/html": html, "text/plain": plain, PANEL_MIME: {"run": self._run}}

    def _show(self) -> bool:
        assert self._view is not None
        first, self._is_new = self._is_new, False
        self._shown, self._shown_s = self._view, self._now_s()
        sent = self._send(self._repr_mimebundle_(), display_id=self.display_id, update=not first)
        if sent and first and self._actions and _has_user():
            self._show_buttons()
        return sent

    def _send(self, data: Mapping[str, Any], *, display_id: str, update: bool) -> bool:
        if self._publish is None:
            return False
        try:
            self._publish(data, display_id=display_id, update=update)
        except Exception:  # noqa: BLE001  # a closed socket or a broken hook of the user's must not end a training
            return False
        return True

    def _show_buttons(self) -> None:
        try:
            import ipywidgets  # type: ignore[import-untyped]  # it publishes no types
        except ImportError:
            return
        buttons = []
        for label, action in self._actions.items():
            button = ipywidgets.Button(description=label, layout=ipywidgets.Layout(width="auto"))
            button.on_click(self._on_click(action))
            buttons.append(button)
        self._buttons = ipywidgets.HBox(buttons)
        model = {"version_major": 2, "version_minor": 0, "model_id": self._buttons.model_id}
        # ipywidgets' own display would leave its repr in the saved notebook.
        bundle = {WIDGET_MIME: model, "text/plain": "", PANEL_MIME: {"run": self._run}}
        self._send(bundle, display_id=f"{self.display_id}-buttons", update=False)

    def _on_click(self, action: Callable[[], None]) -> Callable[[object], None]:
        def call(button: Any) -> None:
            button.disabled = True
            try:
                action()
            finally:
                button.disabled = False

        return call


def _shell() -> Any:
    """The kernel's shell, or ``None``. IPython is not imported for it, only used if it is there."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return shell if getattr(shell, "kernel", None) is not None else None


def _kernel_publish() -> Publish | None:
    shell = _shell()
    if shell is None:
        return None

    def publish(data: Mapping[str, Any], *, display_id: str, update: bool) -> None:
        # The publisher, not IPython.display: its arguments are the same since IPython 7.34.
        shell.display_pub.publish(dict(data), metadata={}, transient={"display_id": display_id}, update=update)

    return publish


def _has_user() -> bool:
    """Whether the client of this cell answers input requests: nbclient, and so papermill, says that it does not.

    A question by message is impossible: the kernel reads no reply while a cell runs.
    """
    kernel = getattr(_shell(), "kernel", None)
    return bool(getattr(kernel, "_allow_stdin", False))
