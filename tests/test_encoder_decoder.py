"""llmbook.encoder_decoder: the translator of 2017 against PyTorch's own, its cache, its search, its loss."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from llmbook.book.translating import as_torch_transformer
from llmbook.encoder_decoder import (
    END,
    PAD,
    START,
    BidirectionalAttention,
    CrossAttention,
    TranslationCache,
    Translator,
    TranslatorConfig,
    beam_search,
    pair_loader,
    sinusoidal_positions,
    translate,
    translation_loss,
)
from llmbook.generation import generate
from llmbook.text import train_bpe
from llmbook.training import TrainingConfig, load_model, save_model, train
from llmbook.translation_parts import encode_pairs, encode_source
from llmbook.translations import Pair

PAD_ID, START_ID, END_ID = 0, 1, 2


def small(seed: int = 0, **sizes) -> Translator:
    torch.manual_seed(seed)
    settings = dict(vocab_size=20, pad_id=PAD_ID, context_length=12, d_model=16, n_heads=2, n_layers=2, dropout=0.0)
    return Translator(TranslatorConfig(**{**settings, **sizes})).eval()


def texts(seed: int = 0, rows: int = 3, tokens: int = 6) -> torch.Tensor:
    """Ids that are no special ones; the second row ends with padding."""
    ids = torch.randint(3, 20, (rows, tokens), generator=torch.Generator().manual_seed(seed))
    ids[1, tokens - 2:] = PAD_ID
    return ids


def shaken(model: nn.Module) -> nn.Module:
    """The same model with biases and norms that are not 0 and 1, so that leaving one out shows."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def test_the_translator_equals_pytorchs_transformer_with_the_same_weights():
    ours = shaken(small())
    theirs, source, target = as_torch_transformer(ours), texts(), texts(1, tokens=5)
    padding = source == PAD_ID
    causal = nn.Transformer.generate_square_subsequent_mask(5)
    expected = theirs(ours.embed(source), ours.embed(target), tgt_mask=causal, src_key_padding_mask=padding,
                      memory_key_padding_mask=padding)
    assert (ours(source, target) - expected @ ours.token_embedding.weight.T).abs().max() < 1e-5


def test_positions_are_the_papers():
    found = sinusoidal_positions(50, 8)
    for place, pair in itertools.product((0, 1, 7, 49), range(4)):
        angle = place / 10000 ** (2 * pair / 8)
        assert found[place, 2 * pair].item() == pytest.approx(math.sin(angle), abs=1e-5)
        assert found[place, 2 * pair + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)


def test_an_encoded_token_depends_on_those_after_it_and_not_on_padding():
    model, source = shaken(small()), texts()
    memory, mask = model.encode(source)
    changed = source.clone()
    changed[0, -1] = (changed[0, -1] + 1) % 17 + 3
    assert (model.encode(changed)[0][0, 0] - memory[0, 0]).abs().max() > 1e-4
    alone, _ = model.encode(source[1:2, :4])  # the padded row without its padding
    assert torch.allclose(memory[1, :4], alone[0], atol=1e-5) and mask[1, 0, 0].tolist() == [True] * 4 + [False] * 2


def test_a_translated_token_depends_on_no_later_one_and_on_no_padding_of_the_source():
    model, source, target = shaken(small()), texts(), texts(1, tokens=5)
    target[1] = target[0]
    logits = model(source, target)
    later = target.clone()
    later[:, 3] = 5
    assert torch.equal(model(source, later)[:, :3], logits[:, :3])
    assert torch.allclose(model(source[1:2, :4], target[1:2]), logits[1:2], atol=1e-5)


def test_the_weights_of_cross_attention_are_those_that_forward_uses():
    torch.manual_seed(0)
    attention = CrossAttention(8, 2)
    x, (key, value) = torch.randn(2, 3, 8), attention.read(torch.randn(2, 5, 8))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]).bool()[:, None, None]
    weights = attention.weights(x, key, mask)
    assert weights.shape == (2, 2, 3, 5) and torch.allclose(weights.sum(dim=3), torch.ones(2, 2, 3))
    context = (weights @ value).transpose(1, 2).flatten(2)
    assert torch.allclose(attention(x, key, value, mask), attention.out(context), atol=1e-6)
    assert not weights[1, :, :, 2:].any()


