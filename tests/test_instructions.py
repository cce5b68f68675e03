"""Fine-tuning on instructions: what the loss sees, what the model answers, and who says that an answer is right."""

import random
import re
import warnings

import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from llmbook import instructions, training, training_run
from llmbook.classification import LengthBatches, split_by_key, text_key
from llmbook.devices import autocast
from llmbook.formats.pretrained_tokenizer import PretrainedTokenizer
from llmbook.formats.tokenizer_runners import EncodingRunner
from llmbook.generation import generate
from llmbook.gpt import GPT
from llmbook.instructions import (
    ConversationDataset,
    InstructionDataset,
    collate_instructions,
    converse,
    encode_conversation,
    encode_entry,
    encode_instruction,
    end_token,
    finetune_instructions,
    format_prompt,
    held_out_loss,
    instruction_loader,
    respond,
    respond_all,
    response_loss,
    score_responses,
    special_ids,
    split_instructions,
    style_for,
)
from llmbook.llama import Llama
from llmbook.scale.checkpoints import Checkpoints
from llmbook.text import train_bpe
from llmbook.training import TrainingConfig, evaluate, load_model, next_token_loss, save_model, train
from tests.support.small_models import small_model
from tests.support.watched import watched_train

WORDS = "the sea a ship captain wind harbour night rope sail storm gold map island bird salt".split()
TEXT = " ".join(f"{word} {other}" for word in WORDS for other in WORDS)
PLAIN = train_bpe(TEXT, 300)  # as GPT-2's: <|endoftext|> is its only special token
CHAT = train_bpe(TEXT, 300, ("<|im_start|>", "<|im_end|>", "<|endoftext|>"))
IM_END, END_OF_TEXT = 298, 299
SPECIAL = [297, 298, 299]
STYLES = [("chatml", CHAT), ("alpaca", PLAIN)]
FAMILIES = pytest.mark.parametrize("family", ["GPT", "Llama"])
QUICK = {"device": "cpu", "precision": "float32", "progress": False}
SIX = pd.DataFrame([("name a bird", "", "gold bird"), ("where is the ship", "", "the harbour"),
                    ("count", "salt salt", "two"), ("count", "a map", "one"), ("who", "", "captain"),
                    ("say it twice", "sea", "sea sea")], columns=["instruction", "input", "output"])


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Numbers are compared in float32, also on machines where "auto" means bfloat16."""
    for module in (training, training_run):
        monkeypatch.setattr(module, "autocast", lambda device, precision="auto": autocast(device, "float32"))


def language_model(family: str = "GPT", spread: float | None = None, **changes) -> GPT | Llama:
    return small_model(family, 32, 96, spread, **changes).eval()


def table(*rows: tuple[str, str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["instruction", "input", "output"])


def some_entries(count: int, seed: int = 0, longest: int = 9) -> pd.DataFrame:
    draw = random.Random(seed)

    def some(least: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(least, longest)))

    return table(*((some(1), some(0), some(1)) for _ in range(count)))


def batch_of(dataset: InstructionDataset, **settings) -> tuple[torch.Tensor, torch.Tensor]:
    return collate_instructions([dataset[place] for place in range(len(dataset))], **settings)


# --- prompts -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("style, input, prompt", [
    ("chatml", "", "<|im_start|>user\nName it.<|im_end|>\n<|im_start|>assistant\n"),
    ("chatml", "A bird.", "<|im_start|>user\nName it.\n\nA bird.<|im_end|>\n<|im_start|>assistant\n"),
    ("plain", "", "Q: Name it.\nA:"),
    ("plain", "A bird.", "A bird.\n\nQ: Name it.\nA:"),
    ("alpaca", "", "### Instruction:\nName it.\n\n### Response:\n"),
    ("alpaca", "A bird.", "### Instruction:\nName it.\n\n### Input:\nA bird.\n\n### Response:\n"),
])
def test_a_prompt_is_exactly_this(style, input, prompt):
    assert format_prompt("Name it.", input, style) == prompt


def test_the_prompt_is_chatml_without_input_if_nothing_is_said():
    assert format_prompt("Go.") == "<|im_start|>user\nGo.<|im_end|>\n<|im_start|>assistant\n"


def test_an_unknown_style_is_named():
    for call in (lambda: format_prompt("Go.", style="vicuna"), lambda: InstructionDataset(SIX, CHAT, 96, "vicuna"),
                 lambda: respond(language_model(), CHAT, "go", style="vicuna")):
        with pytest.raises(ValueError, match="^style is 'vicuna': it must be .*one of alpaca, chatml, plain$"):
            call()


TEMPLATE = ("{{ bos_token }}{% for message in messages %}<|im_start|>{{ message['role'] }}: {{ message['content'] }}"
            "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant: {% endif %}")


def own_template(**settings) -> PretrainedTokenizer:
    """As Llama 3's: neither ChatML nor plain text, two tokens that end, and one that begins."""
    inner = train_bpe(TEXT, 300, ("<|begin|>", "<|im_start|>", "<|eot_id|>", "<|end_of_text|>"))
    return PretrainedTokenizer(EncodingRunner(inner), named={"bos_token": "<|begin|>", "eos_token": "<|end_of_text|>"},
                               **settings)


