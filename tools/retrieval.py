"""Make llmbook/book/retrieval.json: what chapter 10's searches find, and what SmolLM2 answers with what they find.

    python tools/retrieval.py                    # about five minutes on one core
    python tools/retrieval.py --seconds 100      # begin nothing after so many; the same command goes on

search: a row for each search and each difference of two, the mean reciprocal rank over the fifty questions with its
interval. answers: a row for each question, with what the model says alone, with the passage that MiniLM finds, and with
one that has the answer. The model takes the likeliest token each time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import torch

from llmbook.book.searching import (
    ANSWER_TOKENS,
    BM25,
    QUESTIONS,
    STUDY_FILE,
    Question,
    answer_prompt,
    collect_passages,
    mean_interval,
    reciprocal_ranks,
    score_passages,
)
from llmbook.book.studies import KeptRuns, seconds_option, tell_whether_complete
from llmbook.minilm import load_minilm
from llmbook.open_weights import Chat, load_pretrained

TABLE = Path(__file__).resolve().parents[1] / "llmbook" / "book" / STUDY_FILE


class Study(KeptRuns):
    """The rows so far, and what makes the others."""

    def __init__(self, seconds: float):
        super().__init__(TABLE, ("search", "answers"), seconds)
        self.passages = collect_passages()
        texts = [passage.text for passage in self.passages]
        self.scores = {"BM25": BM25(texts).all_scores([question.text for question in QUESTIONS]),
                       "MiniLM": score_passages(*load_minilm(), texts, [question.text for question in QUESTIONS])}

    def search(self) -> None:
        """All rows of the part `search`."""
        ranks = {name: reciprocal_ranks(table, self.passages, QUESTIONS) for name, table in self.scores.items()}
        rows = {**ranks, **{f"{one} - {other}": ranks[one] - ranks[other]
                            for other, one in itertools.combinations(ranks, 2)}}
        for name, values in rows.items():
            if name not in {row["search"] for row in self.table["search"]}:
                mean, low, high = mean_interval(values)
                self.keep("search", {"search": name, "passages": len(self.passages), "questions": len(values),
                                     "mrr": round(mean, 4), "low": round(low, 4), "high": round(high, 4)})

    def answers(self, say: Callable[[str], str]) -> None:
        """The rows of the part `answers` that are missing."""
        places = {passage.name: place for place, passage in enumerate(self.passages)}
        for number, question in enumerate(QUESTIONS):
            if number < len(self.table["answers"]):
                continue
            self.wait()
            found = self.passages[int(self.scores["MiniLM"][number].argmax())]
            right = found if found.name in question.places else self.passages[places[question.places[0]]]
            said = {"alone": say(answer_prompt(question)), "found": say(answer_prompt(question, found))}
            said["right"] = said["found"] if right is found else say(answer_prompt(question, right))
            self.keep("answers", judged(question, said, found.name, right is found), list(said))


def judged(question: Question, said: dict[str, str], passage: str, is_right: bool) -> dict[str, object]:
    """A row: the answers, which of them are right, which passage was found and whether it is one with the answer."""
    return {"question": question.text, "passage": passage, "found_right": is_right, **said,
            "is_right": {way: question.is_answered_by(answer) for way, answer in said.items()}}


def main() -> None:
    asked = seconds_option(__doc__.split("\n")[0]).parse_args()
    study = Study(asked.seconds)

    def go() -> None:
        study.search()
        if len(study.table["answers"]) < len(QUESTIONS):
            model, tokenizer = load_pretrained("smollm2-135m-instruct", torch.float32, "cpu")
            study.answers(lambda prompt: Chat(model, tokenizer, max_new_tokens=ANSWER_TOKENS, temperature=0).say(
                prompt))

    tell_whether_complete(go)


if __name__ == "__main__":
    main()
