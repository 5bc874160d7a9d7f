"""Where metrics go: the outbox, MLflow, and JSON lines in a directory.

May import: root. Imported by: published, sidecar, kernel, cli, testing.
"""

from __future__ import annotations

from qcity_nb.errors import UsageError
from qcity_nb.ports import Tracker

__all__ = ["GROUP", "open_tracker"]

GROUP = "qcity_nb.trackers"
"""Entry points by address scheme: each names a function from an address to a ``Tracker``."""


def open_tracker(uri: str) -> Tracker | None:
    """The tracker at this address; does not connect yet.

    Args:
        uri: an MLflow tracking address, ``jsonl:///folder``, ``<scheme>://…`` of an installed tracker, or empty.
    Returns: ``None`` for an empty address: metrics stay in the outbox.
    Raises:
        UsageError: no tracker accepts such an address.
        TrackerUnavailable: a package that it needs is missing; the message names the install line.
    """
    uri = uri.strip()
    if not uri:
        return None
    from qcity_nb.tracking import mlflow

    scheme = uri.partition(":")[0].lower()
    if scheme in mlflow.SCHEMES:  # the built-in ones need no look-up, which reads every installed package
        return mlflow.open_tracker(uri)
    if scheme == "jsonl":
        from qcity_nb.tracking import jsonl

        return jsonl.open_tracker(uri)
    from importlib.metadata import entry_points  # slow to import, and rarely needed

    for entry in entry_points(group=GROUP):
        if entry.name == scheme and scheme != "mlflow":
            tracker: Tracker = entry.load()(uri)
            return tracker
    raise UsageError(
        f"no tracker accepts the address {mlflow.without_userinfo(uri)!r}: use http(s)://…, "
        "sqlite:////absolute/path.db, jsonl:///absolute/folder, or leave it empty"
    )
