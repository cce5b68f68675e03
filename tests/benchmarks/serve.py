"""What the server adds to generating, and what it gains by batches: `python -m tests.benchmarks.serve`.

The server runs in this process and its clients in another, so that the time which this process computes, its own and
the engine's thread together, is what serving costs: other programs on the machine do not change it. One client that
streams stands beside `generate` for the same tokens (the floor: at most 10 % more, for SmolLM2). Then eight clients at
once stand beside one. Greedy, float32, and no answer ends before its last token.
"""

import argparse
import json
import subprocess
import sys
import time
from unittest import mock

import torch

from llmbook.generation import generate
from llmbook.open_weights import load_pretrained
from llmbook.serve import app
from llmbook.serve.server import Server
from tests.benchmarks.rows import Row, alternate, compare, table

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


def rows(rounds: int) -> list[Row]:
    return [*of_model("storyteller", 200, rounds, None), *of_model(NAME, 24, rounds, 1 / 1.1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    print(table(rows(parser.parse_args().rounds)))


if __name__ == "__main__":
    main()
