"""A store in a directory of a file system with hard links: a local disk, NFS.

    <root>/runs/<run>/heads/<n>        version n of the run record; the highest n is the newest
    <root>/runs/<run>/files/<name>     objects
    <root>/tmp/…                       what is being written; also each process's clock file
    <root>/probed                      see ``probe``

A ``/`` in a run's id is a ``+`` in its directory's name. Every file is written to ``tmp``, fsynced, and
hard-linked to its name: a visible name has its complete content, and of two writers of one name one wins.
There is no lock file: a stopped process would hold it indefinitely.

On NFS a listing may be as old as the mount's attribute cache (``acdirmax``, often 60 s), so a reader may see an
older run record for that long. It cannot publish on it, since the server makes each link once. Set ``ttl`` above it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from qcity_nb import crashpoints
from qcity_nb.errors import Conflict, Missing, StoreError, StoreRefused, StoreUnavailable, UsageError
from qcity_nb.ports import Source, Stamped, Usage, Version
from qcity_nb.stores.naming import check_name, check_run
from qcity_nb.stores.probe import MARKER, probe, translate

__all__ = ["KEEP_HEADS", "DirectoryStore", "open_store"]

KEEP_HEADS = 16
"""How many versions of a run record stay on disk."""
STALE_TMP_S = 3600.0
"""A temporary file unchanged for this long is removed, unless its writer is alive on this machine."""
_TRUST_S = 1.0
"""For a run record that looks younger than this, the file system's own clock is not read."""
_SAME_CLOCK_S = 0.1
"""Clocks this close count as one clock: file times have ticks of up to 10 ms."""


def open_store(address: str) -> DirectoryStore:
    """Open the store in the directory ``address``, a path or ``file://`` address; the directory is made if necessary.

    Raises:
        UsageError: a ``file://`` address of another machine.
        StoreRefused: the directory cannot be a store.
    """
    path = address
    if address.startswith("file://"):
        from urllib.parse import unquote, urlsplit

        parts = urlsplit(address)
        if parts.netloc not in ("", "localhost"):
            raise UsageError(f"store {address!r}: a file:// address has three slashes, as in file:///data/runs")
        path = unquote(parts.path)
    if not path:
        raise UsageError("the store's address is empty: give a directory")
    root = Path(path).expanduser().absolute()
    probe(root)
    store = DirectoryStore(root)
    store.clean()
    return store


