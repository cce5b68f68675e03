"""The storyteller, from a finished run to data/storyteller, and its figures.

    llmbook pretrain data/storyteller/run.toml --out runs/storyteller   # about three and a half hours, on one core
    python tools/storyteller.py pack runs/storyteller                   # the model, its tokenizer and its log
    python tools/storyteller.py judge                                   # 500 stories, read back
    python tools/storyteller.py skills runs/storyteller                 # what is learned when: skills.json
    python tools/storyteller.py table --run runs/storyteller            # sizes and budgets: table.json
    python tools/storyteller.py card                                    # the figures, into data/README.md

The small sibling in data/storyteller-small is made in the same way, in a few minutes:

    llmbook pretrain data/storyteller-small/run.toml --out runs/storyteller-small
    python tools/storyteller.py pack runs/storyteller-small --to data/storyteller-small
    python tools/storyteller.py judge --model storyteller-small --to data/storyteller-small/judged.json

`table` trains one cell after the other, keeps each in --work, and goes on where it stopped.
"""

import argparse
import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from llmbook.book.packing import pack_model
from llmbook.book.storytelling import (
    SKILLS,
    Share,
    asked_endings,
    judge_stories,
    story_loss,
    story_skills,
    tell_stories,
)
from llmbook.cli.main import main as llmbook
from llmbook.cli.models import open_model
from llmbook.files import data_folder, replace_file
from llmbook.open_weights import load_pretrained
from llmbook.scale.run_state import NOT_COMPARED
from llmbook.scale.token_files import TokenFiles, write_token_files
from llmbook.scale.token_shards import TokenHeader
from llmbook.storyworld import check, stories
from llmbook.text import load_tokenizer, save_tokenizer
from llmbook.training import load_model

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

SIZES = ((80, 4, 3), (128, 4, 4), (256, 4, 4))  # d_model, heads, layers: 0.4, 1.1 and 3.7 million parameters
BUDGETS = (2.4e5, 4.8e5, 1.43e6)  # tokens to learn from: about 170, 330 and 1,000 steps
CAREFUL = 0.3  # a second temperature to judge at
TOP_P = 0.95  # and the first without the tail of unlikely tokens
LOG_ROWS = 300
SIBLING = "storyteller-small"
MARKS = ("<!-- figures: python tools/storyteller.py card -->", "<!-- end of the figures -->")
SIBLING_MARKS = ("<!-- figures of the sibling: python tools/storyteller.py card -->", "<!-- end of its figures -->")


def home() -> Path:
    return data_folder() / "storyteller"


def fail(text: str) -> None:
    raise SystemExit(f"storyteller: {text}")


def tokens_of(run: Path) -> tuple[int, int]:
    """The tokens and the stories that a run learns from."""
    header = TokenHeader.read(run / "tokens" / "train-0")
    if header is None:
        fail(f"{run} has no tokens/train-0: give the folder of a run of `llmbook pretrain data/storyteller/run.toml`")
    return sum(shard.tokens for shard in header.shards), sum(shard.documents for shard in header.shards)


# --- pack ---------------------------------------------------------------------------------------------------------

def pack(run: Path, target: Path) -> None:
    """A finished run's model in bfloat16, its tokenizer and its log, thinned, in `target`."""
    if not (run / "model" / "config.json").is_file():
        fail(f"{run} has no model yet: wait until the run is complete")
    check_settings(run, target / "run.toml")
    model = load_model(run / "model", "cpu")
    pack_model(model, load_tokenizer(run / "model" / "tokenizer.json"), target)
    tokens, count = tokens_of(run)
    replace_file(target / "log.csv", thinned((run / "log.csv").read_text(encoding="utf-8"), tokens / count).encode())
    size = sum(path.stat().st_size for path in target.iterdir())
    print(f"{target} holds {sum(p.numel() for p in model.parameters()):,} parameters, {size / 1e6:.1f} MB in all")


