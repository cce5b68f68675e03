"""Small training runs that may be killed, and ways to start them: a process that has imported everything and forks,
which takes milliseconds, and torchrun. `python -m tests.support.training_script` is that process; with the name of a
function here and a folder, as torchrun calls it, it runs that function."""

import atexit
import json
import os
import random
import resource
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file

from llmbook import head_loss, model_files
from llmbook.devices import whole_tensor
from llmbook.experts import ExpertLoss, ExpertsConfig, ExpertsLlama
from llmbook.gpt import GPT, GPTConfig
from llmbook.instructions import instruction_loader, response_loss
from llmbook.scale import checkpoint_folder as module
from llmbook.scale import signals
from llmbook.scale.checkpoints import Checkpoints
from llmbook.scale.team import Team
from llmbook.text import make_dataloader
from llmbook.training import History, TrainingConfig, next_token_loss, save_model, train
from tests.support.repository import ROOT

IDS = torch.randint(11, (20 * 8 + 1,), generator=torch.Generator().manual_seed(1)).tolist()  # 20 windows of 8


def seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def gpt(seed: int = 0, dropout: float = 0.1, **changes) -> GPT:
    seed_all(seed)
    sizes = {"vocab_size": 11, "context_length": 8, "d_model": 16, "n_heads": 2, "n_layers": 2, "dropout": dropout}
    return GPT(GPTConfig(**{**sizes, **changes}))


def quick(steps: int = 14, **changes) -> TrainingConfig:
    return TrainingConfig(**{"max_steps": steps, "learning_rate": 1e-2, "warmup_steps": 2, "eval_every": 3,
                             "device": "cpu", "precision": "float32", "progress": False, **changes})


def loader(batch_size: int = 4, seed: int | None = 5, **settings):
    """Five batches a pass."""
    return make_dataloader(IDS, 8, batch_size, seed=seed, **settings)


def records(history: History) -> list[dict]:
    return [{name: value for name, value in step.items() if name != "seconds"} for step in history.steps]


def write_json(path: Path | str, content) -> None:
    """So that whoever waits for the file never sees half of it."""
    Path(f"{path}.half").write_text(json.dumps(content))
    os.replace(f"{path}.half", path)


# --- forked runs -------------------------------------------------------------------------------------------------

def keep_training(folder: str, out: str, steps: int) -> None:
    """A run with dropout, an unseeded loader and a checkpoint each step; writes its result at the end."""
    model = gpt(seed=int.from_bytes(os.urandom(2), "big") if any(Path(folder).glob("step-*")) else 0)
    history = train(model, loader(seed=None), next_token_loss, quick(steps), loader(seed=None, shuffle=False),
                    checkpoints=Checkpoints(folder, every_steps=1))
    save_file(model.state_dict(), f"{out}.safetensors")
    write_json(f"{out}.json", records(history))


def killed_before(folder: str, out: str, call: int) -> None:
    """As `keep_training`; dies before the given call, of all that write, or in the middle of its file."""
    calls = iter(range(call + 1))

    def dying(function, *arguments, **options):
        if next(calls) == call:
            if function is save_file:
                save_file(*arguments)
                Path(arguments[1]).write_bytes(Path(arguments[1]).read_bytes()[:-1000])
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)

    for owner, name in ((module, "save_file"), (module, "replace_file"), (module.os, "replace"), (module.os, "fsync"),
                        (module.os, "rmdir"), (module.os, "unlink")):
        setattr(owner, name, partial(dying, getattr(owner, name)))
    keep_training(folder, out, 4)


def with_a_full_disk(folder: str, out: str) -> None:
    """No file may grow above 4,096 bytes from step 3 to step 6, as far as the system is concerned."""
    def on_step(record):
        if record["step"] in (3, 7):
            keeper._finish()  # what was begun before
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096 if record["step"] == 3 else hard, hard))
        seen.append(sorted(path.name for path in Path(folder).iterdir() if path.name != ".lock"))

    hard, seen = resource.getrlimit(resource.RLIMIT_FSIZE)[1], []
    keeper = Checkpoints(folder, 2)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        history = train(gpt(), loader(), next_token_loss, quick(8), checkpoints=keeper, on_step=on_step)
    write_json(out, {"seen": seen, "warnings": [str(warning.message) for warning in warned],
                     "records": records(history)})


