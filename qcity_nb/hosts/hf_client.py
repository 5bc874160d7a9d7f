"""Hugging Face's Jobs service through its own client: plain facts in and out, foreign errors translated.

The only module below ``hosts`` that imports ``huggingface_hub``, and only once something is asked of it. Every answer
is the service's newest; nothing is kept but who the token belongs to.

Source: https://huggingface.co/docs/huggingface_hub/guides/jobs
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from qcity_nb.errors import QcityError, StoreUnavailable, UsageError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["NEEDED", "Flavor", "Job", "JobsClient", "Order", "Schedule", "is_here"]

NEEDED = "1.21.0"
"""The first client whose ``list_jobs`` filters by label; jobs with labels can be made since 1.4.0."""
_ENDPOINT = "https://huggingface.co"
_LIST_S = 30
_PER_HOUR = {"second": 3600, "minute": 60, "hour": 1}
_TRY_AGAIN = (408, 409, 425, 429)
"""The answers under 500 that say nothing about the request itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flavor:
    """One kind of hardware, and what it costs."""

    name: str
    detail: str
    usd_per_hour: float | None
    """``None``: the service counts in a unit that is not known here."""

    @property
    def price(self) -> str:
        """For people."""
        return "unknown price" if self.usd_per_hour is None else f"${self.usd_per_hour:.2f}/h"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to run: a job's, or each job's of a schedule."""

    image: str
    command: Sequence[str]
    flavor: str
    timeout_s: float
    labels: Mapping[str, str]
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as the service shows it."""

    id: str
    stage: str
    """SCHEDULING, RUNNING, COMPLETED, CANCELED, ERROR, DELETED, or one that came later."""
    message: str
    created: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A scheduled job as the service shows it."""

    id: str
    cron: str
    labels: Mapping[str, str]
    command: tuple[str, ...]
    image: str
    flavor: str
    env: Mapping[str, str]
    is_suspended: bool
    next_at: str


def is_here(address: str) -> bool:
    """Does this address mean the very machine that uses it?"""
    host = urlsplit(address).hostname or ""
    with contextlib.suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in re.findall(r"\d+", text.split("+")[0])[:3])


class JobsClient:
    """What this package asks of the Jobs service.

    Args:
        namespace: the user or organization whose jobs these are; empty: the token's owner.

    Every method raises ``UsageError`` for what will not work however often it is tried (no token, no rights, no
    credit, a client that is too old) and ``StoreUnavailable`` where it may (no answer, too many requests).
    """

    def __init__(self, namespace: str = "") -> None:
        self._namespace = namespace

    # --- who asks whom

    @cached_property
    def _api(self) -> HfApi:
        try:
            installed = version("huggingface_hub")
        except PackageNotFoundError:
            installed = "none"
        if _numbers(installed) < _numbers(NEEDED):
            raise UsageError(
                f"hf-jobs needs huggingface_hub {NEEDED} or newer, and {installed} is installed: "
                f'pip install -U "huggingface_hub>={NEEDED}"'
            )
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.endpoint)

    @property
    def endpoint(self) -> str:
        """Where the service is."""
        return (os.environ.get("HF_ENDPOINT") or _ENDPOINT).rstrip("/")

    @property
    def is_default(self) -> bool:
        """Is it Hugging Face's own?"""
        return self.endpoint == _ENDPOINT

    @property
    def token(self) -> str:
        """The token, for a job's secrets; never to be kept or shown."""
        _ = self._api  # too old a client has another way to find it
        from huggingface_hub import get_token

        token = get_token()
        if not token:
            raise UsageError(
                "hf-jobs needs a Hugging Face token with the right to run jobs: `hf auth login`, or HF_TOKEN"
            )
        return token

    @cached_property
    def namespace(self) -> str:
        """Whose jobs these are."""
        if self._namespace:
            return self._namespace
        with self._answers("asking whose token this is"):
            return str(self._api.whoami(token=self.token)["name"])

    @contextlib.contextmanager
    def _answers(self, doing: str) -> Iterator[None]:
        try:
            yield
        except QcityError:
            raise
        # The client raises its transport's errors (httpx before 2.0, httpx2 since), its own, and KeyError and the
        # like where an answer is not as it expects.
        except Exception as error:
            raise self._translated(error, doing) from error

    def _translated(self, error: Exception, doing: str) -> QcityError:
        status = getattr(getattr(error, "response", None), "status_code", None)
        said = str(getattr(error, "server_message", "") or "") or str(error).strip().partition("\n")[0]
        said = said or type(error).__name__
        if not isinstance(status, int) or status >= 500 or status in _TRY_AGAIN:
            return StoreUnavailable(f"{doing}: no usable answer from {self.endpoint}: {said}")
        if status == 402:
            return UsageError(
                f"{doing}: no credit left for jobs of {self._namespace or 'this user'} ({said}); "
                "add some at https://huggingface.co/settings/billing"
            )
        if status == 401:
            return UsageError(f"{doing}: the token is not accepted ({said}): `hf auth login`, or set HF_TOKEN")
        if status == 403:
            return UsageError(f"{doing}: the token lacks the right to do that ({said})")
        return UsageError(f"{doing}: refused ({status}): {said}")

    # --- jobs

    def run(self, order: Order) -> Job:
        """Begin a job. After ``StoreUnavailable`` it may run: look for its labels before trying again."""
        with self._answers("starting a job"):
            # `attempts` is left out: it came with 2.0, and one is the default. Who relaunches is the keeper.
            return _job(self._api.run_job(**self._spelled(order)))

    def _spelled(self, order: Order) -> dict[str, Any]:
        return {
            "image": order.image,
            "command": list(order.command),
            "flavor": order.flavor,
            "timeout": max(1, round(order.timeout_s)),
            "labels": dict(order.labels),
            "env": dict(order.env),
            "secrets": dict(order.secrets),
            "namespace": self.namespace,
            "token": self.token,
        }

    def jobs(self, key: str, value: str) -> list[Job]:
        """The jobs with that label, newest first."""
        with self._answers("listing jobs"):
            listed = self._api.list_jobs(
                labels={key: value}, namespace=self.namespace, token=self.token, timeout=_LIST_S
            )
            # Filtered here too: a service that does not know the filter answers with all jobs.
            found = [job for each in listed if (job := _job(each)).labels.get(key) == value]
        return sorted(found, key=lambda job: job.created, reverse=True)

    def inspect(self, job: str) -> Job | None:
        """The job; ``None``: there is none any more."""
        try:
            with self._answers("asking for a job"):
                return _job(self._api.inspect_job(job_id=job, namespace=self.namespace, token=self.token))
        except UsageError as error:
            if _is_missing(error):
                return None
            raise

    def cancel(self, job: str) -> None:
        """End the job; one that has ended, or is not there, is no error."""
        try:
            with self._answers("cancelling a job"):
                self._api.cancel_job(job_id=job, namespace=self.namespace, token=self.token)
        except UsageError as error:
            if not _is_missing(error):
                raise

    def logs(self, job: str, *, follow: bool) -> Iterator[str]:
        """The lines that the job has written; with ``follow``, until it has ended."""
        with self._answers("reading a job's logs"):
            lines = self._api.fetch_job_logs(job_id=job, namespace=self.namespace, follow=follow, token=self.token)
            for line in lines:
                yield line if line.endswith("\n") else f"{line}\n"

    def hardware(self) -> list[Flavor]:
        """What there is now, cheapest first."""
        with self._answers("asking for hardware and prices"):
            found = [_flavor(each) for each in self._api.list_jobs_hardware(token=self.token)]
        return sorted(found, key=lambda flavor: (flavor.usd_per_hour is None, flavor.usd_per_hour or 0.0, flavor.name))

    # --- scheduled jobs

    def schedules(self, key: str) -> list[Schedule]:
        """The scheduled jobs that have such a label."""
        with self._answers("listing scheduled jobs"):
            # Filtered here: the client passes labels on since 2.0 only.
            found = [
                _schedule(each)
                for each in self._api.list_scheduled_jobs(namespace=self.namespace, token=self.token, timeout=_LIST_S)
            ]
        return [schedule for schedule in found if key in schedule.labels]

    def schedule(self, order: Order, cron: str) -> Schedule:
        """Begin such a job again and again, never two at once. After ``StoreUnavailable`` it may be there."""
        with self._answers("scheduling a job"):
            made = self._api.create_scheduled_job(**self._spelled(order), schedule=cron, concurrency=False)
            return _schedule(made)

    def unschedule(self, schedule: str) -> None:
        """Delete the scheduled job; one that is not there is no error."""
        try:
            with self._answers("deleting a scheduled job"):
                self._api.delete_scheduled_job(scheduled_job_id=schedule, namespace=self.namespace, token=self.token)
        except UsageError as error:
            if not _is_missing(error):
                raise