def test_a_model_s_own_chat_template_is_used():
    tokenizer = own_template(chat_template=TEMPLATE)
    begin, _, eot, end = range(296, 300)
    assert style_for(tokenizer) == "template" and end_token(tokenizer, "template") == eot
    ids, prompt_tokens = InstructionDataset(SIX, tokenizer, 96)[2]
    assert tokenizer.decode(ids.tolist()) == ("<|begin|><|im_start|>user: count\n\nsalt salt<|eot_id|><|im_start|>"
                                              "assistant: two<|eot_id|>")
    assert ids[0] == begin and tokenizer.decode(ids[prompt_tokens:-1].tolist()) == "two"
    for stop in (eot, end):
        model = Scripted(*tokenizer.encode("gold"), stop, *tokenizer.encode("salt"))
        assert respond(model, tokenizer, "who", max_new_tokens=9) == "gold"
        assert model.read[0][0] == encode_instruction("who", "", tokenizer, "template")
    with pytest.raises(ValueError, match=re.escape("holds the special token '<|eot_id|>'")):
        respond(model, tokenizer, "who<|eot_id|>")


def test_a_base_model_s_own_beginning_and_end_are_used():
    tokenizer = own_template(prefix=[296])
    assert style_for(tokenizer) == "alpaca"
    ids, _ = InstructionDataset(SIX, tokenizer, 96)[4]
    assert ids[0] == 296 and ids[-1] == end_token(tokenizer, "alpaca") == 299
    assert tokenizer.decode(ids[1:-1].tolist()) == "### Instruction:\nwho\n\n### Response:\ncaptain"


def test_the_tokenizer_decides_the_style_and_the_end():
    assert (style_for(CHAT), style_for(PLAIN)) == ("chatml", "alpaca")
    assert (end_token(CHAT, "chatml"), end_token(CHAT, "alpaca"), end_token(PLAIN, "alpaca")) == (
        IM_END, END_OF_TEXT, END_OF_TEXT)


@pytest.mark.parametrize("style, tokenizer, token", [
    ("chatml", PLAIN, "<|im_end|>"), ("alpaca", train_bpe(TEXT, 270, ()), "<|endoftext|>")])
def test_a_tokenizer_without_the_end_token_is_an_error(style, tokenizer, token):
    message = f"ends a response in the style '{style}' ({token}): use another style, or the tokenizer of the model"
    for call in (lambda: end_token(tokenizer, style), lambda: InstructionDataset(SIX, tokenizer, 99, style),
                 lambda: respond(language_model(), tokenizer, "go", style=style)):
        with pytest.raises(ValueError, match=re.escape(message)):
            call()


@pytest.mark.parametrize("style, tokenizer", STYLES)
def test_a_prompt_s_special_tokens_are_tokens(style, tokenizer):
    ids = encode_instruction("the sea", "gold", tokenizer, style)
    assert tokenizer.decode(ids) == format_prompt("the sea", "gold", style)
    assert ids.count(IM_END) == (style == "chatml") and ids.count(297) == (2 if style == "chatml" else 0)


@pytest.mark.parametrize("column", ["instruction", "input", "output"])
@pytest.mark.parametrize("token", ["<|im_end|>", "<|im_start|>", "<|endoftext|>"])
def test_a_special_token_in_an_entry_is_refused(column, token):
    entries = SIX.copy()
    entries.loc[3, column] = f"salt{token} sea"
    for style in ("chatml", "alpaca"):
        message = f"entry 3 holds the special token '{token}', which would end or begin a part: take it out"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            InstructionDataset(entries, CHAT, 96, style)
    if token != "<|endoftext|>":  # to a tokenizer that does not know it, it is text
        assert len(InstructionDataset(entries, PLAIN, 96)) == 6


# --- parts -------------------------------------------------------------------------------------------------------

def numbered(count: int) -> pd.DataFrame:
    """Different tasks, each four times in another spelling; some differ in the input alone."""
    names = [f"{a} {b} {c}" for a in WORDS for b in WORDS for c in WORDS][:count]
    spell = [str, str.upper, lambda text: f"{text}!", lambda text: text.replace(" ", "  ")]
    rows = [(change(f"Do {name[:6]}"), change(name), "out") for change in spell for name in names]
    return table(*rows).assign(row=range(4 * count))


@pytest.mark.parametrize("shares", [None, (0.5, 0.5)])
def test_parts_have_their_shares_and_near_copies_stay_together(shares):
    frame = numbered(1000)
    parts = split_instructions(frame) if shares is None else split_instructions(frame, shares)
    assert [len(part) / 4000 for part in parts] == pytest.approx(shares or (0.85, 0.05, 0.10), abs=0.03)
    keys = [set((part["instruction"] + "\n" + part["input"]).map(text_key)) for part in parts]
    assert sum(map(len, keys)) == 1000 == len(set().union(*keys))
    assert sorted(row for part in parts for row in part["row"]) == list(range(4000))
    assert all(part.columns.tolist() == frame.columns.tolist() for part in parts)
    assert all(part.index.tolist() == list(range(len(part))) for part in parts)


def test_the_input_decides_too_and_the_seed():
    frame = table(*(("count", f"{a} {b}", "one") for a in WORDS for b in WORDS)).assign(row=range(256))
    first, again, other = (split_instructions(frame, (0.5, 0.5), seed)[0]["row"].tolist() for seed in (0, 0, 1))
    assert 80 < len(first) < 176 and first == again != other
    swapped = split_instructions(frame.assign(instruction=frame["input"], input="count"), (0.5, 0.5))[0]
    assert swapped["row"].tolist() != first
    assert "text" not in frame  # the table given is as it was
    by_key = split_by_key(frame.assign(text=frame["instruction"] + "\n" + frame["input"]), (0.5, 0.5))[0]
    assert by_key["row"].tolist() == first


def test_an_own_column_text_is_kept():  # as in Alpaca's own files
    assert all(part["text"].eq("mine").all() for part in split_instructions(SIX.assign(text="mine"), (0.5, 0.5)))


