"""A variable that holds a secret is not saved, however it holds it; what holds none is not looked at twice."""

from __future__ import annotations

import collections
import os
import re
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import requests
from cells_world import Kernel

from qcity_nb import secrets
from qcity_nb.checkpoint.state.capture import capture
from qcity_nb.errors import StateRefused
from qcity_nb.hosts import detect, secret
from qcity_nb.namespace.snapshot import NamespaceSnapshotter
from qcity_nb.secrets import SecretSearch

SECRET = "correct/horse battery+staple"
OTHER = "a second one: Zw7K"


@dataclass
class Client:
    """A client of a service, as users write them."""

    token: str
    calls: int = 0


class Slotted:
    """An object without a ``__dict__``."""

    __slots__ = ("key",)

    def __init__(self, key: str) -> None:
        self.key = key


def session() -> requests.Session:
    made = requests.Session()
    made.headers["Authorization"] = f"Bearer {SECRET}"
    return made


def basic_session() -> requests.Session:
    made = requests.Session()
    made.headers["Authorization"] = "Basic " + __import__("base64").b64encode(f"me:{SECRET}".encode()).decode()
    return made


def asks() -> Callable[[], str]:
    kept = SECRET
    return lambda: kept


HOLDERS: dict[str, Callable[[], Any]] = {
    "a text": lambda: SECRET,
    "bytes": SECRET.encode,
    "the environment": lambda: os.environ,
    "a copy of the environment": lambda: dict(os.environ),
    "a nested dict": lambda: {"a": [{"b": (1, {"c": SECRET})}]},
    "part of a longer text": lambda: f"https://me:{SECRET}@example.org/x",
    "percent-encoded": lambda: f"https://me:{quote(SECRET, safe='')}@example.org/x",
    "an object": lambda: Client(SECRET),
    "an object with slots": lambda: Slotted(SECRET),
    "a client's headers": session,
    "basic authentication": basic_session,
    "a function's own variable": asks,
    "a function's default": lambda: types.FunctionType(compile("0", "", "eval"), {}, "f", (SECRET,)),
    "a key": lambda: {SECRET: 1},
    "a deque": lambda: collections.deque([SECRET]),
    "a namespace": lambda: types.SimpleNamespace(inner=types.SimpleNamespace(key=SECRET)),
    "an array of objects": lambda: np.array([SECRET, 1], dtype=object),
    "a pattern": lambda: re.compile(re.escape(SECRET) + "|" + SECRET),
    "a command": lambda: ["curl", "-H", f"Authorization: Bearer {SECRET}"],
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SERVICE_TOKEN", SECRET)
    monkeypatch.setenv("GREETING", "good morning, everybody")
    monkeypatch.setattr(secrets, "_asked", {})


def stored(kernel: Kernel) -> bytes:
    return b"".join(path.read_bytes() for path in kernel.tier.path.rglob("*") if path.is_file())


@pytest.mark.parametrize("way", HOLDERS)
def test_a_variable_that_holds_one_is_not_saved(tmp_path: Path, way: str) -> None:
    kernel = Kernel(tmp_path)
    kernel.live.update(held=HOLDERS[way](), fine=["good morning, everybody"])
    kernel.cell()
    namespace = kernel.cells.records[0].namespace
    assert namespace is not None
    assert [entry["name"] for entry in namespace.not_saved] == ["held"]
    entry = namespace.not_saved[0]
    assert "it holds the secret MY_SERVICE_TOKEN" in entry["why"]
    assert SECRET not in str(entry)
    assert not SecretSearch({SECRET: "it"}).name_in(stored(kernel))
    restored, _ = kernel.again(1)
    assert restored["fine"] == ["good morning, everybody"]


@pytest.mark.parametrize("way", [way for way in HOLDERS if way not in ("the environment", "a function's default")])
def test_a_state_that_holds_one_is_refused(way: str) -> None:
    with pytest.raises(StateRefused, match=r"it holds the secret MY_SERVICE_TOKEN") as refused:
        capture({"w": [1.0], "held": HOLDERS[way]()})
    assert str(refused.value).startswith("state['held']")
    assert SECRET not in str(refused.value)


def test_one_that_was_asked_for_is_a_secret_from_then_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secret, "_ask", lambda name, host: OTHER)
    kernel = Kernel(tmp_path)
    kernel.live["text"] = f"it is {OTHER}"
    kernel.cell()
    assert kernel.cells.records[0].namespace.not_saved == ()  # type: ignore[union-attr]
    kernel.live["token"] = secret.find("FROM_COLAB", detect.detect())
    kernel.cell()
    names = {entry["name"] for entry in kernel.cells.records[1].namespace.not_saved}  # type: ignore[union-attr]
    assert names == {"text", "token"}


def test_what_did_not_change_is_searched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[int] = []
    real = SecretSearch.name_in

    def counted(self: SecretSearch, data: bytes) -> str:
        searched.append(len(data))
        return real(self, data)

    monkeypatch.setattr(SecretSearch, "name_in", counted)
    live: dict[str, Any] = {"large": ["text" * 100] * 100, "small": 1}
    snapshotter = NamespaceSnapshotter(live)
    snapshotter.capture()
    assert len(searched) == 2
    live["small"] = 2
    snapshotter.capture()
    assert len(searched) == 3
    monkeypatch.setenv("ANOTHER_API_KEY", OTHER)
    snapshotter.capture()
    assert len(searched) == 5, "there is one more to search for"


@pytest.mark.parametrize(
    ("name", "value", "is_one"),
    [
        ("HF_TOKEN", "hf_abcdefgh1234", True),
        ("WANDB_API_KEY", "0123456789ab", True),
        ("DB_PASSWORD", "twelve chars", True),
        ("DB_PASSWORD", "eleven char", False),
        ("TOKENIZERS_PARALLELISM", "falsefalsefalse", False),
        ("HF_TOKEN_PATH", "/root/.cache/huggingface/token", False),
        ("SSH_AUTH_SOCK", "/tmp/ssh-XXXX/agent.1", False),
        ("OAUTH_TOKEN_URL", "https://example.org/token", False),
        ("PATH", "/usr/bin:/bin:/usr/local/bin", False),
        ("PIP_CERT", "/etc/ssl/certs/ca-certificates.crt", False),
        ("AWS_SECRET_ACCESS_KEY", "/wJalrXUtnFEMI/K7MDENG+bPxRfiCYz0123456", True),
        ("SLACK_WEBHOOK", "https://hooks.slack.com/services/T0/B0/x", True),
    ],
)
def test_what_counts_as_a_secret(name: str, value: str, is_one: bool) -> None:
    assert secrets.secret_values({name: value}) == ({value: name} if is_one else {})


@pytest.mark.parametrize("seed", range(3))
def test_basic_authentication_is_found_wherever_it_begins(seed: int) -> None:
    import base64
    import random

    rng = random.Random(seed)
    for _ in range(300):
        value = "".join(rng.choices("abcXYZ019:/+ü", k=rng.randrange(12, 40)))
        text = "".join(rng.choices("abc", k=rng.randrange(9))) + ":" + value + rng.choice(["", "x", "yz"])
        header = b"Basic " + base64.b64encode(text.encode())
        assert SecretSearch({value: "it"}).name_in(header) == "it"
        assert SecretSearch({"another value": "it"}).name_in(header) == ""
