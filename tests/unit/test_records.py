"""Stored records keep what they do not know: a key of a newer version survives an older one, at every depth."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import pkgutil
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import qcity_nb
from qcity_nb import codec
from qcity_nb.checkpoint.storage import manifest as manifests
from qcity_nb.checkpoint.storage.pack import ObjectRef
from qcity_nb.kernel.loop_state import Loop
from qcity_nb.ports import Launcher
from qcity_nb.published import finish_tracking, prune
from qcity_nb.records import AttemptSpec, Event, Head, Heartbeat, Holder, Row
from qcity_nb.run import identity, lease
from qcity_nb.run.keeper import Keeper
from qcity_nb.run.mailbox import Answer, Request, Status
from qcity_nb.settings import load
from qcity_nb.sidecar.drain import Drain
from qcity_nb.sidecar.start import Config
from qcity_nb.stores.memory import MemoryStore

PACKAGE = Path(qcity_nb.__file__).parent
NOT_RECORDS: dict[Any, str] = {
    Row: "stored as a list in a line of its own (tracking/outbox.py), which nobody changes once it is written",
    ObjectRef: "stored as a list in a manifest's `packs`; a place is made anew with each pack",
}
BUILT_ANEW = {
    ("city.py", "DesiredState"): "of a new run",
    ("engine/engine.py", "DesiredState"): "of a new run",
    ("cli/run.py", "DesiredState"): "of a new run",
    ("cli/run.py", "Relaunch"): "of a new run",
    ("cli/demo.py", "DesiredState"): "of a new run",
    ("run/identity.py", "DesiredState"): "of a new run",
    ("run/identity.py", "Relaunch"): "of a new run",
    ("run/keeper.py", "PendingLaunch"): "a new launch",
    ("run/keeper.py", "Failure"): "a new failure",
    ("engine/client.py", "Failure"): "a new failure",
    ("sidecar/sidecar.py", "Holder"): "a new holder; one that rejoins keeps the old one's",
    ("published/prune.py", "Holder"): "a new holder",
    ("sidecar/publish.py", "CheckpointRef"): "a new checkpoint",
    ("checkpoint/checkpointer.py", "LoopRecord"): "a new checkpoint; the state is all that it holds",
    ("kernel/loop_state.py", "LoopRecord"): "gets the loop's `extra`",
    ("checkpoint/encode.py", "Encoded"): "a new capture",
    ("kernel/finished_cells.py", "GroupRecord"): "a new capture",
    ("kernel/finished_cells.py", "NamespaceRecord"): "a new snapshot of the variables and settings as they are now",
    ("kernel/engine_requests.py", "CellRecord"): "a cell that was executed now",
    ("interactive/follower.py", "CellRecord"): "a cell that was executed now",
    ("checkpoint/storage/record_pages.py", "Page"): "a page that is written now",
    ("records.py", "DesiredState"): "a default",
    ("records.py", "Tracked"): "a default",
    ("records.py", "Relaunch"): "a default",
    ("records.py", "Launches"): "a default",
}
"""Where a part of a run record or manifest is built field by field, and why nothing of a newer version is lost there.

