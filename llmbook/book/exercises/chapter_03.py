"""Checks for the exercises of chapter 3, attention."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from llmbook.attention import MultiHeadAttention, causal_attention
from llmbook.book.exercises import Wrong, close, exercise, expect, expect_tensor


def _numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _started(answer: Any) -> Any:
    if answer is None or answer is ...:
        raise NotImplementedError
    return answer


def _name_mistake(answer: Tensor, mistakes: dict[str, Tensor]) -> None:
    """Raise `Wrong` with the name of the mistake that gives exactly this answer, if there is one."""
    for mistake, values in mistakes.items():
        if close(answer, values):
            raise Wrong(mistake)


@exercise("3.1", "You can follow the shapes through the layer.")
def exercise_1(attention_shapes: Callable[[int, int, int, int], tuple]) -> None:
    names = ("the queries'", "the weights'", "the output's")
    for batch, tokens, d_model, n_heads in ((2, 6, 12, 3), (5, 7, 32, 4), (1, 9, 20, 1)):
        answer = _started(attention_shapes(batch, tokens, d_model, n_heads))
        sizes = f"batch {batch}, tokens {tokens}, d_model {d_model}, n_heads {n_heads}"
        expect(isinstance(answer, tuple | list) and len(answer) == 3, "Return three shapes.")
        d_head = d_model // n_heads
        right = ((batch, n_heads, tokens, d_head), (batch, n_heads, tokens, tokens), (batch, tokens, d_model))
        for name, shape, expected in zip(names, answer, right):
            _started(shape)
            expect(isinstance(shape, tuple | list | torch.Size),
                   f"{name} shape should be a tuple of numbers, not {type(shape).__name__}.")
            shape = tuple(shape)
            if shape == expected:
                continue
            hint = ""
            if sorted(shape) == sorted(expected):
                hint = " The numbers are right, their order is not: the heads act as a second batch dimension."
            elif len(shape) < len(expected):
                hint = " Each head works on its own, so the heads have a dimension too."
            elif name == names[0] and shape[-1:] == (d_model,):
                hint = " The features are shared out among the heads."
            elif name == names[0] and shape[-1:] == (n_heads,):
                hint = " d_head is d_model / n_heads, not n_heads."
            elif name == names[1] and shape[-1:] in ((d_head,), (d_model,)):
                hint = " A weight belongs to two tokens: one that looks and one that is looked at."
            elif name == names[2]:
                hint = " The heads are laid end to end again before the output projection."
            raise Wrong(f"For {sizes}, {name} shape is {expected}, not {shape}.{hint}")


@exercise("3.2", "Each head gets its own share of every token's features.")
def exercise_2(split_heads: Callable[[Tensor, int], Tensor]) -> None:
    for batch, tokens, n_heads, d_head in ((2, 5, 3, 4), (1, 4, 2, 4), (3, 1, 4, 2)):
        x = torch.arange(batch * tokens * n_heads * d_head, dtype=torch.float32)
        x = x.view(batch, tokens, n_heads * d_head)  # no two numbers are equal
        right = x.view(batch, tokens, n_heads, d_head).transpose(1, 2)
        answer = expect_tensor(split_heads(x.clone(), n_heads), (batch, n_heads, tokens, d_head), "the heads")
        if close(answer, right, tolerance=0):
            continue
        _name_mistake(answer, {
            "The shape is right, but `view` or `reshape` alone mixes features of different tokens in one head. "
            "Cut the last dimension in two first, then exchange dimensions.":
                x.reshape(batch, n_heads, tokens, d_head),
            "Head h has every n_heads-th feature, starting at h. It should have d_head features in a row: "
            "the heads come before d_head when you cut the last dimension.":
                x.view(batch, tokens, d_head, n_heads).permute(0, 3, 1, 2)})
        raise Wrong("The shape is right, the numbers are in the wrong places. Head 0 of the first token should hold "
                    f"its features 0 to {d_head - 1}, which are {right[0, 0, 0].tolist()} here; "
                    f"yours holds {answer[0, 0, 0].tolist()}.")


@exercise("3.3", "That is the heart of attention, written from memory.")
def exercise_3(causal_weights: Callable[[Tensor, Tensor], Tensor]) -> None:
    for seed, (batch, n_heads, tokens, d_head) in enumerate(((2, 3, 5, 4), (1, 1, 7, 9), (2, 2, 1, 4))):
        query, key = _numbers(seed, 2, batch, n_heads, tokens, d_head)
        future = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
        plain = query @ key.transpose(-2, -1)
        scores = plain / d_head**0.5
        right = scores.masked_fill(future, -torch.inf).softmax(-1)
        answer = expect_tensor(causal_weights(query, key), (batch, n_heads, tokens, tokens), "the weights")
        if close(answer, right):
            continue
        expect(not answer.isnan().any(), "Some weights are not numbers (nan). A row with -inf everywhere gives "
                                         "that: a token must at least see itself.")
        _name_mistake(answer, {
            "These are the weights without the mask: a token may not look at later ones.": scores.softmax(-1),
            "These are the weights without the scaling: divide the scores by the square root of d_head.":
                plain.masked_fill(future, -torch.inf).softmax(-1),
            "The scores are divided by d_head, not by its square root.":
                (plain / d_head).masked_fill(future, -torch.inf).softmax(-1),
            "The scores are divided by the square root of something else: d_head is the last dimension.":
                (plain / tokens**0.5).masked_fill(future, -torch.inf).softmax(-1),
            "The mask hides the past and leaves the future: turn it round.":
                scores.masked_fill(future.T, -torch.inf).softmax(-1),
            "The mask came after the softmax, so the rows no longer add up to 1. Mask the scores instead.":
                scores.softmax(-1).masked_fill(future, 0),
            "The masked scores are 0, but e to the 0 is 1: only -inf gives the weight 0.":
                scores.masked_fill(future, 0).softmax(-1),
            "These are the scores: the softmax is missing.": scores.masked_fill(future, -torch.inf),
            "Queries and keys are exchanged: row i should hold what token i looks at.":
                scores.transpose(-2, -1).masked_fill(future, -torch.inf).softmax(-1),
            "The softmax runs over the wrong dimension: each row, the last dimension, should add up to 1.":
                scores.masked_fill(future, -torch.inf).softmax(-2),
        })
        expect(close(answer.sum(-1), torch.ones(batch, n_heads, tokens)), "The rows do not add up to 1.")
        raise Wrong("The values are not right. The steps are: scores, scaling, mask, softmax.")


@exercise("3.4", "Your mask also fits a cache with a past.")
def exercise_4(window_mask: Callable[[int, int, int], Tensor]) -> None:
    for past, tokens, window in ((0, 6, 3), (5, 3, 4), (4, 1, 2), (0, 4, 1), (3, 5, 100)):
        right = torch.tensor([[i - window < j <= i for j in range(past + tokens)]
                              for i in range(past, past + tokens)])
        what = f"For past {past}, tokens {tokens}, window {window}"
        answer = expect_tensor(window_mask(past, tokens, window), (tokens, past + tokens), f"{what}: the mask")
        expect(answer.dtype == torch.bool, f"{what}: the mask has dtype {answer.dtype}, expected torch.bool.")
        if torch.equal(answer, right):
            continue
        expect(not torch.equal(answer, ~right),
               f"{what}: the mask is the wrong way round: True is where a token may look.")
        from_zero = torch.tensor([[i - window < j <= i for j in range(past + tokens)] for i in range(tokens)])
        expect(not torch.equal(answer, from_zero), f"{what}: your mask fits new tokens at positions 0 to {tokens - 1}, "
                                                   f"but {past} are stored: they start at position `past`.")
        row, column = [int(place) for place in (answer != right).nonzero()[0]]
        position = past + row
        if answer[row, column] and column > position:
            hint = "that is the future."
        elif answer[row, column] and column == position - window:
            hint = "that is one too many: the window counts the token itself."
        elif answer[row, column]:
            hint = "that is further back than the window reaches."
        elif column == position:
            hint = "but a token always sees itself."
        else:
            hint = f"but that is within the last {window} tokens."
        may = "may" if answer[row, column] else "may not"
        raise Wrong(f"{what}: by your mask, the token at position {position} {may} look at position {column}, {hint}")


class _Peeking(nn.Module):
    """Attention in which the tokens `who` may also look at the token `step` places ahead."""

    def __init__(self, step: int, who: slice = slice(None)):
        super().__init__()
        self.step, self.who = step, who
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.shape[1]
        seen = torch.ones(tokens, tokens, dtype=torch.bool).tril()
        ahead = torch.ones(tokens, tokens, dtype=torch.bool).triu(self.step).tril(self.step)
        seen[self.who] |= ahead[self.who]
        scores = self.query(x) @ self.key(x).transpose(-2, -1) / 8**0.5
        return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ self.value(x)


@exercise("3.5", "No cheat gets past you.")
def exercise_5(looks_ahead: Callable[[Callable[[Tensor], Tensor], Tensor], bool]) -> None:
    with torch.random.fork_rng(devices=()), torch.no_grad():
        torch.manual_seed(0)
        layers = (("looks at no later token", MultiHeadAttention(8, 2), False),
                  ("works on each token alone", nn.Linear(8, 8), False),
                  ("mixes in the mean of all tokens", lambda x: x + x.mean(dim=1, keepdim=True), True),
                  ("lets each token look at the next one", _Peeking(1), True),
                  ("lets the last token but one look at the last", _Peeking(1, slice(-2, -1)), True),
                  ("lets the first token look at the second", _Peeking(1, slice(0, 1)), True),
                  ("lets one token in the middle look at the next", _Peeking(1, slice(2, 3)), True),
                  ("lets the first token look at the last", _Peeking(5, slice(0, 1)), True))
        for what, layer, right in layers:
            x = _numbers(7, 2, 6, 8)
            before = x.clone()
            answer = _started(looks_ahead(layer, x))
            expect(torch.equal(x, before), "Your function changes `x` itself: change a clone.")
            expect(isinstance(answer, bool) or (isinstance(answer, Tensor) and answer.numel() == 1),
                   f"Return True or False, not {type(answer).__name__}.")
            hint = ("Change each token in turn, and look at all outputs before it." if right
                    else "Compare only the outputs before the token that you change.")
            expect(bool(answer) == right, f"One layer {what}; you return {bool(answer)}. {hint}")


@exercise("3.6", "You have built a different attention, one that knows what is near.")
def exercise_6(attention_with_distance: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> None:
    for seed, (batch, n_heads, tokens, d_head) in enumerate(((2, 3, 5, 4), (2, 2, 6, 9))):
        query, key, value = _numbers(seed, 3, batch, n_heads, tokens, d_head)
        slopes = torch.tensor([1.0, 0.25, 0.0625])[:n_heads]
        places = torch.arange(tokens)
        distance = (places[:, None] - places).float()  # (tokens, tokens): i - j

        products = query @ key.transpose(-2, -1)

        def attend(change: Tensor, mask: bool = True, scale: float = d_head**-0.5,
                   products: Tensor = products, value: Tensor = value, later: Tensor = distance < 0) -> Tensor:
            scores = products * scale + change
            return (scores.masked_fill(later, -torch.inf) if mask else scores).softmax(-1) @ value

        penalty = slopes[:, None, None] * distance  # (n_heads, tokens, tokens)
        answer = expect_tensor(attention_with_distance(query, key, value, slopes), tuple(query.shape), "the context")
        if close(answer, attend(-penalty)):
            continue
        _name_mistake(answer, {
            "This is plain attention: the distance changes nothing yet.": causal_attention(query, key, value),
            "The distance is added, so far words count for more: subtract it.": attend(penalty),
            "The mask is missing: no token may look ahead.": attend(-penalty, mask=False),
            "The mask is missing: no token may look ahead, at whatever distance.":
                attend(-penalty.abs(), mask=False),
            "The distance was subtracted before the scaling: scale the products first.":
                attend(-penalty * d_head**-0.5),
            "The scaling is missing: divide the products by the square root of d_head.":
                attend(-penalty, scale=1.0),
            "All heads use the first slope: each head has its own.": attend(-slopes[0] * distance),
        })
        raise Wrong("The values are not right. Per head: scores scaled, minus slope × distance, mask, softmax, "
                    "times the values.")
