"""Differences and best values agree with the numbers that are printed."""

import pytest

from revt_hf.results.summary import best_rows, difference, signed


def test_differences_agree_with_the_printed_numbers():
    assert difference(45.26, 43.14) == pytest.approx(2.2)  # 45.3 - 43.1, not 2.12
    assert [signed(value) for value in (2.2, -0.4, 0.0)] == ["+2.2", "\u22120.4", "\u00b10.0"]


def test_one_value_is_not_the_best_of_anything():
    assert best_rows([None, 4.0]) == set()
    assert best_rows([3.0, None, 4.0, 4.01]) == {2, 3}
