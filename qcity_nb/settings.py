"""Settings: defaults < ``[tool.qcity]`` in pyproject.toml < ``QCITY_*`` in the environment < arguments.

Only this module (and the host probes) reads the environment. Every value remembers where it came from, for
``qcity doctor``.
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

from qcity_nb.errors import UsageError
from qcity_nb.git_remote import find_remote_name
from qcity_nb.version import __version__

__all__ = [
    "ENV",
    "KEY",
    "Project",
    "Settings",
    "database_name",
    "find_project",
    "load",
    "seconds",
    "setting_name",
    "signing_key",
    "wants_traceback",
]

ENV = "QCITY_"
KEY = ENV + "KEY"
"""The environment variable with the key that signs checkpoints: a secret, not a setting, and never written anywhere."""
_KEY_CHARACTERS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """The directory that a run belongs to."""

    root: Path
    name: str
    table: Mapping[str, Any]
    """``[tool.qcity]``; empty where there is no pyproject.toml."""
    evidence: str
    """What made this directory the project."""
    name_from: Literal["pyproject.toml", "the git remote", "the directory"] = "the directory"
    """Where the name comes from. Directories of two projects may have the same name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that a user may set; ``origin`` says where each value came from."""

    project: Project
    store: str
    """Where runs live: a directory, or an address such as ``hf://user/repo``."""
    local_dir: Path
    """The local tier: this host's own disk."""
    tracking: str
    """MLflow tracking address; empty: metrics stay in the outbox."""
    hosts: tuple[str, ...] = ("local",)
    ttl_s: float = 10.0
    """A holder without a heartbeat for this long may be superseded."""
    heartbeat_s: float = 2.0
    publish_s: float = 2.0
    """At most one checkpoint is published in this time (except at the end and at a stop)."""
    max_attempts: int = 50
    max_attempts_without_progress: int = 5
    stop_grace_s: float = 30.0
    """How long a stop waits for the next loop boundary before it interrupts."""
    stall_timeout_s: float | None = None
    session_limit_s: float | None = None
    """How long this host lets a session live; ``None``: what is known of the host."""
    storage_budget: int = 50_000_000_000
    """Bytes to use in a store that frees deleted content late (the Hub). From half of it on, publishes become rarer."""
    keep_last: int = 3
    """How many of the newest checkpoints stay in the store."""
    keep_every: int | None = None
    """The first checkpoint in each interval of this many steps stays too."""
    keep_best: str = ""
    """The checkpoint with the best value of this metric stays too; ``fid:min`` says that lower is better."""
    snapshot_time_share: float = 0.1
    """Snapshots of the variables take at most this share of the cells' time; 0: none are taken."""
    bundle: tuple[str, ...] = ()
    """What hosts without the project's files get beside the files that git tracks: patterns as of ``Path.glob``."""
    job_image: str = "python:3.12"
    """The container that a job runs in; it needs bash and Python."""
    job_install: str = f"qcity-nb[local]=={__version__}"
    """What pip installs there first, as on its command line; empty: nothing, the image has it."""
    job_timeout_s: float = 21_600.0
    """After how long the service ends a job, unless the run's needs say otherwise."""
    job_namespace: str = ""
    """The user or organization that pays; empty: the token's owner."""
    job_secrets: tuple[str, ...] = ()
    """Variables of this environment that a job also gets, as secrets."""
    strict_state: bool = False
    """A loop's state that lacks what one iteration passes to the next is an error, not only a message."""
    strict_environment: bool = False
    """A run does not resume with other packages, another Python or edited project files."""
    mailbox: str = ""
    """Set by the engine for its kernel: the mailbox of the attempt that it belongs to."""
    chaos: str = ""
    """Crash points to arm; for tests (``qcity_nb.testing.chaos``)."""
    origin: Mapping[str, str] = field(default_factory=dict)

    def mailbox_of(self, attempt: str) -> Path:
        """Where the processes of that attempt exchange messages on this host; see ``run.mailbox``."""
        return self.local_dir / "attempts" / attempt


_NAME = re.compile(r"[^A-Za-z0-9._-]+")


def find_project(start: Path) -> Project:
    """The nearest directory upwards with [tool.qcity] in its pyproject.toml, or with a git repository; else ``start``.

    Its name is ``project`` in that table, else the name in ``[project]`` of that file, else the path of the git remote
    ``origin`` (``owner/name``, and the directory's place in the repository if it is not its root), else the name of the
    directory. It is part of every run's key, so another clone has the same name on any machine.

    Raises:
        UsageError: a pyproject.toml on the way is not valid TOML.
    """
    start = start.resolve()
    for folder in (start, *start.parents):
        file = folder / "pyproject.toml"
        if file.is_file():
            try:
                document = tomllib.loads(file.read_text(encoding="utf-8"))
            except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
                raise UsageError(f"{file} is not valid TOML: {error}") from None
            table = document.get("tool", {}).get("qcity")
            if isinstance(table, dict):
                name = table.get("project") or document.get("project", {}).get("name")
                return _make_project(folder, str(name or ""), table, f"[tool.qcity] in {file}")
        if (folder / ".git").exists():
            return _make_project(folder, "", {}, f"git repository {folder}")
    return _make_project(start, "", {}, "the working directory")


