"""Exported models in the programs that they are exported for: `python -m tests.benchmarks.exports [--write]`.

For each model and format: is the text that the program writes the one that llmbook writes (20 prompts, 50 tokens each,
always the likeliest), do 500 random texts get the same ids, and what does the format cost in perplexity? What was
measured is kept in exports.json beside this file, and `--write` makes the tables of docs/export.md from it, so that one
model can be measured again alone: `--models storyteller`.
"""

import argparse
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llmbook.formats.export import export
from llmbook.gemma import Gemma, GemmaConfig
from llmbook.generation import generate
from llmbook.gpt import GPT, GPTConfig
from llmbook.llama import Llama, LlamaConfig
from llmbook.lora import add_lora, merge_lora
from llmbook.open_weights import load_pretrained
from llmbook.storyworld import stories
from tests.support.llama_server import LlamaServer
from tests.support.pretrained import shaken
from tests.support.repository import ROOT
from tests.support.tokenizer_files import random_texts

RESULTS, PAGE = Path(__file__).with_name("exports.json"), ROOT / "docs" / "export.md"
PROMPTS, PROMPT_TOKENS, NEW_TOKENS, TEXTS = 20, 12, 50, 500
FORMATS = ("folder", "F32", "F16", "BF16", "Q8_0", "Q4_1", "Q4_0")
FLOATS = FORMATS[:4]
BEGIN, END = "<!-- {}: written by tests/benchmarks/exports.py -->", "<!-- end -->"
SMALL = {"vocab_size": 2048, "context_length": 128, "d_model": 128, "n_heads": 4, "n_kv_heads": 2, "d_hidden": 256}


def story_texts(count: int) -> list[str]:
    """Stories with combinations that the storyteller was not trained on."""
    return [story.text for story in stories(seed=1_000_003, n=count, split="test", short=True)]