# --- rows --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("style, tokenizer", STYLES)
def test_a_row_is_prompt_response_and_end(style, tokenizer):
    for dataset in (InstructionDataset(SIX, tokenizer, 96), InstructionDataset(SIX, tokenizer, 96, style)):
        assert len(dataset) == 6 and dataset.style == style
        for place, entry in enumerate(SIX.to_dict("records")):
            ids, prompt_tokens = dataset[place]
            assert ids.dtype == torch.int64 and ids.dim() == 1
            prompt, response = ids[:prompt_tokens].tolist(), ids[prompt_tokens:].tolist()
            assert tokenizer.decode(prompt) == format_prompt(entry["instruction"], entry["input"], style)
            assert prompt == encode_instruction(entry["instruction"], entry["input"], tokenizer, style)
            assert response == [*tokenizer.encode(entry["output"]), end_token(tokenizer, style)]


def test_a_style_that_the_tokenizer_would_not_choose():
    dataset = InstructionDataset(SIX, CHAT, 96, "alpaca")
    assert CHAT.decode(dataset[4][0].tolist()) == "### Instruction:\nwho\n\n### Response:\ncaptain<|endoftext|>"
    assert dataset[4][0][-1] == END_OF_TEXT


def test_special_tokens_that_are_none_of_the_tokenizer_s_are_text():
    ids, prompt_tokens = encode_entry(SIX.iloc[0], PLAIN, "alpaca")
    assert prompt_tokens == len(PLAIN.encode("### Instruction:\nname a bird\n\n### Response:\n"))
    assert len(ids) == prompt_tokens + len(PLAIN.encode("gold bird")) + 1


@pytest.mark.parametrize("style, tokenizer", STYLES)
def test_the_end_of_a_row_longer_than_the_context_is_left_out(style, tokenizer):
    entries = table(("who", "", "a"), ("who", "", "gold " * 30), ("who", "", "b"))
    ids, prompt_tokens = encode_entry(entries.iloc[1], tokenizer, style)
    whole = len(ids)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exactly = InstructionDataset(entries, tokenizer, whole)  # as long as the context: fits
    assert exactly[1][0].tolist() == ids.tolist() and exactly[1][0][-1] == end_token(tokenizer, style)
    for context in (whole - 1, prompt_tokens + 7):
        with pytest.warns(UserWarning) as caught:
            cut = InstructionDataset(entries, tokenizer, context)
        assert [str(warning.message) for warning in caught] == [
            f"entry 1: {whole} tokens, the context has {context}: the last {whole - context} of its response are left "
            "out"]
        assert caught[0].filename == __file__  # not a line of the package
        assert cut[1] == (pytest.approx(ids[:context]), prompt_tokens) and len(cut[1][0]) == context
        assert end_token(tokenizer, style) not in cut[1][0][prompt_tokens:]
        assert cut[0][0][-1] == cut[2][0][-1] == end_token(tokenizer, style)


def test_a_prompt_that_leaves_no_room_is_named():
    entries = table(("who", "", "a"), ("who is " + "the captain " * 5, "", "gold"))
    prompt_tokens = encode_entry(entries.iloc[1], CHAT, "chatml")[1]
    for context in (prompt_tokens, prompt_tokens - 1):
        message = (f"entry 1: its prompt has {prompt_tokens} tokens, the context {context}: "
                   "shorten its instruction or input")
        with pytest.raises(ValueError, match=f"^{message}$"):
            InstructionDataset(entries, CHAT, context)
    with pytest.warns(UserWarning, match="^entry 1: "):
        dataset = InstructionDataset(entries, CHAT, prompt_tokens + 1)  # room for one token of the response
    assert len(dataset[1][0]) == prompt_tokens + 1
    assert (batch_of(dataset)[1][1] != -100).sum() == 1


# --- batches -----------------------------------------------------------------------------------------------------

ITEMS = [(torch.tensor([11, 12, 13, 14, 15, 16]), 3), (torch.tensor([21, 22, 23, 24]), 2), (torch.tensor([31, 32]), 1)]


def test_inputs_and_targets_of_a_batch_by_hand():
    inputs, targets = collate_instructions(ITEMS)
    assert inputs.tolist() == [[11, 12, 13, 14, 15], [21, 22, 23, 0, 0], [31, 0, 0, 0, 0]]
    assert targets.tolist() == [[-100, -100, 14, 15, 16], [-100, 23, 24, -100, -100], [32, -100, -100, -100, -100]]
    assert inputs.dtype == targets.dtype == torch.int64


def test_without_the_mask_only_padding_does_not_count():
    inputs, targets = collate_instructions(ITEMS, mask_prompt=False)
    assert inputs.tolist() == [[11, 12, 13, 14, 15], [21, 22, 23, 0, 0], [31, 0, 0, 0, 0]]
    assert targets.tolist() == [[12, 13, 14, 15, 16], [22, 23, 24, -100, -100], [32, -100, -100, -100, -100]]


def test_the_first_that_counts_is_what_follows_the_prompt():
    dataset = InstructionDataset(SIX, CHAT, 96)
    inputs, targets = batch_of(dataset)
    for row, (ids, prompt_tokens) in enumerate(dataset.rows):
        places = (targets[row] != -100).nonzero()[:, 0].tolist()
        assert places == list(range(prompt_tokens - 1, len(ids) - 1))
        first = places[0]
        assert inputs[row, first] == ids[prompt_tokens - 1] and targets[row, first] == ids[prompt_tokens]
        assert CHAT.decode(targets[row, places].tolist()) == SIX["output"][row] + "<|im_end|>"


@pytest.mark.parametrize("mask_prompt", [True, False])
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_loader_reads_every_row_once(mask_prompt, shuffle):
    dataset = InstructionDataset(some_entries(45), CHAT, 96)
    loader = instruction_loader(dataset, 7, shuffle, seed=3, mask_prompt=mask_prompt)
    places = list(LengthBatches([len(ids) for ids, _ in dataset.rows], 7, shuffle, seed=3))
    assert len(loader) == 7
    for (inputs, targets), batch in zip(loader, places, strict=True):
        expected = collate_instructions([dataset[place] for place in batch], mask_prompt)
        assert torch.equal(inputs, expected[0]) and torch.equal(targets, expected[1])
        assert not shuffle or bool((targets != -100).any())


