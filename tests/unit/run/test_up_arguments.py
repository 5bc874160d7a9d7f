"""The arguments of a second `up()`: values count, not spellings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qcity_nb import settings
from qcity_nb.errors import UsageError
from qcity_nb.run.up_arguments import UpArguments, check_same, find_ignored


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("QCITY_TTL", "QCITY_HEARTBEAT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


def asked(**arguments: Any) -> UpArguments:
    own = {name: arguments.pop(name) for name in ("run", "name", "params", "path") if name in arguments}
    return UpArguments(**own, settings=arguments)


def check(tmp_path: Path, first: UpArguments, second: UpArguments) -> None:
    held = settings.load(tmp_path, dict(first.settings))
    check_same(second, first, held, run="r-1")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"run": "a"}, {}),
        ({"run": "a"}, {"run": "a"}),
        ({"run": "a", "name": "n"}, {"run": "a"}),
        ({"run": "a", "params": {"x": 1, "y": 2}}, {"params": {"y": 2, "x": 1}}),
        ({"run": "a"}, {"params": {}}),
        ({"run": "a", "heartbeat": 2}, {"heartbeat": "2s"}),
        ({"run": "a", "heartbeat": 3}, {"heartbeat_s": 3.0}),
        ({"run": "a"}, {"heartbeat": "2s"}),  # the default, spelled out
        ({"run": "a", "store": "here"}, {"store": "./here/"}),
        ({"run": "a", "tracking": "none"}, {"tracking": "NONE"}),
        ({"run": "a", "tracking": "http://x:5000"}, {"tracking": "http://x:5000/"}),
        ({"run": "a", "ttl": 90, "heartbeat": 30}, {"heartbeat": 30}),  # alone it would not fit the default ttl
        ({"run": "a", "hosts": "local,colab"}, {"hosts": ["local", "colab"]}),
        ({"run": "a", "path": "/n.ipynb"}, {"path": "/n.ipynb"}),
        ({"run": "a"}, {"store": None, "tracking": None}),
    ],
)
def test_the_same_arguments_or_some_of_them_pass(tmp_path: Path, first: dict[str, Any], second: dict[str, Any]) -> None:
    check(tmp_path, asked(**first), asked(**second))


def test_a_relative_store_is_the_absolute_one(tmp_path: Path) -> None:
    check(tmp_path, asked(store="here"), asked(store=str(tmp_path / "here")))
    check(tmp_path, asked(store=str(tmp_path / "here")), asked(store="here"))
    check(tmp_path, asked(), asked(store=".qcity/store"))


@pytest.mark.parametrize(
    ("second", "shown"),
    [
        ({"run": "b"}, "run='b'"),
        ({"name": "n"}, "name='n'"),
        ({"params": {"x": 1.0}}, "params={'x': 1.0}"),
        ({"params": {"x": True}}, "params={'x': True}"),
        ({"params": {}}, "params={}"),
        ({"params": {"x": object}}, "params="),
        ({"store": "there"}, "store='there'"),
        ({"tracking": "none"}, "tracking='none'"),
        ({"heartbeat": "1s"}, "heartbeat='1s'"),
        ({"local_dir": "/tmp/x"}, "local_dir="),
        ({"strict_environment": True}, "strict_environment=True"),
        ({"path": "/other.ipynb"}, "/other.ipynb"),
    ],
)
def test_another_value_is_an_error_that_says_what_to_do(tmp_path: Path, second: dict[str, Any], shown: str) -> None:
    with pytest.raises(UsageError) as error:
        check(tmp_path, asked(run="a", params={"x": 1}, path="/n.ipynb"), asked(**second))
    assert shown in str(error.value)
    assert "run 'r-1' is open" in str(error.value)
    assert "city.finish()" in str(error.value)
    assert "fresh=True" in str(error.value)


@pytest.mark.parametrize("value", [None, 1])
def test_an_unknown_setting_is_an_error_even_then(tmp_path: Path, value: object) -> None:
    with pytest.raises(UsageError, match="no setting is named 'hartbeat'"):
        check(tmp_path, asked(run="a"), asked(hartbeat=value))


def test_under_the_engine_each_setting_that_cannot_hold_is_named(tmp_path: Path) -> None:
    attempt = settings.load(tmp_path, {"store": "engines", "heartbeat": 3})
    assert not find_ignored(asked(run="b", name="n", params={"x": 1}), attempt)
    assert not find_ignored(asked(store="engines", heartbeat="3s", session_limit=60, strict_environment=True), attempt)
    store, heartbeat = find_ignored(asked(store="mine", heartbeat=1), attempt)
    assert "up(store='mine') has no effect" in store
    assert str(tmp_path / "engines") in store
    assert heartbeat.endswith("heartbeat = 3")


def test_what_comes_back_with_the_variables_leaves_the_place_of_the_run_out() -> None:
    first = asked(run="a", name="n", params={"x": 1}, store="here", tracking="none", heartbeat=3)
    back = UpArguments.of(first.elsewhere())
    assert back == UpArguments(name="n", params={"x": 1}, settings={"heartbeat_s": 3})
