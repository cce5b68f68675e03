"""llmbook.formats.gguf: files of every number format compute what `transformers` computes; damaged ones are refused."""

import re
import struct
import time
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from llmbook.formats.gguf import GGUFCheckpoint, unpack_q4_1
from llmbook.formats.weight_files import weights_table
from llmbook.generation import generate
from llmbook.open_weights import load_pretrained
from llmbook.training import load_model, save_model
from tests.support.gguf_files import IN_GGUF, write_gguf
from tests.support.pretrained import LLAMA3, STORY, difference, reference, some_ids
from tests.support.tokenizer_files import trained_tokenizer

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("kind", ["F32", "F16", "Q4_1", "Q8_0"])
@pytest.mark.parametrize("family", ["GPT2", "Llama", "Qwen2"])
def test_logits_from_a_gguf_equal_transformers(family, kind, tmp_path):
    theirs = write_gguf(tmp_path / "tiny.gguf", reference(family, **IN_GGUF), kind)
    ours, tokenizer = load_pretrained(tmp_path / "tiny.gguf")
    assert difference(ours, theirs, some_ids(2, 90, 410)) < 1e-4 and not ours.training
    prompt = some_ids(1, 5, 410)
    expected = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=20, do_sample=False,
                               eos_token_id=None, pad_token_id=0)
    assert torch.equal(generate(ours, prompt, 20, temperature=0), expected)
    assert tokenizer.encode(STORY[:2000]) == trained_tokenizer("gpt-2").encode(STORY[:2000]).ids
    formats = weights_table(GGUFCheckpoint(tmp_path / "tiny.gguf"))
    assert set(formats["format"]) == {"F32", kind}
    assert int(formats["numbers"].sum()) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize("family, changes", [
    ("Qwen3", {"head_dim": 12}), ("SmolLM3", {"num_hidden_layers": 5}), ("Gemma3Text", {
        "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 9, "num_hidden_layers": 7, "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 500.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 50.0}}})], ids=["qwen3", "smollm3", "gemma3"])
def test_newer_families_from_a_gguf_equal_transformers(family, changes, tmp_path):
    """As llama.cpp's converter writes them: SmolLM3's queries and keys permuted and every fourth layer without
    positions, Gemma's norms with 1 added and every sixth layer without a window."""
    theirs = write_gguf(tmp_path / "tiny.gguf", reference(family, **IN_GGUF, **changes))
    ours, _ = load_pretrained(tmp_path / "tiny.gguf")
    assert difference(ours, theirs, some_ids(2, 90, 410)) < (1e-3 if family == "Gemma3Text" else 1e-4)


@pytest.mark.parametrize("changes", [
    {"tie_word_embeddings": False}, {"attention_bias": True}, {"head_dim": 12, "num_key_value_heads": 4},
    {"rms_norm_eps": 1e-3, "num_hidden_layers": 12},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
], ids=["untied", "biases", "d_head", "eps and 12 layers", "base"])
def test_gguf_variants(changes, tmp_path):
    theirs = write_gguf(tmp_path / "tiny.gguf", reference(**IN_GGUF, **changes))
    ours, _ = load_pretrained(tmp_path / "tiny.gguf")
    # twelve layers of wild weights add rounding up
    assert difference(ours, theirs, some_ids(2, 90, 410)) < (1e-3 if "num_hidden_layers" in changes else 1e-4)
    assert ours.config.tie_embeddings == theirs.config.tie_word_embeddings


def test_gguf_rope_scaling(tmp_path):
    """llama.cpp stores Llama 3's scaling as a divisor for each pair, and linear scaling as a setting."""
    theirs = reference(**IN_GGUF, rope_parameters=LLAMA3)
    plain = 1000.0 ** (-torch.arange(0, 8, 2) / 8)
    factors = (plain / theirs.model.rotary_emb.inv_freq).numpy().astype(np.float32)
    assert factors[0] < 1.5 < 3 < factors[-1]
    write_gguf(tmp_path / "3.gguf", theirs, tensors={"rope_freqs.weight": factors})
    ours, _ = load_pretrained(tmp_path / "3.gguf")
    assert difference(ours, theirs, some_ids(2, 90, 410)) < 1e-4
    save_model(ours, tmp_path / "saved")
    assert difference(load_model(tmp_path / "saved"), theirs, some_ids(2, 90, 410)) < 1e-4
    theirs = reference(**IN_GGUF, rope_parameters={"rope_type": "linear", "factor": 3.0, "rope_theta": 500.0})
    write_gguf(tmp_path / "linear.gguf", theirs, rope__scaling__type="linear", rope__scaling__factor=3.0)
    assert difference(load_pretrained(tmp_path / "linear.gguf")[0], theirs, some_ids(2, 90, 410)) < 1e-4


