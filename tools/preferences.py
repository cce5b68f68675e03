"""Make llmbook/book/preferences.json: chapter 8's ways to learn from votes, over three seeds.

    python tools/preferences.py                 # everything but the real model, about an hour on one core
    python tools/preferences.py --seconds 100   # begin no run after so many; the same command goes on
    python tools/preferences.py --part dpo      # or told, rewards, few, reinforce, real

told: the 1,600 stories of data/told_stories.txt.gz, by the shipped storyteller. All else is made anew once it has
changed. rewards: reward models of 50, 500 and 5,000 votes on 1,200 of the stories, tested on 500 votes on the others
and by the best of n of these. dpo: the storyteller trained on 500 votes, and as it
is, judged on 500 pairs, sampled as before and at a lower temperature. few: the same on 30.
reinforce: 60 steps against two of the reward models, with a price for the KL divergence and without. real: SmolLM2
answers short and without preamble, through an adapter, two seeds; a quarter of an hour each on one core, and only when
it is asked for. Settings were chosen by
votes and stories of seeds that are not used here.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmbook.answer_scores import score_responses
from llmbook.book.corpora import data_folder
from llmbook.book.preference_study import (
    BETWEEN,
    PARTS,
    STUDY_NAME,
    TOLD_NAME,
    calm_teller,
    draw_votes,
    share_preferred,
    told_by,
    told_stories,
)
from llmbook.book.storytelling import judge_stories, tell_stories
from llmbook.book.studies import KeptRuns, seconds_option, tell_whether_complete
from llmbook.files import replace_file
from llmbook.instructions import read_instructions, respond_all, split_instructions
from llmbook.lora import add_lora
from llmbook.open_weights import load_pretrained
from llmbook.preference_pairs import ends_of_rows
from llmbook.preferences import (
    PreferenceDataset,
    RewardModel,
    answer_log_probs,
    best_of_n,
    collate_answers,
    encode_answer,
    finetune_preferences,
    finetune_reinforce,
    finetune_reward,
    preference_loss,
    reward_scores,
)
from llmbook.storyworld.tastes import taste
from llmbook.training import TrainingConfig, train

ROOT = Path(__file__).resolve().parents[1]
TABLE, TOLD = ROOT / "llmbook" / "book" / STUDY_NAME, data_folder() / TOLD_NAME
SEEDS = (0, 1, 2)
STORIES, TRAINING = 1600, 1200
VOTES, SIZES, BINS = (50, 500, 5000), (1, 2, 4, 8, 16, 32, 64, 128), 5
GROUP, VOTES_OF_GROUP = 16, 40  # 5,000 votes are taken in groups of stories, so that each is read once for 5 votes
QUICK = {"device": "cpu", "precision": "float32", "progress": False}


class GroupedVotes:
    """Votes in groups: token ids and labels of 16 stories, (stories, tokens), and 40 votes among them, (votes, 2), as
    places of the chosen and the rejected one. A loader for `train`, with `grouped_loss`."""

    def __init__(self, texts: list[str], votes: int, seed: int, tokenizer: Any):
        rng = random.Random(seed)
        self.batches = []
        for number in range(votes // VOTES_OF_GROUP):
            group = rng.sample(texts, GROUP)
            place = {text: index for index, text in enumerate(group)}
            pairs = [(place[vote["chosen"]], place[vote["rejected"]])
                     for vote in draw_votes(group, VOTES_OF_GROUP, 1000 * seed + number)]
            answers = [encode_answer("", text, tokenizer) for text in group]
            self.batches.append((*collate_answers(answers), torch.tensor(pairs)))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        return iter(self.batches)


def grouped_loss(model: RewardModel, token_ids: Tensor, labels: Tensor, pairs: Tensor) -> Tensor:
    rewards = model(token_ids, ends_of_rows(labels))  # (stories,)
    return preference_loss(rewards[pairs[:, 0]], rewards[pairs[:, 1]])


class Study(KeptRuns):
    """The runs; each is written as soon as it is done, and read from disk if an earlier call made it."""

    def __init__(self, seconds: float):
        super().__init__(TABLE, PARTS, seconds)
        self.judges: dict[tuple[int, int], RewardModel] = {}

    def prepare(self) -> None:
        """Read the stories; where they are not the shipped storyteller's, tell them and forget all runs on others."""
        weights = next(data_folder().joinpath("storyteller").glob("model-*.safetensors")).name
        if not TOLD.is_file() or told_by() != weights:
            self.wait()
            self.table = {part: [] if part != "real" else rows for part, rows in self.table.items()}
            replace_file(TABLE, json.dumps(self.table).encode())
            tell_and_keep(weights)
        stories = told_stories()
        self.training, self.test = stories[:TRAINING], stories[TRAINING:]

    def go(self, parts: tuple[str, ...]) -> None:
        self.prepare()
        if "rewards" in parts:
            for votes in VOTES:
                self.run("rewards", self.reward_run, votes=votes)
        if "dpo" in parts:
            for votes in (0, 500):
                self.run("dpo", self.dpo_run, votes=votes)
        if "few" in parts:
            self.run("few votes", self.dpo_run, votes=30)
        if "reinforce" in parts:
            for votes in (VOTES[0], VOTES[-1]):
                for beta in (0.0, 0.1):
                    self.run("reinforce", self.reinforce_run, seeds=SEEDS[:1], votes=votes, beta=beta)
        if "real" in parts:
            self.run("real", real_run, seeds=SEEDS[:2], votes=400)

    def run(self, part: str, do: Callable[..., dict[str, Any]], seeds: tuple[int, ...] = SEEDS, **what: float) -> None:
        for seed in seeds:
            key = {**what, "seed": seed}
            if not any(key.items() <= row.items() for row in self.table[part]):
                self.wait()
                self.keep(part, {**key, **do(**key)}, unprinted=("calibration", "reward", "true"))

    def judge(self, votes: int, seed: int) -> tuple[RewardModel, Any]:
        """A reward model of so many votes, trained if this call has not trained it yet."""
        teller, tokenizer = calm_teller()
        if (votes, seed) not in self.judges:
            torch.manual_seed(seed)
            model = RewardModel(teller)
            if votes == VOTES[-1]:
                groups = GroupedVotes(self.training, votes, 100 + seed, tokenizer)
                config = TrainingConfig(len(groups.batches), 5e-4, warmup_steps=12, **QUICK)
                train(model, groups, grouped_loss, config)
            else:
                learned = PreferenceDataset(draw_votes(self.training, votes, 100 + seed), tokenizer, 512)
                finetune_reward(model, learned, epochs=2 if votes < 100 else 1, learning_rate=5e-4, seed=seed, **QUICK)
            self.judges[votes, seed] = model
        return self.judges[votes, seed], tokenizer

    def reward_run(self, votes: int, seed: int) -> dict[str, Any]:
        model, tokenizer = self.judge(votes, seed)
        rewards = reward_scores(model, [encode_answer("", text, tokenizer) for text in self.test])
        of = dict(zip(self.test, rewards.tolist()))
        others = draw_votes(self.test, 500, 300 + seed)
        margins = torch.tensor([of[vote["chosen"]] - of[vote["rejected"]] for vote in others])
        true = torch.tensor([taste(text).score for text in self.test])
        words = torch.tensor([float(len(text.split())) for text in self.test])
        scaled = (rewards - rewards.mean()) / rewards.std()
        return {"right": [int((margins > 0).sum()), len(margins)],
                "loss": round(float(-F.logsigmoid(margins).mean()), 4), "true": correlation(rewards, true),
                "length": correlation(rewards, words),
                "calibration": calibration(margins), "n": SIZES,
                "best_learned": [round(best_of_n(scaled, scaled, n), 3) for n in SIZES],
                "best_true": [round(best_of_n(rewards, true, n), 3) for n in SIZES],
                "best_possible": [round(best_of_n(true, true, n), 3) for n in SIZES]}

    def dpo_run(self, votes: int, seed: int) -> dict[str, Any]:
        torch.manual_seed(seed)
        model, tokenizer = calm_teller()
        if votes:
            learned = PreferenceDataset(draw_votes(self.training, votes, 500 + seed), tokenizer, 512)
            finetune_preferences(model, learned, seed=seed, **(DPO if votes > 100 else FEW), **QUICK)
        told = tell_stories(model, tokenizer, 150, 1.0, seed=5000 + 1000 * seed)
        calmer = self.compared(tell_stories(model, tokenizer, 150, CALMER, seed=6000 + 1000 * seed), seed)
        return {**self.compared(told, seed), "kl": divergence(model, told), "calmer_preferred": calmer["preferred"],
                "calmer_consistent": calmer["consistent"]}

    def compared(self, told: list[str], seed: int) -> dict[str, Any]:
        preferred = share_preferred(told, self.test, 500, seed)
        after, before = judge_stories(told).consistent, judge_stories(self.test).consistent
        parts = list(map(taste, told))
        return {"preferred": [preferred.right, preferred.of], "consistent": [after.right, after.of],
                "consistent_before": [before.right, before.of],
                "different": [len(set(told)), len(told)],
                **{name: round(sum(getattr(part, name) for part in parts) / len(parts), 3)
                   for name in ("kind_ending", "spoken_passages", "left_unhappy", "words", "score")}}

    def reinforce_run(self, votes: int, beta: float, seed: int) -> dict[str, Any]:
        judge, tokenizer = self.judge(votes, seed)
        scale = float(reward_scores(judge, [encode_answer("", text, tokenizer) for text in self.test[:200]]).std())
        seen: list[list[str]] = []

        def reward(texts: list[str]) -> Tensor:
            seen.append(texts)
            return reward_scores(judge, [encode_answer("", text, tokenizer) for text in texts]) / scale

        torch.manual_seed(seed)
        model, _ = calm_teller()
        history = finetune_reinforce(model, tokenizer, reward, beta=beta, steps=STEPS, batch_size=16,
                                     learning_rate=2e-4, seed=seed, **QUICK)
        true = [sum(taste(text).score for text in texts) / len(texts) for texts in seen]
        late = [text for texts in seen[-5:] for text in texts]
        steady = judge_stories(late).consistent
        return {"reward": [round(step["reward"], 3) for step in history.steps],
                "true": [round(mean, 3) for mean in true],
                "last_reward": round(sum(step["reward"] for step in history.steps[-5:]) / 5, 3),
                "last_true": round(sum(true[-5:]) / 5, 3),
                "last_kl": round(sum(step["kl"] for step in history.steps[-5:]) / 5, 2),
                "last_words": round(sum(len(text.split()) for text in late) / len(late), 1),
                "last_consistent": [steady.right, steady.of]}


