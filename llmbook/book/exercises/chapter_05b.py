"""Checks for the exercises of chapter 5b, open weights."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from llmbook.book.exercises import Wrong, close, exercise, expect, expect_tensor
from llmbook.llama import Llama, LlamaConfig


@exercise("5b.1", "A scale in front of a matrix is one more way to write the matrix: nothing is lost without it.")
def exercise_1(fold_scale: Callable[[Tensor, Tensor], Tensor]) -> None:
    for rows, columns in ((4, 4), (7, 3), (2, 6)):  # square first: there, the wrong axis gives an answer too
        scale, weight = torch.rand(columns) + 0.5, torch.randn(rows, columns)
        before = weight.clone(), scale.clone()
        answer = fold_scale(scale, weight)
        if isinstance(answer, Tensor) and rows != columns and answer.shape == (columns, rows):
            raise Wrong(f"The matrix lies the other way round: its shape is {(columns, rows)}, the layer's weight "
                        f"is {(rows, columns)}, (d_out, d_in).")
        expect(not isinstance(answer, Tensor) or answer.dim() == 2, "You return no matrix. A product such as weight @ "
               "scale adds the columns up, as a layer does for one token. Here each column is multiplied and stays.")
        answer = expect_tensor(answer, (rows, columns), "The folded matrix")
        expect(torch.equal(weight, before[0]) and torch.equal(scale, before[1]),
               "Your function changed the tensors that it was given: multiply into a new one.")
        if close(answer, weight * scale):
            continue
        mistakes = [
            (weight, "This is the weight as it was: the scale is missing."),
            (weight / scale, "You divided. The layer sees the features multiplied by the scale."),
            (weight + scale, "You added the scale. The norm multiplies by it."),
            (weight * (1 + scale), "You multiplied by 1 + scale. Our norm's scale is the whole factor."),
            ((weight * scale).T, "This is the right matrix, the other way round."),
        ]
        if rows == columns:
            mistakes += [(weight.T * scale, "This is transposed: weight is (d_out, d_in) already."),
                         (weight * scale[:, None], "You scaled the rows, which make the output. Input feature j is "
                                                   "multiplied by column j, so scale the columns.")]
        hint = next((text for value, text in mistakes if close(answer, value)), "")
        features = F.normalize(torch.randn(columns), dim=0)
        raise Wrong(f"For a weight of shape {(rows, columns)} and one token, the folded layer returns "
                    f"{_short(answer.float() @ features)}, norm and layer returned "
                    f"{_short(weight @ (scale * features))}. {hint}".rstrip())


def _short(numbers: Tensor) -> str:
    return "(" + ", ".join(f"{number:.3f}" for number in numbers[:4].tolist()) + (
        ", ...)" if len(numbers) > 4 else ")")


@exercise("5b.2", "The same turn in another order of the features: that is all that sets the two layouts apart.")
def exercise_2(rotate_neighbours: Callable[[Tensor, Tensor], Tensor]) -> None:
    for shape in ((4, 6), (2, 3, 5, 8), (1, 4)):
        x, angles = torch.randn(shape), torch.rand(shape[-2], shape[-1] // 2) * 2 + 0.3
        before = x.clone()
        answer = expect_tensor(rotate_neighbours(x, angles), shape, f"The result for x of shape {shape}")
        expect(torch.equal(x, before), "Your function changed the x that it was given: write into a new tensor.")
        first, second, cosine, sine = x[..., 0::2], x[..., 1::2], angles.cos(), angles.sin()
        right = _side_by_side(first * cosine - second * sine, first * sine + second * cosine)
        if close(answer, right):
            continue
        _, token, feature = [0, *(~torch.isclose(answer, right, rtol=1e-5, atol=1e-5)).nonzero()[0].tolist()][-3:]
        pair = feature // 2
        found, wanted = (both.reshape(-1, *shape[-2:])[0, token, 2 * pair : 2 * pair + 2] for both in (answer, right))
        raise Wrong(f"x of shape {shape}: of token {token}, features {2 * pair} and {2 * pair + 1} become "
                    f"{_short(found)}, expected {_short(wanted)}. {_rotation_mistake(answer, x, angles)}".rstrip())


def _side_by_side(first: Tensor, second: Tensor) -> Tensor:
    """(..., pairs) and (..., pairs) -> (..., 2 * pairs), taking turns."""
    return torch.stack([first, second], dim=-1).flatten(-2)


def _rotation_mistake(answer: Tensor, x: Tensor, angles: Tensor) -> str:
    a, b, cosine, sine = x[..., 0::2], x[..., 1::2], angles.cos(), angles.sin()
    left, right = x.chunk(2, dim=-1)
    turned = a * cosine - b * sine
    twice = torch.cat([angles, angles], dim=-1)  # angle i at features i and i + d_head / 2
    partner = _side_by_side(-b, a)
    mistakes = [
        (_side_by_side(a * cosine + b * sine, b * cosine - a * sine),
         "You turn the other way: this is the turn by minus the angle. The first feature of a pair gets minus the "
         "sine of the second."),
        (torch.cat([left * cosine - right * sine, left * sine + right * cosine], dim=-1),
         "You turned halves, features i and i + d_head / 2, as `rotate` does. Here pair i is features 2i and 2i + 1."),
        (torch.cat([turned, a * sine + b * cosine], dim=-1),
         "The numbers are right and stand in the wrong places: you put all first features before all second ones. "
         "Let them take turns, for example with torch.stack(..., dim=-1).flatten(-2)."),
        (_side_by_side(turned, turned * sine + b * cosine),
         "You overwrote the first feature before the second one was computed: both need the old values."),
        (x * twice.cos() + partner * twice.sin(),
         "The angles are in the order of halves. Repeat each one for its two neighbours: repeat_interleave(2, -1)."),
        (_side_by_side(turned, b * cosine - a * sine),
         "One sign is wrong: the second feature gets plus the sine of the first."),
        (_side_by_side(a * cosine + b * sine, a * sine + b * cosine),
         "One sign is wrong: the first feature gets minus the sine of the second."),
        (_side_by_side(a * sine - b * cosine, a * cosine + b * sine), "Sine and cosine are exchanged."),
        (_side_by_side(a * sine + b * cosine, turned), "The two features of each pair have changed places."),
        (x * angles.cos().repeat_interleave(2, -1), "The sines are missing: you scaled and did not turn."),
    ]
    first = angles[:1]  # the angles of token 0
    mistakes.append((_side_by_side(a * first.cos() - b * first.sin(), a * first.sin() + b * first.cos()),
                     "Every token turns by the angles of token 0: row t of the angles belongs to token t."))
    return next((text for value, text in mistakes if close(answer, value)), "")


@exercise("5b.3", "So the first grouped models were made: average the heads of a group, then train on for a while.")
def exercise_3(group_heads: Callable[[Tensor, int, int], Tensor]) -> None:
    for n_heads, n_kv_heads, d_head, d_model in ((6, 2, 4, 5), (4, 1, 3, 7), (9, 3, 2, 4), (4, 4, 2, 3)):
        weight = torch.randn(n_heads * d_head, d_model)
        before, size = weight.clone(), (n_kv_heads * d_head, d_model)
        what = f"For n_heads={n_heads}, n_kv_heads={n_kv_heads} and heads of {d_head} features"
        answer = expect_tensor(group_heads(weight, n_heads, n_kv_heads), size, f"{what}: the matrix")
        expect(torch.equal(weight, before), "Your function changed the matrix that it was given: make a new one.")
        heads = weight.view(n_heads, d_head, d_model)
        groups = heads.unflatten(0, (n_kv_heads, -1))  # (n_kv_heads, heads of a group, d_head, d_model)
        if close(answer, groups.mean(1).reshape(size)):
            continue
        group = n_heads // n_kv_heads
        mistakes = [
            (groups.sum(1), "You added the heads of a group. The mean keeps the keys as large as they were."),
            (groups[:, 0], "You kept the first head of each group. Average all of them."),
            (heads.unflatten(0, (group, n_kv_heads)).mean(0),
             "You averaged heads that stand n_kv_heads apart. Heads next to each other share one: 0, 1, 2, then 3, 4, "
             "5."),
            (weight.view(n_kv_heads * d_head, group, d_model).mean(1),
             "You averaged rows next to each other, which are features of one head. Cut the rows into heads first."),
            (heads[:n_kv_heads], "You kept the first n_kv_heads heads and left the others out."),
        ]
        hint = next((text for value, text in mistakes if close(answer, value.reshape(size))), "")
        raise Wrong(f"{what}, row 0 of your matrix begins {_short(answer[0])}, expected "
                    f"{_short(groups.mean(1)[0, 0])}. {hint}".rstrip())


_SIZES = {"vocab_size": 40, "context_length": 16, "d_model": 16, "n_heads": 4, "n_kv_heads": 2, "d_hidden": 24}
_PARTS = {  # ours: theirs, top to bottom
    "attention_norm": ["input_layernorm"], "feed_forward_norm": ["post_attention_layernorm"],
    "attention.qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "attention.out": ["self_attn.o_proj"], "feed_forward.expand": ["mlp.gate_proj", "mlp.up_proj"],
    "feed_forward.contract": ["mlp.down_proj"],
}


def _model_and_checkpoint(n_layers: int) -> tuple[Llama, dict[str, Tensor]]:
    """A small Llama, and its weights under Hugging Face's names, in no order at all."""
    model = Llama(LlamaConfig(n_layers=n_layers, **_SIZES)).eval()
    state = {name: torch.randn_like(weight) / 2 for name, weight in model.state_dict().items()}
    model.load_state_dict(state)
    found = {"model.embed_tokens.weight": state["token_embedding.weight"],
             "model.norm.weight": state["final_norm.weight"]}
    rows = {"attention.qkv": [16, 8, 8], "feed_forward.expand": [24, 24]}
    for layer in range(n_layers):
        for ours, parts in _PARTS.items():
            whole = state[f"blocks.{layer}.{ours}.weight"]
            for part, tensor in zip(parts, whole.split(rows.get(ours, [len(whole)])), strict=True):
                found[f"model.layers.{layer}.{part}.weight"] = tensor.clone()
    names = list(found)
    return model, {names[place]: found[names[place]] for place in torch.randperm(len(names)).tolist()}


