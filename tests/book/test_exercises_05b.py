"""The checks of chapter 5b's exercises: wrong answers are told why, right ones pass however they are written."""

import math
from functools import lru_cache

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quantize
from torch import nn

from llmbook.book.exercises import chapter_05b as check
from llmbook.formats.gguf import unpack_q4_1
from llmbook.llama import Llama, LlamaConfig, rotary_table, rotate
from tests.support.exercise_tests import exercise_tests


def tokens(c, memory, size):
    return min(c.context_length, memory // (2 * c.n_layers * c.n_kv_heads * c.d_head * size))


@lru_cache
def numbers_of_a_token(config: LlamaConfig) -> int:
    with torch.device("meta"):
        cache = Llama(config).new_cache(1, 1)
    return cache.keys.numel() + cache.values.numel()


def tokens_by_cache(config, memory, size):
    return min(math.floor(memory / (numbers_of_a_token(config) * size)), config.context_length)


def tokens_of(numbers, size=1.0):
    """A wrong count: `numbers` of a config a token, capped and rounded as they should be."""
    return lambda c, memory, each: min(c.context_length, int(memory // (numbers(c) * each * size)))


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


def chat(messages, **layout):
    turns = [(message["role"], message["content"]) for message in messages]
    rest = turns[1:] if turns and turns[0][0] == "system" else turns
    if not rest or [role for role, _ in rest] != [("user", "assistant")[i % 2] for i in range(len(rest))]:
        raise ValueError("user and assistant take turns")
    return check._bracketed(turns, **layout)


def chat_by_state(messages):
    text, system, expected = "<s>", "", {"system", "user"}
    for message in messages:
        role, content = message["role"], message["content"]
        if role not in expected:
            raise ValueError(f"{role} is not {expected}")
        if role == "system":
            system, expected = content + "\n\n", {"user"}
        elif role == "user":
            text, system, expected = text + "[INST] " + system + content + " [/INST]", "", {"assistant"}
        else:
            text, expected = text + " " + content + "</s>", {"user"}
    if text == "<s>":
        raise ValueError("no question")
    return text


def chat_that_merges_in_place(messages):
    if messages and messages[0]["role"] == "system" and len(messages) > 1:
        messages[1]["content"] = messages[0]["content"] + "\n\n" + messages[1]["content"]
        del messages[0]
    return chat(messages)


def chat_with_a_system_turn(messages):
    if messages and messages[0]["role"] == "system":
        return "<s>[INST] " + messages[0]["content"] + " [/INST]" + chat(messages[1:], start="")
    return chat(messages)


def chat_that_asserts(messages):
    roles = [message["role"] for message in messages if message["role"] != "system"]
    assert roles == [("user", "assistant")[i % 2] for i in range(len(roles))]
    return chat(messages)


def chat_that_checks_nothing(messages):
    turns = [(message["role"], message["content"]) for message in messages]
    return check._bracketed(turns) if turns else "<s>"


def chat_by_rule(broken):
    """A chat that refuses what this rule calls broken: it gets all roles and those after the system message."""
    def answer(messages):
        roles = [message["role"] for message in messages]
        if not roles or broken(roles, roles[1:] if roles[0] == "system" else roles):
            raise ValueError
        return chat_that_checks_nothing(messages)
    return answer


def repeats(roles):
    return any(a == b for a, b in zip(roles, roles[1:])) or "system" in roles or "tool" in roles or not roles


def chat_with_late_system(messages):
    late = [i for i, message in enumerate(messages) if message["role"] == "system" and i]
    return chat([message for i, message in enumerate(messages) if i not in late])


def pack(values, levels=15, turn=torch.round, layout="halves", clamp=True, number=torch.float16, swap=False,
         per_row=False, one_low=False, codes_first=False, codes_only=False):
    blocks = values.reshape(-1, 32)
    source = values.repeat_interleave(values.shape[1] // 32, 0) if per_row else blocks
    low, high = source.amin(1, keepdim=True), source.amax(1, keepdim=True)
    if one_low:
        low = values.amin(1, keepdim=True).repeat_interleave(values.shape[1] // 32, 0)
    stored = torch.cat([(high - low) / levels, low], dim=1).to(number)
    step, minimum = stored.float().split(1, dim=1)
    codes = turn((blocks - minimum) / step.clamp(min=1e-9))
    codes = codes.clamp(0, 15) if clamp else codes.clamp(-100, 100).to(torch.int32)
    codes = codes.to(torch.uint8)
    first, second = (codes[:, 0::2], codes[:, 1::2]) if layout == "neighbours" else codes.chunk(2, dim=1)
    if layout == "swapped":
        first, second = second, first
    parts = [(stored.flip(1) if swap else stored).contiguous().view(torch.uint8),
             codes if layout == "bytes" else first | (second << 4)]
    return torch.cat(parts[1:] if codes_only else parts[::-1] if codes_first else parts, dim=1).view(len(values), -1)


def pack_with_gguf(values):
    return torch.from_numpy(np.array(quantize(values.numpy(), GGMLQuantizationType.Q4_1)))


RIGHT = {
    "exercise_1": [tokens, tokens_by_cache, lambda *sizes: float(tokens(*sizes))],
    "exercise_2": [lambda g, w: w * g, lambda g, w: w @ torch.diag(g), lambda g, w: (g[:, None] * w.T).T],
    "exercise_3": [neighbours, complex_neighbours],
    "exercise_4": [chat, chat_by_state],
    "exercise_5": [pack, pack_with_gguf, lambda x: pack(x, turn=lambda codes: (codes + 0.5).floor())],
}
WRONG = [
    ("exercise_1", tokens_of(lambda c: c.n_layers * c.n_kv_heads * c.d_head), "one of the two"),
    ("exercise_1", tokens_of(lambda c: 2 * c.n_layers * c.n_heads * c.d_head), "You counted n_heads"),
    ("exercise_1", tokens_of(lambda c: 2 * c.n_kv_heads * c.d_head), "one layer"),
    ("exercise_1", tokens_of(lambda c: 2 * c.n_layers * c.n_kv_heads * (c.d_model // c.n_heads)), "need not be d_m"),
    ("exercise_1", tokens_of(lambda c: 2 * c.n_layers * c.n_kv_heads * c.d_model), "features, not d_model"),
    ("exercise_1", tokens_of(lambda c: 2 * c.n_layers * c.d_model), "counted d_model features"),
    ("exercise_1", lambda c, memory, size: tokens(c, memory, 1), "You counted numbers"),
    ("exercise_1", lambda c, memory, size: tokens(c, memory, 8 * size), "counted bits"),
    ("exercise_1", lambda c, memory, size: memory // (2 * c.n_layers * c.n_kv_heads * c.d_head * size), "No text is"),
    ("exercise_1", lambda c, memory, size: -(-memory // (2 * c.n_layers * c.n_kv_heads * c.d_head * size)),
     "does not fit: round down"),
    ("exercise_1", lambda c, memory, size: memory / (2 * c.n_layers * c.n_kv_heads * c.d_head * size), "Part of a tok"),
    ("exercise_1", lambda c, memory, size: max(c.context_length, memory // 288), "take the smaller one"),
    ("exercise_1", lambda c, memory, size: 7, "leaves a key and a value of d_head numbers"),
    ("exercise_1", lambda c, memory, size: str(tokens(c, memory, size)), "a number, not str"),
    ("exercise_2", lambda g, w: w * g[:, None], "scaled the rows"),
    ("exercise_2", lambda g, w: torch.diag(g) @ w, "scaled the rows"),
    ("exercise_2", lambda g, w: w / g, "You divided"),
    ("exercise_2", lambda g, w: w + g, "added the scale"),
    ("exercise_2", lambda g, w: w * (1 + g), "1 \\+ scale"),
    ("exercise_2", lambda g, w: w, "scale is missing"),
    ("exercise_2", lambda g, w: w.mul_(g), "changed the tensors"),
    ("exercise_2", lambda g, w: w * g + 0 * g.add_(1), "changed the tensors"),
    ("exercise_2", lambda g, w: w, r"layer returns \((-?\d\.\d{3},? ?){4}\), norm"),
    ("exercise_2", lambda g, w: w * g if len(w) == len(g) else w, r"\((-?\d\.\d{3}, ){4}\.\.\.\)\. This is the weight"),
    ("exercise_2", lambda g, w: (w * g).T, "the right matrix, the other way round"),
    ("exercise_2", lambda g, w: w.T * g, "This is transposed"),
    ("exercise_2", lambda g, w: w * g if len(w) == len(g) else (w * g).T, "lies the other way round"),
    ("exercise_2", lambda g, w: (w * g.sqrt()).half(), "the folded layer returns"),
    ("exercise_2", lambda g, w: w @ g, "adds the columns up"),
    ("exercise_2", lambda g, w: nn.Linear(len(g), len(w)), "a tensor, not Linear"),
    ("exercise_3", lambda x, angles: neighbours(x, -angles), "the other way"),
    ("exercise_3", halves, "turned halves"),
    ("exercise_3", lambda x, angles: neighbours(x, angles).unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2),
     "wrong places"),
    ("exercise_3", lambda x, angles: neighbours(x, math.pi / 2 - angles), "Sine and cosine are exchanged"),
    ("exercise_3", lambda x, angles: neighbours(x, angles).unflatten(-1, (-1, 2)).flip(-1).flatten(-2),
     "of each pair have changed places"),
    ("exercise_3", lambda x, angles: one_sign(x, angles, 1, 1), "first feature gets minus"),
    ("exercise_3", lambda x, angles: one_sign(x, angles, -1, -1), "second feature gets plus"),
    ("exercise_3", overwritten, "overwrote the first feature"),
    ("exercise_3", neighbours_with_angles_of_halves, "order of halves"),
    ("exercise_3", lambda x, angles: neighbours(x, angles[:1]), "angles of token 0"),
    ("exercise_3", lambda x, angles: x * angles.cos().repeat_interleave(2, -1), "sines are missing"),
    ("exercise_3", lambda x, angles: neighbours(x, angles) if x.dim() == 2 else x,
     r"x of shape \(2, 3, 5, 8\): of token 0, features 0 and 1"),
    ("exercise_3", lambda x, angles: x.copy_(neighbours(x, angles)), "changed the x"),
    ("exercise_3", lambda x, angles: x[..., 0::2] * angles.cos() - x[..., 1::2] * angles.sin(), "has shape"),
    ("exercise_3", lambda x, angles: neighbours(x, angles.flip(0)), "of token 0, features 0 and 1 become"),
    ("exercise_4", lambda m: chat(m, start=""), "begins the text is missing"),
    ("exercise_4", lambda m: chat(m).replace("</s>[INST]", "</s><s>[INST]"), "not each turn"),
    ("exercise_4", lambda m: chat(m, again="\n"), "Nothing stands between"),
    ("exercise_4", lambda m: chat(m, again=" "), "Nothing stands between"),
    ("exercise_4", lambda m: chat(m, end=""), "ends with </s>"),
    ("exercise_4", lambda m: chat(m, end=" </s>"), "no space between an answer"),
    ("exercise_4", lambda m: chat(m, gap=""), "A space separates"),
    ("exercise_4", lambda m: chat(m, gap="\n"), "not a new line"),
    ("exercise_4", lambda m: chat(m, between="\n"), "An empty line"),
    ("exercise_4", lambda m: chat(m, every=True), "first user message only"),
    ("exercise_4", lambda m: chat([x for x in m if x["role"] != "system"]), "system message is lost"),
    ("exercise_4", lambda m: chat(m) + ("</s>" if m[-1]["role"] == "user" else ""), "stays open"),
    ("exercise_4", lambda m: chat(m) + (" " if m[-1]["role"] == "user" else ""), "right after"),
    ("exercise_4", lambda m: chat(m).replace("[INST] ", "[INST]").replace(" [/INST]", "[/INST]"), "Spaces belong"),
    ("exercise_4", lambda m: "".join(f"<|im_start|>{x['role']}\n{x['content']}<|im_end|>\n" for x in m), "ChatML"),
    ("exercise_4", chat_with_a_system_turn, "a turn of its own"),
    ("exercise_4", lambda m: chat(m).replace(m[0]["content"] + "\n\n", f"<<SYS>>\n{m[0]['content']}\n<</SYS>>\n\n"),
     "Llama 2"),
    ("exercise_4", chat_that_merges_in_place, "changed the messages"),
    ("exercise_4", chat_that_asserts, "AssertionError; the rules ask for ValueError"),
    ("exercise_4", chat_that_checks_nothing, "two user messages in a row.*no ValueError"),
    ("exercise_4", chat_by_rule(lambda roles, rest: repeats(rest)), "an answer first.*no ValueError"),
    ("exercise_4", chat_by_rule(lambda roles, rest: repeats(rest) or roles[0] == "assistant"),
     "right after the system message.*no ValueError"),
    ("exercise_4", chat_by_rule(lambda roles, rest: repeats([role for role in rest if role != "system"])
                                or rest[0] == "assistant" or "system" in rest[1:]), "two system.*no ValueError"),
    ("exercise_4", chat_by_rule(lambda roles, rest: repeats([role.replace("tool", "user") for role in rest])
                                or rest[0] == "assistant"), "a role that does not exist.*no ValueError"),
    ("exercise_4", chat_with_late_system, "in the middle.*no ValueError"),
    ("exercise_4", lambda m: chat(m) if any(x["role"] == "user" for x in m) else "<s>", "no message from a user"),
    ("exercise_4", lambda m: chat(m) if m else "", "no message at all"),
    ("exercise_4", lambda m: chat([x for x in m if x["role"] != "user"]), "You refuse"),
    ("exercise_4", lambda m: chat(m, between=" "), "An empty line"),
    ("exercise_4", lambda m: m, "one string"),
    ("exercise_5", lambda x: pack(x, turn=torch.floor), "cut off, not rounded"),
    ("exercise_5", lambda x: pack(x, levels=16), "a sixteenth"),
    ("exercise_5", lambda x: pack(x, layout="neighbours"), "hold neighbours"),
    ("exercise_5", lambda x: pack(x, layout="swapped"), "halves of each byte are exchanged"),
    ("exercise_5", lambda x: pack(x, layout="bytes"), "36 bytes.*a code in each byte"),
    ("exercise_5", lambda x: pack(x, number=torch.float32), "24 bytes.*2 bytes each"),
    ("exercise_5", lambda x: pack(x, number=torch.float32, layout="bytes"), "40 bytes.*and two codes share"),
    ("exercise_5", lambda x: pack(x).view(-1, 20)[:, 2:].reshape(len(x), -1), "18 bytes.*both stored"),
    ("exercise_5", lambda x: pack(x)[:, 1:], r"bytes, expected 20\.$"),
    ("exercise_5", lambda x: pack(x, number=torch.bfloat16), "are bfloat16"),
    ("exercise_5", lambda x: pack(x, swap=True), "minimum comes first"),
    ("exercise_5", lambda x: pack(x, codes_first=True), "codes come first"),
    ("exercise_5", lambda x: pack(x, codes_only=True), "Step and minimum are missing"),
    ("exercise_5", lambda x: pack(x, per_row=True), "not for the row"),
    ("exercise_5", lambda x: pack(x, clamp=False), "clamp them"),
    ("exercise_5", lambda x: pack(x).int(), "torch.int32, expected torch.uint8"),
    ("exercise_5", lambda x: pack(x).view(-1, 20), "has shape"),
    ("exercise_5", lambda x: pack(x).numpy(), "a tensor, not ndarray"),
    ("exercise_5", lambda x: pack(x * 0 + x.mean()), r"reads back as .* at most\.$"),
    ("exercise_5", lambda x: pack(x - 1), r"reads back as .* at most\.$"),
    ("exercise_5", lambda x: pack(x, turn=torch.ceil), r"at most\.$"),
    ("exercise_5", lambda x: pack(x if len(x) == 1 else x + 1), r"at most\.$"),
    ("exercise_5", lambda x: pack(x, one_low=True), "the same step or minimum"),
]


test_right_answers_pass, test_wrong_answers, test_stubs_and_crashes = exercise_tests(check, RIGHT, WRONG)


@pytest.mark.parametrize("name", RIGHT)
def test_a_stub_that_returns_dots_has_not_been_started(name, capsys):
    getattr(check, name)(lambda *arguments: ...)
    assert "not started" in capsys.readouterr().out


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


def test_what_the_fifth_exercise_accepts_is_what_the_chapter_reads():
    values = check._numbers()
    for packed in (pack(values), pack_with_gguf(values)):
        assert torch.equal(check._unpacked(packed.view(-1, 20)).view(3, 64), unpack_q4_1(packed))


def test_the_example_in_the_fourth_task_keeps_its_rules():
    turns = [("system", "Be brief."), ("user", "Hi?"), ("assistant", "Hello."), ("user", "Why?")]
    assert chat(check._messages(turns)) == "<s>[INST] Be brief.\n\nHi? [/INST] Hello.</s>[INST] Why? [/INST]"