def until_a_signal(folder: str, out: str, hold: bool = False, grace: float = 1.0, ignored: bool = False,
                   workers: int = 0) -> None:
    """Writes `out`.ready at its third step. With `hold`, that step waits until there is a file `out`.go, and meanwhile
    `out`.noticed says that a signal was, and `out`.late that another would be the second one."""
    def loss(model, *batch):
        calls.append(None)
        if model.training and len(calls) == 3:
            write_json(f"{out}.ready", True)
            while hold and not os.path.exists(f"{out}.go") and time.monotonic() - start < 600:
                time.sleep(0.005)
                if keeper.signals.arrived and not os.path.exists(f"{out}.noticed"):
                    write_json(f"{out}.noticed", True)
                if keeper.signals.arrived and time.monotonic() - keeper.signals.first > grace:
                    write_json(f"{out}.late", True)
        time.sleep(0.005)
        return next_token_loss(model, *batch)

    if ignored:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    signals.GRACE = grace
    calls, start, keeper = [], time.monotonic(), Checkpoints(folder, 1000)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    history = train(gpt(), loader(num_workers=workers), loss, quick(1000), checkpoints=keeper)
    after = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    write_json(out, {"interrupted": history.interrupted, "records": records(history), "restored": before == after,
                     "saved": keeper.saved_step})


def saves_without_end(folder: str) -> None:
    """A model over the one before, all of whose weights are the number of the save."""
    model, number = gpt(vocab_size=2000, d_model=64), 0
    while True:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(number)
        save_model(model, folder)
        number += 1
        print(number, flush=True)


def waits_for_another(out: str, way: str, dies: int, how: int) -> None:
    """One of a team of two, of which the one with rank `dies` gets the signal `how` at its fourth step."""
    def loss(model, *batch):
        calls.append(None)
        if len(calls) == 4:
            write_json(f"{out}-{rank}.fourth", time.time())
            if rank == dies:
                os.kill(os.getpid(), how)
        return next_token_loss(model, *batch)

    calls, rank = [], int(os.environ["RANK"])
    patience = 60 if how == signal.SIGKILL else 8
    try:
        train(gpt(dropout=0.0), loader(), loss, quick(9), team=Team("cpu", way, timeout=patience))
        write_json(f"{out}-{rank}.json", ["no error", "", time.time()])
    except RuntimeError as error:
        write_json(f"{out}-{rank}.json", [str(error), str(error.__cause__), time.time()])


class Forks:
    """A process that has imported this module, and forks itself for each run."""

    def __init__(self):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen([sys.executable, "-m", "tests.support.training_script"], cwd=ROOT, text=True,
                                        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        atexit.register(self.process.kill)
        assert self.process.stdout.readline() == "ready\n"

    def _ask(self, **order) -> int | None:
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, job, output: Path, environment: dict | None = None, **arguments) -> int:
        """Run a function of this module in a new process, which prints to `output`; returns its id."""
        return self._ask(job=job.__name__, output=str(output), environment=environment or {}, arguments=arguments)

    def wait(self, process: int, timeout: float = 600) -> int | None:
        """Its exit code, minus the signal's number if that ended it; None if it had to be killed at last."""
        return self._ask(wait=process, timeout=timeout)

    def kill_after(self, process: int, seconds: float) -> int | None:
        if select.select([], [], [], seconds) and self._ask(wait=process, timeout=0, spare=True) is None:
            os.kill(process, signal.SIGKILL)
            return self.wait(process)
        return 0


@cache
def forks() -> Forks:
    return Forks()


def wait_for(path: Path | str, seconds: float = 600):
    """The content of a file that another process writes with `write_json`."""
    end = time.monotonic() + seconds
    while not Path(path).exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.005)
    return json.loads(Path(path).read_text())


