"""A run's page for people who look at its store: Markdown, and a curve."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from qcity_nb import codec
from qcity_nb.checkpoint.storage.local_tier import LocalTier
from qcity_nb.checkpoint.storage.manifest import Manifest
from qcity_nb.errors import StoreError
from qcity_nb.ports import Store
from qcity_nb.published.read import published_rows
from qcity_nb.records import Head
from qcity_nb.tracking.outbox import decode_rows
from qcity_nb.views.curve import Change, loss_file
from qcity_nb.views.series import Series

__all__ = ["RunPage", "page"]


class RunPage:
    """A run's page, kept up to date by the attempt that publishes it.

    Args:
        store: has the rows of earlier attempts.
        tier: has the rows of this attempt.
    """

    def __init__(self, store: Store, tier: LocalTier) -> None:
        self._store = store
        self._tier = tier
        self._series: Series | None = None
        self._upto = 0

    def collect(self, head: Head, upto: int) -> None:
        """Read the rows up to the local checkpoint ``upto``, before its tier drops them."""
        if self._series is None:
            self._series = Series()
            self._upto = head.checkpoint.seq if head.checkpoint else 0
            # The page may lack rows that cannot be read.
            with contextlib.suppress(StoreError, codec.DecodeError, ValueError):
                for rows in published_rows(self._store, head, 0).values():
                    self._series.add(decode_rows(rows))
        for seq in range(self._upto + 1, upto + 1):
            self._series.add(decode_rows(self._tier.rows(seq)))
            self._upto = seq

    def page(self, head: Head, newest: Manifest | None) -> dict[str, bytes]:
        """The files, by name.

        Args:
            newest: the newest checkpoint of ``head``.
        """
        deaths = newest.values.get("deaths", ()) if newest is not None else ()
        changes = [(int(each["step"]), str(each["text"])) for each in _changes_of(newest)]
        return page(head, store=self._store.address, series=self._series or Series(), deaths=deaths, changes=changes)


def _changes_of(newest: Manifest | None) -> Sequence[Mapping[str, Any]]:
    return newest.values.get("changes", ()) if newest is not None else ()


def page(
    head: Head, *, store: str, series: Series, deaths: Sequence[int], changes: Sequence[Change] = ()
) -> dict[str, bytes]:
    """The files, by name.

    Args:
        store: its address, as people write it.
        deaths: the steps at which the run died.
        changes: what changed on the way, each with the step.
    """
    key = series.main
    picture = loss_file(series.metrics[key], deaths, changes, name=f"{key} over steps") if key else ""
    newest = head.checkpoint
    table = [
        ("notebook", f"`{head.notebook}`"),
        ("state", head.state),
        ("attempts", str(head.term)),
        ("step", str(newest.step) if newest else "-"),
        ("newest checkpoint", newest.at if newest else "-"),
        *((name, _number(points[-1][1])) for name, points in list(series.metrics.items())[:8]),
        *(("changed", f"from step {step}: {_in_table(text)}") for step, text in changes),
    ]
    lines = [
        "---",
        "tags:",
        "- qcity-nb",
        "---",
        "",
        f"# {head.run}",
        "",
        "A run of a notebook that outlives its hosts, kept by qcity_nb: its checkpoints, journal, metrics and executed",
        "notebook. The branch is written by whichever host holds the run; do not edit it by hand.",
        "",
        *([f"![{key} over steps](loss.svg)", ""] if picture else []),
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in table),
        "",
        "## Resume it",
        "",
        "    pip install qcity-nb",
        f"    qcity show {head.run} --store {store}",
        f"    qcity resume {head.run} --store {store}",
        "",
        "In a notebook, on any host, with the same parameters:",
        "",
        "```python",
        "import qcity_nb as qcity",
        "",
        f'city = qcity.up(store="{store}")',
        "```",
        "",
        f"`qcity checkpoints export {head.run} newest model.safetensors --store {store}` writes the weights to a file.",
        "Checkpoints hold pickles: load them only if you trust who can write to this repository.",
        "",
    ]
    files = {"README.md": "\n".join(lines).encode()}
    if picture:
        files["loss.svg"] = picture.encode()
    return files


def _in_table(text: str) -> str:
    return " ".join(escape(text).replace("|", "&#124;").replace("`", "&#96;").split())


def _number(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else str(value)
