"""What tests of the Hub emulator share: a client in this process, clients in others, and plain HTTP."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import HfApi

from qcity_nb.testing.emulators.hub.emulator import Options
from qcity_nb.testing.emulators.hub.faults import Faults
from qcity_nb.testing.emulators.hub.server import HubServer


@dataclass(slots=True)
class Reply:
    """An HTTP answer, header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    url: str, method: str = "GET", *, token: str | None = "any", body: bytes | None = None, **headers: str
) -> Reply:
    """One request on a connection of its own; redirects are not followed. ``_`` in header names is ``-``."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if token is not None:
        sent["Authorization"] = f"Bearer {token}"
    try:
        connection.request(method, parts.path + (f"?{parts.query}" if parts.query else ""), body, sent)
        response = connection.getresponse()
        data = response.read()
        return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, data)
    finally:
        connection.close()


def client(server: HubServer, token: str | bool = "any") -> HfApi:
    """The real client, in this process; it uses plain LFS where ``hub`` or ``hub_server`` is in use."""
    return HfApi(endpoint=server.url, token=token)


def environment(server: HubServer, home: Path, *, xet: bool, token: str = "any") -> dict[str, str]:
    """What a client in a process of its own needs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    return {
        **kept,
        "HF_ENDPOINT": server.url,
        "HF_TOKEN": token,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "0" if xet else "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_XET_TELEMETRY_ENABLED": "0",
    }


def run_client(server: HubServer, home: Path, code: str, *, xet: bool, **more: str) -> str:
    """Run ``code`` with the real client in a process of its own; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment(server, home, xet=xet), **more},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@dataclass(slots=True)
class HubWorld:
    """A repository of its own on the shared server."""

    server: HubServer
    api: HfApi
    repo: str

    @property
    def faults(self) -> Faults:
        return self.server.faults

    @property
    def options(self) -> Options:
        return self.server.hub.options

    def url(self, path: str, **query: str) -> str:
        """An address of the server; ``path`` is quoted already."""
        words = "&".join(f"{name}={value}" for name, value in query.items())
        return f"{self.server.url}{path}" + (f"?{words}" if words else "")

    def api_url(self, path: str, **query: str) -> str:
        """An address below the repository's API."""
        return self.url(f"/api/models/{self.repo}{path}", **query)

    def head(self, branch: str = "main") -> str:
        """The branch's commit, read past the emulator's answers."""
        from qcity_nb.testing.emulators.hub import repos, revisions

        namespace, _, name = self.repo.partition("/")
        with self.server.hub.db.read() as db:
            repo = repos.load_repo(db, "model", namespace, name)
            assert repo is not None
            oid = revisions.head(db, repo.id, branch)
        assert oid is not None
        return oid


def copied(options: Options) -> Options:
    return replace(options, rate_limits=dict(options.rate_limits))


def restore(options: Options, saved: Options) -> None:
    for name in Options.__slots__:
        setattr(options, name, getattr(saved, name))


def text_of(headers: Mapping[str, str], name: str) -> str:
    """A header that must be there."""
    return headers[name.lower()]
