"""The book's diagrams: what they say, that no words lie on others or leave their box, and what they refuse."""

import matplotlib

matplotlib.use("agg")

import pytest
import torch

from llmbook.book import block_pictures, figures
from llmbook.book.figures.model import IDS, MODEL_PARTS, PIECES
from llmbook.book.ladder import RUNGS
from tests.book.test_figures_tensors import APPENDIX_A
from tests.support.style import style  # noqa: F401 (a fixture for every test here)

TABLE = {"1-gram": [4.4], "2-gram": [3.4], "3-gram": [2.5], "network": [2.1, 2.2, 2.15], "blocks": [1.8, 1.85, 1.9]}
BOARDS = [lambda part=part: figures.model_diagram(part) for part in MODEL_PARTS]
BOARDS += [lambda: figures.model_diagram(("text", "sampling"), closed=True)]
BOARDS += [lambda parts=parts: figures.model_diagram(parts)
           for parts in (("text", "embeddings"), ("training", "sampling"))]
BOARDS += [lambda part=part: figures.transformer_2017(part) for part in (None, "encoder", "decoder", "attention")]
BOARDS += [figures.adapter_diagram, figures.bert_and_gpt, figures.training_run, figures.gpt_and_llama,
           figures.model_files, figures.preference_pipeline]
BOARDS += APPENDIX_A
BOARDS += [block_pictures.block_diagram,
           lambda: block_pictures.generation_loop("the kettle sang because it", IDS, 50257, " nevertheless")]


def words(ax) -> str:
    return " | ".join(text.get_text() for text in ax.texts)


@pytest.mark.parametrize("draw", BOARDS)
def test_no_words_lie_on_others_and_none_leave_their_box_or_the_board(draw):
    ax = draw()
    ax.figure.canvas.draw()
    drawn = [(text, text.get_window_extent(), box) for text, box in ax.board.texts]
    whole = ax.get_window_extent()
    for number, (text, extent, box) in enumerate(drawn):
        assert whole.x0 <= extent.x0 and extent.x1 <= whole.x1, text.get_text()
        assert whole.y0 <= extent.y0 and extent.y1 <= whole.y1, text.get_text()
        if box is not None:
            x, y, width, height = box
            (left, top), (right, bottom) = ax.transData.transform([(x, y), (x + width, y + height)])
            assert left < extent.x0 and extent.x1 < right and bottom < extent.y0 and extent.y1 < top, text.get_text()
        for other, place, _ in drawn[number + 1 :]:
            assert not extent.overlaps(place), (text.get_text(), other.get_text())


@pytest.mark.parametrize("draw", BOARDS)
def test_words_lie_on_no_box_but_their_own(draw):
    ax = draw()
    ax.figure.canvas.draw()
    boxes = [box for _, box in ax.board.texts if box is not None]
    for text, own in ax.board.texts:
        extent = text.get_window_extent().transformed(ax.transData.inverted())
        for x, y, width, height in boxes:
            if (x, y, width, height) != own:
                low, high = min(extent.y0, extent.y1), max(extent.y0, extent.y1)
                apart = extent.x1 < x or x + width < extent.x0 or high < y or y + height < low
                assert apart, text.get_text()


def test_at_390_pixels_the_smallest_words_are_nine_pixels_high():
    for draw in BOARDS:
        ax = draw()
        shown = 360 / ax.figure.get_figwidth()  # pixels an inch, between a telephone's margins
        assert min(text.get_fontsize() for text in ax.texts) / 72 * shown >= 9


def test_the_model_has_a_shape_on_every_arrow():
    said = words(figures.model_diagram("gpt"))
    for shape, times in (("(tokens,)", 1), ("(tokens, d_model)", 5), ("(tokens, vocab_size)", 1), ("(vocab_size,)", 1)):
        assert said.count(shape) == times, shape
    for part in ("tokenizer", "token embedding", "position embedding", "attention", "feed-forward", "norm",
                 "output layer", "softmax", "boiled", "append, and again"):
        assert part in said, part


