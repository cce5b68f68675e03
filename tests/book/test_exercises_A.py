"""The checks of appendix A's exercises and repairs: wrong answers are told why, right ones pass however written."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from llmbook.book.exercises import chapter_A as check
from tests.support.exercise_tests import exercise_tests


def each_alone(logits, targets):
    losses = [F.cross_entropy(row[None], target[None]) for text, wanted in zip(logits, targets)
              for row, target in zip(text, wanted)]
    return sum(losses) / len(losses)


def centre_in_loops(x):
    return torch.stack([torch.stack([token - token.mean() for token in text]) for text in x])


def shapes(b, t, d):
    return (b, d), (b, 1, d), (b, t, t), (b * t, d), (b, t, t, d)


def shapes_by_running(b, t, d):
    x = torch.ones(b, t, d)
    return [x[:, -1].shape, x.mean(dim=1, keepdim=True).shape, list((x @ x.transpose(1, 2)).shape),
            x.flatten(0, 1).shape, (x[:, :, None] + x[:, None]).shape]


def with_shape(place, change):
    def answer(b, t, d):
        every = list(shapes(b, t, d))
        every[place] = change(b, t, d)
        return every
    return answer


def apart(a, b):
    return a[:, None] - b


def distances(a, b):
    return apart(a, b).square().sum(-1).sqrt()


def distances_in_loops(a, b):
    return torch.stack([torch.stack([(u - v).norm() for v in b]) for u in a])


def distances_in_place(a, b):
    result = distances(a, b)
    a -= 1
    return result


def same(a, b):
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def same_by_writing(a, b):
    a, b = a.detach(), b.detach()
    before, kept = a.clone(), b.clone()
    a.fill_(-77.0)
    changed = not torch.equal(b, kept)
    a.copy_(before)
    return changed


def same_and_left_changed(a, b):
    a.detach().fill_(5.0)
    return True


def walk(loss_fn, start, rate, steps, sign=-1, forget=True, more=0):
    w = start.clone().requires_grad_()
    for _ in range(steps + more):
        if forget:
            w.grad = None
        loss_fn(w).backward()
        with torch.no_grad():
            w += sign * rate * w.grad
    return w


def walk_by_sgd(loss_fn, start, rate, steps):
    w = nn.Parameter(start.clone())
    optimizer = torch.optim.SGD([w], lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_fn(w).backward()
        optimizer.step()
    return w.detach()


def walk_by_new_tensors(loss_fn, start, rate, steps):
    w = start
    for _ in range(steps):
        w = w.detach().requires_grad_()
        w = w - rate * torch.autograd.grad(loss_fn(w), w)[0]
    return w


def walk_without_no_grad(loss_fn, start, rate, steps):
    w = start.clone().requires_grad_()
    for _ in range(steps):
        loss_fn(w).backward()
        w -= rate * w.grad
    return w


def walk_off_the_leaf(loss_fn, start, rate, steps):
    w = start.clone().requires_grad_()
    for _ in range(steps):
        loss_fn(w).backward()
        w = w - rate * w.grad
    return w


def walk_without_notes(loss_fn, start, rate, steps):
    w = start.clone()
    loss_fn(w).backward()
    return w


def walk_with_one_loss(loss_fn, start, rate, steps):
    w = start.clone().requires_grad_()
    loss = loss_fn(w)
    for _ in range(steps):
        loss.backward()
        with torch.no_grad():
            w -= rate * w.grad
    return w


def walk_by_the_first_gradient(loss_fn, start, rate, steps):
    w = start.clone().requires_grad_()
    loss_fn(w).backward()
    return start - steps * rate * w.grad


def walk_by_adam(loss_fn, start, rate, steps):
    w = nn.Parameter(start.clone())
    optimizer = torch.optim.Adam([w], lr=rate)
    for _ in range(min(1, steps)):
        loss_fn(w).backward()
        optimizer.step()
    return w


def walk_in_place(loss_fn, start, rate, steps):
    end = walk(loss_fn, start, rate, steps)
    start.copy_(end.detach())
    return end


class Stack(nn.Module):
    def __init__(self, layers, bend=F.gelu, first=False, last=False):
        super().__init__()
        self.layers, self.bend, self.first, self.last = layers, bend, first, last

    def forward(self, x):
        x = self.bend(x) if self.first else x
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if self.last or number + 1 < len(self.layers):
                x = self.bend(x)
        return x


def linears(sizes, bias=True):
    return nn.ModuleList(nn.Linear(a, b, bias) for a, b in zip(sizes, sizes[1:]))


def sequential(sizes):
    parts = [part for layer in linears(sizes) for part in (layer, nn.GELU())]
    return nn.Sequential(*parts[:-1])


def stack(**options):
    return lambda sizes: Stack(linears(sizes), **options)


def one_layer_again(sizes):
    every = linears(sizes)
    return Stack(nn.ModuleList([every[0]] * len(every)) if len(set(sizes)) == 1 else every)


class Detached(Stack):
    def forward(self, x):
        return super().forward(x).detach() + self.layers[-1].bias * 0


RIGHT = {
    "exercise_repair_1": [lambda x, w: x @ w.T, F.linear, lambda x, w: torch.einsum("bti,oi->bto", x, w),
                          lambda x, w: (w @ x.transpose(1, 2)).transpose(1, 2)],
    "exercise_repair_2": [lambda x: x - x.mean(dim=2, keepdim=True), lambda x: x - x.mean(-1)[..., None],
                          centre_in_loops],
    "exercise_repair_3": [lambda x, y: F.cross_entropy(x.flatten(0, 1), y.flatten()), each_alone,
                          lambda x, y: F.cross_entropy(x.transpose(1, 2), y),
                          lambda x, y: F.cross_entropy(x.view(-1, x.shape[-1]), y.view(-1)).item()],
    "exercise_1": [shapes, shapes_by_running],
    "exercise_2": [distances, distances_in_loops, torch.cdist],
    "exercise_3": [same, lambda a, b: a.untyped_storage() == b.untyped_storage()],
    "exercise_4": [walk, walk_by_sgd, walk_by_new_tensors],
    "exercise_5": [sequential, stack()],
}
WRONG = [
    ("exercise_repair_1", lambda x, w: x @ w, "still stops: mat1 and mat2 .* in the middle should be equal"),
    ("exercise_repair_1", lambda x, w: x @ w.reshape(x.shape[-1], -1), "scrambles the weight"),
    ("exercise_repair_1", lambda x, w: x @ (w if w.shape[0] == w.shape[1] else w.T), "the broken line runs"),
    ("exercise_repair_1", lambda x, w: w @ x.transpose(1, 2), "has shape"),
    ("exercise_repair_1", lambda x, w: x.view(3, 4) @ w, "multiply the sizes of both shapes"),
    ("exercise_repair_1", lambda x, w: 2 * F.linear(x, w), "the numbers are wrong"),
    ("exercise_repair_2", lambda x: x - x.mean(dim=2), "lost a dimension: which argument"),
    ("exercise_repair_2", lambda x: x - x.mean(dim=1, keepdim=True), "each feature's mean over the tokens"),
    ("exercise_repair_2", lambda x: x - x.mean(dim=0), "mean over the texts"),
    ("exercise_repair_2", lambda x: x - x.mean(), "one mean of all numbers"),
    ("exercise_repair_2", lambda x: x - x.mean(dim=(1, 2), keepdim=True), "one mean for each text"),
    ("exercise_repair_2", lambda x: x - x.sum(dim=2, keepdim=True), "subtracted the sum"),
    ("exercise_repair_2", lambda x: x.mean(dim=2, keepdim=True) - x, "sign is wrong"),
    ("exercise_repair_2", lambda x: x.mean(dim=2, keepdim=True).expand_as(x), "Those are the means"),
    ("exercise_repair_2", lambda x: x - (x.mean(2)[:, None] if x.shape[1] == x.shape[2] else x.mean(2, True)),
     "went to feature i of every token"),
    ("exercise_repair_2", lambda x: x - (x.mean(2) if x.shape[0] == x.shape[2] else x.mean(2, True)),
     "the broken line runs"),
    ("exercise_repair_3", F.cross_entropy, "dimension 1 for the classes"),
    ("exercise_repair_3", lambda x, y: F.cross_entropy(x.flatten(0, 1), y), "still stops"),
    ("exercise_repair_3", lambda x, y: F.cross_entropy(x, y.flatten()), "join batch and tokens in both"),
    ("exercise_repair_3", lambda x, y: F.cross_entropy(x.view(x.shape[0], x.shape[2], -1), y), "scrambles the scores"),
    ("exercise_repair_3", lambda x, y: F.cross_entropy(x.transpose(1, 2).reshape(-1, x.shape[2]), y.flatten()),
     "mixes the scores"),
    ("exercise_repair_3", lambda x, y: F.cross_entropy(x.transpose(1, 2).view(-1, x.shape[2]), y.flatten()),
     "no longer in a row in memory"),
    ("exercise_repair_3", lambda x, y: F.cross_entropy(x.transpose(0, 1).flatten(0, 1), y.flatten()),
     "token by token, the targets text by text"),
    ("exercise_repair_3", lambda x, y: F.cross_entropy(x.transpose(1, 2), y, reduction="none"), "Return their mean"),
    ("exercise_repair_3", lambda x, y: F.cross_entropy(x.transpose(1, 2), y, reduction="sum"), "That is the sum"),
    ("exercise_repair_3", lambda x, y: F.cross_entropy(x.transpose(1, 2), y, reduction="sum") / len(x),
     "divided by the number of texts"),
    ("exercise_repair_3", lambda x, y: F.cross_entropy(x[:, -1], y[:, -1]), "last place only"),
    ("exercise_repair_3", lambda x, y: F.cross_entropy(x[:, 0], y[:, 0]), "first place only"),
    ("exercise_repair_3", lambda x, y: F.cross_entropy(x.flatten(0, 1).softmax(-1), y.flatten()), "softmax itself"),
    ("exercise_repair_3", lambda x, y: -F.cross_entropy(x.transpose(1, 2), y), "sign is wrong"),
    ("exercise_repair_3", lambda x, y: F.cross_entropy(x if x.shape[1] == x.shape[2] else x.transpose(1, 2), y),
     "the broken line runs"),
    ("exercise_1", lambda b, t, d: shapes(b, t, d)[:4], "five shapes"),
    ("exercise_1", with_shape(0, lambda b, t, d: (b, 1, d)), "the slice"),
    ("exercise_1", with_shape(0, lambda b, t, d: (b, t)), "picks a token, not a feature"),
    ("exercise_1", with_shape(1, lambda b, t, d: (b, d)), "leaves a 1"),
    ("exercise_1", with_shape(1, lambda b, t, d: (b, t, 1)), "count from 0"),
    ("exercise_1", with_shape(2, lambda b, t, d: (b, d, d)), "inner sizes vanish"),
    ("exercise_1", with_shape(2, lambda b, t, d: (t, t)), "one product for each text"),
    ("exercise_1", with_shape(3, lambda b, t, d: (b, t * d)), r"that would be flatten\(1\)"),
    ("exercise_1", with_shape(3, lambda b, t, d: (b * t * d,)), "joins all"),
    ("exercise_1", with_shape(3, lambda b, t, d: (b + t, d)), "multiply"),
    ("exercise_1", with_shape(4, lambda b, t, d: (b, t, d)), "both have four"),
    ("exercise_1", with_shape(4, lambda b, t, d: (b, t, 1, d)), "That is the first one alone"),
    ("exercise_1", with_shape(4, lambda b, t, d: (b, 1, t, d)), "That is the second one alone"),
    ("exercise_1", with_shape(3, lambda b, t, d: b * t * d), "should be a tuple"),
    ("exercise_2", lambda a, b: distances(a, b) ** 2, "the root is missing"),
    ("exercise_2", lambda a, b: apart(a, b).abs().sum(-1), "added up the absolute differences"),
    ("exercise_2", lambda a, b: apart(a, b).square().mean(-1).sqrt(), "mean of the squares"),
    ("exercise_2", lambda a, b: apart(a, b).square().sqrt().sum(-1), "root of each square"),
    ("exercise_2", lambda a, b: apart(a, b).sum(-1), "differences of unlike sign cancel"),
    ("exercise_2", lambda a, b: apart(a, b).sum(-1).square().sqrt(), "square has to come before the sum"),
    ("exercise_2", lambda a, b: apart(a, b).sum(-1).sqrt(), "NaN"),
    ("exercise_2", lambda a, b: a @ b.T, "dot products"),
    ("exercise_2", lambda a, b: F.cosine_similarity(a[:, None], b, dim=-1), "cosine"),
    ("exercise_2", lambda a, b: distances(b, a), "Rows and columns are exchanged"),
    ("exercise_2", lambda a, b: distances(b, a) if len(a) == len(b) else distances(a, b), "columns are exchanged"),
    ("exercise_2", lambda a, b: apart(a, b).square().sqrt(), "features are still there"),
    ("exercise_2", lambda a, b: distances(a, b)[..., None], "keepdim"),
    ("exercise_2", lambda a, b: apart(a, b).square().sum(0).sqrt(), "wrong dimension"),
    ("exercise_2", lambda a, b: distances(a, b).diagonal().repeat(2)[: len(a)], "vector i with vector i"),
    ("exercise_2", lambda a, b: distances(a, b).sum(), "That is one number"),
    ("exercise_2", distances_in_place, "changed what it was given"),
    ("exercise_3", lambda a, b: a is b, "`is` and shapes"),
    ("exercise_3", lambda a, b: a.shape == b.shape and torch.equal(a, b), "Equal numbers"),
    ("exercise_3", lambda a, b: a.shape == b.shape, "Equal numbers"),
    ("exercise_3", lambda a, b: a.data_ptr() == b.data_ptr(), "address of its first element"),
    ("exercise_3", lambda a, b: a._base is b._base, "expected False"),
    ("exercise_3", same_by_writing, "no element in common"),
    ("exercise_3", same_and_left_changed, "should not write"),
    ("exercise_3", lambda a, b: True, "a copy has its own memory"),
    ("exercise_3", lambda a, b: False, "shares everything with itself"),
    ("exercise_3", lambda a, b: "yes", "True or False"),
    ("exercise_4", lambda f, w, r, n: w, "You have not moved"),
    ("exercise_4", lambda f, w, r, n: walk(f, w, r, n, forget=False), "backward.. adds"),
    ("exercise_4", lambda f, w, r, n: walk(f, w, r, n, sign=1), "uphill"),
    ("exercise_4", lambda f, w, r, n: walk(f, w, 1.0, n), "learning rate is missing"),
    ("exercise_4", lambda f, w, r, n: walk(f, w, r, max(1, n - 1)), "too few"),
    ("exercise_4", lambda f, w, r, n: walk(f, w, r, n, more=1), "too many"),
    ("exercise_4", lambda f, w, r, n: walk(f, w, r, max(1, n)), "With steps 0"),
    ("exercise_4", lambda f, w, r, n: walk(f, w, 2 * r, n), "twice as long"),
    ("exercise_4", walk_by_adam, "Adam"),
    ("exercise_4", walk_by_the_first_gradient, "anew in each step"),
    ("exercise_4", walk_in_place, "changed `start`"),
    ("exercise_4", walk_without_no_grad, "under torch.no_grad"),
    ("exercise_4", walk_off_the_leaf, "no leaf any more"),
    ("exercise_4", walk_without_notes, "PyTorch noted nothing"),
    ("exercise_4", walk_with_one_loss, "Compute the loss anew"),
    ("exercise_4", lambda f, w, r, n: f(walk(f, w, r, n)), "has shape"),
    ("exercise_5", lambda sizes: Stack(list(linears(sizes))), "plain list hides its layers"),
    ("exercise_5", stack(last=True), "after the last layer: the output"),
    ("exercise_5", stack(first=True), "before the first"),
    ("exercise_5", stack(first=True, last=True), "only between"),
    ("exercise_5", stack(bend=lambda x: x), "no gelu between"),
    ("exercise_5", stack(bend=F.relu), "That is relu"),
    ("exercise_5", stack(bend=nn.GELU("tanh")), "tanh form"),
    ("exercise_5", lambda sizes: Stack(linears(sizes, bias=False)), "biases are missing"),
    ("exercise_5", lambda sizes: Stack(nn.ModuleList(nn.Linear(b, a) for a, b in zip(sizes, sizes[1:]))),
     "wrong way round"),
    ("exercise_5", lambda sizes: Stack(linears(sizes[:-1])), "A layer is missing"),
    ("exercise_5", lambda sizes: Stack(linears([*sizes, sizes[-1]])), "a layer too many"),
    ("exercise_5", one_layer_again, "one set of weights"),
    ("exercise_5", lambda sizes: nn.Sequential(linears(sizes)[0], *list(linears(sizes))[1:], nn.GELU()),
     "only gelu is after the last"),
    ("exercise_5", lambda sizes: Detached(linears(sizes)), "No gradient reaches"),
    ("exercise_5", lambda sizes: F.gelu, "Return a module"),
]

test_right_answers_pass, test_wrong_answers, test_stubs_and_crashes = exercise_tests(check, RIGHT, WRONG)


@pytest.mark.parametrize("name", RIGHT)
def test_the_readers_random_numbers_are_left_alone(name):
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    getattr(check, name).verify(RIGHT[name][0])
    assert torch.equal(torch.randn(3), expected)


@pytest.mark.parametrize("place", range(5))
def test_a_shape_left_open_is_not_started(place):
    with pytest.raises(NotImplementedError):
        check.exercise_1.verify(with_shape(place, lambda b, t, d: ...))


def test_the_wrong_answers_are_many_for_each():
    for name in RIGHT:
        assert len({message for exercise, _, message in WRONG if exercise == name}) >= 3