def test_a_loader_masks_and_shuffles_unless_told_otherwise():
    dataset = InstructionDataset(some_entries(45), CHAT, 96)
    counted = [int((targets != -100).sum()) for _, targets in instruction_loader(dataset)]
    assert sum(counted) == sum(len(ids) - prompt for ids, prompt in dataset.rows) and len(counted) == 6
    first, again, other = ([inputs.tolist() for inputs, _ in instruction_loader(dataset, seed=seed)]
                           for seed in (0, 0, 1))
    assert first == again != other
    loader = instruction_loader(dataset)
    assert [inputs.tolist() for inputs, _ in loader] != [inputs.tolist() for inputs, _ in loader]  # a new order


# --- loss --------------------------------------------------------------------------------------------------------

def with_gradients(model, loss_fn, batch) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad(set_to_none=True)
    loss = loss_fn(model, *batch)
    loss.backward()
    return float(loss.detach()), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@FAMILIES
@pytest.mark.parametrize("mask_prompt", [True, False])
def test_response_loss_is_next_token_loss_with_less_work(family, mask_prompt):
    model = language_model(family, spread=0.2)
    batch = batch_of(InstructionDataset(SIX, CHAT, 96), mask_prompt=mask_prompt)
    loss, gradients = with_gradients(model, response_loss, batch)
    expected, expected_gradients = with_gradients(model, next_token_loss, batch)
    assert loss == pytest.approx(expected, abs=1e-6) and gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], atol=1e-6, rtol=1e-5)
    assert response_loss(model, *batch).shape == ()


def test_logits_are_computed_only_where_a_target_counts(monkeypatch):
    model, (inputs, targets) = language_model(), batch_of(InstructionDataset(SIX, CHAT, 96))
    seen, original = [], model.lm_head
    monkeypatch.setattr(model, "lm_head", lambda hidden: seen.append(hidden.shape) or original(hidden))
    response_loss(model, inputs, targets)
    assert seen == [(int((targets != -100).sum()), 32)]


@FAMILIES
def test_a_masked_place_gets_no_gradient_at_all(family, monkeypatch):
    """Of the hidden states from which the logits come; what is masked still reaches the loss through attention."""
    model, (inputs, targets) = language_model(family, spread=0.2), batch_of(InstructionDataset(SIX, CHAT, 96))
    kept, original = [], model.hidden_states

    def watched(ids):
        kept.append(original(ids))
        kept[0].retain_grad()
        return kept[0]

    monkeypatch.setattr(model, "hidden_states", watched)
    response_loss(model, inputs, targets).backward()
    gradient, counts = kept[0].grad.abs().sum(-1), targets != -100  # (batch, tokens)
    assert gradient.shape == counts.shape and not counts.all() and counts.any(dim=1).all()
    assert torch.equal(gradient > 0, counts)


@FAMILIES
def test_padding_changes_neither_loss_nor_gradient(family):
    model, dataset = language_model(family, spread=0.2), InstructionDataset(SIX, CHAT, 96)
    inputs, targets = batch_of(dataset)
    loss, gradients = with_gradients(model, response_loss, (inputs, targets))
    other, wider = inputs.clone(), torch.full((6, inputs.shape[1] + 5), 7)
    for row, (ids, _) in enumerate(dataset.rows):
        other[row, len(ids) - 1 :] = 17
    wider[:, : inputs.shape[1]] = other
    assert not torch.equal(other, inputs)
    for ids in (other, wider):
        labels = F.pad(targets, (0, ids.shape[1] - targets.shape[1]), value=-100)
        found, found_gradients = with_gradients(model, response_loss, (ids, labels))
        assert found == pytest.approx(loss, abs=1e-6)
        for name in gradients:
            torch.testing.assert_close(found_gradients[name], gradients[name], atol=1e-6, rtol=1e-5)
    other[:, 0] = 17  # a prompt's own token does change it
    assert response_loss(model, other, targets).item() != pytest.approx(loss, abs=1e-4)


@pytest.mark.parametrize("mask_prompt", [True, False])
def test_accumulated_parts_are_one_large_batch(mask_prompt):
    """Answers of few and of many tokens, which were averaged batch by batch."""
    entries = table(*(("who", "", " ".join(WORDS[:count])) for count in (1, 16, 2, 15, 1, 1)))
    dataset = InstructionDataset(entries, CHAT, 96)
    items, runs = [dataset[place] for place in range(6)], []
    for parts in ([items[:1], items[1:2], items[2:5], items[5:]], [items]):
        model, batches = language_model(spread=0.2), [collate_instructions(part, mask_prompt) for part in parts]
        config = TrainingConfig(3, 1e-4, accumulation_steps=len(parts), **QUICK)
        measured = evaluate(model, batches, response_loss)
        history = train(model, batches, response_loss, config)
        seen = [number for step in history.steps for number in (step["loss"], step["gradient_norm"])]
        runs.append((seen, model.state_dict()))
        assert history.steps[0]["loss"] == pytest.approx(measured, abs=1e-6)
    assert runs[0][0] == pytest.approx(runs[1][0], abs=1e-6, rel=1e-5)
    for name, weight in runs[0][1].items():
        torch.testing.assert_close(weight, runs[1][1][name], atol=1e-5, rtol=1e-5)


