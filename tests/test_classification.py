"""A text classifier: nothing leaks between the parts, padding changes nothing, only what was promised is trained."""

import json
import random
import re
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from llmbook import classification, families, labelled_texts
from llmbook.classification import (
    ClassificationLoss,
    ClassifierConfig,
    LengthBatches,
    PreparedTexts,
    TextClassifier,
    class_probabilities,
    classify,
    collate_texts,
    drop_repeats,
    encode_texts,
    finetune_classifier,
    last_token,
    precompute,
    prepare_texts,
    split_by_key,
    text_key,
    text_loader,
    undersample,
)
from llmbook.devices import autocast
from llmbook.families import Family, register_family
from llmbook.gpt import GPT, GPTConfig
from llmbook.llama import Llama, LlamaConfig
from llmbook.text import load_tokenizer, train_bpe
from llmbook.training import TrainingConfig, evaluate, load_model, save_model, train
from tests.support.repository import ROOT
from tests.support.watched import watched_train

WORDS = "the sea a ship captain wind harbour night rope sail storm gold map island bird salt".split()
TOKENIZER = train_bpe(" ".join(f"{word} {other}" for word in WORDS for other in WORDS), 300)
DEPTH = 3
FAMILIES = pytest.mark.parametrize("family", ["GPT", "Llama"])
PLACES = pytest.mark.parametrize("blocks", [0, 1, DEPTH, None])
QUICK = {"device": "cpu", "precision": "float32", "progress": False}


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Numbers are compared in float32, also on machines where "auto" means bfloat16."""
    monkeypatch.setattr(labelled_texts, "autocast", lambda device: autocast(device, "float32"))


def language_model(family: str, **changes) -> GPT | Llama:
    torch.manual_seed(0)
    sizes = {"vocab_size": 300, "context_length": 48, "d_model": 32, "n_heads": 4, "n_layers": DEPTH}
    if family == "GPT":
        return GPT(GPTConfig(**{**sizes, "dropout": 0.0, **changes}))
    return Llama(LlamaConfig(**{**sizes, "n_kv_heads": 2, "d_hidden": 64, **changes}))


def small(family: str = "GPT", classes: int = 2, labels=None, spread: float | None = None,
          **changes) -> TextClassifier:
    """With a `spread`, all weights are far from what they start with, so that mistakes show."""
    classifier = TextClassifier(language_model(family, **changes), classes, labels)
    generator = torch.Generator().manual_seed(1)
    if spread:
        with torch.no_grad():
            for name, parameter in classifier.named_parameters():
                parameter.normal_(std=spread, generator=generator)
                if "norm" in name and name.endswith("weight"):
                    parameter += 1.0
    return classifier.eval()


def some_texts(count: int, seed: int = 0, longest: int = 20) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, longest))) for _ in range(count)]


def table(texts: list[str], labels: str | list[str] = "01", seed: int = 0) -> pd.DataFrame:
    """Texts with random labels, each of them at least once."""
    drawn = random.Random(seed).choices(labels, k=len(texts) - len(labels))
    return pd.DataFrame({"label": [*labels, *drawn], "text": texts})


def separable(count: int, seed: int, at_end: bool) -> pd.DataFrame:
    """The first or the last word tells the label."""
    labels = ["no", "yes"] * (count // 2)
    texts = some_texts(count, seed, 5)
    signs = ["gold" if label == "yes" else "storm" for label in labels]
    pairs = [f"{text} {sign}" if at_end else f"{sign} {text}" for text, sign in zip(texts, signs)]
    return pd.DataFrame({"label": labels, "text": pairs})


def ids_of(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(300, (length,), generator=generator) for length in lengths]


@torch.no_grad()
def one_by_one(classifier: TextClassifier, texts: list[str]) -> torch.Tensor:
    """Probabilities by the plain forward, without batches or padding."""
    rows = [classifier(torch.tensor([TOKENIZER.encode(text, disallowed_special=())])) for text in texts]
    return torch.cat(rows).softmax(-1)


# --- near-copies, parts and balance ------------------------------------------------------------------------------

@pytest.mark.parametrize("copy", [
    "call 0800 555 now and win", "CALL 0800-555 NOW, and win!", "Call 1 2 now and win", " call\t0999   1 now\nand win.",
])
def test_near_copies_have_one_key(copy):
    assert text_key(copy) == text_key("Call 0800 555 now and win!!!")


@pytest.mark.parametrize("text, other", [
    ("win a prize", "win the prize"), ("call 5 now", "call now"), ("a b", "ab"), ("a b", "b a"), (":)", "..."),
    (":)", ":("), ("caf\xe9", "cafe"), ("你好", "再见"), ("👍", "👎"),
])
def test_other_texts_have_other_keys(text, other):
    assert text_key(text) != text_key(other)


def test_the_first_of_the_repeats_is_kept():
    frame = pd.DataFrame({"label": list("abcdefg"),
                          "text": ["Win 5 now!", "Hello", "win 77 NOW", ":)", "...", "hello.", ":)"]}, index=[9] * 7)
    kept = drop_repeats(frame)
    assert kept["label"].tolist() == ["a", "b", "d", "e"] and kept.index.tolist() == [0, 1, 2, 3]
    assert len(frame) == 7 and drop_repeats(frame.iloc[:0]).empty


def numbered(count: int, copies: int = 1) -> pd.DataFrame:
    """`count` different texts, each as often as `copies` says in another spelling."""
    names = [f"{a} {b} {c}" for a in WORDS for b in WORDS for c in WORDS for _ in range(2)][:2 * count:2]
    names += [f"{name} too" for name in names][:count - len(names)]
    spell = [str, str.upper, lambda text: f"{text}!", lambda text: text.replace(" ", "  ")]
    texts = [spell[i](name) for i in range(copies) for name in names]
    return pd.DataFrame({"label": "ham", "text": texts, "row": range(len(texts))})


@pytest.mark.parametrize("seed", range(5))
def test_no_near_copy_is_on_two_sides(seed):
    frame = numbered(500, copies=4)  # repeats were not dropped
    parts = split_by_key(frame, seed=seed)
    keys = [set(part["text"].map(text_key)) for part in parts]
    assert all(keys) and not keys[0] & keys[1] and not keys[0] & keys[2] and not keys[1] & keys[2]
    assert sum(map(len, keys)) == 500
    assert sorted(row for part in parts for row in part["row"]) == frame["row"].tolist()
    assert all(part.index.tolist() == list(range(len(part))) for part in parts)


@pytest.mark.parametrize("shares", [(0.7, 0.1, 0.2), (0.5, 0.5), (0.1, 0.2, 0.3, 0.4), (1.0,)])
def test_parts_have_about_their_shares(shares):
    parts = split_by_key(numbered(5000), shares)
    assert [len(part) / 5000 for part in parts] == pytest.approx(shares, abs=0.03)
    assert sum(map(len, parts)) == 5000


def test_a_text_stays_where_it_is_when_others_join():
    frame = numbered(600)
    few, many = split_by_key(frame.iloc[::-3]), split_by_key(frame)
    for part, larger in zip(few, many):
        assert len(part) and set(part["row"]) < set(larger["row"])


def test_another_seed_gives_another_split_and_the_same_one_the_same():
    frame = numbered(600)
    first, again, other = (set(split_by_key(frame, seed=seed)[0]["row"]) for seed in (0, 0, 1))
    assert first == again
    assert 0.6 < len(first & other) / len(first) < 0.8  # as chance has it


@pytest.mark.parametrize("shares", [(0.7, 0.2), (0.7, 0.4), (1.2, -0.2), (1.0, 0.0)])
def test_bad_shares_are_named(shares):
    with pytest.raises(ValueError, match=re.escape(f"shares are {shares}: they must be above 0 and add up to 1")):
        split_by_key(numbered(5), shares)


def test_undersampling_leaves_equal_counts_of_existing_rows():
    frame = pd.DataFrame({"label": ["a"] * 50 + ["b"] * 7 + ["c"] * 20, "text": some_texts(77), "row": range(77)})
    drawn = undersample(frame)
    assert drawn["label"].value_counts().to_dict() == {"a": 7, "b": 7, "c": 7}
    assert drawn["row"].is_unique and drawn.index.tolist() == list(range(21))
    assert drawn.equals(frame.iloc[drawn["row"]].reset_index(drop=True))
    assert drawn["label"].tolist() != sorted(drawn["label"])  # in random order
    assert undersample(frame).equals(drawn) and set(undersample(frame, seed=1)["row"]) != set(drawn["row"])


def test_one_label_cannot_be_balanced():
    with pytest.raises(ValueError, match=re.escape("labels here: ['ham']: give at least two to balance")):
        undersample(numbered(5))


# --- ids and batches ---------------------------------------------------------------------------------------------

def test_texts_become_ids():
    texts = ["the sea", "a", "Straße 👍"]
    for tokenizer in (TOKENIZER, load_tokenizer()):
        encoded = encode_texts(texts, tokenizer, 48)
        assert [row.tolist() for row in encoded] == [tokenizer.encode(text) for text in texts]
        assert all(row.dtype == torch.int64 and row.dim() == 1 for row in encoded)


def test_a_special_token_in_a_text_is_spelled_out():
    text = "the<|endoftext|>sea"
    ids = encode_texts([text], TOKENIZER, 48)[0].tolist()
    assert TOKENIZER.decode(ids) == text and TOKENIZER.eot_token not in ids and len(ids) > 3


def test_texts_longer_than_the_context_are_named_or_cut():
    texts = ["the sea", "salt " * 40, "a"]
    whole = [len(TOKENIZER.encode(text)) for text in texts]
    message = f"text 1 has {whole[1]} tokens, the context {whole[1] - 1}: shorten it, or give max_tokens"
    with pytest.raises(ValueError, match=f"^{message}$"):
        encode_texts(texts, TOKENIZER, whole[1] - 1)
    assert [len(row) for row in encode_texts(texts, TOKENIZER, whole[1])] == whole  # as long as the context: fits
    cut = encode_texts(texts, TOKENIZER, 48, max_tokens=5)
    assert cut[1].tolist() == TOKENIZER.encode(texts[1])[:5] and len(cut[0]) == min(5, whole[0])
    with pytest.raises(ValueError, match="text 1 has 9 tokens, the context 8: shorten it, or give max_tokens"):
        encode_texts(texts, TOKENIZER, 8, max_tokens=9)


@pytest.mark.parametrize("empty", ["", "  ", "\n\t"])
def test_an_empty_text_is_named(empty):
    with pytest.raises(ValueError, match="^text 2 is empty: there is nothing to classify$"):
        encode_texts(["a", "b", empty], TOKENIZER, 48)


@pytest.mark.parametrize("number", [0, -1])
def test_max_tokens_below_one_is_named(number):
    with pytest.raises(ValueError, match=f"max_tokens is {number}"):
        encode_texts(["the sea a ship"], TOKENIZER, 48, max_tokens=number)


LENGTHS = random.Random(5).choices(range(1, 101), k=1003)


def padding(batches: list[list[int]]) -> int:
    return sum(max(LENGTHS[place] for place in batch) - LENGTHS[place] for batch in batches for place in batch)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("size", [1, 8, 59, 1003, 2000])
def test_every_place_comes_once_a_pass(shuffle, size):
    batches = LengthBatches(LENGTHS, size, shuffle)
    for _ in range(2):
        drawn = list(batches)
        assert sorted(place for batch in drawn for place in batch) == list(range(1003))
        assert sorted(map(len, drawn), reverse=True) == [size] * (1003 // size) + [1003 % size] * (1003 % size > 0)
        assert len(drawn) == len(batches)


def test_each_pass_has_a_new_order_that_the_seed_decides():
    batches, same, other = LengthBatches(LENGTHS, 8), LengthBatches(LENGTHS, 8), LengthBatches(LENGTHS, 8, seed=1)
    first, second = list(batches), list(batches)
    assert [first, second] == [list(same), list(same)] and list(other) not in (first, second)
    assert len({frozenset(batch) for batch in first} & {frozenset(batch) for batch in second}) < 5  # other neighbours
    longest = [max(LENGTHS[place] for place in batch) for batch in first]
    assert longest != sorted(longest) and longest[:16] != sorted(longest[:16])


def test_little_is_padded():
    order = list(range(1003))
    random.Random(0).shuffle(order)
    at_random = padding([order[start : start + 8] for start in range(0, 1003, 8)])
    shuffled, by_length = padding(list(LengthBatches(LENGTHS, 8))), padding(list(LengthBatches(LENGTHS, 8, False)))
    assert by_length < shuffled < at_random / 4


def test_without_shuffling_batches_go_from_short_to_long():
    batches = LengthBatches(LENGTHS, 8, shuffle=False)
    lengths = [LENGTHS[place] for batch in batches for place in batch]
    assert lengths == sorted(LENGTHS) and list(batches) == list(batches)


@pytest.mark.parametrize("lengths, size", [([], 4), ([3, 5], 0), ([3, 5], -1)])
def test_no_text_or_no_batch_size_is_an_error(lengths, size):
    with pytest.raises(ValueError, match=f"^batch_size {size}, texts {len(lengths)}: at least 1 each$"):
        LengthBatches(lengths, size)


def test_padding_is_zeros_at_the_right():
    items = [(torch.tensor([5, 6]), 1), (torch.tensor([7, 8, 9]), 0), (torch.tensor([4]), 2)]
    padded, lengths, targets = collate_texts(items)
    assert padded.tolist() == [[5, 6, 0], [7, 8, 9], [4, 0, 0]]
    assert lengths.tolist() == [2, 3, 1] and targets.tolist() == [1, 0, 2]
    features = [(torch.ones(length, 4), 0) for length in (2, 3)]
    padded, lengths, _ = collate_texts(features)
    assert padded.shape == (2, 3, 4) and padded.sum((1, 2)).tolist() == [8, 12] and not padded[0, 2].any()


def test_the_loader_gives_each_text_with_its_target():
    inputs = [torch.full((1 + place % 7,), place) for place in range(50)]
    loader = text_loader(inputs, list(range(50)), 16)
    assert len(loader) == 4
    seen = []
    for padded, lengths, targets in loader:
        assert padded.shape == (len(targets), int(lengths.max())) and len(targets) in (16, 2)
        for row, length, target in zip(padded, lengths, targets):
            assert row[:length].tolist() == [int(target)] * (1 + int(target) % 7) and not row[length:].any()
        seen += targets.tolist()
    assert sorted(seen) == list(range(50)) and seen != list(range(50))
    seeds = [[batch[2].tolist() for batch in text_loader(inputs, range(50), 16, seed=seed)] for seed in (0, 0, 1)]
    assert seeds[0] == seeds[1] != seeds[2]
    with pytest.raises(ValueError, match="shorter"):
        text_loader(inputs, [0] * 49)


# --- the classifier ----------------------------------------------------------------------------------------------

@FAMILIES
@pytest.mark.parametrize("classes", [2, 5])
@torch.no_grad()
def test_padding_does_not_change_a_text_s_logits(family, classes):
    classifier, texts = small(family, classes, spread=0.3), ids_of(1, 9, 48, 9, 2)
    lengths = torch.tensor([len(ids) for ids in texts])
    logits = classifier(pad_sequence(texts, batch_first=True), lengths)
    assert logits.shape == (5, classes) and logits.std() > 0.3
    for row, ids in zip(logits, texts):
        torch.testing.assert_close(row, classifier(ids[None])[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(row, classifier(ids[None], torch.tensor([len(ids)]))[0], atol=1e-5, rtol=0)
    others = pad_sequence(texts, batch_first=True, padding_value=7)
    torch.testing.assert_close(classifier(others, lengths), logits, atol=1e-5, rtol=0)


@FAMILIES
@torch.no_grad()
def test_every_token_of_a_text_counts(family):
    classifier, ids = small(family, spread=0.3), ids_of(9)[0]
    logits = classifier(ids[None])
    for place in range(9):
        changed = ids.clone()
        changed[place] = (ids[place] + 1) % 300
        assert (classifier(changed[None]) - logits).abs().max() > 1e-3
        before = classifier(changed[None], torch.tensor([place]))  # reads only the tokens before
        assert place == 0 or torch.allclose(before, classifier(ids[None, :place]), atol=1e-5)


def test_the_last_token_is_that_of_each_text():
    x = torch.arange(24.0).view(2, 3, 4)
    assert torch.equal(last_token(x), x[:, 2])
    assert torch.equal(last_token(x, torch.tensor([1, 3])), torch.stack([x[0, 0], x[1, 2]]))


@FAMILIES
def test_the_logits_are_the_head_of_the_model_s_features(family):
    model = language_model(family)
    classifier, ids = TextClassifier(model, 3), ids_of(6, 6)
    assert classifier.model is model  # used as it is
    features = model.hidden_states(torch.stack(ids))[:, -1]
    torch.testing.assert_close(classifier(torch.stack(ids)), features @ classifier.head.weight.T)
    assert not classifier.head.bias.any() and 0.01 < classifier.head.weight.std() < 0.03


def test_labels_have_names():
    assert small(classes=3).config.labels == ["0", "1", "2"]
    assert small(labels=("no", "yes")).config.labels == ["no", "yes"]
    assert small("Llama").config.family == "Llama" and small().config.settings["d_model"] == 32


@pytest.mark.parametrize("classes, labels, message", [
    (3, ["a", "b"], "2 labels for 3 classes: give one for each"),
    (1, None, "labels are ['0']: give at least two, all different"),
    (0, None, "labels are []: give at least two, all different"),
    (2, ["a", "a"], "labels are ['a', 'a']: give at least two, all different"),
])
def test_bad_labels_are_named(classes, labels, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        small(classes=classes, labels=labels)


def test_an_unknown_family_is_named():
    for family in ("Mamba", "TextClassifier"):  # the second is known, and writes no text
        with pytest.raises(ValueError, match=f"^family is '{family}': known are GPT, Llama"):
            ClassifierConfig(family, {}, ["a", "b"])


def test_settings_of_another_family_are_named():
    with pytest.raises(ValueError, match="the settings of the GPT do not fit: .*d_hidden"):
        ClassifierConfig("GPT", {"d_hidden": 3}, ["a", "b"])


@dataclass(frozen=True)
class ToyConfig:
    vocab_size: int = 300
    context_length: int = 48
    d_model: int = 16


class Toy(torch.nn.Module):
    """As little as a language model can be: each token's features, and the mean of those before it."""

    def __init__(self, config: ToyConfig):
        super().__init__()
        self.config, self.token_embedding = config, torch.nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(config.d_model, config.d_model) for _ in range(2))
        self.final_norm = torch.nn.LayerNorm(config.d_model)

    def hidden_states(self, token_ids, cache=None):
        return self.final_norm(self.run_blocks(self.token_embedding(token_ids)))

    def run_blocks(self, x, first=0, cache=None):
        for block in self.blocks[first:]:
            x = x + block(x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None])
        return x

    def lm_head(self, hidden):
        return hidden @ self.token_embedding.weight.T


