"""``qcity explain``: the variables that a new host would find, how large each is, what it costs, how it comes back.

It reads manifests only, and loads no variable.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qcity_nb.checkpoint.storage.manifest import CellRecord, Manifest
from qcity_nb.cli.arguments import load_settings, settings_for
from qcity_nb.cli.snapshot_contents import Contents, Variable, list_contents, snapshots
from qcity_nb.errors import HeadCorrupt, UnknownRun, UsageError
from qcity_nb.ports import Store
from qcity_nb.published.catalog import Catalog, Checkpoint
from qcity_nb.published.read import events
from qcity_nb.records import Head
from qcity_nb.run import identity, lease
from qcity_nb.settings import Settings
from qcity_nb.stores import open_store
from qcity_nb.views.words import ago, short, size, table

__all__ = ["explain"]

_BACK = 16
"""The smallest width of the last column on a terminal."""


def explain(args: argparse.Namespace) -> int:
    """``qcity explain``."""
    settings, store, run = _find(args)
    head = lease.read(store, run).head
    checkpoints = Catalog(store, run, settings.local_dir).checkpoints()
    checkpoint = next((each for each in checkpoints if each.manifest is not None), None)
    manifest = checkpoint.manifest if checkpoint is not None else None
    if checkpoint is None or manifest is None or not snapshots(manifest.cells):
        why = _why_not(store, head, manifest)
        print(json.dumps({"run": run, "variables": [], "why": why}) if args.json else f"{run}: {why}")
        return 0
    cells = snapshots(manifest.cells)
    cell = cells[-1] if args.cell is None else args.cell
    if cell not in cells:
        raise UsageError(f"{run} has no snapshot after cell {cell}, only after {_cells(cells)}")
    report = list_contents(manifest.cells, manifest.objects, cell)
    if args.json:
        print(json.dumps(_json_of(head, checkpoint, manifest, report)))
    else:
        _show(head, checkpoint, manifest, report)
    return 0


def _find(args: argparse.Namespace) -> tuple[Settings, Store, str]:
    """The run that was named: by its id, or by a notebook's path, which means the newest run of that notebook."""
    path = Path(args.run).expanduser().absolute()
    if path.suffix != ".ipynb":
        settings = load_settings(args.store)
        store = open_store(settings.store)
        return settings, store, identity.match(store, args.run)
    settings = settings_for(path, args.store)
    store = open_store(settings.store)
    root = settings.project.root
    name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
    heads = []
    for run in store.runs():
        try:
            heads.append(lease.read(store, run).head)
        except (HeadCorrupt, UnknownRun):
            continue  # one damaged run record must not hide the other runs
    own = [head for head in heads if (head.project, head.notebook) == (settings.project.name, name)]
    if not own:
        raise UnknownRun(f"no run of {short(path)} in {store.address}: `qcity ps` lists what is there")
    return settings, store, max(own, key=lambda head: head.created).run


def _why_not(store: Store, head: Head, manifest: Manifest | None) -> str:
    """Why there is nothing to explain."""
    if manifest is None:
        return "no checkpoint yet, neither in the store nor on this host"
    report = [event.data.get("message", "") for event in events(store, head.run, head) if event.kind == "no-snapshots"]
    if report:
        return f"no variables are saved: {report[-1]}"
    if manifest.cells:
        return f"{_finished(manifest.cells)}, without a snapshot of the variables: a new host re-runs all cells"
    return "no finished cell is recorded: its checkpoints hold only the states of loops"


# --- for scripts


def _json_of(head: Head, checkpoint: Checkpoint, manifest: Manifest, report: Contents) -> dict[str, Any]:
    cells = snapshots(manifest.cells)
    return {
        "run": head.run,
        "checkpoint": checkpoint.seq,
        "at": checkpoint.at,
        "where": [copy.where for copy in checkpoint.copies],
        "cell": report.cell,
        "finished": len(manifest.cells),
        "snapshots": cells,
        "resumes_at": None if head.is_over else cells[-1] + 1,
        "variables": [{**asdict(each), "rerun": each.rerun if each.is_rerun else None} for each in report.variables],
        "size_bytes": report.size_bytes,
        "cost_s": report.cost_s,
        "others_bytes": report.others_bytes,
    }


# --- for people


def _show(head: Head, checkpoint: Checkpoint, manifest: Manifest, report: Contents) -> None:
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    where = f"in checkpoint {checkpoint.seq}, saved {ago(checkpoint.at)}"
    print(f"{head.run}: the variables after cell {report.cell}, {where}")
    not_saved = [each for each in report.variables if each.back == "not saved"]
    others = [each for each in report.variables if each.back != "not saved"]
    for variable in not_saved:
        print()
        print(_wrap(f"{variable.name} ({_short(variable.kind)}) is not saved: {variable.why}", columns, more="  "))
        for line in _advise(variable, report.cell):
            print(_wrap(line, columns, indent="    ", more="    "))
    if others:
        print()
        _print_rows([_row(each) for each in others], columns)
    print()
    print(_wrap(_summarize(head, manifest, report), columns))


