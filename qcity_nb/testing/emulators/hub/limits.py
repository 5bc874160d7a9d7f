"""What may meet any request: rate limits and the faults that no handler need know of."""

from __future__ import annotations

import threading
import time
import weakref
from dataclasses import dataclass, field

from qcity_nb.testing.emulators.hub.emulator import Hub, before
from qcity_nb.testing.emulators.hub.web import HubError, Kind, Request, Response

__all__ = ["bucket_of", "count", "strike"]


@dataclass(slots=True)
class _Window:
    began: float
    used: int = 0


@dataclass(slots=True)
class _Meter:
    """Fixed windows by user and bucket."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    windows: dict[tuple[str, str], _Window] = field(default_factory=dict)


_METERS: weakref.WeakKeyDictionary[Hub, _Meter] = weakref.WeakKeyDictionary()


def bucket_of(kind: Kind) -> str:
    """The Hub counts resolvers apart from its API."""
    return "resolvers" if kind == "resolve" else "api"


@before
def strike(hub: Hub, request: Request, kind: Kind) -> Response | None:
    """Faults that strike any call; the storage only where a switch names it."""
    faults = hub.faults
    only = kind == "storage"
    if faults.strike("error-500", kind, only=only) is not None:
        raise HubError(500, "Internal Server Error")
    if faults.strike("rate-429", kind, only=only) is not None:
        limit = hub.options.rate_limits.get(bucket_of(kind), 1000)
        raise _spent(hub, kind, limit, faults.retry_s)
    return None


@before
def count(hub: Hub, request: Request, kind: Kind) -> Response | None:
    """Count the request, and refuse it where its user made too many in this window."""
    bucket = bucket_of(kind)
    limit = hub.options.rate_limits.get(bucket)
    if limit is None or kind == "storage":
        return None
    meter = _METERS.setdefault(hub, _Meter())
    window_s = hub.options.rate_window_s
    with meter.lock:
        now = time.monotonic()
        window = meter.windows.setdefault((request.user.name if request.user else "", bucket), _Window(now))
        if now - window.began >= window_s:
            window.began, window.used = now, 0
        window.used += 1
        left, reset_s = limit - window.used, int(window.began + window_s - now) + 1
    if left < 0:
        raise _spent(hub, kind, limit, reset_s)
    request.reply_headers |= _headers(hub, bucket, limit, left, reset_s)
    return None


def _headers(hub: Hub, bucket: str, limit: int, left: int, reset_s: int) -> dict[str, str]:
    return {
        "RateLimit": f'"{bucket}";r={left};t={reset_s}',
        "RateLimit-Policy": f'"fixed window";"{bucket}";q={limit};w={int(hub.options.rate_window_s)}',
    }


def _spent(hub: Hub, kind: Kind, limit: int, reset_s: int) -> HubError:
    headers = {**_headers(hub, bucket_of(kind), limit, 0, reset_s), "Retry-After": str(reset_s)}
    return HubError(429, "We had to rate limit you. Please retry later.", headers=headers)