def test_bidirectional_attention_is_pytorchs_without_a_mask():
    torch.manual_seed(0)
    ours, theirs = BidirectionalAttention(8, 2, bias=True), nn.MultiheadAttention(8, 2, batch_first=True)
    theirs.in_proj_weight, theirs.in_proj_bias = ours.qkv.weight, ours.qkv.bias
    theirs.out_proj.weight, theirs.out_proj.bias = ours.out.weight, ours.out.bias
    x = torch.randn(2, 5, 8)
    assert torch.allclose(ours(x), theirs(x, x, x)[0], atol=1e-6)


def test_reading_token_by_token_gives_the_logits_of_all_at_once():
    model, source, target = shaken(small()), texts(), texts(1, tokens=5)
    whole, cache = model(source, target), model.read(source)
    with torch.no_grad():
        steps = [model.lm_head(model.hidden_states(target[:, i:i + 1], cache)) for i in range(5)]
    assert cache.length == 5 and (torch.cat(steps, dim=1) - whole).abs().max() < 1e-5


def test_a_cache_keeps_rows_with_their_sources_and_goes_back():
    model, source, target = shaken(small()), texts(), texts(1, tokens=5)
    whole, cache = model(source, target), model.read(source)
    with torch.no_grad():
        model.hidden_states(target[:, :3], cache)
        rows = torch.tensor([2, 1, 1])
        cache.select(rows)
        cache.rewind(2)
        again = model.lm_head(model.hidden_states(target[rows, 2:], cache))
    assert (again - whole[rows, 2:]).abs().max() < 1e-5


def test_generate_writes_what_the_likeliest_tokens_are_without_a_cache():
    model, source = shaken(small(3)), texts(3)
    begun = torch.full((3, 1), START_ID)
    ids = begun
    for _ in range(6):
        ids = torch.cat([ids, model(source, ids)[:, -1].argmax(dim=1, keepdim=True)], dim=1)
    assert torch.equal(generate(model, begun, 6, temperature=0, cache=model.read(source)), ids)
    alone = generate(model, begun[1:2], 6, temperature=0, cache=model.read(source[1:2, :4]))
    assert torch.equal(alone, ids[1:2])


def log_probability(model: Translator, source: torch.Tensor, ids: tuple[int, ...]) -> float:
    """Of a whole translation of one source (1, tokens), END_ID included."""
    target = torch.tensor([[START_ID, *ids]])
    logs = model(source, target[:, :-1]).log_softmax(dim=2)[0]
    return logs[range(len(ids)), list(ids)].sum().item()


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_a_beam_as_wide_as_all_beginnings_finds_the_best_translation_of_all(alpha):
    model, source = shaken(small(5, vocab_size=5)), torch.tensor([[3, 4, 3, 2], [4, 4, 2, 0]])
    others, best = [0, 1, 3, 4], []
    for row in (source[:1], source[1:, :3]):
        whole = [(*body, END_ID) for length in range(3) for body in itertools.product(others, repeat=length)]
        whole += list(itertools.product(others, repeat=3))  # three tokens, and the end has not come
        scored = {ids: log_probability(model, row, ids) / ((5 + len(ids) + (ids[-1] != END_ID)) / 6) ** alpha
                  for ids in whole}
        winner = max(scored, key=scored.get)
        best.append([token for token in winner if token != END_ID])
    found = beam_search(model, model.read(source), START_ID, END_ID, beams=85, max_new_tokens=3, alpha=alpha)
    assert [row.tolist() for row in found] == best


def beams_without_a_cache(model: Translator, source: torch.Tensor, beams: int, steps: int) -> list[int]:
    """One source, every beginning read from its start at each step; the sums of log-probabilities are compared."""
    kept = [((), 0.0)]
    for _ in range(steps):
        longer = []
        for ids, score in kept:
            if ids[-1:] == (END_ID,):
                longer.append((ids, score))
                continue
            logs = model(source, torch.tensor([[START_ID, *ids]]))[0, -1].log_softmax(dim=0).tolist()
            longer += [((*ids, token), score + log) for token, log in enumerate(logs)]
        kept = sorted(longer, key=lambda beam: -beam[1])[:beams]
    return [token for token in kept[0][0] if token != END_ID]


