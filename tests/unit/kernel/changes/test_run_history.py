"""What changed on the way: announced below the cell, in the journal, kept by checkpoints, shown to people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from loop_world import World

from qcity_nb.errors import Changed, RunStopped
from qcity_nb.kernel.changes.run_history import MOST_CHANGES, RunHistory
from qcity_nb.kernel.panel_state import view_of
from qcity_nb.views.curve import loss_svg
from qcity_nb.views.run_view import PanelView, panel_html, text


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.start()
    return world


def events(world: World) -> list[Mapping[str, Any]]:
    file = world.session.sidecar.mailbox.path / "events.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_change_is_announced_and_survives_the_next_death(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.cell()
    for n in world.loop(range(6), {}, 1):
        if n == 2:
            world.session.announce("environment", "torch 2.12 → 2.13")
        if n == 4:
            break
    assert capsys.readouterr().err == "qcity: torch 2.12 → 2.13\n"
    (event,) = [each for each in events(world) if each["kind"] == "changed"]
    assert event["data"] == {"what": "environment", "message": "torch 2.12 → 2.13", "step": 2}
    world.start()
    assert world.session.history.changes == [{"step": 2, "kind": "environment", "text": "torch 2.12 → 2.13", "term": 1}]


def test_the_same_change_is_listed_once_and_old_ones_go_first() -> None:
    history = RunHistory()
    for term in (1, 2):
        history.add_change("notebook", "lr = 0.1 → 0.01", step=7, term=term)
    assert len(history.changes) == 1
    for n in range(MOST_CHANGES + 3):
        history.add_change("items", f"item {n}", step=n, term=3)
    assert [each["text"] for each in history.changes] == [f"item {n}" for n in range(3, MOST_CHANGES + 3)]


def test_by_hand_a_refusal_only_raises(world: World) -> None:
    error = world.session.sidecar.refuse("items", "other items")
    assert isinstance(error, Changed)
    assert isinstance(error, RunStopped)
    assert not world.session.sidecar.mailbox.requests()
    assert events(world)[-1]["kind"] == "refused"


def test_under_the_engine_a_refusal_stops_the_run_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    sidecar = world.session.sidecar
    sidecar.is_unattended = True
    asked: list[tuple[str, Mapping[str, object]]] = []

    def ask(op: str, **data: object) -> str:
        asked.append((op, data))
        world.show(stop=data["reason"])
        return "1"

    monkeypatch.setattr(sidecar.mailbox, "ask", ask)
    assert str(sidecar.refuse("items", "other items")) == "other items"
    assert asked == [("stop", {"reason": "other items", "refused": True})]


CHANGES: Sequence[tuple[int, str]] = ((4, "lr = <b>0.1</b> → 0.01"),)


def test_curve_panel_and_text_show_it() -> None:
    points = [(n, 1.0 / (n + 1)) for n in range(9)]
    drawn = loss_svg(points, (2,), CHANGES)
    assert drawn.count("<line") == 2
    assert "from step 4: lr = &lt;b&gt;0.1&lt;/b&gt; → 0.01" in drawn
    view = PanelView(run="r", state="running", metrics={"loss": points}, changes=tuple(CHANGES))
    assert "from step 4: lr = <b>0.1</b> → 0.01" in text(view)
    assert "<b>0.1</b>" not in panel_html(view)
    assert panel_html(view).count("from step 4") == 2


def test_the_panel_of_a_kernel_has_its_changes(world: World) -> None:
    class Host:
        name, evidence = "here", ""

    world.cell()
    world.session.announce("items", "one more", step=3)
    assert view_of(world.session, Host()).changes == ((3, "one more"),)  # type: ignore[arg-type]