@pytest.fixture
def toy_family(monkeypatch):
    monkeypatch.setattr(families, "_FAMILIES", dict(families._FAMILIES))
    register_family(Family("Toy", f"{__name__}:Toy", f"{__name__}:ToyConfig", kind="toy"))


@pytest.mark.parametrize("blocks", [None, 1, 0])
def test_any_registered_language_model_can_classify(toy_family, blocks, tmp_path):
    """The families stood in a table of their own here."""
    torch.manual_seed(0)
    classifier, frame = TextClassifier(Toy(ToyConfig()), 2, ["no", "yes"]), separable(64, 1, at_end=True)
    prepared = prepare_texts(classifier, TOKENIZER, frame, blocks)
    history = finetune_classifier(classifier, prepared, epochs=20, learning_rate=0.1, **QUICK)
    assert history.steps[-1]["accuracy"] > 0.9
    save_model(classifier, tmp_path)
    loaded = load_model(tmp_path, "cpu")
    assert loaded.config == classifier.config and loaded.config.family == "Toy"
    assert torch.equal(class_probabilities(loaded, prepared), class_probabilities(classifier, prepared))


def test_a_model_of_no_registered_family_is_named():
    with pytest.raises(ValueError, match="class Toy is not known: register_family"):
        TextClassifier(Toy(ToyConfig()), 2)