@pytest.mark.parametrize("beams", [2, 3, 5])
def test_beams_keep_the_past_of_their_own_beginnings(beams):
    for seed in range(4):
        model, source = shaken(small(seed)), texts(seed)
        found = beam_search(model, model.read(source), START_ID, END_ID, beams, max_new_tokens=7, alpha=0.0)
        for row, ids in enumerate(found):
            assert ids.tolist() == beams_without_a_cache(model, source[row : row + 1], beams, 7)


def test_nothing_is_dropped_while_a_model_in_training_translates():
    model, source = shaken(small(2, dropout=0.5)), texts(2)
    kept = model.read(source).source
    quiet = beam_search(model, model.read(source), START_ID, END_ID, beams=3)
    model.train()
    for pair, wanted in zip(model.read(source).source, kept):
        assert all(torch.equal(tensor, other) for tensor, other in zip(pair, wanted))
    found = beam_search(model, model.read(source), START_ID, END_ID, beams=3)
    assert model.training and [row.tolist() for row in found] == [row.tolist() for row in quiet]


def test_the_first_weights_and_what_goes_into_the_blocks_have_the_paper_s_sizes():
    model = Translator(TranslatorConfig(500, 0, 12, 64, 4, 1, 0.0))
    assert model.token_embedding.weight.std().item() == pytest.approx(1 / 8, rel=0.05)
    for name, weight in model.named_parameters():
        if weight.dim() == 2 and "embedding" not in name:
            bound = math.sqrt(6 / sum(weight.shape))
            assert 0.95 * bound < weight.abs().max() <= bound, name
    ids = torch.tensor([[3, 4, 5]])
    expected = 8 * model.token_embedding.weight[ids[0]] + sinusoidal_positions(12, 64)[2:5]
    assert torch.allclose(model.embed(ids, past=2)[0], expected, atol=1e-6)


def test_one_beam_is_the_greedy_choice():
    model, source = shaken(small(7)), texts(7)
    found = beam_search(model, model.read(source), START_ID, END_ID, beams=1)
    greedy = generate(model, torch.full((3, 1), START_ID), 11, temperature=0, stop_tokens=[END_ID],
                      cache=model.read(source))
    for row, wanted in zip(found, greedy[:, 1:]):
        assert row.tolist() == wanted[: (wanted == END_ID).int().argmax() if END_ID in wanted else None].tolist()


def test_the_loss_spreads_a_share_over_the_vocabulary_and_leaves_padding_out():
    model, source, inputs = shaken(small()), texts(), texts(1, tokens=5)
    targets = texts(2, tokens=5).masked_fill(inputs == PAD_ID, -100)
    logs = model(source, inputs).log_softmax(dim=2)
    kept = targets != -100
    right = logs.gather(2, targets.clamp(min=0)[:, :, None])[:, :, 0][kept]
    expected = -(0.9 * right + 0.1 * logs.mean(dim=2)[kept]).mean()
    assert translation_loss(model, source, inputs, targets).item() == pytest.approx(expected.item(), abs=1e-5)
    plain = F.cross_entropy(logs[kept], targets[kept])
    assert translation_loss(model, source, inputs, targets, 0.0).item() == pytest.approx(plain.item(), abs=1e-5)


def test_a_batch_shifts_the_target_and_pads_each_part_with_its_own():
    pairs = [(torch.tensor([5, 2]), torch.tensor([1, 7, 2])), (torch.tensor([5, 6, 2]), torch.tensor([1, 8, 9, 2]))]
    (source, inputs, targets), = pair_loader(pairs, PAD_ID, shuffle=False)
    assert source.tolist() == [[5, 2, 0], [5, 6, 2]]
    assert inputs.tolist() == [[1, 7, 0], [1, 8, 9]]
    assert targets.tolist() == [[7, 2, -100], [8, 9, 2]]


