"""Chapter 10's search: passages of this book and of Python's documentation, BM25, and questions with their answers."""

from __future__ import annotations

import json
import math
import pydoc_data.topics
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tokenizers import Tokenizer
from torch import Tensor

from llmbook.encoder import Encoder, embed_texts

from .few_shot import share_interval
from .questions import QUESTIONS, Question
from .studies import read_study

__all__ = ["ANSWER_TOKENS", "BM25", "Passage", "QUESTIONS", "Question", "STUDY_FILE", "answer_prompt", "answer_table",
           "collect_passages", "mean_interval", "reciprocal_ranks", "score_passages"]

STUDY_FILE = "retrieval.json"  # tools/retrieval.py writes it
ANSWER_TOKENS = 24

CHAPTERS = ("01", "02", "03", "04", "05a", "05b", "06", "07", "08", "09", "A", "D", "E")  # 10 quotes the questions
MOST_WORDS = 150  # of a passage: what an encoder reads at once, and BM25 gets the same


@dataclass(frozen=True)
class Passage:
    """A section of a chapter ("3.5") or a topic of Python's documentation ("lambda"), and the beginning of its text."""

    name: str
    title: str
    text: str


def collect_passages(notebooks: Path | None = None) -> list[Passage]:
    """All sections of the chapters, without exercises and summaries, and all topics that `help()` knows.

    notebooks: the folder; by default the one beside the package. Raises FileNotFoundError if it holds no chapter.
    """
    folder = Path(__file__).resolve().parents[2] / "notebooks" if notebooks is None else notebooks
    passages = []
    for path in sorted(folder.glob("*.ipynb")):
        if path.name.split("_")[0] in CHAPTERS:
            passages += _sections(json.loads(path.read_text(encoding="utf-8")))
    if not passages:
        raise FileNotFoundError(f"{folder} holds no chapters: give the book's folder of notebooks")
    seen = set()
    for name, text in pydoc_data.topics.topics.items():
        title, _, rest = text.partition("\n")
        if text not in seen:  # "else" and "if" are one text
            passages.append(_passage(name, title.strip('"'), rest.replace("*", "")))
        seen.add(text)
    return passages


def _sections(notebook: dict) -> list[Passage]:
    texts: dict[str, str] = {}
    heading = ""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            for line in "".join(cell["source"]).split("\n"):
                if line.startswith("## "):
                    heading = line[3:]
                    texts[heading] = ""
                elif heading and not line.startswith("#"):
                    texts[heading] += line + " "
    numbered = [(re.match(r"(\w+\.\d+) (.*)", heading), text) for heading, text in texts.items()]
    return [_passage(match[1], match[2], text.replace("**", "")) for match, text in numbered if match and text.strip()]


def _passage(name: str, title: str, text: str) -> Passage:
    return Passage(name, title, " ".join([title + ".", *text.split()][:MOST_WORDS]))


class BM25:
    """Search by words that question and passage share: the rarer a word, the more it counts.

    Source: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), section 3.4; the
        weight of a word has 1 added inside its logarithm, so that no frequent word counts against a passage.
    """

    def __init__(self, texts: Sequence[str], k1: float = 1.2, b: float = 0.75):
        self.k1, self.b = k1, b
        self.counts = [Counter(self.words(text)) for text in texts]
        self.lengths = torch.tensor([float(sum(count.values())) for count in self.counts])
        self.having = Counter(word for count in self.counts for word in count)

    @staticmethod
    def words(text: str) -> list[str]:
        return re.findall(r"\w+", text.casefold())

    def scores(self, question: str) -> Tensor:
        """How well each passage fits, (passages,)."""
        total = torch.zeros(len(self.counts))
        norm = self.k1 * (1 - self.b + self.b * self.lengths / self.lengths.mean())
        for word in self.words(question):
            n = self.having[word]
            weight = math.log(1 + (len(self.counts) - n + 0.5) / (n + 0.5))
            often = torch.tensor([float(count[word]) for count in self.counts])
            total += weight * often * (self.k1 + 1) / (often + norm)
        return total

    def all_scores(self, questions: Sequence[str]) -> Tensor:
        """The scores of each question, (questions, passages)."""
        return torch.stack([self.scores(question) for question in questions])


def score_passages(model: Encoder, tokenizer: Tokenizer, texts: Sequence[str], questions: Sequence[str]) -> Tensor:
    """How close in meaning each text is to each question: the cosine of their vectors, (questions, texts)."""
    return embed_texts(model, tokenizer, questions) @ embed_texts(model, tokenizer, texts, most_tokens=128).T


def reciprocal_ranks(scores: Tensor, passages: Sequence[Passage], questions: Sequence[Question]) -> Tensor:
    """1 / rank of the best right passage for each question, (questions,), from scores (questions, passages). Equal
    scores count as ranked before it."""
    ranks = []
    for row, question in zip(scores, questions, strict=True):
        right = torch.tensor([passage.name in question.places for passage in passages])
        if not right.any():
            raise ValueError(f"no passage is called {' or '.join(question.places)}: the question {question.text!r} has "
                             "no right answer")
        best = row[right].max()
        ranks.append(1 + int((row[~right] >= best).sum()))
    return 1 / torch.tensor(ranks, dtype=torch.float)


def mean_interval(values: Tensor, samples: int = 10_000) -> tuple[float, float, float]:
    """Mean of values (n,) and the ends of its 95 % bootstrap interval."""
    draw = np.random.default_rng(0).integers(len(values), size=(samples, len(values)))
    means = values.numpy()[draw].mean(axis=1)
    return float(values.mean()), *(float(end) for end in np.quantile(means, [0.025, 0.975]))


def answer_prompt(question: Question, passage: Passage | None = None) -> str:
    """What a language model is asked: the question alone, or with a passage to read first."""
    if passage is None:
        return f"Answer in one short sentence. {question.text}"
    return f"{passage.text}\n\nAnswer in one short sentence from the text above. {question.text}"


def answer_table() -> pd.DataFrame:
    """How many of the questions SmolLM2 answered, alone and with a passage, each with the ends of the 95 % interval of
    the share: what tools/retrieval.py has kept."""
    rows = read_study(STUDY_FILE, "python tools/retrieval.py")["answers"]
    table = {}
    for way, label in (("alone", "no passage"), ("found", "the passage that MiniLM finds first"),
                       ("right", "a passage with the answer")):
        right = sum(row["is_right"][way] for row in rows)
        low, high = share_interval(right, len(rows))
        table[label] = {"right": f"{right} of {len(rows)}", "share": f"{100 * right / len(rows):.0f} %",
                        "95 % interval": f"{100 * low:.0f} to {100 * high:.0f} %"}
    return pd.DataFrame(table).T
