"""Sections card and train: the ceilings of the card, and training beside the plain loops."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import cycle, islice
from unittest.mock import patch

import torch
from torch.nn import functional as F

from llmbook import head_loss
from llmbook.gpt import forward_flops_per_token
from llmbook.training import TrainingConfig, next_token_loss, train
from tests.benchmarks import plain_gpt
from tests.benchmarks.plain_gpt import PlainTraining
from tests.gpu import sizes
from tests.gpu.bench import Bench
from tests.gpu.report import OURS, PLAIN, THEIRS

# Dense bfloat16 with sums in float32, TFLOP/s, as NVIDIA's data sheets state them (half of "with sparsity"). The first
# name that the card's contains counts.
STATED_TFLOPS = {"B200": 2250, "GH200": 989, "H200": 989, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989,
                 "A100": 312, "A10G": 70, "A10": 125, "A30": 165, "A40": 150, "L40S": 362, "L40": 181, "L4": 121,
                 "RTX 4090": 165, "RTX 3090": 71}


def stated_tflops(card: str) -> float | None:
    """What the maker states for a card, None if it is not in the table."""
    return next((number for name, number in STATED_TFLOPS.items() if name in card), None)


def card(bench: Bench) -> None:
    """The ceilings: a large product of matrices, and a copy inside the memory."""
    size = 8192 if bench.cuda else 256
    left, right = (torch.randn(size, size, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    number = torch.randn((2**30 if bench.cuda else 2**18) // 2, device=bench.device, dtype=torch.float32)
    copy = torch.empty_like(number)

    def best(function: Callable[[], object], repeats: int = 10) -> float:
        function()
        blocks = [bench.seconds(lambda: [function() for _ in range(repeats)]) / repeats for _ in range(3)]
        return statistics.median(blocks)

    tflops = 2 * size**3 / best(lambda: torch.matmul(left, right)) / 1e12
    moved = 2 * number.numel() * number.element_size() / best(lambda: copy.copy_(number)) / 1e9
    bench.about.update(matmul_tflops=tflops, copy_gb_s=moved)
    bench.compare(f"product of bfloat16 matrices, {size:,} x {size:,}", {OURS: lambda: {"TFLOP/s": tflops}})
    bench.compare("copy within the memory", {OURS: lambda: {"GB/s": moved}})


@dataclasses.dataclass(frozen=True)
class Work:
    """A training run to measure.

    Args:
        rows, tokens: of a batch; accumulation: batches to a step.
        precision: "bfloat16" or "float32"; compiled: whether torch.compile is asked for.
        warm, blocks, steps: steps left out first; then blocks of so many, whose median counts.
    """

    rows: int
    tokens: int
    precision: str = "bfloat16"
    compiled: bool = False
    accumulation: int = 1
    warm: int = 3
    blocks: int = 3
    steps: int = 5

    @property
    def name(self) -> str:
        parts = [self.precision, f"{self.rows} x {self.tokens:,}"]
        parts += [f"accumulation {self.accumulation}"] if self.accumulation > 1 else []
        return "training, " + ", ".join([*parts, "compiled" if self.compiled else "not compiled"])


def training_config(compiled: bool, **settings) -> TrainingConfig:
    return TrainingConfig(**{"learning_rate": 1e-4, "progress": False, "compile": compiled, **settings})


def figures(bench: Bench, work: Work, blocks: list[float]) -> Mapping[str, float]:
    """What is reported of the seconds that each block of steps took."""
    rate = work.rows * work.tokens * work.accumulation * work.steps / statistics.median(blocks)
    found = {"tokens/s": rate, **bench.peak_gib()}
    flops = 3 * forward_flops_per_token(sizes.gpt2_config(bench.tiny), work.tokens) * rate
    ceiling = bench.about.get("stated_tflops") or bench.about.get("matmul_tflops")
    if ceiling and work.precision == "bfloat16":
        found["% of the card's FLOP/s"] = 100 * flops / ceiling / 1e12
    return found


def batches(bench: Bench, work: Work) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return sizes.token_batches(sizes.gpt2_config(bench.tiny).vocab_size, 4, work.rows, work.tokens)


def ours(bench: Bench, work: Work, loss=next_token_loss, **changes) -> Mapping[str, float]:
    """Through `llmbook.training.train`."""
    steps, ends = work.warm + work.blocks * work.steps, []
    config = training_config(work.compiled, max_steps=steps, precision=work.precision, device=str(bench.device),
                             accumulation_steps=work.accumulation)
    train(sizes.gpt2(bench.tiny, bench.device, **changes), batches(bench, work), loss, config,
          on_step=lambda record: ends.append(time.perf_counter()))
    marks = ends[work.warm - 1 :: work.steps]
    return figures(bench, work, [after - before for before, after in zip(marks, marks[1:])])


def loop(bench: Bench, work: Work, model: torch.nn.Module, loss_of=None) -> Mapping[str, float]:
    """Through the plain loop."""
    training = PlainTraining(model, bench.device, work.precision == "bfloat16", work.compiled, work.accumulation,
                             loss_of)
    endless = cycle(batches(bench, work))

    def run(steps: int) -> None:
        for _ in range(steps):
            training.step(islice(endless, work.accumulation))

    run(work.warm)
    return figures(bench, work, [bench.seconds(lambda: run(work.steps)) for _ in range(work.blocks)])


def plain(bench: Bench, work: Work) -> Mapping[str, float]:
    return loop(bench, work, sizes.plain_gpt2(bench.tiny, bench.device))


def theirs(bench: Bench, work: Work) -> Mapping[str, float]:
    def loss_of(called, ids, targets):  # transformers shifts labels itself; shift_labels are shifted already
        return called(input_ids=ids, labels=targets, shift_labels=targets, use_cache=False).loss

    return loop(bench, work, sizes.their_gpt2(sizes.gpt2_config(bench.tiny), bench.device), loss_of)


def whole_loss(model, inputs, targets):
    """The mean cross-entropy of all logits at once, as the chapter first shows it."""
    return F.cross_entropy(model(inputs).flatten(0, 1).float(), targets.flatten())


def without_padding(bench: Bench, work: Work) -> Mapping[str, float]:
    """Ours, with the vocabulary's rows as they are also inside the product."""
    with patch.object(head_loss, "ROWS", 1):
        return ours(bench, work)


