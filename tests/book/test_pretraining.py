"""What chapter 5a draws, and what it compares its model with."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from llmbook.book import pretraining as book


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_one_gram_is_the_frequency_mixed_with_all_tokens_alike():
    # counted: 1, 1, 2 and the end: 4 tokens, 3 kinds
    found = book.ngram_losses([[1, 1, 2]], [[1], [3]], vocab_size=5, end=0, orders=(1,))
    share = {token: (count + 3 / 5) / 7 for token, count in ((0, 1), (1, 2), (2, 1), (3, 0))}
    assert found[1] == pytest.approx(-sum(math.log(share[token]) for token in (1, 0, 3, 0)) / 4)


def test_two_grams_back_off_to_one_gram():
    documents, vocab_size, end = [[1, 2], [1, 2, 1]], 5, 0
    found = book.ngram_losses(documents, [[1, 3]], vocab_size, end, orders=(1, 2))
    one = {token: (count + 3 / 5) / 10 for token, count in ((0, 2), (1, 3), (2, 2), (3, 0))}
    first = (2 + 1 * one[1]) / 3  # after the end 1 came twice, and nothing else
    second = (0 + 2 * one[3]) / 5  # after 1 came 2 twice and the end once
    third = one[0]  # 3 was never seen: what follows it is guessed from the frequencies
    assert found[2] == pytest.approx(-math.log(first * second * third) / 3)


def test_n_grams_are_a_distribution_and_a_longer_memory_helps_where_there_is_order():
    documents = [[1, 2, 3, 1, 2, 4] * 3, [2, 1, 3, 2, 1, 4]]
    losses = book.ngram_losses(documents, documents, 5, 0)
    assert losses[3] < losses[2] < losses[1] < math.log(5)


def test_repeated_share_counts_what_stood_before():
    assert book.repeated_share([1, 2, 3, 4, 5, 6, 7]) == 0 and book.repeated_share([1, 2]) == 0
    assert book.repeated_share([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)
    assert book.repeated_share([7] * 13) == pytest.approx(9 / 10)


def test_a_power_law_is_found_again():
    x = np.array([1e5, 1e6, 3e7])
    assert book.fit_power_law(x, 40 / x**0.25) == pytest.approx((40, 0.25))


def test_first_steps_move_a_copy():
    model = nn.Linear(3, 2)
    model(torch.ones(4, 3)).sum().backward()
    before = [p.detach().clone() for p in model.parameters()]
    assert book.first_steps(model, torch.optim.SGD, lr=0.5) == pytest.approx([2.0, 2.0])
    assert book.first_steps(model, torch.optim.AdamW, lr=1e-3, weight_decay=0) == pytest.approx([1e-3, 1e-3], rel=1e-3)
    assert all(map(torch.equal, before, model.parameters()))


def test_first_steps_are_drawn_for_both_optimizers():
    model = nn.Linear(3, 2)
    model(torch.ones(4, 3)).sum().backward()  # each weight's gradient is 4
    gradients, (sgd, adamw) = book.draw_first_steps(model)
    assert gradients == pytest.approx([4, 4]) and sgd == pytest.approx([0.4, 0.4])
    assert adamw == pytest.approx([1e-3, 1e-3], rel=1e-3)
    assert [list(line.get_ydata()) for line in plt.gca().lines] == [sgd, adamw]


def test_one_call_is_spoiled():
    loss_fn = book.with_one_bad_batch(lambda model, x: x.sum(), at=2, times=1000)
    assert [float(loss_fn(None, torch.ones(2))) for _ in range(3)] == [2.0, 2000.0, 2.0]


def test_pages_are_of_middle_length_from_all_over_and_in_one_part_only():
    documents = [f"{number} " + "x" * (number % 2000) for number in range(4000)]
    pages, held_out = book.split_pages(documents, 100, 20)
    assert (len(pages), len(held_out)) == (100, 20) and not set(pages) & set(held_out)
    assert all(400 <= len(page) <= 1500 for page in pages + held_out)
    assert int(pages[-1].split()[0]) > 3000 and int(held_out[-1].split()[0]) > 3000


def test_sizes_count_the_ends_of_rows_and_the_bytes_of_texts():
    assert book.tokens_and_bytes([[1, 2], [3]], ["ab", "é"]) == (5, 4)


TABLE = pd.DataFrame({"loss": [3.0, 2.0, 1.0], "val_loss": [math.nan, 2.5, 1.5]}, index=[1, 2, 3])
RUNS = pd.DataFrame([(size, tokens, 50 / tokens**0.2 * (1 + 0.1 * (size > 2e6)), 1.0, 0.5, 0.5)
                     for size in (1e6, 4e6) for tokens in (1e5, 1e6, 1e7)],
                    columns=["parameters", "tokens", "loss", "bits_per_byte", "consistent", "ending"])


def test_pictures_show_the_numbers_they_are_given():
    ax = book.draw_costs(torch.tensor([0.5, 0.25]), ["a", "b"])
    assert [line.get_ydata()[0] for line in ax.lines[1:]] == pytest.approx([-math.log(0.5), -math.log(0.25)])
    ax = book.draw_losses(TABLE, "title", {"2-gram": 1.25})
    assert list(ax.lines[1].get_ydata()) == [2.5, 1.5] and list(ax.lines[2].get_ydata()) == [1.25, 1.25]
    ax = book.draw_steps([0.1, 0.2], {"one": [1, 2], "other": [3, 3]})
    assert [list(line.get_ydata()) for line in ax.lines] == [[1, 2], [3, 3]]
    ax = book.draw_distribution(["a", " b"], [0.75, 0.25], "title")
    assert [bar.get_width() for bar in ax.patches] == [0.75, 0.25]
    axes = book.draw_kept([0.5, 0.5], {"cut": [1.0, 0.0], "flat": [0.5, 0.5]})
    assert [bar.get_height() for bar in axes[0].patches[2:]] == [1.0, 0.0]
    ax = book.draw_repeats({"none": {0: [0.5, 0.7], 1: [0.0, 0.2]}}, "title")
    assert list(ax.lines[0].get_ydata()) == pytest.approx([60, 10])
    ax = book.draw_repeats({"none": {0: [0.0, 0.2]}}, "title", 0.05)
    assert list(ax.lines[-1].get_ydata()) == [5, 5] and min(ax.collections[0].get_segments()[0][:, 1]) == 0
    assert list(book.draw_schedule([1.0, 2.0]).lines[0].get_ydata()) == [1.0, 2.0]


def test_the_fit_goes_through_the_best_of_each_budget():
    ax, (a, b) = book.draw_scaling(RUNS)
    assert (a, b) == pytest.approx((50, 0.2)) and len(ax.lines) == 3


def test_a_longer_run_of_one_size_is_drawn_and_does_not_shape_the_fit():
    longer = pd.concat([RUNS, RUNS.tail(1).assign(tokens=1e9, loss=0.01)])
    ax, fit = book.draw_scaling(longer)
    assert fit == pytest.approx((50, 0.2))
    assert max(ax.lines[1].get_xdata()) == max(ax.lines[-1].get_xdata()) == 1e9


def test_skills_are_drawn_against_millions_of_tokens():
    table = pd.DataFrame({"grammar": [0.1, 0.9], "names": [0.0, 0.5]}, index=[1e6, 2e6])
    ax = book.draw_skills(table)
    assert list(ax.lines[0].get_xdata()) == [1.0, 2.0] and list(ax.lines[1].get_ydata()) == [0.0, 50.0]
