"""The command: cost."""

import json

import pytest
import torch
from torch.nn import Linear

from llmbook.cli import cost
from llmbook.experts import ExpertsConfig, ExpertsLlama
from llmbook.gpt import GPT, GPTConfig, count_parameters
from llmbook.llama import Llama, LlamaConfig
from llmbook.text import load_tokenizer
from tests.cli.helpers import STORY, TINY, pretrain, tree


def test_a_dry_run_counts_and_writes_nothing(place, call):
    before = tree(place)
    code, out, err = pretrain(call, "--dry-run", "--max-steps", 10, "--set", "training.accumulation_steps=3")
    assert code == 0, err
    assert tree(place) == before and not (place / "out").exists()
    table = {line[:22].strip(): line[22:].split() for line in out.splitlines()}
    parameters = sum(p.numel() for p in GPT(GPTConfig(300, 32, 16, 2, 1)).parameters())
    assert table["parameters"] == [f"{parameters:,}"]
    assert table["tokens a step"][0] == "384" and table["tokens in total"] == ["3,840"]
    assert table["FLOPs a step"][0] == f"{6 * parameters * 384:.2e}"
    assert table["FLOPs in total"][0] == f"{6 * parameters * 3840:.2e}"
    n_tokens = int((len(load_tokenizer("tokenizer.json").encode(STORY)) + 1) * 0.9)
    assert table["passes over the data"] == [f"{3840 / n_tokens:.2f}", "of", f"{n_tokens:,}", "tokens"]
    assert "measured: 19 steps on cpu" in out and float(table["tokens a second"][0].replace(",", "")) > 100


def test_a_dry_run_of_what_is_too_large_estimates(place, call):
    (place / "run.toml").write_text(TINY.replace("d_model = 16\nn_heads = 2\nn_layers = 1", 'preset = "gpt2-xl"'))
    code, out, err = pretrain(call, "--dry-run", "--batch-size", 100_000)
    assert code == 0, err
    assert "estimated from the speed of a matrix product" in out and "TOO LITTLE" in out and " days " in out


@pytest.mark.parametrize("model", [
    GPT(GPTConfig(500, 64, 64, 4, 4, dropout=0.0)), Llama(LlamaConfig(500, 64, 64, 4, 2, 4, 128))],
    ids=["gpt", "llama"])
def test_the_estimate_of_activations_is_near_what_autograd_keeps(model):
    ids, kept, own = torch.randint(500, (8, 64)), {}, {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes(), tensor  # alive, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        torch.nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
    estimate = cost.activation_bytes(model, ids.numel(), 500, half=False)
    assert 0.8 < estimate / sum(size for size, _ in kept.values()) < 1.6


def test_experts_that_are_not_chosen_compute_nothing():
    sizes = dict(vocab_size=300, context_length=32, d_model=16, n_heads=2, n_kv_heads=2, n_layers=3, d_expert=24,
                 d_shared=8)
    many, two = (ExpertsLlama(ExpertsConfig(**sizes, n_experts=number, experts_per_token=2)) for number in (6, 2))
    routers = 3 * 4 * 16  # four experts more to choose from
    assert cost.computing_parameters(many) == cost.computing_parameters(two) + routers
    assert cost.computing_parameters(two) == sum(weight.numel() for weight in two.parameters())
    kept = [cost.activation_bytes(model, 10, 300, half=False) for model in (many, two)]
    assert kept[0] - kept[1] == 10 * 3 * 4 * 4  # the routers' further scores


def test_a_dry_run_counts_what_computes(place, call):
    (place / "run.toml").write_text(TINY.replace("dropout = 0.1", 'kind = "experts"\nn_kv_heads = 2\nd_expert = 12'))
    code, out, err = pretrain(call, "--dry-run")
    assert code == 0, err
    model = ExpertsLlama(ExpertsConfig(300, 32, 16, 2, 2, 1, d_expert=12))
    computing = cost.computing_parameters(model)
    assert f"{computing:,} compute for a token" in out and computing < 0.8 * count_parameters(model)
    assert f"{6 * computing * 128:.2e}" in out


def test_of_a_large_vocabulary_only_a_part_of_the_logits_is_counted():
    model = GPT(GPTConfig(50257, 64, 8, 2, 1))
    few, many = (cost.activation_bytes(model, tokens, 50257, True) for tokens in (256, 1024))
    layers = sum(layer.in_features + layer.out_features for layer in model.modules() if isinstance(layer, Linear))
    assert few == 256 * 2 * layers + 12 * 256 * 50257 and many == 1024 * 2 * layers + 12 * 256 * 50257
    on_gpu = cost.activation_bytes(model, 16384, 50257, True, "cuda")
    assert on_gpu == 16384 * 2 * layers + 12 * 4096 * 50257


def test_a_dry_run_of_documents_counts_what_they_have(place, call):
    lines = [json.dumps({"text": text}) for text in (STORY[:200], STORY[200:300])]
    (place / "two.jsonl").write_text("\n".join(lines))
    sizes = [len(load_tokenizer("tokenizer.json").encode(text)) + 1 for text in (STORY[:200], STORY[200:300])]
    assert 32 < min(sizes)  # longer than the context: each is several rows
    row = round(sum(sizes) / sum(-(-size // 32) for size in sizes))
    of = ("--set", "data.train=two.jsonl", "--set", "data.documents=true", "--dry-run")
    code, out, err = pretrain(call, *of)
    assert code == 0, err
    assert f"1 x 4 documents of about {row} tokens" in out and f"tokens a step{4 * row:>27,}" in out
    assert call("tokenize", "two.jsonl", "tokens", "--tokenizer", "tokenizer.json")[0] == 0
    assert "documents of about 32 tokens" in pretrain(call, *of, "--set", "data.train=tokens")[1]
