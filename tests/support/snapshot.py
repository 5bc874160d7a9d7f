"""A shot's content as bytes that another process can read, and that process."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qcity_nb.checkpoint.encode import decode_state, encode_state
from qcity_nb.checkpoint.state.capture import Captured
from qcity_nb.namespace.records import NamespaceSnapshot, NotSaved
from qcity_nb.namespace.snapshot import NamespaceSnapshotter

Groups = list[tuple[tuple[str, ...], Captured]]


class Keep:
    """What a store would do: objects by name, groups by their names."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.groups: dict[tuple[str, ...], Any] = {}
        self.modules: dict[str, str] = {}
        self.not_saved: list[NotSaved] = []
        self.new: dict[tuple[str, ...], int] = {}
        """Bytes that were not there yet, by group."""

    def take(self, snapshot: NamespaceSnapshot) -> None:
        """Write a shot; its arena is free again."""
        groups = {names: self.groups[names] for names in snapshot.kept}
        self.new = {}
        for group in snapshot.groups:
            encoded, objects = encode_state(group.captured)
            fresh = {name: bytes(data) for name, data in objects.items() if name not in self.objects}
            self.objects.update(fresh)
            self.new[group.names] = sum(map(len, fresh.values()))
            groups[group.names] = encoded
        self.groups, self.modules, self.not_saved = groups, snapshot.modules, snapshot.not_saved
        snapshot.release()

    def read(self) -> Groups:
        """The groups again."""
        return [(names, decode_state(encoded, self.objects.__getitem__)) for names, encoded in self.groups.items()]


PROGRAM = """
import pickle, sys
from snapshot import Keep
from qcity_nb.namespace.snapshot import NamespaceSnapshotter
with open(sys.argv[1], "rb") as _file:
    _keep = pickle.load(_file)
not_saved = NamespaceSnapshotter(globals()).restore(_keep.read(), _keep.modules, _keep.not_saved)
"""


def kept(live: dict[str, Any]) -> Keep:
    """A namespace, captured and kept."""
    keep = Keep()
    keep.take(NamespaceSnapshotter(live).capture())
    return keep


def restored(keep: Keep, into: dict[str, Any] | None = None) -> dict[str, Any]:
    """In this process, in a namespace of its own."""
    live: dict[str, Any] = {} if into is None else into
    NamespaceSnapshotter(live).restore(keep.read(), keep.modules, keep.not_saved)
    return live


def in_new_process(keep: Keep, check: str, folder: Path) -> str:
    """Restore into the ``__main__`` of a new process, run ``check`` there, and give what it prints."""
    file = folder / "snapshot"
    file.write_bytes(pickle.dumps(keep))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + check, str(file)],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=folder,
        env={"PYTHONPATH": ":".join([str(Path(__file__).parent), str(Path(__file__).parents[2])])},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def cell(source: str, live: dict[str, Any] | None = None) -> dict[str, Any]:
    """A namespace in which a cell has run, as in a kernel's ``__main__``."""
    live = {} if live is None else live
    live["__name__"] = "__main__"
    exec(compile(source, "<cell>", "exec"), live)
    return live


def names(groups: Iterable[Any]) -> set[tuple[str, ...]]:
    return {group.names for group in groups}
