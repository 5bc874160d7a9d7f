"""The launcher ``hf-jobs[:flavor]``: an attempt is a job on Hugging Face's infrastructure.

    qcity run train.ipynb --store hf://me/runs --on hf-jobs:t4-small

A job gets the attempt's spec in the environment (it holds no secret), tokens as the service's secrets, and labels by
which any keeper finds it again: after a lost reply the job is looked for, and never started twice.
``hosts/container.py`` runs inside it.

Source: https://huggingface.co/docs/huggingface_hub/guides/jobs; the messages of dead jobs are known only from other
projects' code (docs/hosts/huggingface.md says what is not verified).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from qcity_nb import codec
from qcity_nb.clock import Clock, SystemClock
from qcity_nb.errors import QcityError, StoreUnavailable, UsageError
from qcity_nb.hosts.container import SPEC
from qcity_nb.hosts.hf_jobs.client import JobsClient, is_here
from qcity_nb.hosts.hf_jobs.records import Job, Order
from qcity_nb.ports import Observation
from qcity_nb.records import AttemptSpec
from qcity_nb.settings import ENV, KEY, Settings, seconds

__all__ = [
    "ATTEMPT",
    "DEFAULT_FLAVOR",
    "RUN",
    "HfJobsLauncher",
    "as_variables",
    "command",
    "environment",
    "label",
    "observe_job",
]

DEFAULT_FLAVOR = "cpu-basic"
RUN, ATTEMPT = "qcity-run", "qcity-attempt"
"""The labels' keys."""
_LABEL_LIMIT = 100
_LOOK_EVERY_S = 10.0
"""A younger answer is used again: the service counts calls."""
_STOP_LOOK_S = 1.0

_CARRIED = (
    "ttl_s",
    "heartbeat_s",
    "publish_s",
    "stop_grace_s",
    "keep_last",
    "keep_every",
    "keep_best",
    "storage_budget",
    "snapshot_time_share",
    "chaos",
)
"""The launching machine's settings that must hold in the attempt too."""
_TRACKER = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
"""All of them are secrets: to some servers the user name is the token."""


def label(text: str) -> str:
    """The text as a label's value: equal for equal texts, different for different ones.

    The service allows letters, digits, ``-`` and ``_``, and at most 100 of them.
    """
    if re.fullmatch(r"[A-Za-z0-9_-]{1,100}", text):
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', text)[: _LABEL_LIMIT - 17]}-{digest}"


def command(settings: Settings, words: list[str]) -> list[str]:
    """A container's command: install what the settings say, then execute ``words``."""
    steps = [f"exec {shlex.join(words)}"]
    if settings.job_install.strip():
        # PEP 668 lets an image forbid pip in its own Python. That protects machines, not a container that is used once.
        install = shlex.join(["python", "-m", "pip", "install", "-q", *shlex.split(settings.job_install)])
        steps.insert(0, f"PIP_BREAK_SYSTEM_PACKAGES=1 {install}")
    return ["bash", "-c", " && ".join(steps)]


