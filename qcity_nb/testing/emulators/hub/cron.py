"""Schedules of scheduled jobs: what the API's published pattern allows, in UTC."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

__all__ = ["Schedule", "parse"]

_NAMED = {
    "@annually": "0 0 1 1 *",
    "@yearly": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_FIELD = re.compile(
    r"(?P<list>(?:\d+,)+\d+)|(?P<first>\d+)-(?P<last>\d+)|(?P<start>\d+|\*)/(?P<step>\d+)|(?P<single>\d+)|\*"
)
_BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_FOUR_YEARS = 366 * 4 + 1


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a job runs; minutes are the finest grain."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    """0 is Sunday."""
    any_day: bool
    any_weekday: bool

    def next_after(self, moment: datetime) -> datetime:
        """The first time after ``moment``, which must be aware; in UTC.

        Raises:
            ValueError: there is none, as for 30 February.
        """
        after = moment.astimezone(UTC)
        day = after.replace(hour=0, minute=0, second=0, microsecond=0)
        for _ in range(_FOUR_YEARS):
            if self._has(day):
                for hour in sorted(self.hours):
                    for minute in sorted(self.minutes):
                        candidate = day.replace(hour=hour, minute=minute)
                        if candidate > after:
                            return candidate
            day += timedelta(days=1)
        raise ValueError("the schedule never comes")

    def _has(self, day: datetime) -> bool:
        if day.month not in self.months:
            return False
        in_month, in_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        # As in crontab(5): where both are restricted, either will do.
        return in_month or in_week if not (self.any_day or self.any_weekday) else in_month and in_week


def _values(text: str, low: int, high: int) -> frozenset[int]:
    match = _FIELD.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a field of a schedule")
    if match["list"]:
        values = [int(number) for number in text.split(",")]
    elif match["first"]:
        values = list(range(int(match["first"]), int(match["last"]) + 1))
    elif match["step"]:
        first = low if match["start"] == "*" else int(match["start"])
        values = list(range(first, high + 1, int(match["step"]) or high + 1))
    else:
        values = [int(text)] if match["single"] else list(range(low, high + 1))
    if not values or min(values) < low or max(values) > high:
        raise ValueError(f"{text!r} is not within {low} to {high}")
    return frozenset(values)


def parse(text: str) -> Schedule:
    """A schedule of five fields or a name such as ``@hourly``.

    The API's pattern also takes six and seven fields; what they mean there is not documented, and they are refused.

    Raises:
        ValueError: it is none, or never comes.
    """
    fields = _NAMED.get(text, text).split()
    if len(fields) != len(_BOUNDS):
        raise ValueError("a schedule has five fields, or is @hourly, @daily, @weekly, @monthly, @yearly or @annually")
    minutes, hours, days, months, weekdays = (
        _values(field, *bounds) for field, bounds in zip(fields, _BOUNDS, strict=True)
    )
    schedule = Schedule(
        minutes, hours, days, months, frozenset(day % 7 for day in weekdays), fields[2] == "*", fields[4] == "*"
    )
    schedule.next_after(datetime(2024, 1, 1, tzinfo=UTC))
    return schedule
