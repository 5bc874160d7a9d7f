"""What surrounds the variables of a kernel: working directory, import path, some of the environment, display options.

Environment variables come along by an allow-list of names, and only where the notebook changed them: what the host
itself sets stays the host's. A name or a value that looks like a secret never does, whatever the list says.
Random generators are not here (`checkpoint/generators.py`), and neither is what imported modules hold.
"""

from __future__ import annotations

import fnmatch
import importlib
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

__all__ = ["Surround", "Surroundings", "is_allowed", "looks_secret"]

_ALLOWED = (
    *("OMP_*", "MKL_*", "OPENBLAS_*", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMEXPR_*", "KMP_*", "GOMP_*"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_LAUNCH_BLOCKING", "CUBLAS_WORKSPACE_CONFIG", "NCCL_DEBUG"),
    *("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE", "PYTHONHASHSEED", "PYTHONWARNINGS"),
    *("TOKENIZERS_PARALLELISM", "TRANSFORMERS_VERBOSITY", "TRANSFORMERS_OFFLINE", "HF_HUB_OFFLINE"),
    *("TF_*", "XLA_FLAGS", "XLA_PYTHON_*", "JAX_*", "TORCH_*", "TORCHINDUCTOR_*", "PYTORCH_*", "KERAS_BACKEND"),
    *("TZ", "LANG", "LANGUAGE", "LC_*", "MPLBACKEND", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"),
)
"""Names and patterns. Each tells a library how to compute or to show; none says who may."""

_SECRET_NAME = re.compile(
    r"TOKEN(?!IZERS?(?:_|$))|KEYS?(?:_|$)|SECRET|PASSW|PASSPHRASE|(?:^|_)(?:PASS|PWD|AUTH|"
    r"PAT|SAS|DSN|COOKIE|BEARER|JWT|CERT|SIGNATURE)(?:_|$)|CREDENTIAL|PRIVATE|WEBHOOK|NETRC",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(
    r"""
    (?<![A-Za-z0-9])(?:
        hf_[A-Za-z0-9]{6} | api_org_[A-Za-z0-9]{6} | sk-[A-Za-z0-9_-]{6} | sk_(?:live|test)_ | rk_(?:live|test)_
      | gh[opsur]_[A-Za-z0-9]{6} | github_pat_ | glpat- | gldt- | xox[abeoprs]- | xapp-
      | AKIA[A-Z0-9]{8} | ASIA[A-Z0-9]{8} | AIza[A-Za-z0-9_-]{8} | ya29\.
      | eyJ[A-Za-z0-9_-]{8} | pypi-[A-Za-z0-9] | npm_[A-Za-z0-9]{6}
      | dop_v1_ | dckr_pat_ | nvapi- | gsk_[A-Za-z0-9]{6} | r8_[A-Za-z0-9]{6} | wandb_v1_
      | SG\.[A-Za-z0-9_-]{8} | shpat_ | lin_api_
      | (?:bearer|basic)\s+[A-Za-z0-9+/=._-]{6}
    )
    | -----BEGIN\s
    | [a-z][a-z0-9+.-]*://[^/\s@]*@                      # any user in an address: a token may stand in its place
    | [?&;\s](?:sig|signature|x-amz-[a-z-]+)=
    | (?:token|passw(?:or)?d|pwd|secret|api_?key|access_?key|accountkey|credential)["']?\s*[=:]
    | \b[0-9a-f]{32,}\b                                  # hexadecimal keys
    | (?-i:(?<![\w/.-])(?=[\w+/=-]*[0-9])(?=[\w+/=-]*[a-z])(?=[\w+/=-]*[A-Z])[A-Za-z0-9+/_=-]{24,}(?![\w/.-]))
    """,
    re.IGNORECASE | re.VERBOSE,
)
_LONGEST = 4096
"""Longer values of settings are not known; a key file's content may be."""


def looks_secret(name: str, value: str) -> bool:
    """Does a variable's name or value look as if it let somebody in? Rather once too often than too seldom."""
    return bool(_SECRET_NAME.search(name) or _SECRET_VALUE.search(value)) or len(value) > _LONGEST


def is_allowed(name: str) -> bool:
    """Is ``name`` on the list of what may come along?"""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in _ALLOWED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What surrounded the variables, as plain JSON values."""

    cwd: str = ""
    """Below the project's root with forward slashes; else absolute; empty: not known."""
    path: tuple[str, ...] = ()
    """Added to `sys.path` since the start, told as `cwd` is."""
    path_first: int = 0
    """So many of them stand at its front."""
    environ: Mapping[str, str | None] = field(default_factory=dict)
    """Variables that changed; ``None``: deleted."""
    matplotlib: Mapping[str, Any] = field(default_factory=dict)
    numpy: Mapping[str, Any] = field(default_factory=dict)
    pandas: Mapping[str, Any] = field(default_factory=dict)
    """Options that differ from their defaults."""
    extra: Mapping[str, Any] = field(default_factory=dict)


class Surround:
    """Remembers how things were when the kernel began, so that changes can be told.

    Args:
        root: the project's directory.
        environ: the environment, for tests.
    """

    def __init__(self, root: Path, environ: MutableMapping[str, str] = os.environ) -> None:
        self._root = root.resolve()
        self._environ = environ
        # Only what may come along is remembered: no secret is kept in memory a second time.
        self._before = self._telling()
        self._path = list(sys.path)

    def _telling(self) -> dict[str, str]:
        return {
            name: value for name, value in self._environ.items() if is_allowed(name) and not looks_secret(name, value)
        }

    def look(self) -> Surroundings:
        """How things are now."""
        try:
            cwd = _told(Path.cwd(), self._root)
        except OSError:  # the directory was removed under the process
            cwd = ""
        entries = [each for each in sys.path if isinstance(each, str)]
        added = [(place, each) for place, each in enumerate(entries) if each not in self._path]
        known = [place for place, each in enumerate(entries) if each in self._path]
        first = [each for place, each in added if not known or place < known[0]]
        last = [each for _, each in added][len(first) :]
        now = self._telling()
        changed: dict[str, str | None] = {name: now[name] for name in now if self._before.get(name) != now[name]}
        # A variable that is there, though not told, became one that looks secret: it is not deleted elsewhere.
        changed |= {name: None for name in self._before if name not in self._environ}
        return Surroundings(
            cwd=cwd,
            path=tuple(_told(Path(each), self._root) if each else "" for each in (*first, *last)),
            path_first=len(first),
            environ=changed,
            matplotlib=dict(_rc_params()),
            numpy=dict(_print_options()),
            pandas=dict(_pandas_options()),
        )

    def put(self, found: Surroundings) -> list[str]:
        """Make things as they were found.

        Returns: a sentence for each thing that could not be, for the user to read.
        Does not: undo what this kernel changed itself; take back imports that were done under another path.
        """
        said = [*self._put_cwd(found.cwd), *self._put_path(found), *self._put_environ(found.environ)]
        for library, options, put in (
            ("matplotlib", found.matplotlib, _put_rc_params),
            ("numpy", found.numpy, _put_print_options),
            ("pandas", found.pandas, _put_pandas_options),
        ):
            if options:
                said += _tried(library, options, put)
        return said

    def _put_cwd(self, told: str) -> Iterator[str]:
        if not told:
            return
        where = _untold(told, self._root)
        try:
            if where.resolve().is_relative_to(self._root):
                where.mkdir(parents=True, exist_ok=True)
            os.chdir(where)
        except OSError as error:
            yield f"The working directory was {where}, which cannot be entered here ({error.strerror})."

    def _put_path(self, found: Surroundings) -> Iterator[str]:
        entries = [str(_untold(each, self._root)) if each else "" for each in found.path]
        missing = [each for each in entries if each and not Path(each).exists()]
        front = [each for each in entries[: found.path_first] if each not in sys.path]
        sys.path[:0] = front
        sys.path.extend(each for each in entries[found.path_first :] if each not in sys.path)
        for each in missing:
            yield f"The notebook imports from {each}, which is not here."

    def _put_environ(self, environ: Mapping[str, str | None]) -> Iterator[str]:
        for name, value in environ.items():
            # What is stored is not trusted to be what `look` told: another version may have had a longer list.
            if not is_allowed(name) or looks_secret(name, value or ""):
                yield f"The environment variable {name} is left alone: it is not one that comes along."
            elif value is None:
                self._environ.pop(name, None)
            else:
                self._environ[name] = value
        if "PYTHONHASHSEED" in environ:
            yield "PYTHONHASHSEED works only in a process that begins with it."


def _told(path: Path, root: Path) -> str:
    """Below the root relative to it, so that another host finds it below its own."""
    whole = Path(os.path.abspath(path))  # noqa: PTH100 - links below the root stay what they are
    if whole.is_relative_to(root):
        return whole.relative_to(root).as_posix()
    if whole.resolve().is_relative_to(root):
        return whole.resolve().relative_to(root).as_posix()
    return str(whole)


def _untold(told: str, root: Path) -> Path:
    return Path(told) if Path(told).is_absolute() else root / PurePosixPath(told)


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(each) for each in value)
    return value is None or type(value) in (str, int, bool) or (type(value) is float and math.isfinite(value))


def _safe(name: str, value: object) -> bool:
    texts = value if isinstance(value, list | tuple) else [value]
    return _is_plain(value) and not any(isinstance(each, str) and looks_secret(name, each) for each in texts)


def _rc_params() -> Iterator[tuple[str, Any]]:
    matplotlib: Any = sys.modules.get("matplotlib")
    defaults = getattr(matplotlib, "rcParamsDefault", None)
    if defaults is None:
        return
    for name in defaults:
        # The back end is the host's; asking for it by the usual way would load one.
        if name.startswith("backend") or name == "interactive":
            continue
        value = dict.__getitem__(matplotlib.rcParams, name)
        if value != dict.__getitem__(defaults, name) and _safe(name, value):
            yield name, value


def _put_rc_params(name: str, value: Any) -> None:
    importlib.import_module("matplotlib").rcParams[name] = value


_NUMPY_DEFAULTS: dict[str, Any] = {
    "edgeitems": 3,
    "threshold": 1000,
    "floatmode": "maxprec",
    "precision": 8,
    "suppress": False,
    "linewidth": 75,
    "nanstr": "nan",
    "infstr": "inf",
    "sign": "-",
    "legacy": False,
}


def _print_options() -> Iterator[tuple[str, Any]]:
    numpy: Any = sys.modules.get("numpy")
    if not hasattr(numpy, "get_printoptions"):
        return
    for name, value in numpy.get_printoptions().items():
        if name in _NUMPY_DEFAULTS and value != _NUMPY_DEFAULTS[name] and _safe(name, value):
            yield name, value


def _put_print_options(name: str, value: Any) -> None:
    importlib.import_module("numpy").set_printoptions(**{name: value})


def _registered() -> Mapping[str, Any]:
    config: Any = sys.modules.get("pandas._config.config")
    return getattr(config, "_registered_options", {})


def _pandas_options() -> Iterator[tuple[str, Any]]:
    pandas: Any = sys.modules.get("pandas")
    for name, option in list(_registered().items()):
        if not name.startswith(("display.", "plotting.", "styler.")):
            continue  # how to compute is the code's to say; some of those warn when they are read
        value = pandas.get_option(name)
        if value != option.defval and _safe(name, value):
            yield name, value


def _put_pandas_options(name: str, value: Any) -> None:
    importlib.import_module("pandas").set_option(name, value)


def _tried(library: str, options: Mapping[str, Any], put: Callable[[str, Any], None]) -> Iterator[str]:
    for name, value in options.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the notebook that set the option was told already
                put(name, value)
        except Exception as error:  # noqa: BLE001 - an option that this release lacks must not stop a restore
            yield f"{library}'s option {name} could not be set to {value!r} ({type(error).__name__})."
