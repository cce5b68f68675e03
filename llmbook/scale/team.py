"""The processes that train one model together."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..devices import best_device

PARALLEL = ("ddp", "fsdp")


class Processes:
    """The processes that torchrun started, as one of them sees them; or this one alone."""

    def __init__(self, device: str | None = None, parallel: str = "ddp", timeout: float = 600):
        if parallel not in PARALLEL:
            raise ValueError(f"parallel is {parallel!r}: choose one of {', '.join(PARALLEL)}")
        self.size = int(os.environ.get("WORLD_SIZE", 1))  # torchrun sets these three
        self.rank = int(os.environ.get("RANK", 0)) if self.size > 1 else 0
        self.leads, self.sharded = self.rank == 0, parallel == "fsdp" and self.size > 1
        self.device, self.module = torch.device(device or best_device()), None
        if self.size > 1:
            if self.device.type == "cuda":
                self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
                torch.cuda.set_device(self.device)
            if not dist.is_initialized():
                backend = "nccl" if self.device.type == "cuda" else "gloo"
                wait = timedelta(seconds=timeout)
                store, *_ = next(dist.rendezvous("env://", timeout=wait))
                # After a restart by torchrun the store still has the addresses of the dead.
                attempt = f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
                dist.init_process_group(backend, store=dist.PrefixStore(attempt, store),
                                        rank=self.rank, world_size=self.size, timeout=wait)

    def gather(self, numbers: Sequence[float]) -> list[list[float]]:
        """The numbers of all processes, in the order of their ranks."""
        if self.size == 1:
            return [list(numbers)]
        mine = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        found = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(found, mine)
        return [tensor.tolist() for tensor in found]

    def mean(self, number: float) -> float:
        """The mean of a number over the processes."""
        return sum(found for [found] in self.gather([number])) / self.size

    def from_first(self, number: float) -> float:
        """Process 0's number, in every process."""
        return self.gather([number])[0][0]


class Team(Processes):
    """The processes that train one model together: those that torchrun started, or this one alone.

    Args:
        device: where this process computes; the best there is if None. Of several CUDA devices,
            each process takes its own.
        parallel: "ddp": each process holds the whole model; "fsdp": each holds a part.
        timeout: seconds to wait for the others before giving up.

    Attributes: size, the number of processes; rank, this one's number from 0; leads, True in
    process 0, the only one that prints and saves; device; sharded, True if each holds a part.
    Raises ValueError for another `parallel`.
    Source: Li et al., "PyTorch Distributed" (2020); Zhao et al., "PyTorch FSDP" (2023).
    """

    def share(self, model: nn.Module, loss_fn: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Prepare a model; returns what to call in place of `loss_fn`, with the same arguments.

        It gives this process's share of a batch's loss. Its backward pass leaves the gradients of
        the mean over the batch's rows. Of one process it is `loss_fn` itself.
        """
        if self.size == 1:
            return loss_fn
        for tensor in [*model.parameters(), *model.buffers()]:
            dist.broadcast(tensor.detach(), src=0)  # all begin with process 0's weights
        self.module = _Share(model, loss_fn, self)
        if self.sharded:
            _shard(self.module, self)
        else:
            self.module = nn.parallel.DistributedDataParallel(self.module)
        return lambda _, *batch: self.module(*batch)

    def part(self, last: bool) -> AbstractContextManager:
        """For one of several batches that make a step: exchange gradients after the last only."""
        if self.sharded:
            self.module.set_requires_gradient_sync(last)
        elif self.size > 1 and not last:
            return self.module.no_sync()
        return nullcontext()


class _Share(nn.Module):
    """The loss of one process's rows of a batch, as a module, which is what PyTorch's wrappers
    need; so any `loss_fn` can use any part of the model."""

    def __init__(self, model: nn.Module, loss_fn: Callable[..., Tensor], team: Team):
        super().__init__()
        self.model, self.loss_fn, self.team, self.checked = model, loss_fn, team, False

    def forward(self, *batch: Tensor) -> Tensor:
        if not self.model.training:  # an evaluation: every process reads all of it
            return self.loss_fn(self.model, *batch)
        rows, rank, size = len(batch[0]), self.team.rank, self.team.size
        if rows < size:
            raise ValueError(f"a batch of {rows} cannot be split among {size} processes: raise "
                             "batch_size, or leave out the last batch (drop_last)")
        if not self.checked and not _is_the_same_in(self.team, batch[0]):
            raise ValueError(f"the {size} processes got different batches: give the loader a seed")
        self.checked = True
        mine = [tensor[rank::size] for tensor in batch]
        # The wrappers average over processes. Where one has a row more, it must weigh more.
        return self.loss_fn(self.model, *mine) * (len(mine[0]) * size / rows)


def _is_the_same_in(team: Team, tensor: Tensor) -> bool:
    """By a number that other content, or another order, would hardly have."""
    numbers = tensor.detach().flatten().cpu().double()
    found = float(numbers @ torch.arange(1, len(numbers) + 1, dtype=torch.float64).sin())
    return len({other for [other] in team.gather([found])}) == 1


def _shard(module: nn.Module, team: Team) -> None:
    """Leave each process its rows of every parameter. A block's whole weights exist only while
    that block computes; so each block is a unit of its own, and the rest is one more."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(team.device.type, (team.size,))
    for part in module.modules():
        if isinstance(part, nn.ModuleList):
            for block in part:
                fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)


@contextmanager
def lost_processes_explained(team: Team) -> Iterator[None]:
    """Raise a clearer error in place of one which says that another process of the team is gone."""
    signs = ("connection", "gloo", "nccl", "timed out", "timeout", "peer", "socket")
    try:
        yield
    except RuntimeError as error:
        if team.size == 1 or not any(sign in str(error).lower() for sign in signs):
            raise
        raise RuntimeError(
            f"process {team.rank} waited in vain for another of the {team.size}, which has ended "
            "or hangs; its own message says why. torchrun --max-restarts=3 starts all again, and "
            f"with checkpoints they go on from the newest ({str(error).splitlines()[0][:120]})"
        ) from error
