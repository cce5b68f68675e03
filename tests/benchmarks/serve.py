"""What the server adds to generating, and what it gains by batches: `python -m tests.benchmarks.serve`.

The server runs in this process and its clients in another, so that the time which this process computes, its own and
the engine's thread together, is what serving costs: other programs on the machine do not change it. One client that
streams stands beside `generate` for the same tokens (the floor: at most 10 % more, for SmolLM2). Then eight clients at
once stand beside one. Greedy, float32, and no answer ends before its last token.

`--load` asks more: `llmbook serve --bits 4` and llama.cpp's server (the package xllamacpp) have the same file of
SmolLM2 and eight places each, in processes of their own with as many threads. 1, 8 and 32 clients send different
prompts of 40 tokens at once, and the tokens of all answers are divided by the time until the last one has come, so it
wants a quiet machine. Answers that are lost, or have other lengths than asked for, end it with an error.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from unittest import mock

import torch

from llmbook.assets import fetch
from llmbook.generation import generate
from llmbook.open_weights import load_pretrained
from llmbook.serve import app
from llmbook.serve.server import Server
from tests.benchmarks.rows import Row, alternate, compare, missing, table
from tests.support import llama_server

NAME = "smollm2-135m-instruct"
PROMPT = "Once upon a time, in a village by the sea,"
CLIENT = """
import http.client, json, sys, threading
port, prompt, count, clients = json.loads(sys.argv[1])
def ask(number):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    body = {"prompt": [*prompt[: len(prompt) - number], *prompt[:number]], "max_tokens": count, "temperature": 0,
            "stream": True, "stream_options": {"include_usage": True}}
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    lines = [line for line in connection.getresponse() if line.startswith(b"data: {")]
    said.append(json.loads(lines[-1][6:])["usage"]["completion_tokens"])
said = []
threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(sum(said), len(said))
"""
# The same for either server; says seconds from the first request to the last answer, too.
LOAD_CLIENT = """
import http.client, json, sys, threading, time
port, prompts, count, more = json.loads(sys.argv[1])
def ask(prompt):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    body = {"prompt": prompt, "max_tokens": count, "temperature": 0, **more}
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    said.append(json.loads(connection.getresponse().read())["usage"]["completion_tokens"])
said = []
threads = [threading.Thread(target=ask, args=(prompt,)) for prompt in prompts]
start = time.perf_counter()
for thread in threads: thread.start()
for thread in threads: thread.join()
print(time.perf_counter() - start, sum(said), len(said))
"""
CLIENTS, LOAD_TOKENS, PLACES = (1, 8, 32), 32, 8


def per_second(work, tokens: int) -> float:
    """Tokens per second of this process's own time."""
    start = time.process_time()
    work()
    return tokens / (time.process_time() - start)


def served(server: Server, ids: list[int], count: int, clients: int) -> None:
    port = int(server.url.rsplit(":", 1)[1])
    done = subprocess.run([sys.executable, "-c", CLIENT, json.dumps([port, ids, count, clients])], check=True,
                          capture_output=True, text=True)
    if done.stdout.split() != [str(count * clients), str(clients)]:
        raise ValueError(f"{clients} clients asked for {count} tokens each and got {done.stdout!r}")


def of_model(name: str, count: int, rounds: int, floor: float | None) -> list[Row]:
    model, tokenizer = load_pretrained(name, torch.float32, "cpu")
    ids = tokenizer.encode(PROMPT)
    prompt = torch.tensor([ids])
    # nothing is remembered: each run reads its prompt, as `generate` does
    with (mock.patch.object(app, "end_tokens", lambda _: ()),
          Server(model, tokenizer, name, port=0, prefix_bytes=0, rows=8) as server):
        work = {"generate": lambda: per_second(lambda: generate(model, prompt, count, temperature=0), count),
                "one": lambda: per_second(lambda: served(server, ids, count, 1), count),
                "eight": lambda: per_second(lambda: served(server, ids, count, 8), 8 * count)}
        alternate(1, **work)  # not counted: first passes are slow
        found = alternate(rounds, **work)
    return [compare(f"{name}, one client that streams", found["one"], found["generate"], "tokens/CPU s", "generate",
                    floor, f"{count} tokens, float32"),
            compare(f"{name}, eight clients at once", found["eight"], found["one"], "tokens/CPU s", "one client",
                    note="one batch")]


@contextmanager
def own_server(threads: int) -> Iterator[int]:
    """`llmbook serve` with 4 bits in a process of its own: its port. Nothing is said before the limit of tokens."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-c", "from unittest import mock; from llmbook.serve import app; "
               "from llmbook.cli.main import main; mock.patch.object(app, 'end_tokens', lambda _: ()).start(); main()",
               "serve", "--model", NAME, "--bits", "4", "--port", "0", "--rows", str(PLACES)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    try:
        yield int(re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())[1])
    finally:
        process.terminate()
        process.wait(30)


def load_rate(port: int, clients: int, **more: bool) -> float:
    """Tokens per second of all clients together, by the clock. No server has seen the prompts before."""
    prompts = [random.choices(range(1000, 40000), k=40) for _ in range(clients)]
    asked = json.dumps([port, prompts, LOAD_TOKENS, more])
    done = subprocess.run([sys.executable, "-c", LOAD_CLIENT, asked], check=True, capture_output=True, text=True)
    taken, tokens, answers = map(float, done.stdout.split())
    if (tokens, answers) != (LOAD_TOKENS * clients, clients):
        raise ValueError(f"{clients} clients asked for {LOAD_TOKENS} tokens each and got {done.stdout!r}")
    return tokens / taken


def load_rows(rounds: int, threads: int) -> list[Row]:
    """Clients at once, ours beside llama.cpp's server, and each beside one client of its own."""
    work = "SmolLM2-135M, 4 bits, {} clients"
    if not llama_server.is_here():
        return [missing(work.format(clients), f"not measured: {llama_server.MISSING}") for clients in CLIENTS]
    with own_server(threads) as port, llama_server.LlamaServer(fetch(NAME), PLACES, 256, threads, exact=False) as peer:
        peer_port = int(peer.address.rsplit(":", 1)[1])

        measures: dict[str, Callable[[], float]] = {}
        for clients in CLIENTS:
            measures[f"ours {clients}"] = partial(load_rate, port, clients)
            measures[f"theirs {clients}"] = partial(load_rate, peer_port, clients, ignore_eos=True)
        alternate(1, **measures)  # not counted: first passes are slow
        found = alternate(rounds, **measures)
    told = [compare(work.format(clients), found[f"ours {clients}"], found[f"theirs {clients}"], "tokens/s",
                    "llama.cpp's server", note=f"{PLACES} places, {threads} threads") for clients in CLIENTS]
    return told + [compare(f"{who}, {clients} clients", found[f"{key} {clients}"], found[f"{key} 1"], "tokens/s",
                           "one client") for who, key in (("llmbook", "ours"), ("llama.cpp", "theirs"))
                   for clients in CLIENTS[1:]]


def rows(rounds: int) -> list[Row]:
    return [*of_model("storyteller", 200, rounds, None), *of_model(NAME, 24, rounds, 1 / 1.1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--load", action="store_true", help="only the clients at once, beside llama.cpp's server")
    options = parser.parse_args()
    print(table(load_rows(options.rounds, torch.get_num_threads()) if options.load else rows(options.rounds)))


if __name__ == "__main__":
    main()