def _spell(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def as_variables(settings: Settings, names: tuple[str, ...]) -> dict[str, str]:
    """Settings as environment variables; empty ones are left out."""
    values = {name: getattr(settings, name) for name in names}
    return {f"{ENV}{name.upper()}": _spell(value) for name, value in values.items() if value not in (None, "", ())}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Environment:
    env: Mapping[str, str]
    secrets: Mapping[str, str]


def _check_store(client: JobsClient, store: str) -> bool:
    """Do jobs run on this very machine? Then the service is an emulator.

    Raises:
        UsageError: they do not, and the store is on this machine.
    """
    is_local = is_here(client.endpoint)
    if ("://" not in store or store.startswith(("file:", "memory:"))) and not is_local:
        raise UsageError(f"a job cannot reach the store {store}: use one that it can, such as --store hf://USER/REPO")
    return is_local


def environment(settings: Settings, client: JobsClient, store: str) -> _Environment:
    """What every container needs to reach store and tracker, and to have this machine's settings.

    Raises:
        UsageError: only this machine can reach the store, or a secret is not set here.
    """
    is_local = _check_store(client, store)
    env = {f"{ENV}STORE": store, **as_variables(settings, _CARRIED)}
    if not client.is_default:
        env["HF_ENDPOINT"] = client.endpoint
    secrets = {"HF_TOKEN": client.token}
    if key := os.environ.get(KEY):
        secrets[KEY] = key
    tracking = settings.tracking
    if re.match(r"https?://", tracking) and (is_local or not is_here(tracking)):
        env["MLFLOW_TRACKING_URI"] = env[f"{ENV}TRACKING"] = tracking
        secrets |= {name: value for name in _TRACKER if (value := os.environ.get(name))}
    else:
        # A file on this machine: rows wait in the store, and a keeper here drains them.
        env[f"{ENV}TRACKING"] = "none"
    for name in settings.job_secrets:
        value = os.environ.get(name)
        if not value:
            raise UsageError(f"job_secrets names {name}, which is not set here: set it, or remove it from the list")
        secrets[name] = value
    return _Environment(env=env, secrets=secrets)


_REASONS = (
    (r"credit|payment|billing|balance|insufficient fund", "out of credit"),
    (r"time[d ]*[- ]?out|time limit|deadline", "timed out"),
    (r"evict|preempt|node (?:was |is )?(?:lost|shut|drain|terminat)|spot", "evicted"),
    (r"\boom|out of memory|memory limit", "out of memory"),
)
"""The first match in the message decides. The order matters: "evicted: low on memory" is not the program's fault."""


def observe_job(job: Job) -> Observation:
    """What a job's stage and message mean."""
    message = f": {job.message}" if job.message else ""
    match job.stage:
        case "SCHEDULING":
            return Observation(state="pending", reason=job.message)
        case "RUNNING":
            return Observation(state="running", reason=job.message)
        case "COMPLETED":
            return Observation(state="gone", reason="exit code 0", exit_code=0)
        case "DELETED":
            return Observation(state="gone", reason=f"deleted{message}")
        case "ERROR" | "CANCELED" | "CANCELLED":
            return _explain_death(job, message)
    # A stage that this version does not know may be a beginning or an end, so it counts as no death.
    return Observation(state="unknown", reason=f"the job is {job.stage}{message}")


def _explain_death(job: Job, message: str) -> Observation:
    match = re.search(r"exit (?:code|status):? *(\d+)", job.message, re.IGNORECASE)
    code = int(match[1]) if match else None
    for pattern, reason in _REASONS:
        if re.search(pattern, job.message, re.IGNORECASE):
            return Observation(state="gone", reason=f"{reason}{message}", exit_code=code)
    if job.stage != "ERROR":
        return Observation(state="gone", reason=f"cancelled{message}")
    if code is not None:
        # What follows the code ("Reason: Error") says nothing more.
        return Observation(state="gone", reason=f"exit code {code}", exit_code=code)
    return Observation(state="gone", reason=f"error{message or ' without a message'}")


class HfJobsLauncher:
    """Launches attempts as jobs, and finds those that any keeper launched.

    Args:
        settings: image, packages, timeout, namespace and secrets of a job, and the settings inside it.
        flavor: the hardware, by the service's name.
        client, clock: tests inject their own.

    Does not promise: that a job starts soon, or at all; that the service lists a new job at once.
    """

    def __init__(
        self,
        settings: Settings,
        flavor: str = "",
        *,
        client: JobsClient | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings
        self._flavor = flavor
        self._client = client or JobsClient(settings.job_namespace)
        self._clock = clock or SystemClock()
        self._ids: dict[str, str] = {}
        """Jobs by attempt, as far as this launcher knows them: asking for one job costs less than a list."""
        self._seen: dict[str, tuple[float, Observation]] = {}

    @property
    def name(self) -> str:
        """The name that ``--on`` takes."""
        return f"hf-jobs:{self._flavor}" if self._flavor else "hf-jobs"

    def quote(self) -> str:
        """What the flavor costs now.

        Raises:
            UsageError: no token, a store that a job cannot reach, or no such flavor; the message lists the flavors.
        """
        _ = self._client.token
        _check_store(self._client, self._settings.store)
        name = self._flavor or DEFAULT_FLAVOR
        flavors = self._client.hardware()
        for flavor in flavors:
            if flavor.name == name:
                return flavor.price
        known = ", ".join(flavor.name for flavor in flavors) or "none"
        raise UsageError(f"hf-jobs has no flavor {name!r}; there are: {known}")

    def _order(self, spec: AttemptSpec) -> Order:
        settings = self._settings
        asked = spec.needs.get("timeout")
        timeout_s = seconds(asked, name="needs.timeout") if asked is not None else settings.job_timeout_s
        around = environment(settings, self._client, spec.store)
        return Order(
            image=settings.job_image,
            command=command(settings, ["python", "-m", "qcity_nb.hosts.container"]),
            flavor=self._flavor or DEFAULT_FLAVOR,
            timeout_s=timeout_s,
            labels={RUN: label(spec.run), ATTEMPT: label(spec.attempt), "name": label(spec.run)},
            env={
                **around.env,
                # Without this machine's paths: they mean nothing there.
                SPEC: codec.dumps(replace(spec, project="", output="")).decode(),
                # So that every boundary is saved before the service ends the job.
                f"{ENV}SESSION_LIMIT_S": _spell(timeout_s),
            },
            secrets=around.secrets,
        )

    def launch(self, spec: AttemptSpec) -> None:
        """Begin the job.

        Raises:
            UsageError: no token, permission, credit or reachable store; or the service refuses the job.
            StoreUnavailable: no answer, and no job with this attempt's label is listed yet; one may appear.
        """
        order = self._order(spec)
        try:
            self._ids[spec.attempt] = self._client.run(order).id
        except StoreUnavailable:
            with contextlib.suppress(QcityError):
                if self._look(spec.attempt) is not None:
                    return
            raise

    def _look(self, attempt: str) -> Job | None:
        """The attempt's job. There are several if a person re-ran a dead one: then a living one, else the newest."""
        jobs = self._client.jobs(ATTEMPT, label(attempt))
        living = [job for job in jobs if observe_job(job).state != "gone"]
        job = next(iter(living or jobs), None)
        if job is not None:
            self._ids[attempt] = job.id
        return job

    def find(self, attempt: str) -> Observation | None:
        """What is known of the attempt's job; may return an answer that is up to ten seconds old."""
        now_s = self._clock.now_s()
        if attempt in self._seen and (known := self._seen[attempt])[1].state == "gone":
            return known[1]
        if attempt in self._seen and now_s - self._seen[attempt][0] < min(_LOOK_EVERY_S, self._settings.heartbeat_s):
            return self._seen[attempt][1]
        try:
            if attempt in self._ids:
                job = self._client.inspect(self._ids[attempt])
                seen = observe_job(job) if job else Observation(state="gone", reason="deleted")
            else:
                job = self._look(attempt)
                if job is None:
                    return None
                seen = observe_job(job)
        except QcityError as error:
            return Observation(state="unknown", reason=str(error))
        self._seen[attempt] = (now_s, seen)
        return seen

    def stop(self, attempt: str, *, grace_s: float) -> None:
        """Wait ``grace_s`` for the attempt to end by itself, then cancel its job; at once if it has not begun.

        The service has no gentler way: to have the work saved, set the desired state to stopped first.

        Raises:
            StoreUnavailable: the service did not answer; the job may still run.
        """
        until_s = self._clock.now_s() + grace_s
        while (seen := self.find(attempt)) is not None and seen.state not in ("gone", "pending"):
            left_s = until_s - self._clock.now_s()
            if left_s <= 0:
                break
            self._clock.sleep(min(_STOP_LOOK_S, left_s))
        if seen is None or seen.state == "gone":
            return
        if attempt not in self._ids and self._look(attempt) is None:
            return
        self._client.cancel(self._ids[attempt])
        self._seen.pop(attempt, None)

    def follow(self, attempt: str, *, until: Callable[[], bool] | None = None) -> Iterator[str] | None:
        """What the job has printed; with ``until``, as it comes, until the job has ended."""
        if attempt not in self._ids and self._look(attempt) is None:
            return None
        return self._client.logs(self._ids[attempt], follow=until is not None)
