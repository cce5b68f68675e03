"""Checks for the exercises of appendix A, PyTorch in an hour."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmbook.book.corpora import held_out_stories, story_documents
from llmbook.book.exercises import Wrong, close, exercise, expect, expect_number, expect_tensor


def _numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _hint(got: Tensor, mistakes: Iterable[tuple[Tensor, str]]) -> str:
    """The message of the first mistake that gives exactly this answer, with a space before it, or nothing."""
    return next((f" {text}" for values, text in mistakes if close(got, values)), "")


def _repaired(mended: Callable[..., Any], *tensors: Tensor) -> Any:
    """What the mended function returns; `Wrong` with help in reading the message if it stops as the broken one does."""
    readings = (
        ("mat1 and mat2 shapes", "Read the four numbers in pairs: the two in the middle should be equal. Which of the "
                                 "two matrices should be turned?"),
        ("must match the size of tensor", "Write the two shapes below each other, lined up at the right. The mean has "
                                          "lost a dimension: which argument of mean keeps it?"),
        ("Expected target size", "PyTorch took dimension 1 for the classes. Join batch and tokens to one dimension, "
                                 "in the logits and in the targets."),
        ("is invalid for input of size", "view and reshape cannot change how many numbers there are: multiply the "
                                         "sizes of both shapes."),
        ("view size is not compatible", "After transpose the numbers are no longer in a row in memory."),
        ("multi-target not supported", "Join batch and tokens in the targets too."),
        ("batch_size", "Logits and targets need the same number of places: join batch and tokens in both."),
    )
    try:
        return mended(*[tensor.clone() for tensor in tensors])
    except (RuntimeError, ValueError) as error:  # ValueError: cross_entropy's for unequal batches
        if isinstance(error, NotImplementedError):
            raise
        line = str(error).strip().splitlines()[0]
    help = next((text for part, text in readings if part in line), "")
    shapes = " and ".join(str(tuple(tensor.shape)) for tensor in tensors)
    raise Wrong(f"For inputs of shape {shapes} it still stops: {line.rstrip('.')}. {help}".rstrip())


@exercise("A.3a", "The weight of a linear layer is stored as (outputs, inputs), and turned when it is used.")
def exercise_3a(project: Callable[[Tensor, Tensor], Tensor]) -> None:
    for seed, (batch, tokens, inputs, outputs) in enumerate(((2, 5, 8, 16), (3, 4, 6, 6), (1, 1, 3, 2), (4, 4, 4, 4))):
        x, weight = _numbers(seed, batch, tokens, inputs), _numbers(seed + 10, outputs, inputs)
        got = expect_tensor(_repaired(project, x, weight), (batch, tokens, outputs), "the result")
        if close(got, F.linear(x, weight), 1e-4):
            continue
        mistakes = [
            (x @ weight.reshape(inputs, outputs), "It runs, but reshape or view scrambles the weight: row i no longer "
                                                  "holds what belongs to input i. Turn it over instead."),
        ]
        if inputs == outputs:
            mistakes.insert(0, (x @ weight, "With as many inputs as outputs the broken line runs, and is wrong: the "
                                            "weight has to be turned here too."))
            mistakes.append((weight @ x.transpose(1, 2) if tokens == inputs else x,
                             "The features are now in the second dimension and the tokens in the last one."))
        raise Wrong(f"For x {tuple(x.shape)} and weight {tuple(weight.shape)} the shape is right and the numbers are "
                    f"wrong.{_hint(got, mistakes)}")


@exercise("A.3b", "keepdim=True leaves a 1 where the mean was taken, and a 1 can be stretched.")
def exercise_3b(centre: Callable[[Tensor], Tensor]) -> None:
    for seed, shape in enumerate(((2, 5, 8), (3, 4, 4), (3, 3, 3), (1, 6, 2))):
        x = _numbers(seed, *shape) + 1
        got = expect_tensor(_repaired(centre, x), shape, "the result")
        if close(got, x - x.mean(dim=2, keepdim=True), 1e-4):
            continue
        mistakes = [
            (x - x.mean(dim=1, keepdim=True), "You subtracted each feature's mean over the tokens. The mean is over "
                                              "the features of one token: the last dimension."),
            (x - x.mean(dim=0), "You subtracted the mean over the texts. The mean is over the features of one token: "
                                "the last dimension."),
            (x - x.mean(), "You subtracted one mean of all numbers. Each token has its own."),
            (x - x.mean(dim=(1, 2), keepdim=True), "You subtracted one mean for each text. Each token has its own."),
            (x - x.sum(dim=2, keepdim=True), "You subtracted the sum, not the mean."),
            (x.mean(dim=2, keepdim=True) - x, "The sign is wrong: the mean is subtracted from the features."),
            (x.mean(dim=2, keepdim=True).expand(shape), "Those are the means. Subtract them from the features."),
        ]
        if shape[1] == shape[2]:
            mistakes.append((x - x.mean(dim=2)[:, None], "The mean of token i went to feature i of every token: the "
                             "new dimension of size 1 belongs at the end."))
        if shape[0] == shape[1] == shape[2]:
            mistakes.insert(0, (x - x.mean(dim=2), "With all sizes equal the broken line runs, and is wrong: the means "
                                                   "line up with the last two dimensions."))
        raise Wrong(f"For x {shape} the shape is right and the numbers are wrong: text 0, token 0 adds up to "
                    f"{got[0, 0].sum().item():.4f}, not to 0 with its differences kept.{_hint(got, mistakes)}")


@exercise("A.3c", "These two calls of flatten stand in the loss of every language model in this book.")
def exercise_3c(loss_of: Callable[[Tensor, Tensor], Tensor]) -> None:
    for seed, (batch, tokens, classes) in enumerate(((2, 5, 7), (3, 4, 4), (1, 6, 3), (2, 1, 5))):
        logits = _numbers(seed, batch, tokens, classes)
        targets = torch.randint(classes, (batch, tokens), generator=torch.Generator().manual_seed(seed))
        answer = _repaired(loss_of, logits, targets)
        if answer is None or answer is ...:
            raise NotImplementedError
        if isinstance(answer, Tensor) and answer.numel() > 1:
            raise Wrong(f"You return {answer.numel()} losses, shape {tuple(answer.shape)}. Return their mean.")
        got = expect_number(answer, "the loss")
        flat = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        right = flat.mean().item()
        if abs(got - right) <= 1e-4 * max(1, abs(right)):
            continue
        mistakes = [
            (F.cross_entropy(logits.reshape(batch, classes, tokens), targets),
             "view or reshape to (batch, vocab_size, tokens) scrambles the scores. Use transpose for that, or flatten "
             "batch and tokens."),
            (F.cross_entropy(logits.transpose(0, 1).reshape(-1, classes), targets.flatten()),
             "The scores are in the order token by token, the targets text by text."),
            (F.cross_entropy(logits.transpose(1, 2).reshape(-1, classes), targets.flatten()),
             "Flattening after transpose(1, 2) mixes the scores of different places. One of the two is enough."),
            (flat.sum(), "That is the sum over the places. Return the mean."),
            (flat.sum() / batch, "You divided by the number of texts. The mean is over all places."),
            (F.cross_entropy(logits[:, -1], targets[:, -1]), "That is the loss of the last place only."),
            (F.cross_entropy(logits[:, 0], targets[:, 0]), "That is the loss of the first place only."),
            (F.cross_entropy(logits.mean(1), targets[:, 0]), "You averaged the scores before the loss."),
            (F.cross_entropy(logits.flatten(0, 1).softmax(-1), targets.flatten()),
             "cross_entropy does the softmax itself: give it the scores."),
            (-right, "The sign is wrong: a loss is positive here."),
        ]
        if tokens == classes:
            mistakes.insert(0, (F.cross_entropy(logits, targets), "With as many tokens as classes the broken line "
                                "runs, and is wrong: it takes the tokens for classes."))
        hint = next((f" {text}" for value, text in mistakes if abs(float(value) - got) <= 1e-4), "")
        raise Wrong(f"For logits {tuple(logits.shape)} your loss is {got:.4f}, expected {right:.4f}.{hint}")


_EXPRESSIONS = ("x[:, -1]", "x.mean(dim=1, keepdim=True)", "x @ x.transpose(1, 2)", "x.flatten(0, 1)",
                "x[:, :, None] + x[:, None]")


@exercise("A.1", "Whoever can say the shapes can read the code of any model.")
def exercise_1(predict_shapes: Callable[[int, int, int], Sequence]) -> None:
    for b, t, d in ((2, 6, 12), (5, 7, 3), (4, 1, 9)):
        answer = predict_shapes(b, t, d)
        if answer is None or answer is ...:
            raise NotImplementedError
        expect(isinstance(answer, (tuple, list)) and len(answer) == 5, "Return five shapes, one for each expression.")
        x = torch.zeros(b, t, d)
        right = (x[:, -1], x.mean(dim=1, keepdim=True), x @ x.transpose(1, 2), x.flatten(0, 1),
                 x[:, :, None] + x[:, None])
        mistakes: tuple[dict[tuple[int, ...], str], ...] = (
            {(b, 1, d): "A number as an index removes its dimension; the slice x[:, -1:] would keep it.",
             (b, t): "The index -1 stands in the second place, so it picks a token, not a feature.",
             (b, t, 1): "The index -1 stands in the second place, so it picks a token and removes that dimension.",
             (t, d): "The first colon keeps all texts."},
            {(b, d): "keepdim=True leaves a 1 where the mean was taken.",
             (b, t, 1): "Dimensions count from 0, so dim=1 is the tokens.",
             (1, t, d): "Dimensions count from 0, so dim=1 is the tokens.",
             (b, t): "Dimensions count from 0, so dim=1 is the tokens, and keepdim=True leaves a 1."},
            {(b, d, d): "The inner sizes vanish. In (tokens, d) @ (d, tokens) these are the two d.",
             (t, t): "The first dimension is a batch: one product for each text.",
             (b, t, d): "The second factor is (batch, d, tokens): the last size comes from it.",
             (b, t, d, t): "@ adds up over the inner size, so d vanishes."},
            {(b, t * d): "flatten(0, 1) joins dimensions 0 and 1; that would be flatten(1).",
             (b * t * d,): "flatten(0, 1) joins dimensions 0 and 1 only; flatten() joins all.",
             (b + t, d): "Joined dimensions multiply: each of the texts has all its tokens."},
            {(b, t, d): "Each None adds a dimension: both have four.",
             (b, t, t): "Nothing is added up over the features: + broadcasts, and d stays.",
             (b, t, 1, d): "That is the first one alone. Its 1 is stretched to the size that the other has there.",
             (b, 1, t, d): "That is the second one alone. Its 1 is stretched to the size that the other has there."},
        )
        for code, shape, result, hints in zip(_EXPRESSIONS, answer, right, mistakes):
            if shape is None or shape is ...:
                raise NotImplementedError
            expect(isinstance(shape, (tuple, list)), f"The shape of {code} should be a tuple of numbers, such as "
                                                     f"(2, 3), not {type(shape).__name__}.")
            if tuple(shape) != tuple(result.shape):
                raise Wrong(f"For batch {b}, tokens {t}, d {d}, {code} has the shape {tuple(result.shape)}, not "
                            f"{tuple(shape)}. {hints.get(tuple(shape), '')}".rstrip())


@exercise("A.2", "With two dimensions of size 1, any pair of vectors can meet.")
def exercise_2(distances: Callable[[Tensor, Tensor], Tensor]) -> None:
    first = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 1.0]]), torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    cases = [first, *((_numbers(i, n, d), _numbers(i + 10, m, d)) for i, (n, m, d) in enumerate(
        ((5, 3, 4), (4, 4, 4), (1, 6, 2), (3, 2, 1))))]
    for a, b in cases:
        before = a.clone(), b.clone()
        got = distances(a, b)
        (n, d), m = a.shape, len(b)
        apart = a[:, None] - b[None]  # (n, m, d)
        right = apart.square().sum(-1).sqrt()  # (n, m)
        if isinstance(got, Tensor) and got.shape != right.shape:
            hints = {(n, m, d): "The features are still there: add up the squares over the last dimension.",
                     (m, n): "Rows and columns are exchanged: row i belongs to vector i of a.",
                     (n, m, 1): "Leave the last dimension out: keepdim is not needed here.",
                     (n,): "You compared vector i with vector i. Each of a meets each of b: a[:, None] and b[None].",
                     (m, d): "You added up over the wrong dimension: the features are the last one.",
                     (n, d): "You added up over the wrong dimension: the features are the last one.",
                     (): "That is one number: add up over the last dimension only."}
            hint = hints.get(tuple(got.shape), "")
            raise Wrong(f"For a {(n, d)} and b {(m, d)} your result has the shape {tuple(got.shape)}, expected "
                        f"{(n, m)}. {hint}".rstrip())
        got = expect_tensor(got, (n, m), f"the result for a {(n, d)} and b {(m, d)}")
        expect(torch.equal(a, before[0]) and torch.equal(b, before[1]), "Your function changed what it was given: "
               "an operation that ends in an underscore, or -=, writes into its tensor.")
        if close(got, right, 1e-4):
            continue
        expect(not got.isnan().any(), "Some distances are NaN, which the root of a negative number gives. Square the "
                                      "differences, or clamp what rounding made negative to 0.")
        mistakes = [
            (right**2, "Those are the squared distances: the root is missing."),
            (apart.abs().sum(-1), "You added up the absolute differences, which is also what the "
             "root of each square gives. Square them, add up, take the root of the sum."),
            (apart.square().mean(-1).sqrt(), "You took the mean of the squares. The distance takes their sum."),
            (apart.sum(-1), "The squares are missing, so differences of unlike sign cancel."),
            (apart.sum(-1).abs(), "The square has to come before the sum: differences of unlike sign cancel here."),
            (a @ b.T, "Those are dot products. A distance is made of differences."),
            (F.cosine_similarity(a[:, None], b[None], dim=-1), "That is the cosine of the angle, not the distance."),
        ]
        if n == m:
            mistakes.append((right.T, "Rows and columns are exchanged: row i belongs to vector i of a."))
        row, column = (~torch.isclose(got, right, rtol=1e-4, atol=1e-4)).nonzero()[0].tolist()
        raise Wrong(f"For a {(n, d)} and b {(m, d)}, from vector {row} of a to vector {column} of b you have "
                    f"{got[row, column].item():.4f}, expected {right[row, column].item():.4f}.{_hint(got, mistakes)}")


def _bowl(w: Tensor) -> Tensor:
    return (torch.arange(1.0, 1 + w.numel()) * (w.flatten() - 1) ** 2).sum()


def _path(start: Tensor, rate: float, steps: int, adding: bool = False, by_sign: bool = False) -> Tensor:
    """Where gradient descent on `_bowl` ends; with gradients that add up, or steps by their sign alone."""
    w, total = start.clone(), torch.zeros_like(start)
    for _ in range(steps):
        gradient = (2 * torch.arange(1.0, 1 + w.numel()) * (w.flatten() - 1)).view_as(w)
        total = total + gradient if adding else gradient
        w = w - rate * (total.sign() if by_sign else total)
    return w


@exercise("A.4", "Clear, backward, update outside the graph: that is what an optimizer does.")
def exercise_4(descend: Callable[[Callable[[Tensor], Tensor], Tensor, float, int], Tensor]) -> None:
    help = (
        ("leaf Variable that requires grad", "The update writes into the tensor while the graph is being noted: do it "
                                             "under torch.no_grad()."),
        ("does not require grad", "PyTorch noted nothing: work on start.clone().requires_grad_()."),
        ("NoneType", "A gradient was None. `w = w - ...` makes w a new tensor, no leaf any more: use `w -= ...` under "
                     "torch.no_grad(), or start each step from w.detach().requires_grad_()."),
        ("a second time", "Compute the loss anew in each step, inside the loop."),
    )
    for start, rate, steps in ((torch.tensor([1.5, -1.0]), 0.1, 1), (torch.tensor([[0.0, 2.0, -1.0]]), 0.05, 4),
                               (torch.tensor(3.0), 0.2, 3), (torch.tensor([2.0]), 0.1, 0)):
        before = start.clone()
        try:
            answer = descend(_bowl, start, rate, steps)
        except (RuntimeError, TypeError, AttributeError) as error:
            hint = next((text for part, text in help if part in str(error)), None)
            if hint is None or isinstance(error, NotImplementedError):
                raise
            raise Wrong(f"It stops with: {str(error).splitlines()[0]} {hint}") from None
        if isinstance(answer, Tensor):
            answer = answer.detach()
        got = expect_tensor(answer, tuple(start.shape), "The end of the walk")
        expect(torch.equal(start.detach(), before), "Your function changed `start`. Work on start.clone().")
        right = _path(before, rate, steps)
        if close(got, right):
            continue
        mistakes = [
            (before, "You have not moved. Was the last w returned, and were the steps taken?"),
            (_path(before, rate, steps, adding=True), "The gradients of earlier steps were added to the new one: "
                                                      "backward() adds. Forget .grad in each step."),
            (_path(before, -rate, steps), "You walked uphill: subtract the gradient."),
            (_path(before, -rate, steps, adding=True), "You walked uphill, and earlier gradients were added."),
            (_path(before, 1.0, steps), "The learning rate is missing."),
            (_path(before, rate, max(0, steps - 1)), "That is one step too few."),
            (_path(before, rate, steps + 1), "That is one step too many."),
            (_path(before, rate, steps, by_sign=True), "Each step has the same length here, as Adam's first ones have. "
                                                       "Plain gradient descent uses the gradient itself."),
            (_path(before, rate / max(1, before.numel()), steps), "The steps are too short by the number of elements."),
            (_path(before, 2 * rate, steps), "The steps are twice as long as they should be."),
            (before - rate * steps * (before - _path(before, 1.0, 1)), "All steps use the first gradient. Compute loss "
                                                                       "and gradient anew in each step."),
        ]
        if steps == 0:
            mistakes = [(_path(before, rate, 1), "With steps 0 nothing should move.")]
        raise Wrong(f"From {before.flatten().tolist()} with rate {rate}, after {steps} steps you are at "
                    f"{[round(value, 4) for value in got.flatten().tolist()]}, expected "
                    f"{[round(value, 4) for value in right.flatten().tolist()]}.{_hint(got, mistakes)}")


def _windows(texts: Iterable[str]) -> tuple[Tensor, Tensor]:
    """The chapter's `WordEnds` of all texts, joined: windows (n, 12) and whether a word ends there (n,)."""
    words = re.sub(r"[^a-z]+", " ", " ".join(texts).lower()).split()
    letters = torch.tensor([ord(letter) - ord("a") + 1 for letter in "".join(words)])
    ends = torch.zeros(len(letters), dtype=torch.long)
    ends[torch.tensor([len(word) for word in words]).cumsum(0) - 1] = 1
    return F.pad(letters, (5, 6)).unfold(0, 12, 1).clone(), ends


