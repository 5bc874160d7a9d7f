"""Hugging Face's Jobs service through its own client: plain records in and out, foreign errors translated.

The only module below ``hosts`` that imports ``huggingface_hub``, and only when it is first called. No answer is cached
except whose token it is.

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
"""Time limit of a call that starts or ends something."""
LOOK_S = 20.0
"""Time limit of a call that only reads; the client itself would keep trying for most of a minute."""
_TRY_AGAIN = (408, 409, 425, 429)
"""Status codes under 500 that say nothing about the request itself."""


T = TypeVar("T")


def is_here(address: str) -> bool:
    """Is this the address of the machine itself?"""
    host = urlsplit(address).hostname or ""
    with contextlib.suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in re.findall(r"\d+", text.split("+")[0])[:3])


class JobsClient:
    """What this package needs of the Jobs service.

    Args:
        namespace: the user or organization whose jobs these are; empty: the token's owner.

    Every method raises ``UsageError`` if trying again does not help (no token, no permission, no credit, a client that
    is too old), and ``StoreUnavailable`` if it may (no answer, too many requests).
    """

    def __init__(self, namespace: str = "") -> None:
        self._namespace = namespace

    # --- client, token, namespace

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
        _ = self._api  # checks the client's version: an older one finds the token in another way
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
        """The client's answer, with a time limit: by itself it waits indefinitely.

        Args:
            limit_s: Default: ``LOOK_S``.
        """
        limit_s = LOOK_S if limit_s is None else limit_s
        try:
            return within(limit_s, call, name="hf-jobs")
        except TimeoutError:
            raise StoreUnavailable(f"{doing}: no answer from {self.endpoint} in {limit_s:g} s") from None
        except Exception as error:
            # The client raises its transport's errors (httpx before 2.0, httpx2 since), its own, and KeyError and
            # others if an answer is not as it expects.
            raise self._translate(error, doing) from error

    def _translate(self, error: Exception, doing: str) -> QcityError:
        if isinstance(error, QcityError):
            return error
        status = getattr(getattr(error, "response", None), "status_code", None)
        reason = str(getattr(error, "server_message", "") or "") or str(error).strip().partition("\n")[0]
        reason = reason or type(error).__name__
        if not isinstance(status, int) or status >= 500 or status in _TRY_AGAIN:
            return StoreUnavailable(f"{doing}: no usable answer from {self.endpoint}: {reason}")
        if status == 402:
            return UsageError(
                f"{doing}: no credit left for jobs of {self._namespace or 'this user'} ({reason}); "
                "add some at https://huggingface.co/settings/billing"
            )
        if status == 401:
            return UsageError(f"{doing}: the token is not accepted ({reason}): `hf auth login`, or set HF_TOKEN")
        if status == 403:
            return UsageError(f"{doing}: the token has no permission to do that ({reason})")
        return UsageError(f"{doing}: refused ({status}): {reason}")

    # --- jobs

    def run(self, order: Order) -> Job:
        """Begin a job. After ``StoreUnavailable`` it may be running: look for its labels before trying again."""
        # Without `attempts`, which came with 2.0: one is the default, and relaunching is the keeper's task.
        arguments = self._arguments(order)
        return self._ask("starting a job", lambda: job_of(self._api.run_job(**arguments)), limit_s=ANSWER_S)

    def _arguments(self, order: Order) -> dict[str, Any]:
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
            # Filtered here too: a service without this filter answers with all jobs.
            return [job for each in listed if (job := job_of(each)).labels.get(key) == value]

        return sorted(self._ask("listing jobs", call), key=lambda job: job.created, reverse=True)

    def inspect(self, job: str) -> Job | None:
        """The job; ``None``: it does not exist any more."""
        who = self._who
        try:
            return self._ask("asking for a job", lambda: job_of(self._api.inspect_job(job_id=job, **who)))
        except UsageError as error:
            if _is_missing(error):
                return None
            raise

    def cancel(self, job: str) -> None:
        """End the job; one that has ended, or does not exist, is no error."""
        who = self._who
        with _ignore_missing():
            self._ask("cancelling a job", lambda: self._api.cancel_job(job_id=job, **who), limit_s=ANSWER_S)

    def logs(self, job: str, *, follow: bool) -> Iterator[str]:
        """The lines that the job has printed; with ``follow``, until it has ended.

        Raises: also between two lines, if the service no longer answers.
        """
        count = 0
        try:
            for line in self._lines(job, follow=follow):
                count += 1
                yield line
            if follow:
                # If the connection breaks and the job has ended meanwhile, the client stops early: read the rest.
                yield from itertools.islice(self._lines(job, follow=False), count, None)
        except Exception as error:
            raise self._translate(error, "reading a job's logs") from error

    def _lines(self, job: str, *, follow: bool) -> Iterator[str]:
        for line in self._api.fetch_job_logs(job_id=job, follow=follow, **self._who):
            yield line if line.endswith("\n") else f"{line}\n"

    def hardware(self) -> list[Flavor]:
        """The hardware that there is now, cheapest first."""
        # This needs no token.
        listed = self._ask("asking for hardware and prices", lambda: self._api.list_jobs_hardware())
        flavors = [flavor_of(each) for each in listed]
        return sorted(flavors, key=lambda each: (each.usd_per_hour is None, each.usd_per_hour or 0.0, each.name))

    # --- scheduled jobs

    def schedules(self, key: str) -> list[Schedule]:
        """The scheduled jobs with a label of that key."""
        who = self._who

        def call() -> list[Schedule]:
            # Filtered here: the client passes labels on only since 2.0.
            return [schedule_of(each) for each in self._api.list_scheduled_jobs(timeout=_LIST_S, **who)]

        return [schedule for schedule in self._ask("listing scheduled jobs", call) if key in schedule.labels]

    def schedule(self, order: Order, cron: str) -> Schedule:
        """Begin such a job regularly, never two at once. After ``StoreUnavailable`` the schedule may exist."""
        arguments = {**self._arguments(order), "schedule": cron, "concurrency": False}
        return self._ask(
            "scheduling a job", lambda: schedule_of(self._api.create_scheduled_job(**arguments)), limit_s=ANSWER_S
        )

    def unschedule(self, schedule: str) -> None:
        """Delete the scheduled job; one that does not exist is no error."""
        who = self._who
        with _ignore_missing():
            self._ask(
                "deleting a scheduled job", lambda: self._api.delete_scheduled_job(scheduled_job_id=schedule, **who)
            )


def _is_missing(error: UsageError) -> bool:
    return getattr(getattr(error.__cause__, "response", None), "status_code", None) == 404


@contextlib.contextmanager
def _ignore_missing() -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        if not _is_missing(error):
            raise
