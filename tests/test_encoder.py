"""llmbook.encoder: masks both ways, masked tokens, MiniLM against transformers."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from llmbook.assets import fetch
from llmbook.encoder import Encoder, EncoderConfig, embed_texts, mask_tokens, masked_token_loss
from llmbook.minilm import load_minilm
from llmbook.training import load_model, save_model

TEXTS = ["The kettle sang because it boiled.", "Water was boiling.", "a", "Her sister bought 12 unbelievably old maps "
         "in Zürich, didn't she? " * 9]


def small(**sizes) -> Encoder:
    torch.manual_seed(0)
    settings = dict(vocab_size=30, context_length=16, d_model=16, n_heads=2, n_layers=2)
    return Encoder(EncoderConfig(**{**settings, **sizes})).eval()


@pytest.fixture(scope="module")
def minilm():
    return load_minilm()


@pytest.mark.slow
def test_sentence_vectors_equal_those_of_transformers(minilm):
    transformers = pytest.importorskip("transformers")
    folder = fetch("minilm-l6")
    theirs = transformers.BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    model, tokenizer = minilm
    found = embed_texts(model, tokenizer, TEXTS, batch_size=3)
    words = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), pad_token="[PAD]")
    rows = words(TEXTS, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.no_grad():
        hidden = theirs(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).last_hidden_state
    real = rows["attention_mask"][:, :, None].float()
    mean = (hidden * real).sum(dim=1) / real.sum(dim=1)
    assert rows["attention_mask"].sum() > 100
    assert (found - torch.nn.functional.normalize(mean, dim=1)).abs().max() < 1e-5


@pytest.mark.slow
def test_the_tokenizer_cuts_no_text_afterwards(minilm):
    embed_texts(*minilm, ["one two three"], most_tokens=4)
    assert len(minilm[1].encode("one two three four five").ids) == 7


@pytest.mark.slow
def test_what_means_the_same_is_near(minilm):
    vectors = embed_texts(*minilm, [*TEXTS[:2], "The parliament voted on the budget."])
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3), atol=1e-5)
    likeness = vectors @ vectors.T
    assert likeness[0, 1] > likeness[0, 2] + 0.2


def words(count: int = 30) -> Tokenizer:
    """One id for each of the words "0", "1", ...; 0 fills up."""
    tokenizer = Tokenizer(WordLevel({str(number): number for number in range(count)}, unk_token="1"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.enable_padding(pad_id=0)
    return tokenizer


def test_each_text_has_the_mean_of_its_own_tokens_whatever_it_is_read_with():
    model = small(dropout=0.5).train()
    texts = ["3 4 5 6 7 8", "9", "10 11 12", "2 3", "13 14 15 16", "17"]
    found = embed_texts(model, words(), texts, batch_size=2)
    assert model.training  # as it came, and nothing was dropped meanwhile
    model.eval()
    for vector, text in zip(found, texts, strict=True):
        alone = model(torch.tensor([[int(word) for word in text.split()]]))[0].mean(dim=0)
        assert torch.allclose(vector, alone / alone.norm(), atol=1e-5)


def test_a_text_is_cut_where_asked_and_no_other_one_afterwards():
    tokenizer, model = words(), small()
    cut, whole = embed_texts(model, tokenizer, ["3 4 5 6 7"], most_tokens=3), embed_texts(model, tokenizer, ["3 4 5"])
    assert torch.allclose(cut, whole, atol=1e-6)
    assert tokenizer.truncation is None and len(tokenizer.encode("3 4 5 6 7").ids) == 5


@torch.no_grad()
def test_weights_of_any_bert_give_its_features(tmp_path):
    """All that MiniLM's file has, in a model of random weights: the quick half of the slow test above."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.BertModel(transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=12, layer_norm_eps=0.02), add_pooling_layer=False).eval()
    for parameter in theirs.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    theirs.save_pretrained(tmp_path)
    words(40).save(str(tmp_path / "tokenizer.json"))
    model, tokenizer = load_minilm(tmp_path)
    ids = torch.tensor([row.ids for row in tokenizer.encode_batch(["5 6 7 8", "9 10"])])
    assert ids.tolist() == [[5, 6, 7, 8], [9, 10, 0, 0]]
    expected = theirs(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state
    real = ids != 0
    assert torch.allclose(model(ids)[real], expected[real], atol=1e-5) and not model.training


def test_the_first_weights_are_small_and_normal():
    model = small(vocab_size=400, d_model=64)
    for name, weight in model.named_parameters():
        if weight.dim() == 2 and weight.numel() > 3000:
            assert weight.std().item() == pytest.approx(0.02, rel=0.1), name


def test_each_token_knows_both_sides_and_no_padding():
    model, ids = small(), torch.tensor([[5, 6, 7, 8], [5, 6, 0, 0]])
    out = model(ids)
    other = ids.clone()
    other[0, 3] = 9
    assert (model(other)[0, 0] - out[0, 0]).abs().max() > 1e-5
    assert torch.allclose(model(ids[1:, :2]), out[1:, :2], atol=1e-5)


def test_order_matters():
    out = small()(torch.tensor([[5, 6], [6, 5]]))
    assert (out[0].mean(dim=0) - out[1].mean(dim=0)).abs().max() > 1e-5


def test_of_the_asked_tokens_eight_tenths_are_hidden_and_one_tenth_changed():
    ids = torch.randint(1, 1000, (200, 500), generator=torch.Generator().manual_seed(0))
    ids[:, 400:] = 0
    inputs, targets = mask_tokens(ids, 1000, 1000, generator=torch.Generator().manual_seed(1))
    asked = targets != -100
    assert torch.equal(targets[asked], ids[asked]) and torch.equal(inputs[~asked], ids[~asked])
    assert not asked[:, 400:].any() and asked[:, :400].float().mean().item() == pytest.approx(0.15, abs=0.005)
    hidden, same = inputs[asked] == 1000, inputs[asked] == ids[asked]
    assert hidden.float().mean().item() == pytest.approx(0.8, abs=0.015)
    assert same.float().mean().item() == pytest.approx(0.1, abs=0.01)


def test_the_loss_is_that_of_the_asked_tokens_only():
    model, ids = small(), torch.randint(1, 29, (3, 8))
    inputs, targets = mask_tokens(ids, 29, 29, share=0.5, generator=torch.Generator().manual_seed(1))
    logs, asked = model.lm_head(model(inputs)).log_softmax(dim=2), targets != -100
    expected = -logs[asked].gather(1, targets[asked][:, None]).mean().item()
    assert masked_token_loss(model, inputs, targets).item() == pytest.approx(expected, abs=1e-5)
    assert masked_token_loss(model, inputs, torch.full_like(ids, -100)).item() == 0


def test_a_saved_encoder_comes_back(tmp_path):
    model, ids = small(), torch.randint(1, 29, (2, 5))
    save_model(model, tmp_path / "encoder")
    assert torch.equal(load_model(tmp_path / "encoder", device="cpu")(ids), model(ids))


def test_a_text_too_long_and_sizes_that_cannot_work_are_named():
    with pytest.raises(ValueError, match="context_length"):
        small()(torch.ones(1, 17, dtype=torch.long))
    with pytest.raises(ValueError, match=r"d_model \(16\) must be divisible by n_heads \(3\)"):
        small(n_heads=3)
    with pytest.raises(ValueError, match=r"pad_id is 30: give an id below vocab_size \(30\)"):
        small(pad_id=30)
