"""Snapshots of a notebook's variables after a cell, and their restore in a new kernel, beside Kishu and dill.

Three states: a frame of 240 MB with a forest and dicts; frames and arrays of numbers alone; 1.6 million strings in two
frames. Of each the first snapshot, one after a cell that changed nothing, one after a scalar in the frame was set, one
after a column was added; then a restore in a new process, checked by a digest, beside reading the same files. Ours is
taken as the kernel of ``--engine qcity`` takes it, which skips what took long to pickle and no code can have
reached; one more snapshot, which skips nothing, shows what that hides.

Peers run in a Python of their own, which ``BENCH_PEERS`` names (``pip install kishu scikit-learn`` into an environment:
Kishu brings dill and pins much of Jupyter); without it they are looked for in this one. Kishu's hooks run in an IPython
shell in its test mode, since it asks a Jupyter front end for the notebook otherwise.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure
from measure import Budget, Report, Spread, interleave, spread
from namespace_turn import STATES, STEPS

TURN = Path(__file__).with_name("namespace_turn.py")
ROWS, QUICK_ROWS = 1_000_000, 20_000
SNAPSHOTS = ("first", *STEPS)
LOOKED = "all looked at"
PEERS = ("kishu", "dill")
SCALAR_BYTES, NOOP_S, STRINGS_S, RESTORE = 2e6, 0.1, 0.3, 1.2


def python_of(engine: str) -> str:
    """The interpreter that an engine runs in."""
    return os.environ.get("BENCH_PEERS", "") or sys.executable if engine in PEERS else sys.executable


def is_there(engine: str) -> bool:
    """Is it installed there? What is not is reported as that."""
    module = engine if engine in PEERS else "qcity_nb.namespace.snapshot"
    look = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module.partition('.')[0]!r}) is None)"
    if engine not in PEERS:
        return importlib.util.find_spec("qcity_nb.namespace") is not None
    return subprocess.run([python_of(engine), "-c", look], capture_output=True, check=False).returncode == 0


def turn(engine: str, kind: str, rows: int) -> dict[str, Any]:
    """One process saves, another restores."""
    with tempfile.TemporaryDirectory(prefix="qcity-bench-") as folder:

        def part(what: str) -> dict[str, Any]:
            done = measure.run([python_of(engine), str(TURN), what, engine, kind, folder, str(rows)], cwd=Path(folder))
            result: dict[str, Any] = json.loads(done.out.splitlines()[-1])
            return result

        saved, restored = part("save"), part("restore")
    if saved["digest"] != restored["digest"]:
        raise RuntimeError(f"{engine} restored something else from {kind}")
    return {**saved, **restored}


def measured(quick: bool) -> Report:
    """Every engine in turn, on every state."""
    engines = [name for name in ("qcity_nb", *PEERS) if is_there(name)]
    missing = [name for name in ("qcity_nb", *PEERS) if name not in engines]
    lines: list[str] = []
    rows_of_state = QUICK_ROWS if quick else ROWS
    rows: list[tuple[str, ...]] = []
    medians: dict[tuple[str, str, str], Spread] = {}
    for kind in STATES:
        turns: dict[str, list[dict[str, Any]]] = {name: [] for name in engines}

        def take(engine: str, kind: str = kind, turns: dict[str, list[dict[str, Any]]] = turns) -> float:
            turns[engine].append(turn(engine, kind, rows_of_state))
            return 0.0

        interleave({name: (lambda name=name: take(name)) for name in engines}, rounds=1 if quick else 5, warm=0)
        rows.append((f"**{kind}**", *[""] * (2 * len(SNAPSHOTS) + 2)))
        for name in engines:
            columns = []
            for step in SNAPSHOTS:
                waited = spread([each["steps"][step]["waited_s"] for each in turns[name]])
                sent = spread([each["steps"][step]["bytes"] for each in turns[name]])
                medians[name, kind, f"{step} s"], medians[name, kind, f"{step} bytes"] = waited, sent
                columns += [waited.text(digits=3), f"{sent.median / 1e6:,.2f}"]
            restore = spread([each["restore_s"] for each in turns[name]])
            beside = spread([each["restore_s"] / each["read_s"] for each in turns[name]])
            medians[name, kind, "restore"], medians[name, kind, "restore s"] = beside, restore
            rows.append((name, *columns, restore.text(), beside.text(unit="x")))
        if "qcity_nb" in engines:
            ours = turns["qcity_nb"]
            looked = spread([each["steps"][LOOKED]["waited_s"] for each in ours])
            passed = sum(step["passed_over"] for each in ours for step in each["steps"].values())
            unpickled = spread([each["unpickle_s"] for each in ours])
            medians["qcity_nb", kind, f"{LOOKED} s"], medians["qcity_nb", kind, "unpickle s"] = looked, unpickled
            lines.append(
                f"- {kind}: nothing changed and every variable looked at, as it is now and then in any case: "
                f"{looked.text(digits=3)} s; groups skipped in all other snapshots: {passed}. Making the objects "
                f"from bytes in memory takes {unpickled.text(digits=3)} s of the restore, and happens while it reads."
            )
    budgets = []
    if "qcity_nb" in engines:
        sizes = {key[1:]: each.median for key, each in medians.items() if key[0] == "qcity_nb"}
        budgets = [
            Budget(
                what="one scalar set in a frame of 240 MB, written",
                limit=SCALAR_BYTES,
                measured=sizes["mixed", "one scalar bytes"],
                unit="bytes",
            ),
            Budget(
                what="numbers, nothing changed",
                limit=NOOP_S,
                measured=sizes["numbers", "no-op s"],
                unit="s",
            ),
            Budget(
                what="1.6 M strings, nothing changed",
                limit=STRINGS_S,
                measured=sizes["strings", "no-op s"],
                unit="s",
            ),
            Budget(
                what="namespace of 240 MB restored", limit=RESTORE, measured=sizes["mixed", "restore"], unit="x reading"
            ),
        ]
    notes = [f"Not installed: {', '.join(missing)}."] if missing else []
    notes.append(
        "Seconds: what the notebook waits for a snapshot; MB: what the process sent to the disk for it, by the "
        "kernel's account. Restore is in a new process that has imported the libraries, beside the median of four "
        "times reading the files that the engine left, nothing in the page cache for either. Ours and dill's are "
        "synced, Kishu's lie in SQLite. Ours is on the disk shortly after the notebook has continued."
    )
    notes += ["", *lines]
    return Report(
        name="namespace",
        title="Snapshots of variables",
        columns=(
            "engine",
            *(column for step in SNAPSHOTS for column in (f"{step}, s", "MB")),
            "restore, s",
            "beside reading",
        ),
        rows=rows,
        budgets=budgets,
        notes=notes,
        numbers={"_".join(key).replace(" ", "_"): each.median for key, each in medians.items()},
    )


if __name__ == "__main__":
    measure.command_line(measured)
