"""The panel in a real kernel: plain HTML that is updated in place; buttons only where one can press them."""

from __future__ import annotations

from typing import Any

import nbclient
import nbformat
import pytest
from jupyter_client.manager import start_new_kernel

from qcity_nb.kernel.output_recorder import PANEL_MIME
from qcity_nb.kernel.panel import is_panel

WIDGET = "application/vnd.jupyter.widget-view+json"

SHOW = """
from qcity_nb.kernel.panel import Panel
from qcity_nb.views.run_view import PanelView
panel = Panel("r", actions={"Stop": lambda: None}, interval_s=0)
for n in range(1, 6):
    panel.update(PanelView(run="r", term=n))
"""


def code(number: int, source: str) -> dict[str, Any]:
    cell = {"cell_type": "code", "id": f"c{number}", "source": source, "execution_count": None}
    return {**cell, "metadata": {}, "outputs": []}


@pytest.mark.kernel
@pytest.mark.each_python
def test_a_headless_run_saves_one_display_of_plain_html_with_the_last_view() -> None:
    cells = [SHOW, 'panel.update(PanelView(run="r", term=77)); panel.close()']
    notebook: Any = nbformat.from_dict(
        {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [code(n, s) for n, s in enumerate(cells)]}
    )
    nbclient.NotebookClient(notebook, kernel_name="python3", timeout=60).execute()
    (output,) = notebook.cells[0].outputs
    assert is_panel(output)
    assert output.data.keys() == {"text/html", "text/plain", PANEL_MIME}
    assert output.data[PANEL_MIME] == {"run": "r"}
    assert "attempt 77" in output.data["text/html"]
    assert "attempt 77" in output.data["text/plain"]
    assert notebook.cells[1].outputs == []


@pytest.mark.kernel
def test_a_front_end_that_answers_gets_buttons_until_the_panel_closes() -> None:
    seen: list[dict[str, Any]] = []
    manager, client = start_new_kernel()
    try:
        for source in (SHOW, "panel.close()"):
            reply = client.execute_interactive(source, allow_stdin=True, output_hook=seen.append, timeout=60)
            assert reply["content"]["status"] == "ok", reply
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    kinds = [message["msg_type"] for message in seen if "display" in message["msg_type"]]
    shown = [message["content"] for message in seen if "display" in message["msg_type"]]
    assert kinds == ["display_data", "display_data", *["update_display_data"] * 5]
    assert all(is_panel(content) for content in shown)
    assert [content["transient"]["display_id"] for content in shown[2:6]] == [shown[0]["transient"]["display_id"]] * 4
    assert WIDGET in shown[1]["data"]
    assert shown[-1]["transient"] == shown[1]["transient"]
    assert shown[-1]["data"]["text/html"] == ""
    assert "comm_close" in [message["msg_type"] for message in seen]
