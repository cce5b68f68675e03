"""llmbook.families: one entry makes a model known to everything. The toy below is one class and one entry."""

import subprocess
import sys
from dataclasses import asdict, dataclass

import pytest
import torch
from torch import Tensor, nn

from llmbook.attention import KeyValueCache
from llmbook.experts import ExpertLoss
from llmbook.families import Family, family_named, family_of, family_of_kind, known_families, register_family
from llmbook.formats.layouts import Layout, TensorNames
from llmbook.generation import generate
from llmbook.gpt import GPT, TransformerBlock
from llmbook.llama import Llama, LlamaConfig
from llmbook.open_weights import Chat, load_pretrained
from llmbook.text import load_tokenizer
from llmbook.training import load_model, next_token_loss, save_model
from tests.support.pretrained import some_ids


@dataclass(frozen=True)
class ToyConfig:
    vocab_size: int = 61
    context_length: int = 96
    d_model: int = 16
    n_heads: int = 2
    n_layers: int = 2
    dropout: float = 0.0
    qkv_bias: bool = True


class Toy(nn.Module):
    """Blocks on embeddings, no positions: as little as a language model needs."""

    def __init__(self, config: ToyConfig):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.n_layers))

    def forward(self, token_ids: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        return self.lm_head(self.hidden_states(token_ids, cache))

    def hidden_states(self, token_ids: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        return self.run_blocks(self.token_embedding(token_ids), cache=cache)

    def run_blocks(self, x: Tensor, first: int = 0, cache: KeyValueCache | None = None) -> Tensor:
        for layer in range(first, len(self.blocks)):
            x = self.blocks[layer](x, cache, layer)
        return x

    def lm_head(self, hidden: Tensor) -> Tensor:
        return hidden @ self.token_embedding.weight.T

    def new_cache(self, batch_size: int, max_tokens: int | None = None, padding: Tensor | None = None) -> KeyValueCache:
        config = self.config
        return KeyValueCache(config.n_layers, batch_size, config.n_heads, max_tokens or config.context_length,
                             config.d_model // config.n_heads, padding=padding)


LAYOUT = Layout(TensorNames({name: f"toy.{name}" for name in (
    "token_embedding.weight", *(f"blocks.{{}}.{part}.{kind}" for kind in ("weight", "bias") for part in (
        "attention_norm", "attention.qkv", "attention.out", "feed_forward_norm", "feed_forward.expand",
        "feed_forward.contract")))}),
    lambda settings: ToyConfig(**{name: settings[name] for name in asdict(ToyConfig())}),
    lambda config: {"model_type": "toy", **asdict(config)})
ENTRY = Family("Toy", f"{__name__}:Toy", f"{__name__}:ToyConfig", "toy", f"{__name__}:LAYOUT", hugging_face=("toy",))


@pytest.fixture
def toy(monkeypatch) -> Toy:
    monkeypatch.setattr("llmbook.families._FAMILIES", {family.name: family for family in known_families()})
    register_family(ENTRY)
    torch.manual_seed(0)
    model = Toy(ToyConfig()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


def test_saving_loading_and_generating(toy, tmp_path):
    save_model(toy, tmp_path)
    again = load_model(tmp_path, "cpu")
    assert type(again) is Toy and again.config == toy.config
    assert torch.equal(again(some_ids(1, 20)), toy(some_ids(1, 20)))
    prompts = [some_ids(1, 5)[0], some_ids(1, 2)[0]]
    for prompt, row in zip(prompts, generate(toy, prompts, 6, temperature=0), strict=True):
        assert torch.equal(row, generate(toy, prompt[None], 6, temperature=0)[0])


def test_the_way_out_and_back(toy, tmp_path):
    save_model(toy, tmp_path, layout="huggingface")
    again, tokenizer = load_pretrained(tmp_path, torch.float32, "cpu")
    assert type(again) is Toy and tokenizer is None
    assert torch.equal(again(some_ids(1, 20)), toy(some_ids(1, 20)))


def test_a_conversation(toy):
    model = Toy(ToyConfig(vocab_size=50257, context_length=64))
    chat = Chat(model, load_tokenizer("gpt2"), stop="<|endoftext|>", max_new_tokens=3, system="",
                template=lambda messages: " ".join(message["content"] for message in messages))
    chat.say("Hello")
    assert [message["role"] for message in chat.messages] == ["user", "assistant"]


def test_the_command_generates_with_it(toy, tmp_path, capsys):
    from llmbook.cli.main import main

    save_model(Toy(ToyConfig(vocab_size=50257)), tmp_path)
    assert main(["generate", "Hello", "--model", str(tmp_path), "--tokenizer", "gpt2", "--max-new-tokens", "2"]) == 0
    assert "Hello" in capsys.readouterr().out


def test_entries_are_found_by_every_word(toy):
    assert family_named("Toy") is family_of(toy) is family_of_kind("toy") is family_of_kind("toy", "hugging_face")
    for kind, name in (("gpt", "GPT"), ("llama", "Llama"), ("gemma", "Gemma"), ("hybrid", "HybridLlama"),
                       ("experts", "ExpertsLlama")):
        assert family_of_kind(kind).name == name
    for kind, name in (("mistral", "Llama"), ("gemma3_text", "Gemma"), ("gpt2", "GPT")):
        assert family_of_kind(kind, "hugging_face").name == name
    assert family_of_kind("gemma3", "gguf").name == "Gemma"


def test_each_family_has_the_loss_that_it_is_trained_with():
    assert family_named("HybridLlama").loss_function is family_named("GPT").loss_function is next_token_loss
    assert isinstance(family_named("ExpertsLlama").loss_function, ExpertLoss)


def test_a_class_derived_from_a_known_one_is_of_its_family():
    class Mine(Llama):
        pass

    assert family_of(Mine(LlamaConfig(61, 16, 8, 2, 1, 1, 8))).name == "Llama"


def test_unknown_words_and_classes_are_named():
    with pytest.raises(ValueError, match="no model family 'Bert': known are GPT, Llama"):
        family_named("Bert")
    with pytest.raises(ValueError, match="the family 'bert' are not supported: known are gpt2, llama"):
        family_of_kind("bert", "hugging_face")
    with pytest.raises(ValueError, match="the class Linear is not known: register_family"):
        family_of(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="no other program's format is known for the family TextClassifier"):
        family_named("TextClassifier").find_layout()


def test_every_entry_leads_to_classes_that_fit_each_other():
    for family in known_families():
        assert family.model_class.__name__ == family.name
        if family.layout:
            assert family.find_layout().config_from_hugging_face is not None
        assert callable(family.loss_function)
    assert family_named("GPT").model_class is GPT


@pytest.mark.slow
def test_the_registry_imports_no_model():
    code = "import sys, llmbook.families; sys.exit('llmbook.gpt' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
