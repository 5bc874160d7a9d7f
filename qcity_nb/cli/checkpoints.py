"""``qcity checkpoints``: list, diff, verify, export and prune. Only prune changes anything in the store."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qcity_nb.checkpoint.compare import Difference, compare
from qcity_nb.checkpoint.storage.manifest import LoopRecord
from qcity_nb.cli.arguments import load_settings
from qcity_nb.errors import CheckpointCorrupt, UsageError
from qcity_nb.ports import Store
from qcity_nb.published.catalog import Catalog, Checkpoint, Verdict, loop_of, size_to_read
from qcity_nb.published.prune import Plan
from qcity_nb.records import CheckpointRef
from qcity_nb.run import identity
from qcity_nb.stores import open_store
from qcity_nb.views.words import ago, short, size, table

__all__ = ["diff", "export", "list", "prune", "verify"]


def _open(args: argparse.Namespace) -> tuple[Store, str, Catalog]:
    settings = load_settings(args.store)
    store = open_store(settings.store)
    run = identity.match(store, args.run)
    return store, run, Catalog(store, run, settings.local_dir)


def _label(checkpoint: Checkpoint) -> str:
    return str(checkpoint.manifest.values.get("name") or "") if checkpoint.manifest else ""


def _row_of(checkpoint: Checkpoint) -> dict[str, Any]:
    manifest, ref = checkpoint.manifest, checkpoint.ref
    return {
        "seq": checkpoint.seq,
        "step": manifest.step if manifest else ref.step if ref else None,
        "term": checkpoint.term,
        "size_bytes": manifest.size_bytes if manifest else None,
        "new_bytes": checkpoint.new_bytes,
        "at": checkpoint.at,
        "reason": manifest.reason if manifest else "",
        "name": _label(checkpoint),
        "where": [copy.where for copy in checkpoint.copies],
        "damage": [copy.trouble for copy in checkpoint.copies if copy.trouble],
    }


def list(args: argparse.Namespace) -> int:
    """``qcity checkpoints list``."""
    _, run, catalog = _open(args)
    rows = [_row_of(checkpoint) for checkpoint in catalog.checkpoints()]
    if args.json:
        print(json.dumps(rows))
        return 0
    if not rows:
        print(f"{run} has no checkpoint yet, neither in the store nor on this host")
        return 0
    has_names = any(row["name"] for row in rows)
    lines = [("SEQ", "STEP", "ATTEMPT", "SIZE", "NEW", "SAVED", "REASON", *(["NAME"] if has_names else []), "WHERE")]
    lines += [
        (
            str(row["seq"]),
            "-" if row["step"] is None else str(row["step"]),
            str(row["term"]),
            "-" if row["size_bytes"] is None else size(row["size_bytes"]),
            "-" if row["new_bytes"] is None else size(row["new_bytes"]),
            ago(row["at"]),
            "damaged" if row["damage"] else row["reason"] or "-",
            *([row["name"] or "-"] if has_names else []),
            ", ".join(row["where"]),
        )
        for row in rows
    ]
    print(table(lines))
    return 0


# --- diff


def _title(checkpoint: Checkpoint) -> str:
    step = f", step {checkpoint.manifest.step}" if checkpoint.manifest else ""
    return f"checkpoint {checkpoint.seq} (attempt {checkpoint.term}{step})"


def _loops(checkpoint: Checkpoint) -> dict[str, LoopRecord]:
    if checkpoint.manifest is None:
        raise CheckpointCorrupt(f"checkpoint {checkpoint.seq} is damaged: {checkpoint.copies[0].trouble}")
    return {loop.key: loop for loop in checkpoint.manifest.loops}


def diff(args: argparse.Namespace) -> int:
    """``qcity checkpoints diff``."""
    _, _, catalog = _open(args)
    before, after = catalog.find(args.before), catalog.find(args.after)
    old, new = _loops(before), _loops(after)
    keys = [*new, *(key for key in old if key not in new)]
    if args.loop is not None:
        assert after.manifest is not None
        keys = [loop_of(after.manifest, args.loop).key]
    report: dict[str, Any] = {}
    if not args.json:
        print(f"{_title(before)} -> {_title(after)}")
    for key in keys:
        if key not in old or key not in new:
            report[key] = {"only_in": (after if key in new else before).seq}
            if not args.json:
                print(f"loop {key}: only in checkpoint {report[key]['only_in']}")
            continue
        differences = [*_compare(catalog, before, after, key)]
        report[key] = {
            "done": [old[key].done, new[key].done],
            "differences": [_json_of(each) for each in differences if each.what != "equal"],
            "equal": sum(each.what == "equal" for each in differences),
            "generators": "equal" if old[key].generators == new[key].generators else "changed",
        }
        if not args.json:
            _show(key, old[key], new[key], differences)
    if args.json:
        print(json.dumps({"before": before.seq, "after": after.seq, "loops": report}))
    return 0


def _compare(catalog: Catalog, before: Checkpoint, after: Checkpoint, key: str) -> Iterator[Difference]:
    old, new = _loops(before)[key], _loops(after)[key]
    if old.state is None and new.state is None:
        return
    if old.state is None or new.state is None:
        yield Difference(path="state", what="added" if old.state is None else "removed")
        return
    with catalog.incoming() as incoming:
        old_state = catalog.state(before, key, incoming)
        # The same digests are the same bytes, so the second state need not be read.
        new_state = old_state if old.state == new.state else catalog.state(after, key, incoming)
    yield from compare(old_state, new_state)


def _json_of(difference: Difference) -> dict[str, Any]:
    values = asdict(difference)
    for name in ("max_change", "relative"):
        value = values[name]
        if isinstance(value, float) and not math.isfinite(value):
            values[name] = str(value)  # JSON has no infinity and no NaN
    return values


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _share(difference: Difference) -> str:
    percent = round(100 * difference.count / difference.size)
    if difference.count < difference.size and percent == 100:
        return f"{difference.count} (>99%)"
    return f"{difference.count} ({percent}%)" if percent else f"{difference.count} (<1%)"


def _change(difference: Difference) -> str:
    if difference.what == "changed":
        return f"{difference.before} -> {difference.after}" if difference.before or difference.after else "changed"
    value = difference.after if difference.what == "added" else difference.before
    return f"{difference.what}{f': {value}' if value else ''}"


def _show(key: str, old: LoopRecord, new: LoopRecord, differences: Sequence[Difference]) -> None:
    print(f"\nloop {new.name or key}: {old.done} -> {new.done} iterations done")
    changed = [each for each in differences if each.what != "equal"]
    numbers = [("VARIABLE", "TYPE", "CHANGED", "MAX CHANGE", "RELATIVE L2")]
    numbers += [
        (each.path, each.kind, _share(each), _number(each.max_change), _number(each.relative))
        for each in changed
        if each.size
    ]
    others = [("VARIABLE", "TYPE", "CHANGE")]
    others += [(each.path, each.kind, _change(each)) for each in changed if not each.size]
    if len(numbers) > 1:
        others = others[1:]
    # Two tables of one width: in one table the old and new values would make the columns of numbers too wide.
    paths = max((len(each.path) for each in changed), default=0)
    kinds = max((len(each.kind) for each in changed), default=0)
    for rows in (numbers, others):
        if any(row[0] != "VARIABLE" for row in rows):
            print(table([(row[0].ljust(paths), row[1].ljust(kinds), *row[2:]) for row in rows]))
    count = len(differences) - len(changed)
    generators = "equal" if old.generators == new.generators else "changed"
    print(f"{count} variable{'s' if count != 1 else ''} equal; global random generators {generators}")


# --- verify


def verify(args: argparse.Namespace) -> int:
    """``qcity checkpoints verify``."""
    from tqdm import tqdm

    _, run, catalog = _open(args)
    named = {checkpoint.seq: checkpoint for checkpoint in map(catalog.find, args.seqs)}
    checkpoints = [*named.values()] if named else catalog.checkpoints()
    with tqdm(
        total=size_to_read(checkpoints),
        desc="reading",
        unit="B",
        unit_scale=True,
        delay=1.0,
        leave=False,
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
    ) as bar:
        verdicts = [*catalog.verify(checkpoints, see=bar.update)]
    damaged = [verdict for verdict in verdicts if verdict.damage]
    if args.json:
        print(json.dumps([asdict(verdict) for verdict in verdicts]))
    elif verdicts:
        print(table([("SEQ", "WHERE", "OBJECTS", "STATE"), *(_verdict_row(verdict) for verdict in verdicts)]))
    else:
        print(f"{run} has no checkpoint yet, neither in the store nor on this host")
    if damaged:
        raise CheckpointCorrupt("; ".join(_damage(verdict) for verdict in damaged))
    return 0


def _verdict_row(verdict: Verdict) -> tuple[str, str, str, str]:
    return str(verdict.seq), verdict.where, str(verdict.count), "damaged" if verdict.damage else "intact"


def _damage(verdict: Verdict) -> str:
    more = f" (and {len(verdict.damage) - 1} more)" if len(verdict.damage) > 1 else ""
    return f"checkpoint {verdict.seq} in {verdict.where} is damaged: {verdict.damage[0]}{more}"


# --- export


def export(args: argparse.Namespace) -> int:
    """``qcity checkpoints export``."""
    from qcity_nb.checkpoint.formats import safetensors_dcp

    _, _, catalog = _open(args)
    out = Path(args.out).expanduser()
    kind = args.format or ("safetensors" if out.suffix == ".safetensors" else "dcp")
    if out.exists():
        raise UsageError(f"{out} exists already: choose another name")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"{out.parent} is not a directory")
    checkpoint = catalog.find(args.seq)
    _loops(checkpoint)
    assert checkpoint.manifest is not None
    loop = loop_of(checkpoint.manifest, args.loop)
    with catalog.incoming() as incoming:
        state = catalog.state(checkpoint, loop.key, incoming)
    left_out = (
        safetensors_dcp.to_safetensors(state, out) if kind == "safetensors" else safetensors_dcp.to_dcp(state, out)
    )
    written = [out] if out.is_file() else [*out.rglob("*")]
    size_bytes = sum(file.stat().st_size for file in written if file.is_file())
    print(f"{short(out)}: {_title(checkpoint)}, loop {loop.name or loop.key}, {size(size_bytes)}")
    for name, why in left_out.items():
        print(f"left out: {name}, {why}")
    return 0


# --- prune


def prune(args: argparse.Namespace) -> int:
    """``qcity checkpoints prune``."""
    from qcity_nb.published import prune as pruning

    store, run, _ = _open(args)
    planned = pruning.plan(store, run, keep=args.keep)
    if not planned.dropped and not planned.garbage:
        print(f"{run}: nothing to drop; {_seqs(planned.kept)} in {store.address}")
        return 0
    freed = f"{size(planned.freed_bytes)} in {len(planned.garbage)} objects"
    print(f"{run}: keeps {_seqs(planned.kept)}, drops {_seqs(planned.dropped)}; frees {freed}")
    if args.dry_run:
        return 0
    done: Plan = pruning.prune(store, run, keep=args.keep)
    print(f"{run}: dropped {_seqs(done.dropped)}; freed {size(done.freed_bytes)} in {len(done.garbage)} objects")
    return 0


def _seqs(refs: Sequence[CheckpointRef]) -> str:
    numbers = ", ".join(str(ref.seq) for ref in refs)
    return f"checkpoint{'s' if len(refs) > 1 else ''} {numbers}" if refs else "no checkpoint"