def manual_texts(count: int) -> list[str]:
    """Passages of Python's own documentation."""
    from pydoc_data.topics import topics

    whole = "\n".join(topics[name] for name in sorted(topics))
    return [whole[start : start + 800] for start in range(0, len(whole) - 800, len(whole) // count)][:count]


def storyteller() -> tuple[nn.Module, Any, bool]:
    return (*load_pretrained("storyteller", torch.float32, "cpu"), True)


def of_random_weights(build: Callable[[], nn.Module]) -> Callable[[], tuple[nn.Module, Any, bool]]:
    """A small model whose every number matters, with the storyteller's tokenizer."""
    return lambda: (shaken(build()), storyteller()[1], True)


def smollm(adapted: bool) -> tuple[nn.Module, Any, bool]:
    model, tokenizer = load_pretrained("smollm2-135m-instruct", torch.float32, "cpu")
    if adapted:
        torch.manual_seed(0)
        add_lora(model, 4)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".adapters." in name:
                    parameter.normal_(std=0.02)
        merge_lora(model)
    return model.eval(), tokenizer, False


MODELS: dict[str, Callable[[], tuple[nn.Module, Any, bool]]] = {
    "storyteller": storyteller,
    "SmolLM2-135M": lambda: smollm(False),
    "SmolLM2-135M with a merged adapter": lambda: smollm(True),
    "GPT": of_random_weights(lambda: GPT(GPTConfig(2048, 128, 128, 4, 3, 0.0, True))),
    "Qwen2": of_random_weights(lambda: Llama(LlamaConfig(**SMALL, n_layers=3, qkv_bias=True))),
    "Qwen3": of_random_weights(lambda: Llama(LlamaConfig(**SMALL, n_layers=3, qk_norm=True))),
    "SmolLM3": of_random_weights(lambda: Llama(LlamaConfig(**SMALL, n_layers=4, no_rope_layers=[3]))),
    "Gemma 3": of_random_weights(lambda: Gemma(GemmaConfig(**SMALL, n_layers=6, d_head=32, window=32))),
}
MEASURED_WELL = ("storyteller", "SmolLM2-135M")  # in all formats and with perplexities


@torch.no_grad()
def losses(model: nn.Module, texts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Nats per token of each text, (texts,)."""
    found = []
    for ids in texts:
        logits = model(torch.tensor([ids[:-1]]))[0].float()
        found.append(nn.functional.cross_entropy(logits, torch.tensor(ids[1:])))
    return torch.stack(found)


def in_transformers(folder: Path, prompts: torch.Tensor, texts: Sequence[str]) -> tuple[list[list[int]], list[Any]]:
    """What the library writes after prompts, and the ids that it gives to texts."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    written = model.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=NEW_TOKENS,
                             do_sample=False, eos_token_id=None, pad_token_id=0)
    return written[:, PROMPT_TOKENS:].tolist(), [tokenizer.encode(text, add_special_tokens=False) for text in texts]


def in_llama_cpp(server: LlamaServer, prompts: torch.Tensor,
                 texts: Sequence[str]) -> tuple[list[list[int]], list[Any]]:
    """The same of llama.cpp, which ends at an end."""
    return server.greedy(prompts.tolist(), NEW_TOKENS), [server.encode(text) for text in texts]


def until_end(ids: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Ids before the first end."""
    stop = next((place for place, number in enumerate(ids) if number in ends), len(ids))
    return list(ids[:stop])


def measure(name: str, folder: Path) -> list[dict[str, Any]]:
    """All rows of one model."""
    model, tokenizer, begins = MODELS[name]()
    well = name in MEASURED_WELL
    plain = manual_texts(24) if name.startswith("SmolLM2") else story_texts(60 if well else PROMPTS)
    first = list(tokenizer.encode("<|endoftext|>", allowed_special="all")) if begins else []
    ids = [[*first, *tokenizer.encode_ordinary(text)][:128] for text in plain]
    prompts = torch.tensor([text[:PROMPT_TOKENS] for text in ids[:PROMPTS]])
    ends = tokenizer.encode("<|endoftext|>", allowed_special="all")
    ends += [] if begins else tokenizer.encode("<|im_end|>", allowed_special="all")
    expected = [until_end(text, ends) for text in generate(model, prompts, NEW_TOKENS, temperature=0)[
        :, PROMPT_TOKENS:].tolist()]
    texts = random_texts(TEXTS, seed=7)
    expected_ids = [tokenizer.encode_ordinary(text) for text in texts]
    original, rows = losses(model, ids) if well else None, []
    for number_format in FORMATS if well else ("folder", "F32"):
        target = folder / ("folder" if number_format == "folder" else f"{number_format}.gguf")
        if number_format == "folder":
            export(model, tokenizer, target, begins_with_end=begins)
            written, found_ids = in_transformers(target, prompts, texts)
            size = (target / "model.safetensors").stat().st_size
        else:
            export(model, tokenizer, target, "gguf", quantization=number_format, begins_with_end=begins)
            size = target.stat().st_size
            with LlamaServer(target, PROMPTS, 128) as server:
                written, found_ids = in_llama_cpp(server, prompts, texts)
        row = {"model": name, "format": number_format, "megabytes": round(size / 1e6, 1),
               "program": "transformers" if number_format == "folder" else "llama.cpp",
               "same": sum(until_end(text, ends) == other for text, other in zip(written, expected, strict=True)),
               "ids": sum(a == b for a, b in zip(found_ids, expected_ids, strict=True))}
        if well:
            found = losses(load_pretrained(target, torch.float32, "cpu")[0], ids)
            worse = found - original
            row |= {"perplexity": math.exp(found.mean()), "more": math.exp(worse.mean()) - 1, "texts": len(ids),
                    "interval": 1.96 * float(worse.std()) / math.sqrt(len(ids))}
        rows.append(row)
        print(row, flush=True)
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    return rows


# --- the page ---

def equal_table(rows: Sequence[dict[str, Any]]) -> str:
    """Which texts and ids are the same, by model, format and program."""
    lines = ["| model | format | program | same text | same ids |", "|---|---|---|---:|---:|"]
    for row in rows:
        if row["format"] in FLOATS:
            lines.append(f"| {row['model']} | {said(row['format'])} | {row['program']} | {row['same']} of {PROMPTS} "
                         f"| {row['ids']} of {TEXTS} |")
    return "\n".join(lines)


def cost_table(rows: Sequence[dict[str, Any]]) -> str:
    """What each format costs in bytes and in perplexity."""
    lines = ["| model | format | MB | perplexity | against the original | same text in llama.cpp |",
             "|---|---|---:|---:|---:|---:|"]
    for row in rows:
        if "perplexity" in row and row["format"] != "folder":
            more = f"{100 * row['more']:+.2f} ± {100 * row['interval']:.2f} %"
            more = more if abs(row["more"]) > 1e-5 else "the same"
            lines.append(f"| {row['model']} | {row['format']} | {row['megabytes']} | {row['perplexity']:.3f} | {more} "
                         f"| {row['same']} of {PROMPTS} |")
    return "\n".join(lines)


def said(number_format: str) -> str:
    return "Hugging Face folder, float32" if number_format == "folder" else f"GGUF, {number_format}"


def write_page(rows: Sequence[dict[str, Any]]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name, table in (("equal", equal_table(rows)), ("cost", cost_table(rows))):
        before, _, rest = text.partition(BEGIN.format(name))
        if not rest:
            raise ValueError(f"{PAGE} lacks the line {BEGIN.format(name)}: add it, and {END} after it")
        text = f"{before}{BEGIN.format(name)}\n{table}\n{END}{rest.partition(END)[2]}"
    PAGE.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", choices=[*MODELS, "none"], default=[],
                        help="measure these again, alone; none: only write the tables")
    parser.add_argument("--write", action="store_true", help="write the tables of docs/export.md")
    chosen = parser.parse_args()
    kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in MODELS:
        if name in chosen.models or chosen.models == [] and name not in kept:
            with tempfile.TemporaryDirectory() as folder:
                kept[name] = measure(name, Path(folder))
            RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    rows = [row for name in MODELS for row in kept.get(name, ())]
    print(equal_table(rows), cost_table(rows), sep="\n\n")
    if chosen.write:
        write_page(rows)


if __name__ == "__main__":
    main()