@exercise("5b.4", "A file that loads without an error can still be loaded wrongly: compare what it computes.")
def exercise_4(mended_state: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]) -> None:
    ids = torch.arange(15)[None]
    problems = {}
    for n_layers in (3, 12):
        model, checkpoint = _model_and_checkpoint(n_layers)
        right = {name: weight.clone() for name, weight in model.state_dict().items()}
        answer = mended_state(dict(checkpoint))
        if answer is None or answer is ...:
            raise NotImplementedError
        expect(isinstance(answer, Mapping), f"The result should be a dict of tensors, not {type(answer).__name__}.")
        for name in [*right, *answer]:
            expect(name in answer, f"With {n_layers} blocks your state lacks {name}.")
            expect(name in right, f"With {n_layers} blocks your state has {name}, which the model has not.")
            expect_tensor(answer[name], tuple(right[name].shape), f"With {n_layers} blocks, {name}")
        wrong = [name for name in right if not torch.equal(answer[name].float(), right[name])]
        if wrong:
            with torch.no_grad():
                logits = model(ids)
                model.load_state_dict(answer)
                off = (model(ids) - logits).abs().max().item()
            problems[n_layers] = (f"With {n_layers} blocks, the logits are up to {off:.1f} off. "
                                  + _mixed_up(answer, right, wrong))
    if problems:
        raise Wrong(problems.get(3) or problems[12] + " With 3 blocks all is right.")