class DirectoryStore:
    """See the module. Made by ``open_store``, which probes the directory first."""

    release_s = 0.0
    has_pages = False

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._offset_s: float | None = None

    @property
    def address(self) -> str:
        """The directory's absolute path."""
        return str(self.root)

    def runs(self) -> list[str]:
        """See ``ports.Store``."""
        self._check_exists()
        try:
            names = sorted(path.name for path in (self.root / "runs").iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise translate(error, "listing the runs", self.root) from None
        return sorted(name.replace("+", "/") for name in names if self._versions(self.root / "runs" / name / "heads"))

    def _check_exists(self) -> None:
        """An unmounted or renamed directory is a store that does not answer, not one without runs."""
        if not (self.root / MARKER).exists():
            raise StoreUnavailable(f"store {self.root}: the directory is gone; qcity keeps looking for it")

    # --- run records

    def _folder(self, run: str) -> Path:
        # One level for every run, or run `a/heads` would be inside the directory `heads` of run `a`.
        return self.root / "runs" / check_run(run).replace("/", "+")

    def _versions(self, heads: Path) -> set[int]:
        try:
            # Some twenty short names come in one system call, under the directory's own lock: no partial listing.
            names = os.listdir(heads)  # noqa: PTH208  # called for every heartbeat; iterdir costs twice as much
        except (FileNotFoundError, NotADirectoryError):
            return set()
        except OSError as error:
            raise translate(error, "listing the run records", self.root) from None
        return {int(name) for name in names if name.isascii() and name.isdigit() and name[0] != "0"}

    def read(self, run: str) -> Stamped | None:
        """See ``ports.Store``."""
        heads = self._folder(run) / "heads"
        for _ in range(100):
            versions = self._versions(heads)
            if not versions:
                self._check_exists()
                return None
            newest = max(versions)
            try:
                with (heads / str(newest)).open("rb") as file:
                    data = file.read()
                    written_s = os.fstat(file.fileno()).st_mtime
            except FileNotFoundError:
                continue  # pruned since the listing: there are newer versions
            except OSError as error:
                raise translate(error, "reading the run record", self.root) from None
            return Stamped(data=data, version=str(newest), written_s=written_s, now_s=self._now_s(written_s))
        raise StoreUnavailable(f"run {run!r} in {self.root}: the run record changes faster than it can be read")

    def publish(
        self,
        run: str,
        head: bytes,
        *,
        expect: Version | None,
        files: Mapping[str, Source] | None = None,
        drop: Sequence[str] = (),
        page: Mapping[str, bytes] | None = None,
    ) -> Version:
        """See ``ports.Store``."""
        folder = self._folder(run)
        heads = folder / "heads"
        for name in (*(files or ()), *drop):
            check_name(name)
        newest = max(self._versions(heads), default=0)
        if newest == 0:
            self._check_exists()
        if (str(newest) if newest else None) != expect:
            raise Conflict(f"run {run!r}: the run record is version {newest or None}, not {expect}")
        try:
            if newest == 0:
                self._make(heads)
            if files:
                crashpoints.hit("publish.files.before")
                self._put(folder / "files", files)
                crashpoints.hit("publish.files.after")
            with self._write_tmp(head) as tmp:
                self._commit(run, heads, tmp, newest + 1)
        except OSError as error:
            raise translate(error, "writing", self.root) from None
        if drop:
            with contextlib.suppress(StoreError):
                self.delete(run, drop)
        return str(newest + 1)

    def _commit(self, run: str, heads: Path, tmp: Path, version: int) -> None:
        try:
            os.link(tmp, heads / str(version))
        except FileExistsError:
            # An NFS client that lost the reply sends the link again, and gets EEXIST for its own link.
            if not _is_same_file(tmp, heads / str(version)):
                raise Conflict(f"run {run!r}: another writer made version {version}") from None
        except FileNotFoundError:
            if not tmp.exists():
                # This process was stopped for so long that its file was removed as a dead writer's.
                raise StoreUnavailable(f"run {run!r}: the temporary file was removed meanwhile; read again") from None
            raise Conflict(f"run {run!r} was removed") from None
        try:
            self._check_link(run, heads, version)
            _sync(heads)
        except OSError as error:
            raise StoreUnavailable(f"run {run!r}: the outcome is unknown: {error.strerror}") from None

    def _check_link(self, run: str, heads: Path, version: int) -> None:
        """The link was made: was the name free because nobody had used it, or because it was pruned?

        Only versions that are ``KEEP_HEADS`` or more below an existing one are pruned, and the highest version
        never falls. So:

        * highest < version + KEEP_HEADS: nobody can have pruned ``version``. It was never used, and is ours alone.
          Versions above it, if any, were made by writers that had read ours. Success.
        * Otherwise this process was stopped for at least KEEP_HEADS versions, either before the link (which then is in
          a pruned gap, and no reader saw it) or after it (it was the run record for a while). Nothing here can
          distinguish the two, so the outcome is unknown, and the writer looks for its write id. Our name may be pruned
          in both cases, so it is removed.

        If the predecessor is gone although no version allows its pruning, the run was removed meanwhile.
        """
        versions = self._versions(heads)
        highest = max(versions, default=0)
        if highest >= version + KEEP_HEADS:
            (heads / str(version)).unlink(missing_ok=True)
            raise StoreUnavailable(
                f"run {run!r}: others wrote up to version {highest} before {version} was confirmed: read again"
            )
        before = version - 1
        if before and before not in versions and highest < before + KEEP_HEADS:
            (heads / str(version)).unlink(missing_ok=True)
            raise Conflict(f"run {run!r} was removed")
        # In ascending order, so that no version is visible while the next one is already pruned.
        for old in sorted(versions):
            if old <= highest - KEEP_HEADS:
                (heads / str(old)).unlink(missing_ok=True)

    # --- objects

    def _put(self, files_folder: Path, files: Mapping[str, Source]) -> None:
        folders = {files_folder}
        for name, source in files.items():
            target = files_folder / name
            # Also if the name is already stored: its writer may have died before this fsync.
            folders.add(target.parent)
            if target.is_file():
                continue
            self._make(target.parent)
            if target.is_dir():
                raise UsageError(f"{name!r} cannot be an object's name: other objects' names begin with it and a /")
            with self._write_tmp(source) as tmp, contextlib.suppress(FileExistsError):
                os.link(tmp, target)
        for folder in folders:
            _sync(folder)

    def get(self, run: str, name: str) -> bytes:
        """See ``ports.Store``."""
        try:
            return (self._folder(run) / "files" / check_name(name)).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise Missing(f"run {run!r} has no object {name!r} in {self.address}") from None
        except OSError as error:
            raise translate(error, f"reading {name!r}", self.root) from None

    def fetch(self, run: str, name: str, path: Path) -> None:
        """See ``ports.Store``."""
        source = self._folder(run) / "files" / check_name(name)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            reader = source.open("rb")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise Missing(f"run {run!r} has no object {name!r} in {self.address}") from None
        except OSError as error:
            raise translate(error, f"reading {name!r}", self.root) from None
        try:
            with reader, draft.open("wb") as file:
                shutil.copyfileobj(reader, file, 4 << 20)
            draft.replace(path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise

    def names(self, run: str) -> list[str]:
        """See ``ports.Store``."""
        folder = self._folder(run) / "files"
        names: list[str] = []
        for where, _, files in os.walk(folder):
            # NFS leaves .nfs… for a file that was removed while open; no object's name starts with a dot.
            kept = [Path(where, file) for file in files if not file.startswith(".")]
            names += [path.relative_to(folder).as_posix() for path in kept]
        return sorted(names)

    def delete(self, run: str, names: Sequence[str]) -> None:
        """See ``ports.Store``."""
        folder = self._folder(run) / "files"
        for name in names:
            check_name(name)
        for name in names:
            try:
                (folder / name).unlink(missing_ok=True)
            except (NotADirectoryError, IsADirectoryError):
                continue
            except OSError as error:
                raise translate(error, f"deleting {name!r}", self.root) from None

    def usage(self, run: str) -> Usage:
        """See ``ports.Store``."""
        sizes = []
        for name in self.names(run):
            with contextlib.suppress(OSError):  # deleted since it was listed
                sizes.append((self._folder(run) / "files" / name).stat().st_size)
        return Usage(objects=len(sizes), size_bytes=sum(sizes))

    def reclaim(self, run: str) -> None:
        """See ``ports.Store``: a file's storage is free once it is deleted."""
        check_run(run)

    def forget(self, run: str) -> None:
        """See ``ports.Store``. One rename makes the run invisible; its files are deleted after that."""
        folder = self._folder(run)
        target = self._tmp("forgotten")
        try:
            folder.rename(target)
            shutil.rmtree(target)
        except FileNotFoundError:
            return
        except OSError as error:
            raise translate(error, f"removing run {run!r}", self.root) from None

    # --- temporary files

    def _tmp(self, kind: str) -> Path:
        return self.root / "tmp" / f"{kind}-{platform.node()}-{os.getpid()}-{os.urandom(6).hex()}"

    @contextlib.contextmanager
    def _write_tmp(self, source: Source) -> Iterator[Path]:
        """A temporary file with the complete content on disk. It is removed afterwards; its links stay."""
        tmp = self._tmp("write")
        try:
            with tmp.open("xb") as file:
                if isinstance(source, Path):
                    # Copied, never linked: the source may be recycled.
                    try:
                        reader = source.open("rb")
                    except OSError as error:
                        raise UsageError(f"{source} cannot be read: {error.strerror}") from None
                    with reader:
                        shutil.copyfileobj(reader, file, 4 << 20)
                else:
                    file.write(source)
                file.flush()
                os.fsync(file.fileno())
            yield tmp
        finally:
            with contextlib.suppress(OSError):
                tmp.unlink(missing_ok=True)

    def _make(self, folder: Path) -> None:
        """Make ``folder`` and what is missing above it, durably."""
        if folder.is_dir():
            return
        if folder == self.root:
            # It existed when the store was opened: a new one would be in the way when a mount comes back.
            raise FileNotFoundError(errno.ENOENT, "the directory is gone", str(folder))
        self._make(folder.parent)
        try:
            folder.mkdir(exist_ok=True)
        except FileExistsError:
            raise UsageError(f"{folder}: another object has this name, so no object's name may begin with it") from None
        _sync(folder.parent)

    def clean(self) -> None:
        """Remove what dead writers left in ``tmp``.

        A writer that is alive on this machine keeps its files, however old: it may be stopped. One on another
        machine keeps them for ``STALE_TMP_S``; if it continues later, its publish fails and stores nothing.
        """
        folder = self.root / "tmp"
        with contextlib.suppress(OSError, StoreRefused):
            now_s = self._file_clock_s()
            for path in folder.iterdir():
                with contextlib.suppress(OSError):
                    if now_s - path.lstat().st_mtime < STALE_TMP_S or _is_writer_alive(path.name):
                        continue
                    if path.is_dir():
                        shutil.rmtree(path, ignore_errors=True)
                    else:
                        path.unlink()

    # --- the store's clock

    def _now_s(self, written_s: float) -> float:
        """The store's clock, which is the one that stamps its files.

        On a local disk that is this machine's wall clock; on NFS it is the server's. Reading it costs a write, so it is
        read only when it matters: at first, when a run record has not changed for a while, and when one seems to come
        from the future. Otherwise the wall clock and the last offset are used. (Not a monotonic clock: if the wall
        clock is set back, file times go back with it, and by a monotonic clock every holder would look silent.)
        """
        offset_s = self._offset_s
        if offset_s is None or not 0 <= time.time() + offset_s - written_s < _TRUST_S:
            try:
                before_s = time.time()
                offset_s = self._file_clock_s() - before_s
            except OSError:
                offset_s = offset_s or 0.0  # a reader without write permission has only the wall clock
            if abs(offset_s) < _SAME_CLOCK_S:
                offset_s = 0.0
            self._offset_s = offset_s
        return max(time.time() + offset_s, written_s)

    def _file_clock_s(self) -> float:
        path = self.root / "tmp" / f"clock-{platform.node()}-{os.getpid()}-0"
        with self._lock:
            # Without explicit times, the file server sets its own time (NFS: SET_TO_SERVER_TIME).
            try:
                os.utime(path)
            except FileNotFoundError:
                path.touch()
            return path.stat().st_mtime


def _is_writer_alive(name: str) -> bool:
    _, _, rest = name.partition("-")
    where, _, _ = rest.rpartition("-")
    node, _, pid = where.rpartition("-")
    if node != platform.node() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _is_same_file(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except FileNotFoundError:
        return False


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