DPO = {"learning_rate": 2e-4, "batch_size": 8, "beta": 0.1}
FEW = {"learning_rate": 3e-4, "batch_size": 4, "beta": 0.1, "epochs": 4}
STEPS = 60
CALMER = 0.6  # a temperature for the trained model: 0.3 of the storyteller's own


def tell_and_keep(weights: str) -> None:
    """Write the stories, with the name of the weights that told them first."""
    model, tokenizer = calm_teller()
    told = tell_stories(model, tokenizer, STORIES, 1.0, seed=1000)
    replace_file(TOLD, gzip.compress(BETWEEN.join([weights, *told]).encode(), mtime=0))


def correlation(first: Tensor, second: Tensor) -> float:
    return round(float(torch.corrcoef(torch.stack([first, second]))[0, 1]), 3)


def calibration(margins: Tensor) -> list[list[float]]:
    """Votes by how sure the model is, in bins from 0.5 to 1: [sum of its probabilities, right ones, votes]."""
    sure, right = margins.abs().sigmoid(), margins > 0
    place = ((sure - 0.5) * 2 * BINS).long().clamp(max=BINS - 1)
    return [[round(float(sure[place == bin].sum()), 2), int(right[place == bin].sum()), int((place == bin).sum())]
            for bin in range(BINS)]