@pytest.mark.parametrize(("part", "bold"), [
    ("attention", {"attention"}), ("block", {"norm", "attention", "feed-forward"}), ("tokens", {"tokenizer"}),
    ("embeddings", {"token embedding", "position embedding"}), ("sampling", {"softmax of the last token's logits"}),
    ("classifier", {"classifier head, not the output layer"})])
def test_what_is_lit_is_bold(part, bold):
    ax = figures.model_diagram(part)
    assert {text.get_text() for text in ax.texts if text.get_weight() == "bold"} == bold


def test_ends_of_the_chapters_that_change_the_model():
    assert "ham" in words(figures.model_diagram("classifier")) and "boiled" not in words(
        figures.model_diagram("classifier"))
    training = words(figures.model_diagram("training"))
    assert "loss ( )" in training and "true next tokens (tokens,)" in training and "append, and again" not in training
    assert "append, and again" in words(figures.model_diagram(("training", "sampling")))
    assert "A:" in words(figures.model_diagram("instructions"))


def test_the_ids_in_the_model_are_gpt2s():
    from llmbook.assets import fetch
    try:
        fetch("gpt2-bpe")
    except (OSError, RuntimeError, ValueError):
        pytest.skip("GPT-2's vocabulary cannot be fetched here")
    from llmbook.text import load_tokenizer
    tokenizer = load_tokenizer("gpt2")
    assert [tokenizer.decode([token]) for token in IDS] == list(PIECES)


def test_a_closed_model_shows_what_goes_in_and_comes_out():
    said = words(figures.model_diagram(("text", "sampling"), closed=True))
    assert "the model" in said and "token ids" in said and "append, and again" in said
    assert "attention" not in said and "norm" not in said
    for part in ("1169", "the kettle sang because it", "boiled"):
        assert part in said and part in words(figures.model_diagram(("text", "sampling")))


def test_every_board_says_in_words_what_it_shows():
    for draw in BOARDS:
        assert len(draw().figure.get_label()) > 40
    assert "lit: attention" in figures.model_diagram("attention").figure.get_label()


def test_the_transformer_of_2017_translates():
    said = words(figures.transformer_2017())
    for part in ("This is an example", "<start> Das ist ein", "Beispiel", "self-attention", "masked self-attention",
                 "cross-attention", "encoded vectors", "Encoder", "Decoder", "next word", "output so far"):
        assert part in said, part


def test_bert_sees_both_sides_and_gpt_what_came_before():
    ax = figures.bert_and_gpt()
    lines = [line.get_xdata() for line in ax.lines if len(line.get_xdata()) == 2]
    bert = [pair for pair in lines if max(pair) < 210]
    gpt = [pair for pair in lines if min(pair) > 210]
    assert len(bert) == 36 and len(gpt) == 15
    assert any(left > right for left, right in bert) and all(left <= right for left, right in gpt)
    assert "[MASK]" in words(ax) and "the masked word" in words(ax) and "the next word" in words(ax)


def test_llamas_block_has_other_parts_in_the_same_places():
    boxes = [(box[:2], text.get_text(), text.get_weight()) for text, box in figures.gpt_and_llama().board.texts
             if box is not None]
    gpt, llama = ([box for box in boxes if (box[0][0] > 210) == right] for right in (False, True))
    assert [words for _, words, _ in gpt][1::2] == ["layer norm", "layer norm"]
    assert [words for _, words, _ in llama][1::2] == ["RMSNorm", "RMSNorm"]
    assert [y for (_, y), _, _ in gpt] == [y for (_, y), _, _ in llama]
    assert "position embedding" in gpt[0][1] and "position" not in llama[0][1]
    assert {weight for _, _, weight in llama[1:]} == {"bold"} and "bold" not in {weight for _, _, weight in gpt}


def test_both_forms_of_a_published_model_hold_the_same_four_things():
    said = words(figures.model_files())
    for part in ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "metadata",
                 "load_pretrained"):
        assert part in said, part


