"""Hugging Face's Jobs service through its own client: plain facts in and out, foreign errors translated.

The only module below ``hosts`` that imports ``huggingface_hub``, and only once something is asked of it. Every answer
is the service's newest; nothing is kept but who the token belongs to.

Source: https://huggingface.co/docs/huggingface_hub/guides/jobs
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from qcity_nb.errors import QcityError, StoreUnavailable, UsageError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["NEEDED", "Flavor", "Job", "JobsClient", "Order", "Schedule", "is_here"]

NEEDED = "1.21.0"
"""The first client whose ``list_jobs`` filters by label; jobs with labels can be made since 1.4.0."""
_ENDPOINT = "https://huggingface.co"
_LIST_S = 30
ANSWER_S = 60.0
"""How long one question may take."""
_PER_HOUR = {"second": 3600, "minute": 60, "hour": 1}
_TRY_AGAIN = (408, 409, 425, 429)
"""The answers under 500 that say nothing about the request itself."""


T = TypeVar("T")


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
        token = self.token
        return self._ask("asking whose token this is", lambda: str(self._api.whoami(token=token)["name"]))

    def _ask(self, doing: str, call: Callable[[], T]) -> T:
        """The client's answer, in bounded time: by itself it waits for ever."""
        box: list[tuple[T | None, Exception | None]] = []

        def run() -> None:
            try:
                box.append((call(), None))
            # The client raises its transport's errors (httpx before 2.0, httpx2 since), its own, and KeyError and
            # the like where an answer is not as it expects.
            except Exception as error:  # noqa: BLE001  # raised again below
                box.append((None, error))

        thread = threading.Thread(target=run, name="hf-jobs", daemon=True)
        thread.start()
        thread.join(ANSWER_S)
        if not box:
            raise StoreUnavailable(f"{doing}: no answer from {self.endpoint} in {ANSWER_S:g} s")
        value, error = box[0]
        if error is not None:
            raise self._translated(error, doing) from error
        return value  # type: ignore[return-value]  # None only where T allows it

    def _translated(self, error: Exception, doing: str) -> QcityError:
        if isinstance(error, QcityError):
            return error
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
        # `attempts` is left out: it came with 2.0, and one is the default. Who relaunches is the keeper.
        spelled = self._spelled(order)
        return self._ask("starting a job", lambda: _job(self._api.run_job(**spelled)))

    def _spelled(self, order: Order) -> dict[str, Any]:
        return {
            "image": order.image,
            "command": list(order.command),
            "flavor": order.flavor,
            "timeout": max(1, round(order.timeout_s)),
            "labels": dict(order.labels),
            "env": dict(order.env),
            "secrets": dict(order.secrets),
            **self._who,
        }

    @property
    def _who(self) -> dict[str, Any]:
        return {"namespace": self.namespace, "token": self.token}

    def jobs(self, key: str, value: str) -> list[Job]:
        """The jobs with that label, newest first."""
        who = self._who

        def call() -> list[Job]:
            listed = self._api.list_jobs(labels={key: value}, timeout=_LIST_S, **who)
            # Filtered here too: a service that does not know the filter answers with all jobs.
            return [job for each in listed if (job := _job(each)).labels.get(key) == value]

        return sorted(self._ask("listing jobs", call), key=lambda job: job.created, reverse=True)

    def inspect(self, job: str) -> Job | None:
        """The job; ``None``: there is none any more."""
        who = self._who
        try:
            return self._ask("asking for a job", lambda: _job(self._api.inspect_job(job_id=job, **who)))
        except UsageError as error:
            if _is_missing(error):
                return None
            raise

    def cancel(self, job: str) -> None:
        """End the job; one that has ended, or is not there, is no error."""
        who = self._who
        with _missing_is_fine():
            self._ask("cancelling a job", lambda: self._api.cancel_job(job_id=job, **who))

    def logs(self, job: str, *, follow: bool) -> Iterator[str]:
        """The lines that the job has written; with ``follow``, until it has ended.

        Raises: between two lines too, where the service no longer answers.
        """
        who = self._who
        try:
            for line in self._api.fetch_job_logs(job_id=job, follow=follow, **who):
                yield line if line.endswith("\n") else f"{line}\n"
        except Exception as error:
            raise self._translated(error, "reading a job's logs") from error

    def hardware(self) -> list[Flavor]:
        """What there is now, cheapest first."""
        token = self.token
        listed = self._ask("asking for hardware and prices", lambda: self._api.list_jobs_hardware(token=token))
        found = [_flavor(each) for each in listed]
        return sorted(found, key=lambda flavor: (flavor.usd_per_hour is None, flavor.usd_per_hour or 0.0, flavor.name))

    # --- scheduled jobs

    def schedules(self, key: str) -> list[Schedule]:
        """The scheduled jobs that have such a label."""
        who = self._who

        def call() -> list[Schedule]:
            # Filtered here: the client passes labels on since 2.0 only.
            return [_schedule(each) for each in self._api.list_scheduled_jobs(timeout=_LIST_S, **who)]

        return [schedule for schedule in self._ask("listing scheduled jobs", call) if key in schedule.labels]

    def schedule(self, order: Order, cron: str) -> Schedule:
        """Begin such a job again and again, never two at once. After ``StoreUnavailable`` it may be there."""
        spelled = {**self._spelled(order), "schedule": cron, "concurrency": False}
        return self._ask("scheduling a job", lambda: _schedule(self._api.create_scheduled_job(**spelled)))

    def unschedule(self, schedule: str) -> None:
        """Delete the scheduled job; one that is not there is no error."""
        who = self._who
        with _missing_is_fine():
            self._ask(
                "deleting a scheduled job", lambda: self._api.delete_scheduled_job(scheduled_job_id=schedule, **who)
            )


def _is_missing(error: UsageError) -> bool:
    return getattr(getattr(error.__cause__, "response", None), "status_code", None) == 404


@contextlib.contextmanager
def _missing_is_fine() -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        if not _is_missing(error):
            raise


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
