"""llmbook.book.mixers: the recall task, models of equal size, and the tables of the stored study."""

import pytest
import torch

from llmbook.book import mixers
from llmbook.book.mixers import (
    KINDS,
    PAIRS,
    RECALL_SIZES,
    STORY_SIZES,
    RecallBatches,
    draw_expert_shares,
    draw_recall,
    draw_state_bytes,
    expert_shares,
    expert_table,
    mean_over_runs,
    mixer_model,
    recall_batch,
    recall_share,
    recall_table,
    recall_text,
    seconds_per_token,
    shares_by_kind,
    story_table,
)
from llmbook.experts import ExpertsConfig, ExpertsLlama
from llmbook.gpt import count_parameters

STUDY = {"recall": [{"kind": kind, "seed": seed, "parameters": 7,
                     "right": {str(pairs): [90 + seed, 100] for pairs in PAIRS}}
                    for kind in KINDS for seed in range(3)],
         "stories": [{"kind": kind, "seed": seed, "parameters": 7, "bits": 1.5 + 0.1 * seed}
                     for kind in KINDS for seed in range(3)],
         "experts": [{"kind": "experts", "seed": seed, "parameters": 9, "active": 7, "bits": 1.0,
                      "shares": [[0.5, 0.5], [0.2 + seed / 10, 0.8 - seed / 10]]} for seed in range(3)]}


