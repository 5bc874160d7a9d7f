"""``city.data``: the verified local path of a file that DVC tracks.

    path = city.data["data/digits.csv"]

A missing file is fetched. In any case the file's bytes have the md5 that DVC recorded in git.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import qcity_nb.data.fetch as fetch
import qcity_nb.data.objects as objects
import qcity_nb.data.tracked as tracked
from qcity_nb.data.tracked import Output, Places
from qcity_nb.data.verified import Verified
from qcity_nb.errors import DataError

__all__ = ["Data", "Status"]

_THREADS = 16
_STALE_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The state of one tracked output on this host."""

    path: str
    state: Literal["ok", "missing", "modified", "unknown"]
    """``missing``: not on this host, or not all of it. ``unknown``: a directory whose listing is not on this host."""
    md5: str
    size_bytes: int | None
    source: str
    """The file that records it."""


class Data:
    """The project's data files, verified.

    ``data[path]`` takes a path relative to the project (or an absolute one) and returns an absolute path:

    - tracked by DVC (a ``.dvc`` file, ``dvc.lock``, or inside a tracked directory) and present: its md5 is
      checked, and remembered until the file changes, so that a warm call costs a few file reads;
    - tracked and missing: it is copied from DVC's cache or remote, its md5 is checked, and it appears completely or
      not at all;
    - a tracked directory: all its files, fetched by 16 threads; files that are not in its record are left alone;
    - not tracked, but present: returned unchecked.

    A directory remote does not need DVC; content of other remotes is fetched by ``dvc fetch``.

    Does not: overwrite or remove a file whose md5 differs (it may be your edit); lock files against changes
    after the check; read DVC configuration outside the project.
    """

    def __init__(self, root: Path) -> None:
        """``root`` is the project's directory; paths are relative to it, wherever the process runs."""
        self.root = root.resolve()
        self._state = self.root / ".qcity" / "data"
        self._lock = threading.RLock()

    def __getitem__(self, path: str | os.PathLike[str]) -> Path:
        """The file or directory at ``path``, present and verified.

        Raises:
            DataError: it does not exist and is not tracked; its md5 differs, here or in the remote; the remote lacks
                it or cannot be reached. The message is one line, with what to do; none of your files was changed.
        """
        # Not resolved: DVC tracks the path of a link inside the project, not that of the data elsewhere.
        full = Path(os.path.normpath(self.root / path))
        if not full.is_relative_to(self.root):
            full = full.resolve()
        if not full.is_relative_to(self.root):
            if full.exists():
                return full
            raise DataError(f"{full}: no such file, and outside the project {self.root}")
        name = full.relative_to(self.root).as_posix()
        with self._lock:
            output = tracked.find(self.root, name)
            if output is None:
                if full.exists():
                    return full
                raise self._unknown(name)
            self._bring(output, name)
        return full

    def names(self) -> list[str]:
        """The tracked files and directories, sorted; a directory is one name."""
        return [output.path for output in tracked.scan(self.root)]

    def status(self) -> list[Status]:
        """The state of each tracked output on this host. Hashes what changed; fetches nothing."""
        places = tracked.places(self.root)
        statuses = []
        with self._lock:
            verified = Verified(self._state / "verified.json")
            for output in tracked.scan(self.root):
                statuses.append(
                    Status(
                        path=output.path,
                        state=self._state_of(output, places, verified),
                        md5=output.md5,
                        size_bytes=output.size_bytes,
                        source=output.source,
                    )
                )
            verified.save()
        return statuses

    def _state_of(
        self, output: Output, places: Places, verified: Verified
    ) -> Literal["ok", "missing", "modified", "unknown"]:
        try:
            files = self._files(output, output.path, self._directories(places, output))
        except DataError:
            return "unknown"
        if files is None:
            return "unknown" if (self.root / output.path).exists() else "missing"
        missing, wrong = self._compare(files, verified)
        return "modified" if wrong else "missing" if missing else "ok"

    def _bring(self, output: Output, name: str) -> None:
        """Make sure that ``name``, which ``output`` is or contains, is on this host with the right md5."""
        if output.is_legacy:
            raise DataError(f"{output.source}: recorded by DVC 2; rewrite it with `dvc cache migrate --dvc-files`")
        places = tracked.places(self.root)
        directories = self._directories(places, output)
        files = self._files(output, name, directories)
        if files is None:
            self._ask_dvc(output, name, places)
            files = self._files(output, name, directories)
            if files is None:
                raise self._explain_missing(output, output.path, places)
        verified = Verified(self._state / "verified.json")
        missing, wrong = self._compare(files, verified)
        if wrong:
            verified.save()
            raise self._explain_difference(output, wrong)
        if missing:
            if any(not objects.locate(directories, md5) for md5 in missing.values()):
                self._ask_dvc(output, name, places)
            for path, md5 in missing.items():
                if not objects.locate(directories, md5):
                    raise self._explain_missing(output, path, places)
            self._copy_all(missing, directories, verified)
        verified.save()

    def _directories(self, places: Places, output: Output) -> list[Path]:
        remote = places.directory(output.remote)
        return [places.cache] if remote is None else [places.cache, remote]

    def _files(self, output: Output, name: str, directories: Sequence[Path]) -> dict[str, str] | None:
        """The md5s of the files of ``name``, by path; ``None`` if the directory's listing is not on this host."""
        if not output.is_directory:
            return {output.path: output.md5}
        data = self._listing(output, directories)
        if data is None:
            return None
        files = {f"{output.path}/{path}": md5 for path, md5 in data.items()}
        if name == output.path:
            return files
        chosen = {path: md5 for path, md5 in files.items() if path == name or path.startswith(name + "/")}
        if not chosen and not (self.root / name).exists():
            near = difflib.get_close_matches(name, files, n=3, cutoff=0.5)
            raise DataError(f"{name}: not in the tracked directory {output.path}{_suggest(near)}")
        return chosen

    def _listing(self, output: Output, directories: Sequence[Path]) -> Mapping[str, str] | None:
        wrong: objects.Mismatch | None = None
        for place in objects.locate(directories, output.md5, ".dir"):
            # A damaged copy in the cache does not hide a good one in the remote.
            actual = objects.md5_of(place)
            if actual == output.md5:
                return objects.listing(place.read_bytes(), name=output.path)
            wrong = objects.Mismatch(place, actual)
        if wrong is not None:
            raise _explain_damage(output.path, output.md5, wrong)
        return None

    def _compare(self, files: Mapping[str, str], verified: Verified) -> tuple[dict[str, str], dict[str, str]]:
        """Which files are missing (with the md5 they should have), and which differ (with the md5 they have)."""
        missing: dict[str, str] = {}
        wrong: dict[str, str] = {}
        for path, md5 in files.items():
            try:
                actual = verified.md5(path, self.root / path)
            except (FileNotFoundError, NotADirectoryError):
                missing[path] = md5
            except IsADirectoryError:
                wrong[path] = "none (it is a directory)"
            except OSError as error:
                raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
            else:
                if actual != md5:
                    wrong[path] = actual
        return missing, wrong

    def _copy_all(self, missing: Mapping[str, str], directories: Sequence[Path], verified: Verified) -> None:
        parts = self._state / "part"
        _remove_leftovers(parts)
        sources = {path: objects.locate(directories, md5) for path, md5 in missing.items()}
        total = sum(places[0].stat().st_size for places in sources.values() if places)
        with _progress(total, next(iter(missing)) if len(missing) == 1 else f"{len(missing)} files") as on_bytes:

            def copy(path: str) -> None:
                _copy_file(path, self.root / path, missing[path], sources[path], parts, on_bytes)

            if len(missing) == 1:
                copy(next(iter(missing)))
            else:
                with ThreadPoolExecutor(_THREADS, thread_name_prefix="qcity-data") as pool:
                    try:
                        for _ in pool.map(copy, missing):
                            pass
                    except BaseException:  # Ctrl-C too: else it would wait for downloads that are not needed any more
                        pool.shutdown(cancel_futures=True)
                        raise
        for path, md5 in missing.items():
            verified.note(path, self.root / path, md5)

    def _ask_dvc(self, output: Output, name: str, places: Places) -> None:
        """Let DVC fetch content that is neither in the cache nor in a directory remote."""
        if places.directory(output.remote) is not None:
            return
        remote = output.remote or places.default
        dvc = fetch.command()
        if dvc is None:
            where = f"the remote {remote!r} ({_scheme(places, remote)})" if remote else "its remote"
            raise DataError(f"{name}: {where} needs DVC: pip install 'qcity-nb[dvc]'")
        if not places.config.is_dir():
            raise DataError(f"{name}: tracked in {output.source}, but no .dvc/config names a remote")
        fetch.fetch(self.root, name, dvc=dvc)

    def _explain_missing(self, output: Output, path: str, places: Places) -> DataError:
        place = places.directory(output.remote)
        where = f"the remote {place}" if place is not None else "the remote"
        what = "run `dvc repro` to make it" if output.is_pipeline else "run `dvc push` on a machine that has the file"
        return DataError(f"{path}: not on this host, and {where} does not have it; {what}")

    def _explain_difference(self, output: Output, wrong: Mapping[str, str]) -> DataError:
        path, actual = next(iter(wrong.items()))
        expected = output.md5
        if output.is_directory:
            listing = self._listing(output, self._directories(tracked.places(self.root), output)) or {}
            expected = listing.get(path.removeprefix(output.path + "/"), expected)
        more = f" (and {len(wrong) - 1} more files)" if len(wrong) > 1 else ""
        keep = "`dvc repro` or `dvc commit`" if output.is_pipeline else f"`dvc add {output.path}`"
        return DataError(
            f"{path}: has md5 {actual}, but {output.source} expects {expected}{more}; keep the change with"
            f" {keep}, or undo it with `dvc checkout` or by deleting the file, which is then fetched again"
        )

    def _unknown(self, name: str) -> DataError:
        names = self.names()
        folder = (self.root / name).parent
        if folder.is_dir():
            names += [
                item.relative_to(self.root).as_posix()
                for item in folder.iterdir()
                if not item.name.startswith(".") and item.suffix != ".dvc"
            ]
        near = difflib.get_close_matches(name, sorted(set(names)), n=3, cutoff=0.5)
        return DataError(f"{name}: no such file in {self.root}, and DVC does not track it{_suggest(near)}")


