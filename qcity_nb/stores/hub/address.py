"""How a store's address, a run's branch and a run record's file are written on the Hugging Face Hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl, quote, urlsplit

from qcity_nb.errors import UsageError

__all__ = [
    "FILES",
    "HEAD",
    "HubAddress",
    "Stamp",
    "branch_of",
    "parse",
    "read_head",
    "run_of",
    "write_head",
]

_BRANCHES = "run/"
FILES = "files/"
"""The folder of a run's objects on its branch."""
HEAD = "qcity.head"
"""A name that no user's repository has: a new run's branch begins as a copy of ``main``."""

_SEGMENT = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?")
_FORM = "hf://user/repo, or hf://datasets/user/repo"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubAddress:
    """A repository on the Hub."""

    repo: str
    """``user/name``."""
    kind: Literal["model", "dataset"] = "model"
    endpoint: str = ""
    """The address of a Hub other than the client's default."""

    @property
    def short(self) -> str:
        """For people: without the endpoint."""
        return f"hf://{'datasets/' if self.kind == 'dataset' else ''}{self.repo}"

    @property
    def owner(self) -> str:
        """The user or organization."""
        return self.repo.partition("/")[0]

    def __str__(self) -> str:
        return f"{self.short}?endpoint={quote(self.endpoint, safe='')}" if self.endpoint else self.short


def parse(address: str) -> HubAddress:
    """Read ``hf://[datasets/]user/repo[?endpoint=URL]``.

    Raises:
        UsageError: it has another form; the message says how to write it.
    """
    parts = urlsplit(address)
    words = [word for word in (parts.netloc + parts.path).rstrip("/").split("/") if word or not parts.netloc]
    kind: Literal["model", "dataset"] = "model"
    if words[:1] == ["spaces"]:
        raise UsageError(f"store {address!r}: a Space cannot be a store; write {_FORM}")
    if len(words) == 3 and words[0] in ("models", "datasets"):
        kind = "dataset" if words.pop(0) == "datasets" else "model"
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    endpoint = options.pop("endpoint", "").rstrip("/")
    is_well = parts.scheme == "hf" and len(words) == 2 and all(_SEGMENT.fullmatch(word) for word in words)
    if not is_well or options or parts.fragment or (endpoint and urlsplit(endpoint).scheme not in ("http", "https")):
        raise UsageError(f"store {address!r}: write {_FORM}")
    return HubAddress(repo="/".join(words), kind=kind, endpoint=endpoint)


def branch_of(run: str) -> str:
    """The run's branch. A ``/`` is a ``+``: to git, branch ``a/b`` would be a file in the directory of branch ``a``.

    What git does not allow in a name is written as ``=`` and two hexadecimal digits.
    """
    name = run.replace("..", ".=2E").replace("/", "+")
    for end in (".lock", "."):
        if name.endswith(end):
            name = f"{name[: -len(end)]}=2E{end[1:]}"
    return _BRANCHES + name


def run_of(branch: str) -> str | None:
    """The run of a branch; ``None`` if it is no run's branch."""
    if not branch.startswith(_BRANCHES):
        return None
    name = branch.removeprefix(_BRANCHES).replace("=2E", ".").replace("+", "/")
    return name if branch_of(name) == branch else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """The first line of a run record's file: it makes each write unique, even of the same bytes."""

    version: str
    commits: int
    """Commits of the branch since its history was last squashed, as far as writers of run records know."""


_STAMP = re.compile(rb"qcity-head 1 ([0-9a-f]{16}) (\d{1,9})\n")


def write_head(stamp: Stamp, head: bytes) -> bytes:
    """The content of the run record's file."""
    return b"qcity-head 1 %s %d\n" % (stamp.version.encode("ascii"), stamp.commits) + head


def read_head(content: bytes) -> tuple[Stamp | None, bytes]:
    """The stamp and the run record. A file without a stamp, which no store wrote, is all run record."""
    match = _STAMP.match(content)
    if match is None:
        return None, content
    return Stamp(version=match[1].decode("ascii"), commits=int(match[2])), content[match.end() :]
