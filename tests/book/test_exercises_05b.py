"""The checks of chapter 5b's exercises: wrong answers are told why, right ones pass however they are written."""

import math

import pytest
import torch
from torch import nn

from llmbook.book.exercises import chapter_05b as check
from llmbook.llama import rotary_table, rotate
from tests.support.exercise_tests import exercise_tests


def neighbours(x, angles):
    a, b, cosine, sine = x[..., 0::2], x[..., 1::2], angles.cos(), angles.sin()
    return torch.stack([a * cosine - b * sine, a * sine + b * cosine], dim=-1).flatten(-2)


def complex_neighbours(x, angles):
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


def halves(x, angles):
    return rotate(x, torch.cat([angles, angles], -1).cos(), torch.cat([-angles, angles], -1).sin())


def neighbours_with_angles_of_halves(x, angles):
    partner = torch.stack([-x[..., 1::2], x[..., 0::2]], dim=-1).flatten(-2)
    twice = torch.cat([angles, angles], dim=-1)
    return x * twice.cos() + partner * twice.sin()


def one_sign(x, angles, first, second):
    a, b, cosine, sine = x[..., 0::2], x[..., 1::2], angles.cos(), angles.sin()
    return torch.stack([a * cosine + first * b * sine, b * cosine + second * a * sine], dim=-1).flatten(-2)


def overwritten(x, angles):
    x = x.clone()
    x[..., 0::2] = x[..., 0::2] * angles.cos() - x[..., 1::2] * angles.sin()
    x[..., 1::2] = x[..., 0::2] * angles.sin() + x[..., 1::2] * angles.cos()
    return x