def test_arrows_end_where_their_vectors_do():
    arrows = {"queries": {3: torch.tensor([1.0, 0.0])}, "keys": {0: torch.tensor([0.0, 2.0])}}
    ax = figures.turning_arrows(arrows, "turn")
    assert [text.xy for text in ax.texts if hasattr(text, "xy")] == [(1, 0), (0, 2)]
    assert [text.get_text() for text in ax.texts if text.get_text()] == ["3", "0"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["queries", "keys"]
    arc, = ax.patches  # from the first arrow of the one to the first of the other, the short way
    assert (arc.theta1, arc.theta2) == pytest.approx((0, 90))
    swapped = {"queries": arrows["keys"], "keys": arrows["queries"]}
    assert (figures.turning_arrows(swapped).patches[0].theta1, arc.theta2) == pytest.approx((0, 90))


def test_bars_are_the_features_of_each_vector():
    ax = figures.compare_bars({"before": torch.tensor([1.0, 2.0]), "after": torch.tensor([-1.0, 1.0])}, "norm")
    assert [bar.get_height() for bar in ax.patches] == [1, 2, -1, 1]
    centres = [bar.get_x() + bar.get_width() / 2 for bar in ax.patches]
    assert centres == pytest.approx([-0.135, 0.865, 0.135, 1.135])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["before", "after"]


def test_turning_speeds_are_those_of_the_frequencies():
    frequencies = torch.tensor([torch.pi, torch.pi / 50])
    cosines = (torch.arange(5.0)[:, None] * frequencies).cos()
    upper, lower = figures.turning_speeds(cosines, frequencies, [1])
    assert upper.lines[0].get_ydata() == pytest.approx(cosines[:, 1].tolist()) and len(upper.lines) == 1
    assert lower.lines[0].get_ydata() == pytest.approx([2, 100])
    assert "takes 2 to 100 positions" in lower.get_title("left") + lower.get_title()


@pytest.mark.parametrize(("call", "message"), [
    (lambda: figures.model_diagram("atention"), "no part 'atention' in the model: choose one of text, tokens"),
    (lambda: figures.transformer_2017("head"), "no part 'head' in the transformer of 2017: choose one of encoder"),
    (lambda: figures.loss_ladder("9-gram", table=TABLE), "no rung '9-gram' on the ladder: choose one of 1-gram"),
    (lambda: figures.loss_ladder(yours={"mine": 2.0}, table=TABLE), "no rung 'mine' on the ladder"),
    (lambda: figures.loss_ladder(table={}), "no rung to draw: write the table with `python tools/ladder.py`")])
def test_what_is_not_there_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_ladder_draws_means_up_to_a_rung_and_leaves_out_what_the_table_lacks():
    ax = figures.loss_ladder("attention", table=TABLE)
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([4.4, 3.4, 2.5, 2.15])
    assert [label.get_text() for label in ax.get_yticklabels()][-1] == "network, 3 bytes"
    assert len(figures.loss_ladder(table=TABLE).patches) == 5
    assert "each of 3 seeds" in figures.loss_ladder(table=TABLE).get_title(loc="left")


def test_counts_with_the_networks_context_are_a_hollow_bar():
    ax = figures.loss_ladder(table={**TABLE, "4-gram": [1.9]})
    assert [bar.get_facecolor()[3] for bar in ax.patches] == [1, 1, 1, 0, 1, 1]
    assert [label.get_text() for label in ax.get_yticklabels()][3] == "(4-gram counts)"


def test_the_ladder_marks_yours():
    ax = figures.loss_ladder("attention", {"network": 2.3, "attention": 2.0}, TABLE)
    diamonds = {(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines if line.get_marker() == "D"}
    assert diamonds == {(2.3, 3), (2.0, 4)}
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["yours"]
    assert words(ax).endswith("2.15 | 2.00")  # a rung that only you have is written out too


def test_the_ladder_has_a_name_for_each_rung():
    table = {name: [1.0] for name in RUNGS}
    assert len(set(label.get_text() for label in figures.loss_ladder(table=table).get_yticklabels())) == len(RUNGS)
