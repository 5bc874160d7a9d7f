"""What is sent to the Jobs service and what it answers, as plain records, for all versions of its client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Flavor", "Job", "Order", "Schedule", "flavor_of", "job_of", "schedule_of"]

_PER_HOUR = {"second": 3600, "minute": 60, "hour": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Flavor:
    """One kind of hardware, and what it costs."""

    name: str
    detail: str
    usd_per_hour: float | None
    """``None``: the service charges by a unit that is not known here."""

    @property
    def price(self) -> str:
        """For people."""
        return "unknown price" if self.usd_per_hour is None else f"${self.usd_per_hour:.2f}/h"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to run: as one job, or as each job of a schedule."""

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
    """SCHEDULING, RUNNING, COMPLETED, CANCELED, ERROR, DELETED, or one that was added later."""
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


def _text(value: object) -> str:
    """An enumeration's value, a time, or nothing, as text."""
    return "" if value is None else str(getattr(value, "value", value))


def job_of(info: Any) -> Job:
    """From the client's ``JobInfo``."""
    return Job(
        id=info.id,
        stage=_text(info.status.stage),
        message=_text(info.status.message),
        created=_text(info.created_at),
        labels=info.labels or {},
    )


def flavor_of(info: Any) -> Flavor:
    """From the client's ``JobHardwareInfo``."""
    factor = _PER_HOUR.get(_text(info.unit_label).removesuffix("s"))
    gpu = info.accelerator
    parts = [info.cpu, info.ram, f"{gpu.quantity} x {gpu.model}, {gpu.vram}" if gpu else ""]
    return Flavor(
        name=info.name,
        detail=", ".join(part for part in parts if part),
        usd_per_hour=info.unit_cost_usd * factor if factor else None,
    )


def schedule_of(info: Any) -> Schedule:
    """From the client's ``ScheduledJobInfo``."""
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
