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

from qcity_nb import settings
from qcity_nb.checkpoint.compare import Difference, compare
from qcity_nb.checkpoint.storage.manifest import LoopRecord
from qcity_nb.cli.arguments import address_of
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
    given = settings.load(overrides={"store": address_of(args.store)})
    store = open_store(given.store)
    run = identity.match(store, args.run)
    return store, run, Catalog(store, run, given.local_dir)


def _name(one: Checkpoint) -> str:
    return str(one.manifest.values.get("name") or "") if one.manifest else ""


def _facts(one: Checkpoint) -> dict[str, Any]:
    manifest, ref = one.manifest, one.ref
    return {
        "seq": one.seq,
        "step": manifest.step if manifest else ref.step if ref else None,
        "term": one.term,
        "size_bytes": manifest.size_bytes if manifest else None,
        "new_bytes": one.new_bytes,
        "at": one.at,
        "reason": manifest.reason if manifest else "",
        "name": _name(one),
        "where": [copy.where for copy in one.copies],
        "damage": [copy.trouble for copy in one.copies if copy.trouble],
    }


def list(args: argparse.Namespace) -> int:
    """``qcity checkpoints list``."""
    _, run, catalog = _open(args)
    facts = [_facts(one) for one in catalog.checkpoints()]
    if args.json:
        print(json.dumps(facts))
        return 0
    if not facts:
        print(f"{run} has no checkpoint yet, neither in the store nor on this host")
        return 0
    has_names = any(fact["name"] for fact in facts)
    rows = [("SEQ", "STEP", "EPOCH", "SIZE", "NEW", "SAVED", "REASON", *(["NAME"] if has_names else []), "WHERE")]
    rows += [
        (
            str(fact["seq"]),
            "-" if fact["step"] is None else str(fact["step"]),
            str(fact["term"]),
            "-" if fact["size_bytes"] is None else size(fact["size_bytes"]),
            "-" if fact["new_bytes"] is None else size(fact["new_bytes"]),
            ago(fact["at"]),
            "damaged" if fact["damage"] else fact["reason"] or "-",
            *([fact["name"] or "-"] if has_names else []),
            ", ".join(fact["where"]),
        )
        for fact in facts
    ]
    print(table(rows))
    return 0


# --- diff


def _title(one: Checkpoint) -> str:
    step = f", step {one.manifest.step}" if one.manifest else ""
    return f"checkpoint {one.seq} (epoch {one.term}{step})"


def _loops(one: Checkpoint) -> dict[str, LoopRecord]:
    if one.manifest is None:
        raise CheckpointCorrupt(f"checkpoint {one.seq} is damaged: {one.copies[0].trouble}")
    return {loop.key: loop for loop in one.manifest.loops}


def diff(args: argparse.Namespace) -> int:
    """``qcity checkpoints diff``."""
    _, _, catalog = _open(args)
    before, after = catalog.find(args.before), catalog.find(args.after)
    old, new = _loops(before), _loops(after)
    keys = [*new, *(key for key in old if key not in new)]
    if args.loop is not None:
        assert after.manifest is not None
        keys = [loop_of(after.manifest, args.loop).key]
    said: dict[str, Any] = {}
    if not args.json:
        print(f"{_title(before)} -> {_title(after)}")
    for key in keys:
        if key not in old or key not in new:
            said[key] = {"only_in": (after if key in new else before).seq}
            if not args.json:
                print(f"loop {key}: only in checkpoint {said[key]['only_in']}")
            continue
        found = [*_differences(catalog, before, after, key)]
        said[key] = {
            "done": [old[key].done, new[key].done],
            "differences": [_json_of(one) for one in found if one.what != "equal"],
            "equal": sum(one.what == "equal" for one in found),
            "generators": "equal" if old[key].generators == new[key].generators else "changed",
        }
        if not args.json:
            _show(key, old[key], new[key], found)
    if args.json:
        print(json.dumps({"before": before.seq, "after": after.seq, "loops": said}))
    return 0


def _differences(catalog: Catalog, before: Checkpoint, after: Checkpoint, key: str) -> Iterator[Difference]:
    old, new = _loops(before)[key], _loops(after)[key]
    if old.state is None and new.state is None:
        return
    if old.state is None or new.state is None:
        yield Difference(path="state", what="added" if old.state is None else "removed")
        return
    with catalog.incoming() as incoming:
        one = catalog.state(before, key, incoming)
        # The same digests are the same bytes, so the second one need not be read.
        other = one if old.state == new.state else catalog.state(after, key, incoming)
    yield from compare(one, other)


