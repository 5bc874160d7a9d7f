"""The project's small files for a host that does not have them: packed when a run begins, unpacked where it runs.

Included: files that git tracks in the project's directory, and those that ``bundle`` in ``[tool.qcity]`` names.
Never included: links, files that hold the value of a secret variable of this environment, and data that DVC tracks
(its ``.dvc`` files are included; the data comes from DVC's remote). What looks like a secret by name or content is
included only if ``bundle`` names that very file.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from qcity_nb import secrets
from qcity_nb.errors import CheckpointCorrupt, UsageError

__all__ = ["LIMIT_BYTES", "Bundle", "pack", "unpack"]

LIMIT_BYTES = 20_000_000
"""Of all files together; the largest ones are left out."""
_PLAIN_BYTES = 3 * LIMIT_BYTES
"""Including what the archive adds to each file. A larger archive was not made by ``pack``."""
_SECRET = (
    *(".env", ".env.*", "*.env", ".envrc", ".netrc", "_netrc", ".pypirc", ".npmrc", ".git-credentials", ".htpasswd"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.kdbx"),
    *("*.keystore", "*.ovpn", ".pgpass", ".my.cnf", ".s3cfg", ".boto", ".dockercfg", ".vault-token", "*.tfstate"),
    *("credentials", "credentials.*", "*credentials*.json", "*credentials*.y*ml", "client_secret*.json"),
    *("service_account*.json", "kaggle.json", "token", "token.txt", "token.json", "*.token", "*_token", "*_token.txt"),
    *("*-token", "*-token.txt", "*api_key", "*api_key.txt", "*apikey.txt", "password", "password.txt", "passwords.txt"),
    *("secret", "secret.*", "secrets", "secrets.*", ".secrets*", "*.secret", "config.local"),
)
"""File names, in lower case. ``config.local`` is where DVC keeps passwords."""
_SECRET_FOLDERS = (
    *(".ssh", ".aws", ".azure", ".gnupg", ".kube", ".docker", "gcloud", ".gcloud", ".huggingface", ".kaggle"),
    *("secrets", ".secrets"),
)
"""Folders in which programs keep credentials."""
_BINARY_BYTES = 8192
"""A file with a zero byte among its first ones is no text."""
_HARMLESS = ("*.example", "*.sample", "*.template")
_OURS = {".git", ".qcity", ".ipynb_checkpoints", "__pycache__", ".venv"}
_PROJECT_FILE = "pyproject.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """Files of the project, as one object of the run."""

    name: str
    data: bytes
    files: tuple[str, ...]
    left_out: tuple[str, ...]
    """Files that were left out, each with the reason."""


def _has_secret_name(path: str) -> bool:
    *folders, name = path.lower().split("/")
    if any(fnmatchcase(name, each) for each in _HARMLESS):
        return False
    return any(fnmatchcase(name, each) for each in _SECRET) or any(folder in _SECRET_FOLDERS for folder in folders)


def _refuse(name: str, content: bytes, allowed: Collection[str], values: Mapping[str, str]) -> str:
    """Why a file must not be sent; empty: it may."""
    text = content.decode("utf-8", "replace") if b"\0" not in content[:_BINARY_BYTES] else ""
    if variable := secrets.find_value(text, values):
        return f'it holds the value of {variable}; use city.secret("{variable}") instead'
    if name in allowed:
        return ""
    if _has_secret_name(name):
        why = "by its name it may hold a secret"
    elif token := secrets.find_token(text):
        why = f"it seems to hold {token}"
    else:
        return ""
    return f"{why}; if it may be sent, name it: bundle = [{json.dumps(name, ensure_ascii=False)}]"


def _list_tracked(root: Path) -> list[str]:
    """What git tracks below ``root``; empty without git, or without a repository."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=root, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [name.decode("utf-8", "surrogateescape") for name in listed.stdout.split(b"\0") if name]


def _match(root: Path, patterns: Sequence[str]) -> list[str]:
    """The files that match the patterns, without what DVC tracks."""
    if not patterns:
        return []
    from qcity_nb.data import tracked

    outputs = tracked.scan(root)
    names = []
    for pattern in patterns:
        try:
            if any("**" in part and part != "**" for part in pattern.split("/")):  # Python 3.13 would take it for "*"
                raise ValueError('"**" stands alone between slashes')
            paths = list(root.glob(pattern))
        except (ValueError, NotImplementedError, IndexError) as error:
            raise UsageError(f"bundle names {pattern!r}: {error}; write patterns relative to the project") from None
        for path in paths:
            name = path.relative_to(root).as_posix()
            if not any(name == each.path or name.startswith(f"{each.path}/") for each in outputs):
                names.append(name)
    return names


