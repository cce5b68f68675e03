"""Sections waits, correct and marked: how often the host waits for the device, and whether results are right."""

import contextlib
import re
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch

from llmbook import head_loss
from llmbook.compiled import compile_decoding
from llmbook.generation import generate
from llmbook.scale.checkpoints import Checkpoints
from llmbook.training import load_model, next_token_loss, save_model, train
from tests.gpu import sizes
from tests.gpu.bench import Bench
from tests.gpu.report import OURS, SKIPPED, Row
from tests.gpu.training import training_config, whole_loss

ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def counted_waits() -> Iterator[Counter]:
    """Counts where the host waits for the device inside, by file and line.

    PyTorch warns of operations that wait. Waiting on purpose (for a stream, an event, the device) it does not tell, so
    that is counted here.
    """
    places: Counter = Counter()

    def counting(method: Callable) -> Callable:
        def wait(*args, **kwargs):
            frame = sys._getframe(1)
            places[f"{frame.f_code.co_filename}:{frame.f_lineno}"] += 1
            return method(*args, **kwargs)
        return wait

    with contextlib.ExitStack() as stack:
        for owner in (torch.cuda.Event, torch.cuda.Stream):
            stack.enter_context(patch.object(owner, "synchronize", counting(owner.synchronize)))
        stack.enter_context(patch.object(torch.cuda, "synchronize", counting(torch.cuda.synchronize)))
        caught = stack.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield places
        finally:
            torch.cuda.set_sync_debug_mode("default")
            places.update(f"{item.filename}:{item.lineno}" for item in caught if "synchroniz" in str(item.message))


def waits(bench: Bench) -> None:
    """Waits a step of training with accumulation, and a token of decoding; what a start costs is subtracted."""
    accumulation, fewer, more = (2, 1, 3) if bench.tiny else (8, 2, 6)
    config = sizes.gpt2_config(bench.tiny)
    batches = sizes.token_batches(config.vocab_size, 4, 2, 16 if bench.tiny else 256)

    def steps(count: int) -> None:
        train(sizes.gpt2(bench.tiny, bench.device), batches, next_token_loss, training_config(
            False, max_steps=count, accumulation_steps=accumulation, precision="bfloat16", device=str(bench.device)))

    model = sizes.gpt2(bench.tiny, bench.device).to(torch.bfloat16).eval()
    prompt = torch.stack(sizes.prompts_of(config.vocab_size, [4])).to(bench.device)
    stops = {config.vocab_size - 1}

    def tokens(used) -> Callable[[int], None]:
        return lambda count: generate(used, prompt, count, temperature=0, stop_tokens=stops)

    def a_piece(run: Callable[[int], None], few: int, many: int) -> tuple[float, Counter]:
        run(few)  # warms up
        totals = []
        for count in (few, many):
            if not bench.cuda:
                run(count)
                continue
            bench.wait()
            with counted_waits() as places:
                run(count)
            totals.append(places)
        if not bench.cuda:
            return 0.0, Counter()
        return (totals[1].total() - totals[0].total()) / (many - few), totals[1] - totals[0]

    few, many = (2, 6) if bench.tiny else (8, 72)
    kinds = {f"training, accumulation {accumulation}": ("waits a step", 1.0, lambda: steps, fewer, more),
             "decoding, GPT-2 124M": ("waits a token", 1 / 8, lambda: tokens(model), few, many),
             "decoding, GPT-2 124M, compiled": ("waits a token", 1 / 8, lambda: tokens(compile_decoding(model)), few,
                                                many)}
    for work, (unit, limit, make, first, last) in kinds.items():
        bench.fresh()
        result, problem = bench.attempt(lambda make=make, first=first, last=last: a_piece(make(), first, last))
        if problem or not bench.cuda:
            problem = problem or f"{SKIPPED}: a CPU does not wait"
            bench.send(Row(bench.section, work, unit, {}, {OURS: problem}, limit))
            continue
        number, places = result
        where = ", ".join(f"{'/'.join(place.split('/')[-2:])} {count} times" for place, count in places.most_common(4))
        bench.send(Row(bench.section, work, unit, {OURS: number}, {}, limit, where if number > limit else ""))