def _short(kind: str) -> str:
    return kind.rpartition(".")[2] or "-"


def _advise(variable: Variable, cell: int) -> Iterator[str]:
    """What happens to a variable that is not saved, and what the user can do."""
    if variable.is_rerun:
        verb = "is" if variable.rerun == cell else "are"
        cells = _cells(range(variable.rerun, cell + 1))
        took = _seconds(variable.rerun_s)
        yield f"{cells} {verb} re-run ({took}) if a later cell needs it; else its use raises VariableLost"
    elif variable.has_loop:
        yield "its use raises VariableLost: a loop has finished since it was made"
    else:
        yield f"its use raises VariableLost: to re-create it would take {_seconds(variable.rerun_s)}"
    if variable.advice:
        yield f"advice: {variable.advice}"


def _row(variable: Variable) -> tuple[str, ...]:
    if variable.back == "imported":
        back = "imported" if variable.module == variable.name else f"imported: {variable.module}"
        return variable.name, variable.kind, "-", "-", "-", back
    first, last = variable.changed or (0, 0)
    cell = str(last) if first == last else f"{first}-{last}"
    if variable.shares and variable.shares[0] < variable.name:
        return variable.name, _short(variable.kind), "-", "-", cell, f"restored with {variable.shares[0]}"
    back = "restored"
    if variable.fresh:
        back += f", new inside: {', '.join(variable.fresh)}"
    if variable.shares:
        back += f", shares with {', '.join(variable.shares)}"
    return variable.name, _short(variable.kind), size(variable.size_bytes), _seconds(variable.cost_s), cell, back


def _print_rows(rows: Sequence[tuple[str, ...]], columns: int) -> None:
    """Print a table; on a terminal of 80 columns or more it fits the width."""
    rows = [("VARIABLE", "KIND", "SIZE", "COST", "BY CELL", "COMES BACK"), *rows]
    if columns:
        name, kind = (20, 12) if columns < 100 else (40, 20)
        rows = [(_cut(row[0], name), _cut(row[1], kind), *row[2:]) for row in rows]
        left = sum(max(len(row[n]) for row in rows) + 2 for n in range(5))
        rows = [
            (*(row[:5] if number == 0 else ("",) * 5), line)
            for row in rows
            for number, line in enumerate(textwrap.wrap(row[5], max(_BACK, columns - left), subsequent_indent="  "))
        ]
    print(table(rows))


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _wrap(text: str, columns: int, *, indent: str = "", more: str = "") -> str:
    if not columns:
        return indent + text
    return textwrap.fill(text, columns, initial_indent=indent, subsequent_indent=more)


def _seconds(seconds: float) -> str:
    if seconds < 0.001:
        return "<1 ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _cells(numbers: Sequence[int]) -> str:
    """cell 3; cells 1 and 2; cells 1 to 4 and 6."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][-1] + 1:
            spans[-1].append(number)
        else:
            spans.append([number])
    texts: list[str] = []
    for span in spans:
        texts += [f"{span[0]} to {span[-1]}"] if len(span) > 2 else map(str, span)
    listed = f"{', '.join(texts[:-1])} and {texts[-1]}" if len(texts) > 1 else texts[0]
    return f"cell{'s' if len(numbers) > 1 else ''} {listed}"


def _finished(records: Sequence[CellRecord]) -> str:
    return f"{_cells(range(1, len(records) + 1))} {'has' if len(records) == 1 else 'have'} finished"


def _summarize(head: Head, manifest: Manifest, report: Contents) -> str:
    count = len(report.variables)
    newest = snapshots(manifest.cells)[-1]
    text = f"{count} variable{'s' if count != 1 else ''}, {size(report.size_bytes)}; the snapshot took"
    text += f" {_seconds(report.cost_s)}. {_finished(manifest.cells).capitalize()}"
    if head.is_over:
        text += f", and the run has {'succeeded' if head.state == 'succeeded' else 'failed'}."
    else:
        reruns = [each.rerun for each in report.variables if each.is_rerun] if report.cell == newest else []
        earlier = f", or at cell {min(reruns)} to re-create variables that are not saved" if reruns else ""
        text += f"; a new host resumes at cell {newest + 1}{earlier}."
    if report.others_bytes:
        which = "Older" if report.cell == newest else "Other"
        text += f" {which} snapshots hold {size(report.others_bytes)} more."
    return text
