"""The paper's tables: their shape, values read off by eye, and a flag on every cell that could not be read."""

from __future__ import annotations

import pytest

from vocalnet.published import NUMBERS, UNCLEAR, published_table


@pytest.mark.parametrize(
    ("number", "n_rows", "n_columns", "n_unclear"),
    [(1, 26, 7, 2), (2, 12, 11, 2), (3, 14, 5, 1), (4, 9, 12, 8), (5, 2, 6, 0)],
)
def test_shape(number, n_rows, n_columns, n_unclear):
    table = published_table(number)
    assert (len(table.rows), len(table.columns)) == (n_rows, n_columns)
    assert sum(len(row.unclear_in_source) for row in table.rows) == n_unclear
    assert f"arXiv 2504.04060, Table {number}" in table.source


@pytest.mark.parametrize("number", NUMBERS)
def test_a_cell_is_empty_exactly_where_it_is_flagged(number):
    table = published_table(number)
    names = [column.name for column in table.columns]
    for row in table.rows:
        assert list(row.cells) == names
        assert {name for name, value in row.cells.items() if value is None} == set(row.unclear_in_source)


def find(number, column, **wanted):
    """Returns a column of the only row that holds `wanted`."""
    (row,) = [row for row in published_table(number).rows if wanted.items() <= row.cells.items()]
    return row.cells[column]


def test_values():
    assert find(1, "Llama Questions", Model="VocalNet-8B", Modality="s → t") == 79.5
    assert find(1, "AlpacaEval", Model="Minmo*", Modality="s → t") is None
    assert find(2, "Avg WER", Model="VocalNet-1B") == 5.31
    assert find(2, "TriviaQA WER", Model="MiniCPM-o") is None  # the text has -8.08
    assert find(3, "WER", Method="Baseline (NTP)") == 10.62
    assert find(3, "UTMOS", Method="MTP-VocalNet", **{"Speedup Ratio": 5}) == 4.486
    assert find(3, "WER", Method="Group-Linear", **{"Speedup Ratio": 5}) == 17.61
    assert find(4, "Avg WER", Speedup=3, **{"Module Num": 7}) == 6.14
    assert find(5, "Sum", Model="VocalNet-8B") == 428.38


def test_table_3_has_the_fourteen_cells():
    methods = [row.cells["Method"] for row in published_table(3).rows]
    assert methods[0] == "Baseline (NTP)"
    assert [methods.count(name) for name in ("Group-Linear", "Group-Trans", "MTP-DeepSeek", "MTP-VocalNet")] == [
        2,
        2,
        3,
        3,
    ]


def test_stages_of_table_5_sum_up():
    for row in published_table(5).rows:
        *stages, total = list(row.cells.values())[1:]
        assert sum(stages) == pytest.approx(total, abs=0.011)  # rounded in print


def test_printed_keeps_the_decimals_and_says_what_is_unclear():
    rows = published_table(3).printed()
    assert rows[1] == ["Group-Linear", "3", "3×", "11.50", "4.488"]
    assert rows[3] == ["Group-Trans", "3", UNCLEAR, "14.34", "4.489"]


def test_no_other_table():
    with pytest.raises(ValueError, match="Tables 1 to 5, not 6"):
        published_table(6)
