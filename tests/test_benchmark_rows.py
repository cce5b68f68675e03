"""The table of `make bench`: its rows, and the rounds in which they are measured."""

import pytest

from tests.benchmarks.rows import Row, against_limit, alone, alternate, compare, missed, missing, table


def test_rounds_alternate_their_order():
    calls = []
    results = alternate(3, ours=lambda: calls.append("a") or 1.0, theirs=lambda: calls.append("b") or 2.0)
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert results == {"ours": [1.0] * 3, "theirs": [2.0] * 3}


def test_a_ratio_is_the_median_of_the_rounds_own_ratios():
    # a machine that is three times slower in the last round slows both
    row = compare("work", [100, 100, 30], [50, 40, 20], "tokens/s", "peer", floor=1.5)
    assert row.ratio == 2.0 and (row.ours, row.peer) == (100, 40) and row.held
    with pytest.raises(ValueError):
        compare("work", [1, 2], [1], "tokens/s", "peer")


def test_of_seconds_fewer_are_better():
    assert compare("work", [2.0], [3.0], "s", "peer").ratio == 1.5
    assert against_limit("training", [60.0], 90.0, "s").held
    assert not against_limit("training", [91.0], 90.0, "s").held
    assert against_limit("writing", [9.0], 8.0, "MB/s").ratio == 1.125


def test_a_floor_that_was_not_measured_is_missed():
    rows = [missing("a", "no peer here"), missing("b", "no peer here", floor=1.0), alone("c", [5.0], "tokens/s"),
            Row("d", 1.0, 2.0, 0.5, 0.4), Row("e", 1.0, 2.0, 0.5, 0.6)]
    assert [row.work for row in missed(rows)] == ["b", "e"]


def test_the_table_shows_each_figure_with_its_unit_and_peer():
    text = table([compare("generation", [12.345], [10.0], "tokens/s", "transformers", floor=1.35),
                  alone("reading", [1234.5], "MB/s", note="two cores")])
    lines = text.splitlines()
    assert lines[0].split() == ["work", "ours", "peer", "ratio", "floor"]
    assert lines[1].split() == ["generation", "12.3", "tokens/s", "10", "transformers", "1.23", "1.35", "BELOW"]
    assert lines[2].split() == ["reading", "1,234", "MB/s", "-", "-", "-", "two", "cores"]