def divergence(model: nn.Module, told: list[str]) -> float:
    """The KL divergence from the storyteller, in nats, by the stories that the model told."""
    teller, tokenizer = calm_teller()
    answers = [encode_answer("", text, tokenizer) for text in told]
    return round(float((answer_log_probs(model, answers) - answer_log_probs(teller, answers)).mean()), 2)


# --- the real model ----------------------------------------------------------------------------------------------

PREAMBLE = re.compile(r"^(sure|certainly|of course|here|to (find|solve|answer|determine|calculate)|the answer|i )",
                      re.IGNORECASE)
MOST_WORDS = 12


def fits(answer: str) -> float:
    """How well an answer of SmolLM2 is to the taste: 1 if it has at most twelve words and no preamble, less for each
    word more."""
    words = len(answer.split())
    if not words:
        return -1.0
    return 1.0 - 0.05 * max(0, words - MOST_WORDS) - 0.5 * bool(PREAMBLE.match(answer.strip()))


def real_run(votes: int, seed: int) -> dict[str, Any]:
    model, tokenizer = load_pretrained("smollm2-135m-instruct", device="cpu", dtype=torch.float32)
    training, _, test = split_instructions(read_instructions(data_folder() / "instructions.json"), seed=seed)
    training = training.sample(min(votes, len(training)), random_state=seed).reset_index(drop=True)
    drawn = [respond_all(model, tokenizer, training, max_new_tokens=48, progress=False, temperature=1.0, seed=number)
             for number in (1, 2)]
    pairs = []
    for row, first, second in zip(training.to_dict("records"), *drawn):
        if fits(first) != fits(second):
            better, worse = sorted((first, second), key=fits, reverse=True)
            prompt = f"{row['instruction']}\n\n{row['input']}" if row["input"] else row["instruction"]
            pairs.append({"prompt": prompt, "chosen": better, "rejected": worse})
    before = respond_all(model, tokenizer, test, max_new_tokens=48, progress=False)
    torch.manual_seed(seed)
    add_lora(model, rank=8)
    learned = PreferenceDataset(pairs, tokenizer, model.config.context_length, "chatml")
    history = finetune_preferences(model, learned, learning_rate=5e-4, seed=seed, **QUICK)
    after = respond_all(model, tokenizer, test, max_new_tokens=48, progress=False)
    return {"pairs": len(pairs), "accuracy": round(history.steps[-1]["accuracy"], 3),
            **{f"{name}_before": value for name, value in judged_answers(test, before).items()},
            **judged_answers(test, after)}


def judged_answers(entries: pd.DataFrame, answers: list[str]) -> dict[str, Any]:
    """How many answers are wholly to the taste, how many hold what is right where a program can tell, and their mean
    number of words."""
    scores = score_responses(entries, answers)
    content = scores[scores["checked"] == "content"]
    return {"fits": [sum(fits(answer) >= 1 for answer in answers), len(answers)],
            "contained": [int(content["contained"].sum()), len(content)],
            "words": round(float(scores["words"].mean()), 1)}


def main() -> None:
    parser = seconds_option(__doc__.split("\n")[0])
    known = ("told", "rewards", "dpo", "few", "reinforce", "real")
    parser.add_argument("--part", choices=known, help="one of them; all but real if not given")
    asked = parser.parse_args()
    parts = (asked.part,) if asked.part else known[:-1]
    tell_whether_complete(lambda: Study(asked.seconds).go(parts))


if __name__ == "__main__":
    main()