def _serve() -> None:
    """All that is imported at a first use, by the optimizer above all, is imported here once. No backward pass: that
    would start what does not survive a fork."""
    import torch.distributed.device_mesh
    import torch.distributed.fsdp  # noqa: F401

    model = gpt()
    next_token_loss(model, *next(iter(loader())))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    torch.optim.AdamW(model.parameters(), fused=True).step()
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            print(json.dumps(_wait(order["wait"], order["timeout"], order.get("spare", False))), flush=True)
        elif process := os.fork():
            print(process, flush=True)
        else:
            _become(order)


def _wait(process: int, timeout: float, spare: bool) -> int | None:
    end = time.monotonic() + timeout
    while True:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            if spare:
                return None
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return None
        time.sleep(0.002)


def _become(order: dict) -> None:
    code = 1
    try:
        output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ.update(order["environment"])
        # Whoever started the tests may have ignored or blocked them.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        globals()[order["job"]](**order["arguments"])
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


# --- teams -------------------------------------------------------------------------------------------------------

def team_model(seed: int = 0) -> GPT:
    return gpt(seed, dropout=0.0)


def team_config(steps: int = 10, **changes) -> TrainingConfig:
    return quick(steps, **{"final_fraction": 1.0, "eval_every": 2, **changes})


def team_loader():
    """Batches of 7, 7 and 6."""
    return loader(7, drop_last=False)


def team_validation():
    return loader(3, shuffle=False, drop_last=False)


def team_checkpoints(folder: Path) -> Checkpoints:
    return Checkpoints(folder, every_steps=3, allow=("max_steps",))


class Rows:
    """What `instruction_loader` reads of an `InstructionDataset`: rows of 4 to 8 tokens."""

    def __init__(self, count: int):
        draw = random.Random(3)
        lengths = [draw.randint(4, 8) for _ in range(count)]
        self.rows = [(torch.tensor([draw.randrange(11) for _ in range(n)]), draw.randint(1, 3)) for n in lengths]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, place):
        return self.rows[place]


class Tagger(torch.nn.Module):
    """Two classes for a text, from the mean over its tokens."""

    def __init__(self, seed: int):
        super().__init__()
        seed_all(seed)
        self.embedding, self.head = torch.nn.Embedding(11, 8), torch.nn.Linear(8, 2)

    def forward(self, token_ids):
        return self.head(self.embedding(token_ids).mean(1))


def class_loss(model, token_ids, labels):
    return torch.nn.functional.cross_entropy(model(token_ids), labels)


def squares(model, token_ids, values):
    """Rows count by a rule of its own: those with a value above 0."""
    losses = (model(token_ids)[:, 0] - values).square() * (values > 0)
    return losses.sum() / (values > 0).sum().clamp(min=1)


squares.count_targets = lambda batch: int((batch[-1] > 0).sum())


def unequal_batches() -> list:
    """Batches of 7 and 6 rows whose targets count from none to all eight, most of them in process 0's rows."""
    draw, batches = torch.Generator().manual_seed(2), []
    for inputs, targets in loader(7, shuffle=False, drop_last=False):
        targets = targets.clone()
        for row in range(len(targets)):
            targets[row, int(torch.randint(0, 3 if row % 2 else 9, (), generator=draw)):] = -100
        batches.append((inputs, targets))
    batches[1][1][1::2] = -100  # nothing in process 1's rows
    return batches


def answers():
    """Chapter 7's batches: padded rows of unequal length, of which only the answers count."""
    return instruction_loader(Rows(21), 7)


def classes() -> list:
    return [(inputs, inputs[:, 0] % 2) for inputs, _ in loader(7, shuffle=False, drop_last=False)]


def values() -> list:
    return [(inputs, (inputs[:, 0] - 5) / 5) for inputs, _ in loader(7, shuffle=False, drop_last=False)]


def expert_model(seed: int) -> ExpertsLlama:
    """Chapter 11's: some experts get no token in one of the processes."""
    seed_all(seed)
    return ExpertsLlama(ExpertsConfig(vocab_size=11, context_length=8, d_model=16, n_heads=2, n_kv_heads=2, n_layers=2,
                                      mixers=("gated delta", "attention"), n_experts=6, experts_per_token=1,
                                      d_expert=8, d_shared=8))


