"""The widgets that finished cells show: their state in the notebook is restored, though their objects are gone.

nbclient collects the state that a kernel's widgets send, and puts it into the notebook's metadata at the end. A new
kernel sends nothing for cells that it skips: without this module their widgets would be empty frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from qcity_nb.kernel.output_recorder import WIDGET_MIME

__all__ = ["put_states", "shows_widgets", "states_in"]

_MODEL = "IPY_MODEL_"


def shows_widgets(outputs: Iterable[Mapping[str, Any]]) -> bool:
    """Do these outputs show widgets, whose look later cells may change?"""
    return any(WIDGET_MIME in output.get("data", {}) for output in outputs)


def states_in(outputs: Iterable[Mapping[str, Any]], client: Any) -> dict[str, Any]:
    """State and buffers, by model id, of the widgets in these outputs and of those inside them.

    Args:
        client: nbclient's, which received them.
    """
    states: dict[str, Any] = {}
    left = [view["model_id"] for output in outputs if (view := output.get("data", {}).get(WIDGET_MIME))]
    while left:
        model = left.pop()
        state = client.widget_state.get(model)
        if model in states or state is None:
            continue
        states[model] = {"state": state, "buffers": list(client.widget_buffers.get(model, {}).values())}
        left += _models(state)
    return states


def _models(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if value.startswith(_MODEL):
            yield value.removeprefix(_MODEL)
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _models(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _models(each)


def put_states(states: Mapping[str, Any], client: Any) -> None:
    """Give the client the states that ``states_in`` collected in an earlier kernel."""
    for model, saved in states.items():
        client.widget_state[model] = saved["state"]
        if saved["buffers"]:
            client.widget_buffers[model] = {tuple(each["path"]): each for each in saved["buffers"]}