@pytest.fixture(scope="module")
def trained() -> tuple[Translator, object]:
    """A translator that learned to write words backwards and in capital letters."""
    letters = "abcd"
    words = ["".join(word) for size in (2, 3) for word in itertools.product(letters, repeat=size)]
    tokenizer = train_bpe(" ".join(words) + " " + " ".join(words).upper(), 262, (PAD, START, END))
    pad, start, end = (tokenizer.encode_single_token(token) for token in (PAD, START, END))
    pairs = [(torch.tensor([*tokenizer.encode_ordinary(word), end]),
              torch.tensor([start, *tokenizer.encode_ordinary(word[::-1].upper()), end])) for word in words]
    torch.manual_seed(0)
    model = Translator(TranslatorConfig(262, pad, 12, 32, 2, 1, 0.0))
    config = TrainingConfig(120, 0.016, 30, weight_decay=0.0, progress=False, device="cpu")
    train(model, pair_loader(pairs, pad, 40), translation_loss, config)
    return model, tokenizer


@pytest.mark.parametrize("beams", [1, 3])
def test_a_translator_learns_and_translates_texts_of_unequal_length(trained, beams):
    assert translate(*trained, ["abc", "ba", "dda"], beams) == ["CBA", "AB", "ADD"]


def test_sources_end_and_are_padded_at_the_right(trained):
    model, tokenizer = trained
    ids = encode_source(tokenizer, ["a", "abc"])
    end = tokenizer.encode_single_token(END)
    assert (ids[1, -1], ids[0, 1]) == (end, end) and (ids[0, 2:] == model.config.pad_id).all()


def test_pairs_end_in_both_languages_and_the_translation_begins(trained):
    _, tokenizer = trained
    start, end = (tokenizer.encode_single_token(token) for token in (START, END))
    (source, target), = encode_pairs(tokenizer, [Pair("ab", "BA", "x")])
    assert source.tolist() == [*tokenizer.encode_ordinary("ab"), end]
    assert target.tolist() == [start, *tokenizer.encode_ordinary("BA"), end]


def test_a_saved_translator_comes_back(trained, tmp_path):
    model, _ = trained
    save_model(model, tmp_path / "translator")
    again, source = load_model(tmp_path / "translator", device="cpu"), torch.tensor([[70, 71, 261]])
    assert torch.equal(again.encode(source)[0], model.eval().encode(source)[0])


@pytest.mark.parametrize("sizes, message", [
    ({"pad_id": 20}, "pad_id is 20"), ({"d_model": 15, "n_heads": 3}, "d_model 15"), ({"n_layers": 0}, "n_layers is 0"),
    ({"n_heads": 3}, r"d_model \(16\) must be divisible"),
])
def test_sizes_that_cannot_work_are_named(sizes, message):
    with pytest.raises(ValueError, match=message):
        small(**sizes)


def test_a_translation_without_a_source_and_a_text_too_long_are_refused(trained):
    model, tokenizer = trained
    with pytest.raises(ValueError, match=r"cache is NoneType: .*cache=model.read\(source\)"):
        model.hidden_states(torch.tensor([[3]]))
    with pytest.raises(ValueError, match="context_length"):
        translate(model, tokenizer, ["abc " * 20])


@pytest.mark.parametrize("texts, beams, message", [
    ([], 1, r"texts is \[\]: give a list of sentences, at least one"), ((), 3, r"texts is \(\): give a list"),
    ("abc", 1, "texts is 'abc': give a list of sentences"),
    (["abc"], 0, "beams is 0: it must be a whole number, at least 1"), (["abc"], -2, "beams is -2: it must be"),
    (["abc"], 1.5, "beams is 1.5: it must be a whole number")])
def test_no_text_and_no_beams_are_refused(trained, texts, beams, message):
    with pytest.raises(ValueError, match=message):
        translate(*trained, texts, beams)


def test_a_cache_has_the_places_of_the_translation_only():
    model = small()
    assert isinstance(model.read(texts()), TranslationCache) and model.read(texts(), 4).max_tokens == 4