@FAMILIES
def test_a_batch_in_which_nothing_counts_has_no_loss_and_no_gradient(family):
    model, (inputs, targets) = language_model(family, spread=0.2), batch_of(InstructionDataset(SIX, CHAT, 96))
    loss, gradients = with_gradients(model, response_loss, (inputs, torch.full_like(targets, -100)))
    names = {name for name, _ in model.named_parameters()}
    assert loss == 0 and gradients.keys() == names  # as several processes need it
    assert not any(gradient.any() for gradient in gradients.values())


@torch.no_grad()
def summed(model, dataset: InstructionDataset) -> tuple[float, int]:
    """Cross-entropy of all response tokens, by plain sums, row by row; and how many there are."""
    total, tokens = 0.0, 0
    for ids, prompt_tokens in dataset.rows:
        logs = model(ids[None, :-1])[0].log_softmax(-1)
        for place in range(prompt_tokens, len(ids)):
            total, tokens = total - float(logs[place - 1, ids[place]]), tokens + 1
    return total, tokens


@FAMILIES
def test_the_held_out_loss_weighs_every_token_alike(family):
    model = language_model(family, spread=0.2).train()
    entries = pd.concat([some_entries(17), table(("who", "", " ".join(WORDS)), ("who", "", "a"))])
    dataset = InstructionDataset(entries, CHAT, 96)
    total, tokens = summed(model, dataset)
    for size in (1, 4, 16, 19, 64):
        assert held_out_loss(model, dataset, size) == pytest.approx(total / tokens, rel=1e-5)
    assert held_out_loss(model, dataset) == pytest.approx(total / tokens, rel=1e-5) and model.training
    assert evaluate(model, instruction_loader(dataset, 4, False), response_loss) == pytest.approx(total / tokens)


def test_the_held_out_loss_of_a_cut_row_is_of_what_is_left():
    model, entries = language_model(spread=0.2), table(("who", "", "gold " * 40), ("who", "", "a"))
    with pytest.warns(UserWarning):
        dataset = InstructionDataset(entries, CHAT, 30)
    total, tokens = summed(model, dataset)
    assert held_out_loss(model, dataset) == pytest.approx(total / tokens, rel=1e-5)


# --- training ----------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def trained() -> dict[str, tuple]:
    """Family -> model that has learned six entries by heart, tokenizer, dataset, loss before, history."""
    results = {}
    for family, tokenizer in (("GPT", PLAIN), ("Llama", CHAT)):  # one style each
        model, dataset = language_model(family), InstructionDataset(SIX, tokenizer, 96)
        before = held_out_loss(model, dataset)
        history = finetune_instructions(model, dataset, dataset, epochs=40, batch_size=3, learning_rate=1e-2, **QUICK)
        results[family] = (model, tokenizer, dataset, before, history)
    return results


@FAMILIES
def test_six_entries_are_learned_by_heart(trained, family):
    model, tokenizer, dataset, before, history = trained[family]
    assert held_out_loss(model, dataset) < 0.2 * before and history.steps[-1]["loss"] < 0.2 * history.steps[0]["loss"]
    assert history.steps[-1]["val_loss"] < 0.2 * before
    for _, entry in SIX.iterrows():
        assert respond(model, tokenizer, entry["instruction"], entry["input"], max_new_tokens=12) == entry["output"]
    assert respond_all(model, tokenizer, SIX, max_new_tokens=12) == SIX["output"].tolist()


@FAMILIES
def test_a_saved_model_responds_as_before(trained, family, tmp_path):
    model, tokenizer, dataset, *_ = trained[family]
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert type(loaded) is type(model) and loaded.config == model.config
    assert respond_all(loaded, tokenizer, SIX, max_new_tokens=12) == SIX["output"].tolist()
    strange = some_entries(5, seed=9)
    assert respond_all(loaded, tokenizer, strange, max_new_tokens=9) == respond_all(
        model, tokenizer, strange, max_new_tokens=9)
    assert held_out_loss(loaded, dataset) == held_out_loss(model, dataset)


@pytest.fixture
def calls(monkeypatch):
    """What `train` is called with."""
    return watched_train(monkeypatch, instructions)


def test_the_book_s_training_loop_is_used(calls):
    model, dataset = language_model(), InstructionDataset(some_entries(20), CHAT, 96)
    held_out = InstructionDataset(some_entries(19, seed=1), CHAT, 96)
    history = finetune_instructions(model, dataset, held_out, epochs=3, batch_size=3, seed=4, **QUICK)
    called, loader, loss, config, val_loader, *others = calls[0]
    assert len(calls) == 1 and others == [None, None, None] and called is model and loss is response_loss
    assert (config.max_steps, config.warmup_steps, config.eval_every, config.learning_rate) == (21, 2, 7, 2e-4)
    expected = instruction_loader(dataset, 3, True, 4)
    for _ in range(3):
        list(expected)  # the passes that training made
    assert [inputs.tolist() for inputs, _ in loader] == [inputs.tolist() for inputs, _ in expected]
    assert [inputs.tolist() for inputs, _ in val_loader] == [
        inputs.tolist() for inputs, _ in instruction_loader(held_out, 16, False)]
    assert [record["step"] for record in history.steps if "val_loss" in record] == [7, 14, 21]  # after each epoch
    assert history.steps[-1]["examples"] == 60
    assert history.steps[-1]["val_loss"] == pytest.approx(evaluate(model, val_loader, response_loss), abs=1e-6)


def test_settings_go_to_the_training_loop(calls):
    model, dataset = language_model(), InstructionDataset(SIX, CHAT, 96)
    history = finetune_instructions(model, dataset, epochs=50, learning_rate=0.01, max_steps=3, warmup_steps=0,
                                    weight_decay=0.3, eval_every=2, **QUICK)
    config = calls[0][3]
    assert len(history.steps) == 3 and calls[0][4] is None and not any("val_loss" in step for step in history.steps)
    assert (config.weight_decay, config.eval_every, config.precision) == (0.3, 2, "float32")
    assert history.steps[0]["learning_rate"] == pytest.approx(0.01)
    finetune_instructions(model, dataset, dataset, batch_size=2, max_steps=20, **QUICK)
    assert calls[1][3] == TrainingConfig(20, 2e-4, warmup_steps=2, eval_every=3, **QUICK)
    with pytest.raises(TypeError, match="speed"):
        finetune_instructions(model, dataset, speed=3)


