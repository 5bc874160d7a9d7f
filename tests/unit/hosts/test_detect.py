"""Host detection, as a table: which marks name which host, and in which order."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from qcity_nb.hosts.detect import NAMES, DetectedHost, detect, notebook_path


def kernel(*, stdin: bool = True, **variables: object) -> dict[str, object]:
    """Loaded modules of a process in which a Jupyter kernel runs."""
    shell = SimpleNamespace(kernel=SimpleNamespace(_allow_stdin=stdin), user_ns=variables)
    return {"IPython": SimpleNamespace(get_ipython=lambda: shell)}


TERMINAL_IPYTHON = {"IPython": SimpleNamespace(get_ipython=lambda: SimpleNamespace(user_ns={}))}
NO_SHELL = {"IPython": SimpleNamespace(get_ipython=lambda: None)}


def look(
    environ: Mapping[str, str],
    modules: Mapping[str, object] | None = None,
    *,
    files: tuple[str, ...] = (),
    terminal: bool = False,
) -> DetectedHost:
    return detect(
        environ,
        exists=lambda path: str(path) in files,
        modules=modules or {},
        has_terminal=lambda: terminal,
    )


JUPYTER = {"JPY_SESSION_NAME": "/home/me/a.ipynb", "JPY_PARENT_PID": "7"}
CASES: list[tuple[str, dict[str, str], dict[str, object], tuple[str, ...], str]] = [
    ("kaggle", {"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}, kernel(), (), "KAGGLE_KERNEL_RUN_TYPE"),
    ("kaggle", {"KAGGLE_DATA_PROXY_URL": "https://x"}, {}, (), "KAGGLE_DATA_PROXY_URL"),
    ("kaggle", {"KAGGLE_KERNEL_RUN_TYPE": "Batch", "COLAB_RELEASE_TAG": "r"}, {}, (), "KAGGLE_KERNEL_RUN"),
    ("colab", {"COLAB_RELEASE_TAG": "release-colab", **JUPYTER}, kernel(), (), "COLAB_RELEASE_TAG"),
    ("colab", {"COLAB_BACKEND_VERSION": "next"}, {}, (), "COLAB_BACKEND_VERSION"),
    ("hf-space", {"SPACE_ID": "me/space", "JOB_ID": "1", "MEMORY": "16Gi"}, {}, (), "SPACE_ID"),
    ("hf-space", {"SPACE_HOST": "me-space.hf.space"}, {}, (), "SPACE_HOST"),
    ("hf-job", {"JOB_ID": "1", "ACCELERATOR": "t4"}, {}, (), "ACCELERATOR"),
    ("hf-job", {"JOB_ID": "1", "CPU_CORES": "2"}, {}, (), "CPU_CORES"),
    ("hf-job", {"JOB_ID": "1", "MEMORY": "16Gi"}, {}, (), "JOB_ID"),
    ("lightning", {"LIGHTNING_CLOUD_SPACE_ID": "1", **JUPYTER}, kernel(), (), "LIGHTNING_CLOUD_SPACE_ID"),
    ("binder", {"BINDER_LAUNCH_HOST": "https://mybinder.org/", **JUPYTER}, kernel(), (), "BINDER_LAUNCH"),
    ("studio-lab", dict(JUPYTER), kernel(), ("/home/studio-lab-user",), "/home/studio-lab-user"),
    ("codespaces", {"CODESPACES": "true", "VSCODE_PID": "1"}, kernel(), (), "CODESPACES"),
    ("actions", {"GITHUB_ACTIONS": "true"}, {}, (), "GITHUB_ACTIONS"),
    ("vscode", {"VSCODE_PID": "1"}, kernel(), (), "VSCODE_PID"),
    ("vscode", {}, kernel(__vsc_ipynb_file__="/x/a.ipynb"), (), "__vsc_ipynb_file__"),
    ("jupyter", dict(JUPYTER), kernel(), (), "JPY_SESSION_NAME"),
    ("jupyter", {}, kernel(), (), "IPython kernel"),
    ("jupyter", {"JPY_PARENT_PID": "7"}, {}, (), "JPY_PARENT_PID"),
    # What must not be taken for more than it is:
    ("plain", {}, {}, (), "plain"),
    ("plain", {"JOB_ID": "1"}, {}, (), "plain"),
    ("plain", {"VSCODE_PID": "1"}, {}, (), "plain"),
    ("plain", {"SPACE_ID": "", "COLAB_RELEASE_TAG": ""}, {}, (), "plain"),
    ("plain", {}, dict(TERMINAL_IPYTHON), (), "plain"),
    ("plain", {}, dict(NO_SHELL), (), "plain"),
]


@pytest.mark.parametrize(("name", "environ", "modules", "files", "evidence"), CASES)
def test_marks_name_the_host(
    name: str, environ: dict[str, str], modules: dict[str, object], files: tuple[str, ...], evidence: str
) -> None:
    host = look(environ, modules, files=files)
    assert host.name == name
    assert evidence in host.evidence


def test_the_table_has_every_host() -> None:
    assert {case[0] for case in CASES} == set(NAMES)


def test_all_marks_at_once_are_asked_in_order() -> None:
    """Taking away the marks of each host found uncovers the next one."""
    environ = {
        key: value
        for case in CASES
        for key, value in case[1].items()
        if value and not key.startswith(("SPACE_", "JPY_"))
    } | {"SPACE_ID": "me/space", "SPACE_HOST": "h"}
    owners = [
        ("kaggle", "KAGGLE_"),
        ("colab", "COLAB_"),
        ("hf-space", "SPACE_"),
        ("hf-job", "JOB_ID"),
        ("lightning", "LIGHTNING_"),
        ("binder", "BINDER_"),
        ("codespaces", "CODESPACES"),
        ("actions", "GITHUB_"),
        ("vscode", "VSCODE_"),
        ("jupyter", "nothing"),
    ]
    for name, prefix in owners:
        assert look(environ, kernel()).name == name
        environ = {key: value for key, value in environ.items() if not key.startswith(prefix)}


@pytest.mark.parametrize(
    ("environ", "modules", "terminal", "expected"),
    [
        ({}, kernel(stdin=True), False, True),
        ({}, kernel(stdin=False), True, False),  # papermill started from a terminal
        ({}, {}, True, True),
        ({}, {}, False, False),
        ({"GITHUB_ACTIONS": "true"}, {}, True, False),
        ({"JOB_ID": "1", "MEMORY": "1"}, kernel(stdin=True), True, False),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Batch"}, kernel(stdin=True), True, False),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}, kernel(stdin=True), False, True),
        ({"COLAB_RELEASE_TAG": "r"}, kernel(stdin=True), False, True),
    ],
)
def test_is_interactive(environ: dict[str, str], modules: dict[str, object], terminal: bool, expected: bool) -> None:
    assert look(environ, modules, terminal=terminal).is_interactive is expected


def test_a_kernel_without_the_private_attribute_counts_as_headless() -> None:
    shell = SimpleNamespace(kernel=SimpleNamespace(), user_ns={})
    host = look({}, {"IPython": SimpleNamespace(get_ipython=lambda: shell)}, terminal=True)
    assert host.name == "jupyter"
    assert not host.is_interactive


def test_the_installed_ipykernel_still_has_the_attribute() -> None:
    from ipykernel.kernelbase import Kernel

    assert hasattr(Kernel, "_allow_stdin")


def test_limits_and_labels() -> None:
    job = look({"JOB_ID": "42", "ACCELERATOR": "t4", "HF_TOKEN": "hf_secret", "API_KEY": "k"})
    assert job.session_limit_s == 1800
    assert job.labels == {"job_id": "42", "accelerator": "t4"}
    assert look({"COLAB_RELEASE_TAG": "r"}).session_limit_s == 12 * 3600
    assert look({"KAGGLE_KERNEL_RUN_TYPE": "Batch"}).session_limit_s == 12 * 3600
    actions = {"GITHUB_ACTIONS": "true"}
    assert look({**actions, "RUNNER_ENVIRONMENT": "github-hosted"}).session_limit_s == 6 * 3600
    assert look({**actions, "RUNNER_ENVIRONMENT": "self-hosted"}).session_limit_s == 5 * 24 * 3600
    assert look({}).session_limit_s is None


def test_the_environment_is_carried_but_not_shown() -> None:
    host = look({"HF_TOKEN": "hf_secret"})
    assert host.environ["HF_TOKEN"] == "hf_secret"
    assert "hf_secret" not in repr(host)


def test_a_namespace_that_is_passed_counts() -> None:
    host = detect({}, exists=lambda path: False, modules=kernel(), namespace={"__vsc_ipynb_file__": "/a.ipynb"})
    assert host.name == "vscode"


def test_detecting_for_real_imports_nothing() -> None:
    before = set(sys.modules)
    assert detect().name in NAMES
    assert set(sys.modules) <= before | {"qcity_nb.hosts.detect"}


@pytest.mark.parametrize(
    ("namespace", "environ", "expected"),
    [
        ({"__vsc_ipynb_file__": "/x/a.ipynb"}, JUPYTER, ("/x/a.ipynb", "__vsc_ipynb_file__")),
        ({}, JUPYTER, ("/home/me/a.ipynb", "JPY_SESSION_NAME")),
        ({"__file__": "/x/train.py"}, {}, ("/x/train.py", "__main__.__file__")),
        ({"__file__": "/x/train.py"}, JUPYTER, ("/x/train.py", "__main__.__file__")),
        ({"__file__": "/lib/ipykernel_launcher.py"}, JUPYTER, ("/home/me/a.ipynb", "JPY_SESSION_NAME")),
        ({"__file__": None}, {}, None),
        ({}, {"JPY_SESSION_NAME": "/home/me/console-1-b8a1"}, None),
        ({}, {"JPY_SESSION_NAME": "relative/a.ipynb"}, None),
        ({}, {"COLAB_RELEASE_TAG": "r"}, None),
        ({}, {}, None),
    ],
)
def test_notebook_path(namespace: dict[str, object], environ: dict[str, str], expected: tuple[str, str] | None) -> None:
    located = notebook_path(namespace, environ)
    assert located == (None if expected is None else (Path(expected[0]), expected[1]))


def test_a_relative_script_becomes_absolute() -> None:
    located = notebook_path({"__file__": "train.py"}, {})
    assert located is not None
    assert located[0] == Path.cwd() / "train.py"
