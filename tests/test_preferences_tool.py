"""tools/preferences.py: what each run measures, on few stories, and that it goes on where it stopped."""

import gzip
import json
import math

import pandas as pd
import pytest
import torch

from llmbook.book import preference_study
from llmbook.book.preference_study import BETWEEN, calm_teller, told_by, told_stories
from llmbook.files import data_folder
from llmbook.preference_pairs import encode_answer
from llmbook.preferences import RewardModel, preference_loss, reward_scores
from llmbook.storyworld.tastes import taste
from tools import preferences as tool


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Tests tell no stories: those that are stored will do, whoever told them."""
    monkeypatch.setattr(tool, "TABLE", tmp_path / "preferences.json")
    monkeypatch.setattr(tool, "told_by", lambda: next(data_folder().glob("storyteller/model-*")).name)
    study = tool.Study(math.inf)
    study.prepare()
    return study


def test_grouped_votes_have_the_loss_of_their_pairs():
    teller, tokenizer = calm_teller()
    groups = tool.GroupedVotes(told_stories()[:30], 80, 1, tokenizer)
    token_ids, labels, pairs = next(iter(groups))
    assert len(groups.batches) == 2 and len(token_ids) == 16 and pairs.shape == (40, 2)
    assert all(int(a) != int(b) for a, b in pairs)
    model = RewardModel(teller)
    torch.nn.init.normal_(model.head.weight)
    with torch.no_grad():
        loss = tool.grouped_loss(model, token_ids, labels, pairs)
    texts = [tokenizer.decode(ids[1:].tolist()).split("<|endoftext|>")[0] for ids in token_ids]
    rewards = reward_scores(model, [encode_answer("", text, tokenizer) for text in texts])
    torch.testing.assert_close(loss, preference_loss(rewards[pairs[:, 0]], rewards[pairs[:, 1]]), rtol=1e-2, atol=1e-2)
    liked = sum(taste(texts[a]).score > taste(texts[b]).score for a, b in pairs.tolist())
    assert liked > 25  # of 40: the chosen one comes first


def test_calibration_counts_every_vote_once():
    margins = torch.tensor([0.1, -0.1, 3.0, -6.0, 2.0])
    cells = tool.calibration(margins)
    assert [cell[2] for cell in cells] == [2, 0, 0, 1, 2] and [cell[1] for cell in cells] == [1, 0, 0, 1, 1]
    assert math.isclose(cells[0][0], 2 * float(torch.tensor(0.1).sigmoid()), abs_tol=0.01)


def test_answers_are_judged_by_taste_content_and_length():
    entries = pd.DataFrame([{"kind": "sum", "output": "12", "check": {"number": "6 + 6"}},
                            {"kind": "sum", "output": "7", "check": {"number": "3 + 4"}},
                            {"kind": "poem", "output": "Waves.", "check": None}])
    told = tool.judged_answers(entries, ["12", "Sure, here is the answer: 8", "Waves come and go."])
    assert told == {"fits": [2, 3], "contained": [1, 2], "words": pytest.approx(3.7, abs=0.04)}


def test_each_run_is_written_and_another_call_goes_on(study, monkeypatch):
    runs = []

    def run(self, **what):
        if len(runs) == 5:
            raise TimeoutError
        runs.append(tuple(what.items()))
        return {"right": [1, 2]}

    for name in ("reward_run", "dpo_run", "reinforce_run"):
        monkeypatch.setattr(tool.Study, name, run)
    monkeypatch.setattr(tool, "real_run", lambda **what: runs.append(tuple(what.items())) or {})
    with pytest.raises(TimeoutError):
        study.go(("rewards", "dpo", "few", "reinforce"))
    assert len(json.loads(tool.TABLE.read_text())["rewards"]) == 5
    monkeypatch.setattr(tool.Study, "reward_run", lambda self, **what: runs.append(tuple(what.items())) or {})
    for name in ("dpo_run", "reinforce_run"):
        monkeypatch.setattr(tool.Study, name, lambda self, **what: runs.append(tuple(what.items())) or {})
    tool.Study(math.inf).go(("rewards", "dpo", "few", "reinforce", "real"))
    assert len(runs) == 9 + 6 + 3 + 4 + 2  # none of the five once more
    stored = json.loads(tool.TABLE.read_text())
    assert {part: len(rows) for part, rows in stored.items()} == {"rewards": 9, "dpo": 6, "few votes": 3,
                                                                  "reinforce": 4, "real": 2}


def test_a_new_storyteller_tells_its_own_stories_and_all_runs_are_made_again(tmp_path, monkeypatch):
    path = tmp_path / "told.txt.gz"
    path.write_bytes(gzip.compress(BETWEEN.join(["model-old.safetensors", "a", "b"]).encode()))
    monkeypatch.setattr(tool, "TABLE", tmp_path / "preferences.json")
    monkeypatch.setattr(tool, "TOLD", path)
    monkeypatch.setattr(preference_study, "TOLD_NAME", str(path))
    tool.TABLE.write_text(json.dumps({"dpo": [{"votes": 500}], "real": [{"votes": 400}]}))
    asked = []
    monkeypatch.setattr(tool, "tell_stories", lambda model, tokenizer, n, *rest, **more: asked.append(n) or [
        f"Story {number}." for number in range(n)])
    study = tool.Study(math.inf)
    study.prepare()
    assert asked == [1600] and told_by().startswith("model-") and told_by() != "model-old.safetensors"
    assert json.loads(tool.TABLE.read_text())["dpo"] == []
    assert study.table["dpo"] == [] and study.table["real"] == [{"votes": 400}]
    assert study.training[0] == "Story 0." and len(study.training) == 1200 and len(study.test) == 400
    tool.Study(math.inf).prepare()
    assert len(asked) == 1  # told once


def test_a_short_answer_without_a_preamble_is_to_the_taste():
    assert tool.fits("Paris.") == 1
    assert tool.fits("Sure, here it is: Paris.") == 0.5
    assert tool.fits("word " * 22) == 0.5 and tool.fits(" ") == -1
    assert tool.fits("The answer is Paris.") < tool.fits("It is Paris.")


@pytest.mark.slow
def test_a_small_study_runs_whole(study, monkeypatch):
    study.training, study.test = study.training[:24], study.test[:12]
    monkeypatch.setattr(tool, "SIZES", (1, 2, 4, 8))
    monkeypatch.setattr(tool, "tell_stories", lambda *rest, **more: told_stories()[:20])
    row = study.reward_run(votes=8, seed=0)
    assert row["right"][1] == 500 and len(row["best_true"]) == 4
    assert study.dpo_run(votes=8, seed=0)["kl"] != 0
