"""`import qcity_nb`, and the facts below it, load no third party and nothing slow of the standard library."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {
    "asyncio",
    "email",
    "http",
    "importlib.metadata",
    "inspect",
    "multiprocessing",
    "sqlite3",
    "ssl",
    "unittest",
}
ROOT_MODULES = ["errors", "records", "clock", "codec", "crashpoints", "ports", "settings", "run.lease"]
PROBE = """
import json, sys
before = set(sys.modules)
{code}
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def loaded(code: str) -> set[str]:
    """The modules that ``code`` loads in a fresh interpreter."""
    command = [sys.executable, "-c", PROBE.format(code=code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return set(json.loads(done.stdout))


def foreign(modules: set[str]) -> set[str]:
    tops = {name.partition(".")[0] for name in modules}
    return tops - set(sys.stdlib_module_names) - {"qcity_nb"}


def test_the_package_alone_loads_next_to_nothing() -> None:
    modules = loaded("import qcity_nb")
    assert "qcity_nb" in modules
    assert not foreign(modules)
    assert not modules & HEAVY
    assert {name for name in modules if name.startswith("qcity_nb.")} == {"qcity_nb.version"}


@pytest.mark.parametrize("name", ROOT_MODULES)
def test_the_root_loads_the_standard_library_alone(name: str) -> None:
    modules = loaded(f"import qcity_nb.{name}")
    assert f"qcity_nb.{name}" in modules
    assert not foreign(modules)
    assert not modules & {"asyncio", "multiprocessing", "sqlite3", "ssl", "http.client"}


@pytest.mark.parametrize(
    ("code", "name"),
    [("import numpy", "numpy"), ("import tqdm", "tqdm"), ("import huggingface_hub", "huggingface_hub")],
)
def test_the_probe_sees_a_third_party(code: str, name: str) -> None:
    assert name in foreign(loaded(f"import qcity_nb\n{code}"))


def test_the_probe_sees_slow_parts_of_the_standard_library() -> None:
    assert {"asyncio", "importlib.metadata"} <= loaded("import qcity_nb, asyncio, importlib.metadata") & HEAVY