def test_each_question_is_answered_by_the_pair_that_was_told():
    inputs, targets = recall_batch(20, 8, 4, torch.Generator().manual_seed(0))
    assert inputs.shape == targets.shape == (20, 16) and (targets != -100).sum() == 80
    for ids, answers in zip(inputs.tolist(), targets.tolist()):
        told, keys = ids[:8], [token // mixers.N_VALUES for token in ids[:8]]
        assert len(set(keys)) == 8
        for place in range(8, 16, 2):
            key = ids[place] - mixers.N_KEYS * mixers.N_VALUES
            assert answers[place] == told[keys.index(key)] == ids[place + 1] and answers[place + 1] == -100


def test_a_text_can_be_read():
    assert recall_text([0, 8 * 3 + 5, 8 * 32 + 3, 8 * 31 + 7]) == "A=0 D=5 D=? f=7"


def test_batches_are_the_same_for_a_seed_and_have_all_numbers_of_pairs():
    first, again, other = (iter(RecallBatches(seed, 4)) for seed in (1, 1, 2))
    widths = set()
    for _ in range(20):
        batch = next(first)
        assert torch.equal(batch[0], next(again)[0])
        widths.add(batch[0].shape[1] - 8)
    assert widths == set(PAIRS)
    assert any(not torch.equal(a[0], b[0]) for a, b in zip(RecallBatches(1, 4), [next(other) for _ in range(3)]))


def test_the_share_counts_answers_to_questions():
    class Knows(torch.nn.Module):
        def forward(self, ids):
            scores = torch.zeros(*ids.shape, RECALL_SIZES["vocab_size"])
            for row, text in enumerate(ids.tolist()):
                keys = {token // 8: token for token in text[:4]}
                for place in range(4, len(text), 2):
                    scores[row, place, keys[text[place] - 256]] = 1.0
            return scores

    assert recall_share(Knows(), 4, 10).right == recall_share(Knows(), 4, 10).of == 40


@pytest.mark.parametrize("sizes", [RECALL_SIZES, STORY_SIZES], ids=["recall", "stories"])
def test_all_kinds_have_about_as_many_parameters(sizes):
    counts = {kind: count_parameters(mixer_model(kind, 0, **sizes)) for kind in KINDS}
    assert counts["attention"] == counts["window"]
    assert all(abs(count - counts["attention"]) < 0.01 * counts["attention"] for count in counts.values()), counts
    assert mixer_model("hybrid", 0, **sizes).config.mixers[-1] == "attention"
    assert mixer_model("attention", 0, **sizes).config.d_hidden == sizes["d_hidden"]


def test_intervals_are_students():
    mean, half = mean_over_runs([1.0, 2.0, 3.0])
    assert mean == 2.0 and half == pytest.approx(4.30 / 3**0.5)
    with pytest.raises(ValueError, match="1 runs: give 2 to 5"):
        mean_over_runs([1.0])


def test_the_tables_have_a_row_for_each_kind():
    table = story_table(STUDY).set_index("kind")
    assert list(table.index) == list(KINDS) and table.loc["linear", "bits per byte"] == 1.6
    assert table.loc["attention", "kB at 8,192"] == pytest.approx(32 * table.loc["attention", "kB at 256"], rel=1e-3)
    assert table.loc["delta", "kB at 8,192"] == table.loc["delta", "kB at 256"]
    one = {"stories": STUDY["stories"][:1]}
    assert story_table(one)[["kind", "± (95 %, t)", "runs"]].to_numpy().tolist() == [["attention", "-", 1]]
    table = recall_table(STUDY).set_index("kind")
    assert list(table.index) == list(KINDS) and table.loc["hybrid", "right, %"] == 91 and table["lowest"].min() == 90
    table = expert_table(STUDY).set_index("feed-forward")
    assert list(table.index) == ["dense, active parameters", "experts"]
    assert table.loc["experts", "busiest, %"] == 70 and table.loc["dense, active parameters", "busiest, %"] == "-"


def test_the_pictures_show_what_they_are_given():
    lines = draw_recall(STUDY["recall"]).get_lines()
    assert {line.get_label() for line in lines} >= set(KINDS)
    assert lines[0].get_ydata() == pytest.approx([0.91] * 4)
    ax = draw_state_bytes({"attention": mixer_model("attention", 0, **STORY_SIZES).config}, [10, 20])
    assert ax.get_lines()[0].get_ydata() == pytest.approx([10 * 2.048, 20 * 2.048])
    ax = draw_expert_shares({"one": torch.tensor([0.25, 0.75]), "other": torch.tensor([0.5, 0.5])})
    assert ax.patches[1].get_height() == 0.75
    assert ax.get_ylim() == ax.figure.axes[1].get_ylim()  # bars of one height mean one share


def experts() -> ExpertsLlama:
    torch.manual_seed(0)
    return ExpertsLlama(ExpertsConfig(**{**STORY_SIZES, "d_model": 16, "n_layers": 2, "n_kv_heads": 2, "d_expert": 8}))


def test_shares_leave_padding_out_and_add_up_to_one():
    model, ids = experts(), torch.randint(2047, (2, 6), generator=torch.Generator().manual_seed(0))
    targets = ids.clone()
    targets[1] = -100
    shares = expert_shares(model, [(ids, targets)])
    alone = expert_shares(model, [(ids[:1], targets[:1])])
    assert len(shares) == 2 and all(torch.equal(a, b) and a.sum() == pytest.approx(1) for a, b in zip(shares, alone))
    kinds = shares_by_kind(model, [(ids, targets)])
    assert kinds.sum(axis=1).to_numpy() == pytest.approx(1.0) and kinds.shape[1] == 8


@pytest.mark.parametrize("text, kind", [(" the", "small words"), (" house", "other words"), (".", "punctuation"),
                                        (" Mira", "capitals"), ("ing", "ends of words")])
def test_tokens_are_of_a_kind(text, kind):
    (token,) = mixers._tokenizer().encode_ordinary(text)
    assert mixers.token_kind(token) == kind


def test_a_token_takes_the_least_time_of_its_repeats(monkeypatch):
    clock = iter([0.0, 3.0, 3.0, 5.0])
    monkeypatch.setattr(mixers.time, "process_time", lambda: next(clock))
    assert seconds_per_token(mixer_model("hybrid", 0, **STORY_SIZES), 20, 2) == 2.0
