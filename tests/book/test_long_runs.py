"""What appendix D draws: the numbers it is given, in words and colours that do not change."""

import matplotlib

matplotlib.use("agg")

import numpy as np
import pandas as pd
import pytest
import torch

from llmbook.book import figures
from llmbook.book import long_runs as book
from llmbook.book.figures import BLUE, GREEN, GREY, ORANGE
from tests.support.style import style  # noqa: F401 (a fixture for every test here)


def words(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def table(losses, operations):
    """A loss measured at every second step, and the arithmetic so far, `operations` in the end."""
    values = [value for loss in losses for value in (np.nan, loss)]
    return pd.DataFrame({"val_loss": values, "arithmetic": np.linspace(operations / len(values), operations,
                                                                       len(values))}, index=range(1, len(values) + 1))


def test_a_run_says_what_a_checkpoint_holds_of_each_part():
    said = words(figures.training_run())
    for part in ("place in the data", "random states\n(dropout)", "weights:\n4 bytes each",
                 "two averages:\n2 × 4 bytes", "step, settings", "a gradient for each weight",
                 "inputs, targets (batch, tokens)"):
        assert said.count(part) == 1, part
    for section in ("D.2 to D.4", "D.5", "D.6"):
        assert any(section in text for text in said), section


def test_held_out_losses_have_a_line_for_each_seed_and_a_colour_for_each_kind():
    runs = {"whole": [pd.Series([3.0, 2.0], [15, 30])] * 2, "pieces": [pd.Series([3.5, 3.0], [15, 30])] * 2}
    ax = book.draw_held(runs, "Two kinds")
    assert [line.get_color() for line in ax.lines] == [BLUE, BLUE, ORANGE, ORANGE]
    assert list(ax.lines[3].get_ydata()) == [3.5, 3.0] and list(ax.lines[0].get_xdata()) == [15, 30]
    legend = ax.get_legend()
    assert legend.get_title().get_text() == "2 seeds each" and len(legend.get_texts()) == 2


def test_what_is_forgotten_is_a_row_with_a_dot_for_each_seed_and_a_line_at_their_mean():
    ax = book.draw_forgetting({"place": [0.1, 0.3], "step": [-0.1, 0.0]})
    assert [label.get_text() for label in ax.get_yticklabels()] == ["place", "step"] and ax.yaxis_inverted()
    assert list(ax.lines[0].get_xdata()) == [0.1, 0.3] and list(ax.lines[1].get_xdata()) == pytest.approx([0.2, 0.2])
    assert list(ax.lines[2].get_ydata()) == [1, 1]


def test_averages_that_are_lost_begin_again_after_the_cut():
    kept, lost = torch.arange(12.0).view(4, 3), torch.arange(12.0).view(4, 3) + 100
    upper, lower = book.draw_averages([0.1, 0.2, 0.3, 0.4], kept, lost, cut=2)
    by_label = {line.get_label(): line for line in upper.lines}
    assert list(by_label["gradient $g$"].get_ydata()) == [0.1, 0.2, 0.3, 0.4]
    assert upper.get_ylim() == pytest.approx((-1.05 * 10, 1.05 * 10))
    assert by_label[r"$\hat m$, kept"].get_ydata().tolist() == [0, 3, 6, 9]
    assert by_label[r"$\sqrt{\hat v}$, lost"].get_ydata().tolist() == [107, 110]
    assert list(lower.lines[1].get_xdata()) == [3, 4] and lower.lines[1].get_ydata().tolist() == [108, 111]
    assert [line.get_color() for line in lower.lines[:2]] == [BLUE, ORANGE]


def test_a_gradient_beyond_the_edge_is_marked_at_the_edge():
    kept = torch.full((3, 3), 0.1)
    upper, _ = book.draw_averages([0.05, -4.0, 3.0], kept, kept, cut=1)
    [beyond] = [line for line in upper.lines if "beyond" in str(line.get_label())]
    assert list(beyond.get_xdata()) == [2, 3] and list(beyond.get_ydata()) == pytest.approx([-0.105, 0.105])


def test_each_life_is_a_bar_from_its_first_step_to_its_last():
    ax = book.draw_lives([list(range(1, 138)), list(range(121, 250)), list(range(241, 401))], [True, True, False])
    assert [(bar.get_x(), bar.get_width()) for bar in ax.patches] == [(0, 137), (120, 129), (240, 160)]
    assert [matplotlib.colors.to_hex(bar.get_facecolor()).upper() for bar in ax.patches] == [ORANGE, ORANGE, BLUE]
    assert words(ax) == ["killed after step 137", "killed after step 249", "finished after step 400"]
    ax.figure.canvas.draw()
    for text in ax.texts:  # beside the bars, within the axes
        extent = text.get_window_extent().transformed(ax.transData.inverted())
        assert 0 <= extent.x0 and extent.x1 <= ax.get_xlim()[1] + 1, text.get_text()
        assert all(extent.x1 < bar.get_x() or extent.x0 > bar.get_x() + bar.get_width()
                   for bar in ax.patches if round(bar.get_y() + 0.3) == text.get_position()[1]), text.get_text()


def test_the_best_interval_is_marked_where_the_sum_is_lowest():
    minutes = np.array([10.0, 20.0, 40.0])
    ax = book.draw_intervals(minutes, 20 / minutes, minutes / 20, best=20)
    assert "20 minutes" in ax.get_title(loc="left")
    assert list(ax.lines[0].get_ydata()) == pytest.approx([2.5, 2.0, 2.5])
    assert (ax.lines[3].get_xdata()[0], ax.lines[3].get_ydata()[0]) == (20, pytest.approx(2))


def test_fsdp_shares_16_bytes_for_each_parameter_among_the_processes():
    ax = book.draw_memory({"small": 1e9, "large": 8e9}, processes=[8, 64], gigabytes=80)
    assert [bar.get_height() for bar in ax.patches] == pytest.approx([16, 128, 2, 16, 0.25, 2])
    assert [bars[0].get_facecolor() for bars in ax.containers] == [
        matplotlib.colors.to_rgba(colour) for colour in (GREY, BLUE, GREEN)]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "a GPU of 80 GB", "DDP", "FSDP, 8 processes", "FSDP, 64 processes"]


