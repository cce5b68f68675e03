"""The checks of appendix A's exercises: wrong answers are told why, right ones pass however written."""

from functools import cache

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


def walk_as_the_chapter_has_it(loss_fn, start, rate, steps):
    w = start.requires_grad_()
    for _ in range(steps):
        loss_fn(w).backward()
        with torch.no_grad():
            w -= rate * w.grad
    return w.detach()


class Finder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.first, self.second = nn.Embedding(27, 16), nn.Linear(192, 128), nn.Linear(128, 2)

    def forward(self, ids):
        return self.second(F.gelu(self.first(self.embedding(ids).flatten(1))))


@cache  # the answers below share one training run
def trained():
    """A finder trained on the exercise's letters in other settings than the chapter's."""
    windows, targets = (tensor[: check._LETTERS] for tensor in check._windows(check.story_documents(30)))
    torch.manual_seed(0)
    model = Finder()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(2):
        for index in torch.randperm(len(targets)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(windows[index]), targets[index]).backward()
            optimizer.step()
    return model


class Changed(nn.Module):
    """The trained finder with its scores changed, where `where(ids)` says so: (n, 12) -> (n,)."""

    def __init__(self, change, where=lambda ids: torch.ones(len(ids), dtype=torch.bool)):
        super().__init__()
        self.change, self.where = change, where

    def forward(self, ids):
        scores = trained()(ids)
        return torch.where(self.where(ids)[:, None], self.change(scores), scores)


def by_heart(windows, targets):
    """Right about all letters that it learned from, and about no others."""
    known = {tuple(window): target for window, target in zip(windows.tolist(), targets.tolist())}

    class Heart(nn.Module):
        def forward(self, ids):
            ends = [known.get(tuple(window), 0) for window in ids.tolist()]
            return F.one_hot(torch.tensor(ends), 2).float()

    return Heart()


