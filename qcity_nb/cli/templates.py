"""Templates: small complete projects that `qcity init` and `qcity demo` extract.

They are kept in ``templates/`` beside the package in a checkout (and so in an editable install), and inside the
package in a wheel, where the build puts the same folder.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from qcity_nb.errors import UsageError

__all__ = ["extract", "names"]


def _folder() -> Path:
    package = Path(__file__).parents[1]
    inside = package / "templates"
    return inside if inside.is_dir() else package.parent / "templates"


def names() -> list[str]:
    """The templates that this installation has, sorted."""
    return sorted(file.parent.name for file in _folder().glob("*/pyproject.toml"))


def extract(name: str, target: Path) -> list[Path]:
    """Write the template's files below ``target``, which is created if it does not exist.

    Returns: the files written, sorted.
    Raises:
        UsageError: no such template; or one of the files exists already; or the folder cannot be written. In each case
            no new file remains.
    Does not: make a git repository, install anything, or touch other files in ``target``.
    """
    if name not in names():
        raise UsageError(f"no template {name!r}; there are: {', '.join(names()) or 'none in this installation'}")
    source = _folder() / name
    files = sorted(_files(source, frozenset()))
    targets = [target / file.relative_to(source) for file in files]
    if existing := [file for file in targets if file.exists() or file.is_symlink()]:
        more = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
        raise UsageError(f"{existing[0]} exists already{more}: nothing was written; choose an empty folder")
    written: list[Path] = []
    try:
        for file, to in zip(files, targets, strict=True):
            to.parent.mkdir(parents=True, exist_ok=True)
            with to.open("xb") as stream:
                written.append(to)
                stream.write(file.read_bytes())
    except BaseException as error:
        for to in written:
            with contextlib.suppress(OSError):
                to.unlink()
        if isinstance(error, OSError):
            raise UsageError(f"{target}: the template cannot be written there: {error.strerror or error}") from None
        raise
    return written


def _files(folder: Path, hidden: frozenset[str]) -> Iterator[Path]:
    """The template's files, without those that a run in place makes, which its ``.gitignore`` files list.

    Only two forms of lines are understood, and a test checks that the templates use no other: ``/name`` for this
    folder, ``name/`` for it and all below.
    """
    here: set[str] = set()
    ignore = folder / ".gitignore"
    for line in ignore.read_text(encoding="utf-8").split() if ignore.is_file() else []:
        if line.startswith("/"):
            here.add(line.strip("/"))
        else:
            hidden |= {line.rstrip("/")}
    for item in folder.iterdir():
        if item.name in here or item.name in hidden:
            continue
        if item.is_dir():
            yield from _files(item, hidden)
        else:
            yield item
