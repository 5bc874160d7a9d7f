"""Settings of a kernel's process: working directory, import path, some environment variables, settings of libraries.

Environment variables are saved only if their name is on an allow-list and the notebook changed them: the host keeps its
own. A name or a value that looks like a secret is never saved. Of the state inside imported modules, the settings that
`library_settings.py` knows are saved; random generators are saved elsewhere (`checkpoint/state/generators.py`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qcity_nb.codec import Record
from qcity_nb.namespace.environment.library_settings import Options
from qcity_nb.namespace.environment.portable_paths import resolve, to_portable
from qcity_nb.secrets import looks_secret

__all__ = ["ProcessSettings", "Surroundings", "is_allowed", "looks_secret"]

_ALLOWED = (
    *("OMP_*", "MKL_*", "OPENBLAS_*", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMEXPR_*", "KMP_*", "GOMP_*"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_LAUNCH_BLOCKING", "CUBLAS_WORKSPACE_CONFIG", "NCCL_DEBUG"),
    *("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE", "PYTHONHASHSEED", "PYTHONWARNINGS"),
    *("TOKENIZERS_PARALLELISM", "TRANSFORMERS_VERBOSITY", "TRANSFORMERS_OFFLINE", "HF_HUB_OFFLINE"),
    *("TF_*", "XLA_FLAGS", "XLA_PYTHON_*", "JAX_*", "TORCH_*", "TORCHINDUCTOR_*", "PYTORCH_*", "KERAS_BACKEND"),
    *("TZ", "LANG", "LANGUAGE", "LC_*", "MPLBACKEND", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"),
)
"""Names and prefixes of names. Each configures computation or display; none holds credentials."""
_BEGINNINGS = tuple(name.removesuffix("*") for name in _ALLOWED if name.endswith("*"))


def is_allowed(name: str) -> bool:
    """Is ``name`` on the allow-list?"""
    return name.startswith(_BEGINNINGS) or (name in _ALLOWED and "*" not in name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings(Record):
    """The settings around the variables, as plain JSON values."""

    cwd: str = ""
    """Relative to the project's root with forward slashes, else absolute; empty: unknown."""
    path: tuple[str, ...] = ()
    """Entries added to `sys.path` since the start, in the form of `cwd`."""
    path_first: int = 0
    """How many of them are at its front."""
    environ: Mapping[str, str | None] = field(default_factory=dict)
    """Variables that changed; ``None``: deleted."""
    matplotlib: Mapping[str, Any] = field(default_factory=dict)
    numpy: Mapping[str, Any] = field(default_factory=dict)
    pandas: Mapping[str, Any] = field(default_factory=dict)
    """Options that differ from their defaults."""
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The same for other libraries, by their names in `library_settings.py`; the three above existed first."""


class ProcessSettings:
    """Remembers the settings when the kernel began, so that changes can be found.

    Args:
        root: the project's directory.
        environ: the environment, for tests.
    """

    def __init__(self, root: Path, environ: MutableMapping[str, str] = os.environ) -> None:
        self._root = root.resolve()
        self._environ = environ
        # Only what may be saved is remembered: no secret is kept in memory a second time.
        self._before = self._telling()
        self._path = list(sys.path)
        self._options = Options(self._root)
        self._saved = Surroundings()

    def _telling(self) -> dict[str, str]:
        return {
            name: value for name, value in self._environ.items() if is_allowed(name) and not looks_secret(name, value)
        }

    def look(self) -> Surroundings:
        """The settings that changed."""
        try:
            cwd = to_portable(Path.cwd(), self._root)
        except OSError:  # the directory was removed under the process
            cwd = ""
        entries = [each for each in sys.path if isinstance(each, str)]
        added = [(place, each) for place, each in enumerate(entries) if each not in self._path]
        known = [place for place, each in enumerate(entries) if each in self._path]
        first = [each for place, each in added if not known or place < known[0]]
        last = [each for _, each in added][len(first) :]
        now = self._telling()
        changed: dict[str, str | None] = {name: now[name] for name in now if self._before.get(name) != now[name]}
        # A variable that exists but is left out looks like a secret now: it must not be deleted on another host.
        changed |= {name: None for name in self._before if name not in self._environ}
        options = self._options.look()
        return Surroundings(
            cwd=cwd,
            path=tuple(to_portable(Path(each), self._root) if each else "" for each in (*first, *last)),
            path_first=len(first),
            environ=changed,
            matplotlib=options.pop("matplotlib", {}),
            numpy=options.pop("numpy", {}),
            pandas=options.pop("pandas", {}),
            options=options,
        )

    def put(self, saved: Surroundings) -> list[str]:
        """Restore the settings of the process, before the variables are restored.

        Returns: a sentence for the user about each setting that could not be restored.
        Does not: undo what this kernel changed itself; undo imports that were done under another path; set libraries,
            except for Python's recursion limit: ``finish_restore`` does.
        """
        self._saved = saved
        limit = saved.options.get("python", {}).get("recursion_limit")
        if isinstance(limit, int) and limit > sys.getrecursionlimit():
            sys.setrecursionlimit(limit)  # variables may be nested deeper than usual
        return [*self._put_cwd(saved.cwd), *self._put_path(saved), *self._put_environ(saved.environ)]

    def finish_restore(self) -> list[str]:
        """Set the libraries' settings that ``put`` got, after the variables and their imports are restored.

        An import may change settings or warn, and with the notebook's own filters a warning may be an error.

        Returns: a sentence for the user about each setting that could not be restored.
        """
        saved = self._saved
        three = {"matplotlib": saved.matplotlib, "numpy": saved.numpy, "pandas": saved.pandas}
        return self._options.put({**saved.options, **three})

    def _put_cwd(self, text: str) -> Iterator[str]:
        if not text:
            return
        where = resolve(text, self._root)
        try:
            if where.resolve().is_relative_to(self._root):
                where.mkdir(parents=True, exist_ok=True)
            os.chdir(where)
        except OSError as error:
            yield f"The working directory was {where}, which cannot be entered here ({error.strerror})."

    def _put_path(self, saved: Surroundings) -> Iterator[str]:
        entries = [str(resolve(each, self._root)) if each else "" for each in saved.path]
        missing = [each for each in entries if each and not Path(each).exists()]
        front = [each for each in entries[: saved.path_first] if each not in sys.path]
        sys.path[:0] = front
        sys.path.extend(each for each in entries[saved.path_first :] if each not in sys.path)
        for each in missing:
            yield f"The notebook imports from {each}, which does not exist here."

    def _put_environ(self, environ: Mapping[str, str | None]) -> Iterator[str]:
        for name, value in environ.items():
            # The record may hold more than `look` returns here: another version may have had a longer list.
            if not is_allowed(name) or looks_secret(name, value or ""):
                yield f"The environment variable {name} is not changed: it is not among those that are restored."
            elif value is None:
                self._environ.pop(name, None)
            else:
                self._environ[name] = value
        if "PYTHONHASHSEED" in environ:
            yield "PYTHONHASHSEED works only if it is set before Python starts."
