"""What a git repository is called, without git: the path of its remote ``origin``, the same in every clone."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

__all__ = ["find_remote_name", "name_of_address"]

_SECTION = re.compile(r'\[\s*(\w+)\s*(?:"([^"]*)")?\s*\]')
_URL = re.compile(r'url\s*=\s*"?([^"#;]*)', re.IGNORECASE)


def find_remote_name(folder: Path) -> str:
    """``owner/name`` of the repository around ``folder``, with the folder's place in it if it is not its root.

    Empty if there is no repository, it cannot be read, or its ``origin`` is missing or a path of this machine.
    """
    for root in (folder, *folder.parents):
        git = root / ".git"
        if git.exists():
            try:
                name = name_of_address(_read_origin(_common_dir(git) / "config"))
            except (OSError, UnicodeDecodeError):
                return ""
            return PurePosixPath(name, folder.relative_to(root).as_posix()).as_posix() if name else ""
    return ""


def _common_dir(git: Path) -> Path:
    """Where the repository's settings are. ``.git`` is a file in submodules and worktrees; these share a directory."""
    if git.is_file():
        git = git.parent / git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
    common = git / "commondir"
    return git / common.read_text(encoding="utf-8").strip() if common.is_file() else git


def _read_origin(config: Path) -> str:
    address, is_origin = "", False
    for line in config.read_text(encoding="utf-8").splitlines():
        line = line.strip()
        if section := _SECTION.match(line):
            is_origin = (section[1].lower(), section[2]) == ("remote", "origin")
            line = line[section.end() :].strip()
        if is_origin and not address and (setting := _URL.match(line)):
            address = setting[1].strip()
    return address


def name_of_address(address: str) -> str:
    """The path in a remote's address, in lower case, without ``.git``; empty if the address is a path of this machine.

    The same for ``https://user:token@host/Owner/name.git``, ``ssh://git@host:22/owner/name``, ``git@host:owner/name``.
    """
    if "://" in address:
        parts = urlsplit(address)
        path = "" if parts.scheme == "file" else unquote(parts.path)
    else:
        host, colon, path = address.partition(":")
        if not colon or "/" in host or "\\" in path or len(host) < 2:  # a path, also of Windows
            path = ""
    return path.strip("/").removesuffix(".git").strip("/").lower()
