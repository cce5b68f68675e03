"""Many clients at once, beside llama.cpp's server: `python -m tests.benchmarks.serve_load`.

`llmbook serve --bits 4` and llama.cpp's server (the package xllamacpp) have the same file of SmolLM2 and eight places
each, in processes of their own with as many threads. 1, 8 and 32 clients send different prompts of 40 tokens at once,
and the tokens of all answers are divided by the time until the last one has come, so it wants a quiet machine. Answers
that are lost, or have other lengths than asked for, end it with an error.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

from llmbook.assets import fetch
from tests.benchmarks.rows import Row, alternate, compare, missing, table
from tests.support import llama_server

NAME = "smollm2-135m-instruct"
CLIENTS, TOKENS, PLACES = (1, 8, 32), 32, 8
# The same for either server; says seconds from the first request to the last answer, too.
CLIENT = """
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
    asked = json.dumps([port, prompts, TOKENS, more])
    done = subprocess.run([sys.executable, "-c", CLIENT, asked], check=True, capture_output=True, text=True)
    taken, tokens, answers = map(float, done.stdout.split())
    if (tokens, answers) != (TOKENS * clients, clients):
        raise ValueError(f"{clients} clients asked for {TOKENS} tokens each and got {done.stdout!r}")
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    print(table(load_rows(parser.parse_args().rounds, torch.get_num_threads())))


if __name__ == "__main__":
    main()
