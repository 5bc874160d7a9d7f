"""What tests of the host ``hf-jobs`` share: the emulator, settings whose jobs it runs, specs, and a run to work on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from given_up import join_given_up
from huggingface_hub import HfApi
from job_world import emulator, log_of, over

import qcity_nb
from qcity_nb import settings
from qcity_nb.hosts.hf_jobs.launcher import HfJobsLauncher
from qcity_nb.ports import Observation, Store
from qcity_nb.records import AttemptSpec, Head, PendingLaunch
from qcity_nb.run import lease
from qcity_nb.settings import Settings
from qcity_nb.stores import open_store
from qcity_nb.testing.emulators.hub.server import HubServer

TOKEN = "hf_a_token_that_nobody_may_see"
RUN = "train-abc123-1"
HERE = str(Path(qcity_nb.__file__).parents[1])
"""Where this very copy of the package lies: a job has an environment of its own."""


@dataclass
class JobsWorld:
    """One emulator, and a project whose runs go there."""

    server: HubServer
    api: HfApi
    root: Path
    given: Settings
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def store(self) -> Store:
        return open_store(self.given.store)

    def settings(self, **more: object) -> Settings:
        return settings.load(self.root, {**self.more, **more})

    def launcher(self, flavor: str = "", **more: Any) -> HfJobsLauncher:
        return HfJobsLauncher(self.given, flavor, **more)

    def spec(self, attempt: str = f"{RUN}-1", **more: Any) -> AttemptSpec:
        fields = {"run": RUN, "host": "hf-jobs", "store": self.given.store, **more}
        return AttemptSpec(attempt=attempt, **fields)

    def begin(self, attempt: str = f"{RUN}-1", files: Mapping[str, bytes] | None = None, **more: Any) -> Head:
        """A run, about to be launched as ``attempt``."""
        head = Head(run=RUN, key="k", project=self.given.project.name, notebook="train.ipynb", **more)
        pending_launch = PendingLaunch(attempt=attempt, host="hf-jobs", keeper="test", declared_dead=head.seen)
        return lease.create(self.store, replace(head, pending_launch=pending_launch), files=files)

    def job(self, attempt: str = f"{RUN}-1") -> Any:
        [job] = self.api.list_jobs(namespace="user", labels={"qcity-attempt": attempt})
        return job

    def ended(self, launcher: HfJobsLauncher, attempt: str = f"{RUN}-1") -> Observation:
        """What a launcher says of the attempt once its job is over."""
        over(self.api, self.job(attempt).id)
        seen = launcher.find(attempt)
        assert seen is not None
        return seen

    def log(self, attempt: str = f"{RUN}-1") -> str:
        return "\n".join(log_of(self.api, self.job(attempt).id))


@contextmanager
def jobs_world(folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Iterator[JobsWorld]:
    """The world, with this process logged in at the emulator."""
    with emulator(folder / "hub", **options) as (server, _):
        for name in [name for name in os.environ if name.startswith(("QCITY_", "MLFLOW_"))]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("PYTHONPATH", HERE)
        root = folder / "project"
        root.mkdir(exist_ok=True)
        (root / "pyproject.toml").write_text('[tool.qcity]\nproject = "digits"\n')
        # May be called often: an answer is kept for one heartbeat at most.
        more = {"job_install": "", "job_secrets": ["PYTHONPATH"], "heartbeat": "0.001s", "ttl": "10s"}
        world = JobsWorld(server, HfApi(endpoint=server.url, token=TOKEN), root, settings.load(root, more), more)
        yield world
        server.faults.clear()
        join_given_up()
