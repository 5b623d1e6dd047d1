from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qwen_rerank_plugins.batch import escape_formula, unescape_formula

NEAR = st.text(alphabet="'=+-@\t\r\n＝＋1.eE x", max_size=8)


@given(st.one_of(st.text(), NEAR))
@example("'=1")
@example("''-1")
@example("'-1")
def test_every_cell_comes_back(cell: str) -> None:
    assert unescape_formula(escape_formula(cell)) == cell


@given(NEAR, NEAR)
def test_two_cells_never_become_the_same(first: str, second: str) -> None:
    assert (first == second) == (escape_formula(first) == escape_formula(second))


@pytest.mark.parametrize(
    "cell", ["=1+1", "+cmd", "-cmd|x", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "-1+1", "+"]
)
def test_what_a_spreadsheet_computes_gets_an_apostrophe(cell: str) -> None:
    assert escape_formula(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", ["", "-1", "+3.25", "-1e-05", "text", "a=1", "'quoted'", " =1"])
def test_numbers_and_texts_stay_as_they_are(cell: str) -> None:
    assert escape_formula(cell) == cell
