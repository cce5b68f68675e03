"""The experiments of chapter 4 with deep stacks: what is learned, how alike tokens become, how the stream grows."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmbook.gpt import GPT, FeedForward, GPTConfig, TransformerBlock, initialize_weights

__all__ = ["imitation_error", "keep_mean_square", "own_logits", "pytorch_names", "similarity_per_layer",
           "stream_growth"]

DEPTH = 24
TEACHER_FEATURES = 32
_PYTORCH_NAMES = (("attention_norm", "norm1"), ("feed_forward_norm", "norm2"), ("attention.qkv.", "self_attn.in_proj_"),
                  ("attention.out", "self_attn.out_proj"), ("feed_forward.expand", "linear1"),
                  ("feed_forward.contract", "linear2"))


def keep_mean_square(layers: Iterable[FeedForward]) -> None:
    """Draw the matrices of feed-forward networks anew, so that each keeps the mean square of normal numbers, in place.

    GELU leaves 0.425 of the mean square of standard normal numbers; the second matrix makes up for it.

    Source: He et al., "Delving Deep into Rectifiers" (2015), which does it for ReLU.
    """
    for layer in layers:
        nn.init.normal_(layer.expand.weight, std=layer.expand.in_features**-0.5)
        nn.init.normal_(layer.contract.weight, std=(0.425 * layer.contract.in_features) ** -0.5)
        nn.init.zeros_(layer.expand.bias)
        nn.init.zeros_(layer.contract.bias)


def imitation_error(make_stack: Callable[[int], nn.Module], learning_rate: float, seed: int,
                    steps: int = 150) -> float:
    """Train a model to imitate a random network; returns its error in the last 20 steps.

    The error is divided by the variance of the answers, so 1 is that of always answering with the mean.

    Args:
        make_stack: features d -> a model, (batch, d) to the same shape.
        learning_rate: AdamW's, the same in each step; gradients are clipped at 1.
        seed: of the weights, the random network and the data.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        teacher = nn.Sequential(nn.Linear(TEACHER_FEATURES, 64), nn.Tanh(), nn.Linear(64, TEACHER_FEATURES))
        for parameter in teacher.requires_grad_(False).parameters():
            parameter *= 2
        model, errors = make_stack(TEACHER_FEATURES), []
        optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
        for _ in range(steps):
            x = torch.randn(64, TEACHER_FEATURES)
            target = teacher(x)
            error = F.mse_loss(model(x), target) / target.var(dim=0).mean()
            optimizer.zero_grad()
            error.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            errors.append(error.item())
    return sum(errors[-20:]) / len(errors[-20:])


@torch.no_grad()
def similarity_per_layer(parts: Sequence[Callable[[], nn.Module]], skip: bool, seed: int,
                         depth: int = DEPTH) -> list[float]:
    """Mean cosine similarity of 16 different tokens after each layer of a stack with random weights.

    Args:
        parts: what a layer is made of; each makes a module, (batch, tokens, 64) to the same shape, which reads a
            normalised copy.
        skip: whether a part's result is added to its input or replaces it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        x, found = torch.randn(1, 16, 64), []
        for _ in range(depth):
            for make in parts:
                change = make()(F.layer_norm(x, (64,)))
                x = x + change if skip else change
            unit = F.normalize(x[0], dim=-1)  # (16, 64), each of length 1
            found.append(((unit @ unit.T).sum().item() - 16) / (16 * 15))
    return found


@torch.no_grad()
def stream_growth(config: GPTConfig, larger_writers: float = 1.0, seed: int = 9, tokens: int = 16) -> list[float]:
    """Standard deviation of an untrained GPT's residual stream before its first block and after each block.

    Args:
        larger_writers: what the matrices that write into the stream are multiplied by, after `initialize_weights`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        x = 0.02 * torch.randn(1, tokens, config.d_model) + 0.02 * torch.randn(tokens, config.d_model)
        found = [x.std().item()]
        for _ in range(config.n_layers):
            block = TransformerBlock(config).eval()
            initialize_weights(block, config.n_layers)
            block.attention.out.weight *= larger_writers
            block.feed_forward.contract.weight *= larger_writers
            x = block(x)
            found.append(x.std().item())
    return found


@torch.no_grad()
def own_logits(model: GPT, token_ids: Tensor) -> Tensor:
    """The logit of each token of a text, (1, tokens), at its own position, in standard deviations above the mean of all
    logits there: (tokens,)."""
    logits = model.lm_head(model.hidden_states(token_ids))[0]  # (tokens, vocab_size)
    own = logits[torch.arange(len(logits)), token_ids[0]]
    return (own - logits.mean(dim=-1)) / logits.std(dim=-1)


def pytorch_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a GPT's block under the names that `torch.nn.TransformerEncoderLayer` has for them."""
    renamed = {}
    for name, weight in weights.items():
        for ours, theirs in _PYTORCH_NAMES:
            name = name.replace(ours, theirs)
        renamed[name] = weight
    return renamed