# --- prepared texts ----------------------------------------------------------------------------------------------

@FAMILIES
@PLACES
def test_prepared_texts_give_the_probabilities_of_the_plain_forward(family, blocks):
    classifier, frame = small(family, 3, spread=0.3), table(some_texts(75), "012")
    prepared = prepare_texts(classifier, TOKENIZER, frame, blocks)
    lengths = [len(TOKENIZER.encode(text)) for text in frame["text"]]
    if blocks is None:
        shapes = [(length,) for length in lengths]
    else:
        shapes = [(length if blocks else 1, 32) for length in lengths]
    assert [tuple(row.shape) for row in prepared.inputs] == shapes and prepared.blocks == blocks
    assert prepared.targets == [int(label) for label in frame["label"]]
    expected = one_by_one(classifier, frame["text"])
    assert expected.std() > 0.1
    torch.testing.assert_close(class_probabilities(classifier, prepared), expected, atol=1e-5, rtol=0)


@FAMILIES
@PLACES
@torch.no_grad()
def test_prepared_texts_are_what_enters_the_trained_blocks(family, blocks):
    """Changing what is computed ahead changes nothing afterwards; changing what is not does."""
    classifier, frame = small(family, spread=0.3), table(some_texts(9))
    prepared = prepare_texts(classifier, TOKENIZER, frame, blocks)
    before = class_probabilities(classifier, prepared)
    first = 0 if blocks is None else DEPTH - blocks
    ahead = [] if blocks is None else [classifier.model.token_embedding, *classifier.model.blocks[:first]]
    for module in ahead:
        for parameter in module.parameters():
            parameter.fill_(9.0)
    assert torch.equal(class_probabilities(classifier, prepared), before)
    for module in (*classifier.model.blocks[first:], classifier.model.final_norm, classifier.head):
        now = class_probabilities(classifier, prepared)
        for parameter in module.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
        assert not torch.allclose(class_probabilities(classifier, prepared), now, atol=1e-3)