def correctness(bench: Bench) -> None:
    """The same results with and without what makes it fast. Small models, which compile within seconds."""
    device, new = bench.device, 6 if bench.tiny else 40

    def differing_tokens(build: Callable, lengths: list[int]) -> float:
        model = build(device).eval()
        prompts = [prompt.to(device) for prompt in sizes.prompts_of(model.config.vocab_size, lengths)]
        one, other = (generate(used, prompts, new, temperature=0) for used in (model, compile_decoding(model)))
        return float(sum(int((a != b).sum()) for a, b in zip(one, other)))

    for name, build, lengths in (("a GPT", sizes.small_gpt, [5]), ("a Llama", sizes.small_llama, [5]),
                                 ("a GPT", sizes.small_gpt, [3, 9, 5])):
        bench.check(f"greedy tokens of {name} that differ when compiled, float32, prompts of "
                    f"{', '.join(map(str, lengths))}", "tokens", partial(differing_tokens, build, lengths), 0)

    batches = sizes.token_batches(1003, 4, 4, 16 if bench.tiny else 128)
    steps = 4 if bench.tiny else 20
    curves: dict[tuple, list[float]] = {}

    def curve(precision: str, compiled: bool = False) -> list[float]:
        key = precision, compiled
        if key not in curves:
            settings = training_config(compiled, max_steps=steps, precision=precision, device=str(device),
                                       learning_rate=1e-3)
            curves[key] = [record["loss"] for record in train(sizes.small_gpt(device), batches, next_token_loss,
                                                              settings).steps]
        return curves[key]

    def apart(first: tuple, second: tuple) -> float:
        return max(abs(a - b) / b for a, b in zip(curve(*first), curve(*second)))

    bench.check(f"losses of {steps} steps, bfloat16 beside float32", "difference",
                lambda: apart(("bfloat16",), ("float32",)), 0.02)
    bench.check(f"losses of {steps} steps, bfloat16, compiled beside not", "difference",
                lambda: apart(("bfloat16", True), ("bfloat16",)), 0.02)

    def losses_apart() -> float:
        results = []
        for loss_of in (next_token_loss, whole_loss):
            model = sizes.small_gpt(device)
            inputs, targets = (tensor.to(device) for tensor in batches[0])
            small = {"LEAST": 0, "CHUNK": {"cpu": 30_000, "cuda": 30_000}}  # as if the batch were large
            with patch.multiple(head_loss, **small):
                loss = loss_of(model, inputs, targets)
            loss.backward()
            results.append((float(loss.detach()), [p.grad for p in model.parameters()]))
        (one, grads), (other, other_grads) = results
        worst = max(float((a - b).norm() / b.norm().clamp(min=1e-12)) for a, b in zip(grads, other_grads))
        return max(abs(one - other) / other, worst)

    bench.check("loss and gradients, in pieces beside whole, float32", "difference", losses_apart, 1e-4)

    def saved_apart() -> float:
        with tempfile.TemporaryDirectory() as folder:
            model = sizes.small_gpt(device).eval()
            save_model(model, Path(folder) / "model")
            again = load_model(Path(folder) / "model", device)
            with torch.inference_mode():
                return float((model(batches[0][0][:1].to(device)) - again(batches[0][0][:1].to(device))).abs().max())

    bench.check("scores after saving and loading", "difference", saved_apart, 1e-5)

    def resumed_apart() -> float:
        def run(folder: Path, stop_after: int | None = None) -> list[float]:
            def on_step(record: dict) -> None:
                if record["step"] == stop_after:
                    raise KeyboardInterrupt

            settings = training_config(False, max_steps=6, precision="float32", device=str(device))
            return [record["loss"] for record in train(
                sizes.small_gpt(device), batches, next_token_loss, settings, on_step=on_step,
                checkpoints=Checkpoints(folder, every_steps=1)).steps]

        with tempfile.TemporaryDirectory() as folder:
            run(Path(folder) / "parts", stop_after=3)
            pieces, whole = run(Path(folder) / "parts"), run(Path(folder) / "whole")
            assert len(pieces) == len(whole) == 6
            return max(abs(a - b) / b for a, b in zip(pieces, whole))

    bench.check("losses of a run in two pieces beside a whole one", "difference", resumed_apart, 1e-4)


def marked(bench: Bench) -> None:
    """The repository's tests that need a GPU, in a process of their own."""
    files = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests").rglob("test_*.py"))
             if "mark.gpu" in path.read_text(encoding="utf-8") and path.name != "test_gpu_script.py"]
    if not files:
        bench.check("tests marked gpu that fail", "tests", lambda: 0.0, 0, note="there is none")
        return
    # Neither the settings nor the plugins of pyproject.toml: this needs pytest alone.
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "--confcutdir", "tests", "-p",
               "no:cacheprovider", "-m", "gpu", "--continue-on-collection-errors", "--tb=short", *files]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=max(5, bench.left() - 2))
        text = done.stdout
        if done.returncode not in (0, 1, 5):  # 5: every test was left out
            text += f"{done.stderr}\n1 failed: pytest gave {done.returncode}"
    except subprocess.TimeoutExpired as over:
        text = (over.stdout or b"").decode() + "\n1 failed: no time left"
    sys.stderr.write(text[-6000:] + "\n")
    last = text.strip().splitlines()[-1] if text.strip() else ""
    counts = {kind: sum(map(int, re.findall(rf"(\d+) {kind}", last)))
              for kind in ("passed", "failed", "errors?", "skipped")}
    wrong = counts["failed"] + counts["errors?"]
    failed = [" ".join(line.split()[1:2]) for line in text.splitlines() if line.startswith(("FAILED", "ERROR"))]
    note = f"{counts['passed']} pass, {counts['skipped']} skipped" + "".join(f", {name}" for name in failed[:8])
    bench.check("tests marked gpu that fail", "tests", lambda: float(wrong), 0, note=note)