def test_a_gguf_s_output_that_is_stored_though_tied(tmp_path):
    theirs = reference("GPT2", **IN_GGUF)
    embedding = theirs.transformer.wte.weight.detach().numpy().copy()
    write_gguf(tmp_path / "same.gguf", theirs, tensors={"output.weight": embedding})
    assert difference(load_pretrained(tmp_path / "same.gguf")[0], theirs, some_ids(2, 90, 410)) < 1e-4
    write_gguf(tmp_path / "other.gguf", theirs, tensors={"output.weight": embedding + 1})
    with pytest.raises(ValueError, match="output.weight differs from the token embedding"):
        load_pretrained(tmp_path / "other.gguf")


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_1"])
def test_a_gguf_s_tied_output_in_another_quantisation(kind, tmp_path):
    theirs = reference("GPT2", **IN_GGUF)
    embedding = theirs.transformer.wte.weight.detach().numpy().copy()  # stored in float32
    write_gguf(tmp_path / "same.gguf", theirs, kind, tensors={"output.weight": embedding})
    assert difference(load_pretrained(tmp_path / "same.gguf")[0], theirs, some_ids(2, 90, 410)) < 1e-4
    write_gguf(tmp_path / "other.gguf", theirs, kind, tensors={"output.weight": embedding[::-1].copy()})
    with pytest.raises(ValueError, match="output.weight differs from the token embedding"):
        load_pretrained(tmp_path / "other.gguf")


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path, reference(**IN_GGUF), "Q8_0")
    return path


def test_metadata_equals_the_package_s(tmp_path):
    path = tmp_path / "kinds.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    values = {"uint8": 200, "int8": -3, "uint16": 60000, "int16": -300, "uint32": 2**32 - 1, "int32": -(2**31),
              "uint64": 2**63, "int64": -(2**62), "float32": 0.1, "float64": 0.1, "bool": True, "string": "Grüße \n"}
    for kind, value in values.items():
        getattr(writer, f"add_{kind}")(f"own.{kind}", value)
    arrays = {"strings": ["a", "", "你好"], "numbers": [1, -2, 3], "reals": [0.5, -1.25], "flags": [True, False]}
    for name, value in arrays.items():
        writer.add_array(f"own.{name}", value)
    writer.add_custom_alignment(64)
    first, second = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(5, dtype=np.float32)
    writer.add_tensor("first", first)
    writer.add_tensor("second", second)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    checkpoint, reader = GGUFCheckpoint(path), gguf.GGUFReader(path)
    theirs = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert checkpoint.metadata == theirs
    assert checkpoint.metadata["own.float32"] == np.float32(0.1) and checkpoint.metadata["own.strings"][2] == "你好"
    assert checkpoint.shapes == {"first": (2, 3), "second": (5,)} and checkpoint.formats["first"] == "F32"
    target = torch.empty(2, 3)
    checkpoint.copy("first", target)
    assert np.array_equal(target.numpy(), first)
    target = torch.empty(5)
    checkpoint.copy("second", target)
    assert np.array_equal(target.numpy(), second)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_every_format_is_unpacked_a_few_rows_at_a_time(kind, tmp_path):
    form, rows = gguf.GGMLQuantizationType[kind], np.random.default_rng(0).normal(size=(13, 96)).astype(np.float32)
    packed = gguf.quantize(rows, form)
    writer = gguf.GGUFWriter(tmp_path / "one.gguf", "llama")
    writer.add_tensor("before", np.ones(3, np.float32))
    writer.add_tensor("matrix", packed, raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    checkpoint = GGUFCheckpoint(tmp_path / "one.gguf")
    table = weights_table(checkpoint).set_index("tensor")
    assert tuple(table.loc["matrix"]) == ((13, 96), kind, 13 * 96)
    expected = torch.from_numpy(gguf.dequantize(packed, form).astype(np.float32))
    assert (expected - torch.from_numpy(rows)).abs().max() < 0.5  # what was written
    for at_once in (1, 4, 1024):
        target = torch.full((13, 96), torch.nan)
        checkpoint.copy("matrix", target, rows_at_once=at_once)
        torch.testing.assert_close(target, expected, atol=1e-6, rtol=1e-6)


def test_unpack_q4_1():
    packed = gguf.quantize(np.random.default_rng(0).normal(size=(7, 128)).astype(np.float32),
                           gguf.GGMLQuantizationType.Q4_1)
    found = unpack_q4_1(torch.from_numpy(packed))
    assert found.shape == (7, 128) and found.dtype == torch.float32
    expected = gguf.dequantize(packed, gguf.GGMLQuantizationType.Q4_1)
    torch.testing.assert_close(found, torch.from_numpy(expected), atol=1e-6, rtol=1e-6)
    block = struct.pack("<ee", 0.5, -1.0) + bytes([0xF0, 0x21]) + bytes(14)
    numbers = unpack_q4_1(torch.tensor([list(block)], dtype=torch.uint8))[0]
    assert numbers[[0, 1, 2, 16, 17, 18]].tolist() == [-1.0, -0.5, -1.0, 6.5, 0.0, -1.0]


# --- GGUF files that are refused ---------------------------------------------------------------------------------

@pytest.mark.parametrize("share", [0.0, 0.00005, 0.0003, 0.001, 0.01, 0.03, 0.05, 0.2, 0.5, 0.9])
def test_a_truncated_gguf(tiny_gguf, share, tmp_path):
    data = tiny_gguf.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=re.escape(str(path)) + r" is (not a|no) whole GGUF file \("):
        load_pretrained(path)


