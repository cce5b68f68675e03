"""Checks for the exercises of appendix E, adapters."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from llmbook.book.exercises import Wrong, close, exercise, expect, expect_tensor


def _numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _whole(answer: Any, where: str) -> int:
    if answer is None or answer is ...:
        raise NotImplementedError
    if isinstance(answer, Tensor) and answer.numel() == 1:
        answer = answer.item()
    expect(isinstance(answer, (int, float)) and not isinstance(answer, bool) and answer == int(answer),
           f"{where}: the answer is {answer!r}; it should be a whole number.")
    return int(answer)


def _pair(answer: Any, d_in: int, d_out: int, rank: int) -> tuple[Tensor, Tensor]:
    if answer is None or answer is ...:
        raise NotImplementedError
    expect(isinstance(answer, (tuple, list)) and len(answer) == 2, "Return two matrices, A and B, in this order.")
    A, B = answer
    expect(not (isinstance(A, Tensor) and A.shape == (d_out, rank) and A.shape != (rank, d_in)),
           "A and B are exchanged: A is (rank, d_in), B is (d_out, rank).")
    return expect_tensor(A, (rank, d_in), "A"), expect_tensor(B, (d_out, rank), "B")


@exercise("E.1", "That is how section E.1 counts directions.")
def exercise_1(rank_for: Callable[[Tensor, float], int]) -> None:
    diagonal = torch.diag(torch.tensor([4.0, 2.0, 1.0, 1.0]))  # squares 16, 4, 1, 1 of 22
    cases = [(diagonal, 0.7, 1), (diagonal, 0.9, 2), (diagonal, 0.92, 3), (diagonal, 1 - 1e-4, 4)]
    for seed, (rows, columns) in enumerate(((6, 9), (9, 6))):
        matrix = _numbers(seed, rows, columns)
        squares = torch.linalg.svdvals(matrix).square()
        held = squares.cumsum(0) / squares.sum()
        cases += [(matrix, share, int((held < share).sum()) + 1) for share in (0.3, 0.6, 0.95)]
    for matrix, share, right in cases:
        where = f"For a {matrix.shape[0]} x {matrix.shape[1]} matrix and the share {share}"
        answer = _whole(rank_for(matrix.clone(), share), where)
        if answer == right:
            continue
        values = torch.linalg.svdvals(matrix)
        plain = int((values.cumsum(0) / values.sum() < share).sum()) + 1
        if answer == plain:
            raise Wrong(f"{where}: {answer}, and it should be {right}. The share is one of the squared singular "
                        "values, not of the values themselves.")
        if answer == right - 1:
            raise Wrong(f"{where}: {answer}, and it should be {right}. Places count from 0, ranks from 1.")
        raise Wrong(f"{where}: {answer}, and it should be {right}. Add up squared singular values until they reach "
                    "the share.")


@exercise("E.2", "Half the side of a square matrix, or less: from there on the adapter is the larger one.")
def exercise_2(largest_useful_rank: Callable[[int, int], int]) -> None:
    for d_out, d_in in ((576, 576), (3072, 576), (3, 4), (2, 2), (8, 8), (960, 577)):
        right = (d_out * d_in - 1) // (d_out + d_in)
        answer = _whole(largest_useful_rank(d_out, d_in), f"For {d_out} x {d_in}")
        if answer == right:
            continue
        numbers = answer * (d_out + d_in)
        expect(answer < right, f"For {d_out} x {d_in}: at rank {answer} the adapter has {numbers:,} numbers, the "
                               f"matrix {d_out * d_in:,}. It should have fewer, not as many.")
        raise Wrong(f"For {d_out} x {d_in}: rank {answer + 1} is still smaller than the matrix. A has rank x d_in "
                    "numbers, B d_out x rank.")


@exercise("E.3", "So adapters can be added up, and PEFT's three for query, key and value become one of ours.")
def exercise_3(joined: Callable[..., tuple[Tensor, Tensor]]) -> None:
    for seed, (d_in, d_out, first, second, s1, s2) in enumerate(((5, 7, 2, 3, 1.0, 1.0), (6, 4, 1, 1, 2.0, 0.5),
                                                                 (8, 8, 2, 1, 0.5, -3.0))):
        A1, B1 = _numbers(seed, first, d_in), _numbers(seed + 10, d_out, first)
        A2, B2 = _numbers(seed + 20, second, d_in), _numbers(seed + 30, d_out, second)
        A, B = _pair(joined(A1.clone(), B1.clone(), s1, A2.clone(), B2.clone(), s2), d_in, d_out, first + second)
        right = s1 * B1 @ A1 + s2 * B2 @ A2
        if close(B @ A, right, 1e-4):
            continue
        mistakes = {
            "The scales are missing: multiply each adapter's B (or its A) by its own.": B1 @ A1 + B2 @ A2,
            "Each scale is in twice, in A and in B: once is enough.": s1**2 * B1 @ A1 + s2**2 * B2 @ A2,
            "The two scales are exchanged.": s2 * B1 @ A1 + s1 * B2 @ A2,
        }
        for mistake, values in mistakes.items():
            if close(B @ A, values, 1e-4):
                raise Wrong(mistake)
        raise Wrong("B @ A is not the sum of the two updates. Put A1 above A2, and B1 beside B2, in the same order.")


@exercise("E.4", "Nothing changes at first, and a gradient reaches one of the two: after a step it reaches both.")
def exercise_4(start_of_adapter: Callable[[int, int, int], tuple[Tensor, Tensor]]) -> None:
    for d_in, d_out, rank in ((16, 12, 3), (9, 20, 1)):
        answer = start_of_adapter(d_in, d_out, rank)
        A, B = (part.detach().clone().requires_grad_() for part in _pair(answer, d_in, d_out, rank))
        expect(bool(A.isfinite().all() and B.isfinite().all()), "A number in A or B is not finite.")
        x, wanted = _numbers(1, 30, d_in), _numbers(2, 30, d_out)
        expect(bool((x @ A.T @ B.T == 0).all()), "The adapted model differs from the base model before any training: "
                                                 "B @ A must be 0 at the start.")
        (x @ A.T @ B.T - wanted).square().mean().backward()
        expect(bool(A.grad.any() or B.grad.any()), "Both gradients are 0, so this adapter never moves: the gradient of "
                                                   "A is a product with B, and that of B a product with A.")
        other = B if bool((B != 0).any()) else A
        if rank > 1:
            found = torch.linalg.matrix_rank(other.detach())
            expect(int(found) == rank, f"The matrix that is not 0 has the rank {found} instead of {rank}: equal rows "
                                       "get equal gradients for ever. Draw them at random.")


@exercise("E.5", "The update is found. A rank of 24 fits the noise too, and 1 cannot hold what is there.")
def exercise_5(find_update: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
    W, x, y, true = hidden_update()
    A, B = _pair(find_update(W.clone(), x.clone(), y.clone()), 32, 24, 3)
    new = _numbers(9, 2000, 32)
    wrong = (new @ (B.detach() @ A.detach() - true).T).square().mean().item()
    size = (new @ true.T).square().mean().item()
    if wrong <= 0.02 * size:
        return
    expect(wrong < 0.999 * size, f"Without any update the squared error is {size:.3f}, with yours {wrong:.3f}: it does "
                                 "not help. Does yours predict y - x W^T?")
    raise Wrong(f"The squared error on new inputs is {wrong:.3f}, with no update {size:.3f}. It should be at most "
                f"{0.02 * size:.3f}: train longer, or keep the three largest terms of the least-squares solution.")


def hidden_update() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """W (24, 32), x (500, 32), y (500, 24) and the update of rank 3 behind them, (24, 32)."""
    W, x = _numbers(3, 24, 32), _numbers(4, 500, 32)
    true = _numbers(5, 24, 3) @ _numbers(6, 3, 32) / 3
    return W, x, x @ (W + true).T + 0.5 * _numbers(7, 500, 24), true
