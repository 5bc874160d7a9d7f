"""Which host runs this process, and by what evidence.

Everything here depends only on what is passed in (environment, modules, a file test), so that a table of cases tests
it. Hosts that build on others are asked first: Kaggle's and Colab's images contain each other's libraries, and all of
them are Jupyter underneath.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qcity_nb.hosts.limits import limit_of

__all__ = ["NAMES", "DetectedHost", "detect", "notebook_path"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectedHost:
    """What is known of the host that runs this process."""

    name: str
    """One of ``NAMES``."""
    evidence: str
    """The variable, file or object by which the host was recognised."""
    session_limit_s: float | None
    """How long the host usually lets a session live, in seconds; ``None``: no known limit. See ``limits``.

    Does not promise that the session lives that long: hosts end sessions earlier, if idle or for no known reason.
    """
    is_interactive: bool
    """Can a person answer? True with a front end that accepts input, and in a terminal."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """A few details worth showing. Never a secret: only the variables that are named in this module."""
    environ: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """The environment that was inspected, secrets included: for other probes of this process. Never encode it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Here:
    """What the probes may inspect."""

    environ: Mapping[str, str]
    exists: Callable[[Path], bool]
    shell: object | None
    """The running IPython shell that belongs to a Jupyter kernel."""
    namespace: Mapping[str, object]
    """The main module's variables."""

    def first(self, *names: str) -> str | None:
        """The evidence, if one of these variables is set and not empty."""
        return next((f"{name} is set" for name in names if self.environ.get(name)), None)


def _kaggle(here: _Here) -> str | None:
    return here.first("KAGGLE_KERNEL_RUN_TYPE", "KAGGLE_DATA_PROXY_URL")


def _colab(here: _Here) -> str | None:
    return here.first("COLAB_RELEASE_TAG", "COLAB_BACKEND_VERSION")


def _hf_space(here: _Here) -> str | None:
    return here.first("SPACE_ID", "SPACE_HOST")


def _hf_job(here: _Here) -> str | None:
    # JOB_ID alone says nothing: many schedulers set it.
    sizes = here.first("ACCELERATOR", "CPU_CORES", "MEMORY")
    return f"JOB_ID is set and {sizes}" if here.environ.get("JOB_ID") and sizes else None


def _lightning(here: _Here) -> str | None:
    return here.first("LIGHTNING_CLOUD_SPACE_ID")


def _binder(here: _Here) -> str | None:
    return here.first("BINDER_LAUNCH_HOST")


_STUDIO_LAB_HOME = Path("/home/studio-lab-user")


def _studio_lab(here: _Here) -> str | None:
    return f"{_STUDIO_LAB_HOME} exists" if here.exists(_STUDIO_LAB_HOME) else None


def _codespaces(here: _Here) -> str | None:
    return here.first("CODESPACES")


def _actions(here: _Here) -> str | None:
    return here.first("GITHUB_ACTIONS")


def _vscode(here: _Here) -> str | None:
    if here.shell is None:
        # VSCODE_PID reaches every program started from VS Code's terminal too; only a kernel is a notebook.
        return None
    if "__vsc_ipynb_file__" in here.namespace:
        return "a kernel in which __vsc_ipynb_file__ is defined"
    return f"a kernel for which {evidence}" if (evidence := here.first("VSCODE_PID")) else None


def _jupyter(here: _Here) -> str | None:
    if evidence := here.first("JPY_SESSION_NAME"):
        return evidence
    if here.shell is not None:
        return "an IPython kernel runs this code"
    # Programs that a kernel starts inherit this one.
    return here.first("JPY_PARENT_PID")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    name: str
    probe: Callable[[_Here], str | None]
    labels: tuple[str, ...] = ()
    """Variables that are shown as labels."""
    is_headless: bool = False
    """No person ever watches, whatever the process reports."""


_KINDS = (
    _Kind(name="kaggle", probe=_kaggle, labels=("KAGGLE_KERNEL_RUN_TYPE",)),
    _Kind(name="colab", probe=_colab, labels=("COLAB_RELEASE_TAG",)),
    _Kind(name="hf-space", probe=_hf_space, labels=("SPACE_ID",)),
    _Kind(
        name="hf-job",
        probe=_hf_job,
        labels=("JOB_ID", "ACCELERATOR", "CPU_CORES", "MEMORY"),
        is_headless=True,
    ),
    _Kind(name="lightning", probe=_lightning),
    _Kind(name="binder", probe=_binder, labels=("BINDER_LAUNCH_HOST",)),
    _Kind(name="studio-lab", probe=_studio_lab),
    _Kind(name="codespaces", probe=_codespaces, labels=("CODESPACE_NAME",)),
    _Kind(
        name="actions",
        probe=_actions,
        labels=("GITHUB_REPOSITORY", "GITHUB_RUN_ID"),
        is_headless=True,
    ),
    _Kind(name="vscode", probe=_vscode),
    _Kind(name="jupyter", probe=_jupyter),
    _Kind(name="plain", probe=lambda here: "no host was recognised: a plain Python process"),
)