def test_preparing_turns_dropout_off_and_restores_the_mode():
    classifier, frame = small(spread=0.3, dropout=0.5).train(), table(some_texts(9))
    one, two = (prepare_texts(classifier, TOKENIZER, frame, 1) for _ in range(2))
    assert all(map(torch.equal, one.inputs, two.inputs)) and classifier.model.training
    assert not any(row.requires_grad for row in one.inputs)
    assert not classifier.model.blocks[2]._forward_pre_hooks  # nothing is left behind
    prepare_texts(classifier.eval(), TOKENIZER, frame, 1)
    assert not classifier.model.training
    broken = small(vocab_size=10).train()
    with pytest.raises(ValueError, match="vocab"):
        prepare_texts(broken, TOKENIZER, frame, 1)
    assert broken.model.training and not broken.model.blocks[2]._forward_pre_hooks


def test_features_of_bfloat16_are_kept_as_float32(monkeypatch):
    classifier, frame = small(spread=0.1), table(some_texts(20))
    monkeypatch.setattr(labelled_texts, "autocast", lambda device: autocast(device, "bfloat16"))
    prepared = prepare_texts(classifier, TOKENIZER, frame, 1)
    probabilities = class_probabilities(classifier, prepared)
    assert {row.dtype for row in prepared.inputs} == {torch.float32} == {probabilities.dtype}
    assert 0 < (probabilities - one_by_one(classifier, frame["text"])).abs().max() < 0.05


