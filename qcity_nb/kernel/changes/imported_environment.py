"""What this kernel has imported: the versions of packages, and hashes of the project's own files.

Nothing is imported for it, and a module is looked at once. A package's version is the one in the name of its
``.dist-info`` folder, read when the module is first seen: importlib.metadata would need a second for that.
"""

from __future__ import annotations

import hashlib
import marshal
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from qcity_nb.version import __version__

__all__ = ["ImportedEnvironment"]

MOST_PACKAGES = 500
MOST_FILES = 600
MOST_NAME_CHARS = 100
"""With these bounds a record is below 64 KiB in the worst case, and usually below 4."""
_SITE = re.compile(r".*/(?:site|dist)-packages(?=/)")
_OWN = {"qcity_nb", "__main__", "__mp_main__"}
_METADATA = re.compile(r"(?P<name>[^-]+)-(?P<version>[^-]+)(?:-py[0-9.]+)?\.(?:dist-info|egg-info)")


class ImportedEnvironment:
    """Python, platform, packages and project files of this process, as far as they are imported."""

    def __init__(self, root: Path, modules: Mapping[str, ModuleType] | None = None) -> None:
        """Args: root: the project's directory. modules: those of the process, for tests."""
        self._root = os.path.realpath(root)
        self._modules = sys.modules if modules is None else modules
        self._seen: set[str] = set()
        self._specs: dict[str, object] = {}
        """The spec with which each of the project's own modules was loaded: a reload makes a new one."""
        self._folders: dict[str, _InstalledPackages] = {}
        self._installed_tops: set[str] = set()
        self.packages: dict[str, str] = {}
        """Versions by the name of the distribution."""
        self.files: dict[str, str] = {}
        """Hashes by path in the project; of a file elsewhere, by its module's name."""

    def record(self) -> dict[str, Any]:
        """What is known now, as plain JSON."""
        return {
            "python": platform.python_version(),
            "platform": f"{sys.platform} {platform.machine()}",
            "qcity_nb": __version__,
            "packages": dict(self.packages),
            "files": dict(self.files),
        }

    def refresh(self) -> None:
        """Look at the modules that were imported or loaded again since the last call."""
        names = sorted(set(self._modules) - self._seen, key=lambda name: name.count("."))  # packages before modules
        names += [name for name, spec in self._specs.items() if self._spec(name) is not spec]
        for name in names:
            self._seen.add(name)
            top = name.partition(".")[0]
            if top not in sys.stdlib_module_names and top not in _OWN:
                self._look(name, top)

    def _spec(self, name: str) -> object:
        return _attribute(self._modules.get(name), "__spec__")

    def _look(self, name: str, top: str) -> None:
        file = _attribute(self._modules.get(name), "__file__")
        if not isinstance(file, str) or top in self._installed_tops:
            return
        folder = _site_folder(file)
        installed = self._installed(folder or _import_folder(file, name))
        packages = list(installed.find(name, top)) if folder or installed.is_any else []
        if folder or packages:
            self._note_packages(name, top, packages)
        elif file.endswith(".py") and not _is_python_itself(file):
            self._specs[name] = self._spec(name)
            key = self._key(file, name)
            digest = _hash_loaded(file, self._specs[name])
            if digest and len(key) <= MOST_NAME_CHARS and (key in self.files or len(self.files) < MOST_FILES):
                self.files[key] = digest

    def _note_packages(self, name: str, top: str, packages: list[tuple[str, str]]) -> None:
        for package, version in packages:
            if len(self.packages) < MOST_PACKAGES:
                self.packages.setdefault(package, version)
        if name == top:  # its other modules are of the same distribution
            self._installed_tops.add(top)

    def _installed(self, folder: str) -> _InstalledPackages:
        if folder not in self._folders:
            self._folders[folder] = _InstalledPackages(folder)
        return self._folders[folder]

    def _key(self, file: str, name: str) -> str:
        path = os.path.realpath(file)
        if path.startswith(self._root + os.sep) and f"{os.sep}.qcity{os.sep}" not in path:
            return Path(path).relative_to(self._root).as_posix()
        return name.replace(".", "/") + ("/__init__.py" if Path(file).name == "__init__.py" else ".py")


