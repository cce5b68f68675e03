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


@exercise("3.1", "That is the heart of attention, written from memory.")
def exercise_1(causal_weights: Callable[[Tensor, Tensor], Tensor]) -> None:
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


@exercise("3.2", "Your mask also fits a cache with a past.")
def exercise_2(window_mask: Callable[[int, int, int], Tensor]) -> None:
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


@exercise("3.3", "No cheat gets past you.")
def exercise_3(looks_ahead: Callable[[Callable[[Tensor], Tensor], Tensor], bool]) -> None:
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


@exercise("3.4", "The mask was right all along: the heads were laid out in the wrong order.")
def exercise_4(mended_heads: Callable[[Tensor, int], Tensor]) -> None:
    for seed, (batch, tokens, n_heads, d_head) in enumerate(((2, 5, 3, 4), (1, 6, 2, 8), (2, 1, 4, 4))):
        qkv = _numbers(seed, batch, tokens, 3 * n_heads * d_head)
        query, key, value = qkv.unflatten(2, (3, n_heads, d_head)).permute(2, 0, 3, 1, 4)
        context = causal_attention(query, key, value)  # (batch, n_heads, tokens, d_head)
        right = context.transpose(1, 2).flatten(2)
        answer = expect_tensor(mended_heads(qkv.clone(), n_heads), (batch, tokens, n_heads * d_head), "the context")
        if close(answer, right):
            continue
        changed = qkv.clone()
        changed[:, -1] += 1
        leaks = not close(mended_heads(changed, n_heads)[:, :-1], answer[:, :-1]) and tokens > 1
        unmasked = nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        _name_mistake(answer, {
            "This is still the broken layer. Change one token and see which outputs move, then look at what happens "
            "to `context` after the attention.": context.reshape(batch, tokens, -1),
            "The mask was right; without it every token sees all.": unmasked,
            "Nothing looks ahead now, but each token's features are mixed up: the heads should lie one after the "
            "other, head 0 first.": context.permute(0, 2, 3, 1).flatten(2),
        })
        expect(not leaks, "Your earlier outputs still change when the last token does.")
        raise Wrong("Nothing looks ahead now, but the values are not right. Which dimensions must change places "
                    "before the heads are concatenated?")


@exercise("3.5", "You have built a different attention, one that knows what is near.")
def exercise_5(attention_with_distance: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> None:
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


LAB_STEPS, LAB_TOKENS = 600, 24


def repeated_texts(n: int) -> tuple[Tensor, Tensor]:
    """Texts that repeat a passage of 6 to 12 different tokens, and the tokens to predict: each (n, 24).

    What cannot be predicted yet, and what follows the last token, is -100.
    """
    lengths = torch.randint(6, 13, (n, 1))
    places = torch.arange(LAB_TOKENS + 1)
    text = torch.rand(n, 16).argsort(dim=1).gather(1, places % lengths)  # (n, 25)
    return text[:, :-1], text[:, 1:].masked_fill(places[1:] < lengths, -100)


def train_copier(model: nn.Module) -> float:
    """Train on repeated texts; returns the share of tokens predicted right in new ones, once a passage repeats."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(LAB_STEPS):
        text, targets = repeated_texts(64)
        loss = nn.functional.cross_entropy(model(text).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        text, targets = repeated_texts(500)
        right = model(text).argmax(dim=-1) == targets
    return (right.sum() / (targets >= 0).sum()).item()


@exercise("3.6", "One layer notes what came before each token, the next one finds it: an induction head.")
def exercise_6(build_copier: Callable[[], nn.Module]) -> None:
    model = _started(build_copier())
    expect(isinstance(model, nn.Module), f"Return a model, an nn.Module, not {type(model).__name__}.")
    numbers = sum(parameter.numel() for parameter in model.parameters())
    expect(numbers <= 20_000, f"Your model has {numbers:,} numbers to train, more than 20,000.")
    with torch.no_grad():
        text, _ = repeated_texts(4)
        scores = expect_tensor(model(text), (4, LAB_TOKENS, 16), "what your model returns")
        changed = text.clone()
        changed[:, -1] = (changed[:, -1] + 1) % 16
        model.eval()
        expect(bool(scores.isfinite().all()), "Some scores are not finite.")
        expect(close(model(text)[:, :-1], model(changed)[:, :-1]),
               "Your model looks ahead: earlier scores change when the last token does.")
        model.train()
    share = train_copier(model)
    hint = ("Guessing gives 6 %." if share < 0.12 else
            "Is there one layer only, or does the second one not see where the first one looked? The first has to "
            "note at each token which token came before it.")
    expect(share >= 0.9, f"After {LAB_STEPS} steps it gets {share:.0%} right; the target is 90 %. {hint}")
