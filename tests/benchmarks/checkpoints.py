"""What checkpoints and the loader cost: `python -m tests.benchmarks.checkpoints`.

Trains GPT-2's 124M shapes in float32, 4 x 256 tokens a step, on random windows of token files, with a checkpoint
(1.5 GB) a minute. A thread writes it while training goes on; so what it costs is the time that the steps take longer
than the median of those beside which nothing was written. Also: the loader's share of a step. About six minutes.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from llmbook.book.corpora import python_documentation
from llmbook.gpt import GPT, GPTConfig, count_parameters
from llmbook.scale.checkpoints import Checkpoints
from llmbook.scale.token_files import TokenWindows, write_token_files
from llmbook.text import load_tokenizer
from llmbook.training import TrainingConfig, next_token_loss, train


class Watched:
    """A loader whose time is added up."""

    def __init__(self, windows: TokenWindows):
        self.windows, self.seconds = windows, 0.0

    def __iter__(self):
        while True:
            start = time.perf_counter()
            batch = next(self.windows)
            self.seconds += time.perf_counter() - start
            yield batch

    def state_dict(self):
        return self.windows.state_dict()

    def load_state_dict(self, state):
        self.windows.load_state_dict(state)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=6)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = GPT(GPTConfig(dropout=0.0))
    with tempfile.TemporaryDirectory() as folder:
        tokens = write_token_files(python_documentation(), Path(folder) / "tokens", load_tokenizer("gpt2"),
                                   progress=False)
        loader = Watched(TokenWindows(tokens, 256, 4))
        ends, started = [time.perf_counter()], []  # when each step ended; steps after which a checkpoint began
        busy, unfinished = set(), set()  # steps beside which something was written; after which it still was

        class Noted(Checkpoints):
            def after_step(self, last: bool) -> bool:
                before = self._last_step
                stop = super().after_step(last)
                if self._last_step != before:
                    started.append(self._last_step)
                return stop

        def on_step(record: dict) -> None:  # called before the checkpoint of this step
            ends.append(time.perf_counter())
            step = record["step"]
            if started and (started[-1] == step - 1 or step - 1 in unfinished):
                busy.add(step)
                if not keep._writing[1].done():
                    unfinished.add(step)
            if ends[-1] - ends[0] > 60 * options.minutes:
                raise KeyboardInterrupt

        keep = Noted(Path(folder) / "checkpoints", every_minutes=1)
        config = TrainingConfig(max_steps=10**6, precision="float32", device="cpu", progress=False)
        train(model, loader, next_token_loss, config, checkpoints=keep, on_step=on_step)
    steps = [after - before for before, after in zip(ends, ends[1:])][2:]  # the first two warm up
    written = [number + 3 in busy for number in range(len(steps))]
    quiet = statistics.median(step for step, slow in zip(steps, written) if not slow)
    # The copy in memory is made at the beginning of the first busy step, so it counts.
    extra, count = sum(step - quiet for step, slow in zip(steps, written) if slow), len(started)
    sys.stdout.write(
        f"{count_parameters(model) / 1e6:.0f}M parameters, {len(steps)} steps, {count} checkpoints, "
        f"{sum(written)} steps beside their writing\n"
        f"a step beside which nothing is written: {quiet:.2f} s (median)\n"
        f"a checkpoint costs {extra / count:.2f} s: {100 * extra / count / 60:.1f} % of a minute\n"
        f"the loader takes {1000 * loader.seconds / len(ends):.2f} ms a step: the rest is "
        f"{100 * (1 - loader.seconds / sum(steps)):.2f} % of the time\n")


if __name__ == "__main__":
    main()