def _is_missing(error: UsageError) -> bool:
    return getattr(getattr(error.__cause__, "response", None), "status_code", None) == 404


def _text(value: object) -> str:
    """An enumeration's value, a time, or nothing, as text."""
    return "" if value is None else str(getattr(value, "value", value))


def _job(info: Any) -> Job:
    return Job(
        id=info.id,
        stage=_text(info.status.stage),
        message=_text(info.status.message),
        created=_text(info.created_at),
        labels=info.labels or {},
    )


def _flavor(info: Any) -> Flavor:
    factor = _PER_HOUR.get(_text(info.unit_label).removesuffix("s"))
    gpu = info.accelerator
    parts = [info.cpu, info.ram, f"{gpu.quantity} x {gpu.model}, {gpu.vram}" if gpu else ""]
    return Flavor(
        name=info.name,
        detail=", ".join(part for part in parts if part),
        usd_per_hour=info.unit_cost_usd * factor if factor else None,
    )


def _schedule(info: Any) -> Schedule:
    spec = info.job_spec
    return Schedule(
        id=info.id,
        cron=_text(info.schedule),
        labels=spec.labels or {},
        command=tuple(spec.command or ()),
        image=_text(spec.docker_image or spec.space_id),
        flavor=_text(spec.flavor),
        env=spec.environment or {},
        is_suspended=bool(info.suspend),
        next_at=_text(info.status.next_job_run_at if info.status else None),
    )
