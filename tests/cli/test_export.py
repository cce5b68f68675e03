"""`llmbook export`: what it writes is what `generate` gave before."""

import json

import pytest
import torch

from llmbook.lora import add_lora, save_adapter
from llmbook.open_weights import load_pretrained
from llmbook.training import load_model
from tests.cli.helpers import tree


@pytest.mark.parametrize("arguments, target", [
    (("--name", "ours", "--about", "A test.", "--licence", "cc0-1.0"), "new/folder"),
    (("--to", "gguf", "--quantization", "F32"), "new/ours.gguf"),
])
def test_an_exported_model_writes_the_same_text(place, call, chat_model, arguments, target):
    before = tree(chat_model)
    code, out, err = call("export", "--model", chat_model, *arguments, target)
    assert code == 0, err
    assert out.startswith(f"{chat_model}: ") and " MB, in " in out and out.count("\n") == 1
    assert tree(chat_model) == before
    words = ("The captain said", "--temperature", 0, "--max-new-tokens", 12, "--device", "cpu")
    assert call("generate", "--model", target, *words) == call("generate", "--model", chat_model, *words)


def test_the_weights_of_a_folder_get_the_dtype(place, call, chat_model):
    assert call("export", "--model", chat_model, "--dtype", "bfloat16", "new")[0] == 0
    assert json.loads((place / "new" / "config.json").read_text())["dtype"] == "bfloat16"


def test_the_storyteller_begins_with_its_end(place, call):
    assert call("export", "--model", "storyteller", "--to", "gguf", "--quantization", "Q4_0", "new")[0] == 0
    _, tokenizer = load_pretrained("new/new-Q4_0.gguf", torch.float32, "cpu")
    assert tokenizer.encode_prompt("Once")[0] == tokenizer.end_ids[0]


def test_an_adapter_is_merged_first(place, call, chat_model):
    model = add_lora(load_model(chat_model, "cpu"), 2)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".adapters." in name:
                parameter.normal_(std=0.3, generator=generator)
    save_adapter(model, place / "adapter")
    ids = torch.arange(20)[None]
    expected = model(ids)
    assert call("export", "--model", chat_model, "--adapter", "adapter", "new")[0] == 0
    found, _ = load_pretrained("new", torch.float32, "cpu")
    assert not torch.allclose(load_model(chat_model, "cpu")(ids), expected, atol=1e-2)
    torch.testing.assert_close(found(ids), expected, atol=1e-4, rtol=0)