def _mixed_up(answer: Mapping[str, Tensor], right: Mapping[str, Tensor], wrong: list[str]) -> str:
    """Which mistake a state has, of those that raise no error."""
    kinds = {".".join(name.split(".")[2:]) for name in wrong}
    first = wrong[0]
    if kinds == {"attention.qkv.weight"}:
        query, key, value = right[first].split([16, 8, 8])
        if torch.equal(answer[first], torch.cat([key, query, value])):
            return ("All tensors but attention.qkv are right. There the rows of the keys come before those of the "
                    "queries: in which order do the parts belong?")
    if kinds == {"feed_forward.expand.weight"}:
        return "All tensors but feed_forward.expand are right. Its first half is the gate, its second the content."
    if kinds == {"attention_norm.weight", "feed_forward_norm.weight"}:
        return ("The two norms of a block are exchanged: one stands before attention, the other before the "
                "feed-forward part.")
    if all(any(torch.equal(answer[name], tensor) for tensor in right.values()) for name in wrong):
        return ("Every tensor is right, but some are in another block's place. In which order do you visit the "
                "blocks?")
    return f"The first tensor that differs is {first}."


def _rounded(codes: Tensor, step: Tensor, minimum: Tensor) -> Tensor:
    return minimum.half().float() + step.half().float() * codes.float()


@exercise("5b.5", "The levels that lose least are not those that reach the largest number.")
def exercise_5(round_blocks: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]) -> None:
    blocks = torch.randn(4096, 32) * torch.rand(4096, 1).add(0.2)
    given = blocks.clone()
    answer: Any = round_blocks(given)
    if answer is None or answer is ...:
        raise NotImplementedError
    expect(isinstance(answer, (tuple, list)) and len(answer) == 3, "Return three tensors: codes, step, minimum.")
    codes = expect_tensor(answer[0], (4096, 32), "The codes")
    step, minimum = (expect_tensor(part, (4096, 1), f"The {name}") for part, name in
                     zip(answer[1:], ("step", "minimum")))
    expect(torch.equal(given, blocks), "Your function changed the blocks that it was given: work on a copy.")
    expect(torch.equal(codes.float(), codes.float().round()) and 0 <= codes.min() and codes.max() <= 15,
           f"The codes go from {codes.min():g} to {codes.max():g}: four bits hold the whole numbers from 0 to 15, so "
           "round and clamp them.")
    low, high = blocks.amin(1, keepdim=True), blocks.amax(1, keepdim=True)
    plain = (high - low) / 15
    size = blocks.square().mean().sqrt()
    first = (_rounded(((blocks - low) / plain).round(), plain, low) - blocks).square().mean().sqrt() / size
    yours = (_rounded(codes, step, minimum) - blocks).square().mean().sqrt() / size
    said = f"The error of your rounding is {100 * yours:.2f} % of a typical weight"
    better = 1 - (yours / first).item()
    if better < 0.05:
        hint = "That is worse than" if better < -0.001 else "That is" if better < 0.001 else \
            f"That is {100 * better:.1f} % less than"
        raise Wrong(f"{said}. {hint} min-max rounding ({100 * first:.2f} %); the target is 5 % less. For given codes, "
                    "which step and minimum have the smallest squared error? And for those, which codes?")
    print(f"{said}, {100 * better:.1f} % less than min-max rounding's.")
