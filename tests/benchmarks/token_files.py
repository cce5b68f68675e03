"""The speed and memory of token files: `python -m tests.benchmarks.token_files --megabytes 100`.

The text is English made for this: the sentences of Python's documentation and of the book's story, drawn at random and
joined to documents of about 4,000 characters, so that no two are alike. It is made as it is read, and never all in
memory. Printed are the MB of text tokenized in a second with gpt2's tokenizer, start of the processes included; the
peak memory of this process and of its workers in the first quarter of the text and in all of it, which should be the
same; and the time of a batch of windows. Limit: 8 MB/s on two cores. The seconds of processor time tell what a machine
that does nothing else would need.

`rows` times a Python of its own that writes 50 MB, on two cores. Beside it stand what many scripts do, a loop that
encodes a document, makes an array of it and writes that (one core; no checksums, and nothing goes on after an
interruption), and the same with `encode_ordinary_batch`, tiktoken's own threads.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from llmbook.book.corpora import data_folder, python_documentation
from llmbook.scale.token_files import TokenFiles, TokenWindows, write_token_files
from llmbook.text import load_tokenizer, read_text
from tests.benchmarks.rows import Row, against_limit, alternate, compare
from tests.support.repository import ROOT

MB = 1_000_000
LIMIT = 8.0  # MB/s on two cores
OURS = """
import sys, time
from llmbook.scale.token_files import write_token_files
from llmbook.text import load_tokenizer

tokenizer, start = load_tokenizer("gpt2"), time.perf_counter()
write_token_files(sys.argv[1], sys.argv[2], tokenizer, processes=2, progress=False)
print(time.perf_counter() - start)
"""
THEIRS = """
import json, sys, time
import numpy as np
from llmbook.text import load_tokenizer

def batches(path, size):
    with open(path, encoding="utf-8") as file:
        batch = []
        for line in file:
            batch.append(json.loads(line)["text"])
            if len(batch) == size:
                yield batch
                batch = []
        yield batch

def encode(tokenizer, texts, threads):
    if threads > 1:
        return tokenizer.encode_ordinary_batch(texts, num_threads=threads)
    return map(tokenizer.encode_ordinary, texts)

tokenizer, threads, start = load_tokenizer("gpt2"), int(sys.argv[3]), time.perf_counter()
with open(sys.argv[2] + "/tokens.bin", "wb") as file:
    for texts in batches(sys.argv[1], 1000):
        for ids in encode(tokenizer, texts, threads):
            file.write(np.array([*ids, tokenizer.eot_token], np.uint16).tobytes())
