"""The store contract without pytest's runner, over any store, one test after the other."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qcity_nb import crashpoints
from qcity_nb.errors import QcityError
from qcity_nb.ports import Store
from qcity_nb.testing.contracts.store_contract import StoreContract

__all__ = ["run_contract"]


def run_contract(
    contract: StoreContract, make_store: Callable[[], Store], folder: Path, *, is_selected: Callable[[str], bool]
) -> Iterator[tuple[str, Exception | None]]:
    """Run the contract's tests; those with parameters once for each.

    Args:
        make_store: an empty store, for each test.
        folder: an existing folder for the tests' files.
        is_selected: by the test's name.
    Yields: each test's name and what it failed with, if it did.
    """
    for name, test in inspect.getmembers(type(contract), inspect.isfunction):
        if not name.startswith("test_") or not is_selected(name):
            continue
        markers = [marker for marker in getattr(test, "pytestmark", []) if marker.name == "parametrize"]
        for parameters in [{marker.args[0]: value} for marker in markers for value in marker.args[1]] or [{}]:
            place = folder / f"{name}-{'-'.join(map(str, parameters.values()))}"
            place.mkdir()
            known = {"store": make_store(), "tmp_path": place, **parameters}
            arguments = [known[each] for each in inspect.signature(test).parameters if each != "self"]
            failure: Exception | None = None
            try:
                test(contract, *arguments)
            except (AssertionError, QcityError, OSError) as error:
                failure = error
            except pytest.fail.Exception as error:  # `pytest.raises` that raised nothing
                failure = AssertionError(str(error))
            finally:
                crashpoints.arm(None)
            yield name, failure