NAMES = tuple(kind.name for kind in _KINDS)
"""Every host that ``detect`` can name, in the order in which it asks."""


def detect(
    environ: Mapping[str, str] | None = None,
    *,
    exists: Callable[[Path], bool] = Path.exists,
    modules: Mapping[str, object] | None = None,
    namespace: Mapping[str, object] | None = None,
    has_terminal: Callable[[], bool] | None = None,
) -> DetectedHost:
    """Say which host runs this process.

    Args:
        environ: the environment; the process's own by default.
        exists: whether a file exists.
        modules: the loaded modules (``sys.modules``); a running kernel is found there, so nothing is imported.
        namespace: the main module's variables; the kernel's own by default.
        has_terminal: whether standard input is a terminal.
    Returns: the first host in ``NAMES`` that is recognised; ``plain`` if none is.
    Does not: use the network, import anything, or distinguish a host that imitates another from the real one.
    Source: the hosts' own documentation of their variables; docs/design.md, "How a run flows".
    """
    environ = os.environ if environ is None else environ
    shell = _kernel_shell(sys.modules if modules is None else modules)
    here = _Here(
        environ=environ,
        exists=exists,
        shell=shell,
        namespace=getattr(shell, "user_ns", {}) if namespace is None else namespace,
    )
    for kind in _KINDS:
        if evidence := kind.probe(here):
            break
    else:  # the last probe always answers
        raise AssertionError
    if kind.is_headless or environ.get("KAGGLE_KERNEL_RUN_TYPE") == "Batch":
        is_interactive = False
    elif here.shell is not None:
        is_interactive = _takes_input(here.shell)
    else:
        is_interactive = (has_terminal or _stdin_is_terminal)()
    limit = limit_of(kind.name, environ)
    labels = {name.lower(): value for name in kind.labels if (value := environ.get(name))}
    return DetectedHost(
        name=kind.name,
        evidence=evidence,
        session_limit_s=limit.limit_s if limit is not None else None,
        is_interactive=is_interactive,
        labels=labels,
        environ=environ,
    )


def _kernel_shell(modules: Mapping[str, object]) -> object | None:
    """The IPython shell, if it is a Jupyter kernel's; terminal IPython has no ``kernel``."""
    get_ipython = getattr(modules.get("IPython"), "get_ipython", None)
    shell = get_ipython() if callable(get_ipython) else None
    return shell if getattr(shell, "kernel", None) is not None else None


def _takes_input(shell: object) -> bool:
    """Would the front end that runs this cell answer ``input()``?

    JupyterLab and VS Code say yes with each request, papermill and nbclient no. ipykernel keeps the answer in a
    private attribute; if that is missing, the safe answer is no.
    """
    return bool(getattr(getattr(shell, "kernel", None), "_allow_stdin", False))


def _stdin_is_terminal() -> bool:
    try:
        return sys.stdin is not None and sys.stdin.isatty()
    except ValueError:  # closed
        return False


def notebook_path(namespace: Mapping[str, object], environ: Mapping[str, str] | None = None) -> tuple[Path, str] | None:
    """The notebook (or script) that is running, and the evidence for it.

    Args:
        namespace: the main module's variables.
        environ: the environment; the process's own by default.
    Returns: an absolute path and the evidence, or ``None`` if it is unknown, as in Colab, in Kaggle and under
        programs that execute notebooks.
    Does not promise: that the file still has this name. Jupyter sets it when the kernel starts.
    """
    environ = os.environ if environ is None else environ
    vscode = namespace.get("__vsc_ipynb_file__")
    if isinstance(vscode, str) and vscode:
        return Path(vscode).absolute(), "__vsc_ipynb_file__"
    # Before JPY_SESSION_NAME: a script that a notebook starts inherits that variable.
    script = namespace.get("__file__")
    if isinstance(script, str) and script and Path(script).name != "ipykernel_launcher.py":
        return Path(script).absolute(), "__main__.__file__"
    session = environ.get("JPY_SESSION_NAME", "")
    # Consoles have a session too, without a file; a relative name starts at a folder that only the server knows.
    if session.endswith(".ipynb") and Path(session).is_absolute():
        return Path(session), "JPY_SESSION_NAME"
    return None