def test_accumulation_does_not_add_passes():
    model, dataset = language_model(), InstructionDataset(some_entries(16), CHAT, 96)
    history = finetune_instructions(model, dataset, dataset, epochs=3, batch_size=4, accumulation_steps=2, **QUICK)
    assert [record["examples"] for record in history.steps if "val_loss" in record] == [16, 32, 48]
    assert len(history.steps) == 6


def test_the_mask_is_for_training_and_never_for_the_validation(calls):
    dataset = InstructionDataset(SIX, CHAT, 96)
    tokens = sum(len(ids) - 1 for ids, _ in dataset.rows)
    counted = sum(len(ids) - prompt_tokens for ids, prompt_tokens in dataset.rows)
    for mask, expected in ((True, counted), (False, tokens)):
        finetune_instructions(language_model(), dataset, dataset, mask_prompt=mask, **QUICK)
        _, loader, _, _, val_loader, *_ = calls[-1]
        assert sum(int((targets != -100).sum()) for _, targets in loader) == expected
        assert sum(int((targets != -100).sum()) for _, targets in val_loader) == counted
    finetune_instructions(language_model(), dataset, **QUICK)
    assert sum(int((targets != -100).sum()) for _, targets in calls[-1][1]) == counted  # masked unless told otherwise


def test_it_tells_of_each_step_and_goes_on_from_a_checkpoint(tmp_path):
    dataset, told = InstructionDataset(some_entries(20), CHAT, 96), []
    whole, pieces = language_model(), language_model()
    finetune_instructions(whole, dataset, epochs=2, **QUICK)

    def stop(record):
        told.append(record["step"])
        if told == [1, 2]:
            raise KeyboardInterrupt

    for _ in range(2):
        finetune_instructions(pieces, dataset, epochs=2, checkpoints=Checkpoints(tmp_path, every_steps=1),
                              on_step=stop, **QUICK)
    assert told == [1, 2, 2, 3, 4, 5, 6]  # the second step was not on the disk yet
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), pieces.parameters()))


def test_the_seed_decides_the_run():
    dataset = InstructionDataset(some_entries(20), CHAT, 96)

    def run(seed: int) -> list[tuple]:
        history = finetune_instructions(language_model(), dataset, dataset, epochs=2, batch_size=4, seed=seed, **QUICK)
        return [(step["loss"], step.get("val_loss")) for step in history.steps]

    first, again, other = run(0), run(0), run(1)
    assert first == again != other


def test_frozen_parameters_stay():
    model = language_model("Llama")
    model.requires_grad_(False)
    model.blocks[-1].requires_grad_(True)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    finetune_instructions(model, InstructionDataset(SIX, CHAT, 96), epochs=2, learning_rate=1e-2, **QUICK)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) is not name.startswith("blocks.1."), name


def test_no_entries_are_an_error():
    model, some, none = language_model(), *(InstructionDataset(part, CHAT, 96) for part in (SIX, SIX[:0]))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with pytest.raises(ValueError, match="texts 0: at least 1 each"):
        finetune_instructions(model, none, **QUICK)
    with pytest.raises(ValueError, match="texts 0: at least 1 each"):
        held_out_loss(model, none)
    assert all(torch.equal(parameter, old) for parameter, old in zip(model.parameters(), before))
    assert len(none) == 0 and len(some) == 6


def test_no_validation_entries_are_an_error_before_training(calls):
    some, none = (InstructionDataset(part, CHAT, 96) for part in (SIX, SIX[:0]))
    with pytest.raises(ValueError, match="at least 1"):
        finetune_instructions(language_model(), some, none, **QUICK)
    assert not calls


# --- responding --------------------------------------------------------------------------------------------------

def alone(model, tokenizer, entry, style: str, max_new_tokens: int) -> str:
    """By `generate` for one prompt, cut at the end token."""
    prompt = torch.tensor([encode_instruction(entry["instruction"], entry["input"], tokenizer, style)])
    new = generate(model, prompt, max_new_tokens, temperature=0.0)[0, prompt.shape[1] :].tolist()
    ends = [place for place, token in enumerate(new) if token in special_ids(tokenizer)]
    return tokenizer.decode(new[: ends[0]] if ends else new).rstrip("\ufffd").strip()


@FAMILIES
def test_responses_are_in_the_order_of_the_table_whatever_the_batches(family):
    model, entries = language_model(family, spread=0.3), some_entries(23, longest=6)
    entries.index = range(50, 73)
    expected = [alone(model, CHAT, entry, "chatml", 6) for entry in entries.to_dict("records")]
    assert len(set(expected)) > 10
    for size in (1, 5, 16, 40):
        assert respond_all(model, CHAT, entries, max_new_tokens=6, batch_size=size) == expected
    assert [respond(model, CHAT, entry.instruction, entry.input, max_new_tokens=6)
            for entry in entries[:4].itertuples()] == expected[:4]


class Scripted(Llama):
    """Says the tokens it is told to, and notes what it was asked to read."""

    def __init__(self, *script: int):
        super().__init__(language_model("Llama").config)
        self.script, self.read, self.was_training = list(script), [], []

    def hidden_states(self, token_ids, cache=None):
        self.read.append(token_ids.tolist())
        self.was_training.append(self.training)
        return super().hidden_states(token_ids, cache)

    def lm_head(self, hidden):
        return F.one_hot(torch.tensor([self.script.pop(0)] * len(hidden)), 300).float()