@FAMILIES
@pytest.mark.parametrize("first", [None, DEPTH, 2])
@pytest.mark.parametrize("blocks", [2, 1, 0])
def test_precomputed_in_two_steps_is_the_same(family, first, blocks):
    classifier, frame = small(family, spread=0.3), table(some_texts(40))
    part = prepare_texts(classifier, TOKENIZER, frame, first)
    at_once, later = prepare_texts(classifier, TOKENIZER, frame, blocks), precompute(classifier, part, blocks)
    assert later.blocks == blocks and later.targets == part.targets == at_once.targets
    for one, other in zip(at_once.inputs, later.inputs):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=f"^blocks is {blocks + 1}: it must be from 0 to {blocks} here$"):
        precompute(classifier, later, blocks + 1)


def test_max_tokens_cuts_prepared_texts():
    prepared = prepare_texts(small(), TOKENIZER, table(["salt " * 90, "the sea salt"]), 1, max_tokens=3)
    assert [len(row) for row in prepared.inputs] == [3, 3]
    with pytest.raises(ValueError, match="text 0 has .* tokens, the context 48"):
        prepare_texts(small(), TOKENIZER, table(["salt " * 90, "the"]))


@pytest.mark.parametrize("blocks", [-1, DEPTH + 1])
def test_blocks_out_of_range_are_named(blocks):
    with pytest.raises(ValueError, match=f"^blocks is {blocks}: it must be from 0 to 3 here$"):
        prepare_texts(small(), TOKENIZER, table(some_texts(4)), blocks)


def test_an_unknown_label_is_named():
    with pytest.raises(ValueError, match="^the label 'maybe' is none of no, yes: correct it"):
        prepare_texts(small(labels=["no", "yes"]), TOKENIZER, table(some_texts(3), ["no", "yes", "maybe"]))


def test_targets_follow_the_classifier_s_order_of_labels():
    frame = table(some_texts(4), ["a", "b", "c", "d"])
    assert prepare_texts(small(classes=4, labels=list("dbca")), TOKENIZER, frame).targets == [3, 1, 2, 0]


# --- training ----------------------------------------------------------------------------------------------------

@FAMILIES
@pytest.mark.parametrize("first", [0, 1])
def test_the_last_feed_forward_part_computes_last_tokens_only(family, first):
    classifier = small(family, 3, spread=0.3)  # without dropout
    x = torch.randn(4, 6, classifier.model.config.d_model, generator=torch.Generator().manual_seed(3))
    lengths, seen = torch.tensor([6, 2, 5, 1]), []
    classifier.model.blocks[-1].feed_forward.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    model = classifier.model
    wanted = classifier.head(model.final_norm(last_token(model.run_blocks(x, first), lengths)))
    with torch.no_grad():
        torch.testing.assert_close(classifier.from_block(x, lengths, first), wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(classifier.from_block(x, lengths, first), wanted, atol=1e-5, rtol=1e-5)
    assert [shape[:-1] for shape in seen] == [(4, 6), (4,), (4,)]


@FAMILIES
@pytest.mark.parametrize("blocks", [None, 1, 0])
def test_a_separable_task_is_learned_and_only_what_was_promised_changes(family, blocks):
    classifier = small(family, labels=["no", "yes"], spread=None if blocks == 0 else 0.1)
    frames = separable(64, 1, at_end=blocks == 0), separable(40, 2, at_end=blocks == 0)
    rate = 0.1 if blocks == 0 else 1e-2
    training, validation = (prepare_texts(classifier, TOKENIZER, frame, blocks) for frame in frames)
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    history = finetune_classifier(classifier, training, validation, epochs=12, learning_rate=rate, **QUICK)
    measured = [record["val_accuracy"] for record in history.steps if "val_accuracy" in record]
    assert len(measured) == 12 and measured[-1] == 1.0 == history.steps[-1]["accuracy"]
    right = [label for label, _ in classify(classifier.eval(), TOKENIZER, frames[1]["text"].tolist())]
    assert right == frames[1]["label"].tolist()  # by the plain forward, from text to label
    promised = {None: ("",), 1: ("head.", "model.final_norm.", f"model.blocks.{DEPTH - 1}."), 0: ("head.",)}[blocks]
    after = classifier.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith(promised)}
    assert {name for name, parameter in classifier.named_parameters() if parameter.requires_grad} == changed


def test_training_everything_after_the_head_alone_trains_everything():
    classifier, frame = small(spread=0.1), table(some_texts(20))
    for blocks in (0, 1, None, 0):
        prepared = prepare_texts(classifier, TOKENIZER, frame, blocks)
        finetune_classifier(classifier, prepared, epochs=1, **QUICK)
        frozen = [name for name, parameter in classifier.named_parameters() if not parameter.requires_grad]
        assert any("final_norm" in name for name in frozen) == (blocks == 0) and bool(frozen) == (blocks is not None)


