"""`state="auto"`: scripts of `tests/loops`, and a new user's, killed, end as undisturbed, or are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from loop_cases import (
    LoopCase,
    cases,
    check_faulty,
    folders,
    parameters,
    run_killed,
    run_undisturbed,
    skip_if_missing,
    with_auto,
)
from silent_world import UserProject

from qcity_nb.errors import UsageError

pytestmark = pytest.mark.timeout(180)

MOST_BOUNDARIES = 6
REFUSED = {
    "local_in_function": "cannot set `momentum` of train",
    "missing_best_in_function": "cannot set `best` of search",
    "iterator_of_loader": "`stream` is an iterator",
    "iterator_outside": "`batches` is an iterator",
}
"""Faulty scripts whose variables nobody can save, or set."""
NAMED = {"default_argument", "enumerate_outside", "nonlocal_in_closure"}
"""Faulty scripts that keep something elsewhere than in variables: it is named at a boundary."""


def check(case: LoopCase, path: Path, *boundaries: int) -> None:
    """Killed after these boundaries, or in the middle, it ends as the script does undisturbed."""
    skip_if_missing(case)
    first, script, *others = folders(path, 2 + max(1, len(boundaries)))
    undisturbed = run_undisturbed(case, first)
    automatic = with_auto(case, script)
    for folder, boundary in zip(others, boundaries or [undisturbed.boundaries // 2], strict=True):
        killed = run_killed(automatic, folder, boundary)
        assert killed.text == undisturbed.text, f"killed after boundary {boundary}"
        assert killed.digest == undisturbed.digest, f"killed after boundary {boundary}"
        assert not any(killed.messages)


@pytest.mark.parametrize("case", parameters("right")[2::4])
def test_a_right_loop_needs_no_list_of_its_state(case: LoopCase, tmp_path: Path) -> None:
    check(case, tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("case", parameters("right"))
def test_each_right_loop_needs_no_list_of_its_state(case: LoopCase, tmp_path: Path) -> None:
    check(case, tmp_path, *range(MOST_BOUNDARIES if case.path.stem != "python_parser" else 3))


@pytest.mark.nightly
@pytest.mark.parametrize("case", parameters("faulty"))
def test_each_faulty_loop_is_mended_or_refused_or_named(case: LoopCase, tmp_path: Path) -> None:
    skip_if_missing(case)
    stem = case.path.stem
    script, folder = folders(tmp_path, 2)
    if stem in REFUSED:
        with pytest.raises(UsageError, match=REFUSED[stem]):
            run_undisturbed(with_auto(case, script), folder)
    elif stem in NAMED:
        check_faulty(case, run_killed(with_auto(case, script), folder, 3).messages[0])
    else:
        (own,) = folders(folder, 1)
        check(case, own)


@pytest.mark.parametrize("stem", REFUSED)
def test_what_cannot_be_saved_or_set_is_refused_before_the_first_iteration(stem: str, tmp_path: Path) -> None:
    (case,) = [each for each in cases("faulty") if each.path.stem == stem]
    skip_if_missing(case)
    script, folder = folders(tmp_path, 2)
    with pytest.raises(UsageError, match=REFUSED[stem]):
        run_undisturbed(with_auto(case, script), folder)


NOTEBOOK = [
    "import os\nimport numpy as np\nimport qcity_nb as qcity\ncity = qcity.up()\nw, best, history = np.zeros(3), 0, []",
    """
def note(value):
    history.append(value)

for epoch in city.loop(range(8), state="auto", every=1):
    w = w + epoch
    if epoch % 3 > best:
        best, kept = epoch % 3, w.copy()
    note(best)
    if epoch == 4 and not os.path.exists("died"):
        open("died", "w").close()
        os.kill(os.getpid(), 9)
print("result", w.tolist(), best, kept.tolist(), history)
""",
]
RESULT = "result [28.0, 28.0, 28.0] 2 [3.0, 3.0, 3.0] [0, 1, 2, 2, 2, 2, 2, 2]"


@pytest.mark.kill
@pytest.mark.kernel
def test_variables_of_a_notebook_are_bound_again(tmp_path: Path) -> None:
    project = UserProject(tmp_path / "mine")
    project.notebook("train.ipynb", NOTEBOOK)
    code, text = project.qcity("run", "train.ipynb")
    assert code == 0, text
    assert (project.folder / "died").exists()
    assert RESULT in project.shown()
    assert not project.events("changed")


@pytest.mark.parametrize("command", ["source", "exec"])
def test_without_source_it_is_refused(tmp_path: Path, command: str) -> None:
    project = UserProject(tmp_path / "mine")
    loop = "for n in city.loop(range(3), state='auto'): pass"
    source = f"import qcity_nb as qcity\ncity = qcity.up(run='train')\n{loop}\n"
    project.write("train.py", f"exec({source!r})" if command == "exec" else source.replace(": pass", ":\n    pass"))
    code, text = project.run("train.py")
    assert (code == 0) == (command == "source"), text
    if code:
        assert 'UsageError: city.loop(state="auto") finds no source of its loop here: write state={…}' in text