def _make_project(root: Path, name: str, table: Mapping[str, Any], evidence: str) -> Project:
    if name:
        return Project(root=root, name=_clean(name), table=table, evidence=evidence, name_from="pyproject.toml")
    if remote := find_remote_name(root):
        return Project(root=root, name=_clean(remote), table=table, evidence=evidence, name_from="the git remote")
    return Project(root=root, name=_clean(root.name), table=table, evidence=evidence)


def _clean(name: str) -> str:
    parts = (_NAME.sub("-", part).strip("-.") for part in name.split("/"))
    return "/".join(part for part in parts if part) or "project"


def seconds(value: object, *, name: str) -> float:
    """Seconds from a number or a text such as ``"90"``, ``"90s"``, ``"2m"``, ``"1.5h"``.

    Raises:
        UsageError: neither, negative, or not finite; the message names the setting.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
        return float(value)
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|)\s*", str(value))
    if match is None:
        raise UsageError(f"{name} = {value!r}: write seconds, such as 90, '90s', '2m' or '1.5h'")
    return float(match[1]) * {"ms": 0.001, "s": 1, "": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


_SECONDS = {"ttl_s", "heartbeat_s", "publish_s", "stop_grace_s", "stall_timeout_s", "session_limit_s", "job_timeout_s"}
_ALIASES = {name.removesuffix("_s"): name for name in _SECONDS}


def setting_name(name: str) -> str:
    """A setting's full name: ``heartbeat`` is short for ``heartbeat_s``."""
    return _ALIASES.get(name, name)


_POSITIVE = {"ttl_s", "heartbeat_s", "stall_timeout_s", "session_limit_s", "job_timeout_s"}
_PASSWORD = re.compile(r"^[a-z0-9+]+://[^/@]*:[^/@]+@|[?&][^=&]*(?:token|password|secret|key)[^=&]*=", re.IGNORECASE)
_TOKEN = re.compile(r"://(?!git@)[^/@]+@")
"""A user name alone in an address is no secret; in a package's address it is a token."""
_PASSWORD_ADVICE = {
    "store": "give the address without it",
    "tracking": "give the address without it, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    "job_install": "everybody could read it in the job's command; use an image that has the package",
}
"""Addresses are written to files that others read; this says where a password belongs instead."""
_LISTS = {"hosts": "host names", "bundle": "file patterns", "job_secrets": "variables"}
_SWITCHES = {"strict_state", "strict_environment"}
_SWITCH = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
_NONE = {"tracking", "job_install"}
"""What may be ``none``: an empty variable counts as not set, so the environment needs a word for it."""
_BYTES = {"storage_budget"}
_AT_A_HUB = {"ttl_s": 300.0, "heartbeat_s": 60.0, "publish_s": 60.0}
"""The defaults for a store on the Hub, where each heartbeat and each publish is a commit."""
HUB_FLOOR_S = 60.0
"""Commits to huggingface.co are at least this far apart: its users report a limit of 128 an hour."""
_SHARES = {"snapshot_time_share"}
_INTEGERS = {"max_attempts", "max_attempts_without_progress", "keep_last", "keep_every"}