@FAMILIES
def test_training_from_features_equals_training_from_ids(family):
    """The last block learns the same whether what is below it was computed ahead or not."""
    ahead, plain, frame = small(family, spread=0.2), small(family, spread=0.2), table(some_texts(40))
    finetune_classifier(ahead, prepare_texts(ahead, TOKENIZER, frame, 1), epochs=2, **QUICK)
    plain.requires_grad_(False)
    for module in (plain.model.blocks[-1], plain.model.final_norm, plain.head):
        module.requires_grad_(True)
    ids = prepare_texts(plain, TOKENIZER, frame)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TextClassifier, "train_last", lambda classifier, blocks: None)
        finetune_classifier(plain, ids, epochs=2, **QUICK)
    for a, b in zip(ahead.parameters(), plain.parameters()):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=0)


@pytest.fixture
def calls(monkeypatch):
    """What `train` is called with."""
    return watched_train(monkeypatch, classification)


def test_the_book_s_training_loop_is_used(calls):
    classifier, frame = small(), table(some_texts(50))
    prepared = prepare_texts(classifier, TOKENIZER, frame)
    held_out = prepare_texts(classifier, TOKENIZER, table(some_texts(70, seed=1)))
    history = finetune_classifier(classifier, prepared, held_out, epochs=2, batch_size=8, seed=4, **QUICK)
    model, loader, loss, config, val_loader, *_ = calls[0]
    assert len(calls) == 1 and model is classifier and isinstance(loss, ClassificationLoss)
    assert isinstance(loader.batch_sampler, LengthBatches) and len(loader) == 7
    expected = text_loader(prepared.inputs, prepared.targets, 8, seed=4)
    for _ in range(2):
        list(expected)  # the two passes that training made
    assert [batch[2].tolist() for batch in loader] == [batch[2].tolist() for batch in expected]
    assert (config.max_steps, config.warmup_steps, config.eval_every, config.learning_rate) == (14, 1, 7, 1e-3)
    assert sum(len(batch[2]) for batch in val_loader) == 70
    assert [record["step"] for record in history.steps if "val_accuracy" in record] == [7, 14]
    assert history.steps[-1]["examples"] == 100  # each text twice


def test_settings_go_to_the_training_loop(calls):
    classifier = small()
    prepared = prepare_texts(classifier, TOKENIZER, table(some_texts(40)))
    history = finetune_classifier(classifier, prepared, epochs=50, learning_rate=0.01, max_steps=3, warmup_steps=0,
                                  weight_decay=0.3, eval_every=2, **QUICK)
    config = calls[0][3]
    assert len(history.steps) == 3 and calls[0][4] is None
    assert (config.weight_decay, config.eval_every, config.precision) == (0.3, 2, "float32")
    assert [record["learning_rate"] for record in history.steps] == pytest.approx([0.01, 0.0055, 0.001])
    assert all("accuracy" in record and "val_accuracy" not in record for record in history.steps)
    with pytest.raises(TypeError, match="speed"):
        finetune_classifier(classifier, prepared, speed=3)


def test_with_max_steps_the_warm_up_is_a_tenth_of_them(calls):
    classifier = small()
    prepared = prepare_texts(classifier, TOKENIZER, table(some_texts(40)))
    finetune_classifier(classifier, prepared, epochs=50, max_steps=20, **QUICK)
    assert calls[0][3].warmup_steps == 2


def test_accumulation_does_not_add_passes():
    classifier = small()
    prepared = prepare_texts(classifier, TOKENIZER, table(some_texts(64)))
    history = finetune_classifier(classifier, prepared, prepared, epochs=3, accumulation_steps=2, **QUICK)
    assert [record["examples"] for record in history.steps if "val_loss" in record] == [64, 128, 192]


def parts_of(targets: torch.Tensor, *sizes: int) -> list[tuple[torch.Tensor, ...]]:
    """Batches of so many texts each, as a loader gives them."""
    texts, start, parts = ids_of(*(3 + place % 7 for place in range(len(targets)))), 0, []
    for size in sizes:
        padded, lengths, _ = collate_texts([(text, 0) for text in texts[start : start + size]])
        parts.append((padded, lengths, targets[start : start + size]))
        start += size
    return parts


@FAMILIES
@pytest.mark.parametrize("sizes", [(7, 1), (1, 5, 2), (4, 4)])
def test_accumulated_parts_are_one_large_batch(family, sizes):
    """With parts of unequal size, and texts whose label is not known."""
    targets, runs = torch.tensor([0, -100, 1, 1, 0, -100, -100, 1]), []
    for parts in (sizes, (8,)):
        classifier, loss = small(family, spread=0.2), ClassificationLoss()
        config = TrainingConfig(3, 1e-4, accumulation_steps=len(parts), **QUICK)
        history = train(classifier, parts_of(targets, *parts), loss, config, on_step=loss.note)
        seen = [(step["loss"], step["accuracy"], step["gradient_norm"]) for step in history.steps]
        runs.append((seen, classifier.state_dict()))
        counted = evaluate(small(family, spread=0.2), parts_of(targets, *parts), ClassificationLoss(),
                           precision="float32")
        assert history.steps[0]["loss"] == pytest.approx(counted, abs=1e-6)
    assert runs[0][0] == [pytest.approx(step, abs=1e-6, rel=1e-5) for step in runs[1][0]]
    for name, weight in runs[0][1].items():
        torch.testing.assert_close(weight, runs[1][1][name], atol=1e-5, rtol=1e-5)


def test_a_batch_without_a_known_label_has_no_loss_and_no_gradient():
    classifier, loss = small(spread=0.2), ClassificationLoss()
    [batch] = parts_of(torch.tensor([-100, -100]), 2)
    value = loss(classifier, *batch)
    value.backward()
    assert value.item() == 0 and not any(p.grad.any() for p in classifier.parameters())
    record = {}
    loss.note(record)
    assert record == {}


