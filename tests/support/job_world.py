"""What tests of the Hub emulator's jobs share: a server, the real client, and waits that end."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi, JobInfo

from qcity_nb.testing.emulators.hub.server import HubServer

T = TypeVar("T")

USER = "user"
WAIT_S = 60.0


@contextmanager
def emulator(folder: Path, **options: Any) -> Iterator[tuple[HubServer, HfApi]]:
    """A server in ``folder`` that ends its jobs, and a client of it."""
    with HubServer(folder, **{"end_jobs": True, **options}) as server:
        yield server, HfApi(endpoint=server.url, token="hf_any")


def wait_for(look: Callable[[], T], *, what: str) -> T:
    """What ``look`` returns once that is true."""
    until = time.monotonic() + WAIT_S
    while not (result := look()):
        assert time.monotonic() < until, f"waited {WAIT_S:.0f} s for {what}"
        time.sleep(0.01)
    return result


def start(api: HfApi, *command: str, **more: Any) -> JobInfo:
    """Run a job."""
    return api.run_job(image="python:3.12", command=list(command), **more)


def shell(api: HfApi, script: str, **more: Any) -> JobInfo:
    """Run a job that is a shell's script."""
    return start(api, "sh", "-c", script, **more)


def over(api: HfApi, job: JobInfo | str) -> JobInfo:
    """The job once it is over."""
    job_id = job if isinstance(job, str) else job.id
    return api.wait_for_job(job_id, poll_interval=0.02, timeout=WAIT_S)


def log_of(api: HfApi, job: JobInfo | str) -> list[str]:
    """The whole log of a job, once it is over, without the line that says what the emulator does."""
    job_id = job if isinstance(job, str) else job.id
    lines = list(api.fetch_job_logs(job_id=job_id, follow=True))
    return [line for line in lines if "emulator]" not in line]


def raw(api: HfApi, path: str) -> Any:
    """An answer of the API as it came."""
    request = urllib.request.Request(f"{api.endpoint}{path}", headers={"Authorization": f"Bearer {api.token}"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
        return json.load(answer)
