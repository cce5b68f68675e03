"""llmbook.formats.weight_files: safetensors folders, whole and in pieces, damaged ones refused."""

import re
import struct

import pytest
import torch

from llmbook.formats.weight_files import SafetensorsCheckpoint, weights_table
from llmbook.open_weights import load_pretrained
from tests.support.pretrained import difference, reference, saved

transformers = pytest.importorskip("transformers")


def test_weights_in_several_files(tmp_path):
    theirs = reference(tie_word_embeddings=False)
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    files = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(files) > 2 and not (tmp_path / "model.safetensors").exists()
    assert difference(load_pretrained(tmp_path)[0], theirs) < 1e-4
    assert len(SafetensorsCheckpoint(tmp_path).shapes) == len(theirs.state_dict())
    files[1].unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {files[1].name}, which its index lists"):
        load_pretrained(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weights": []}')
    with pytest.raises(ValueError, match="model.safetensors.index.json is not an index of weights"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("family", ["Llama", "GPT2"])
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_half_sized_files(stored, family, tmp_path):
    reference(family).to(stored).save_pretrained(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ours, _ = load_pretrained(tmp_path)
    assert {p.dtype for p in ours.parameters()} == {torch.float32}
    assert difference(ours, theirs) < 1e-4
    formats = set(weights_table(SafetensorsCheckpoint(tmp_path))["format"])
    assert formats == {"BF16" if stored == torch.bfloat16 else "F16"}


def test_the_table_of_weights(tmp_path):
    saved(tmp_path)
    table = weights_table(SafetensorsCheckpoint(tmp_path)).set_index("tensor")
    assert list(table.columns) == ["shape", "format", "numbers"] and len(table) == 2 + 9 * 2
    assert tuple(table.loc["model.layers.1.self_attn.k_proj.weight"]) == ((16, 32), "F32", 512)
    assert tuple(table.loc["model.norm.weight"]) == ((32,), "F32", 32)


@pytest.mark.parametrize("damage", [
    lambda data: data[:-1], lambda data: data[:7], lambda data: data[:200], lambda data: b"",
    lambda data: struct.pack("<Q", 2**60) + data[8:], lambda data: struct.pack("<Q", len(data) - 8) + data[8:],
    lambda data: data.replace(b'"F32"', b'"F99"', 1),
    lambda data: re.sub(rb'\[0,(\d+)\]', lambda match: b"[0," + b"9" * len(match[1]) + b"]", data, count=1),
    lambda data: data[:8] + b"x" + data[9:],
], ids=["last byte", "length", "header", "empty", "huge header", "long header", "format", "offsets", "json"])
def test_a_damaged_safetensors_file(damage, tmp_path):
    saved(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=re.escape(f"{path} cannot be read (")):
        load_pretrained(tmp_path)
