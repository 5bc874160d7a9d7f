"""MLflow as the tracker: a server (DagsHub's too) or the embedded SQLite store.

Only calls of the MLflow 2.0 REST API are used, because servers may be old: experiments get-by-name and create;
runs search, get, create, update, delete and log-batch.

Sending rows again is safe because MLflow's SQL store drops an exact repeat of (key, value, timestamp, step). Its
directory store does not, so a directory is refused here.

What is stored differs from what was logged in three ways: an infinity becomes ±1.7976931348623157e308 (SQL has
none, and every server would do the same); a key that MLflow does not accept is escaped (``mlflow_names``); long
tags and parameters are truncated to the server's limits.

Does not promise: a bound below about 10 s for a request that fails, or 20 s for one to a locked SQLite file.
Source: https://mlflow.org/docs/latest/rest-api.html
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar

from qcity_nb.errors import TrackerMissing, TrackerUnavailable, UsageError
from qcity_nb.records import Row
from qcity_nb.tracking import database
from qcity_nb.tracking.mlflow_names import mlflow_name
from qcity_nb.tracking.timeouts import short_timeouts

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["ID_TAG", "LARGEST", "MADE_TAG", "RUN_TAG", "SCHEMES", "MlflowTracker", "open_tracker", "without_userinfo"]

RUN_TAG = "qcity.run"
"""The tag by which a run is found again."""
MADE_TAG = "qcity.made"
"""When the run was made: two stores may have runs of the same id, on one server."""

ID_TAG = "qcity.id"
"""The run record's id, by which two runs of one name that were made at the same moment differ."""

SCHEMES = frozenset({"http", "https", "sqlite", "postgresql", "mysql", "mssql"})
"""Schemes of addresses that this tracker accepts; a ``+driver`` may follow."""

LARGEST = 1.7976931348623157e308
"""Stored in place of an infinity."""

_METRICS, _PARAMS, _TAGS, _BYTES = 1000, 100, 100, 900_000
"""Limits of one log-batch request (MLflow REST API, "Log Batch"); it refuses more than 1 MB."""
_SMALLEST_BATCH = 50
_TAG_CHARS = 5000
_PARAM_CHARS = (6000, 500, 250)
"""Of the newest servers first; each was the limit of some release."""

P = ParamSpec("P")
T = TypeVar("T")


def without_userinfo(uri: str) -> str:
    """The address (or any text that holds addresses) without ``user:password@``."""
    return re.sub(r"(?<=://)[^/\s@]*(?:@[^/\s@]*)*@", "", uri)


def open_tracker(uri: str) -> MlflowTracker:
    """MLflow at this tracking address; neither imports mlflow nor connects before the first call.

    Raises:
        UsageError: this tracker does not accept such an address.
    """
    scheme = uri.partition(":")[0].lower().partition("+")[0]
    if scheme not in SCHEMES or "://" not in uri:
        raise UsageError(
            f"tracking = {without_userinfo(uri)!r}: for MLflow write http(s)://… or "
            "sqlite:////absolute/path.db; its directory store would keep repeated rows twice"
        )
    return MlflowTracker(uri)