def test_the_line_of_slope_one_goes_through_the_largest_model():
    ax = book.draw_step_times([1e4, 1e6], [0.01, 0.2], wanted=1e8, tokens=512)
    line = ax.lines[1]
    assert line.get_ydata()[-1] == pytest.approx(20) and line.get_ydata()[0] == pytest.approx(0.002)
    assert ax.lines[2].get_ydata()[0] == pytest.approx(20) and "512 tokens" in ax.get_ylabel()


def test_curves_show_the_same_losses_by_step_and_by_arithmetic_as_far_as_both_have_gone():
    small, large = table([3.0, 2.5, 2.4], 3.0), table([2.9, 2.0], 4.0)
    upper, lower = book.draw_curves({"small": [small] * 3, "large": [large] * 3})
    assert len(upper.lines) == len(lower.lines) == 6
    assert upper.lines[3].get_xdata().tolist() == [2, 4] and lower.lines[3].get_xdata().tolist() == [2.0, 4.0]
    assert upper.lines[3].get_ydata().tolist() == lower.lines[3].get_ydata().tolist() == [2.9, 2.0]
    assert upper.get_xlim()[1] == pytest.approx(1.03 * 4) and lower.get_xlim()[1] == pytest.approx(1.03 * 3)
    assert upper.get_legend().get_title().get_text() == "3 seeds each" and "6ND" in lower.get_xlabel()


def test_the_pictures_can_be_read_on_a_telephone():
    series = pd.Series([3.0, 2.0], [15, 30])
    drawn = [book.draw_held({"whole": [series]}, "t"), book.draw_forgetting({"place": [0.1]}),
             book.draw_lives([[1, 2], [2, 3]], [True, False]), book.draw_memory({"small": 1e9}, [8], 80),
             book.draw_step_times([1e4, 1e6], [0.01, 0.2], 1e8, 512),
             book.draw_curves({"small": [table([3.0], 1.0)]})[0]]
    for ax in drawn:
        shown = 360 / ax.figure.get_figwidth()  # pixels an inch, between a telephone's margins
        texts = [text for text in ax.figure.findobj(matplotlib.text.Text) if text.get_text()]
        assert min(text.get_fontsize() for text in texts) / 72 * shown >= 7.9
