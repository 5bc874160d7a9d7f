"""A recorder at the level of the operating system: what a writer does to the files below one directory, in order.

    with Recorder(root, before=hook) as disk:
        tier.save(…)
        disk.note("saved 1")
    disk.trace                  # every create, write, sync, rename, unlink, with its bytes

``qcity_nb.testing.power_cut`` replays a trace with whatever a power cut may take. ``hook`` is called before each
operation and may refuse it (raise OSError), cut a write short, or kill the process: the same numbers each time.

The functions of ``os`` are replaced while the recorder is open, so it sees Python's calls, also those of ``pathlib``,
and nothing else: ``open(path, "w")`` below the root is refused, and at its end the recorder compares the trace with the
disk, so that a write that bypassed it (native code, mmap, a function bound before) is an error, not a silent gap. Calls
of several threads are carried out one at a time.
"""

from __future__ import annotations

import fcntl
import io
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from qcity_nb.testing.power_cut import everything
from qcity_nb.testing.trace import ROOT, Entry, Milestone, Node, Resize, Sync, Trace, Write, read_tree

__all__ = ["Call", "Hook", "Recorder"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """An operation that is about to happen."""

    number: int
    """From 1; notes and calls that change nothing do not count."""
    kind: str
    """create, mkdir, write, resize, allocate, sync, rename, link, unlink."""
    path: str
    """Below the root; of a rename, the old one."""
    size_bytes: int = 0
    is_direct: bool = False


Hook = Callable[[Call], int | None]
"""What to do before a call: raise to refuse it; a number: let a write write so many bytes only."""


class Recorder:
    """Records while it is open.

    Args:
        root: an existing directory; only what lies below it is recorded.
        before: called before each operation.
        is_syncing: false: syncs are recorded, not carried out, which makes a test fast.
    """

    def __init__(self, root: Path, *, before: Hook | None = None, is_syncing: bool = True) -> None:
        self.root = Path(os.path.abspath(root))  # noqa: PTH100 - links are not followed, as the calls do not
        self.before = before
        self.count = 0
        """Operations so far."""
        self.trace = Trace()
        self._is_syncing = is_syncing
        self._entries = self.trace.entries
        self._open: dict[int, tuple[Node, str]] = {}
        self._lock = threading.RLock()
        self._real: dict[str, Any] = {}
        self._io_open = io.open
        self._next = ROOT + 1

    def note(self, text: str) -> None:
        """Add a text to the trace: everything before it was reported as done to the workload."""
        self.trace.operations.append(Milestone(text))

    # -- the tree

    def _start(self) -> None:
        files, folders = read_tree(self.root)
        nodes = {"": ROOT, ".": ROOT}
        for name in sorted((*files, *folders), key=lambda one: one.count("/")):
            node = nodes[name] = self._node()
            parent, _, last = name.rpartition("/")
            self.trace.entries[nodes[parent], last] = node
            if name in folders:
                self.trace.folders.add(node)
            else:
                self.trace.files[node] = files[name]
        self._entries = dict(self.trace.entries)

    def _node(self) -> Node:
        self._next += 1
        return self._next - 1

    def _below(self, path: Any) -> str | None:
        """The path below the root, or none where it is elsewhere (or a descriptor)."""
        if isinstance(path, int):
            return None
        text = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - hooked functions of os are called with anything
        top = str(self.root)
        if text == top:
            return ""
        return text[len(top) + 1 :] if text.startswith(top + os.sep) else None

    def _find(self, below: str) -> tuple[Node, str]:
        """The directory that holds the path's last name, and that name."""
        *parents, last = Path(below).parts
        node = ROOT
        for name in parents:
            if (node, name) not in self._entries:
                raise AssertionError(f"{below}: its directory was made without the recorder")
            node = self._entries[node, name]
        return node, last

    def _known(self, below: str) -> Node:
        if not below:
            return ROOT
        where = self._find(below)
        if where not in self._entries:
            raise AssertionError(f"{below} was made without the recorder")
        return self._entries[where]

    def _change(self, folder: Node, *changes: tuple[str, Node | None]) -> None:
        for name, node in changes:
            if node is None:
                self._entries.pop((folder, name), None)
            else:
                self._entries[folder, name] = node
        self.trace.operations.append(Entry(folder, changes))

    def _ask(self, kind: str, path: str, size_bytes: int = 0, *, is_direct: bool = False) -> int:
        """Count a call; how many bytes it may write."""
        self.count += 1
        if self.before is None:
            return size_bytes
        call = Call(number=self.count, kind=kind, path=path, size_bytes=size_bytes, is_direct=is_direct)
        allowed = self.before(call)
        if allowed is None or kind != "write":
            return size_bytes
        if is_direct:  # the kernel stops at a block
            allowed = max(4096, allowed - allowed % 4096)
        return max(1, min(allowed, size_bytes))

    # -- names

    def _os_open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        below = self._below(path) if dir_fd is None else None
        if below is None:
            return int(self._real["open"](path, flags, mode, dir_fd=dir_fd))
        is_direct = bool(flags & getattr(os, "O_DIRECT", 0))
        is_new = bool(flags & os.O_CREAT) and not os.path.lexists(path)
        is_cut = bool(flags & os.O_TRUNC) and not is_new
        if is_new or is_cut:
            self._ask("create" if is_new else "resize", below, is_direct=is_direct)
        descriptor = int(self._real["open"](path, flags, mode))
        if is_new:
            folder, name = self._find(below)
            self._change(folder, (name, self._node()))
        node = self._known(below)
        if is_cut:
            self.trace.operations.append(Resize(node, 0))
        self._open[descriptor] = (node, below)
        return descriptor

    def _os_close(self, descriptor: int) -> None:
        self._open.pop(descriptor, None)
        self._real["close"](descriptor)

    def _os_rename(self, source: Any, target: Any, **directories: Any) -> None:
        self._moved("rename", source, target, directories)

    def _os_replace(self, source: Any, target: Any, **directories: Any) -> None:
        self._moved("replace", source, target, directories)

    def _os_link(self, source: Any, target: Any, **directories: Any) -> None:
        self._moved("link", source, target, directories)

    def _moved(self, function: str, source: Any, target: Any, directories: dict[str, Any]) -> None:
        old, new = self._below(source), self._below(target)
        if old is None and new is None:
            self._real[function](source, target, **directories)
            return
        if old is None or new is None:
            raise AssertionError(f"{function} {source} to {target}: one end is outside what is recorded")
        self._ask("link" if function == "link" else "rename", old)
        self._real[function](source, target, **directories)
        node = self._known(old)
        (from_folder, from_name), (to_folder, to_name) = self._find(old), self._find(new)
        if function == "link":
            self._change(to_folder, (to_name, node))
        elif from_folder == to_folder:
            self._change(to_folder, (from_name, None), (to_name, node))
        else:  # two directories: each is durable by its own sync
            self._change(to_folder, (to_name, node))
            self._change(from_folder, (from_name, None))

    def _os_unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._removed("unlink", path, dir_fd)

    def _os_rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._removed("rmdir", path, dir_fd)

    def _removed(self, function: str, path: Any, dir_fd: int | None) -> None:
        below = self._below(path) if dir_fd is None else None
        if below is None:
            self._real[function](path, dir_fd=dir_fd)
        elif not os.path.lexists(path):
            self._real[function](path)  # fails by itself, and changes nothing
        else:
            self._ask("unlink", below)
            self._real[function](path)
            folder, name = self._find(below)
            self._change(folder, (name, None))

    def _os_mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        below = self._below(path) if dir_fd is None else None
        if not below or os.path.lexists(path) or not Path(os.fsdecode(path)).parent.is_dir():
            self._real["mkdir"](path, mode, dir_fd=dir_fd)
            return
        self._ask("mkdir", below)
        self._real["mkdir"](path, mode)
        folder, name = self._find(below)
        node = self._node()
        self.trace.folders.add(node)
        self._change(folder, (name, node))

    # -- content

    def _os_write(self, descriptor: int, data: Any) -> int:
        return self._written("write", descriptor, [data])

    def _os_writev(self, descriptor: int, buffers: Any) -> int:
        return self._written("writev", descriptor, buffers)

    def _os_pwrite(self, descriptor: int, data: Any, offset: int) -> int:
        return self._written("pwrite", descriptor, [data], offset)

    def _os_pwritev(self, descriptor: int, buffers: Any, offset: int, flags: int = 0) -> int:
        return self._written("pwritev", descriptor, buffers, offset, flags)

    def _written(self, function: str, descriptor: int, buffers: Any, offset: int | None = None, *rest: Any) -> int:
        where = () if offset is None else (offset, *rest)
        if descriptor not in self._open:
            return int(self._real[function](descriptor, buffers if function.endswith("v") else buffers[0], *where))
        node, below = self._open[descriptor]
        is_direct = bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & getattr(os, "O_DIRECT", 0))  # may be set later
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        size = sum(len(view) for view in views)
        left = self._ask("write", below, size, is_direct=is_direct)
        cut = []
        for view in views:  # the same memory: O_DIRECT wants its alignment
            cut.append(view[:left])
            left -= len(cut[-1])
        count = int(self._real[function](descriptor, cut if function.endswith("v") else cut[0], *where))
        if offset is None:
            offset = os.lseek(descriptor, 0, os.SEEK_CUR) - count
        self.trace.operations.append(Write(node, offset, b"".join(cut)[:count]))
        return count

    def _os_ftruncate(self, descriptor: int, size: int) -> None:
        if descriptor in self._open:
            node, below = self._open[descriptor]
            self._ask("resize", below, size)
            self._real["ftruncate"](descriptor, size)
            self.trace.operations.append(Resize(node, size))
        else:
            self._real["ftruncate"](descriptor, size)

    def _os_posix_fallocate(self, descriptor: int, offset: int, size: int) -> None:
        if descriptor in self._open:
            node, below = self._open[descriptor]
            self._ask("allocate", below, size)
            self._real["posix_fallocate"](descriptor, offset, size)
            self.trace.operations.append(Resize(node, os.fstat(descriptor).st_size))
        else:
            self._real["posix_fallocate"](descriptor, offset, size)

    def _os_fsync(self, descriptor: int) -> None:
        self._synced("fsync", descriptor)

    def _os_fdatasync(self, descriptor: int) -> None:
        self._synced("fdatasync", descriptor)

    def _synced(self, function: str, descriptor: int) -> None:
        if descriptor not in self._open:
            self._real[function](descriptor)
            return
        node, below = self._open[descriptor]
        self._ask("sync", below)
        if self._is_syncing:
            self._real[function](descriptor)
        self.trace.operations.append(Sync(node, is_data_only=function == "fdatasync"))

    def _opened(self, file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        where = self._open.get(file, (0, None))[1] if isinstance(file, int) else self._below(file)
        if where is not None and set(mode) & set("wax+"):
            raise AssertionError(f"{where} is opened for writing through open(), which cannot be recorded")
        return self._io_open(file, mode, *args, **kwargs)

    # -- open and close

    def __enter__(self) -> Recorder:
        import builtins

        self._start()
        for name in [name.removeprefix("_os_") for name in dir(Recorder) if name.startswith("_os_")]:
            if hasattr(os, name):
                self._real[name] = getattr(os, name)
                setattr(os, name, self._one_at_a_time(getattr(self, f"_os_{name}")))
        self._real["remove"] = os.remove
        os.remove = os.unlink
        self._io_open = io.open
        io.open = builtins.open = self._opened
        return self

    def _one_at_a_time(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def locked(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                return call(*args, **kwargs)

        return locked

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import builtins

        for name, real in self._real.items():
            setattr(os, name, real)
        io.open = builtins.open = self._io_open
        if kind is None:
            self.check()

    def check(self) -> None:
        """Check that the trace has all that happened to the disk.

        Raises:
            AssertionError: a file differs: something bypassed the recorder.
        """
        seen, on_disk = everything(self.trace), read_tree(self.root)
        for what, ours, theirs in (("files", seen.files, on_disk[0]), ("directories", seen.folders, on_disk[1])):
            if ours != theirs:
                names = sorted(name for name in {*ours, *theirs} if _get(ours, name) != _get(theirs, name))
                raise AssertionError(f"written without the recorder: {what} {names}")


def _get(tree: Mapping[str, bytes] | set[str] | frozenset[str], name: str) -> object:
    return tree.get(name) if isinstance(tree, Mapping) else name in tree