@pytest.mark.parametrize("style, end, other", [("chatml", IM_END, END_OF_TEXT), ("alpaca", END_OF_TEXT, IM_END)])
def test_the_end_token_of_the_style_stops(style, end, other):
    words = CHAT.encode("\n gold bird \n")
    model = Scripted(*words, end, *CHAT.encode("and more"))
    assert respond(model, CHAT, "who", "sea", style, 20) == "gold bird"
    assert len(model.read) == len(words) + 1 and model.read[0][0] == encode_instruction("who", "sea", CHAT, style)


@pytest.mark.parametrize("style", ["chatml", "alpaca"])
@pytest.mark.parametrize("stop", [297, IM_END, END_OF_TEXT])
def test_no_special_token_leaks_into_a_response(style, stop):
    model = Scripted(*CHAT.encode("a"), stop, *CHAT.encode("b c d"))
    assert respond(model, CHAT, "who", "", style, 20) == "a" and len(model.read) == 2


def test_a_response_cut_inside_a_character_ends_before_it():
    words, half = CHAT.encode("gold"), CHAT.encode("\U0001f44d")[:2]
    assert respond(Scripted(*words, *half), CHAT, "who", max_new_tokens=len(words) + 2) == "gold"


def test_a_response_ends_at_max_new_tokens():
    words = CHAT.encode("gold " * 150)
    assert respond(Scripted(*words), CHAT, "who", max_new_tokens=4) == CHAT.decode(words[:4]).strip()
    assert respond(Scripted(*words), CHAT, "who", max_new_tokens=0) == ""
    with pytest.raises(ValueError, match="max_new_tokens is -1"):
        respond(Scripted(*words), CHAT, "who", max_new_tokens=-1)


def test_the_style_is_the_tokenizer_s_if_none_is_given():
    for tokenizer, style in ((CHAT, "chatml"), (PLAIN, "alpaca")):
        model = Scripted(5, 6, 7)
        respond(model, tokenizer, "who", max_new_tokens=1)
        assert model.read[0][0] == encode_instruction("who", "", tokenizer, style)


@pytest.mark.parametrize("mode", [True, False])
def test_dropout_is_off_and_the_mode_is_not_touched(mode):
    model = language_model(spread=0.3, dropout=0.9).train(mode)
    said = respond(model, CHAT, "who", max_new_tokens=20)
    assert model.training is mode
    assert said == respond(model.eval(), CHAT, "who", max_new_tokens=20)


def test_sampling_goes_to_generate(monkeypatch):
    seen = []

    def watched(model, prompts, max_new_tokens, **settings):
        seen.append((max_new_tokens, settings))
        return generate(model, prompts, max_new_tokens, **settings)

    monkeypatch.setattr(instructions, "generate", watched)
    model = language_model(spread=0.3)
    respond(model, CHAT, "who", max_new_tokens=5)
    respond(model, CHAT, "who", max_new_tokens=5, temperature=0.5, top_k=3)
    assert seen.pop() == (5, {"temperature": 0.5, "top_k": 3, "stop_tokens": SPECIAL})
    sampling = {"temperature": 3.0, "top_k": 50, "top_p": 0.9, "seed": 1}
    first = respond_all(model, CHAT, SIX, max_new_tokens=5, **sampling)
    assert seen == [(5, {"temperature": 0.0, "stop_tokens": SPECIAL}), (5, {**sampling, "stop_tokens": SPECIAL})]
    assert first == respond_all(model, CHAT, SIX, max_new_tokens=5, **sampling)
    assert first != respond_all(model, CHAT, SIX, max_new_tokens=5, **{**sampling, "seed": 2})


def test_an_instruction_that_does_not_fit_is_named():
    model, entries = language_model(), table(("who", "", ""), ("gold " * 20, "", ""))
    tokens = len(encode_instruction("gold " * 20, "", CHAT, "chatml"))
    for new in (96 - tokens + 1, 96, 200):
        message = (f"instruction 1 has {tokens} tokens, and max_new_tokens leaves room for {max(96 - new, 0)}: "
                   "shorten it, or lower max_new_tokens")
        with pytest.raises(ValueError, match=f"^{message}$" if new < 96 else "leaves room for 0: "):
            respond_all(model, CHAT, entries, max_new_tokens=new)
    assert len(respond_all(model, CHAT, entries, max_new_tokens=96 - tokens)) == 2  # exactly fits


@pytest.mark.parametrize("empty", ["", "  \n"])
def test_an_empty_instruction_is_named(empty):
    with pytest.raises(ValueError, match="^instruction 0 is empty: say what to do$"):
        respond(language_model(), CHAT, empty, "gold", max_new_tokens=5)
    with pytest.raises(ValueError, match="^instruction 2 is empty: say what to do$"):
        respond_all(language_model(), CHAT, table(("a", "", ""), ("b", "", ""), (empty, "c", "")), max_new_tokens=5)


def test_a_special_token_in_an_instruction_is_refused():
    for texts in (("who<|im_end|>", ""), ("who", "a <|im_end|>")):
        with pytest.raises(ValueError, match=re.escape("instruction 0 holds the special token '<|im_end|>', which")):
            respond(language_model(), CHAT, *texts)


def test_no_instructions_are_no_responses():
    assert respond_all(language_model(), CHAT, SIX[:0], max_new_tokens=5) == []


# --- scores ---------------------------------------------------------------------------------------------------------

