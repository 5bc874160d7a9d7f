"""Known md5s: as long as a file's modification time, size and inode are unchanged, so is its md5."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from qcity_nb.data.objects import md5_of

__all__ = ["Verified"]

_FORMAT = 1


class Verified:
    """Remembers md5s in one JSON file; losing that file costs only time.

    A file that changed so recently that a second change could have the same modification time is hashed again
    next time: 20 ms covers the kernel's clock tick, 2 s covers file systems that store whole seconds.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: dict[str, list[object]] = {}
        self._is_changed = False
        try:
            document = json.loads(file.read_bytes())
            if document["format"] == _FORMAT and isinstance(document["files"], dict):
                self._known = document["files"]
        except (OSError, ValueError, TypeError, KeyError):
            pass  # no such file yet, or another format: everything is hashed again

    def md5(self, name: str, file: Path) -> str:
        """The md5 of ``file``; remembered if the file is unchanged, else computed."""
        before = file.stat()
        key: list[object] = [before.st_mtime_ns, before.st_size, before.st_ino]
        known = self._known.get(name)
        if isinstance(known, list) and known[:3] == key and isinstance(known[-1], str):
            return known[-1]
        md5 = md5_of(file)
        after = file.stat()
        tick_ns = 2_000_000_000 if before.st_mtime_ns % 1_000_000_000 == 0 else 20_000_000
        is_settled = time.time_ns() - before.st_mtime_ns > tick_ns
        if is_settled and [after.st_mtime_ns, after.st_size, after.st_ino] == key:
            self._known[name] = [*key, md5]
            self._is_changed = True
        return md5

    def note(self, name: str, file: Path, md5: str) -> None:
        """Remember a file that ``objects.copy`` has just placed."""
        stat = file.stat()
        self._known[name] = [stat.st_mtime_ns, stat.st_size, stat.st_ino, md5]
        self._is_changed = True

    def save(self) -> None:
        """Write what is new. If the folder cannot be written, files are only hashed again later."""
        if not self._is_changed:
            return
        temporary = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps({"format": _FORMAT, "files": self._known}), encoding="utf-8")
            temporary.replace(self._file)
        except OSError:
            return
        self._is_changed = False
