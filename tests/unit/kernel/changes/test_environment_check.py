"""Which differences between two environments are named, when, and what a strict run does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from loop_world import World

from qcity_nb.errors import Changed
from qcity_nb.kernel.changes import imported_environment
from qcity_nb.kernel.changes.environment_check import differences, summary
from qcity_nb.kernel.session import Session

BEFORE = {
    "python": "3.11.4",
    "platform": "linux x86_64",
    "qcity_nb": "1.0",
    "packages": {"torch": "2.12.0", "numpy": "2.0", "gone": "1"},
    "files": {"utils.py": "aa", "old.py": "bb"},
}


def test_only_what_both_have_is_compared() -> None:
    now = {**BEFORE, "packages": {"numpy": "2.0", "new": "3"}, "files": {"more.py": "cc", "utils.py": "aa"}}
    assert not differences(BEFORE, now)
    assert not differences({}, BEFORE)
    assert not differences(BEFORE, {})


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        ({"python": "3.12.1"}, "Python 3.11.4 → 3.12.1"),
        ({"platform": "linux aarch64"}, "platform linux x86_64 → linux aarch64"),
        ({"qcity_nb": "2.0"}, "qcity_nb 1.0 → 2.0"),
        ({"packages": {"torch": "2.13.0"}}, "torch 2.12.0 → 2.13.0"),
        ({"files": {"utils.py": "dd"}}, "utils.py was edited"),
    ],
)
def test_a_difference_is_named(change: dict[str, Any], phrase: str) -> None:
    assert list(differences(BEFORE, {**BEFORE, **change}).values()) == [phrase]


def test_a_long_list_is_shortened() -> None:
    text = summary([f"p{n} 1 → 2" for n in range(11)])
    assert text.endswith("p7 1 → 2 and 3 more")
    assert "more" not in summary([f"p{n} 1 → 2" for n in range(8)])


class Environment:
    """An environment as a test wants it, in place of the process's own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.packages = {"torch": "2.12.0"}
        self.files = {"utils.py": "aa"}
        kind = imported_environment.ImportedEnvironment
        monkeypatch.setattr(kind, "refresh", lambda _: None)
        monkeypatch.setattr(
            kind, "record", lambda _: {"python": "3", "packages": dict(self.packages), "files": dict(self.files)}
        )


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Environment:
    return Environment(monkeypatch)


def start(world: World, *, strict: bool = False) -> Session:
    session = world.start()
    session.environment.begin(session, world.path, strict=strict)
    world.cell()
    return session


def changes(session: Session) -> list[str]:
    return [change["text"] for change in session.history.changes if change["kind"] == "environment"]


def test_the_same_environment_says_nothing(tmp_path: Path, environment: Environment) -> None:
    world = World(tmp_path)
    start(world)
    list(world.loop(range(2), {"x": [0]}))
    session = start(world)
    list(world.loop(range(3), {"x": [0]}))
    assert not changes(session)


def test_a_difference_is_said_once_and_the_next_attempt_knows_it(
    tmp_path: Path, environment: Environment, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path)
    start(world)
    list(world.loop(range(2), {"x": [0]}, name="a"))
    environment.packages = {"torch": "2.13.0"}
    session = start(world)
    list(world.loop(range(3), {"x": [0]}, name="b"))
    assert capsys.readouterr().err.count("torch 2.12.0 → 2.13.0") == 1
    assert session.manifest is not None
    assert len(changes(session)) == 1
    assert session.manifest.values["environment"]["packages"] == {"torch": "2.13.0"}
    start(world)
    list(world.loop(range(3), {"x": [0]}, name="c"))
    assert "torch" not in capsys.readouterr().err


def test_what_is_not_imported_yet_stays_recorded_and_is_compared_when_it_is(
    tmp_path: Path, environment: Environment
) -> None:
    world = World(tmp_path)
    start(world)
    list(world.loop(range(2), {"x": [0]}, name="a"))
    environment.packages, environment.files = {}, {}
    session = start(world)
    list(world.loop(range(2), {"x": [0]}, name="b"))
    assert not changes(session)
    session = start(world)
    for n in world.loop(range(4), {"x": [0]}, name="c"):
        if n == 2:
            environment.files = {"utils.py": "edited"}
    assert session.history.changes[-1]["step"] in (2, 3)
    assert changes(session) == ["the environment is not that of the checkpoint: utils.py was edited"]


def test_a_strict_run_refuses_and_the_checkpoint_stays_as_it_was(tmp_path: Path, environment: Environment) -> None:
    world = World(tmp_path)
    start(world)
    list(world.loop(range(2), {"x": [0]}, name="a"))
    environment.files = {"utils.py": "edited"}
    session = start(world, strict=True)
    seq = session.seq
    for _ in range(2):  # it does not get used to it
        with pytest.raises(Changed, match=r"utils\.py was edited.*strict_environment=False"):
            session.environment.check(session)
    with pytest.raises(Changed):
        list(world.loop(range(2), {"x": [0]}, name="b"))
    assert session.seq == seq
    session = start(world)
    assert session.environment.check(session)["files"] == {"utils.py": "edited"}


def test_a_checkpoint_without_a_record_says_nothing(tmp_path: Path, environment: Environment) -> None:
    world = World(tmp_path)
    world.start()
    world.cell()
    list(world.loop(range(2), {"x": [0]}))
    session = start(world, strict=True)
    list(world.loop(range(2), {"x": [0]}))
    assert not changes(session)
