"""What DVC recorded: outputs in ``*.dvc`` files and ``dvc.lock``, and the configuration that locates content.

DVC's files are read here without DVC, whose import alone takes longer than copying most data sets.
Source: https://dvc.org/doc/user-guide/project-structure (formats of .dvc files, dvc.lock, configuration).
"""

from __future__ import annotations

import configparser
import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from qcity_nb.errors import DataError

__all__ = ["Output", "Places", "find", "places", "scan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One file or directory that DVC tracks."""

    path: str
    """Relative to the project, with forward slashes."""
    md5: str
    """Of the file's bytes, or of the listing (``.dir`` object) of a directory."""
    is_directory: bool
    size_bytes: int | None
    source: str
    """The file that records it, relative to the project."""
    remote: str | None = None
    """The remote that is recorded for this output."""
    is_legacy: bool = False
    """Recorded by DVC 2, which hashes text after converting line ends, and has another layout of remotes."""

    @property
    def is_pipeline(self) -> bool:
        """Is it made by a stage of dvc.yaml?"""
        return PurePosixPath(self.source).name == "dvc.lock"


def _yaml(file: Path) -> Any:
    import yaml

    # The C loader is several times faster on a long dvc.lock; it is not in every build.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(file.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506  # both are safe loaders
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{file}: not readable as YAML ({reason}); restore it from git") from None


def _outputs(entries: object, *, folder: str, source: str) -> Iterator[Output]:
    for entry in entries if isinstance(entries, list) else []:
        path, md5 = entry.get("path"), entry.get("md5")
        if not isinstance(path, str) or not isinstance(md5, str):
            continue  # another kind of hash, such as an imported cloud object's etag
        size = entry.get("size")
        remote = entry.get("remote")
        yield Output(
            path=posixpath.normpath(posixpath.join(folder, path)),
            md5=md5.removesuffix(".dir"),
            is_directory=md5.endswith(".dir"),
            size_bytes=size if isinstance(size, int) else None,
            source=source,
            remote=remote if isinstance(remote, str) else None,
            is_legacy=entry.get("hash") != "md5",
        )


def _read(root: Path, file: Path) -> list[Output]:
    """The outputs that one ``.dvc`` file or ``dvc.lock`` records.

    Raises:
        DataError: not YAML.
    """
    source = file.relative_to(root).as_posix()
    folder = posixpath.dirname(source)
    document = _yaml(file)
    if not isinstance(document, dict):
        return []
    if file.name != "dvc.lock":
        return list(
            _outputs(document.get("outs"), folder=posixpath.join(folder, document.get("wdir") or ""), source=source)
        )
    definition = file.with_name("dvc.yaml")
    definitions = (_yaml(definition) or {}).get("stages", {}) if definition.is_file() else {}
    outputs: list[Output] = []
    for name, stage in (document.get("stages") or {}).items():
        # "train@0" is an item of the foreach or matrix stage "train".
        wdir = (definitions.get(name.split("@")[0]) or {}).get("wdir") or ""
        outputs += _outputs(stage.get("outs"), folder=posixpath.join(folder, wdir), source=source)
    return outputs


def _covers(output: Output, path: str) -> bool:
    return path == output.path or (output.is_directory and path.startswith(output.path + "/"))


def find(root: Path, path: str) -> Output | None:
    """The output that is ``path``, or the tracked directory that contains it.

    The usual places are read first (``<path>.dvc``, a ``dvc.lock`` above it). Only a path that is not in them costs a
    walk through the project.
    """
    pure = PurePosixPath(path)
    for candidate in (pure, *pure.parents[:-1]):
        file = root / f"{candidate}.dvc"
        if file.is_file():
            for output in _read(root, file):
                if _covers(output, path):
                    return output
    for folder in pure.parents:
        file = root / folder / "dvc.lock"
        if file.is_file():
            for output in _read(root, file):
                if _covers(output, path):
                    return output
    return next((output for output in scan(root) if _covers(output, path)), None)


def scan(root: Path) -> list[Output]:
    """Every output of the project, sorted by path.

    Hidden folders, virtual environments, nested DVC projects and tracked directories are not entered.
    """
    outputs: dict[str, Output] = {}
    for at, folders, files in os.walk(root):
        here = Path(at)
        for name in files:
            if (name.endswith(".dvc") and name != ".dvc") or name == "dvc.lock":
                outputs |= {output.path: output for output in _read(root, here / name)}
        relative = here.relative_to(root).as_posix()
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and name not in ("__pycache__", "node_modules")
            and posixpath.normpath(posixpath.join(relative, name)) not in outputs
            and not (here / name / "pyvenv.cfg").exists()
            and not (here / name / ".dvc").is_dir()
        ]
    return [outputs[path] for path in sorted(outputs)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where content may be stored."""

    config: Path
    """The folder ``.dvc``; it need not exist."""
    cache: Path
    remotes: dict[str, str]
    """Address by name; a directory's is absolute."""
    default: str | None

    def directory(self, remote: str | None) -> Path | None:
        """The remote (the default one for ``None``) if it is a directory."""
        url = self.remotes.get(remote or self.default or "", "")
        return Path(url) if url and "://" not in url else None


def places(root: Path) -> Places:
    """Read DVC's configuration: ``.dvc/config``, then ``.dvc/config.local`` over it.

    The folder ``.dvc`` is the project's own or, in a repository of several projects, the nearest one above.
    A user's or a machine's own DVC configuration is not read.

    Raises:
        DataError: a configuration file cannot be parsed.
    """
    home = root
    for folder in (root, *root.parents):
        if (folder / ".dvc").is_dir():
            home = folder
            break
        if (folder / ".git").exists():
            break
    config = home / ".dvc"
    cache = config / "cache"
    remotes: dict[str, str] = {}
    default: str | None = None
    for file in (config / "config", config / "config.local"):
        if not file.is_file():
            continue
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            parser.read_string(file.read_text(encoding="utf-8"), source=str(file))
        except (configparser.Error, UnicodeDecodeError) as error:
            raise DataError(f"{file}: not readable ({' '.join(str(error).split())})") from None
        for name in parser.sections():
            section = {key: value.strip("\"' ") for key, value in parser[name].items()}
            bare = name.strip("'")  # DVC writes ['remote "name"']
            if bare == "core":
                default = section.get("remote", default)
            elif bare == "cache" and "dir" in section:
                cache = Path(os.path.normpath(config / section["dir"]))
            elif bare.startswith("remote ") and "url" in section:
                remotes[bare.removeprefix("remote ").strip('" ')] = _absolute(section["url"], config)
    return Places(config=config, cache=cache, remotes=remotes, default=default)


def _absolute(url: str, config: Path) -> str:
    if url.startswith("file://"):
        url = url.removeprefix("file://")
    return url if "://" in url else os.path.normpath(config / Path(url).expanduser())
