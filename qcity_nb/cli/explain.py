"""``qcity explain``: the variables that a new host would find, how large each is, what it costs, how it comes back.

Only manifests are read, no variable is loaded.
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

from qcity_nb import settings
from qcity_nb.checkpoint.storage.manifest import CellRecord, Manifest
from qcity_nb.cli.arguments import address_of, settings_for
from qcity_nb.cli.snapshot_contents import Account, Variable, account, snapshots
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
"""On a terminal the last column is at least so wide."""


def explain(args: argparse.Namespace) -> int:
    """``qcity explain``."""
    given, store, run = _find(args)
    head = lease.read(store, run).head
    found = next((one for one in Catalog(store, run, given.local_dir).checkpoints() if one.manifest is not None), None)
    manifest = found.manifest if found is not None else None
    if found is None or manifest is None or not snapshots(manifest.cells):
        why = _why_not(store, head, manifest)
        print(json.dumps({"run": run, "variables": [], "why": why}) if args.json else f"{run}: {why}")
        return 0
    behind = snapshots(manifest.cells)
    cell = behind[-1] if args.cell is None else args.cell
    if cell not in behind:
        raise UsageError(f"{run} has no snapshot behind cell {cell}; there are some behind {_cells(behind)}")
    report = account(manifest.cells, manifest.objects, cell)
    if args.json:
        print(json.dumps(_facts(head, found, manifest, report)))
    else:
        _show(head, found, manifest, report)
    return 0


def _find(args: argparse.Namespace) -> tuple[Settings, Store, str]:
    """A notebook's path means its newest run."""
    path = Path(args.run).expanduser().absolute()
    if path.suffix != ".ipynb":
        given = settings.load(overrides={"store": address_of(args.store)})
        store = open_store(given.store)
        return given, store, identity.match(store, args.run)
    given = settings_for(path, args.store)
    store = open_store(given.store)
    root = given.project.root
    name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
    heads = []
    for run in store.runs():
        try:
            heads.append(lease.read(store, run).head)
        except (HeadCorrupt, UnknownRun):
            continue  # one bad head must not hide the others
    own = [head for head in heads if (head.project, head.notebook) == (given.project.name, name)]
    if not own:
        raise UnknownRun(f"no run of {short(path)} in {store.address}: `qcity ps` lists what is there")
    return given, store, max(own, key=lambda head: head.created).run


def _why_not(store: Store, head: Head, manifest: Manifest | None) -> str:
    """Why there is nothing to explain."""
    if manifest is None:
        return "no checkpoint yet, neither in the store nor on this host"
    report = [event.data.get("message", "") for event in events(store, head.run, head) if event.kind == "no-snapshots"]
    if report:
        return f"no variables are saved: {report[-1]}"
    if manifest.cells:
        return f"{_finished(manifest.cells)}, with no snapshot of the variables behind any: a new host runs all again"
    return "no finished cell is recorded: its checkpoints hold the states of loops alone"


# --- for scripts


def _facts(head: Head, found: Checkpoint, manifest: Manifest, report: Account) -> dict[str, Any]:
    behind = snapshots(manifest.cells)
    return {
        "run": head.run,
        "checkpoint": found.seq,
        "at": found.at,
        "where": [copy.where for copy in found.copies],
        "cell": report.cell,
        "finished": len(manifest.cells),
        "snapshots": behind,
        "goes_on_at": None if head.is_over else behind[-1] + 1,
        "variables": [{**asdict(one), "rerun": _rerun_words(one)} for one in report.variables],
        "size_bytes": report.size_bytes,
        "cost_s": report.cost_s,
        "others_bytes": report.others_bytes,
    }


def _rerun_words(one: Variable) -> int | None:
    return one.rerun if one.is_rerun else None


# --- for people


def _show(head: Head, found: Checkpoint, manifest: Manifest, report: Account) -> None:
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    print(f"{head.run}: the variables behind cell {report.cell}, in checkpoint {found.seq}, saved {ago(found.at)}")
    absent = [one for one in report.variables if one.back == "absent"]
    others = [one for one in report.variables if one.back != "absent"]
    for one in absent:
        print()
        print(_wrapped(f"{one.name} ({_short(one.kind)}) is not saved: {one.why}", columns, more="  "))
        for line in _instead(one, report.cell):
            print(_wrapped(line, columns, indent="    ", more="    "))
    if others:
        print()
        _print_rows([_row(one) for one in others], columns)
    print()
    print(_wrapped(_whole(head, manifest, report), columns))


def _short(kind: str) -> str:
    return kind.rpartition(".")[2] or "-"


def _instead(one: Variable, cell: int) -> Iterator[str]:
    """What becomes of it, and what the user can do."""
    if one.is_rerun:
        verb = "runs" if one.rerun == cell else "run"
        cells = _cells(range(one.rerun, cell + 1))
        took = _seconds(one.rerun_s)
        yield f"{cells} {verb} again ({took}) if a later cell needs it; else its use raises VariableLost"
    else:
        why = f"to make it again would take {_seconds(one.rerun_s)}"
        yield f"its use raises VariableLost: {'a loop has finished since it was made' if one.has_loop else why}"
    if one.advice:
        yield f"advice: {one.advice}"


def _row(one: Variable) -> tuple[str, ...]:
    if one.back == "imported":
        back = "imported" if one.module == one.name else f"imported: {one.module}"
        return one.name, one.kind, "-", "-", "-", back
    first, last = one.changed or (0, 0)
    cell = str(last) if first == last else f"{first}-{last}"
    if one.shares and one.shares[0] < one.name:
        return one.name, _short(one.kind), "-", "-", cell, f"restored with {one.shares[0]}"
    back = "restored"
    if one.fresh:
        back += f", new inside: {', '.join(one.fresh)}"
    if one.shares:
        back += f", shares with {', '.join(one.shares)}"
    return one.name, _short(one.kind), size(one.size_bytes), _seconds(one.cost_s), cell, back


def _print_rows(rows: Sequence[tuple[str, ...]], columns: int) -> None:
    """As a table; on a terminal it is made to fit, from 80 columns on."""
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


def _wrapped(text: str, columns: int, *, indent: str = "", more: str = "") -> str:
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


def _whole(head: Head, manifest: Manifest, report: Account) -> str:
    count = len(report.variables)
    newest = snapshots(manifest.cells)[-1]
    text = f"{count} variable{'s' if count != 1 else ''}, {size(report.size_bytes)}; the snapshot took"
    text += f" {_seconds(report.cost_s)}. {_finished(manifest.cells).capitalize()}"
    if head.is_over:
        text += f", and the run has {'succeeded' if head.state == 'succeeded' else 'failed'}."
    else:
        again = [one.rerun for one in report.variables if one.is_rerun] if report.cell == newest else []
        earlier = f", or at cell {min(again)} to make again what is absent" if again else ""
        text += f"; a new host goes on at cell {newest + 1}{earlier}."
    if report.others_bytes:
        which = "Older" if report.cell == newest else "Other"
        text += f" {which} snapshots hold {size(report.others_bytes)} more."
    return text
