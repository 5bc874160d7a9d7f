"""Whose is the unfinished run that the name of a directory led to?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qcity_nb.errors import UsageError
from qcity_nb.records import Head
from qcity_nb.run.identity import find_or_create
from qcity_nb.run.same_notebook import check_by_hand, check_same_notebook
from qcity_nb.settings import Project
from qcity_nb.stores.memory import MemoryStore

SETUP = "import qcity_nb as qcity\ncity = qcity.up()"
TRAIN = [
    SETUP,
    "%matplotlib inline\n!pip install torch",
    "lr = 0.1\nmodel = Net(width=30)\noptimizer = SGD(model.parameters(), lr=lr)",
    "for epoch in city.loop(range(30), model):\n    loss = model(batch).mean()\n    loss.backward()\n"
    "    optimizer.step()\n    city.log(loss=loss)",
]
WORDS = [
    SETUP,
    "texts = read('texts')\ncounts = Counter()",
    "for text in city.loop(texts, counts):\n    counts.update(text.split())",
    "print(counts.most_common(3))",
]


def notebook(cells: list[str]) -> bytes:
    return json.dumps({"cells": [{"cell_type": "code", "source": cell} for cell in cells]}).encode()


def project(**changes: object) -> Project:
    fields = {"root": Path("/content"), "name": "content", "table": {}, "evidence": "", **changes}
    return Project(**fields)  # type: ignore[arg-type]


def stored(cells: list[str] | None) -> tuple[MemoryStore, Head]:
    store = MemoryStore()
    source = notebook(cells) if cells is not None else b""
    return store, find_or_create(store, project="content", notebook="train.ipynb", source=source)[0]


def check(cells: list[str] | None, here: list[str], **changes: object) -> bool:
    store, head = stored(cells)
    return check_same_notebook(store, head, project(**changes), here, name="--name", fresh="--fresh")


def test_another_projects_run_is_named_with_what_to_write() -> None:
    _, head = stored(TRAIN)
    with pytest.raises(UsageError, match=rf"{head.run}, made 20.*content.*--name.*--fresh.*qcity resume {head.run}"):
        check(TRAIN, WORDS)
    assert check(TRAIN, WORDS, name_from="the git remote"), "it has a name of its own"


@pytest.mark.parametrize(
    "here",
    [
        TRAIN,
        TRAIN[:3],
        [cell.replace("0.1", "0.3").replace("30", "60") for cell in TRAIN],
        ["\n\n# once more\n".join(TRAIN)],
        [*TRAIN, *WORDS],
        [TRAIN[0], *WORDS, TRAIN[2], TRAIN[3]],
        [f"%%time\n{cell}" for cell in TRAIN],
    ],
    ids=["same", "begun", "edited", "one cell", "longer", "between", "magics"],
)
def test_an_edited_notebook_is_still_the_same(here: list[str]) -> None:
    assert check(TRAIN, here)


@pytest.mark.parametrize(("cells", "here"), [(None, TRAIN), ([SETUP], TRAIN), (TRAIN, [SETUP]), (TRAIN, [])])
def test_where_there_is_nothing_to_compare_nobody_is_refused(cells: list[str] | None, here: list[str]) -> None:
    assert not check(cells, here)


def test_a_kernel_compares_what_it_executed_or_shows_which_run_resumes(capsys: pytest.CaptureFixture[str]) -> None:
    store, head = stored(TRAIN)
    with pytest.raises(UsageError, match=r"up\(name=.*up\(fresh=True\)"):
        check_by_hand(store, head, False, project(), b"", ["", *WORDS])
    check_by_hand(store, head, True, project(), b"", ["", *WORDS])
    check_by_hand(store, head, False, project(), b"", ["", *TRAIN])
    assert capsys.readouterr().err == ""
    check_by_hand(store, head, False, project(), b"", ["", SETUP])
    assert head.run in (line := capsys.readouterr().err)
    assert head.created in line
