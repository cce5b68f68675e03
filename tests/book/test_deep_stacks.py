"""The experiments of chapter 4 measure what they say."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from llmbook.attention import MultiHeadAttention
from llmbook.book import deep_stacks
from llmbook.gpt import GPT, FeedForward, GPTConfig, TransformerBlock

TINY = GPTConfig(vocab_size=40, context_length=16, d_model=32, n_heads=4, n_layers=3)


class Constant(nn.Module):
    """Answers with what it has learned to be best for every input."""

    def __init__(self, features):
        super().__init__()
        self.answer = nn.Parameter(torch.zeros(features))

    def forward(self, x):
        return self.answer.expand_as(x)


def test_a_constant_answer_has_the_error_1_and_a_network_like_the_teacher_less():
    assert deep_stacks.imitation_error(Constant, 1e-2, seed=0) == pytest.approx(1, abs=0.1)
    error = deep_stacks.imitation_error(lambda d: nn.Sequential(nn.Linear(d, 256), nn.Tanh(), nn.Linear(256, d)), 1e-2,
                                        seed=0)
    assert error < 0.5


def test_experiments_repeat_and_leave_the_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.randn(2)
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        found.append((deep_stacks.imitation_error(Constant, 1e-3, seed=1, steps=2),
                      deep_stacks.similarity_per_layer([lambda: FeedForward(64)], True, seed=1, depth=2),
                      deep_stacks.stream_growth(TINY)))
        assert torch.equal(torch.randn(2), expected)
    assert found[0] == found[1]


def test_larger_weights_keep_the_mean_square_of_numbers():
    torch.manual_seed(0)
    layers = nn.Sequential(*(FeedForward(256) for _ in range(4)))
    deep_stacks.keep_mean_square(layers)
    with torch.no_grad():
        assert layers(torch.randn(200, 256)).square().mean().item() == pytest.approx(1, abs=0.5)
    assert not layers[0].expand.bias.any() and not layers[3].contract.bias.any()


def test_similarity_is_the_mean_cosine_of_different_tokens():
    class Mean(nn.Module):
        def forward(self, x):
            return x.mean(dim=1, keepdim=True).expand_as(x)

    assert deep_stacks.similarity_per_layer([Mean], skip=False, seed=0, depth=2) == pytest.approx([1, 1], abs=1e-5)
    assert deep_stacks.similarity_per_layer([nn.Identity], skip=False, seed=0, depth=1)[0] == pytest.approx(0, abs=0.1)
    both = deep_stacks.similarity_per_layer([Mean], skip=True, seed=0, depth=1)[0]
    assert 0 < both < 0.5
    alone = deep_stacks.similarity_per_layer([lambda: MultiHeadAttention(64, 4)], skip=False, seed=0)
    assert len(alone) == 24 and alone[-1] > 0.98


def test_the_stream_starts_at_the_embeddings_and_grows_faster_with_larger_writers():
    found, larger = deep_stacks.stream_growth(TINY), deep_stacks.stream_growth(TINY, larger_writers=4.0)
    assert len(found) == TINY.n_layers + 1 and found[0] == larger[0] == pytest.approx(0.02 * 2**0.5, rel=0.1)
    assert larger[-1] / larger[0] > found[-1] / found[0] > 1


def test_a_tied_table_raises_a_token_s_own_logit():
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=500, context_length=64, d_model=64, n_heads=4, n_layers=2)).eval()
    ids = torch.randint(500, (1, 64))
    own = deep_stacks.own_logits(model, ids)
    assert own.shape == (64,) and own.mean() > 1
    row = model(ids)[0, 5]
    assert own[5].item() == pytest.approx(((row[ids[0, 5]] - row.mean()) / row.std()).item(), abs=1e-4)


def test_pytorch_s_layer_takes_a_block_s_weights_and_computes_the_same():
    torch.manual_seed(0)
    block = TransformerBlock(GPTConfig(d_model=16, n_heads=2, qkv_bias=True)).eval()
    theirs = nn.TransformerEncoderLayer(16, 2, 64, batch_first=True, norm_first=True,
                                        activation=lambda x: F.gelu(x, approximate="tanh")).eval()
    theirs.load_state_dict(deep_stacks.pytorch_names(block.state_dict()))
    x = torch.randn(2, 5, 16)
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    with torch.no_grad():
        assert torch.allclose(theirs(x, src_mask=mask, is_causal=True), block(x), atol=1e-5)