def check_settings(run: Path, recipe: Path) -> None:
    """Stop if the recipe is not that of the run."""
    noted = json.loads((run / "run.json").read_text(encoding="utf-8"))["settings"]
    given = tomllib.loads(recipe.read_text(encoding="utf-8")) if recipe.is_file() else {}
    flat = {f"{section}.{key}": value for section in ("model", "data", "training")
            for key, value in given.get(section, {}).items()}
    compared = {*flat, *noted} - {"command", *(f"training.{name}" for name in NOT_COMPARED)}
    wrong = next((name for name in sorted(compared) if flat.get(name) != noted.get(name)), None)
    if wrong:
        fail(f"{recipe} has {wrong} = {flat.get(wrong)}, the run had {noted.get(wrong)}: bring the recipe up to date, "
             "so that it trains this model")


def thinned(log: str, tokens_each: float, most: int = LOG_ROWS) -> str:
    """About `most` rows of a log, those with a val_loss among them; with the tokens read, and six digits."""
    rows = list(csv.DictReader(io.StringIO(log)))
    every = max(1, len(rows) // most)
    kept = [row for number, row in enumerate(rows, 1) if number == 1 or number % every == 0 or row["val_loss"]]
    out = io.StringIO()
    names = ["step", "tokens", "loss", "val_loss", "learning_rate", "seconds"]
    writer = csv.DictWriter(out, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in kept:
        row["tokens"] = round(int(row["examples"]) * tokens_each)
        writer.writerow({name: f"{float(row[name]):.6g}" if "." in str(row[name]) else row[name] for name in names})
    return out.getvalue()


# --- judge --------------------------------------------------------------------------------------------------------

def report(model: Any, tokenizer: Any, n: int, temperature: float, seed: int, shown: int = 0) -> list[dict[str, str]]:
    """Print what a model's stories are like, and the first `shown` of them. Returns the lines, as figure and value."""
    texts = tell_stories(model, tokenizer, n, temperature, seed)
    found, (nats, bits) = judge_stories(texts), story_loss(model, tokenizer)
    endings = asked_endings(model, tokenizer, n, temperature, seed)
    likely = judge_stories(tell_stories(model, tokenizer, n, temperature, seed, top_p=TOP_P))
    careful = judge_stories(tell_stories(model, tokenizer, n, CAREFUL, seed))
    lines = {"held-out loss, 200 stories": f"{nats:.3f} nats a token, {bits:.3f} bits a byte",
             f"sampled stories without a problem (temperature {temperature})": str(found.consistent),
             f"sampled stories without a problem (temperature {temperature}, top-p {TOP_P})": str(likely.consistent),
             f"sampled stories without a problem (temperature {CAREFUL})": str(careful.consistent),
             "sampled stories whose every sentence is one of this world": str(found.grammatical),
             **{f"sampled stories with the problem \"{kind}\"": f"{count} of {n}"
                for kind, count in found.problems.most_common()},
             "held-out beginnings that get the ending they ask for": str(endings["asked"]),
             "held-out beginnings that get any ending that fits": str(endings["any"])}
    for name, value in lines.items():
        print(f"{name:62} {value}")
    for text in texts[:shown]:
        print(f"\n{text}\n\n    {'; '.join(map(str, check(text).problems)) or 'no problem'}")
    return [{"figure": name, "value": value} for name, value in lines.items()]


# --- the card -----------------------------------------------------------------------------------------------------

def card(page: Path) -> None:
    """Write the figures of the storyteller, and of its sibling if it is there, into the page of the data."""
    text = replaced(page, page.read_text(encoding="utf-8"), MARKS, figures("storyteller"))
    if (data_folder() / SIBLING / "config.json").is_file():
        text = replaced(page, text, SIBLING_MARKS, figures(SIBLING))
    replace_file(page, text.encode())


def replaced(page: Path, text: str, marks: tuple[str, str], lines: Sequence[str]) -> str:
    """The text of a page with these lines between two marks."""
    before, first, rest = text.partition(marks[0] + "\n")
    _, second, after = rest.partition(marks[1])
    if not second:
        fail(f"{page} lacks the marks {marks[0]} and {marks[1]}: put them where the figures go")
    return before + first + "\n".join(lines) + "\n" + second + after


def figures(name: str) -> list[str]:
    """The lines of a model's tables."""
    folder = data_folder() / name
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    recipe_of = tomllib.loads((folder / "run.toml").read_text(encoding="utf-8"))
    with open(folder / "log.csv", newline="", encoding="utf-8") as file:
        last = list(csv.DictReader(file))[-1]
    model, tokenizer = load_pretrained(name, torch.float32, "cpu")
    sizes = config["config"]
    rows = [("model", f"{config['model']}, {sum(p.numel() for p in model.parameters()):,} parameters: d_model "
             f"{sizes['d_model']}, {sizes['n_heads']} heads, {sizes['n_layers']} layers, context "
             f"{sizes['context_length']}"),
            ("tokenizer", f"byte-pair encoding of {tokenizer.n_vocab:,} tokens, learned from short stories"),
            ("training", f"{int(last['step']):,} steps of {recipe_of['training']['batch_size']} stories: "
             f"{int(last['tokens']) / 1e6:.1f} million tokens, {float(last['seconds']) / 60:.0f} minutes")]
    judged = folder / "judged.json"
    rows += [(row["figure"], row["value"]) for row in (json.loads(judged.read_text()) if judged.is_file() else [])]
    lines = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    if (folder / "table.json").is_file():
        lines += ["", "| parameters | tokens | seconds | nats a token | bits a byte | without a problem | ending "
                  "asked for |", "|---:|---:|---:|---:|---:|---:|---:|"]
        lines += [f"| {row['parameters']:,} | {row['tokens']:,} | {row['seconds']:,} | {row['loss']:.3f} | "
                  f"{row['bits_per_byte']:.3f} | {_percent(row, 'consistent')} | {_percent(row, 'ending')} |"
                  for row in json.loads((folder / "table.json").read_text(encoding="utf-8"))]
    return lines


def _percent(row: Mapping[str, Any], name: str) -> str:
    low, high = (100 * row[f"{name}_{side}"] for side in ("low", "high"))
    return f"{100 * row[name]:.0f} % ({low:.0f} to {high:.0f}, n = {row[f'{name}_n']})"


# --- skills -------------------------------------------------------------------------------------------------------

def milestones(run: Path, target: Path, n: int, temperature: float, every: int = 1) -> list[dict[str, Any]]:
    """The skills after each checkpoint of a run, in `target`. What it holds already is not done again."""
    tokens, count = tokens_of(run)
    batch = json.loads((run / "run.json").read_text(encoding="utf-8"))["settings"].get("training.batch_size", 8)
    rows = json.loads(target.read_text(encoding="utf-8")) if target.is_file() else []
    done = {row["step"] for row in rows}
    for folder in sorted((run / "checkpoints").glob("step-*"))[::every]:
        step = int(folder.name.removeprefix("step-"))
        if step in done:
            continue
        model, tokenizer = open_model(str(folder), device="cpu", dtype="float32")
        found = story_skills(tell_stories(model, tokenizer, n, temperature))
        rows.append({"step": step, "tokens": round(step * batch * tokens / count), "n": n,
                     **{name: [found[name].right, found[name].of] for name in SKILLS}})
        rows.sort(key=lambda row: row["step"])
        write_rows(target, rows)
        print(f"{rows[-1]['tokens']:>12,} tokens  " + "  ".join(f"{name} {found[name].value:.2f}" for name in SKILLS),
              flush=True)
    return rows


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A list of rows as JSON, one a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, ("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n").encode())


# --- table --------------------------------------------------------------------------------------------------------

def prepare(work: Path, count: int, tokenizer_file: Path) -> TokenFiles:
    """The stories that all cells learn from, tokenized once."""
    folder = work / "tokens"
    header = TokenHeader.read(folder)
    if header is not None and header.complete:
        if (found := sum(shard.documents for shard in header.shards)) < count:
            fail(f"{folder} holds {found:,} stories, {count:,} are needed: remove it, or give another --work")
        return TokenFiles(folder)
    tokenizer = load_tokenizer(tokenizer_file)
    print(f"telling {count:,} short stories", flush=True)
    told = (story.text for story in stories(1, count, split="train", short=True))
    written = write_token_files(told, folder, tokenizer, processes=1, progress=False)
    save_tokenizer(tokenizer, folder / "tokenizer.json")
    return written


def recipe(base: Mapping[str, Any], size: tuple[int, int, int], tokens: Path, steps: int) -> dict[str, Any]:
    """The storyteller's settings for another size and length."""
    d_model, heads, layers = size
    model = {**base["model"], "d_model": d_model, "n_heads": heads, "n_layers": layers}
    if "d_hidden" in model:  # a Llama
        model["d_hidden"] = 8 * round(model["d_hidden"] * d_model / base["model"]["d_model"] / 8)
    if "n_kv_heads" in model:
        model["n_kv_heads"] = heads
    return {"model": model,
            "data": {"train": str(tokens), "documents": True, "validation": "short-stories"},
            "training": {**base["training"], "max_steps": steps, "warmup_steps": max(1, min(200, steps // 10)),
                         "eval_every": max(1, steps // 10)},
            "checkpoints": {"every_minutes": 2.0, "keep": 1}}


def toml(settings: Mapping[str, Mapping[str, Any]]) -> str:
    """Settings as TOML: the values are numbers, texts, truths and lists, which JSON writes the same way."""
    return "\n".join(f"[{section}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
                     for section, values in settings.items())


def measured(folder: Path, tokens: int, n: int) -> dict[str, Any]:
    """A row of the table: a run's model and what its stories are like."""
    model, tokenizer = open_model(str(folder / "model"), device="cpu", dtype="float32")
    nats, bits = story_loss(model, tokenizer)
    clean = judge_stories(tell_stories(model, tokenizer, n)).consistent
    ending = asked_endings(model, tokenizer, n)["asked"]
    with open(folder / "log.csv", newline="", encoding="utf-8") as file:
        seconds = float(list(csv.DictReader(file))[-1]["seconds"])
    config = model.config
    return {"parameters": sum(p.numel() for p in model.parameters()), "d_model": config.d_model,
            "n_layers": config.n_layers, "tokens": tokens, "seconds": round(seconds), "loss": round(nats, 4),
            "bits_per_byte": round(bits, 4), **shares("consistent", clean), **shares("ending", ending)}


def tokens_read(run: Path) -> float:
    """How many tokens a finished run has learned from, those of repeated stories counted again."""
    tokens, count = tokens_of(run)
    settings = json.loads((run / "run.json").read_text(encoding="utf-8"))["settings"]
    return settings["training.max_steps"] * settings["training.batch_size"] * tokens / count


def shares(name: str, share: Share) -> dict[str, Any]:
    low, high = share.interval
    return {name: round(share.value, 4), f"{name}_low": round(low, 4), f"{name}_high": round(high, 4),
            f"{name}_n": share.of}


def table(work: Path, target: Path, sizes: Sequence[tuple[int, int, int]], budgets: Sequence[float], n: int,
          run: Path | None = None) -> list[dict[str, Any]]:
    """Train and measure a cell for each size and budget, and measure `run`, a finished run of the largest size. It is a
    row of its own, or the cell of its budget where there is one."""
    base = tomllib.loads((home() / "run.toml").read_text(encoding="utf-8"))
    batch = base["training"]["batch_size"]
    kept = work / "cells.json"
    cells = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    files = prepare(work, int(max(budgets) / 250) + batch, home() / "tokenizer.json") if budgets else None
    for budget in sorted(budgets):
        for size in sizes:
            if run is not None and size == max(sizes) and abs(tokens_read(run) / budget - 1) < 0.05:
                continue
            each = len(files) / sum(shard.documents for shard in files.shards.header.shards)
            steps = max(2, round(budget / each / batch))
            name = f"{size[0]}x{size[2]}-{steps}"
            if name in cells:
                continue
            folder = work / name
            (work / f"{name}.toml").write_text(toml(recipe(base, size, files.folder, steps)), encoding="utf-8")
            if llmbook(["pretrain", str(work / f"{name}.toml"), "--out", str(folder)]):
                fail(f"{name} did not end: the same command goes on from its checkpoint")
            cells[name] = measured(folder, round(steps * batch * each), n)
            replace_file(kept, json.dumps(cells, indent=1).encode())
            print(json.dumps(cells[name]), flush=True)
    if run is not None and str(run) not in cells:
        cells[str(run)] = measured(run, round(tokens_read(run)), n)
        replace_file(kept, json.dumps(cells, indent=1).encode())
    rows = sorted(cells.values(), key=lambda row: (row["parameters"], row["tokens"]))
    write_rows(target, rows)
    return rows


# --- the command --------------------------------------------------------------------------------------------------

def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/storyteller.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("pack", help="put a finished run's model into data/storyteller")
    one.add_argument("run", type=Path)
    one.add_argument("--to", type=Path)
    one = commands.add_parser("judge", help="let it tell stories and read them back")
    one.add_argument("--model", default="storyteller", help="a name, or the folder of a run")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--show", type=int, default=0, help="print so many of the stories, too")
    one.add_argument("--to", type=Path, help="a file for the figures (the storyteller's: data/storyteller/judged.json)")
    two = commands.add_parser("skills", help="what a run has learned after each checkpoint")
    two.add_argument("run", type=Path)
    two.add_argument("--every", type=int, default=1, help="look at every so many-th checkpoint")
    for added, stories_each in ((one, 500), (two, 100)):
        added.add_argument("--n", type=int, default=stories_each, help=f"stories ({stories_each})")
        added.add_argument("--temperature", type=float, default=0.8)
    three = commands.add_parser("table", help="train three sizes with three budgets of tokens, and measure them")
    three.add_argument("--work", type=Path, default=Path("runs/storyteller-table"), help="where the cells are trained")
    three.add_argument("--run", type=Path, help="the finished run of the storyteller: its cell is not trained again")
    three.add_argument("--budgets", type=float, nargs="*", default=BUDGETS, help="tokens, such as 1e6 4e6")
    three.add_argument("--n", type=int, default=200, help="stories for each share (200)")
    commands.add_parser("card", help="write the figures into data/README.md")
    for added in (two, three):
        added.add_argument("--to", type=Path, help="the file to write")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    asked = parse(arguments)
    if asked.command == "pack":
        pack(asked.run, asked.to or home())
    elif asked.command == "judge":
        opened = load_pretrained("storyteller", torch.float32, "cpu") if asked.model == "storyteller" else open_model(
            asked.model, device="cpu", dtype="float32")
        lines = report(*opened, asked.n, asked.temperature, asked.seed, asked.show)
        if asked.to or asked.model == "storyteller":
            write_rows(asked.to or home() / "judged.json", lines)
    elif asked.command == "card":
        card(data_folder() / "README.md")
    elif asked.command == "skills":
        milestones(asked.run, asked.to or home() / "skills.json", asked.n, asked.temperature, asked.every)
    else:
        for row in table(asked.work, asked.to or home() / "table.json", SIZES, asked.budgets, asked.n, asked.run):
            print(json.dumps(row))


if __name__ == "__main__":
    main(sys.argv[1:])