RIGHT = {
    "exercise_3a": [lambda x, w: x @ w.T, F.linear, lambda x, w: torch.einsum("bti,oi->bto", x, w),
                          lambda x, w: (w @ x.transpose(1, 2)).transpose(1, 2)],
    "exercise_3b": [lambda x: x - x.mean(dim=2, keepdim=True), lambda x: x - x.mean(-1)[..., None],
                          centre_in_loops],
    "exercise_3c": [lambda x, y: F.cross_entropy(x.flatten(0, 1), y.flatten()), each_alone,
                          lambda x, y: F.cross_entropy(x.transpose(1, 2), y),
                          lambda x, y: F.cross_entropy(x.view(-1, x.shape[-1]), y.view(-1)).item()],
    "exercise_1": [shapes, shapes_by_running],
    "exercise_2": [distances, distances_in_loops, torch.cdist],
    "exercise_4": [walk, walk_by_sgd, walk_by_new_tensors],
    "exercise_5": [lambda windows, targets: trained()],
}
WRONG = [
    ("exercise_3a", lambda x, w: x @ w, "still stops: mat1 and mat2 .* in the middle should be equal"),
    ("exercise_3a", lambda x, w: x @ w.reshape(x.shape[-1], -1), "scrambles the weight"),
    ("exercise_3a", lambda x, w: x @ (w if w.shape[0] == w.shape[1] else w.T), "the broken line runs"),
    ("exercise_3a", lambda x, w: w @ x.transpose(1, 2), "has shape"),
    ("exercise_3a", lambda x, w: x.view(3, 4) @ w, "multiply the sizes of both shapes"),
    ("exercise_3a", lambda x, w: 2 * F.linear(x, w), "the numbers are wrong"),
    ("exercise_3b", lambda x: x - x.mean(dim=2), "lost a dimension: which argument"),
    ("exercise_3b", lambda x: x - x.mean(dim=1, keepdim=True), "each feature's mean over the tokens"),
    ("exercise_3b", lambda x: x - x.mean(dim=0), "mean over the texts"),
    ("exercise_3b", lambda x: x - x.mean(), "one mean of all numbers"),
    ("exercise_3b", lambda x: x - x.mean(dim=(1, 2), keepdim=True), "one mean for each text"),
    ("exercise_3b", lambda x: x - x.sum(dim=2, keepdim=True), "subtracted the sum"),
    ("exercise_3b", lambda x: x.mean(dim=2, keepdim=True) - x, "sign is wrong"),
    ("exercise_3b", lambda x: x.mean(dim=2, keepdim=True).expand_as(x), "Those are the means"),
    ("exercise_3b", lambda x: x - (x.mean(2)[:, None] if x.shape[1] == x.shape[2] else x.mean(2, True)),
     "went to feature i of every token"),
    ("exercise_3b", lambda x: x - (x.mean(2) if x.shape[0] == x.shape[2] else x.mean(2, True)),
     "the broken line runs"),
    ("exercise_3c", F.cross_entropy, "dimension 1 for the classes"),
    ("exercise_3c", lambda x, y: F.cross_entropy(x.flatten(0, 1), y), "still stops"),
    ("exercise_3c", lambda x, y: F.cross_entropy(x, y.flatten()), "join batch and tokens in both"),
    ("exercise_3c", lambda x, y: F.cross_entropy(x.view(x.shape[0], x.shape[2], -1), y), "scrambles the scores"),
    ("exercise_3c", lambda x, y: F.cross_entropy(x.transpose(1, 2).reshape(-1, x.shape[2]), y.flatten()),
     "mixes the scores"),
    ("exercise_3c", lambda x, y: F.cross_entropy(x.transpose(1, 2).view(-1, x.shape[2]), y.flatten()),
     "no longer in a row in memory"),
    ("exercise_3c", lambda x, y: F.cross_entropy(x.transpose(0, 1).flatten(0, 1), y.flatten()),
     "token by token, the targets text by text"),
    ("exercise_3c", lambda x, y: F.cross_entropy(x.transpose(1, 2), y, reduction="none"), "Return their mean"),
    ("exercise_3c", lambda x, y: F.cross_entropy(x.transpose(1, 2), y, reduction="sum"), "That is the sum"),
    ("exercise_3c", lambda x, y: F.cross_entropy(x.transpose(1, 2), y, reduction="sum") / len(x),
     "divided by the number of texts"),
    ("exercise_3c", lambda x, y: F.cross_entropy(x[:, -1], y[:, -1]), "last place only"),
    ("exercise_3c", lambda x, y: F.cross_entropy(x[:, 0], y[:, 0]), "first place only"),
    ("exercise_3c", lambda x, y: F.cross_entropy(x.flatten(0, 1).softmax(-1), y.flatten()), "softmax itself"),
    ("exercise_3c", lambda x, y: -F.cross_entropy(x.transpose(1, 2), y), "sign is wrong"),
    ("exercise_3c", lambda x, y: F.cross_entropy(x if x.shape[1] == x.shape[2] else x.transpose(1, 2), y),
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
    ("exercise_4", walk_as_the_chapter_has_it, "changed `start`"),
    ("exercise_5", lambda windows, targets: trained().state_dict(), "Return the trained module"),
    ("exercise_5", lambda windows, targets: nn.Sequential(trained(), nn.Linear(2, 1)), "has shape"),
    ("exercise_5", lambda windows, targets: Changed(lambda scores: scores * float("nan")), "lower the learning rate"),
    ("exercise_5", lambda windows, targets: Changed(lambda scores: scores * 0), "never putting a space gives"),
    ("exercise_5", lambda windows, targets: Changed(lambda scores: scores.flip(1)), "order no space, space"),
    ("exercise_5", by_heart, "by heart"),
    ("exercise_5", lambda windows, targets: Changed(lambda scores: scores * 0, lambda ids: ids[:, 5] > 4),
     "train longer"),
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