print(time.perf_counter() - start)
"""


def show(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class EnglishText:
    """Documents of random sentences; counts the bytes handed out."""

    def __init__(self, size: int, seed: int = 0):
        texts = [*python_documentation(), read_text(data_folder() / "twenty_in_hand.txt")]
        self.sentences = [part + " " for text in texts for part in re.split(r"(?<=[.!?])\s+", text)]
        self.size, self.seed, self.read = size, seed, 0

    def __iter__(self) -> Iterator[str]:
        draw, average = random.Random(self.seed), sum(map(len, self.sentences)) / len(self.sentences)
        self.read = 0
        while self.read < self.size:
            document = "".join(draw.choices(self.sentences, k=max(1, round(4000 / average))))
            self.read += len(document.encode())
            yield document


class MemoryWatch:
    """Peak memory, in MB, of this process and of its workers, in the first quarter of the text and in all of it."""

    def __init__(self, text: EnglishText):
        self.text, self.peaks, self.processor_seconds, self.running = text, {}, {}, True
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        own = psutil.Process()
        while self.running:
            for process in (own, *own.children()):
                try:
                    command, used = process.cmdline(), process.memory_info().rss / MB
                    self.processor_seconds[process.pid] = sum(process.cpu_times()[:2])
                except (psutil.NoSuchProcess, psutil.ZombieProcess):
                    continue
                if process is not own and "resource_tracker" in " ".join(command):
                    continue
                who = "parent" if process is own else "largest worker"
                for part in (25, 100):
                    if self.text.read <= self.text.size * part / 100:
                        self.peaks[who, part] = max(used, self.peaks.get((who, part), 0))
            time.sleep(0.05)

    def __enter__(self) -> "MemoryWatch":
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.running = False
        self.thread.join()


def write_speed(text: EnglishText, folder: str, processes: int | None, shard_bytes: int) -> TokenFiles:
    tokenizer = load_tokenizer("gpt2")
    before = sum(psutil.Process().cpu_times()[:2])
    with MemoryWatch(text) as watch:
        start = time.perf_counter()
        files = write_token_files(text, folder, tokenizer, processes=processes, shard_bytes=shard_bytes)
        seconds = time.perf_counter() - start
    processor = sum(watch.processor_seconds.values()) - before
    show(f"{text.read / MB:.0f} MB of text, {len(files) / MB:.1f} million tokens, {len(files.shards)} shards in "
         f"{seconds:.1f} s: {text.read / MB / seconds:.1f} MB/s; {processor:.1f} s of processor time, "
         f"{text.read / MB / processor:.1f} MB/s for one core")
    for who in ("parent", "largest worker"):
        if (who, 100) in watch.peaks:
            show(f"peak memory, {who}: {watch.peaks.get((who, 25), 0):.0f} MB in the first 25 % of the text, "
                 f"{watch.peaks[who, 100]:.0f} MB in all of it")
    start = time.perf_counter()
    write_token_files(text, folder, tokenizer, processes=processes, shard_bytes=shard_bytes, progress=False)
    show(f"run again, with nothing left to do: {time.perf_counter() - start:.1f} s, most of it to make the text")
    return files


def window_speed(files: TokenFiles, batch_size: int = 4, context_length: int = 256, batches: int = 500) -> None:
    windows = TokenWindows(files, context_length, batch_size)
    for _ in range(20):
        next(windows)
    start = time.perf_counter()
    for _ in range(batches):
        next(windows)
    seconds = (time.perf_counter() - start) / batches
    show(f"a batch of {batch_size} x {context_length}: {1000 * seconds:.2f} ms")


def speed(script: str, source: Path, *arguments: str) -> tuple[float, bytes]:
    """MB/s of a script that writes the tokens of a file to a folder, start of its processes included; and the
    tokens."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, "-c", script, str(source), folder, *arguments], check=True, text=True,
                              env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE)
        tokens = b"".join(path.read_bytes() for path in sorted(Path(folder).glob("*.bin")))
    return source.stat().st_size / MB / float(done.stdout), tokens


def rows(rounds: int, megabytes: int = 50) -> list[Row]:
    """Token files on two cores: their limit, and two loops that write the same tokens."""
    work = f"token files, {megabytes} MB of English in JSON Lines, two cores"
    with tempfile.TemporaryDirectory() as folder:
        source, written = Path(folder) / "text.jsonl", {}
        source.write_text("".join(json.dumps({"text": text}) + "\n" for text in EnglishText(megabytes * MB)))

        def measure(name: str, script: str, *arguments: str) -> float:
            figure, written[name] = speed(script, source, *arguments)
            return figure

        speeds = alternate(rounds, ours=lambda: measure("ours", OURS),
                           loop=lambda: measure("loop", THEIRS, "1"),
                           threads=lambda: measure("threads", THEIRS, "2"))
    assert written["ours"] == written["loop"] == written["threads"], "other tokens"
    return [against_limit(work, speeds["ours"], LIMIT, "MB/s"),
            compare(work, speeds["ours"], speeds["loop"], "MB/s", "tiktoken, a loop", floor=1.0),
            compare(work, speeds["ours"], speeds["threads"], "MB/s", "tiktoken, two threads")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--processes", type=int, default=None, help="all cores by default")
    parser.add_argument("--shard-bytes", type=int, default=16_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = write_speed(EnglishText(options.megabytes * MB), folder, options.processes, options.shard_bytes)
        window_speed(files)
        window_speed(files, batch_size=64, context_length=1024, batches=50)


if __name__ == "__main__":
    main()
