"""llmbook.formats.layouts: every tensor of other people's files is used exactly once."""

import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmbook.open_weights import load_pretrained
from tests.support.pretrained import change_weights, difference, saved

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("change, message", [
    (lambda state: state.update(surplus=torch.ones(3)), "unknown surplus"),
    (lambda state: state.update({"model.layers.2.mlp.up_proj.weight": torch.ones(64, 32)}),
     "unknown model.layers.2.mlp.up_proj.weight"),
    (lambda state: state.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(32)}),
     "unknown model.layers.0.self_attn.q_proj.bias"),
    (lambda state: state.pop("model.layers.1.self_attn.k_proj.weight") is None,
     "missing model.layers.1.self_attn.k_proj.weight"),
    (lambda state: state.pop("model.norm.weight") is None, "missing model.norm.weight"),
    (lambda state: state.update({"model.layers.0.mlp.down_proj.weight": torch.ones(64, 32)}),
     "model.layers.0.mlp.down_proj.weight has shape (64, 32) instead of (32, 64)"),
    (lambda state: state.update({"model.layers.0.self_attn.v_proj.weight": torch.ones(32, 32)}),
     "model.layers.0.self_attn.v_proj.weight has shape (32, 32) instead of (16, 32)"),
    (lambda state: {}, "missing model.embed_tokens.weight"),
])
def test_tensors_that_do_not_fit_are_named(change, message, tmp_path):
    saved(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    replaced = change(state)
    save_file(replaced if isinstance(replaced, dict) and not replaced else state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="does not fit its configuration: .*" + re.escape(message)):
        load_pretrained(tmp_path)


def test_a_turned_matrix_of_gpt2_is_refused(tmp_path):
    saved(tmp_path, "GPT2")
    change_weights(tmp_path, lambda state: {name: tensor.T.contiguous() if name.endswith("c_fc.weight") else tensor
                                            for name, tensor in state.items()})
    with pytest.raises(ValueError, match=r"c_fc.weight has shape \(128, 32\) instead of \(32, 128\)"):
        load_pretrained(tmp_path)


def test_old_gpt2_files(tmp_path):
    """Names without "transformer.", attention masks among the weights, and the output stored though tied."""
    theirs = saved(tmp_path, "GPT2")

    def old(state):
        state = {name.removeprefix("transformer."): tensor for name, tensor in state.items()}
        for i in range(2):
            state[f"h.{i}.attn.bias"] = torch.ones(96, 96).tril()[None, None]
            state[f"h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
        return {**state, "lm_head.weight": state["wte.weight"].clone()}

    change_weights(tmp_path, old)
    assert difference(load_pretrained(tmp_path)[0], theirs) < 1e-4


def test_old_llama_files_hold_rotary_frequencies(tmp_path):
    theirs = saved(tmp_path)
    change_weights(tmp_path, lambda state: state.update(
        {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in range(2)}))
    assert difference(load_pretrained(tmp_path)[0], theirs) < 1e-4


@pytest.mark.parametrize("family, name", [("Llama", "model.embed_tokens.weight"), ("GPT2", "transformer.wte.weight")])
def test_a_tied_output_that_is_stored_must_be_the_embedding(family, name, tmp_path):
    theirs = saved(tmp_path, family)
    change_weights(tmp_path, lambda state: state.update({"lm_head.weight": state[name].clone()}))
    assert difference(load_pretrained(tmp_path)[0], theirs) < 1e-4

    def other(state):
        state["lm_head.weight"][60, 31] += 0.01

    change_weights(tmp_path, other)
    with pytest.raises(ValueError, match="lm_head.weight differs from the token embedding"):
        load_pretrained(tmp_path)
    change_weights(tmp_path, lambda state: state.update({"lm_head.weight": state[name][:50].clone()}))
    with pytest.raises(ValueError, match="lm_head.weight differs from the token embedding"):
        load_pretrained(tmp_path)
