"""The extras as pyproject.toml has them: what resolvers are told so that they choose a set that can be imported."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from optional import REASONS
from packaging.requirements import Requirement

EXTRAS: dict[str, list[str]] = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))[
    "project"
]["optional-dependencies"]


def wanted(extra: str) -> dict[str, Requirement]:
    """All that an extra asks for, by name, with the extras that it names."""
    found: dict[str, Requirement] = {}
    for line in EXTRAS[extra]:
        requirement = Requirement(line)
        if requirement.name == "qcity-nb":
            for other in requirement.extras:
                found |= wanted(other)
        else:
            found[requirement.name] = requirement
    return found


@pytest.mark.parametrize("extra", EXTRAS)
def test_where_mlflow_is_there_is_a_graphene_that_can_be_imported(extra: str) -> None:
    found = wanted(extra)
    if "mlflow" in found:
        allowed = found["graphene"].specifier
        assert not any(allowed.contains(old, prereleases=True) for old in ("2.0", "2.1.9", "3.0b7"))
        assert allowed.contains("3.4.3")


def test_mlflow_s_page_can_be_asked() -> None:
    """Its server imports graphene only when its page asks something."""
    code = "from mlflow.server.graphql.graphql_schema_extensions import schema; print(schema.execute('{ __typename }'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert "{'__typename': 'Query'}" in done.stdout, done.stderr


def test_the_light_tests_need_no_torch_and_say_which_the_others_need() -> None:
    assert not {"torch", "jax"} & wanted("test-light").keys()
    assert wanted("test-light").items() <= wanted("test").items()
    assert REASONS["torch"].endswith(f"pip install {wanted('test')['torch']}")
