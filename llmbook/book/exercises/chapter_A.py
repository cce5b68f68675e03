"""Checks for the exercises and repairs of appendix A, PyTorch in an hour."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


@exercise("A.R1", "The weight of a linear layer is stored as (outputs, inputs), and turned when it is used.")
def exercise_repair_1(project: Callable[[Tensor, Tensor], Tensor]) -> None:
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


@exercise("A.R2", "keepdim=True leaves a 1 where the mean was taken, and a 1 can be stretched.")
def exercise_repair_2(centre: Callable[[Tensor], Tensor]) -> None:
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


@exercise("A.R3", "These two calls of flatten stand in the loss of every language model in this book.")
def exercise_repair_3(loss_of: Callable[[Tensor, Tensor], Tensor]) -> None:
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


@exercise("A.3", "When a tensor changes that nobody touched, you know what to ask.")
def exercise_3(same_storage: Callable[[Tensor, Tensor], bool]) -> None:
    x = torch.arange(12.0).view(3, 4)
    y = torch.ones(3, requires_grad=True)
    address = "data_ptr() of a tensor is the address of its first element. Ask the storages for theirs."
    cases = (
        ("x and x", x, x, True, "A tensor shares everything with itself."),
        ("x and x.clone()", x, x.clone(), False, "Equal numbers are not shared numbers: a copy has its own memory."),
        ("x and torch.zeros(3, 4)", x, torch.zeros(3, 4), False, "Equal shapes say nothing about memory."),
        ("x and x.view(2, 6)", x, x.view(2, 6), True,
         "A view is another Python object, often of another shape, with the same memory: `is` and shapes don't tell."),
        ("x and x.T", x, x.T, True, "A transposed tensor is a view."),
        ("x and x[1:]", x, x[1:], True, address),
        ("x[:1] and x[2:]", x[:1], x[2:], True,
         "They have no element in common, but one storage, so writing to one and looking at the other, or comparing "
         "addresses of elements, does not tell. Ask the storages."),
        ("x[0] and x.flatten()[5:]", x[0], x.flatten()[5:], True, address),
        ("x and x[[0, 1, 2]]", x, x[[0, 1, 2]], False, "A list as an index makes a copy."),
        ("x and x.T.reshape(12)", x, x.T.reshape(12), False, "There is no view of that, so reshape made a copy."),
        ("x and x.to(torch.float32)", x, x.to(torch.float32), True, "There was nothing to convert, so it is x itself."),
        ("x.clone() and x.clone()", x.clone(), x.clone(), False, "Two copies have two storages."),
        ("y, which requires gradients, and y.detach()", y, y.detach(), True,
         "detach leaves the graph, not the memory."),
    )
    for what, a, b, shared, hint in cases:
        numbers = a.detach().clone(), b.detach().clone()
        answer = same_storage(a, b)
        if answer is None or answer is ...:
            raise NotImplementedError
        expect(isinstance(answer, (bool, int)) or (isinstance(answer, Tensor) and answer.numel() == 1),
               f"Return True or False, not {type(answer).__name__}.")
        expect(torch.equal(a, numbers[0]) and torch.equal(b, numbers[1]),
               "Your function changed the tensors that it was given. Asking should not write.")
        expect(bool(answer) == shared, f"For {what} you return {bool(answer)}, expected {shared}. {hint}")


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


@exercise("A.4", "These lines are what an optimizer does; AdamW adds a step size for each weight.")
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


def _stack(parameters: Sequence[Tensor], x: Tensor, bend: Callable[[Tensor], Tensor], first: bool = False,
           last: bool = False) -> Tensor:
    """The linear layers with these weights and biases in turn, `bend` between, and before and after them if asked."""
    x = bend(x) if first else x
    for place in range(0, len(parameters), 2):
        x = F.linear(x, parameters[place], parameters[place + 1])
        if last or place + 2 < len(parameters):
            x = bend(x)
    return x


@exercise("A.5", "GPT is built in this way: a ModuleList, and a forward that goes through it.")
def exercise_5(build_stack: Callable[[Sequence[int]], nn.Module]) -> None:
    for seed, sizes in enumerate(([4, 8, 3], [5, 5, 5, 5], [6, 2], [3, 7, 4, 2])):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build_stack(list(sizes))
        if model is None or model is ...:
            raise NotImplementedError
        expect(isinstance(model, nn.Module), f"Return a module, not {type(model).__name__}.")
        parameters = list(model.parameters())
        expect(len(parameters) > 0, "The module has no parameters, so nothing would be trained or saved. A plain list "
                                    "hides its layers: use nn.ModuleList.")
        shapes = [shape for a, b in zip(sizes, sizes[1:]) for shape in ((b, a), (b,))]
        found = [tuple(parameter.shape) for parameter in parameters]
        if found != shapes:
            hint = ""
            if found == shapes[::2]:
                hint = "The biases are missing."
            elif len(found) < len(shapes) and found == shapes[: len(found)]:
                hint = ("One layer used several times has one set of weights: make a new one for each step."
                        if len(set(sizes)) == 1 else "A layer is missing: three sizes make two layers.")
            elif len(found) > len(shapes):
                hint = "There is a layer too many: three sizes make two layers."
            elif found[::2] == [(a, b) for b, a in shapes[::2]]:
                hint = "Each layer is the wrong way round: nn.Linear(inputs, outputs)."
            raise Wrong(f"For sizes {sizes} the parameters have the shapes {found}, expected {shapes}. {hint}".rstrip())
        x = 2 * _numbers(seed, 2, 5, sizes[0])  # (batch, tokens, features)
        got = expect_tensor(model(x), (2, 5, sizes[-1]), f"the output for x {tuple(x.shape)} and sizes {sizes}")
        right = _stack(parameters, x, F.gelu)
        if not close(got, right):
            mistakes = [
                (_stack(parameters, x, F.gelu, last=True), "There is a gelu after the last layer: the output should be "
                                                           "free to take any value."),
                (_stack(parameters, x, F.gelu, first=True), "There is a gelu before the first layer."),
                (_stack(parameters, x, F.gelu, first=True, last=True), "There is a gelu at the ends: only between."),
                (_stack(parameters, x, lambda x: x), "There is no gelu between the layers. Without a bend, they could "
                                                     "be multiplied out into one."),
                (_stack(parameters, x, F.relu), "That is relu. Use F.gelu."),
                (_stack(parameters, x, lambda x: F.gelu(x, approximate="tanh")), "That is gelu in its tanh form. Leave "
                                                                                 "the argument out here."),
                (F.gelu(_stack(parameters, x, lambda x: x)), "The only gelu is after the last layer. It belongs "
                                                             "between the layers."),
            ]
            raise Wrong(f"For sizes {sizes} the output is not that of the layers in turn.{_hint(got, mistakes)}")
        got.sum().backward()
        expect(all(parameter.grad is not None for parameter in parameters), "No gradient reaches some of the weights: "
               "is there a detach or no_grad in forward?")