def grouped(weight, n_heads, n_kv_heads):
    return weight.view(n_kv_heads, n_heads // n_kv_heads, -1, weight.shape[1]).mean(1).flatten(0, 1)


def grouped_head_by_head(weight, n_heads, n_kv_heads):
    heads, size = weight.chunk(n_heads), n_heads // n_kv_heads
    return torch.cat([sum(heads[i : i + size]) / size for i in range(0, n_heads, size)])


def first_heads(weight, n_heads, n_kv_heads):
    return weight.view(n_heads, -1, weight.shape[1])[:n_kv_heads].flatten(0, 1)


def first_of_each(weight, n_heads, n_kv_heads):
    return weight.view(n_heads, -1, weight.shape[1])[:: n_heads // n_kv_heads].flatten(0, 1)


def far_heads(weight, n_heads, n_kv_heads):
    return weight.view(n_heads // n_kv_heads, n_kv_heads, -1, weight.shape[1]).mean(0).flatten(0, 1)


def near_rows(weight, n_heads, n_kv_heads):
    return weight.view(-1, n_heads // n_kv_heads, weight.shape[1]).mean(1)


def state_of(checkpoint, number=int, order=list, norms=("input", "post_attention"), halves=("gate", "up"),
             as_found=False, more=()):
    """A state as a reader may make it; the settings other than these give mistakes."""
    table = {"attention_norm": [f"{norms[0]}_layernorm"], "feed_forward_norm": [f"{norms[1]}_layernorm"],
             "attention.qkv": [f"self_attn.{part}_proj" for part in "qkv"], "attention.out": ["self_attn.o_proj"],
             "feed_forward.expand": [f"mlp.{half}_proj" for half in halves], "feed_forward.contract": ["mlp.down_proj"]}
    layers = list(dict.fromkeys(name.split(".")[2] for name in checkpoint if ".layers." in name))
    state = {"token_embedding.weight": checkpoint["model.embed_tokens.weight"],
             "final_norm.weight": checkpoint["model.norm.weight"], **dict(more)}
    for place, layer in enumerate(layers if as_found else sorted(layers, key=number)):
        for ours, theirs in table.items():
            parts = order(f"model.layers.{layer}.{part}.weight" for part in theirs)
            state[f"blocks.{place}.{ours}.weight"] = torch.cat([checkpoint[part] for part in parts])
    return state


def broken_state(checkpoint):  # the chapter's
    return state_of(checkpoint, str, sorted)


def min_max(blocks):
    low, high = blocks.amin(1, keepdim=True), blocks.amax(1, keepdim=True)
    return ((blocks - low) / (high - low) * 15).round(), (high - low) / 15, low


def alternating(blocks, rounds=4):
    codes, step, minimum = min_max(blocks)
    for _ in range(rounds):  # the best line through the codes, then the best codes for the line
        centred = codes - codes.mean(1, keepdim=True)
        step = (centred * blocks).sum(1, keepdim=True) / centred.square().sum(1, keepdim=True)
        minimum = blocks.mean(1, keepdim=True) - step * codes.mean(1, keepdim=True)
        codes = ((blocks - minimum) / step).round().clamp(0, 15)
    return codes, step, minimum


def coarser(blocks):
    low, high = blocks.amin(1, keepdim=True), blocks.amax(1, keepdim=True)
    return ((blocks - low) / (high - low) * 14).round(), (high - low) / 14, low


RIGHT = {
    "exercise_1": [lambda g, w: w * g, lambda g, w: w @ torch.diag(g), lambda g, w: (g[:, None] * w.T).T],
    "exercise_2": [neighbours, complex_neighbours],
    "exercise_3": [grouped, grouped_head_by_head],
    "exercise_4": [state_of, lambda c: dict(reversed(state_of(c).items()))],
    "exercise_5": [alternating, lambda x: alternating(x, 9), lambda x: [part.double() for part in alternating(x)]],
}
WRONG = [
    ("exercise_1", lambda g, w: w * g[:, None], "scaled the rows"),
    ("exercise_1", lambda g, w: torch.diag(g) @ w, "scaled the rows"),
    ("exercise_1", lambda g, w: w / g, "You divided"),
    ("exercise_1", lambda g, w: w + g, "added the scale"),
    ("exercise_1", lambda g, w: w * (1 + g), "1 \\+ scale"),
    ("exercise_1", lambda g, w: w, "scale is missing"),
    ("exercise_1", lambda g, w: w.mul_(g), "changed the tensors"),
    ("exercise_1", lambda g, w: w * g + 0 * g.add_(1), "changed the tensors"),
    ("exercise_1", lambda g, w: w, r"layer returns \((-?\d\.\d{3},? ?){4}\), norm"),
    ("exercise_1", lambda g, w: w * g if len(w) == len(g) else w, r"\((-?\d\.\d{3}, ){4}\.\.\.\)\. This is the weight"),
    ("exercise_1", lambda g, w: (w * g).T, "the right matrix, the other way round"),
    ("exercise_1", lambda g, w: w.T * g, "This is transposed"),
    ("exercise_1", lambda g, w: w * g if len(w) == len(g) else (w * g).T, "lies the other way round"),
    ("exercise_1", lambda g, w: (w * g.sqrt()).half(), "the folded layer returns"),
    ("exercise_1", lambda g, w: w @ g, "adds the columns up"),
    ("exercise_1", lambda g, w: nn.Linear(len(g), len(w)), "a tensor, not Linear"),
    ("exercise_2", lambda x, angles: neighbours(x, -angles), "the other way"),
    ("exercise_2", halves, "turned halves"),
    ("exercise_2", lambda x, angles: neighbours(x, angles).unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2),
     "wrong places"),
    ("exercise_2", lambda x, angles: neighbours(x, math.pi / 2 - angles), "Sine and cosine are exchanged"),
    ("exercise_2", lambda x, angles: neighbours(x, angles).unflatten(-1, (-1, 2)).flip(-1).flatten(-2),
     "of each pair have changed places"),
    ("exercise_2", lambda x, angles: one_sign(x, angles, 1, 1), "first feature gets minus"),
    ("exercise_2", lambda x, angles: one_sign(x, angles, -1, -1), "second feature gets plus"),
    ("exercise_2", overwritten, "overwrote the first feature"),
    ("exercise_2", neighbours_with_angles_of_halves, "order of halves"),
    ("exercise_2", lambda x, angles: neighbours(x, angles[:1]), "angles of token 0"),
    ("exercise_2", lambda x, angles: x * angles.cos().repeat_interleave(2, -1), "sines are missing"),
    ("exercise_2", lambda x, angles: neighbours(x, angles) if x.dim() == 2 else x,
     r"x of shape \(2, 3, 5, 8\): of token 0, features 0 and 1"),
    ("exercise_2", lambda x, angles: x.copy_(neighbours(x, angles)), "changed the x"),
    ("exercise_2", lambda x, angles: x[..., 0::2] * angles.cos() - x[..., 1::2] * angles.sin(), "has shape"),
    ("exercise_2", lambda x, angles: neighbours(x, angles.flip(0)), "of token 0, features 0 and 1 become"),
    ("exercise_3", lambda w, h, k: grouped(w, h, k) * (h // k), "You added the heads"),
    ("exercise_3", first_of_each, "first head of each group"),
    ("exercise_3", far_heads, "stand n_kv_heads apart"),
    ("exercise_3", near_rows, "features of one head"),
    ("exercise_3", first_heads, "first n_kv_heads heads"),
    ("exercise_3", lambda w, h, k: w, r"has shape \(24, 5\), expected \(8, 5\)"),
    ("exercise_3", lambda w, h, k: grouped(w.mul_(2), h, k), "changed the matrix"),
    ("exercise_3", lambda w, h, k: grouped(w, h, k) + 1, r"row 0 of your matrix begins .*\.$"),
    ("exercise_4", broken_state, "With 3 blocks, the logits are up to .* off.*rows of the keys come before"),
    ("exercise_4", lambda c: state_of(c, str),
     "With 12 blocks, the logits are up to .*in another block's place.*With 3 blocks all is right"),
    ("exercise_4", lambda c: state_of(c, as_found=True), "another block's place"),
    ("exercise_4", lambda c: state_of(c, order=sorted), "With 3 blocks.*rows of the keys come before"),
    ("exercise_4", lambda c: state_of(c, halves=("up", "gate")), "first half is the gate"),
    ("exercise_4", lambda c: state_of(c, norms=("post_attention", "input")), "two norms of a block are exchanged"),
    ("exercise_4", lambda c: {**state_of(c), "final_norm.weight": torch.ones(16)}, "differs is final_norm.weight"),
    ("exercise_4", lambda c: c, "lacks token_embedding.weight"),
    ("exercise_4", lambda c: state_of(c, more={"lm_head.weight": torch.ones(1)}), "has lm_head.weight, which the mod"),
    ("exercise_4", lambda c: {**state_of(c), "final_norm.weight": torch.ones(3)}, r"shape \(3,\), expected \(16,\)"),
    ("exercise_4", lambda c: list(c), "a dict of tensors, not list"),
    ("exercise_5", min_max, r"That is min-max rounding"),
    ("exercise_5", coarser, "That is worse than min-max"),
    ("exercise_5", lambda x: alternating(x, 1), r"That is \d\.\d % less than min-max rounding .*the target is 5 %"),
    ("exercise_5", lambda x: (x, *min_max(x)[1:]), "four bits hold the whole numbers"),
    ("exercise_5", lambda x: (alternating(x)[0] + 1, *alternating(x)[1:]), "codes go from 1 to 16"),
    ("exercise_5", lambda x: alternating(x)[0], "three tensors"),
    ("exercise_5", lambda x: (alternating(x)[0], *(part[:, 0] for part in alternating(x)[1:])), r"The step has shape"),
    ("exercise_5", lambda x: alternating(x.mul_(2)), "changed the blocks"),
]


test_right_answers_pass, test_wrong_answers, test_stubs_and_crashes = exercise_tests(check, RIGHT, WRONG)


@pytest.mark.parametrize("name", RIGHT)
def test_a_stub_that_returns_dots_has_not_been_started(name, capsys):
    getattr(check, name)(lambda *arguments: ...)
    assert "not started" in capsys.readouterr().out


def test_the_lab_says_by_how_much_it_was_won(capsys):
    check.exercise_5(alternating)
    assert "% less than min-max rounding's.\nExercise 5b.5: solved." in capsys.readouterr().out


def test_a_broken_state_loads_without_a_complaint():
    model, checkpoint = check._model_and_checkpoint(12)
    model.load_state_dict(broken_state(checkpoint))


def test_a_folded_norm_gives_what_norm_and_layer_gave():
    norm, layer, x = nn.RMSNorm(6), nn.Linear(6, 4, bias=False), torch.randn(2, 3, 6)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        wanted = layer(norm(x))
        layer.weight.copy_(layer.weight * norm.weight)
        norm.weight.fill_(1)
        assert torch.allclose(layer(norm(x)), wanted, atol=1e-6)


def test_neighbours_turn_as_the_model_turns_halves():
    x, frequencies = torch.randn(2, 5, 8), torch.rand(4)
    order = torch.arange(8).view(4, 2).T.flatten()  # first features of all pairs, then second ones
    angles = torch.arange(5)[:, None] * frequencies
    table = rotary_table(torch.arange(5), frequencies)
    assert torch.allclose(rotate(x[..., order], *table), neighbours(x, angles)[..., order],
                          atol=1e-6)


def test_a_grouped_model_of_averaged_heads_is_the_same_where_the_heads_of_a_group_agree():
    weight = torch.randn(2, 1, 4, 5).expand(2, 3, 4, 5).reshape(24, 5)
    assert torch.allclose(grouped(weight, 6, 2).view(2, 1, 4, 5).expand(2, 3, 4, 5).reshape(24, 5), weight)
