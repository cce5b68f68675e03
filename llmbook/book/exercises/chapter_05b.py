"""Checks for the exercises of chapter 5b, open weights."""

import copy
from collections.abc import Callable, Mapping, Sequence
from numbers import Real

import torch
from torch import Tensor
from torch.nn import functional as F

from llmbook.book.exercises import Wrong, close, exercise, expect, expect_tensor
from llmbook.llama import LlamaConfig


@exercise("5b.1", "The cache decides how long a conversation may be, and the grouped heads decide the cache.")
def exercise_1(tokens_that_fit: Callable[[LlamaConfig, int, int], int]) -> None:
    odd = LlamaConfig(vocab_size=11, context_length=5000, d_model=40, n_heads=10, n_kv_heads=2, n_layers=3,
                      d_hidden=7, d_head=6)  # every mistake below gives another number
    for config, memory, size in ((odd, 100_000, 4), (odd, 57_599, 2), (LlamaConfig(), 100_000_000, 4),
                                 (LlamaConfig(), 250_000_000, 2), (odd, 100_000_000, 2), (odd, 100, 4)):
        answer = tokens_that_fit(config, memory, size)
        if answer is None or answer is ...:
            raise NotImplementedError
        expect(isinstance(answer, Real), f"The answer should be a number, not {type(answer).__name__}.")
        token = 2 * config.n_layers * config.n_kv_heads * config.d_head * size  # bytes
        right, share = min(config.context_length, memory // token), config.d_model // config.n_heads
        mistakes = {
            memory // (token // 2): "Each token leaves a key and a value: you counted one of the two.",
            memory // (token // config.n_kv_heads * config.n_heads):
                "You counted n_heads. Only the n_kv_heads key and value heads are kept; query heads share them.",
            memory // (token // config.n_layers): "That is the cache of one layer: each layer keeps its own.",
            memory // (token // config.d_head * share):
                "A head has config.d_head features, which need not be d_model / n_heads.",
            memory // (token // config.d_head * config.d_model): "A head has d_head features, not d_model.",
            memory // (token // config.d_head // config.n_kv_heads * config.d_model):
                "You counted d_model features a token. Grouped attention keeps n_kv_heads * d_head.",
            memory // (token // size): "You counted numbers. Each takes bytes_per_number bytes.",
            memory // (token * 8): "You counted bits; the memory is in bytes.",
            -(-memory // token): "The last of these does not fit: round down.",
            config.context_length: "That is context_length, but the memory is full before: take the smaller one.",
        }
        hint = mistakes.get(answer, "Each token leaves a key and a value of d_head numbers, for each of the key "
                                    "and value heads of each layer.")
        if answer == memory // token:
            hint = f"No text is longer than context_length, {config.context_length:,} tokens."
        elif answer % 1 != 0:
            hint = "Part of a token cannot be stored: round down, to a whole number."
        expect(answer == right, f"For {memory:,} bytes, {size} bytes a number, n_layers={config.n_layers}, n_heads="
               f"{config.n_heads}, n_kv_heads={config.n_kv_heads}, d_head={config.d_head} you return {answer:,}, "
               f"expected {right:,}. {hint}".rstrip())


@exercise("5b.2", "A scale in front of a matrix is one more way to write the matrix: nothing is lost without it.")
def exercise_2(fold_scale: Callable[[Tensor, Tensor], Tensor]) -> None:
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


@exercise("5b.3", "The same turn in another order of the features: that is all that sets the two layouts apart.")
def exercise_3(rotate_neighbours: Callable[[Tensor, Tensor], Tensor]) -> None:
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


_TALK = [("user", "Is a whale a fish?"), ("assistant", "No, it breathes air."), ("user", "And a shark?")]
_SYSTEM = ("system", "Answer a child.")


def _messages(turns: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


@exercise("5b.4", "A template is a convention, to the last space: models are as good as you keep to theirs.")
def exercise_4(format_bracket_chat: Callable[[Sequence[Mapping[str, str]]], str]) -> None:
    for turns in (_TALK[:1], _TALK[:2], _TALK, [_SYSTEM, *_TALK[:1]], [_SYSTEM, *_TALK, ("assistant", "Yes.")]):
        messages = _messages(turns)
        before = copy.deepcopy(messages)
        try:
            answer = format_bracket_chat(messages)
        except ValueError as error:
            raise Wrong(f"You refuse {_roles(turns)}, which keeps the rules, with ValueError: {error}") from None
        if answer is None or answer is ...:
            raise NotImplementedError
        expect(isinstance(answer, str), f"The result should be one string, not {type(answer).__name__}.")
        expect(messages == before, "Your function changed the messages that it was given. A chat formats them again "
                                   "at each turn, and would find the system message twice: build new text instead.")
        _compare_text(answer, turns)
    broken = {
        "two user messages in a row": [_TALK[0], _TALK[2]],
        "an answer first": _TALK[1:],
        "an answer right after the system message": [_SYSTEM, *_TALK[1:]],
        "a system message in the middle": [*_TALK[:2], _SYSTEM, _TALK[2]],
        "two system messages": [_SYSTEM, _SYSTEM, *_TALK],
        "a role that does not exist": [("tool", "Is a whale a fish?"), *_TALK[1:]],
        "no message from a user": [_SYSTEM],
        "no message at all": [],
    }
    for what, turns in broken.items():
        try:
            answer = format_bracket_chat(_messages(turns))
        except ValueError:
            continue
        except Exception as error:
            raise Wrong(f"For {what}, {_roles(turns)}, your function stops with {type(error).__name__}; "
                        "the rules ask for ValueError.") from None
        raise Wrong(f"For {what}, {_roles(turns)}, there is no ValueError; you return {answer!r}.")


def _roles(turns: Sequence[tuple[str, str]]) -> str:
    return "[" + ", ".join(role for role, _ in turns) + "]"


def _bracketed(turns: Sequence[tuple[str, str]], start: str = "<s>", again: str = "", end: str = "</s>",
               gap: str = " ", between: str = "\n\n", every: bool = False) -> str:
    """The layout of exercise 4, and, by its arguments, others that are mistaken for it."""
    system = turns[0][1] + between if turns[0][0] == "system" else ""
    text = start
    for role, content in turns[bool(system):]:
        if role == "user":
            text += (again if text != start else "") + f"[INST] {system}{content} [/INST]"
            system = system if every else ""
        else:
            text += gap + content + end
    return text


def _compare_text(answer: str, turns: Sequence[tuple[str, str]]) -> None:
    """Raise `Wrong` unless the answer is these turns' layout."""
    right = _bracketed(turns)
    if answer == right:
        return
    rest = turns[1:] if turns[0][0] == "system" else turns
    own_turn = f"<s>[INST] {turns[0][1]} [/INST]"
    tagged = f"<s>[INST] <<SYS>>\n{turns[0][1]}\n<</SYS>>\n\n"
    mistakes = [
        (_bracketed(rest), "The system message is lost."),
        (_bracketed(turns, start=""), "The <s> that begins the text is missing."),
        (_bracketed(turns, again="<s>"), "<s> begins the whole text, once, not each turn."),
        (_bracketed(turns, again=" "), "Nothing stands between </s> and the next [INST]."),
        (_bracketed(turns, again="\n"), "Nothing stands between </s> and the next [INST]."),
        (_bracketed(turns, end=""), "Each answer ends with </s>, which is how the model learns to stop."),
        (_bracketed(turns, end=" </s>"), "There is no space between an answer and </s>."),
        (_bracketed(turns, gap=""), "A space separates [/INST] from the answer."),
        (_bracketed(turns, gap="\n"), "A space, not a new line, separates [/INST] from the answer."),
        (_bracketed(turns, every=True), "The system message goes into the first user message only."),
        (_bracketed(turns, between="\n"), "An empty line separates the system message from the question: two \\n."),
        (_bracketed(turns, between=" "), "An empty line separates the system message from the question: two \\n."),
        (right + "</s>", "</s> ends an answer. After a question the text stays open."),
        (right + " ", "The text ends right after [/INST]: the space belongs to the answer, which is still to come."),
        (right.replace("[INST] ", "[INST]").replace(" [/INST]", "[/INST]"),
         "Spaces belong between the brackets and the question."),
    ]
    place = next((i for i, (a, b) in enumerate(zip(answer, right)) if a != b), min(len(answer), len(right)))
    hint = next((text for value, text in mistakes if answer == value), "")
    if answer.startswith(own_turn) and turns[0][0] == "system":
        hint = "The system message has a turn of its own. It belongs inside the brackets of the first question."
    elif answer.startswith(tagged) and turns[0][0] == "system":
        hint = "The <<SYS>> tags are Llama 2's. Here the system message stands before the question without tags."
    elif "<|im_start|>" in answer:
        hint = "These are the tags of ChatML."
    raise Wrong(f"For {_roles(turns)} your text and the right one part at character {place}: "
                f"{answer[place:place + 24]!r} instead of {right[place:place + 24]!r}. {hint}".rstrip())


def _numbers() -> Tensor:
    """Three rows of two blocks: small and large, constant and far from 0 twice, one sign and wide."""
    draw = torch.Generator().manual_seed(0)
    ramp = torch.linspace(0, 0.01, 32)[torch.randperm(32, generator=draw)]
    small, large = torch.randn(32, generator=draw) * 0.05, torch.randn(32, generator=draw)
    # float16 has steps of 1/256 near 5: the minimum is stored up to 0.002, three steps of the block, off
    return torch.stack([torch.cat([small, large]), torch.cat([torch.full((32,), 0.25), 5.0019 + ramp]),
                        torch.cat([torch.rand(32, generator=draw) + 0.5, 5.0021 + ramp])])


def _unpacked(packed: Tensor, layout: str = "halves", number: torch.dtype = torch.float16,
              minimum_first: bool = False) -> Tensor:
    """(blocks, 20) bytes -> (blocks, 32), read as Q4_1 or, by the arguments, as what is mistaken for it."""
    step, minimum = packed[:, :4].contiguous().view(number).float().split(1, dim=1)
    if minimum_first:
        step, minimum = minimum, step
    low, high = packed[:, 4:] & 15, packed[:, 4:] >> 4
    codes = {"halves": torch.cat([low, high], dim=1), "swapped": torch.cat([high, low], dim=1),
             "neighbours": torch.stack([low, high], dim=2).flatten(1)}[layout]
    return minimum + step * codes.float()


@exercise("5b.5", "You have written the format that you read: 20 bytes for 32 numbers.")
def exercise_5(pack_q4_1: Callable[[Tensor], Tensor]) -> None:
    values = _numbers()
    for rows in (values[:1, :32], values):
        _check_packed(pack_q4_1(rows.clone()), rows)


def _check_packed(packed: Tensor, values: Tensor) -> None:
    rows, numbers = values.shape
    if isinstance(packed, Tensor):
        sizes = {36: "You stored a code in each byte. Two codes share one: 16 bytes for 32 codes.",
                 24: "Step and minimum are float16: 2 bytes each.",
                 40: "Step and minimum are float16, 2 bytes each, and two codes share a byte.",
                 16: "Step and minimum are missing: 4 bytes before the codes.",
                 18: "Step and minimum are both stored, 2 bytes each, before the 16 bytes of codes."}
        size = packed.numel() / (rows * numbers / 32)
        expect(size == 20, f"Your blocks take {size:g} bytes, expected 20. {sizes.get(size, '')}".rstrip())
        expect(packed.dtype == torch.uint8, f"The result is {packed.dtype}, expected torch.uint8: bytes. Look at the "
                                            "float16 numbers as bytes with .view(torch.uint8).")
    packed = expect_tensor(packed, (rows, numbers // 32 * 20), f"The result for {rows} rows of {numbers} numbers")
    packed, blocks = packed.reshape(-1, 20), values.reshape(-1, 32)
    low, high = blocks.amin(1, keepdim=True), blocks.amax(1, keepdim=True)
    step = (high - low) / 15
    # half a step, and what float16 rounds away of the minimum and of 15 steps
    bound = 0.501 * step + (low.abs() + 15 * step) / 2048 + 1e-7
    wrong = ~((_unpacked(packed) - blocks).abs() <= bound)
    if not wrong.any():
        return
    block, place = wrong.nonzero()[0].tolist()
    found, given = _unpacked(packed)[block, place].item(), blocks[block, place].item()
    raise Wrong(f"In row {block * 32 // numbers}, block {block % (numbers // 32)}, number {place} is {given:.4f} and "
                f"reads back as {found:.4f}. The step there is {step[block].item():.4f}, and the error should be half "
                f"of it at most. {_packing_mistake(packed, blocks, bound, wrong.any(dim=1))}".rstrip())


def _packing_mistake(packed: Tensor, blocks: Tensor, bound: Tensor, wrong: Tensor) -> str:
    layouts = [
        ({"layout": "neighbours"}, "Your bytes hold neighbours, codes 2i and 2i + 1. Byte i holds code i in its low "
                                   "half and code i + 16 in its high half."),
        ({"layout": "swapped"}, "The two halves of each byte are exchanged: code i goes into the low half."),
        ({"minimum_first": True}, "The minimum comes first in your blocks. The step does."),
        ({"number": torch.bfloat16}, "Your step and minimum are bfloat16. The format has float16."),
    ]
    for reading, hint in layouts:
        if ((_unpacked(packed, **reading) - blocks).abs() <= 16 * bound).all() and (
                (_unpacked(packed, **reading) - blocks).abs() <= bound).float().mean() > 0.8:
            return hint
    if ((_unpacked(packed.roll(4, dims=1)) - blocks).abs() <= bound).all():
        return "The codes come first in your blocks. Step and minimum do."
    spread = blocks.amax(1) - blocks.amin(1)
    step, minimum = packed[:, :4].contiguous().view(torch.float16).float().unbind(1)
    if len(blocks) > 1 and (step[0] == step[1] or minimum[0] == minimum[1]):
        return "Two blocks of a row have the same step or minimum: find both for each block of 32, not for the row."
    if torch.allclose(step, spread / 16, rtol=0.01):
        return "Your step is a sixteenth of the block's range. 16 levels have 15 steps between them."
    far = minimum.abs() > 4
    if not (wrong & ~far).any():
        return ("All other kinds of blocks are right. In this one the stored minimum is some steps off, so codes "
                "below 0 or above 15 arise, and these spill into the other half of their byte: clamp them.")
    error = (_unpacked(packed) - blocks)[~far]
    if (error <= bound[~far] / 4).all() and (error >= -2.1 * bound[~far]).all():
        return "Your codes are cut off, not rounded: every number reads back too small."
    return ""
