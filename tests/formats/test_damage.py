"""Flipped bits, and headers drawn at random: an error of one line with the file's name, or the same numbers."""

import json
import random
import re
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmbook.formats.gguf import GGUFCheckpoint
from llmbook.formats.weight_files import SafetensorsCheckpoint
from llmbook.open_weights import load_pretrained
from tests.support.gguf_files import IN_GGUF, write_gguf
from tests.support.pretrained import reference, saved, some_ids

transformers = pytest.importorskip("transformers")

FAMILIES = {"Llama": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}, "Qwen3": {}, "SmolLM3": {},
            "GPT2": {}}
# Numbers that nothing else in a folder repeats: a flipped digit gives another valid model, and no reader can tell.
UNDETECTABLE = ("rope_theta", "rms_norm_eps", "max_position_embeddings", "no_rope_layers", "sliding_window", "n_head",
                "no_rope_layer_interval", "num_attention_heads", "max_window_layers", "n_positions")
FEW = settings(max_examples=60, deadline=None, derandomize=True,
               suppress_health_check=[HealthCheck.function_scoped_fixture])


def outcome(path: Path, ids: torch.Tensor) -> torch.Tensor | None:
    """The logits, or None if the model was refused in one line that names the file or folder."""
    try:
        with torch.no_grad():
            return load_pretrained(path, torch.float32, "cpu")[0](ids)
    except (ValueError, FileNotFoundError) as error:
        assert "\n" not in str(error), error
        assert str(path) in str(error), error
        return None


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_flipped_bits_in_a_config_are_refused_or_change_nothing(family, tmp_path):
    saved(tmp_path, family, **FAMILIES[family])
    path = tmp_path / "config.json"
    # one line for each setting, so that the position of a bit says which it hits
    lines = json.dumps(json.loads(path.read_text()), indent=0).encode()
    path.write_bytes(lines)
    expected = outcome(tmp_path, some_ids(1, 30))
    silent, refused, draw = [], 0, random.Random(0)
    for _ in range(150):
        place, bit = draw.randrange(len(lines)), draw.randrange(8)
        damaged = lines[:place] + bytes([lines[place] ^ (1 << bit)]) + lines[place + 1:]
        path.write_bytes(damaged)
        found = outcome(tmp_path, some_ids(1, 30))
        refused += found is None
        if found is not None and not torch.equal(found, expected):
            names = re.findall(rb'"(\w+)":', lines[:place + 1])
            silent.append((names[-1].decode(), damaged[max(0, place - 20):place + 20]))
    assert refused > 20
    assert [flip for flip in silent if flip[0] not in UNDETECTABLE] == []


def test_flipped_bits_in_a_gguf_header_are_refused_or_change_nothing(tmp_path):
    path = tmp_path / "tiny.gguf"
    write_gguf(path, reference(**IN_GGUF), "Q8_0")
    data, ids = path.read_bytes(), some_ids(1, 30, 410)
    expected = outcome(path, ids)
    parts = [(0, data.index(b"tokenizer.ggml.model")),  # the model's settings, and after the tokenizer's the tensors
             (data.index(b"token_embd.weight") - 8, data.rindex(b"output_norm.weight") + 60)]
    # Four bytes each, with nothing to compare them with.
    free = [data.index(key.encode()) + len(key) + 4 for key in (
        "llama.rope.freq_base", "llama.attention.layer_norm_rms_epsilon", "llama.context_length")]
    silent, refused, draw = [], 0, random.Random(1)
    for _ in range(250):
        place, bit = draw.randrange(*draw.choice(parts)), draw.randrange(8)
        path.write_bytes(data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1:])
        found = outcome(path, ids)
        refused += found is None
        if found is not None and not torch.equal(found, expected) and not any(0 <= place - at < 4 for at in free):
            silent.append((place, data[max(0, place - 20):place + 20]))
    assert refused > 100
    assert silent == []


@FEW
@given(rest=st.binary(max_size=300), counts=st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)) | st.just(
    (1, 1)) | st.just((0, 2)))
def test_random_gguf_headers_are_refused(rest, counts, tmp_path):
    path = tmp_path / "random.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, *counts) + rest)
    try:
        GGUFCheckpoint(path)
    except ValueError as error:
        assert "\n" not in str(error) and str(path) in str(error)


@FEW
@given(header=st.dictionaries(st.text(max_size=8), st.recursive(
    st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["dtype", "shape", "data_offsets"]), inner), max_leaves=8), max_size=4)
    | st.binary(max_size=60))
def test_random_safetensors_headers_are_refused(header, tmp_path):
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(content)) + content + bytes(16))
    try:
        SafetensorsCheckpoint(tmp_path)
    except ValueError as error:
        assert str(tmp_path) in str(error)


@FEW
@given(changes=st.dictionaries(st.sampled_from([
    "vocab_size", "hidden_size", "num_attention_heads", "num_key_value_heads", "rope_parameters", "rope_scaling",
    "rope_theta", "rms_norm_eps", "hidden_act", "tie_word_embeddings", "model_type", "architectures", "head_dim"]),
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | st.text(max_size=6) | st.lists(
        st.integers(), max_size=2) | st.dictionaries(st.sampled_from(["rope_type", "factor", "rope_theta"]), st.none()
        | st.integers() | st.floats() | st.sampled_from(["linear", "llama3", "default", "yarn"])), min_size=1))
def test_random_settings_are_refused_in_one_line_or_load(changes, tmp_path):
    if not (tmp_path / "kept.json").exists():
        saved(tmp_path)
        (tmp_path / "kept.json").write_text((tmp_path / "config.json").read_text())
    found = json.loads((tmp_path / "kept.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**found, **changes}))
    outcome(tmp_path, some_ids(1, 5))