def test_a_gguf_that_lacks_its_last_byte(tiny_gguf, tmp_path):
    ends = [tensor.data_offset + tensor.n_bytes for tensor in gguf.GGUFReader(tiny_gguf).tensors]
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny_gguf.read_bytes()[: max(ends) - 1])
    with pytest.raises(ValueError, match=f"should end at byte {max(ends):,}, the file has {max(ends) - 1:,}"):
        load_pretrained(path)


def test_no_part_of_a_gguf_s_header_can_be_missing(tiny_gguf, tmp_path):
    start = min(int(tensor.data_offset) for tensor in gguf.GGUFReader(tiny_gguf).tensors)
    data, path = tiny_gguf.read_bytes(), tmp_path / "cut.gguf"
    for length in [*range(0, 300, 7), *range(300, start, 997)]:
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="is (not a|no) whole GGUF file"):
            GGUFCheckpoint(path)

HUGE = 2**60


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def header(tensors: int, settings: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, settings)


def one_tensor(*shape: int, kind: int = 0, offset: int = 0, settings: bytes = b"", n_settings: int = 0) -> bytes:
    return (header(1, n_settings) + settings + text("t") + struct.pack("<I", len(shape))
            + b"".join(struct.pack("<Q", size) for size in shape) + struct.pack("<IQ", kind, offset) + bytes(4096))

LIES = {
    "not a GGUF": b"PK\x03\x04" + bytes(500),
    "version 1": b"GGUF" + struct.pack("<IQQ", 1, 0, 0) + bytes(64),
    "version 99": b"GGUF" + struct.pack("<IQQ", 99, 0, 0) + bytes(64),
    "big-endian": b"GGUF" + struct.pack(">IQQ", 3, 1, 1) + bytes(64),
    "huge number of settings": header(0, HUGE) + bytes(4096),
    "huge number of tensors": header(HUGE, 0) + bytes(4096),
    "huge name": header(0, 1) + struct.pack("<Q", HUGE) + bytes(4096),
    "huge string": header(0, 1) + text("key") + struct.pack("<IQ", 8, HUGE) + bytes(4096),
    "huge array of bytes": header(0, 1) + text("key") + struct.pack("<IIQ", 9, 0, HUGE) + bytes(4096),
    "huge array of numbers": header(0, 1) + text("key") + struct.pack("<IIQ", 9, 4, HUGE) + bytes(4096),
    "largest array of numbers": header(0, 1) + text("key") + struct.pack("<IIQ", 9, 10, 2**64 - 1) + bytes(4096),
    "array a little too long": header(0, 1) + text("key") + struct.pack("<IIQ", 9, 10, 513) + bytes(4096),
    "huge array of strings": header(0, 1) + text("key") + struct.pack("<IIQ", 9, 8, HUGE) + bytes(4096),
    "huge array of arrays": header(0, 1) + text("key") + struct.pack("<IIQ", 9, 9, HUGE) + bytes(4096),
    "arrays in arrays without end": header(0, 1) + text("key") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 9999,
    "unknown kind of setting": header(0, 1) + text("key") + struct.pack("<I", 77) + bytes(4096),
    "unknown kind in an array": header(0, 1) + text("key") + struct.pack("<IIQ", 9, 77, 3) + bytes(4096),
    "huge tensor": one_tensor(HUGE, 4),
    "huge offset": one_tensor(4, 4, offset=HUGE),
    "product beyond 64 bits": one_tensor(4, 2**32, 2**32),
    "huge number of dimensions": header(1, 0) + text("t") + struct.pack("<I", 2**32 - 1) + bytes(4096),
    "no dimension": one_tensor(),
    "unknown format": one_tensor(4, 4, kind=999),
    "part of a block": one_tensor(33, 4, kind=3),
    "alignment of zero": one_tensor(4, 4, n_settings=1,
                                    settings=text("general.alignment") + struct.pack("<II", 4, 0)),
    "alignment in words": one_tensor(4, 4, n_settings=1,
                                     settings=text("general.alignment") + struct.pack("<I", 8) + text("many")),
}


