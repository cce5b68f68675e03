"""Every variant of the families' settings that `transformers` knows computes the same here, or is refused by name."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from llmbook.families import family_of_kind
from llmbook.generation import generate
from llmbook.open_weights import load_pretrained
from llmbook.training import load_model, save_model
from tests.support.pretrained import LLAMA3, difference, edit, reference, saved, some_ids

transformers = pytest.importorskip("transformers")

LINEAR = {"rope_type": "linear", "factor": 3.0}
LLAMA3_SCALING = {name: value for name, value in LLAMA3.items() if name != "rope_theta"}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24}
KINDS = ["full_attention", "sliding_attention"]
SMALL_BASES = {"full_attention": {"rope_type": "default", "rope_theta": 500.0},
               "sliding_attention": {"rope_type": "default", "rope_theta": 50.0}}
GEMMA = {"head_dim": 8, "query_pre_attn_scalar": 5, "sliding_window": 9, "num_hidden_layers": 3,
         "sliding_window_pattern": 3, "rope_parameters": SMALL_BASES}

# family, settings of the model that is made, changes of its config.json (`...` takes a setting out)
COMPUTED: dict[str, tuple[str, dict, dict]] = {
    "gpt2: hidden_size beside n_embd": ("GPT2", {}, {"hidden_size": 32, "num_hidden_layers": 2}),
    "gpt2: hidden_size instead of n_embd": ("GPT2", {}, {"hidden_size": 32, "n_embd": ...}),
    "gpt2: reordered attention": ("GPT2", {"reorder_and_upcast_attn": True}, {}),
    "gpt2: the other name of its GELU": ("GPT2", {"activation_function": "gelu_pytorch_tanh"}, {}),
    "llama: swish": ("Llama", {}, {"hidden_act": "swish"}),
    "llama: rope_scaling beside default parameters": (
        "Llama", {}, {"rope_scaling": LINEAR, "rope_theta": 500.0}),
    "llama: rope_scaling without a base beside parameters with one": (
        "Llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}, {"rope_scaling": LINEAR}),
    "llama: rope_scaling null": ("Llama", {}, {"rope_scaling": None, "rope_theta": 300.0}),
    "llama: rope_parameters null": ("Llama", {}, {"rope_parameters": None, "rope_theta": 300.0}),
    "llama: no base at all": ("Llama", {}, {"rope_parameters": ...}),
    "llama: a base inside and outside": (
        "Llama", {}, {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0}, "rope_theta": 70.0}),
    "llama: parameters without a base": (
        "Llama", {}, {"rope_parameters": {"rope_type": "default"}, "rope_theta": 70.0}),
    "llama: the older name type": ("Llama", {}, {"rope_parameters": ..., "rope_theta": 70.0,
                                                 "rope_scaling": {"type": "linear", "factor": 2.0}}),
    "llama: both names, rope_type counts": ("Llama", {}, {"rope_parameters": ..., "rope_theta": 70.0, "rope_scaling": {
        "type": "dynamic", "rope_type": "linear", "factor": 2.0}}),
    "llama: llama3 scaling": ("Llama", {"rope_parameters": LLAMA3}, {}),
    "llama: llama3 scaling, the original context outside": (
        "Llama", {}, {"rope_parameters": ..., "rope_theta": 1000.0, "original_max_position_embeddings": 32,
                      "rope_scaling": LLAMA3_SCALING}),
    "llama: llama3 scaling without the original context": (
        "Llama", {}, {"rope_parameters": ..., "rope_theta": 1000.0, "rope_scaling": {
            name: value for name, value in LLAMA3_SCALING.items() if not name.startswith("original")}}),
    "llama: default type with a factor": (
        "Llama", {}, {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0, "factor": 8.0}}),
    "llama: kv heads null": ("Llama", {"num_key_value_heads": 4}, {"num_key_value_heads": None}),
    "llama: head_dim null": ("Llama", {}, {"head_dim": None}),
    "llama: attention_bias": ("Llama", {"attention_bias": True}, {}),
    "llama: no rms_norm_eps": ("Llama", {"rms_norm_eps": 1e-6}, {"rms_norm_eps": ...}),
    "mistral: a window": ("Mistral", {"sliding_window": 9}, {}),
    "mistral: a window, use_sliding_window false": ("Mistral", {"sliding_window": 9}, {"use_sliding_window": False}),
    "mistral: no window given, a short context": ("Mistral", {}, {"sliding_window": ...}),
    "mistral: null": ("Mistral", {"sliding_window": None}, {}),
    "mistral: head_dim of its own": ("Mistral", {"head_dim": 12, "sliding_window": 5}, {}),
    "mistral: attention_bias, which it has not": ("Mistral", {}, {"attention_bias": True, "mlp_bias": True}),
    "qwen2: use_sliding_window false": ("Qwen2", {"sliding_window": 9, "use_sliding_window": False}, {}),
    "qwen2: a window in some layers": ("Qwen2", {
        "sliding_window": 9, "use_sliding_window": True, "max_window_layers": 1}, {}),
    "qwen2: a window in some layers, as older files say it": ("Qwen2", {
        "sliding_window": 9, "use_sliding_window": True, "max_window_layers": 1}, {"layer_types": ...}),
    "qwen2: a window that is switched on and not given": (
        "Qwen2", {}, {"use_sliding_window": True, "sliding_window": ..., "layer_types": ..., "max_window_layers": 0}),
    "qwen2: layer_types": ("Qwen2", {"sliding_window": 9, "use_sliding_window": True, "layer_types": KINDS[::-1]}, {}),
    "qwen2: attention_bias": ("Qwen2", {}, {"attention_bias": True}),
    "qwen2: untied": ("Qwen2", {"tie_word_embeddings": False}, {}),
    "qwen3": ("Qwen3", {}, {}),
    "qwen3: head_dim": ("Qwen3", {"head_dim": 12, "tie_word_embeddings": False}, {}),
    "qwen3: attention_bias": ("Qwen3", {"attention_bias": True}, {}),
    "qwen3: a window in some layers": (
        "Qwen3", {"sliding_window": 9, "use_sliding_window": True, "max_window_layers": 1}, {}),
    "qwen3: head_dim left out": ("Qwen3", {"head_dim": 128, "hidden_size": 32}, {"head_dim": ...}),
    "smollm3": ("SmolLM3", {"num_hidden_layers": 5}, {}),
    "smollm3: as older files say it": (
        "SmolLM3", {"num_hidden_layers": 5},
        {"no_rope_layers": ..., "layer_types": ..., "no_rope_layer_interval": ...}),
    "smollm3: layers without positions given": ("SmolLM3", {"no_rope_layers": [0, 1]}, {}),
    "smollm3: another interval": ("SmolLM3", {"no_rope_layer_interval": 2, "num_hidden_layers": 4}, {}),
    "smollm3: all have positions": ("SmolLM3", {"no_rope_layers": [1, 1]}, {}),
    "smollm3: a window": ("SmolLM3", {"no_rope_layers": [0, 1], "sliding_window": 9, "use_sliding_window": True}, {}),
    "smollm3: no base at all": ("SmolLM3", {"rope_parameters": {"rope_type": "default", "rope_theta": 2e6}},
                                {"rope_parameters": ...}),
    "smollm3: attention_bias": ("SmolLM3", {"attention_bias": True, "tie_word_embeddings": False}, {}),
    "gemma3": ("Gemma3Text", GEMMA, {}),
    "gemma3: as older files say it": ("Gemma3Text", {**GEMMA, "rope_parameters": None}, {
        "rope_parameters": ..., "layer_types": ..., "sliding_window_pattern": 3, "rope_theta": 500.0,
        "rope_local_base_freq": 50.0}),
    "gemma3: older, default bases": ("Gemma3Text", {**GEMMA, "rope_parameters": None}, {"rope_parameters": ...}),
    "gemma3: linear scaling in the global layers": ("Gemma3Text", GEMMA, {"rope_scaling": {**LINEAR}}),
    "gemma3: layer_types": ("Gemma3Text", {**GEMMA, "layer_types": ["full_attention", *KINDS[::-1]]}, {}),
    "gemma3: every sixth": ("Gemma3Text", {**GEMMA, "num_hidden_layers": 7},
                            {"layer_types": ..., "sliding_window_pattern": ...}),
    "gemma3: a window longer than the context": ("Gemma3Text", {**GEMMA, "sliding_window": 4096}, {}),
}

# family, changes of its config.json, what the error says
REFUSED: dict[str, tuple[str, dict, str]] = {
    "gpt2: exact GELU": ("GPT2", {"activation_function": "gelu"}, "activation_function = 'gelu'"),
    "gpt2: two sizes": ("GPT2", {"hidden_size": 64}, "hidden_size = 64 contradicts n_embd = 32"),
    "gpt2: attention unscaled": ("GPT2", {"scale_attn_weights": False}, "scale_attn_weights = False"),
    "gpt2: untied": ("GPT2", {"tie_word_embeddings": False}, "tie_word_embeddings = False"),
    "llama: yarn": ("Llama", {"rope_parameters": {**YARN, "rope_theta": 1e4}}, "rotary scaling 'yarn'"),
    "llama: yarn beside default": ("Llama", {"rope_scaling": YARN}, "rotary scaling 'yarn'"),
    "llama: dynamic": ("Llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rotary scaling 'dynamic'"),
    "llama: longrope": ("Llama", {"rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": [2]}},
                        "rotary scaling 'longrope'"),
    "llama: an unknown number": ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "mscale": 2.0}},
                                 "'mscale' = 2.0 of rotary scaling 'linear' is not known"),
    "llama: a window, which it has not": ("Llama", {"sliding_window": 8}, "sliding_window = 8"),
    "llama: half the features turned": ("Llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
    "llama: mlp_bias": ("Llama", {"mlp_bias": True}, "mlp_bias = True"),
    "llama: no kind of GELU": ("Llama", {"hidden_act": "gelu_pytorch_tanh"}, "hidden_act = 'gelu_pytorch_tanh'"),
    "llama: true for a size": ("Llama", {"num_hidden_layers": True}, "num_hidden_layers = True"),
    "llama: a string for a number": ("Llama", {"rms_norm_eps": "1e-5"}, "rms_norm_eps = '1e-5'"),
    "llama: a norm of more than 1": ("Llama", {"rms_norm_eps": 1e5}, "rms_norm_eps = 100000.0"),
    "llama: a base below 1": ("Llama", {"rope_parameters": {"rope_theta": 0.5}}, "rope_parameters.rope_theta = 0.5"),
    "llama: a misspelt name": ("Llama", {"rms_norm_epz": 1e-3, "rms_norm_eps": ...}, "correct it to 'rms_norm_eps'"),
    "llama: 1 for true": ("Llama", {"tie_word_embeddings": 1}, "tie_word_embeddings = 1"),
    "llama: a list of scalings": ("Llama", {"rope_scaling": [1]}, "rope_scaling = [1]"),
    "mistral: a window of 0": ("Mistral", {"sliding_window": 0}, "sliding_window = 0"),
    "qwen2: a kind of layer": ("Qwen2", {"layer_types": ["full_attention", "chunked_attention"]}, "chunked_attention"),
    "qwen2: a window in layers and none given": (
        "Qwen2", {"layer_types": KINDS, "use_sliding_window": False}, "give sliding_window"),
    "qwen2: too few layer_types": ("Qwen2", {"layer_types": KINDS[:1]}, "layer_types has 1 names for 2 layers"),
    "qwen3: yarn": ("Qwen3", {"rope_scaling": YARN}, "rotary scaling 'yarn'"),
    "smollm3: too few layers": ("SmolLM3", {"no_rope_layers": [1]}, "no_rope_layers has 1 numbers for 2 layers"),
    "smollm3: 2 for a layer": ("SmolLM3", {"no_rope_layers": [1, 2]}, "no_rope_layers.1 = 2"),
    "gemma3: soft caps": ("Gemma3Text", {"final_logit_softcapping": 30.0}, "final_logit_softcapping = 30.0"),
    "gemma3: soft caps inside": ("Gemma3Text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping = 50.0"),
    "gemma3: both directions": ("Gemma3Text", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    "gemma3: biases": ("Gemma3Text", {"attention_bias": True}, "attention_bias = True"),
    "gemma3: exact GELU": ("Gemma3Text", {"hidden_activation": "gelu"}, "hidden_activation = 'gelu'"),
    "gemma3: yarn": ("Gemma3Text", {"rope_scaling": YARN}, "rotary scaling 'yarn'"),
    "gemma3: slowed local layers": ("Gemma3Text", {"rope_parameters": {"sliding_attention": LINEAR}},
                                    "sliding_attention.rope_type = 'linear'"),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_settings_compute_what_transformers_computes(name, tmp_path):
    family, settings, changes = COMPUTED[name]
    theirs = made(tmp_path, family, settings, changes)
    ours, _ = load_pretrained(tmp_path, torch.float32, "cpu")
    assert difference(ours, theirs) < 1e-4
    prompt = some_ids(2, 20)  # longer than the windows
    expected = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False,
                               eos_token_id=None, pad_token_id=0)
    assert torch.equal(generate(ours, prompt, 12, temperature=0), expected)


@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_our_models_do_not_have_are_refused_by_name(name, tmp_path):
    family, changes, message = REFUSED[name]
    saved(tmp_path, family, **(GEMMA if family == "Gemma3Text" else {}))
    edit(tmp_path, **changes)
    with pytest.raises(ValueError, match=f"{re.escape(str(tmp_path / 'config.json'))}.*{re.escape(message)}"):
        load_pretrained(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in COMPUTED if name.split(":")[0] not in ("gpt2", "llama")])
def test_each_is_saved_for_transformers_and_for_ourselves(name, tmp_path):
    family, settings, changes = COMPUTED[name]
    made(tmp_path / "theirs", family, settings, changes)
    ours, _ = load_pretrained(tmp_path / "theirs", torch.float32, "cpu")
    save_model(ours, tmp_path / "ours")
    again = load_model(tmp_path / "ours", "cpu")
    assert again.config == ours.config and dataclasses.is_dataclass(again.config)
    assert torch.equal(again(some_ids(1, 30)), ours(some_ids(1, 30)))
    try:
        save_model(ours, tmp_path / "back", layout="huggingface")
    except ValueError as error:
        assert "no Hugging Face family has that together" in str(error)
        return
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back").eval()
    assert difference(ours, theirs) < 1e-4
    back, _ = load_pretrained(tmp_path / "back", torch.float32, "cpu")
    assert back.config == ours.config


@pytest.mark.parametrize("kind, window", [("mistral", 4096), ("qwen2", None)])
def test_a_window_that_the_file_does_not_name_is_the_library_s(kind, window):
    """Longer texts than these tests can afford would compute other numbers without it."""
    settings = {"vocab_size": 61, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2,
                "num_hidden_layers": 2, "intermediate_size": 64, "max_position_embeddings": 8192}
    library = transformers.AutoConfig.for_model(kind, **settings)
    in_use = library.sliding_window if getattr(library, "use_sliding_window", True) else None
    ours = family_of_kind(kind, "hugging_face").find_layout().config_from_hugging_face({"model_type": kind, **settings})
    assert ours.window == in_use == window


def made(folder: Path, family: str, settings: dict, changes: dict) -> nn.Module:
    """A folder with changed settings, and the model that `transformers` loads from it."""
    reference(family, **settings).save_pretrained(folder)
    edit(folder, **changes)
    # The class is named: with its Auto classes the library would choose another for some configurations.
    kind = getattr(transformers, {"Gemma3Text": "Gemma3ForCausalLM", "GPT2": "GPT2LMHeadModel"}.get(
        family, f"{family}ForCausalLM"))
    return kind.from_pretrained(folder, dtype=torch.float32).eval()
