"""Several processes that train one model together, as torchrun starts them."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import wraps

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..devices import chosen_device
from ..files import process_place
from ..protocols import LossFunction

__all__ = ["Team"]

PARALLEL = ("ddp", "fsdp")
COMPARE_EVERY = 50  # batches


class Team:
    """The processes that train one model together: those that torchrun started, or this one alone.

    Args:
        device: where this process computes; the best there is if None. Of several CUDA devices, each process takes
            its own.
        parallel: "ddp": each process holds the whole model; "fsdp": each holds its rows of every weight.
        timeout: seconds to wait for the others before giving up.

    Attributes: size, the number of processes; rank, this one's number from 0; leads, True in process 0, the only one
    that prints and saves; device; sharded, True if each holds a part.

    Raises ValueError for another `parallel`, a device that is not here, or where RANK and WORLD_SIZE do not fit;
    RuntimeError if the others do not come. Source: Li et al., "PyTorch Distributed" (2020); Zhao et al., "PyTorch
    FSDP" (2023).
    """

    def __init__(self, device: torch.device | str | None = None, parallel: str = "ddp", timeout: float = 600):
        if parallel not in PARALLEL:
            raise ValueError(f"parallel is {parallel!r}: choose one of {', '.join(PARALLEL)}")
        self.rank, self.size = process_place()
        self.leads, self.sharded = self.rank == 0, parallel == "fsdp" and self.size > 1
        self.device = chosen_device(device)
        self._module: nn.Module | None = None
        self._batches, self._seen = 0, 0  # batches read, and a checksum over all of them
        if self.size == 1:
            return
        if self.device.type == "cuda":
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
            torch.cuda.set_device(self.device)
        if not dist.is_initialized():
            with self._lost_explained():
                self._meet(timedelta(seconds=timeout))

    def _meet(self, wait: timedelta) -> None:
        """Find the other processes, where torchrun's variables say."""
        store, *_ = next(dist.rendezvous("env://", timeout=wait))
        # After a restart by torchrun the store still has the addresses of the dead.
        attempt = f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
        dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo", rank=self.rank, timeout=wait,
                                store=dist.PrefixStore(attempt, store), world_size=self.size)

    def gather(self, numbers: Sequence[float]) -> list[list[float]]:
        """The numbers of all processes, in the order of their ranks; all must call it, with equally many."""
        if self.size == 1:
            return [list(numbers)]
        mine = torch.tensor([float(number) for number in numbers], dtype=torch.float64)
        if self.device.type == "cuda":
            mine = mine.to(self.device)
        found = [torch.empty_like(mine) for _ in range(self.size)]
        with self._lost_explained():
            dist.all_gather(found, mine)
            return [tensor.tolist() for tensor in found]

    def gather_bytes(self, content: bytes) -> list[bytes]:
        """The bytes of all processes, in the order of their ranks; all must call it."""
        if self.size == 1:
            return [content]
        sizes = [int(size) for [size] in self.gather([len(content)])]
        mine = torch.zeros(max(sizes), dtype=torch.uint8)
        mine[:len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        if self.device.type == "cuda":
            mine = mine.to(self.device)
        found = [torch.empty_like(mine) for _ in range(self.size)]
        with self._lost_explained():
            dist.all_gather(found, mine)
            return [tensor[:size].cpu().numpy().tobytes() for tensor, size in zip(found, sizes)]

    def sum(self, number: Tensor) -> Tensor:
        """A scalar on the team's device, added up over the processes in the order of their ranks; all must call it. On
        a GPU nobody waits for the result."""
        if self.size == 1:
            return number
        found = [torch.empty_like(number) for _ in range(self.size)]
        with self._lost_explained():
            dist.all_gather(found, number.contiguous())
        return torch.stack(found).sum()

    def own_rows(self, batch: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """This process's rows of a batch, each tensor (batch, ...) -> (own rows, ...): every `size`-th.

        Every process reads whole batches, and the same ones. Raises ValueError if there are fewer rows than processes,
        or if the batches turn out to differ: that is looked at with the first, and then every 50.
        """
        if self.size == 1:
            return tuple(batch)
        rows = len(batch[0])
        if rows < self.size:
            raise ValueError(f"a batch of {rows} cannot be split among {self.size} processes: raise batch_size, or "
                             "leave out the last batch (drop_last)")
        for tensor in batch:
            content = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
            self._seen = zlib.crc32(content.numpy(), self._seen)
        if self._batches % COMPARE_EVERY == 0 and len({seen for [seen] in self.gather([self._seen])}) > 1:
            raise ValueError(f"the {self.size} processes got different batches: give the loader a seed")
        self._batches += 1
        return tuple(tensor[self.rank::self.size] for tensor in batch)

    def share(self, model: nn.Module, loss_fn: LossFunction) -> LossFunction:
        """Prepare a model; returns what to call in place of `loss_fn`, with the same arguments.

        All begin with process 0's weights. Of one process it is `loss_fn` itself.
        """
        if self.size == 1:
            return loss_fn
        self._batches, self._seen = 0, 0  # of another run, maybe
        with self._lost_explained():
            for tensor in [*model.parameters(), *model.buffers()]:
                dist.broadcast(tensor.detach(), src=0)
            module = _LossOf(model, loss_fn)
            if self.sharded:
                self._shard(module)
                self._module = module
            else:
                self._module = nn.parallel.DistributedDataParallel(module)

        @wraps(loss_fn)  # it may have a `count_targets` of its own
        def compute(_: nn.Module, *batch: Tensor) -> Tensor:
            with self._lost_explained():
                return self._module(*batch)

        return compute

    def _shard(self, module: nn.Module) -> None:
        """Leave each process its rows of every parameter. A block's whole weights exist only while that block
        computes; so each block is a unit of its own, its experts included, and the rest is one more."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self.device.type, (self.size,))
        within: set[nn.Module] = set()  # parts of blocks
        for part in module.modules():
            if isinstance(part, nn.ModuleList) and part not in within:
                for block in part:
                    within.update(block.modules())
                    fully_shard(block, mesh=mesh)
        fully_shard(module, mesh=mesh)

    @contextmanager
    def exchange(self, last: bool) -> Iterator[None]:
        """The context of one of a step's forward and backward passes; gradients are exchanged in the last only. They
        become the mean over the processes."""
        with self._lost_explained():
            if self.sharded:
                self._module.set_requires_gradient_sync(last)
                yield
            elif self.size > 1 and not last:
                with self._module.no_sync():
                    yield
            else:
                yield

    @contextmanager
    def _lost_explained(self) -> Iterator[None]:
        """Raise a clearer error in place of one which says that another process of the team is gone."""
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not _is_about_others(error):
                raise
            raise LostProcessError(
                f"process {self.rank} waited in vain for another of the {self.size}, which has ended or hangs; its own "
                "message says why. torchrun --max-restarts=3 starts all again, and with checkpoints they go on from "
                f"the newest ({str(error).splitlines()[0][:120]})") from error


class LostProcessError(RuntimeError):
    """Another process of the team has ended or hangs."""


def _is_about_others(error: RuntimeError) -> bool:
    """Whether an error says that the exchange with other processes failed. NCCL's and the store's have a class of
    their own; Gloo raises plain RuntimeErrors, which begin with the place in its source."""
    if isinstance(error, LostProcessError):
        return False  # explained already
    return isinstance(error, dist.DistError) or "/gloo/" in str(error).split("]")[0]


class _LossOf(nn.Module):
    """A loss as a module, which is what PyTorch's wrappers need; so any `loss_fn` can use any part of the model."""

    def __init__(self, model: nn.Module, loss_fn: LossFunction):
        super().__init__()
        self.model, self.loss_fn = model, loss_fn

    def forward(self, *batch: Tensor) -> Tensor:
        return self.loss_fn(self.model, *batch)
