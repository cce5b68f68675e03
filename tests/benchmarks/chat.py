"""A conversation of eight turns with SmolLM2-135M: `python -m tests.benchmarks.chat`.

How long the first token of an answer takes, from the call with the new message on. Each message has the same text, so
that only the conversation before it grows. Turn 8 is compared with turn 1 (the floor: at most 1.2 times as long), with
transformers, whose `generate` reads the whole conversation at each turn, and at 4 bits with llama.cpp, which keeps a
cache too: it has read the conversation up to the new message, and is timed with that. All read the same ids.

One more row is what a turn costs before the model reads, which grows with the conversation: template, tokens, what fits
and what the cache holds of it, after 8,000 tokens, beside the reading.
"""

import argparse
import time
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import nn

from llmbook.assets import fetch
from llmbook.formats.chat_templates import chat_template, encode_chat
from llmbook.formats.conversations import ReadSoFar, common_prefix, fit_conversation
from llmbook.formats.quantized import quantize
from llmbook.open_weights import Chat, load_pretrained
from tests.benchmarks.llama_cpp import MISSING, LlamaCpp, is_here
from tests.benchmarks.rows import Row, alternate, compare, missing, seconds, table

NAME, TURNS, ANSWER = "smollm2-135m-instruct", 8, 6
MESSAGE = ("Please go on with the story of the lighthouse keeper, who found a letter in a bottle on the beach one cold "
           "morning in November, and could not read the language in which it had been written. What did he do next?")


@dataclass
class Conversation:
    """What was measured, turn by turn: milliseconds to the first token, all ids that the answer depends on, and how
    many of them the cache did not hold."""

    times: list[float] = field(default_factory=list)
    asked: list[list[int]] = field(default_factory=list)
    new: list[int] = field(default_factory=list)


def converse(model: nn.Module, tokenizer) -> Conversation:
    """A whole conversation, in which the same is said at each turn."""
    chat, measured = Chat(model, tokenizer, "", ANSWER, temperature=0), Conversation()
    for _ in range(TURNS):
        before, start = chat.read_so_far.ids, time.perf_counter()
        pieces = chat.stream(MESSAGE)
        next(pieces)
        measured.times.append(1000 * (time.perf_counter() - start))
        measured.asked.append(chat.read_so_far.ids[:-1])
        measured.new.append(len(measured.asked[-1]) - common_prefix(before, measured.asked[-1]))
        for _ in pieces:
            pass
    return measured


def first_of_theirs(model: nn.Module, ids: list[int]) -> float:
    """Milliseconds in which transformers gives one token after all of these."""
    given = torch.tensor([ids])
    with torch.inference_mode():
        return 1000 * seconds(lambda: model.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=1,
                                                     do_sample=False, pad_token_id=2))


def far_on(model: nn.Module, tokenizer, tokens: int = 8000) -> tuple[float, float]:
    """Milliseconds of a turn after so many tokens of conversation: reading the new message, and all before that.

    What the cache holds is drawn by chance, to have it at once.
    """
    template, said = chat_template(tokenizer), {"role": "user", "content": MESSAGE}
    turn = [said, {"role": "assistant", "content": MESSAGE}]
    messages = turn * ((tokens - 200) // (len(encode_chat(tokenizer, turn * 2, False, template)) // 2))
    so_far = ReadSoFar(model)
    so_far.recall(read := encode_chat(tokenizer, messages, False, template), 100)
    for layer in range(len(so_far.cache.keys)):
        so_far.cache.append(layer, *torch.randn(2, *so_far.cache.keys[layer, :, :, : len(read)].shape))
    start = time.perf_counter()
    _, ids = fit_conversation(tokenizer, messages, said, template, so_far, 100)
    cache = so_far.recall(ids, 100)
    before = time.perf_counter()
    with torch.inference_mode():
        model.lm_head(model.hidden_states(torch.tensor([ids[cache.length :]]), cache)[:, -1])
    return 1000 * (time.perf_counter() - before), 1000 * (before - start)


def first_of_llama_cpp(server, ids: list[int], new: int) -> float:
    """Milliseconds in which llama.cpp reads the last `new` ids, once it has read the others."""
    server.run(ids[:-new], 1, keep=True)
    answer = server.run(ids, 1, keep=True)
    if not answer["read"] <= new + 1:
        raise ValueError(f"llama.cpp read {answer['read']} tokens where {new} were new")
    return 1000 * answer["prompt_seconds"]


def rows(rounds: int) -> list[Row]:
    plain, tokenizer = load_pretrained(NAME, torch.float32, "cpu")
    models = {"float32": plain, "4 bits": quantize(load_pretrained(NAME, torch.float32, "cpu")[0], 4)}
    runs = {name: [converse(model, tokenizer)] for name, model in models.items()}  # not counted: first passes are slow
    last = {name: own[0] for name, own in runs.items()}

    def of(name: str) -> float:
        runs[name].append(converse(models[name], tokenizer))
        return runs[name][-1].times[-1]

    measure = {"float32": lambda: of("float32"), "4 bits": lambda: of("4 bits")}
    with ExitStack() as stack:
        try:
            from tests.benchmarks.open_weights import load_theirs

            theirs = load_theirs(torch.float32)[0]
            first_of_theirs(theirs, last["float32"].asked[-1])
            measure["transformers"] = lambda: first_of_theirs(theirs, last["float32"].asked[-1])
        except ImportError:
            pass
        if is_here():
            server = stack.enter_context(LlamaCpp(fetch(NAME), torch.get_num_threads()))
            measure["llama.cpp"] = lambda: first_of_llama_cpp(server, last["4 bits"].asked[-1], last["4 bits"].new[-1])
        times = alternate(rounds, **measure)
    found = []
    for name, own in runs.items():
        whole, new = own[0].asked[-1], own[0].new
        note = f"{len(whole)} tokens of conversation, {new[-1]} of them new; turn 1 reads {new[0]}"
        found.append(compare(f"first token of turn {TURNS}, SmolLM2, {name}", times[name],
                             [run.times[0] for run in own[1:]], "ms", "turn 1", floor=1 / 1.2, note=note))
    for name, peer, note, otherwise in (
            ("float32", "transformers", "reads the whole conversation", "not measured: pip install transformers"),
            ("4 bits", "llama.cpp", "keeps what it has read, too", MISSING)):
        work = f"first token of turn {TURNS}, SmolLM2, {name}"
        found.append(compare(work, times[name], times[peer], "ms", peer, note=f"{peer} {note}") if peer in times else
                     missing(work, otherwise))
    reading, before = zip(*(far_on(plain, tokenizer) for _ in range(rounds)))
    found.append(compare("a turn after 8,000 tokens, before the model reads", before, reading, "ms", "then reading",
                         note="template, tokens, what fits, what the cache holds"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    print(table(rows(parser.parse_args().rounds)))


if __name__ == "__main__":
    main()
