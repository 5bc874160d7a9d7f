"""The store contract without pytest's runner: over a store that is handed in, one test after the other."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qcity_nb import crashpoints
from qcity_nb.errors import QcityError
from qcity_nb.ports import Store
from qcity_nb.testing.contracts.store_contract import StoreContract

__all__ = ["outcomes"]


def outcomes(
    contract: StoreContract, make_store: Callable[[], Store], folder: Path, *, is_wanted: Callable[[str], bool]
) -> Iterator[tuple[str, Exception | None]]:
    """Run the contract's tests; those with parameters once for each.

    Args:
        make_store: an empty store, for each test.
        folder: for what the tests put aside; it is there.
        is_wanted: by the test's name.
    Yields: each test's name and what it failed with, if it did.
    """
    for name, test in inspect.getmembers(type(contract), inspect.isfunction):
        if not name.startswith("test_") or not is_wanted(name):
            continue
        marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
        for given in [{mark.args[0]: value} for mark in marks for value in mark.args[1]] or [{}]:
            place = folder / f"{name}-{'-'.join(map(str, given.values()))}"
            place.mkdir()
            known = {"store": make_store(), "tmp_path": place, **given}
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