def _value(name: str, value: object) -> Any:
    if name in _SECONDS:
        duration_s = seconds(value, name=name)
        if duration_s == 0 and name in _POSITIVE:
            raise UsageError(f"{name} = {value!r}: write more than 0 s")
        return duration_s
    if name in _BYTES:
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(B|KB|MB|GB|TB|)\s*", str(value), re.IGNORECASE)
        if match is None or float(match[1]) == 0:
            raise UsageError(f"{name} = {value!r}: write a size, such as 50000000000 or '50GB'")
        return int(float(match[1]) * {"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[match[2].upper()])
    if name in _INTEGERS:
        if re.fullmatch(r"\s*[1-9][0-9]*\s*", str(value)) is None:
            raise UsageError(f"{name} = {value!r}: write a whole number, 1 or more")
        return int(str(value))
    if name in _SHARES:
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*", str(value))
        if match is None:
            raise UsageError(f"{name} = {value!r}: write a share of the cells' time, such as 0.1 or '10%'")
        return float(match[1]) / (100 if match[2] else 1)
    if name in _SWITCHES:
        text = str(value).strip().lower()
        if text not in _SWITCH:
            raise UsageError(f"{name} = {value!r}: write true or false")
        return _SWITCH[text]
    if name in _LISTS:
        items = value.split(",") if isinstance(value, str) else value
        names = tuple(str(item).strip() for item in items) if isinstance(items, list | tuple) else ("",)
        if not all(names) or (name == "hosts" and not names):
            raise UsageError(f"{name} = {value!r}: write a list of {_LISTS[name]}")
        return names
    if name in _NONE and str(value).strip().lower() == "none":
        return ""
    if name == "local_dir":
        return Path(str(value)).expanduser()
    return str(value)


def signing_key(environ: Mapping[str, str] | None = None) -> bytes | None:
    """The key that signs the project's checkpoints, if there is one.

    Raises:
        UsageError: it is too short to be one.
    """
    value = (os.environ if environ is None else environ).get(KEY, "").strip()
    if value and len(value) < _KEY_CHARACTERS:
        raise UsageError(
            f"{KEY} has {len(value)} characters, and needs {_KEY_CHARACTERS}: make one with `python -c "
            "'import secrets; print(secrets.token_hex(32))'`"
        )
    return value.encode() or None


def wants_traceback(environ: Mapping[str, str] | None = None) -> bool:
    """Does ``QCITY_TRACEBACK`` ask the command line for tracebacks?"""
    environ = os.environ if environ is None else environ
    return environ.get(ENV + "TRACEBACK", "") not in ("", "0")


def _pace_at_a_hub(values: dict[str, Any], origin: dict[str, str], environ: Mapping[str, str]) -> None:
    for name, default in _AT_A_HUB.items():
        if origin[name] == "default":
            values[name] = default
            origin[name] = "default for hf:// stores"
    options = dict(parse_qsl(urlsplit(values["store"]).query))
    host = urlsplit(options.get("endpoint") or environ.get("HF_ENDPOINT") or "https://huggingface.co").hostname or ""
    if re.search(r"(^|\.)(huggingface\.co|hf\.co)$", host):
        for name in ("heartbeat_s", "publish_s"):
            if values[name] < HUB_FLOOR_S:
                values[name] = HUB_FLOOR_S
                origin[name] += f", raised: at most one commit each {HUB_FLOOR_S:g} s to huggingface.co"


def database_name(path: Path) -> str:
    """The path of a database as it stands in an address: ``?`` and ``%`` have a meaning there."""
    return str(path).replace("%", "%25").replace("?", "%3F")


def load(
    start: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Settings for the project around ``start`` (the working directory by default).

    Args:
        overrides: arguments; ``None`` counts as not set.
        environ: the environment, for tests.
    Raises:
        UsageError: a value of the wrong kind, or an unknown key in [tool.qcity]; the message names it.
    """
    environ = os.environ if environ is None else environ
    project = find_project(start or Path.cwd())
    state_dir = project.root / ".qcity"
    known = {f.name for f in fields(Settings)} - {"project", "origin"}
    values: dict[str, Any] = {
        "store": str(state_dir / "store"),
        "local_dir": state_dir / "local",
        "tracking": f"sqlite:///{database_name(state_dir / 'mlflow.db')}",
    }
    origin = dict.fromkeys(known, "default")

    def put(name: str, value: object, source: str) -> None:
        values[name] = _value(name, value)
        origin[name] = source

    if uri := environ.get("MLFLOW_TRACKING_URI"):
        put("tracking", uri, "environment MLFLOW_TRACKING_URI")
    for key, value in project.table.items():
        name = _ALIASES.get(key, key)
        if key in ("project", "params", "data"):
            continue
        if name not in known or name in ("chaos", "mailbox"):
            raise UsageError(f"[tool.qcity] in {project.root / 'pyproject.toml'}: unknown key {key!r}")
        put(name, value, "pyproject.toml")
    for name in sorted(known):
        for spelled in sorted({name, name.removesuffix("_s")}):
            if value := environ.get(ENV + spelled.upper()):
                put(name, value, f"environment {ENV}{spelled.upper()}")
    for name, argument in (overrides or {}).items():
        if setting_name(name) not in known:
            raise UsageError(f"no setting is named {name!r}")
        if argument is not None:
            put(setting_name(name), argument, "argument")
    for name in ("store", "local_dir"):
        text = str(values[name])
        if "://" not in text and not Path(text).expanduser().is_absolute():
            values[name] = _value(name, str(project.root / Path(text).expanduser()))
    for name in _PASSWORD_ADVICE:
        words = str(values.get(name, "")).split()
        if any(_PASSWORD.search(word) or (name == "job_install" and _TOKEN.search(word)) for word in words):
            raise UsageError(f"{name} ({origin[name]}) holds a password: {_PASSWORD_ADVICE[name]}")
    if values["store"].startswith("hf://"):
        _pace_at_a_hub(values, origin, environ)
    settings = Settings(project=project, origin=origin, **values)
    if settings.ttl_s < 3 * settings.heartbeat_s:
        raise UsageError(
            f"ttl = {settings.ttl_s:g} s is less than three heartbeats of {settings.heartbeat_s:g} s: raise it"
        )
    return settings
