"""llmbook.book.translating: baselines, scores with intervals, what attention shows, pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from sacrebleu.metrics import BLEU, CHRF

from llmbook.book import translating
from llmbook.book.translating import (
    STUDY_FILE,
    draw_alignment,
    draw_schedules,
    draw_training,
    follow_attention,
    kept_scores,
    load_translator,
    measure_translations,
    nearest_translations,
    score_table,
)
from llmbook.encoder_decoder import END, PAD, START, Translator, TranslatorConfig, translate
from llmbook.text import train_bpe
from llmbook.training import History
from llmbook.translations import Pair

REFERENCES = ["Die Seite wurde gelöscht .", "Der Benutzer wurde nicht gefunden .", "Bitte neu laden .",
              "Eine Datei wählen ."]
GOOD = ["Die Seite wurde gelöscht .", "Der Benutzer wurde gefunden .", "Bitte neu laden .", "Wählen ."]
BAD = ["The page was deleted .", "Der Benutzer .", "Please reload .", "Choose a file ."]


def test_the_nearest_sentence_shares_rare_letters_rather_than_frequent_ones():
    known = [Pair("Delete the page", "Seite löschen", "a"), Pair("Delete the user", "Benutzer löschen", "a"),
             Pair("Choose the calendar", "Kalender wählen", "a")]
    assert nearest_translations(known, ["Delete the calendars", "delete users"]) == ["Kalender wählen",
                                                                                      "Benutzer löschen"]


def test_scores_are_sacrebleus_with_half_an_interval_and_a_test_against_the_baseline():
    rows = measure_translations({"good": GOOD, "bad": BAD, "right": REFERENCES}, REFERENCES, "bad")
    assert [row["system"] for row in rows] == ["good", "bad", "right"]
    for row, outputs in zip(rows, (GOOD, BAD, REFERENCES), strict=True):
        for name, metric in (("BLEU", BLEU()), ("chrF", CHRF())):
            assert row[name] == pytest.approx(metric.corpus_score(outputs, [REFERENCES]).score, abs=0.005)
    good, bad, right = rows
    assert bad["BLEU_p"] is None and bad["chrF_p"] is None and 0 < good["BLEU_p"] <= 1
    assert right["BLEU"] == 100 and right["BLEU_half"] == 0 and good["BLEU_half"] > 1 and good["chrF_half"] > 1
    assert right["chrF_p"] < 0.05 and json.loads(json.dumps(rows)) == rows


def test_a_baseline_that_is_no_system_is_named():
    with pytest.raises(ValueError, match="baseline is 'none': choose one of good, bad"):
        measure_translations({"good": GOOD, "bad": BAD}, REFERENCES, "none")


def test_the_table_is_to_be_read():
    table = score_table([
        {"system": "one", "BLEU": 12.34, "BLEU_half": 1.06, "BLEU_p": None, "chrF": 5.0, "chrF_half": 0.5,
         "chrF_p": None},
        {"system": "two", "BLEU": 2.0, "BLEU_half": 1.0, "BLEU_p": 0.0104, "chrF": 5.0, "chrF_half": 0, "chrF_p": 0.5}])
    assert list(table.columns) == ["BLEU", "p of BLEU", "chrF", "p of chrF"]
    assert list(table.loc["one"]) == ["12.3 ± 1.1", "", "5.0 ± 0.5", ""]
    assert table.loc["two", "p of BLEU"] == "0.010" and table.loc["two", "p of chrF"] == "0.500"


@pytest.fixture(scope="module")
def tiny() -> tuple[Translator, object]:
    tokenizer = train_bpe(["Delete the page", "Seite löschen"] * 9, 270, special_tokens=(PAD, START, END))
    torch.manual_seed(0)
    config = TranslatorConfig(tokenizer.n_vocab, tokenizer.encode_single_token(PAD), 24, 16, 2, 2, 0.0)
    return Translator(config).eval(), tokenizer


def test_what_attention_shows_is_one_distribution_over_the_source_for_each_token(tiny):
    model, tokenizer = tiny
    german, weights, written, source = follow_attention(model, tokenizer, "Delete page")
    assert german == translate(model, tokenizer, ["Delete page"])[0]
    assert weights.shape == (len(written), len(source)) and "".join(source) == f"Delete page{END}"
    assert written[-1] == END and torch.allclose(weights.sum(dim=1), torch.ones(len(written)), atol=1e-5)
    cache = model.read(torch.tensor([[*tokenizer.encode_ordinary("Delete page"), tokenizer.encode_single_token(END)]]))
    start = torch.tensor([[tokenizer.encode_single_token(START)]])
    x = model.blocks[0](model.embed(start), *cache.source[0])  # the first row by hand: block 1, then block 2's queries
    last = model.blocks[1]
    expected = last.cross_attention.weights(last.attend(x), cache.source[1][0])[0].mean(dim=0)
    assert torch.allclose(weights[0], expected[0], atol=1e-6)


def test_the_pictures_say_what_they_show():
    ax = draw_schedules({"one": [0.0, 1.0], "two": [1.0, 0.5]})
    assert [line.get_label() for line in ax.lines] == ["one", "two"] and ax.get_ylabel() == "learning rate"
    history = History()
    for step in range(1, 5):
        history.add(1, 1.0, loss=5.0 - step, **({"val_loss": 4.0} if step % 2 == 0 else {}))
    ax = draw_training(history)
    assert len(ax.lines[0].get_xdata()) == 4 and list(ax.lines[1].get_xdata()) == [2, 4]
    assert "nats" in ax.get_ylabel()
    ax = draw_alignment(torch.eye(2), ["Seite", "x"], ["page", "y"])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["page", "y"]


def test_the_kept_scores_compare_more_seeds_and_the_longer_model_with_the_baselines():
    rows = json.loads(Path(translating.__file__).with_name(STUDY_FILE).read_text(encoding="utf-8"))["test"]
    bleu = {row["system"]: row["BLEU"] for row in rows}
    assert list(kept_scores().index) == list(bleu)
    assert {"copying", "nearest training sentence", "longer, four beams, seed 0"} < set(bleu)
    assert sum(name.startswith("short, four beams") for name in bleu) == 2
    models = [row for row in rows if "four beams" in row["system"]]
    assert all(row["BLEU"] > bleu["nearest training sentence"] + 1 and row["BLEU_p"] < 0.05 for row in models)


def test_the_shipped_translator_fits_the_chapters_tokenizer():
    config = load_translator().config
    assert (config.vocab_size, config.d_model, config.n_layers, config.context_length) == (2000, 128, 2, 96)
