"""Models with recurrent states over HTTP: conversations that begin alike, go on, and are answered side by side."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from llmbook.families import family_of_kind
from llmbook.formats.chat_templates import encode_chat
from llmbook.generation import generate
from llmbook.prompt_ends import special_ids
from llmbook.serve.server import Server
from tests.serve.served import VOCABULARY, Caller, tiny_chat


@pytest.fixture(scope="module", params=["hybrid", "experts"])
def pair(request):
    family = family_of_kind(request.param)
    torch.manual_seed(0)
    model = family.build(family.config_class(
        vocab_size=VOCABULARY, context_length=400, d_model=32, n_heads=4, n_kv_heads=2, n_layers=3, d_hidden=64,
        window=9, mixers=("gated delta", "window", "attention"))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model, tiny_chat()[1]


def spoken(pair, messages) -> str:
    """What the model alone says to a conversation."""
    model, tokenizer = pair
    ids = torch.tensor([encode_chat(tokenizer, messages)])
    ends = tokenizer.encode("<|im_end|><|endoftext|>", allowed_special="all")
    new = generate(model, ids, 10, temperature=0, stop_tokens=ends, vocab_size=tokenizer.n_vocab)[0, ids.shape[1] :]
    special = special_ids(tokenizer)
    return tokenizer.decode([token for token in new.tolist() if token not in special])


def test_conversations_side_by_side_are_answered_as_each_alone_and_go_on(pair):
    system = {"role": "system", "content": "Be kind to the captain and to all who sail the sea with him."}
    with Server(*pair, name="states", port=0, rows=3) as server, ThreadPoolExecutor(5) as people:
        caller = Caller(server)
        talks = [[system, {"role": "user", "content": text}] for text in
                 ("hello", "where is the map?", "gold and silver", "a long story about the sea and the sky", "a")]
        for _ in range(2):
            found = list(people.map(lambda talk: caller.chat(messages=talk, temperature=0, max_tokens=10), talks))
            assert [status for status, _ in found] == [200] * 5
            answers = [answer["choices"][0]["message"]["content"] for _, answer in found]
            assert answers == [spoken(pair, talk) for talk in talks]
            for talk, answer in zip(talks, answers):
                talk += [{"role": "assistant", "content": answer}, {"role": "user", "content": "and then?"}]
        assert server.engine.prefixes.size > 0