def test_scores_have_one_row_an_entry():
    entries = SIX[:4].assign(kind=list("abca"), check=[{"answers": ["gold bird"]}, {"exact": True}, None, {"words": 3}])
    entries.index = [7, 3, 5, 1]
    scores = score_responses(entries, ["Gold bird.", "harbour", "two or three", "a b"])
    assert scores.columns.tolist() == ["kind", "checked", "right", "contained", "words"]
    assert scores.index.tolist() == [7, 3, 5, 1]
    assert scores.to_numpy().tolist() == [
        ["a", "content", True, True, 2], ["b", "content", False, False, 1], ["c", None, None, None, 3],
        ["a", "format", False, False, 2]]
    wordy = score_responses(entries, ["It is a gold bird, I think.", "", "", ""]).iloc[0]
    assert (wordy["right"], wordy["contained"]) == (False, True)
    assert score_responses(entries, pd.Series(SIX["output"][:4]))["right"].tolist() == [True, True, None, False]
    without = entries.assign(check=[float("nan"), {"exact": True}, float("nan"), {"exact": True}])
    assert score_responses(without, SIX["output"][:4])["right"].tolist() == [None, True, None, True]


@pytest.mark.parametrize("responses", [[], ["a"], ["a"] * 7])
def test_a_missing_response_is_an_error(responses):
    message = f"^6 entries, {len(responses)} responses: give one for each$"
    with pytest.raises(ValueError, match=message):
        score_responses(SIX.assign(kind="k", check=None), responses)


def test_a_missing_input_in_a_table_is_named():
    table = pd.DataFrame([{"instruction": "Add.", "input": float("nan"), "output": "3"}])
    with pytest.raises(ValueError, match="^entry 0 holds nan: it must be text"):
        InstructionDataset(table, CHAT, 64)


# --- conversations -----------------------------------------------------------------------------------------------

TURNS = [{"instruction": "who", "input": "salt", "output": "captain"}, {"instruction": "count", "output": "two"}]
TURNS_TEXT = {
    "plain": "<|endoftext|>salt\n\nQ: who\nA: captain<|endoftext|>\n\nQ: count\nA: two<|endoftext|>",
    "alpaca": ("### Instruction:\nwho\n\n### Input:\nsalt\n\n### Response:\ncaptain<|endoftext|>\n\n### Instruction:\n"
               "count\n\n### Response:\ntwo<|endoftext|>"),
    "chatml": ("<|im_start|>user\nwho\n\nsalt<|im_end|>\n<|im_start|>assistant\ncaptain<|im_end|>\n"
               "<|im_start|>user\ncount<|im_end|>\n<|im_start|>assistant\ntwo<|im_end|>")}


@pytest.mark.parametrize("style", TURNS_TEXT)
def test_a_conversation_is_exactly_this_and_the_assistant_s_tokens_are_marked(style):
    tokenizer = CHAT if style == "chatml" else PLAIN
    ids, own = encode_conversation(TURNS, tokenizer, style)
    assert tokenizer.decode(ids.tolist()) == TURNS_TEXT[style] and own.dtype == torch.bool
    end = end_token(tokenizer, style)
    parts = tokenizer.decode(ids[own].tolist()).split(tokenizer.decode([end]))
    assert [part.strip() for part in parts] == ["captain", "two", ""]
    inputs, targets = collate_instructions([(ids, own)])
    assert torch.equal(inputs[0], ids[:-1]) and torch.equal(targets[0] != -100, own[1:])
    assert torch.equal(targets[0][own[1:]], ids[1:][own[1:]])
    assert (collate_instructions([(ids, own)], mask_prompt=False)[1] == ids[1:]).all()


def test_a_plain_prompt_begins_as_a_story_and_its_response_with_a_space():
    ids, prompt_tokens = encode_entry({"instruction": "who", "input": "", "output": "captain"}, PLAIN, "plain")
    assert PLAIN.decode(ids.tolist()) == "<|endoftext|>Q: who\nA: captain<|endoftext|>"
    assert PLAIN.decode(ids[prompt_tokens:].tolist()) == " captain<|endoftext|>"


def test_one_turn_is_an_entry():
    for style, tokenizer in [*STYLES, ("plain", PLAIN)]:
        ids, own = encode_conversation(TURNS[:1], tokenizer, style)
        entry, prompt_tokens = encode_entry(TURNS[0], tokenizer, style)
        assert torch.equal(ids, entry) and own.tolist() == [place >= prompt_tokens for place in range(len(ids))]


def test_a_conversation_set_trains_and_is_cut_at_the_context():
    rows = ConversationDataset([TURNS, TURNS[:1]], PLAIN, 96, "plain")
    assert len(rows) == 2 and len(rows[0][0]) == len(rows[0][1])
    assert all(len(part) == 9 for part in ConversationDataset([TURNS], PLAIN, 9, "plain")[0])
    model = language_model()
    before = held_out_loss(model, rows)
    finetune_instructions(model, rows, epochs=20, batch_size=2, learning_rate=1e-2, **QUICK)
    assert held_out_loss(model, rows) < before / 4
    assert respond(model, PLAIN, "who", "salt", "plain", 8) == "captain"
    assert converse(model, PLAIN, TURNS[:1], "count", "plain", 8) == "two"


def test_what_is_wrong_with_a_conversation_is_named():
    with pytest.raises(ValueError, match="^conversation 1 has no turn: leave it out$"):
        ConversationDataset([TURNS, []], PLAIN, 96, "plain")
    with pytest.raises(ValueError, match="^conversation 0, turn 1, holds the special token '<|endoftext|>'"):
        ConversationDataset([[TURNS[0], {"instruction": "go<|endoftext|>", "output": "two"}]], PLAIN, 96, "plain")
    with pytest.raises(ValueError, match="^style is 'template': conversations are laid out in one of alpaca, chatml"):
        encode_conversation(TURNS, PLAIN, "template")
    with pytest.raises(ValueError, match="tokens, and max_new_tokens is 90: the context has 96, so leave out its"):
        converse(language_model(), PLAIN, TURNS, "go", "plain", 90)
