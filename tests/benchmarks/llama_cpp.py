"""llama.cpp as a peer of the benchmarks, by the package `xllamacpp`, in a process of its own.

The process is started with `LlamaCpp(path, threads)` and answers one request at a time; between them it sleeps, so that
it does not disturb what is measured beside it.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

MISSING = "not measured: pip install xllamacpp (llama.cpp)"


def is_here() -> bool:
    """Whether the package that brings llama.cpp is installed."""
    return importlib.util.find_spec("xllamacpp") is not None


class LlamaCpp:
    """A GGUF file in llama.cpp, batch 1, greedy. Use it with `with`, which ends its process.

    Args:
        path: the file. threads: that it computes with.
    """

    def __init__(self, path: Path, threads: int):
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        command = [sys.executable, str(Path(__file__).resolve()), str(path), str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         stderr=subprocess.DEVNULL, text=True, env=environment)
        self._answer()  # it is ready

    def __enter__(self) -> "LlamaCpp":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._process.stdin.close()
        self._process.wait(30)

    def run(self, prompt: Sequence[int], count: int, keep: bool = False) -> dict[str, Any]:
        """Continue a prompt by `count` tokens.

        With `keep`, what it has in common with the last prompt is not read again. Returns their `text`, how many
        tokens of the prompt were `read`, and by llama.cpp's own clock `prompt_seconds` and `token_seconds`, the time a
        token of those after the first.
        """
        self._process.stdin.write(json.dumps([list(prompt), count, keep]) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        for line in self._process.stdout:
            if line.startswith("ANSWER "):  # the library prints too
                return json.loads(line.removeprefix("ANSWER "))
        raise RuntimeError(f"llama.cpp's process ended with code {self._process.wait()}: run "
                           f"python {Path(__file__).name} FILE THREADS by hand to see why")


def serve(path: str, threads: int) -> None:
    """Answer requests on the standard input until it ends."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = path
    settings.n_ctx, settings.n_parallel, settings.verbosity = 2048, 1, 0
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(settings)

    def answer(value: dict[str, Any]) -> None:
        sys.stdout.write("ANSWER " + json.dumps(value) + "\n")
        sys.stdout.flush()

    answer({})
    for line in sys.stdin:
        prompt, count, keep = json.loads(line)
        result = server.handle_completions({"prompt": prompt, "n_predict": count, "temperature": 0, "ignore_eos": True,
                                            "cache_prompt": keep})
        result = json.loads(result) if isinstance(result, (str, bytes)) else result
        times = result["timings"]
        if times["predicted_n"] != count or (times["prompt_n"] != len(prompt) and not keep):
            raise ValueError(f"llama.cpp read {times['prompt_n']} tokens and wrote {times['predicted_n']} in place of "
                             f"{len(prompt)} and {count}")
        answer({"text": result["choices"][0]["text"], "read": times["prompt_n"],
                "prompt_seconds": times["prompt_ms"] / 1000,
                "token_seconds": times["predicted_ms"] / 1000 / max(count - 1, 1)})


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