EVERYONE = {OURS: ours, PLAIN: plain, THEIRS: theirs}


def base_work(bench: Bench) -> Work:
    return Work(2, 16, warm=1, blocks=2, steps=2) if bench.tiny else Work(16, 1024)


def compare(bench: Bench, work: Work, *names: str, least: float = 3, note: str = "") -> None:
    bench.compare(work.name, {name: partial(EVERYONE[name], bench, work) for name in names}, least, note)


def training(bench: Bench) -> None:
    """GPT-2 124M: what matters most. transformers is compiled in the end, by `more_training`."""
    base = base_work(bench)
    compare(bench, base, *EVERYONE)
    compare(bench, dataclasses.replace(base, compiled=True), OURS, PLAIN)


def more_training(bench: Bench) -> None:
    """The same in other ways, in order of importance, and what takes long to compile late."""
    base = base_work(bench)
    compiled = dataclasses.replace(base, compiled=True)
    gathered = dataclasses.replace(base, accumulation=2 if bench.tiny else 8, warm=1, steps=2)
    large = dataclasses.replace(base, rows=4 if bench.tiny else 64, warm=1, steps=2 if bench.tiny else 3)
    in_float32 = dataclasses.replace(base, precision="float32", warm=1, steps=2 if bench.tiny else 3)
    padded = plain_gpt.padded(sizes.gpt2_config(bench.tiny).vocab_size)
    heads = {"whole logits in the loss": partial(ours, bench, loss=whole_loss),
             "rows of the vocabulary not padded": partial(without_padding, bench),
             f"whole logits and a vocabulary of {padded:,}": partial(ours, bench, loss=whole_loss, vocab_size=padded)}

    for name, measure in heads.items():
        bench.compare(f"{base.name}, {name}", {OURS: partial(measure, work=base)}, 3)
    compare(bench, gathered, OURS, PLAIN)
    compare(bench, in_float32, *EVERYONE, note="with TF32 products")
    if bench.tiny or (bench.cuda and torch.cuda.get_device_properties(0).total_memory > 60e9):
        compare(bench, large, OURS, PLAIN)
    name, measure = next(iter(heads.items()))
    bench.compare(f"{compiled.name}, {name}", {OURS: partial(measure, work=compiled)}, least=20 * bench.cuda)
    compare(bench, compiled, THEIRS, least=20 * bench.cuda)
