"""Fixtures for all tests: a real MLflow server, MLflow databases that cost no migrations, and the Hub emulator."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# Read by the Hub's client when it is imported: tests with Xet start processes of their own. Nobody's own token or
# cache is touched.
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_TOKEN"] = "any-token"
os.environ["HF_HOME"] = str(Path(tempfile.gettempdir()) / f"qcity-tests-{getpass.getuser()}-hf")

if TYPE_CHECKING:
    from hub_world import HubWorld

    from qcity_nb.testing.emulators.hub.server import HubServer


@pytest.fixture(autouse=True, scope="module")
def _calls_that_were_given_up() -> Iterator[None]:
    """They would strike the next module's connections."""
    from given_up import join_given_up

    yield
    join_given_up()


HERE = Path(__file__).parent
START_S = 110.0

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As a shell leaves it to what it starts in the background; tests of Ctrl-C, and what they start, need it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _test_run() -> tuple[Path, int]:
    """One directory and one process for a test run, whatever the number of its xdist workers."""
    pid = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    return Path(tempfile.gettempdir()) / f"qcity-tests-{getpass.getuser()}-{pid}", pid


def _start_server() -> Path:
    """Start the server unless this test run has done so; does not wait for it."""
    folder, pid = _test_run()
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return folder
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])}
    subprocess.run([sys.executable, str(HERE / "mlflow_server.py"), str(folder), str(pid)], env=env, check=True)
    return folder


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the nightly tests out, unless ``-m`` speaks of them or a test was named by its id, as a replay does."""
    if "nightly" in config.option.markexpr:
        return
    named = tuple(arg.partition("::")[2] for arg in config.args if "::" in arg)
    left, kept = list[pytest.Item](), list[pytest.Item]()
    for item in items:
        name = item.nodeid.partition("::")[2]
        is_named = any(name == each or name.startswith((f"{each}[", f"{each}::")) for each in named)
        (left if item.get_closest_marker("nightly") and not is_named else kept).append(item)
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = kept


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start the server early where a test will ask for it: it takes its time."""
    if session.config.option.collectonly:
        return
    if any("mlflow_uri" in getattr(item, "fixturenames", ()) for item in session.items):
        _start_server()


@pytest.fixture(scope="session")
def mlflow_uri() -> str:
    """The address of a real ``mlflow server``; one for the whole test run, which it outlives by a moment."""
    folder = _start_server()
    deadline = time.monotonic() + START_S
    while not (folder / "uri").exists():
        if (folder / "failed").exists() or time.monotonic() > deadline:
            log = (folder / "log").read_text() if (folder / "log").exists() else ""
            pytest.fail(f"mlflow server did not start: {log[-2000:]}")
        time.sleep(0.1)
    return (folder / "uri").read_text()


@pytest.fixture(scope="session")
def mlflow_folder(mlflow_uri: str) -> Path:
    """Where that server keeps its things: ``server.db`` is its database."""
    return _test_run()[0]


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database, migrated; copy it, do not open it."""
    from qcity_nb.tracking.database import prepare

    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    path = shared / "mlflow-template.db"
    prepare(path)  # any number of processes at once
    return path


@pytest.fixture
def mlflow_database(mlflow_template: Path, tmp_path: Path) -> Callable[..., str]:
    """``mlflow_database(path)`` makes an empty MLflow database in no time; returns its address."""

    def make(path: Path | None = None) -> str:
        path = path or tmp_path / "mlflow.db"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(mlflow_template, path)
        return f"sqlite:///{path}"

    return make


@pytest.fixture(scope="session")
def hub_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """The Hub emulator, one for each worker. The client in this process uses plain LFS, as if it had no hf_xet."""
    from huggingface_hub import constants

    from qcity_nb.testing.emulators.hub.server import HubServer

    with pytest.MonkeyPatch.context() as patch, HubServer(tmp_path_factory.mktemp("hub")) as server:
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield server


@pytest.fixture
def hub(hub_server: HubServer) -> Iterator[HubWorld]:
    """A private repository of its own on that server; faults and options are put back afterwards."""
    from hub_world import HubWorld, client, copied, restore

    saved = copied(hub_server.hub.options)
    api = client(hub_server)
    repo = api.create_repo(f"r{uuid.uuid4().hex[:12]}", private=True).repo_id
    yield HubWorld(hub_server, api, repo)
    hub_server.faults.reset()
    restore(hub_server.hub.options, saved)
