"""Hugging Face's Jobs service through its own client: plain facts in and out, foreign errors translated.

The only module below ``hosts`` that imports ``huggingface_hub``, and only once something is asked of it. Every answer
is the service's newest; nothing is kept but who the token belongs to.

Source: https://huggingface.co/docs/huggingface_hub/guides/jobs
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from qcity_nb.clock import within
from qcity_nb.errors import QcityError, StoreUnavailable, UsageError
from qcity_nb.hosts.hf_jobs.records import Flavor, Job, Order, Schedule, flavor_of, job_of, schedule_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["NEEDED", "JobsClient", "is_here"]

NEEDED = "1.21.0"
"""The first client whose ``list_jobs`` filters by label; jobs with labels can be made since 1.4.0."""
_ENDPOINT = "https://huggingface.co"
_LIST_S = 30
ANSWER_S = 60.0
"""How long a call may take that starts or ends something."""
LOOK_S = 20.0
"""How long one may take that only looks; the client itself goes on trying for most of a minute."""
_TRY_AGAIN = (408, 409, 425, 429)
"""The answers under 500 that say nothing about the request itself."""


T = TypeVar("T")


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

    def _ask(self, doing: str, call: Callable[[], T], *, limit_s: float | None = None) -> T:
        """The client's answer, in bounded time: by itself it waits for ever.

        Args:
            limit_s: ``LOOK_S`` by default.
        """
        limit_s = LOOK_S if limit_s is None else limit_s
        try:
            return within(limit_s, call, name="hf-jobs")
        except TimeoutError:
            raise StoreUnavailable(f"{doing}: no answer from {self.endpoint} in {limit_s:g} s") from None
        except Exception as error:
            # The client raises its transport's errors (httpx before 2.0, httpx2 since), its own, and KeyError and the
            # like where an answer is not as it expects.
            raise self._translated(error, doing) from error

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
        return self._ask("starting a job", lambda: job_of(self._api.run_job(**spelled)), limit_s=ANSWER_S)

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
            return [job for each in listed if (job := job_of(each)).labels.get(key) == value]

        return sorted(self._ask("listing jobs", call), key=lambda job: job.created, reverse=True)

    def inspect(self, job: str) -> Job | None:
        """The job; ``None``: there is none any more."""
        who = self._who
        try:
            return self._ask("asking for a job", lambda: job_of(self._api.inspect_job(job_id=job, **who)))
        except UsageError as error:
            if _is_missing(error):
                return None
            raise

    def cancel(self, job: str) -> None:
        """End the job; one that has ended, or is not there, is no error."""
        who = self._who
        with _missing_is_fine():
            self._ask("cancelling a job", lambda: self._api.cancel_job(job_id=job, **who), limit_s=ANSWER_S)

    def logs(self, job: str, *, follow: bool) -> Iterator[str]:
        """The lines that the job has written; with ``follow``, until it has ended.

        Raises: between two lines too, where the service no longer answers.
        """
        count = 0
        try:
            for line in self._lines(job, follow=follow):
                count += 1
                yield line
            if follow:
                # The client stops where a broken connection finds the job over, with what it had by then.
                yield from itertools.islice(self._lines(job, follow=False), count, None)
        except Exception as error:
            raise self._translated(error, "reading a job's logs") from error

    def _lines(self, job: str, *, follow: bool) -> Iterator[str]:
        for line in self._api.fetch_job_logs(job_id=job, follow=follow, **self._who):
            yield line if line.endswith("\n") else f"{line}\n"

    def hardware(self) -> list[Flavor]:
        """What there is now, cheapest first."""
        # Nobody need be logged in for that.
        listed = self._ask("asking for hardware and prices", lambda: self._api.list_jobs_hardware())
        found = [flavor_of(each) for each in listed]
        return sorted(found, key=lambda flavor: (flavor.usd_per_hour is None, flavor.usd_per_hour or 0.0, flavor.name))

    # --- scheduled jobs

    def schedules(self, key: str) -> list[Schedule]:
        """The scheduled jobs that have such a label."""
        who = self._who

        def call() -> list[Schedule]:
            # Filtered here: the client passes labels on since 2.0 only.
            return [schedule_of(each) for each in self._api.list_scheduled_jobs(timeout=_LIST_S, **who)]

        return [schedule for schedule in self._ask("listing scheduled jobs", call) if key in schedule.labels]

    def schedule(self, order: Order, cron: str) -> Schedule:
        """Begin such a job again and again, never two at once. After ``StoreUnavailable`` it may be there."""
        spelled = {**self._spelled(order), "schedule": cron, "concurrency": False}
        return self._ask(
            "scheduling a job", lambda: schedule_of(self._api.create_scheduled_job(**spelled)), limit_s=ANSWER_S
        )

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
