"""How mlflow is called: it gives up in seconds, and prints nothing."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["short_timeouts"]

_SETTINGS = {
    # One immediate retry, then the caller's own back-off: together under 10 s for a server that hangs. The
    # defaults block the caller for minutes.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_environment = threading.RLock()


@contextmanager
def short_timeouts() -> Iterator[None]:
    """Our timeouts, and no output, for the calls inside; the process's own settings afterwards.

    mlflow reads its settings from the environment at each request, and from nowhere else. Calls that the user's own
    threads make to mlflow meanwhile have our settings too, and warnings of these threads are not shown meanwhile.
    """
    with _environment, warnings.catch_warnings():
        before = {name: os.environ.get(name) for name in _SETTINGS}
        levels: dict[logging.Logger, int] = {}
        os.environ.update(_SETTINGS)
        try:
            warnings.simplefilter("ignore")
            with contextlib.suppress(ImportError):  # the call itself raises a better error
                import mlflow  # noqa: F401  # it sets its loggers' levels when first imported
            for logger in (logging.getLogger("mlflow"), logging.getLogger("alembic")):
                levels[logger] = logger.level
                logger.setLevel(logging.CRITICAL)
            yield
        finally:
            for logger, level in levels.items():
                logger.setLevel(level)
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