# name: (model, batches, loss), each of unequal counts in two processes
TASKS = {"next-token": (team_model, unequal_batches, next_token_loss), "answers": (team_model, answers, response_loss),
         "classes": (Tagger, classes, class_loss), "own-count": (Tagger, values, squares),
         "experts": (expert_model, unequal_batches, ExpertLoss(0.0))}  # each process balances its own tokens


def part_ways_later(rank: int):
    """The same batches in both processes, until the tenth."""
    batches = [*loader(4, shuffle=False)] * 12
    return batches if rank == 0 else batches[:10] + batches[11:]


def _count_calls(counts: Counter, owner, name: str, label: str) -> None:
    original = getattr(owner, name, None)

    def counted(*arguments, **options):
        counts[label] += 1
        return original(*arguments, **options)

    if original is not None:
        setattr(owner, name, counted)


def _count_exchanges(counts: Counter) -> None:
    """Gradients travel through DDP's hook, or FSDP's function, whose name depends on PyTorch's version."""
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    original = Team.share

    def share(self, model, loss_fn):
        def hook(state, bucket):
            counts["exchanges"] += 1
            return allreduce_hook(state, bucket)

        compute = original(self, model, loss_fn)
        if not self.sharded:
            self._module.register_comm_hook(None, hook)
        return compute

    Team.share = share
    for name in ("reduce_scatter_single", "reduce_scatter_tensor"):
        _count_calls(counts, dist, name, "exchanges")


def all_of_a_team(out: str) -> None:
    """What two processes do together, in one start: each writes what it saw, and saves the models."""
    folder, rank, counts, report = Path(out), int(os.environ["RANK"]), Counter(), {}
    _count_exchanges(counts)
    _count_calls(counts, module, "save_file", "parts")
    _count_calls(counts, model_files, "write_weights", "models")
    teams = {way: Team("cpu", way) for way in ("ddp", "fsdp")}

    def run(name: str, way: str, config: TrainingConfig, checkpoints: Checkpoints | None = None) -> None:
        counts.clear()
        model, told = team_model(seed=rank), []
        history = train(model, team_loader(), next_token_loss, config, team_validation(), checkpoints, told.append,
                        team=teams[way])
        save_model(model, folder / name)
        report[name] = {"records": records(history), "told": len(told), **counts}

    def refusal(name: str, *arguments, **options) -> None:
        try:
            train(*arguments, **options)
        except (ValueError, RuntimeError) as error:
            report[name] = str(error)

    for way in teams:
        for batches in (1, 2):
            run(f"{way}-{batches}", way, team_config(accumulation_steps=batches, progress=True))
        run(f"one-then-{way}", way, team_config(), team_checkpoints(folder / f"for-{way}"))
        run(f"{way}-begins", way, team_config(6), team_checkpoints(folder / f"from-{way}"))
        for task in TASKS:
            make, batches, loss = TASKS[task]
            model = make(rank)
            history = train(model, batches(), loss, team_config(4, accumulation_steps=2), batches(), team=teams[way])
            save_file({name: whole_tensor(p.detach()) for name, p in model.named_parameters()},
                      folder / f"{way}-{task}-{rank}.safetensors")
            report[f"{way}-{task}"] = records(history)
    run("fsdp-then-fsdp", "fsdp", team_config(), team_checkpoints(folder / "from-fsdp"))
    for way in teams:
        for layout in ("llmbook", "huggingface"):
            model = team_model(seed=rank)
            teams[way].share(model, next_token_loss)
            counts.clear()
            save_model(model, folder / f"{way}-{layout}", layout)
            report[f"{way}-{layout}"] = counts["models"]
        report[f"{way}-random"] = _in_pieces(folder / f"random-{way}", teams[way])
        refusal(f"{way}-small", team_model(), loader(1), next_token_loss, team_config(2), team=teams[way])
        model, _ = team_model(), torch.manual_seed(rank)  # an unseeded loader shuffles in each in another way
        refusal(f"{way}-unseeded", model, loader(7, seed=None), next_token_loss, team_config(2), team=teams[way])
        refusal(f"{way}-later", team_model(), part_ways_later(rank), next_token_loss, team_config(60), team=teams[way])
        for checkpoint in (folder / f"for-{way}").glob("step-*"):  # only the first process looks, and all are told
            if rank == 0:
                (checkpoint / "checkpoint.json").write_text("{}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            refusal(f"{way}-damaged", team_model(), team_loader(), next_token_loss, team_config(), None,
                    team_checkpoints(folder / f"for-{way}"), team=teams[way])
        report[f"{way}-signal"] = _a_signal_to_one(folder / f"signal-{way}", teams[way])
    write_json(folder / f"rank-{rank}.json", report)