Manifests themselves and their counts of rows are made anew with each checkpoint: what one says of itself is not true of
the next.
"""


def _modules() -> Iterator[types.ModuleType]:
    for info in pkgutil.walk_packages([str(PACKAGE)], "qcity_nb."):
        if not info.name.startswith("qcity_nb.testing") and not info.name.endswith("__main__"):
            try:
                yield importlib.import_module(info.name)
            except ImportError:  # of an optional dependency
                continue


def _nested(kind: Any) -> Iterator[Any]:
    if dataclasses.is_dataclass(kind):
        yield kind
    for part in typing.get_args(kind):
        yield from _nested(part)


def _reachable(*roots: type) -> set[type]:
    classes: set[type] = set()
    waiting = list(roots)
    while waiting:
        cls = waiting.pop()
        if cls not in classes:
            classes.add(cls)
            for hint in typing.get_type_hints(cls).values():
                waiting += _nested(hint)
    return classes


def _record_types() -> set[type]:
    for _ in _modules():
        pass
    roots, waiting = set[type](), [codec.Record]
    while waiting:
        for cls in waiting.pop().__subclasses__():
            roots.add(cls)
            waiting.append(cls)
    # A class with slots is a second one: the first has the same name, and goes away later.
    mine = [cls for cls in roots if getattr(sys.modules[cls.__module__], cls.__qualname__, None) is cls]
    return _reachable(*mine, Head, Event, AttemptSpec, manifests.Manifest, Status, Request, Answer, Config)


RECORDS = sorted(_record_types() - NOT_RECORDS.keys(), key=lambda cls: cls.__qualname__)


@pytest.mark.parametrize("cls", RECORDS, ids=lambda cls: cls.__qualname__)
def test_each_type_of_a_stored_record_keeps_unknown_keys(cls: type) -> None:
    assert issubclass(cls, codec.Record)


def test_what_codec_decodes_is_a_record() -> None:
    names = {cls.__name__ for cls in RECORDS}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
                owner = node.func.value
                if isinstance(owner, ast.Name) and owner.id == "codec" and node.func.attr in ("loads", "decode"):
                    assert ast.unparse(node.args[0]).split(".")[-1] in names, f"{path}:{node.lineno}"


def test_records_are_changed_by_replace_and_built_anew_only_where_nothing_is_lost() -> None:
    whole: set[type] = {Head, manifests.Manifest, manifests.Context, Heartbeat, ObjectRef}
    names = {cls.__name__ for cls in _reachable(Head, manifests.Manifest) - whole}
    built = set()
    for path in PACKAGE.rglob("*.py"):
        place = path.relative_to(PACKAGE).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("qcity_nb")
            for alias in node.names
        } | {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names & imported:
                built.add((place, node.func.id))
    built = {(place, name) for place, name in built if not place.startswith(("testing/", "data/"))}
    assert sorted(built - BUILT_ANEW.keys()) == []
    assert sorted(BUILT_ANEW.keys() - built) == []


def _stored(kind: Any) -> list[dataclasses.Field[Any]]:
    return [each for each in dataclasses.fields(kind) if each.metadata.get("stored", True)]


def _example(kind: Any) -> Any:
    """A value of that type, with every optional part present."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        fields = {each.name: hints[each.name] for each in _stored(kind) if each.name != "extra"}
        values = {name: _example(hint) for name, hint in fields.items()}
        if kind is manifests.Manifest:
            values["objects"] = {}
        return typing.cast(Any, kind)(**values)
    if origin is typing.Literal:
        return args[0]
    if origin in (typing.Union, types.UnionType):
        return _example(next(part for part in args if part is not type(None)))
    if origin is tuple:
        return (_example(args[0]),) if args[-1] is Ellipsis else tuple(_example(part) for part in args)
    if origin is Mapping:
        return {"k": _example(args[1])}
    if kind in (Any, object):
        return 1
    return {str: "x", int: 1, float: 0.5, bool: True}[kind]


def _add_unknown(kind: Any, value: Any) -> int:
    """Add a key to every record in its JSON form; returns how many."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and kind not in NOT_RECORDS:
        value["tomorrow"] = {"a": [1, None], "x": {"float": "nan"}}
        hints = typing.get_type_hints(kind)
        return 1 + sum(_add_unknown(hints[each.name], value.get(each.name)) for each in _stored(kind))
    if value is None:
        return 0
    if origin in (typing.Union, types.UnionType):
        return _add_unknown(next(part for part in args if part is not type(None)), value)
    if origin is tuple:
        parts = args[:1] * len(value) if args[-1] is Ellipsis else args
        return sum(_add_unknown(part, item) for part, item in zip(parts, value, strict=True))
    if origin is Mapping:
        return sum(_add_unknown(args[1], item) for item in value.values())
    return 0


@pytest.mark.parametrize("cls", RECORDS, ids=lambda cls: cls.__qualname__)
def test_unknown_keys_at_every_depth_survive_a_change(cls: type) -> None:
    plain = codec.encode(_example(cls))
    count = _add_unknown(cls, plain)
    record: Any = codec.loads(cls, codec.dumps(plain))
    assert codec.encode(record) == plain
    for each in dataclasses.fields(cls):
        if each.name != "extra":
            changed = codec.dumps(replace(record, **{each.name: getattr(record, each.name)}))
            assert changed.count(b'"tomorrow"') == count
    again: Any = codec.loads(cls, codec.dumps(record))
    assert again.extra.keys() == {"tomorrow"}


def test_unknown_keys_never_override_known_ones() -> None:
    head = replace(Head(run="r", key="k", project="p", notebook="n"), extra={"run": "other", "new": 1})
    assert codec.encode(head)["run"] == "r"


def test_a_heartbeat_with_unknown_keys_is_the_same_heartbeat() -> None:
    plain = codec.encode(_example(AttemptSpec))
    _add_unknown(AttemptSpec, plain)
    spec = codec.decode(AttemptSpec, plain)
    assert spec.declared_dead is not None
    assert spec.declared_dead == replace(spec.declared_dead, extra={})
    assert hash(spec.declared_dead) == hash(replace(spec.declared_dead, extra={}))


# -- the operations


def _paths(value: Any, path: str = "") -> set[str]:
    """Where a newer version's key is in a run record."""
    paths: set[str] = set()
    if isinstance(value, dict):
        for key, item in value.items():
            paths |= {path} if key == "tomorrow" else _paths(item, f"{path}/{key}")
    elif isinstance(value, list):
        for item in value:
            paths |= _paths(item, f"{path}/*")
    return paths