def _translate_errors(
    method: Callable[Concatenate[MlflowTracker, P], T],
) -> Callable[Concatenate[MlflowTracker, P], T]:
    """Raise every failure of the method as ``TrackerUnavailable``: one line, without credentials."""

    @wraps(method)
    def call(self: MlflowTracker, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with short_timeouts():
            try:
                return method(self, *args, **kwargs)
            except TrackerUnavailable:
                raise
            except ImportError as error:
                if self._address.startswith("http"):
                    raise TrackerMissing(f"mlflow cannot be imported ({error}): reinstall qcity-nb") from None
                raise TrackerMissing(
                    f'the MLflow database {self.uri} needs all of mlflow ({error}): pip install "qcity-nb[local]"'
                ) from None
            except Exception as error:  # noqa: BLE001  # mlflow passes on those of requests, SQLAlchemy, protobuf
                raise TrackerUnavailable(f"{self.uri}: {_summarize(error)}") from None

    return call


def _summarize(error: Exception) -> str:
    text = " ".join(without_userinfo(str(error)).split()) or type(error).__name__
    if "Connection refused" in text or "NewConnectionError" in text:
        return "connection refused or name unknown: is the server running?"
    if "timed out" in text.lower() or "timeout" in text.lower():
        return "no answer in time"
    return text if len(text) <= 300 else text[:299] + "…"


class MlflowTracker:
    """The ``Tracker`` port over an MLflow client. Safe to call from several threads, one at a time."""

    def __init__(self, uri: str) -> None:
        self._address = uri
        self._client: MlflowClient | None = None
        self._batch = _METRICS
        self._file: Path | None = None
        if uri.startswith(database.SCHEME):
            # Absolute, so that a later chdir does not change which file is meant.
            self._file, query = database.path_of(uri)
            self._address = database.address_of(self._file, query)

    @property
    def uri(self) -> str:
        """The address, without credentials."""
        return without_userinfo(self._address)

    @_translate_errors
    def prepare(self) -> None:
        """Import mlflow, which takes seconds, and make the database if it is a file."""
        self._connect()

    @_translate_errors
    def start(self, run: str, *, experiment: str, params: Mapping[str, object], tags: Mapping[str, str]) -> str:
        """Find the tracker's run for ``run`` (by tag), or make it. One that had ended is reopened.

        If two clients made it at the same moment, the next call of either chooses one of the two and removes the
        other, if that is empty. ``send`` to the removed one fails; calling ``start`` again returns the right one.

        Args:
            experiment: its name; made if it does not exist. Empty: MLflow's ``Default``.
            params: those that the tracker does not have yet are logged; in MLflow they cannot be changed.
            tags: replace older values. ``mlflow.runName`` is the run's name there (default: ``run``). ``qcity.made``
                and ``qcity.id`` are part of the identity: a run with another value is another run.
        Returns: the tracker's own id for the run.
        """
        client = self._connect()
        experiment_id = self._experiment(client, experiment or "Default")
        named = {"mlflow.runName": run, **tags, RUN_TAG: run}
        run_id = self._find(client, experiment_id, run, tags)
        if run_id is None:
            made = client.create_run(
                experiment_id,
                start_time=time.time_ns() // 1_000_000,
                tags={mlflow_name(name): str(value)[:_TAG_CHARS] for name, value in named.items()},
                run_name=named["mlflow.runName"],
            ).info.run_id
            # Another client may have made one too, and so may a repeat of this request whose reply was lost.
            run_id = self._find(client, experiment_id, run, tags) or made
        known = client.get_run(run_id)
        if known.info.status != "RUNNING":
            client.update_run(run_id, status="RUNNING")
        self._set_tags(client, run_id, {k: v for k, v in named.items() if known.data.tags.get(k) != v})
        self._log_params(client, run_id, params, known.data.params)
        return run_id

    @_translate_errors
    def send(self, run_id: str, rows: Sequence[Row]) -> None:
        """Store rows. Sending exactly the same row again stores nothing more.

        A request has at most 1,000 rows, fewer after a server was too slow for that many. If one fails, the rows of
        those before it are stored; send all rows again.
        """
        client = self._connect()
        from mlflow.entities import Metric

        metrics = [Metric(mlflow_name(r.key), _finite(r.value), max(r.timestamp_ms, 0), r.step) for r in rows]
        start = 0
        while start < len(metrics):
            batch = next(_split(metrics[start : start + self._batch], _METRICS, _metric_bytes))
            try:
                client.log_batch(run_id, metrics=batch, synchronous=True)
            except Exception:  # raised again: a smaller batch may fit, whatever the client calls it
                self._batch = max(_SMALLEST_BATCH, self._batch // 2)
                raise
            start += len(batch)
        # Not after each request: if 500 rows succeed and 1,000 fail, no call with more than 1,500 would ever succeed.
        self._batch = min(_METRICS, self._batch * 2)

    @_translate_errors
    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags."""
        self._set_tags(self._connect(), run_id, tags)

    @_translate_errors
    def end(self, run_id: str, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        """Set the final status, and the end time if it had another status."""
        client = self._connect()
        if client.get_run(run_id).info.status != status:
            client.set_terminated(run_id, status)

    def _connect(self) -> MlflowClient:
        if self._client is None:
            if self._file is not None:
                database.prepare(self._file)
            from mlflow import MlflowClient

            self._client = MlflowClient(tracking_uri=self._address, registry_uri=self._address)
        return self._client

    def _experiment(self, client: MlflowClient, name: str) -> str:
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            # By default mlflow puts the artifacts of an SQLite store into ./mlruns, wherever this process runs.
            location = None
            if self._file is not None:
                location = (self._file.parent / "mlartifacts" / re.sub(r"[^\w.-]+", "-", name)).as_uri()
            try:
                return str(client.create_experiment(name, artifact_location=location))
            except Exception:  # of whatever type: another client may have been first
                experiment = client.get_experiment_by_name(name)
                if experiment is None:
                    raise
        if experiment.lifecycle_stage != "active":
            raise TrackerUnavailable(
                f"{self.uri}: the experiment {name!r} is deleted there: restore it "
                "(mlflow experiments restore) or give the project another name"
            )
        return str(experiment.experiment_id)

    def _find(self, client: MlflowClient, experiment_id: str, run: str, tags: Mapping[str, str]) -> str | None:
        made, run_id = tags.get(MADE_TAG, ""), tags.get(ID_TAG, "")
        if "'" in run + made or '"' in run + made:
            raise TrackerUnavailable(f"{run!r} is no run id")
        same = f"tags.`{RUN_TAG}` = '{run}'" + (f" and tags.`{MADE_TAG}` = '{made}'" if made else "")
        matches = client.search_runs([experiment_id], filter_string=same, max_results=100)
        runs = [r for r in matches if r.data.tags.get(ID_TAG, run_id) == run_id]  # an older version tagged no id
        # All clients choose the same one: one with metrics first, then the oldest. The others are removed if empty.
        ranked = sorted(runs, key=lambda r: (not r.data.metrics, r.info.start_time, r.info.run_id))
        for other in ranked[1:]:
            if not other.data.metrics:
                client.delete_run(other.info.run_id)  # MLflow can restore it
        return str(ranked[0].info.run_id) if ranked else None

    def _set_tags(self, client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        items = [RunTag(mlflow_name(name), str(value)[:_TAG_CHARS]) for name, value in tags.items()]
        for batch in _split(items, _TAGS, _text_bytes):
            client.log_batch(run_id, tags=batch, synchronous=True)

    def _log_params(
        self, client: MlflowClient, run_id: str, params: Mapping[str, object], known: Mapping[str, str]
    ) -> None:
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        missing = {mlflow_name(name): str(value) for name, value in params.items() if mlflow_name(name) not in known}
        for limit in _PARAM_CHARS:
            items = [Param(name, value[:limit]) for name, value in missing.items()]
            try:
                for batch in _split(items, _PARAMS, _text_bytes):
                    client.log_batch(run_id, params=batch, synchronous=True)
                return
            except MlflowException as error:
                if limit == _PARAM_CHARS[-1] or error.error_code not in (
                    "INVALID_PARAMETER_VALUE",
                    "BAD_REQUEST",
                ):
                    raise
                # Too long for this server, or another client has logged some of them first.
                there = client.get_run(run_id).data.params
                missing = {name: value for name, value in missing.items() if name not in there}


def _finite(value: float) -> float:
    return max(-LARGEST, min(LARGEST, value)) if value == value else value


def _metric_bytes(item: Any) -> int:
    return 150 + len(item.key) * (1 if item.key.isascii() else 6)


def _text_bytes(item: Any) -> int:
    # JSON writes a character outside ASCII in up to 12 bytes, a control character in 6.
    return 50 + sum(len(text) if text.isascii() else 12 * len(text) for text in (item.key, item.value))


def _split(items: Sequence[T], limit: int, size: Callable[[T], int]) -> Iterator[list[T]]:
    """Batches in order, each within the limits of one request."""
    batch: list[T] = []
    total = 0
    for item in items:
        if batch and (len(batch) == limit or total + size(item) > _BYTES):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size(item)
    if batch:
        yield batch
