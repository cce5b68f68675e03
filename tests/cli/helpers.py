"""What the tests of the command share: a tiny run, and how to call and look."""

import csv
import json
import os
import subprocess
import sys

import pandas as pd

from llmbook.book.corpora import data_folder
from llmbook.text import read_text
from tests.support.repository import ROOT

COMMANDS = ("pretrain", "tokenize", "finetune", "generate", "chat", "serve", "export")
STORY = read_text(data_folder() / "twenty_in_hand.txt")
TINY = """
[model]
context_length = 32
d_model = 16
n_heads = 2
n_layers = 1
dropout = 0.1

[data]
train = "story.txt"
validation = 0.1
tokenizer = "tokenizer.json"

[training]
max_steps = 4
batch_size = 4
learning_rate = 5e-3
eval_every = 2
eval_batches = 2
device = "cpu"
precision = "float32"
"""
FOUR = pd.DataFrame([("say the sea", "", "the sea"), ("say gold", "", "gold"), ("say a map", "", "a map"),
                     ("who", "the captain sails", "the captain")], columns=["instruction", "input", "output"])


def pretrain(call, *arguments: str, out: str = "out") -> tuple[int, str, str]:
    return call("pretrain", "run.toml", "--out", out, *arguments)


def weights(folder) -> str:
    """The name of a saved model's file, which holds the hash of its content."""
    return json.loads((folder / "model" / "config.json").read_text())["weights"]


def rows(path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def tree(folder) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def start(*arguments: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "llmbook", *arguments], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT), **environment})