def _json_of(one: Difference) -> dict[str, Any]:
    facts = asdict(one)
    for name in ("max_change", "relative"):
        value = facts[name]
        if isinstance(value, float) and not math.isfinite(value):
            facts[name] = str(value)  # JSON has no word for it
    return facts


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _share(one: Difference) -> str:
    percent = round(100 * one.count / one.size)
    if one.count < one.size and percent == 100:
        return f"{one.count} (>99%)"
    return f"{one.count} ({percent}%)" if percent else f"{one.count} (<1%)"


def _change(one: Difference) -> str:
    if one.what == "changed":
        return f"{one.before} -> {one.after}" if one.before or one.after else "changed"
    value = one.after if one.what == "added" else one.before
    return f"{one.what}{f': {value}' if value else ''}"


def _show(key: str, old: LoopRecord, new: LoopRecord, found: Sequence[Difference]) -> None:
    print(f"\nloop {new.name or key}: {old.done} -> {new.done} iterations done")
    changed = [one for one in found if one.what != "equal"]
    numbers = [("VARIABLE", "TYPE", "CHANGED", "MAX CHANGE", "RELATIVE L2")]
    numbers += [
        (one.path, one.kind, _share(one), _number(one.max_change), _number(one.relative)) for one in changed if one.size
    ]
    others = [("VARIABLE", "TYPE", "CHANGE")]
    others += [(one.path, one.kind, _change(one)) for one in changed if not one.size]
    if len(numbers) > 1:
        others = others[1:]
    # Two tables of one width: what a value was and is would make the columns of numbers too wide.
    paths = max((len(one.path) for one in changed), default=0)
    kinds = max((len(one.kind) for one in changed), default=0)
    for rows in (numbers, others):
        if any(row[0] != "VARIABLE" for row in rows):
            print(table([(row[0].ljust(paths), row[1].ljust(kinds), *row[2:]) for row in rows]))
    count = len(found) - len(changed)
    generators = "equal" if old.generators == new.generators else "changed"
    print(f"{count} variable{'s' if count != 1 else ''} equal; global random generators {generators}")


# --- verify


def verify(args: argparse.Namespace) -> int:
    """``qcity checkpoints verify``."""
    from tqdm import tqdm

    _, run, catalog = _open(args)
    named = {found.seq: found for found in map(catalog.find, args.seqs)}
    found = [*named.values()] if named else catalog.checkpoints()
    with tqdm(
        total=size_to_read(found),
        desc="reading",
        unit="B",
        unit_scale=True,
        delay=1.0,
        leave=False,
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
    ) as bar:
        verdicts = [*catalog.verify(found, see=bar.update)]
    damaged = [one for one in verdicts if one.damage]
    if args.json:
        print(json.dumps([asdict(one) for one in verdicts]))
    elif verdicts:
        print(table([("SEQ", "WHERE", "OBJECTS", "STATE"), *(_verdict_row(one) for one in verdicts)]))
    else:
        print(f"{run} has no checkpoint yet, neither in the store nor on this host")
    if damaged:
        raise CheckpointCorrupt("; ".join(_damage(one) for one in damaged))
    return 0


def _verdict_row(one: Verdict) -> tuple[str, str, str, str]:
    return str(one.seq), one.where, str(one.count), "damaged" if one.damage else "whole"


def _damage(one: Verdict) -> str:
    more = f" (and {len(one.damage) - 1} more)" if len(one.damage) > 1 else ""
    return f"checkpoint {one.seq} in {one.where} is damaged: {one.damage[0]}{more}"


# --- export


def export(args: argparse.Namespace) -> int:
    """``qcity checkpoints export``."""
    from qcity_nb.checkpoint.formats import safetensors_dcp

    _, _, catalog = _open(args)
    out = Path(args.out).expanduser()
    kind = args.format or ("safetensors" if out.suffix == ".safetensors" else "dcp")
    if out.exists():
        raise UsageError(f"{out} is there already: name another one")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"{out.parent} is no directory")
    found = catalog.find(args.seq)
    _loops(found)
    assert found.manifest is not None
    loop = loop_of(found.manifest, args.loop)
    with catalog.incoming() as incoming:
        state = catalog.state(found, loop.key, incoming)
    left_out = (
        safetensors_dcp.to_safetensors(state, out) if kind == "safetensors" else safetensors_dcp.to_dcp(state, out)
    )
    written = [out] if out.is_file() else [*out.rglob("*")]
    size_bytes = sum(file.stat().st_size for file in written if file.is_file())
    print(f"{short(out)}: {_title(found)}, loop {loop.name or loop.key}, {size(size_bytes)}")
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