class World:
    """A run in a store, whose record a newer version has written."""

    def __init__(self, name: str, **changes: Any) -> None:
        self.store = MemoryStore(name)
        head = _example(Head)
        base = {"run": "r-1", "holder": None, "term": 0, "heartbeat": 0, "state": "running", "checkpoints": ()}
        head = replace(head, **{**base, "outbox": "", "journal": "", "writes": (), **changes})
        plain = codec.encode(head)
        _add_unknown(Head, plain)
        lease.create(self.store, codec.decode(Head, plain))
        self.before = _paths(plain)

    def paths(self) -> set[str]:
        return _paths(codec.encode(lease.read(self.store, "r-1").head))

    def kept(self, *gone: str) -> bool:
        paths = self.paths()
        return {path for path in self.before if path not in gone and not path.startswith(gone or "-")} <= paths


def test_a_lease_keeps_them_from_acquire_to_release(request: pytest.FixtureRequest) -> None:
    world = World(request.node.name)
    held = lease.acquire(world.store, "r-1", Holder(attempt="a", host="local"))
    held.renew()
    held.update(lambda head: replace(head, tracked=replace(head.tracked, drained_seq=1)))
    held.release()
    assert world.kept()


def test_a_holder_that_rejoins_keeps_them(request: pytest.FixtureRequest) -> None:
    world = World(request.node.name)
    me = Holder(attempt="a", host="local")
    held = lease.acquire(world.store, "r-1", me)
    held.update(lambda head: replace(head, holder=replace(me, since="x", extra={"tomorrow": 1})))
    lease.rejoin(world.store, "r-1", me)
    assert "/holder" in world.paths()
    assert world.kept()


def test_stop_and_reopen_keep_them(request: pytest.FixtureRequest) -> None:
    world = World(request.node.name)
    lease.amend(
        world.store, "r-1", lambda head: replace(head, state="stopped", desired=replace(head.desired, state="stopped"))
    )
    identity.reopen(world.store, "r-1", hosts=("local",))
    assert world.kept()


def test_a_keeper_keeps_them(request: pytest.FixtureRequest) -> None:
    """It withdraws a pending launch that never began, counts the failure, and at last gives the run up."""
    world = World(request.node.name)
    keeper = Keeper(world.store, load(Path("/"), environ={}), launchers=dict[str, Launcher]().__getitem__)
    keeper._clear(lease.read(world.store, "r-1").head, "it did not appear", is_failure=True)
    head = lease.read(world.store, "r-1").head
    assert head.pending_launch is None
    assert head.launches.failed >= 1
    assert world.kept("/pending_launch")
    keeper._fail(head, "the budget is spent", "")
    assert world.kept("/pending_launch", "/failure")  # the failure is a new one


def test_the_drain_keeps_them(request: pytest.FixtureRequest) -> None:
    world = World(request.node.name)
    held = lease.acquire(world.store, "r-1", Holder(attempt="a", host="local"))
    drain = Drain(held, uri="", experiment="", tags={}, say=lambda text: None)
    drain._note_sent(3, 10)
    held.update(drain.change)
    assert lease.read(world.store, "r-1").head.tracked.drained_seq == 3
    assert world.kept()


def test_finishing_the_tracking_keeps_them(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    world = World(request.node.name, state="succeeded")
    uri = f"jsonl:{tmp_path}/rows"
    lease.amend(world.store, "r-1", lambda head: replace(head, tracked=replace(head.tracked, uri=uri, run_id="")))
    finish_tracking.finish_tracking(world.store, "r-1", tracking=uri, experiment="e")
    assert lease.read(world.store, "r-1").head.tracked.status == "FINISHED"
    assert world.kept()


def test_pruning_keeps_them(request: pytest.FixtureRequest) -> None:
    world = World(request.node.name, state="stopped")
    prune.prune(world.store, "r-1", keep=1)
    assert world.kept()


def test_a_loop_of_a_newer_version_keeps_them_through_a_resume() -> None:
    record = replace(_example(manifests.LoopRecord), extra={"tomorrow": 1})
    loop = Loop.of(record)
    loop.advance()
    assert loop.snapshot().record({}).extra == {"tomorrow": 1}
