"""Chapter 8's pictures: the study's numbers are where they should be."""

import math

import matplotlib.pyplot as plt
import pytest

from llmbook.book.preference_pictures import best_of_n_curves, calibration_curves, reinforce_curves

ROWS = [{"votes": votes, "seed": seed, "n": [1, 2, 4], "best_learned": [0.0, 0.5, 1.0],
         "best_true": [0.8, 0.9 + seed / 10, 1.0], "best_possible": [0.8, 1.5, 2.0],
         "calibration": [[110.0, 100, 200], [7.5, 5, 10], [80.0, 90, 100]]} for votes in (50, 500) for seed in (0, 2)]


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def curves(ax) -> dict[str, list]:
    return {line.get_label(): [list(map(float, line.get_xdata())), list(map(float, line.get_ydata()))]
            for line in ax.get_lines()}


def test_calibration_joins_the_seeds_and_leaves_out_bins_of_few_votes():
    found = curves(calibration_curves(ROWS))
    assert set(found) == {"calibrated", "50 votes", "500 votes"}
    (x, y), wanted = found["50 votes"], ([0.55, 0.8], [0.5, 0.9])
    assert all(math.isclose(a, b, rel_tol=1e-5) for a, b in zip([*x, *y], [*wanted[0], *wanted[1]]))


def test_the_best_of_n_is_a_mean_over_seeds_against_the_bound():
    learned, true = map(curves, best_of_n_curves(ROWS))
    x, y = true["500 votes"]
    assert x[0] == 0 and math.isclose(x[2], math.log(4) - 0.75, rel_tol=1e-6) and math.isclose(y[1], 1.0, rel_tol=1e-6)
    assert true["by the true taste"][1] == [0.8, 1.5, 2.0] and learned["50 votes"][1] == [0.0, 0.5, 1.0]


def test_a_price_is_dashed_and_steps_are_smoothed():
    rows = [{"votes": 50, "beta": beta, "reward": [0, 1, 2, 3, 4, 5], "true": [1, 1, 1, 1, 1, 1]} for beta in (0, 0.1)]
    top, bottom = reinforce_curves(rows)
    assert [line.get_linestyle() for line in top.get_lines()] == ["-", "--"]
    assert curves(top)["50 votes, β = 0.1"] == [[1, 2, 3, 4, 5, 6], [0, 0.5, 1, 1.5, 2, 3]]
    assert all(y == [1] * 6 for _, y in curves(bottom).values())
