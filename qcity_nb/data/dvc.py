"""``city.data``: a path goes in, a file with the recorded md5 comes out.

    path = city.data["data/digits.csv"]

The file is there already, or it is fetched; in both cases its bytes have the md5 that DVC recorded in git.
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
    """One tracked output as it is on this host."""

    path: str
    state: Literal["ok", "missing", "modified", "unknown"]
    """``missing``: some or all of it is not here. ``unknown``: a directory whose listing is not here."""
    md5: str
    size_bytes: int | None
    source: str
    """The file that records it."""


class Data:
    """The project's data files, verified.

    ``data[path]`` takes a path relative to the project (or an absolute one) and returns an absolute path:

    - tracked by DVC (a ``.dvc`` file, ``dvc.lock``, or inside a tracked directory) and here: its md5 is
      checked, and remembered until the file changes, so that a warm call costs a few file reads;
    - tracked and not here: it is copied from DVC's cache or remote, md5 checked on the way, and appears whole;
    - a tracked directory: every file of it, fetched by 16 threads; files beyond its record are left alone;
    - not tracked, but here: returned unchecked.

    A directory remote needs no DVC installed; others are asked through ``dvc fetch``.

    Does not: overwrite or remove a file whose md5 differs (it may be your edit); lock files against changes
    after the check; read DVC configuration outside the project.
    """

    def __init__(self, root: Path) -> None:
        """``root`` is the project's directory; paths are relative to it, wherever the process runs."""
        self.root = root.resolve()
        self._state = self.root / ".qcity" / "data"
        self._lock = threading.RLock()

    def __getitem__(self, path: str | os.PathLike[str]) -> Path:
        """The file or directory at ``path``, here and verified.

        Raises:
            DataError: nothing there and not tracked; the md5 differs here or in the remote; the remote lacks it
                or cannot be reached. One line, with what to do; no file of yours was changed.
        """
        # Not resolved: a link inside the project to data elsewhere is the path that DVC tracks.
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
        """How each tracked output stands on this host. Hashes what changed; fetches nothing."""
        places = tracked.places(self.root)
        found = []
        with self._lock:
            verified = Verified(self._state / "verified.json")
            for output in tracked.scan(self.root):
                found.append(
                    Status(
                        path=output.path,
                        state=self._state_of(output, places, verified),
                        md5=output.md5,
                        size_bytes=output.size_bytes,
                        source=output.source,
                    )
                )
            verified.save()
        return found

    def _state_of(
        self, output: Output, places: Places, verified: Verified
    ) -> Literal["ok", "missing", "modified", "unknown"]:
        try:
            wanted = self._files(output, output.path, self._directories(places, output))
        except DataError:
            return "unknown"
        if wanted is None:
            return "unknown" if (self.root / output.path).exists() else "missing"
        missing, wrong = self._compare(wanted, verified)
        return "modified" if wrong else "missing" if missing else "ok"

    def _bring(self, output: Output, name: str) -> None:
        """Make ``name``, which ``output`` is or contains, be here with the right md5."""
        if output.is_legacy:
            raise DataError(f"{output.source}: recorded by DVC 2; rewrite it with `dvc cache migrate --dvc-files`")
        places = tracked.places(self.root)
        directories = self._directories(places, output)
        wanted = self._files(output, name, directories)
        if wanted is None:
            self._ask_dvc(output, name, places)
            wanted = self._files(output, name, directories)
            if wanted is None:
                raise self._explain_missing(output, output.path, places)
        verified = Verified(self._state / "verified.json")
        missing, wrong = self._compare(wanted, verified)
        if wrong:
            verified.save()
            raise self._differs(output, wrong)
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
        """The files that ``name`` stands for, with their md5s; ``None`` if the listing is not at hand."""
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
            # Two copies may differ in worth: a damaged cache does not hide a good remote.
            found = objects.md5_of(place)
            if found == output.md5:
                return objects.listing(place.read_bytes(), name=output.path)
            wrong = objects.Mismatch(place, found)
        if wrong is not None:
            raise _damaged(output.path, output.md5, wrong)
        return None

    def _compare(self, wanted: Mapping[str, str], verified: Verified) -> tuple[dict[str, str], dict[str, str]]:
        """What is missing (with the md5 it should have), and what is wrong (with the md5 it has)."""
        missing: dict[str, str] = {}
        wrong: dict[str, str] = {}
        for path, md5 in wanted.items():
            try:
                found = verified.md5(path, self.root / path)
            except (FileNotFoundError, NotADirectoryError):
                missing[path] = md5
            except IsADirectoryError:
                wrong[path] = "none (it is a directory)"
            except OSError as error:
                raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
            else:
                if found != md5:
                    wrong[path] = found
        return missing, wrong

    def _copy_all(self, missing: Mapping[str, str], directories: Sequence[Path], verified: Verified) -> None:
        parts = self._state / "part"
        _sweep(parts)
        sources = {path: objects.locate(directories, md5) for path, md5 in missing.items()}
        total = sum(places[0].stat().st_size for places in sources.values() if places)
        with _progress(total, next(iter(missing)) if len(missing) == 1 else f"{len(missing)} files") as on_bytes:

            def one(path: str) -> None:
                _copy_one(path, self.root / path, missing[path], sources[path], parts, on_bytes)

            if len(missing) == 1:
                one(next(iter(missing)))
            else:
                with ThreadPoolExecutor(_THREADS, thread_name_prefix="qcity-data") as pool:
                    try:
                        for _ in pool.map(one, missing):
                            pass
                    except BaseException:  # Ctrl-C too: or it would wait for downloads that nobody wants
                        pool.shutdown(cancel_futures=True)
                        raise
        for path, md5 in missing.items():
            verified.note(path, self.root / path, md5)

    def _ask_dvc(self, output: Output, name: str, places: Places) -> None:
        """For content that neither the cache nor a directory remote can give."""
        if places.directory(output.remote) is not None:
            return
        remote = output.remote or places.default
        dvc = fetch.command()
        if dvc is None:
            where = f"the remote {remote!r} ({_scheme(places, remote)})" if remote else "a remote DVC must find"
            raise DataError(f"{name}: {where} needs DVC: pip install 'qcity-nb[dvc]'")
        if not places.config.is_dir():
            raise DataError(f"{name}: tracked in {output.source}, but there is no .dvc/config that names a remote")
        fetch.fetch(self.root, name, dvc=dvc)

    def _explain_missing(self, output: Output, path: str, places: Places) -> DataError:
        place = places.directory(output.remote)
        where = f"the remote {place}" if place is not None else "the remote"
        what = "run `dvc repro` to make it" if output.is_pipeline else "run `dvc push` where the file still is"
        return DataError(f"{path}: not here, and {where} does not have it; {what}")

    def _differs(self, output: Output, wrong: Mapping[str, str]) -> DataError:
        path, found = next(iter(wrong.items()))
        expected = output.md5
        if output.is_directory:
            listing = self._listing(output, self._directories(tracked.places(self.root), output)) or {}
            expected = listing.get(path.removeprefix(output.path + "/"), expected)
        more = f" (and {len(wrong) - 1} more files)" if len(wrong) > 1 else ""
        keep = "`dvc repro` or `dvc commit`" if output.is_pipeline else f"`dvc add {output.path}`"
        return DataError(
            f"{path}: md5 {found} was found, {output.source} expects {expected}{more}; keep the change with"
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


def _damaged(path: str, md5: str, wrong: objects.Mismatch) -> DataError:
    return DataError(
        f"{path}: the stored copy {wrong.place} has md5 {wrong.actual}, expected {md5}; nothing was placed:"
        f" delete that copy and `dvc push` again from where the file is whole"
    )


def _copy_one(
    path: str, target: Path, md5: str, sources: Sequence[Path], parts: Path, on_bytes: Callable[[int], None]
) -> None:
    """Copy from the first source whose bytes are right."""
    wrong: objects.Mismatch | None = None
    for source in sources:
        try:
            objects.copy(source, target, md5=md5, parts=parts, on_bytes=on_bytes)
        except objects.Mismatch as mismatch:
            wrong = mismatch
        except OSError as error:
            raise DataError(f"{path}: cannot be copied here from {source}: {error.strerror or error}") from None
        else:
            return
    if wrong is None:
        raise DataError(f"{path}: its stored copy vanished while it was fetched; try again")
    raise _damaged(path, md5, wrong)


def _sweep(parts: Path) -> None:
    """Remove what killed processes left half copied, a day later."""
    with contextlib.suppress(OSError):
        for part in parts.iterdir():
            if time.time() - part.stat().st_mtime > _STALE_S:
                part.unlink(missing_ok=True)


@contextlib.contextmanager
def _progress(total_bytes: int, what: str) -> Iterator[Callable[[int], None]]:
    """A bar that shows itself once the copy has taken a second."""
    from tqdm import tqdm

    # The plain bar, not tqdm.auto: without ipywidgets that one warns in a notebook.
    lock = threading.Lock()
    with tqdm(total=total_bytes, desc=what, unit="B", unit_scale=True, delay=1.0, leave=False) as bar:

        def on_bytes(count: int) -> None:
            with lock:  # tqdm's own count is not safe between threads
                bar.update(count)

        yield on_bytes
