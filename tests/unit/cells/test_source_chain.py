from __future__ import annotations

import pytest

from qcity_nb.cells.source_chain import chain, count_finished

CELLS = ["import x", "a = 1", "", "b = a + 1\nprint(b)", "   \n"]


def test_an_edit_changes_its_cell_and_all_after_it() -> None:
    before = chain(CELLS)
    after = chain([*CELLS[:1], "a = 2", *CELLS[2:]])
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, False, False, False]
    assert count_finished(after, before) == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a = 1", "a = 1\n"),
        ("a = 1", "a = 1   \n\n"),
        ("a = 1\nb", "a = 1\r\nb"),
        ("a = 1\nb", "a = 1  \nb"),
        ("", "  \n"),
    ],
)
def test_no_edit(old: str, new: str) -> None:
    assert chain([old]) == chain([new])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a = 1", "a = 1  # one"),
        ("if x:\n    a", "if x:\n  a"),
        ('a = """x\ny"""', 'a = """x \ny"""'),
        ("%%bash\nx \\\ny", "%%bash\nx \\ \ny"),
        ("a\nb", "a\n\nb"),
        ("ab", "a\nb"),
        ("\ta", "a"),
    ],
)
def test_an_edit(old: str, new: str) -> None:
    assert chain([old]) != chain([new])


def test_cells_do_not_run_into_each_other() -> None:
    assert chain(["a", "b"])[-1] != chain(["a\nb"])[-1]
    assert chain(["a", "a"])[0] != chain(["a", "a"])[1]


def test_parameters_and_python_begin_the_chain() -> None:
    assert chain(["a"], parameters={"x": 1, "y": 2}) == chain(["a"], parameters={"y": 2, "x": 1})
    starts = [chain(["a"]), chain(["a"], parameters={"x": 1}), chain(["a"], parameters={"x": 2})]
    starts += [chain(["a"], python="3.1"), chain(["a"], parameters={"x": "1"})]
    assert len({links[0] for links in starts}) == 5


def test_cells_without_code_are_finished_with_the_one_before() -> None:
    links = chain(CELLS)
    assert count_finished(links, []) == 0
    assert count_finished(links, links[:2]) == 3
    assert count_finished(links, links[:4]) == 5
    assert count_finished(chain(["", "a"]), []) == 1
    assert count_finished(chain([*CELLS[:2], *CELLS[3:]]), links[:2]) == 2


def test_a_cell_put_in_or_taken_out() -> None:
    links = chain(CELLS)
    assert count_finished(chain(["new", *CELLS]), links) == 0
    assert count_finished(chain([CELLS[0], "new", *CELLS[1:]]), links) == 1
    assert count_finished(chain(CELLS[:2]), links) == 2


def test_records_of_other_versions_do_no_harm() -> None:
    edited = ["import x", "a = 2"]
    assert count_finished(chain(edited), [*chain(["import x", "a = 1", "c"]), *chain(edited)]) == 2
    assert count_finished(chain(edited), chain(edited)[1:]) == 0, "run by hand, without the cell before it"


def test_the_hash_stays_what_it_is() -> None:
    """Records outlive the version that wrote them."""
    assert chain(["a = 1"], parameters={"x": 1}, python="3.11") == ["659829321166303d3f55daeaf1c7c2ea"]


def test_sources_that_are_no_unicode() -> None:
    assert len(chain(["a = '\ud800'"], parameters={"x": "\ud800", "y": object}, python="3")[0]) == 32