def a_compiled_team(out: str) -> None:
    """Two processes whose loss is compiled (all but the machine code) and goes through the tokens in chunks."""
    report, rank, compile_wholly = {}, int(os.environ["RANK"]), torch.compile
    head_loss.LEAST, head_loss.CHUNK = 0, {"cpu": 11 * 16}
    torch.compile = partial(compile_wholly, backend="aot_eager")
    for way in ("ddp", "fsdp"):
        model, team = team_model(seed=rank), Team("cpu", way)
        config = team_config(6, compile=True, accumulation_steps=2)
        report[way] = records(train(model, team_loader(), next_token_loss, config, team_validation(), team=team))
        save_model(model, Path(out) / way)
    write_json(Path(out) / f"rank-{rank}.json", report)


def _in_pieces(folder: Path, team: Team) -> dict:
    """A run with dropout, and one in two pieces; in each process other draws."""
    def piece(steps: int, seed: int, keep: Checkpoints | None = None):
        model = gpt(seed)
        seed_all(seed)
        history = train(model, team_loader(), next_token_loss, team_config(steps), team_validation(), keep, team=team)
        return records(history), {name: whole_tensor(p.detach()) for name, p in model.named_parameters()}

    whole, weights = piece(8, 10 + team.rank)
    piece(6, 10 + team.rank, Checkpoints(folder, 6))  # evaluated there in any case
    pieces, others = piece(8, 20 + team.rank, Checkpoints(folder, 6, allow=["max_steps"]))
    kept = json.loads((folder / "step-00000006" / "checkpoint.json").read_text())["random"]
    return {"records": pieces == whole, "weights": all(torch.equal(weights[name], others[name]) for name in weights),
            "states": len(kept), "different": kept[0] != kept[1], "drew": torch.rand(2).tolist()}


def _a_signal_to_one(folder: Path, team: Team) -> dict:
    """Process 1 gets SIGTERM in its third step; all end after the same step, with a checkpoint."""
    def loss(model, *batch):
        calls.append(None)
        if team.rank == 1 and len(calls) == 3:
            signal.raise_signal(signal.SIGTERM)
        return next_token_loss(model, *batch)

    calls, keeper = [], Checkpoints(folder, 100)
    history = train(team_model(), team_loader(), loss, team_config(50), checkpoints=keeper, team=team)
    return {"interrupted": history.interrupted, "steps": len(history.steps), "saved": keeper.saved_step}


def a_team_that_loses_one(out: str) -> None:
    """In the first attempt process 1 is killed in its sixth step."""
    def loss(model, *batch):
        calls.append(None)
        if first and rank == 1 and len(calls) == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return next_token_loss(model, *batch)

    calls, rank, first = [], int(os.environ["RANK"]), os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    model, told = team_model(), []
    history = train(model, team_loader(), loss, team_config(), on_step=told.append, team=Team("cpu"),
                    checkpoints=Checkpoints(Path(out) / "checkpoints", every_steps=2))
    save_model(model, Path(out) / "model")
    if rank == 0:
        write_json(Path(out) / "result.json", {"records": records(history), "told": len(told), "first": first})


def torchrun(job, out: Path, restarts: int = 0) -> subprocess.CompletedProcess:
    """Two processes that run a function of this module; what each prints is under out/logs."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone",
               f"--max-restarts={restarts}", "--redirects=3", f"--log-dir={out / 'logs'}",
               "--module", "tests.support.training_script", job.__name__, str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=200)


def pair(job, folder: Path, **arguments) -> list[int]:
    """A team of two, without torchrun, which would end the other when one ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    return [forks().start(job, folder / f"printed-{rank}", environment={
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port}, **arguments) for rank in (0, 1)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        globals()[sys.argv[1]](sys.argv[2])
    else:
        _serve()
