"""The command: finetune."""

import re

import pandas as pd

from tests.cli.helpers import FOUR, rows


def test_finetune_lowers_the_held_out_loss_and_goes_on(chat_model, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    entries = pd.concat([FOUR] * 3, ignore_index=True)
    entries.to_json("train.jsonl", orient="records", lines=True)
    FOUR.to_json("held.jsonl", orient="records", lines=True)
    arguments = ("finetune", "--data", "train.jsonl", "--model", "chat", "--validation", "held.jsonl", "--epochs", "3",
                 "--batch-size", "4", "--learning-rate", "0.01", "--out", "tuned", "--device", "cpu")
    code, out, err = call(*arguments)
    assert code == 0, err
    assert "12 entries to train on, 4 held out, in the style 'chatml'" in out
    before, again = re.search(r"loss before: ([\d.]+)", out)[1], re.search(r"\(before: ([\d.]+)\)", out)[1]
    after = float(re.search(r"loss after: ([\d.]+)", out)[1])
    assert before == again and after < float(before) - 0.3
    assert len(rows("tuned/log.csv")) == 9
    assert call(*arguments)[1].startswith("tuned is complete: 9 steps")
    assert call("generate", "--model", "tuned", "x", "--max-new-tokens", 2)[0] == 0
    code, _, err = call(*arguments, "--epochs", "4")
    assert code == 1 and "tuned holds a run whose epochs is 3, not 4" in err
    code, _, err = call(*arguments, "--validation", "0.000001", "--out", "new")
    assert code == 1 and "leaves 12 entries to train on and 0 held out" in err