@pytest.mark.parametrize("blocks", [None, 1])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_history_has_the_share_of_right_answers(blocks, accumulation):
    classifier = small(spread=0.3)
    training = prepare_texts(classifier, TOKENIZER, table(some_texts(70)), blocks)
    validation = prepare_texts(classifier, TOKENIZER, table(some_texts(45, seed=1)), blocks)

    def right(inputs, lengths, targets):
        places = [int(place) for place in torch.arange(len(targets))]
        rows = PreparedTexts([inputs[place][: lengths[place]] for place in places], targets.tolist(), blocks)
        return (class_probabilities(classifier, rows).argmax(-1) == targets).float().tolist()

    loader, expected = text_loader(training.inputs, training.targets, 8, seed=3), []
    batches = [right(*batch) for _ in range(accumulation) for batch in loader]
    for start in range(0, 8, accumulation):
        answers = sum(batches[start : start + accumulation], [])
        expected.append(sum(answers) / len(answers))
    probabilities = class_probabilities(classifier, validation)
    held_out = float((probabilities.argmax(-1) == torch.tensor(validation.targets)).float().mean())
    history = finetune_classifier(classifier, training, validation, batch_size=8, seed=3, learning_rate=1e-12,
                                  accumulation_steps=accumulation, max_steps=len(expected), eval_every=2, **QUICK)
    assert len(set(expected)) > 2 and 0.2 < held_out < 0.8
    assert [record["accuracy"] for record in history.steps] == pytest.approx(expected)
    measured = [record for record in history.steps if "val_loss" in record]
    assert len(measured) == len(expected) // 2 and all("val_accuracy" in record for record in measured)
    assert [record["val_accuracy"] for record in measured] == pytest.approx([held_out] * len(measured))


def test_each_evaluation_has_its_own_val_accuracy():
    classifier = small(spread=0.1)
    prepared = prepare_texts(classifier, TOKENIZER, table(some_texts(70)), 1)
    history = finetune_classifier(classifier, prepared, prepared, epochs=8, learning_rate=1e-2, **QUICK)
    measured = [record["val_accuracy"] for record in history.steps if "val_loss" in record]
    right = class_probabilities(classifier, prepared).argmax(-1) == torch.tensor(prepared.targets)
    assert len(measured) == 8 and measured[0] < measured[-1] == pytest.approx(float(right.float().mean()))


def test_val_accuracy_is_that_of_the_batches_that_were_read():
    classifier = small(spread=0.3)
    prepared = prepare_texts(classifier, TOKENIZER, table(some_texts(100)))
    first = next(iter(LengthBatches([len(row) for row in prepared.inputs], 32, shuffle=False)))
    right = class_probabilities(classifier, prepared).argmax(-1) == torch.tensor(prepared.targets)
    history = finetune_classifier(classifier, prepared, prepared, learning_rate=1e-12, max_steps=3, eval_every=1,
                                  eval_batches=1, **QUICK)
    share = float(right[first].float().mean())
    assert [record["val_accuracy"] for record in history.steps] == pytest.approx([share] * 3)


def test_the_seed_decides_the_run():
    def weights(seed: int) -> torch.Tensor:
        classifier = small(spread=0.1)
        prepared = prepare_texts(classifier, TOKENIZER, table(some_texts(40)), 0)
        finetune_classifier(classifier, prepared, epochs=1, batch_size=4, seed=seed, **QUICK)
        return classifier.head.weight.detach()

    first, again, other = weights(0), weights(0), weights(1)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_an_interrupted_run_returns_the_history_so_far(monkeypatch):
    classifier = small()
    prepared = prepare_texts(classifier, TOKENIZER, table(some_texts(40)))
    original, count = ClassificationLoss.__call__, []

    def interrupted(self, *arguments):
        count.append(1)
        if len(count) == 6:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(ClassificationLoss, "__call__", interrupted)
    history = finetune_classifier(classifier, prepared, prepared, **QUICK)  # 3 steps, 2 held-out batches a pass
    assert history.interrupted and len(history.steps) == 3
    assert "val_accuracy" in history.steps[2] and all("accuracy" in record for record in history.steps)


def test_a_class_without_training_texts_is_named():
    classifier = small(classes=3, labels=["a", "b", "c"])
    prepared = prepare_texts(classifier, TOKENIZER, table(some_texts(9), ["a", "c"]))
    with pytest.raises(ValueError, match="^the class 'b' has no training text: add some, or drop it$"):
        finetune_classifier(classifier, prepared, **QUICK)


def test_texts_prepared_for_other_blocks_are_named():
    classifier, frame = small(), table(some_texts(9))
    one, none = (prepare_texts(classifier, TOKENIZER, frame, blocks) for blocks in (1, None))
    message = "training texts are prepared for blocks=1, validation texts for blocks=None: prepare both alike"
    with pytest.raises(ValueError, match=f"^{message}$"):
        finetune_classifier(classifier, one, none, **QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [None, 1])
def test_random_labels_cannot_be_told_on_held_out_texts(blocks):
    texts = some_texts(400, seed=8, longest=12)
    frame = table(texts, ["no", "yes"], seed=9)
    classifier = small(labels=["no", "yes"], spread=0.1)
    training, held_out = (prepare_texts(classifier, TOKENIZER, part, blocks) for part in (frame[:200], frame[200:]))
    history = finetune_classifier(classifier, training, held_out, epochs=12, learning_rate=5e-3, **QUICK)
    assert np.mean([record["accuracy"] for record in history.steps[-13:]]) > 0.7  # learned by heart
    assert all(0.35 < record["val_accuracy"] < 0.65 for record in history.steps if "val_accuracy" in record)
    right = class_probabilities(classifier, held_out).argmax(-1) == torch.tensor(held_out.targets)
    assert 0.35 < right.float().mean() < 0.65


