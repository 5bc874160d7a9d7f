"""The variables of a kernel: captured, and restored into another one."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

from qcity_nb.checkpoint.state import freezer as freezing
from qcity_nb.checkpoint.state.capture import Captured, copy_span
from qcity_nb.checkpoint.state.freezer import Freezer
from qcity_nb.checkpoint.state.frozen_buffer import Content
from qcity_nb.checkpoint.state.pickling import Dumped
from qcity_nb.errors import CheckpointCorrupt, StateRefused, StoreError
from qcity_nb.namespace import gc_pause
from qcity_nb.namespace.grouping import Known, Part, group_variables
from qcity_nb.namespace.modules import cells_imports, import_all, importable
from qcity_nb.namespace.pickler import PickleContext
from qcity_nb.namespace.prefetch import read_ahead
from qcity_nb.namespace.records import Group, NamespaceSnapshot, NotSaved
from qcity_nb.namespace.tombstone import not_saved_of, put_tombstone
from qcity_nb.namespace.unpickler import Restoring, load
from qcity_nb.namespace.unsaveable import describe_load_failure, kind_name
from qcity_nb.secrets import SecretSearch

__all__ = ["NamespaceSnapshotter", "hidden_by", "is_hidden"]

_NAMES = frozenset({"In", "Out", "get_ipython", "exit", "quit", "_", "_dh", "_oh", "_ih", "_sh", "_exit_code"})
_NUMBERED = re.compile(r"_(i{1,3}|i?\d+)")
_MISSING = object()


def is_hidden(name: str, value: object) -> bool:
    """Does the variable belong to IPython, or begin with two underscores?

    Source: IPython.core.interactiveshell.InteractiveShell.init_user_ns; IPython.core.displayhook and history.
    """
    if name.startswith("_"):
        return name.startswith("__") or name in _NAMES or _NUMBERED.fullmatch(name) is not None
    if name in _NAMES:
        return True
    return name == "open" and str(getattr(value, "__module__", "")).partition(".")[0] in ("IPython", "io", "_io")


def hidden_by(shell: Mapping[str, object]) -> Callable[[str, object], bool]:
    """A predicate for ``NamespaceSnapshotter`` that also hides what is in ``shell``, IPython's ``user_ns_hidden``.

    A variable of such a name that the user has rebound is not hidden.
    """

    def hidden(name: str, value: object) -> bool:
        return is_hidden(name, value) or shell.get(name, _MISSING) is value

    return hidden


class NamespaceSnapshotter:
    """Captures and restores a kernel's namespace.

    Args:
        live: the namespace itself, IPython's ``shell.user_ns``.
        freezer: allocates the memory, and knows what has not changed; without one each buffer is copied to new memory.
        hidden: which variables are not the user's; ``hidden_by(shell.user_ns_hidden)`` knows IPython's list.
    """

    def __init__(
        self,
        live: dict[str, Any],
        freezer: Freezer | None = None,
        *,
        hidden: Callable[[str, object], bool] = is_hidden,
    ) -> None:
        self.live = live
        self._freezer = freezer
        self._hidden = hidden
        self._known: list[Known] = []
        self._secrets: SecretSearch | None = None
        """What the variables in ``_known`` were searched for."""
        self._submodules: set[str] = set()

    def capture(
        self,
        *,
        stored: Collection[str] = (),
        skip: Collection[str] = (),
        may_stream: bool = False,
        limit_s: float = math.inf,
    ) -> NamespaceSnapshot:
        """Copy the variables: they may change afterwards, unless ``NamespaceSnapshot.is_live``.

        Args:
            stored: names of objects that need not be copied again; see ``checkpoint.state.capture.capture``.
            skip: variables whose value is known to be unchanged. A group is not pickled if all of its variables are
                among them and are still the same objects; it is listed in ``kept``.
            may_stream: if memory is short, return the live buffers themselves.
            limit_s: pickling is aborted if it takes longer.
        Raises:
            Overdue: pickling was aborted; this does not affect the next capture.
            StateRefused: there is not enough memory for a copy.
        Does not: stop other threads, which may change what is being read.
        """
        snapshot = NamespaceSnapshot()
        values = self._variables(snapshot)
        context = PickleContext.of(self.live, limit_s)
        if context.secrets is self._secrets:
            context.clean = frozenset(group.stream for group in self._known)
        grouping = group_variables(values, context, self._known, skip)
        self._secrets = context.secrets
        self._freeze(snapshot, grouping.parts, values, stored, may_stream=may_stream)
        snapshot.kept = [group.names for group in grouping.kept]
        snapshot.not_saved += grouping.not_saved
        self._known = grouping.kept + [Known.of(part, values) for part in grouping.parts]
        return snapshot

    def _variables(self, snapshot: NamespaceSnapshot) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, value in list(self.live.items()):
            if type(name) is not str:
                continue
            not_saved = not_saved_of(value)
            if not_saved is not None:
                snapshot.not_saved.append(replace(not_saved, name=name))
            elif not self._hidden(name, value):
                module = importable(value)
                if module:
                    snapshot.modules[name] = module
                else:
                    values[name] = value
        self._submodules.update(cells_imports(self.live, snapshot.modules))
        for name in sorted(self._submodules):
            if name.partition(".")[0] in snapshot.modules:
                snapshot.modules[name] = name
        return values

    def _freeze(
        self,
        snapshot: NamespaceSnapshot,
        parts: list[Part],
        values: Mapping[str, Any],
        stored: Collection[str],
        *,
        may_stream: bool,
    ) -> None:
        spans = [span for part in parts for span in part.written.spans]
        memory: freezing.CaptureBuffer | None = None
        buffers: list[Content]
        if self._freezer is None:
            buffers = [copy_span(span) for span in spans]
        else:
            optimizers = [optimizer for part in parts for optimizer in part.written.optimizers]
            dumped = Dumped(b"", spans, optimizers, [part.written.keep for part in parts])
            try:
                buffers, memory = self._freezer.freeze(dumped, stored=stored, lazily="never", may_stream=may_stream)
            except MemoryError as error:
                raise StateRefused(f"the variables cannot be saved: {error}") from error
            snapshot.is_live, snapshot.free = memory.is_live, memory.release
        at = 0
        for part in parts:
            count = len(part.written.spans)
            captured = Captured(
                skeleton=part.written.skeleton, buffers=buffers[at : at + count], buffer=memory and _lend(memory)
            )
            at += count
            snapshot.groups.append(
                Group(
                    names=part.names,
                    captured=captured,
                    size_bytes=captured.size_bytes,
                    cost_s=part.cost_s,
                    kinds={name: kind_name(values[name]) for name in part.names},
                    fresh=part.written.all_fresh,
                )
            )

    def restore(
        self,
        groups: Iterable[tuple[tuple[str, ...], Captured]],
        modules: Mapping[str, str],
        not_saved: Iterable[NotSaved],
    ) -> list[NotSaved]:
        """Restore variables: import modules, load groups, put a tombstone for each variable that is not saved.

        Loading runs code that the streams name, as with every pickle. The caller must pass only bytes that match the
        digests in a manifest that it trusts.

        Args:
            groups: names and stream of each.
        Returns: all that is missing now: what was not saved, modules that are not installed, groups that failed.
        Raises:
            CheckpointCorrupt: a buffer is damaged; the namespace may then be partly restored.
            StoreError: a buffer could not be read; the namespace may then be partly restored.
        """
        missing = list(not_saved)
        missing += import_all(modules, self.live)
        self._submodules.update(name for name in modules if "." in name)
        restoring = Restoring(self.live)
        with gc_pause.still():
            # Twice: a group may refer by name to something in a later group.
            failed = self._load(groups, restoring)
            failed = self._load([(names, captured) for names, captured, _ in failed], restoring)
        for names, _, error in failed:
            missing += [describe_load_failure(name, error) for name in names]
        for variable in missing:
            self.live[variable.name] = put_tombstone(variable)
        return missing

    def _load(self, groups: Iterable[_Group], restoring: Restoring) -> list[tuple[*_Group, BaseException]]:
        failed: list[tuple[*_Group, BaseException]] = []
        with closing(read_ahead(groups)) as each:
            for names, captured, read_buffers in each:
                try:
                    values = load(captured.skeleton, read_buffers(), restoring)
                    self.live.update((name, values[name]) for name in names)
                    gc_pause.tidy()
                except (KeyboardInterrupt, CheckpointCorrupt, StoreError):
                    raise
                except BaseException as error:  # noqa: BLE001 - objects raise any type when they are created
                    failed.append((names, captured, error))
        return failed


_Group = tuple[tuple[str, ...], Captured]


def _lend(memory: freezing.CaptureBuffer) -> freezing.CaptureBuffer:
    """The memory of the whole capture, for one group: it cannot be released for that group alone."""
    return freezing.CaptureBuffer(arena=memory.arena, copied=memory.copied, is_live=memory.is_live)
