"""llmbook.formats.export: `transformers` loads what `save_model` saves for it."""

import pytest
import torch
from torch import nn

from llmbook.formats.export import convert_for_hugging_face
from llmbook.gpt import GPT, GPTConfig
from llmbook.llama import Llama, LlamaConfig
from llmbook.open_weights import load_pretrained
from llmbook.training import save_model
from tests.support.gguf_files import IN_GGUF, write_gguf
from tests.support.pretrained import LLAMA3, SMALL, difference, reference, shaken, some_ids

transformers = pytest.importorskip("transformers")

WITHOUT_BASE = {name: value for name, value in LLAMA3.items() if name != "rope_theta"}


@pytest.mark.parametrize("config, kind", [
    (GPTConfig(61, 96, 32, 4, 2, 0.0, True), "GPT2LMHeadModel"),
    (GPTConfig(61, 96, 32, 4, 2, 0.1, False), "GPT2LMHeadModel"),
    (LlamaConfig(**SMALL), "LlamaForCausalLM"),
    (LlamaConfig(**SMALL, tie_embeddings=False, norm_eps=1e-3), "LlamaForCausalLM"),
    (LlamaConfig(**SMALL, rope_scaling=WITHOUT_BASE), "LlamaForCausalLM"),
    (LlamaConfig(**SMALL, rope_scaling={"rope_type": "linear", "factor": 3.0}, d_head=12), "LlamaForCausalLM"),
    (LlamaConfig(**SMALL, qkv_bias=True, out_bias=True), "LlamaForCausalLM"),
    (LlamaConfig(**SMALL, qkv_bias=True), "Qwen2ForCausalLM"),
], ids=["GPT", "GPT without biases", "tied", "untied", "llama3", "linear", "biases", "qwen2"])
def test_transformers_loads_what_save_model_saves_for_it(config, kind, tmp_path):
    ours = shaken((GPT if isinstance(config, GPTConfig) else Llama)(config))
    save_model(ours, tmp_path / "new" / "folder", layout="huggingface")
    folder = tmp_path / "new" / "folder"
    assert {file.name for file in folder.iterdir()} == {"config.json", "model.safetensors"}
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    assert type(theirs).__name__ == kind and theirs.dtype == torch.float32
    assert difference(ours, theirs) < 1e-4
    again, _ = load_pretrained(folder)
    with torch.no_grad():
        torch.testing.assert_close(again(some_ids(2, 20)), ours(some_ids(2, 20)), atol=1e-5, rtol=0)


def test_a_bfloat16_model_is_saved_as_such(tmp_path):
    ours = shaken(Llama(LlamaConfig(**SMALL))).bfloat16()
    save_model(ours, tmp_path, layout="huggingface")
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path).dtype == torch.bfloat16
    again, _ = load_pretrained(tmp_path, dtype=torch.bfloat16)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), ours.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_gguf_file_becomes_a_folder(dtype, tmp_path):
    write_gguf(tmp_path / "model.gguf", reference("Llama", **IN_GGUF))
    expected, _ = load_pretrained(tmp_path / "model.gguf", torch.float32, "cpu")
    convert_for_hugging_face(str(tmp_path / "model.gguf"), tmp_path / "folder", dtype)
    found, _ = load_pretrained(tmp_path / "folder", dtype, "cpu")
    assert type(found) is Llama and found.config == expected.config
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor.to(dtype)), name
    with pytest.raises(FileExistsError, match="empty or a new folder"):
        convert_for_hugging_face(tmp_path / "model.gguf", tmp_path / "folder")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_model_that_is_there_is_not_written_over(name, tmp_path):
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(FileExistsError, match=rf"{name}.* empty or a new folder"):
        save_model(Llama(LlamaConfig(**SMALL)), tmp_path, layout="huggingface")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [(name, b"precious")]


@pytest.mark.parametrize("changes, message", [
    ({"out_bias": True}, "qkv_bias = False, out_bias = True, .*: no Hugging Face family has that together"),
    ({"rope_scaling": {"rope_type": "factors", "factors": [1.0, 1, 1, 2]}}, "rotary scaling by a list of factors"),
])
def test_what_no_family_of_hugging_face_computes(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_model(Llama(LlamaConfig(**SMALL, **changes)), tmp_path / "new", layout="huggingface")
    assert not (tmp_path / "new").exists()


def test_another_layout_or_class_is_named(tmp_path):
    with pytest.raises(ValueError, match="layout is 'gguf': it must be 'llmbook' or 'huggingface'"):
        save_model(Llama(LlamaConfig(**SMALL)), tmp_path / "new", layout="gguf")
    model = nn.Linear(2, 2)
    model.config = {"sizes": 2}
    with pytest.raises(ValueError, match="Linear"):
        save_model(model, tmp_path / "new", layout="huggingface")
    assert not (tmp_path / "new").exists()
