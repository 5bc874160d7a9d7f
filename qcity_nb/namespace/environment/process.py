"""What surrounds the variables of a kernel: working directory, import path, some of the environment, settings.

Environment variables come along by an allow-list of names, and only where the notebook changed them: what the host
itself sets stays the host's. A name or a value that looks like a secret never does, whatever the list says.
Of what imported modules hold, the settings are here that `options.py` knows; random generators are not
(`checkpoint/state/generators.py`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
"""Names, and how names begin. Each tells a library how to compute or to show; none says who may."""
_BEGINNINGS = tuple(name.removesuffix("*") for name in _ALLOWED if name.endswith("*"))


def is_allowed(name: str) -> bool:
    """Is ``name`` on the list of what may come along?"""
    return name.startswith(_BEGINNINGS) or (name in _ALLOWED and "*" not in name)


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
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The same of other libraries, by their names in `options.py`; the three above were there first."""
    extra: Mapping[str, Any] = field(default_factory=dict)


class ProcessSettings:
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
        self._options = Options(self._root)
        self._saved = Surroundings()

    def _telling(self) -> dict[str, str]:
        return {
            name: value for name, value in self._environ.items() if is_allowed(name) and not looks_secret(name, value)
        }

    def look(self) -> Surroundings:
        """How things are now."""
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
        # A variable that is there, though not told, became one that looks secret: it is not deleted elsewhere.
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

    def put(self, found: Surroundings) -> list[str]:
        """Make things as they were found, before the variables come back.

        Returns: a sentence for each thing that could not be, for the user to read.
        Does not: undo what this kernel changed itself; take back imports that were done under another path;
            touch libraries, but for Python's own limit: ``settle`` does.
        """
        self._saved = found
        limit = found.options.get("python", {}).get("recursion_limit")
        if isinstance(limit, int) and limit > sys.getrecursionlimit():
            sys.setrecursionlimit(limit)  # what is nested deeper than usual may be among the variables
        return [*self._put_cwd(found.cwd), *self._put_path(found), *self._put_environ(found.environ)]

    def finish_restore(self) -> list[str]:
        """Set the libraries as ``put`` found them, once the variables and their imports are there.

        An import may set or warn, and under the notebook's own filters a warning may be an error.

        Returns: a sentence for each thing that could not be, for the user to read.
        """
        found = self._saved
        three = {"matplotlib": found.matplotlib, "numpy": found.numpy, "pandas": found.pandas}
        return self._options.put({**found.options, **three})

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

    def _put_path(self, found: Surroundings) -> Iterator[str]:
        entries = [str(resolve(each, self._root)) if each else "" for each in found.path]
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