# --- using it ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("blocks", [None, 1, 0])
def test_probabilities_do_not_depend_on_the_targets(blocks):
    classifier = small(spread=0.3)
    prepared = prepare_texts(classifier, TOKENIZER, table(some_texts(50)), blocks)
    turned = PreparedTexts(prepared.inputs, [1 - target for target in prepared.targets], blocks)
    assert torch.equal(class_probabilities(classifier, prepared), class_probabilities(classifier, turned))


@FAMILIES
def test_probabilities_are_in_the_order_of_the_texts_and_add_up_to_one(family):
    classifier, texts = small(family, 5, spread=0.3), some_texts(100)
    inputs = encode_texts(texts, TOKENIZER, 48)
    probabilities = class_probabilities(classifier, PreparedTexts(inputs, [0] * 100, None))
    assert probabilities.shape == (100, 5) and not probabilities.requires_grad
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(100))
    torch.testing.assert_close(probabilities, one_by_one(classifier, texts), atol=1e-5, rtol=0)
    backwards = class_probabilities(classifier, PreparedTexts(inputs[::-1], [0] * 100, None))
    torch.testing.assert_close(backwards.flip(0), probabilities, atol=1e-5, rtol=0)


def test_probabilities_are_without_dropout_and_the_mode_is_restored():
    classifier = small(spread=0.3, dropout=0.5).train()
    prepared = prepare_texts(classifier, TOKENIZER, table(some_texts(10)))
    first = class_probabilities(classifier, prepared)
    assert torch.equal(class_probabilities(classifier, prepared), first) and classifier.training
    class_probabilities(classifier.eval(), prepared)
    assert not classifier.training
    with pytest.raises(ValueError, match="vocab"):
        class_probabilities(classifier.train(), PreparedTexts([torch.tensor([300])], [0], None))
    assert classifier.training


@FAMILIES
def test_classify_gives_a_label_and_its_probability(family):
    classifier, texts = small(family, 3, list("abc"), spread=0.3), some_texts(40)
    expected, answers = one_by_one(classifier, texts), classify(classifier, TOKENIZER, texts)
    assert [label for label, _ in answers] == ["abc"[place] for place in expected.argmax(-1)]
    assert [probability for _, probability in answers] == pytest.approx(expected.max(-1).values.tolist(), abs=1e-5)
    assert {label for label, _ in answers} == set("abc")
    label, probability = classify(classifier, TOKENIZER, texts[7])
    assert (label, pytest.approx(probability, abs=1e-5)) == answers[7] and type(probability) is float
    assert classify(classifier, TOKENIZER, [texts[7]]) == [(label, probability)]
    assert classify(classifier, TOKENIZER, pd.Series(texts, index=range(5, 45))) == answers  # a table's column


def test_classify_names_texts_that_are_empty_or_too_long():
    classifier = small()
    for texts, place in (("", 0), ("  ", 0), (["a", "", "b"], 1)):
        with pytest.raises(ValueError, match=f"^text {place} is empty: there is nothing to classify$"):
            classify(classifier, TOKENIZER, texts)
    with pytest.raises(ValueError, match="^text 0 has .* tokens, the context 48: shorten it, or give max_tokens$"):
        classify(classifier, TOKENIZER, "salt " * 90)
    cut = TOKENIZER.decode(TOKENIZER.encode("salt " * 90)[:6])
    assert classify(classifier, TOKENIZER, "salt " * 90, max_tokens=6) == classify(classifier, TOKENIZER, cut)


def test_no_texts_are_no_answers():
    assert classify(small(), TOKENIZER, []) == []


@pytest.mark.slow  # a new process imports PyTorch
@FAMILIES
def test_a_saved_classifier_comes_back_equal_also_in_a_new_process(family, tmp_path):
    changes = {"qkv_bias": True} if family == "GPT" else {"tie_embeddings": False}
    classifier = small(family, 3, ["no", "yes", "pe\u00f1a"], spread=0.3, **changes)
    ids = ids_of(7, 7)
    save_model(classifier, tmp_path)
    loaded = load_model(tmp_path)
    assert isinstance(loaded, TextClassifier) and loaded.config == classifier.config and not loaded.training
    prepared = prepare_texts(classifier, TOKENIZER, table(some_texts(20)[:20], ["no", "yes"]))
    assert torch.equal(class_probabilities(classifier, prepared), class_probabilities(loaded, prepared))
    assert classify(loaded, TOKENIZER, "the sea") == classify(classifier, TOKENIZER, "the sea")
    script = f"""
import json, sys, torch
from llmbook.training import load_model
assert "llmbook.classification" not in sys.modules
loaded = load_model({str(tmp_path)!r})
with torch.no_grad():
    logits = loaded(torch.tensor({[row.tolist() for row in ids]}))
print(json.dumps([list(loaded.config.labels), logits.tolist()]))
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    labels, logits = json.loads(run.stdout)
    assert labels == ["no", "yes", "pe\u00f1a"]
    torch.testing.assert_close(torch.tensor(logits), classifier(torch.stack(ids)).detach(), atol=1e-5, rtol=0)


def test_a_classifier_has_no_layout_of_hugging_face(tmp_path):
    with pytest.raises(ValueError, match="TextClassifier.*layout='llmbook'"):
        save_model(small(), tmp_path / "new", layout="huggingface")
    assert not (tmp_path / "new").exists()


def test_a_damaged_description_of_a_classifier_is_named(tmp_path):
    save_model(small(), tmp_path)
    path = tmp_path / "config.json"
    description = json.loads(path.read_text())
    for change, message in (({"family": "Mamba"}, "family is 'Mamba': known are GPT, Llama"),
                            ({"labels": ["a"]}, "labels are ['a']: give at least two, all different"),
                            ({"labels": ["a", "b", "c"]}, "head.bias has shape (2,) instead of (3,)")):
        path.write_text(json.dumps({**description, "config": {**description["config"], **change}}))
        with pytest.raises(ValueError, match=re.escape(message)):
            load_model(tmp_path)