class _InstalledPackages:
    """The distributions whose metadata lies in one folder of the import path."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._versions: dict[str, tuple[str, str, str]] = {}
        """Name, version and metadata's file name of each distribution, by its normalized name."""
        self._tops: dict[str, list[str]] | None = None
        try:
            names = sorted(entry.name for entry in os.scandir(folder))
        except OSError:  # a module from a zip file, or its folder is gone
            names = []
        for file_name in names:
            if match := _METADATA.fullmatch(file_name):
                self._versions[_normalize(match["name"])] = (match["name"], match["version"], file_name)

    @property
    def is_any(self) -> bool:
        """Is there metadata at all? Beside a project's own files there is seldom any."""
        return bool(self._versions)

    def find(self, name: str, top: str) -> Iterator[tuple[str, str]]:
        """Name and version of the distributions that the module comes from."""
        parts = name.split(".")
        for count in range(1, min(len(parts), 3) + 1):  # google.cloud.storage is of google-cloud-storage
            known = self._versions.get(_normalize("-".join(parts[:count])))
            if known is not None:
                yield known[:2]
                return
        if self._tops is None:
            self._tops = self._read_tops()
        owners = self._tops.get(top, [])
        if len(owners) == 1:  # else several share a namespace, and whose this module is would cost too much to find out
            yield self._versions[owners[0]][:2]

    def _read_tops(self) -> dict[str, list[str]]:
        """The distributions of each top-level module."""
        tops: dict[str, list[str]] = {}
        for key, (_, _, file_name) in self._versions.items():
            for top in _top_modules(self._folder / file_name):
                tops.setdefault(top, []).append(key)
        return tops


def _top_modules(metadata: Path) -> set[str]:
    for file_name in ("top_level.txt", "RECORD"):
        try:
            lines = (metadata / file_name).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        if file_name == "top_level.txt":
            return {line.strip() for line in lines}
        return {line.partition(",")[0].partition("/")[0].partition(".")[0] for line in lines}
    return set()


def _normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _attribute(module: object, name: str) -> object:
    """A module's attribute, without its ``__getattr__``, which may import more."""
    return getattr(module, "__dict__", {}).get(name)


def _site_folder(file: str) -> str:
    """The folder for installed packages that the file lies in; empty: none."""
    match = _SITE.match(file)
    return match[0] if match else ""


def _import_folder(file: str, name: str) -> str:
    """The folder of the import path that the module was found in."""
    depth = name.count(".") + (Path(file).name.partition(".")[0] == "__init__")
    folder = Path(file).parent
    return str(folder.parents[depth - 1] if 0 < depth <= len(folder.parents) else folder)


def _is_python_itself(file: str) -> bool:
    return file.startswith(os.path.dirname(os.__file__) + os.sep)  # noqa: PTH120  # for each module


def _hash_loaded(file: str, spec: object) -> str:
    """The hash of the source as it was loaded, whatever the path of the project and the ends of its lines."""
    try:
        source = Path(file).read_bytes()
        if compiled := _compiled_before_edit(file, getattr(spec, "cached", None), source):
            source = compiled
    except OSError:
        return ""
    return hashlib.blake2b(source.replace(b"\r\n", b"\n"), digest_size=6).hexdigest()


def _compiled_before_edit(file: str, cached: object, source: bytes) -> bytes:
    """The compiled module, if the source was edited after this process had imported it; else nothing.

    Its source is gone then. The compiled module, whose header has the size and time of that source, stands for it: the
    next import is of another source.
    """
    if not isinstance(cached, str) or sys.dont_write_bytecode:
        return b""
    try:
        compiled = Path(cached).read_bytes()
    except OSError:
        return b""
    stat = os.stat(file)  # noqa: PTH116  # beside os.path
    header = (int(stat.st_mtime) & 0xFFFFFFFF).to_bytes(4, "little") + (stat.st_size & 0xFFFFFFFF).to_bytes(4, "little")
    if compiled[4:8] != b"\0" * 4 or compiled[8:16] == header or stat.st_mtime <= _process_began_s():
        return b""
    try:
        is_same = marshal.loads(compiled[16:]) == compile(source, file, "exec", dont_inherit=True)  # noqa: S302  # Python ran it
    except (SyntaxError, ValueError, EOFError, TypeError):
        is_same = False
    return b"" if is_same else compiled[16:]  # a file may be written again without a change


def _process_began_s() -> float:
    """When this process began, in seconds since 1970; now, if the system does not say: then nothing was edited."""
    try:
        return os.stat("/proc/self").st_ctime  # noqa: PTH116  # beside os.path
    except OSError:
        return float("inf")
