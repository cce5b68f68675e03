"""llama.cpp itself, by the package `xllamacpp`, in a process of its own: what it makes of a GGUF file.

`with LlamaServer(path) as server` starts it on a free port of this machine's loopback and ends it.
"""

import importlib.util
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

MISSING = "pip install xllamacpp (llama.cpp)"


def is_here() -> bool:
    """Whether the package that brings llama.cpp is installed."""
    return importlib.util.find_spec("xllamacpp") is not None


class LlamaServer:
    """A GGUF file in llama.cpp's server.

    Args:
        path: the file. slots: how many requests it answers at once. context: tokens that each may have.
        threads: that it computes with. exact: with a cache of float32 and without flash attention, so that it computes
            as exactly as it can; if not, as it does unless told otherwise, which is faster.
    """

    def __init__(self, path: Path, slots: int = 1, context: int = 256, threads: int = 1, exact: bool = True):
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        numbers = map(str, (slots, context, threads, int(exact)))
        command = [sys.executable, str(Path(__file__).resolve()), str(path), *numbers]
        self.slots = slots
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         stderr=subprocess.DEVNULL, text=True, env=environment)
        for line in self._process.stdout:  # the library prints too
            if line.startswith("ADDRESS "):
                self.address = line.split()[1]
                return
        raise RuntimeError(f"llama.cpp does not load {path}: its process ended with code {self._process.wait()}")

    def __enter__(self) -> "LlamaServer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def ask(self, path: str, body: dict[str, Any]) -> Any:
        """What the server answers to one request."""
        request = urllib.request.Request(self.address + path, json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=600) as answer:
            return json.load(answer)

    def encode(self, text: str, begin: bool = False) -> list[int]:
        """Ids of a text, in which special tokens are text; with the token that begins one if `begin`."""
        return self.ask("/tokenize", {"content": text, "add_special": begin, "parse_special": False})["tokens"]

    def greedy(self, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
        """The likeliest tokens after each prompt of ids, `count` or up to an end."""
        def one(prompt: Sequence[int]) -> list[int]:
            return self.ask("/completion", {"prompt": list(prompt), "n_predict": count, "temperature": 0, "top_k": 1,
                                            "return_tokens": True, "cache_prompt": False})["tokens"]

        with ThreadPoolExecutor(self.slots) as threads:
            return list(threads.map(one, prompts))

    def log_probabilities(self, prompt: Sequence[int], count: int) -> dict[int, float]:
        """Of the `count` likeliest next tokens after a prompt."""
        answer = self.ask("/completion", {"prompt": list(prompt), "n_predict": 1, "temperature": 0, "n_probs": count,
                                          "cache_prompt": True})
        return {item["id"]: item["logprob"] for item in answer["completion_probabilities"][0]["top_logprobs"]}


def serve(path: str, slots: int, context: int, threads: int, exact: int) -> None:
    """Serve until the standard input ends."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path, settings.verbosity, settings.warmup = path, 0, False
    settings.n_ctx, settings.n_parallel = slots * context, slots
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
    if exact:
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED  # it rounds more
    server = xllamacpp.Server(settings)
    print(f"ADDRESS {server.listening_address}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    serve(sys.argv[1], *map(int, sys.argv[2:]))