def pack(root: Path, patterns: Sequence[str] = (), environ: Mapping[str, str] = os.environ) -> Bundle:
    """The project's files as one object, the same for the same files.

    Args:
        patterns: the setting ``bundle``: more files, as ``Path.glob`` takes them.
        environ: the values of its secret-looking variables are in no file that is sent.
    Returns: a bundle; without any file its name is empty.
    Raises:
        UsageError: an invalid pattern.
        DataError: DVC's files cannot be read.
    Does not promise: to find a secret that has none of the known forms, in a file with a harmless name.
    """
    root = root.resolve()
    values = secrets.secret_values(environ)
    left_out = []
    sizes: dict[str, int] = {}
    for name in {_PROJECT_FILE, *_list_tracked(root), *_match(root, patterns)}:
        path = root / name
        # A link, or a path below one: its target may be anything.
        if path.resolve() != root / name or not path.is_file() or _OURS & set(Path(name).parts):
            continue
        size = path.stat().st_size
        # What is too large to be sent is not read.
        if why := _refuse(name, path.read_bytes() if size <= LIMIT_BYTES else b"", patterns, values):
            left_out.append(f"{name} ({why})")
            continue
        sizes[name] = size
    included, total = [], 0
    for name in sorted(sizes, key=lambda name: (sizes[name], name)):
        total += sizes[name]
        if total > LIMIT_BYTES:
            left_out.append(f"{name} ({sizes[name] / 1e6:.0f} MB: more than {LIMIT_BYTES / 1e6:.0f} MB in total)")
        else:
            included.append(name)
    if not included:
        return Bundle(name="", data=b"", files=(), left_out=tuple(sorted(left_out)))
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(included):
            content = (root / name).read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o755 if (root / name).stat().st_mode & 0o100 else 0o644
            archive.addfile(entry, io.BytesIO(content))
    return Bundle(
        name=_name(plain.getvalue()),
        data=gzip.compress(plain.getvalue(), mtime=0),
        files=tuple(sorted(included)),
        left_out=tuple(sorted(left_out)),
    )


def _name(plain: bytes) -> str:
    """The bundle's name, by its content before compression: versions of zlib compress differently."""
    return f"project-{hashlib.sha256(plain).hexdigest()[:16]}.tar.gz"


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, bundle: str) -> None:
    """Extract one plain file below ``folder``, and nowhere else.

    Written by hand: ``filter="data"`` of ``tarfile`` came with Python 3.11.4, and Debian 12 has 3.11.2.
    """
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise CheckpointCorrupt(f"the project's bundle {bundle} is refused: {member.name} is outside of it")
    target = folder.joinpath(*path.parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    content = archive.extractfile(member)
    assert content is not None, "a plain file has content"
    with target.open("xb") as file:
        file.write(content.read())
    mode = member.mode & 0o755 | 0o600
    target.chmod(mode if mode & 0o100 else mode & ~0o111)


def unpack(name: str, data: bytes, folder: Path) -> list[str]:
    """Extract the files of a bundle below ``folder``.

    Returns: their names.
    Raises:
        CheckpointCorrupt: its content does not match its name, it is too large, or it holds anything but plain files
            below ``folder``. Some of its files may have been extracted.
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as compressed:
            plain = compressed.read(_PLAIN_BYTES + 1)
        if len(plain) > _PLAIN_BYTES or _name(plain) != name:
            raise CheckpointCorrupt(f"the content of the project's bundle {name} does not match its name")
        with tarfile.open(fileobj=io.BytesIO(plain), mode="r:") as archive:
            members = archive.getmembers()
            for member in members:
                if not member.isfile():
                    raise CheckpointCorrupt(
                        f"the project's bundle {name} is refused: {member.name} is not a plain file"
                    )
            for member in members:
                _extract(archive, member, folder, name)
    except (tarfile.TarError, zlib.error, OSError, EOFError, ValueError) as error:
        raise CheckpointCorrupt(f"the project's bundle {name} cannot be unpacked: {error}") from None
    return [member.name for member in members]