def _suggest(near: Sequence[str]) -> str:
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _scheme(places: Places, remote: str) -> str:
    url = places.remotes.get(remote, "")
    return url.partition("://")[0] if url else "not in .dvc/config"


def _explain_damage(path: str, md5: str, wrong: objects.Mismatch) -> DataError:
    return DataError(
        f"{path}: the stored copy {wrong.place} has md5 {wrong.actual}, expected {md5}; nothing was copied:"
        f" delete that copy, and `dvc push` again from a machine where the file is intact"
    )


def _copy_file(
    path: str, target: Path, md5: str, sources: Sequence[Path], parts: Path, on_bytes: Callable[[int], None]
) -> None:
    """Copy from the first source with the right md5."""
    wrong: objects.Mismatch | None = None
    for source in sources:
        try:
            objects.copy(source, target, md5=md5, parts=parts, on_bytes=on_bytes)
        except objects.Mismatch as mismatch:
            wrong = mismatch
        except OSError as error:
            raise DataError(f"{path}: cannot be copied from {source}: {error.strerror or error}") from None
        else:
            return
    if wrong is None:
        raise DataError(f"{path}: its stored copy disappeared while it was fetched; try again")
    raise _explain_damage(path, md5, wrong)


def _remove_leftovers(parts: Path) -> None:
    """Remove incomplete copies of killed processes once they are a day old."""
    with contextlib.suppress(OSError):
        for part in parts.iterdir():
            if time.time() - part.stat().st_mtime > _STALE_S:
                part.unlink(missing_ok=True)


@contextlib.contextmanager
def _progress(total_bytes: int, what: str) -> Iterator[Callable[[int], None]]:
    """A progress bar that appears once the copy has taken a second."""
    from tqdm import tqdm

    # The plain bar, not tqdm.auto: without ipywidgets, tqdm.auto warns in a notebook.
    lock = threading.Lock()
    with tqdm(total=total_bytes, desc=what, unit="B", unit_scale=True, delay=1.0, leave=False) as bar:

        def on_bytes(count: int) -> None:
            with lock:  # tqdm's own count is not safe between threads
                bar.update(count)

        yield on_bytes
