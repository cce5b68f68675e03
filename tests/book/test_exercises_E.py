"""Appendix E's checks: right answers pass, however written; wrong ones are named."""

import torch

from llmbook.book.exercises import chapter_E as check
from tests.support.exercise_tests import exercise_tests


def rank_for(matrix, share):
    squares = torch.linalg.svdvals(matrix) ** 2
    return int((squares.cumsum(0) / squares.sum() < share).sum()) + 1


def rank_by_hand(matrix, share):
    _, values, _ = torch.linalg.svd(matrix)
    held = 0.0
    for rank, value in enumerate(values, 1):
        held += value**2
        if held >= share * (matrix**2).sum():
            return torch.tensor(rank)
    return len(values)


def plain_rank(matrix, share):
    values = torch.linalg.svdvals(matrix)
    return int((values.cumsum(0) / values.sum() < share).sum()) + 1


def joined(A1, B1, s1, A2, B2, s2):
    return torch.cat([A1, A2]), torch.cat([s1 * B1, s2 * B2], dim=1)


def joined_in_a(A1, B1, s1, A2, B2, s2):
    return torch.cat([s2 * A2, s1 * A1]), torch.cat([B2, B1], dim=1)


def find_update(W, x, y):
    wanted = torch.linalg.lstsq(x, y - x @ W.T).solution.T  # (24, 32)
    u, s, v = torch.linalg.svd(wanted, full_matrices=False)
    return v[:3], u[:, :3] * s[:3]


def trained_update(W, x, y, steps=400):
    torch.manual_seed(0)
    A, B = (torch.randn(3, 32) / 32**0.5).requires_grad_(), torch.zeros(24, 3, requires_grad=True)
    optimizer = torch.optim.Adam([A, B], lr=3e-2)
    for _ in range(steps):
        loss = (x @ (W + B @ A).T - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return A, B


def random_rows(d_in, d_out, rank):
    return torch.randn(rank, d_in), torch.zeros(d_out, rank)


test_right, test_wrong, test_stubs = exercise_tests(
    check,
    {"exercise_1": [rank_for, rank_by_hand],
     "exercise_2": [lambda d_out, d_in: (d_out * d_in - 1) // (d_out + d_in),
                    lambda d_out, d_in: max(r for r in range(d_out) if r * (d_out + d_in) < d_out * d_in)],
     "exercise_3": [joined, joined_in_a],
     "exercise_4": [random_rows, lambda d_in, d_out, rank: (torch.zeros(rank, d_in), torch.randn(d_out, rank))],
     "exercise_5": [find_update, trained_update]},
    [("exercise_1", plain_rank, "squared singular values, not of the values"),
     ("exercise_1", lambda matrix, share: rank_for(matrix, share) - 1, "Places count from 0, ranks from 1"),
     ("exercise_1", lambda matrix, share: 4, "Add up squared singular values"),
     ("exercise_1", lambda matrix, share: 1.5, "should be a whole number"),
     ("exercise_2", lambda d_out, d_in: d_out * d_in // (d_out + d_in), "fewer, not as many"),
     ("exercise_2", lambda d_out, d_in: 0, "rank 1 is still smaller"),
     ("exercise_3", lambda A1, B1, s1, A2, B2, s2: (torch.cat([A1, A2]), torch.cat([B1, B2], 1)), "scales are missing"),
     ("exercise_3", lambda A1, B1, s1, A2, B2, s2: joined(s1 * A1, B1, s1, s2 * A2, B2, s2), "in twice"),
     ("exercise_3", lambda A1, B1, s1, A2, B2, s2: joined(A1, B1, s2, A2, B2, s1), "exchanged"),
     ("exercise_3", lambda A1, B1, s1, A2, B2, s2: (torch.cat([A2, A1]), torch.cat([B1 * s1, B2 * s2], 1)),
      "A1 above A2, and B1 beside B2"),
     ("exercise_3", lambda *arguments: joined(*arguments)[::-1], "A and B are exchanged"),
     ("exercise_4", lambda d_in, d_out, rank: (torch.zeros(rank, d_in), torch.zeros(d_out, rank)), "never moves"),
     ("exercise_4", lambda d_in, d_out, rank: (torch.randn(rank, d_in), torch.randn(d_out, rank)),
      "differs from the base model"),
     ("exercise_4", lambda d_in, d_out, rank: (torch.ones(rank, d_in), torch.zeros(d_out, rank)),
      "rank 1 instead of 3"),
     ("exercise_4", lambda d_in, d_out, rank: torch.zeros(rank, d_in), "Return two matrices"),
     ("exercise_5", lambda W, x, y: (torch.randn(3, 32), torch.zeros(24, 3)), "does not help"),
     ("exercise_5", lambda W, x, y: trained_update(W, x, y, 30), "train longer")],
)