@pytest.mark.parametrize("name", LIES)
def test_a_gguf_whose_header_lies_fails_fast(name, tmp_path):
    path = tmp_path / "lie.gguf"
    path.write_bytes(LIES[name])
    tracemalloc.start()
    start = time.perf_counter()
    try:
        with pytest.raises(ValueError, match=re.escape(str(path)) + r" is (not a|no) whole GGUF file \("):
            load_pretrained(path)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("settings, message", [
    ({"expert_count": 4}, "expert_count = 4 is not supported (only 0)"),
    ({"attention__sliding_window": 32}, "attention.sliding_window = 32 is not supported"),
    ({"rope__scaling__type": "yarn"}, "rope.scaling.type = 'yarn' is not supported (only 'none' or 'linear')"),
    ({"rope__dimension_count": 4}, "rope.dimension_count = 4 is not supported (only 8)"),
    ({"rope__scaling__type": "linear"}, "rotary scaling 'linear' has factor = None"),
    ({"attention__head_count": [4, 4]}, "attention.head_count"),
    ({"attention__head_count_kv": 3}, "n_heads (4) must be divisible by n_kv_heads (3)"),
])
def test_gguf_settings_that_are_not_supported_are_named(settings, message, tmp_path, monkeypatch):
    path, theirs = tmp_path / "tiny.gguf", reference(**IN_GGUF)
    theirs.config.head_dim = None  # no settings of its own, so that a test may give them
    clashes = {"attention__head_count": "add_head_count", "attention__head_count_kv": "add_head_count_kv"}
    for name in set(clashes) & set(settings):
        monkeypatch.setattr(gguf.GGUFWriter, clashes[name], lambda *_: None)
    write_gguf(path, theirs, **settings)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}.*{re.escape(message)}"):
        load_pretrained(path)


@pytest.mark.parametrize("before, after, message", [
    (b"llama", b"gemma", "models of the family 'gemma' are not supported: known are gpt2, llama, qwen2"),
    (b"llama.block_count", b"llama.block_cownt", "'block_cownt' is not known: correct it to 'block_count'"),
    (b"llama.attention.layer_norm_rms_epsilon", b"llama.attention.layer_norm_rms_epsilom",
     "correct it to 'attention.layer_norm_rms_epsilon'"),
    (b"token_embd.weight", b"token_embd.wait__", "token_embd.weight"),
    (b"blk.1.attn_q.weight", b"blk.1.attn_z.weight", "missing blk.1.attn_q.weight; unknown blk.1.attn_z.weight"),
    (b"gpt-2", b"gpt-9", "its tokenizer ('gpt2', 'gpt-9') is not supported (only 'llama', and 'gpt2' with gpt-2"),
    (b"tokenizer.ggml.model", b"tokenizer.ggml.modem", "its tokenizer (None, 'gpt-2') is not supported"),
    (b"tokenizer.ggml.merges", b"tokenizer.ggml.murges", "merges"),
    (b"tokenizer.ggml.tokens", b"tokenizer.ggml.tokans", "tokens"),
])
def test_a_gguf_that_lacks_something_is_refused_by_name(tiny_gguf, before, after, message, tmp_path):
    path, data = tmp_path / "tiny.gguf", tiny_gguf.read_bytes()
    assert before in data and len(before) == len(after)
    path.write_bytes(data.replace(before, after, 1))
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}.*{re.escape(message)}"):
        load_pretrained(path)


def test_rope_factors_of_another_size_are_refused(tmp_path):
    write_gguf(tmp_path / "tiny.gguf", reference(**IN_GGUF), tensors={"rope_freqs.weight": np.ones(7, np.float32)})
    with pytest.raises(ValueError, match="tiny.gguf|factors"):
        load_pretrained(tmp_path / "tiny.gguf")
