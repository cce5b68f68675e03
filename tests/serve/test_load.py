"""Thirty-two clients at once: nothing is lost, and nobody gets what another one asked for."""

import threading

import pytest
import torch

from llmbook.formats.shipped import load_shipped
from llmbook.generation import generate
from llmbook.serve.server import Server
from tests.serve.served import Caller, events

CLIENTS, NAMES = 32, ("Mira", "Olive", "Barnaby", "Tom", "a mouse", "the fox", "Anna", "a badger")
WORDS = 12


@pytest.mark.slow
def test_thirty_two_clients_each_get_their_own_answer():
    model, tokenizer = load_shipped("storyteller", torch.float32, torch.device("cpu"))
    asked = [{"prompt": f"One day {NAMES[number % 8]} found {1 + number // 8} things", "max_tokens": WORDS,
              "temperature": (0, 0.8)[number % 2], "seed": number, "stream": number % 3 == 0}
             for number in range(CLIENTS)]
    answers, faults = {}, []

    def ask(number: int) -> None:
        try:
            status, answer, _ = caller.ask("POST", "/v1/completions", asked[number])
            assert status == 200, answer
            if asked[number]["stream"]:
                *chunks, done = events(answer)
                assert done == "[DONE]" and len({chunk["id"] for chunk in chunks}) == 1
                answers[number] = "".join(chunk["choices"][0]["text"] for chunk in chunks)
            else:
                answers[number] = answer["choices"][0]["text"]
        except Exception as error:
            faults.append((number, error))

    with Server(model, tokenizer, "storyteller", port=0, rows=8) as server:
        caller = Caller(server)
        clients = [threading.Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(120)
        assert server.engine.load == (0, 0)
    assert not faults and len(answers) == CLIENTS
    for number, body in enumerate(asked):
        ids = tokenizer.encode(body["prompt"])
        ends = [tokenizer.eot_token]
        new = generate(model, torch.tensor([ids]), WORDS, body["temperature"], stop_tokens=ends,
                       seed=number)[0].tolist()[len(ids) :]
        assert answers[number] == tokenizer.decode([token for token in new if token not in ends]), body
