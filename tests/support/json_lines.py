"""What the JSON-lines tracker has stored, read from its files alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qcity_nb.testing.contracts.tracker_contract import Stored

__all__ = ["runs", "stored"]


def runs(folder: Path) -> list[Path]:
    """The directories of all runs."""
    return sorted({path.parent for path in folder.glob("*/*/run.jsonl")})


def stored(run: Path) -> Stored:
    """One run; every line counts, a repeated one too."""
    rows, params, tags, status = [], dict[str, str](), dict[str, str](), ""
    for item in _lines(run / "metrics.jsonl"):
        value = "nan" if item["value"] is None else repr(float(item["value"]))
        rows.append((item["key"], value, item["timestamp"], item["step"]))
    for item in _lines(run / "run.jsonl"):
        if "param" in item:
            params.setdefault(item["param"], item["value"])
        elif "tag" in item:
            tags[item["tag"]] = item["value"]
        else:
            status = item["status"]
    return Stored(rows=sorted(rows), status=status, params=params, tags=tags)


def _lines(path: Path) -> list[Any]:
    """The whole lines: a writer may be at work, or may have died in the middle of the last one."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.rpartition("\n")[0].splitlines()]