_LETTERS, _TARGET = 10_000, 0.87


@exercise("A.5", "You have tuned a network on less data, and you know what each of your changes did.")
def exercise_5(train_finder: Callable[[Tensor, Tensor], nn.Module]) -> None:
    windows, targets = (tensor[:_LETTERS] for tensor in _windows(story_documents(30)))
    model = train_finder(windows.clone(), targets.clone())
    if model is None or model is ...:
        raise NotImplementedError
    expect(isinstance(model, nn.Module), f"Return the trained module, not {type(model).__name__}.")
    model.eval()
    test_windows, test_targets = _windows(held_out_stories(20))
    with torch.no_grad():
        scores, known = expect_tensor(model(test_windows), (len(test_targets), 2), "what the module gives"), model(
            windows)
    right, on_known = ((values.argmax(1) == wanted).float().mean().item()
                       for values, wanted in ((scores, test_targets), (known, targets)))
    never = (test_targets == 0).float().mean().item()
    if right >= _TARGET:
        return
    hint = ""
    if not scores.isfinite().all():
        hint = "Some scores are NaN or infinite: lower the learning rate."
    elif abs(right - never) < 1e-6:
        hint = "That is what never putting a space gives. Was the module trained, with a loss that fell?"
    elif right < never:
        hint = "That is worse than never putting a space: do the scores stand in the order no space, space?"
    elif on_known > 0.98:
        hint = ("On the letters that it learned from it is right nearly always, so it has learned them by heart: stop "
                "earlier, or add dropout.")
    elif on_known < _TARGET:
        hint = "On the letters that it learned from it is no better: train longer, or with a higher learning rate."
    raise Wrong(f"It is right about {100 * right:.1f} % of {len(test_targets):,} letters of held-out stories and "
                f"{100 * on_known:.1f} % of those it learned from; the target is {100 * _TARGET:.0f} %. "
                f"{hint}".rstrip())
