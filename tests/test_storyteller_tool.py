"""tools/storyteller.py: from a run to the packed model, its skills and its table, with tiny budgets."""

import csv
import json
import shutil

import pytest
import torch

from llmbook.book import corpora
from llmbook.cli import data
from llmbook.cli.main import main as llmbook
from llmbook.open_weights import load_pretrained
from llmbook.training import load_model
from tests.support.repository import ROOT
from tools import storyteller

RECIPE = """
[model]
context_length = 1024
d_model = 16
n_heads = 2
n_layers = 1
dropout = 0.0

[data]
train = "short-stories"
stories = 20
documents = true
validation = "short-stories"
tokenizer = 400

[training]
max_steps = 6
batch_size = 4
eval_every = 3
eval_batches = 1
device = "cpu"
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of a tiny storyteller, and its recipe."""
    folder = tmp_path_factory.mktemp("storyteller")
    (folder / "run.toml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "HELD_OUT_STORIES", 4)
        assert llmbook(["pretrain", str(folder / "run.toml"), "--out", str(folder / "run"), "--set",
                        "checkpoints.every_steps=3"]) == 0
    return folder


@pytest.fixture
def home(finished, tmp_path, monkeypatch):
    """A data folder with the recipe in the storyteller's place; stories are short."""
    target = tmp_path / "data" / "storyteller"
    target.mkdir(parents=True)
    shutil.copy(finished / "run.toml", target)
    for module in ("llmbook.formats.shipped", "llmbook.book.corpora", "tools.storyteller"):
        monkeypatch.setattr(f"{module}.data_folder", lambda: tmp_path / "data")
    monkeypatch.setattr(storyteller, "tell_stories", lambda model, tokenizer, n, *_, **__: corpora.story_documents(n))
    monkeypatch.setattr(storyteller, "asked_endings", lambda model, tokenizer, n, *_: {
        "asked": storyteller.Share(1, n), "any": storyteller.Share(2, n)})
    monkeypatch.setattr(storyteller, "story_loss", lambda *_: (2.0, 0.7))
    return target


def test_pack_makes_the_model_that_is_known_by_its_name(finished, home):
    (home / "table.json").write_text("[]")
    for _ in range(2):  # again, over what is there
        storyteller.main(["pack", str(finished / "run")])
    model, tokenizer = load_pretrained("storyteller", device="cpu")
    whole = load_model(finished / "run" / "model", "cpu")
    for packed, exact in zip(model.parameters(), whole.parameters(), strict=True):
        assert torch.equal(packed, exact.bfloat16().float())
    assert tokenizer.n_vocab == 400
    assert {path.name.split("-")[0] for path in home.iterdir()} == {
        "config.json", "log.csv", "model", "run.toml", "table.json", "tokenizer.json", "tokenizer_fingerprint.json"}
    assert len(list(home.glob("model-*"))) == 1
    assert json.loads((home / "tokenizer_fingerprint.json").read_text())["begins_with_end"] is True
    log = corpora.storyteller_log()
    assert list(log["step"]) == [1, 2, 3, 4, 5, 6] and log["val_loss"].notna().sum() == 2
    tokens, count = storyteller.tokens_of(finished / "run")
    assert count == 20 and log["tokens"].iloc[-1] == round(24 * tokens / 20)


def test_a_long_log_becomes_short_and_keeps_its_evaluations():
    header = "step,loss,val_loss,learning_rate,gradient_norm,examples,seconds\n"
    rows = [f"{n},{4 - n / 1000},{'3.5' if n == 77 else ''},0.00123456789,1,{8 * n},{n}.0\n" for n in range(1, 1001)]
    kept = list(csv.DictReader(storyteller.thinned(header + "".join(rows), 250.0, 100).splitlines()))
    assert [int(row["step"]) for row in kept] == sorted({1, 77, *range(10, 1001, 10)})
    assert kept[-1] == {"step": "1000", "tokens": "2000000", "loss": "3", "val_loss": "", "learning_rate": "0.00123457",
                        "seconds": "1000"}


@pytest.mark.parametrize("change, message", [
    (("d_model = 16", "d_model = 32"), "has model.d_model = 32, the run had 16: bring the recipe up to date"),
    (("max_steps = 6", "max_steps = 7"), "has training.max_steps = 7, the run had 6"),
    (("eval_every = 3\n", ""), "has training.eval_every = None, the run had 3"),
])
def test_a_recipe_that_is_not_the_run_s_is_refused(finished, home, change, message):
    (home / "run.toml").write_text(RECIPE.replace(*change))
    with pytest.raises(SystemExit, match=message):
        storyteller.main(["pack", str(finished / "run")])
    assert not (home / "config.json").exists()


def test_what_is_no_finished_run_is_refused(tmp_path, home):
    with pytest.raises(SystemExit, match="gone has no model yet: wait until the run is complete"):
        storyteller.main(["pack", str(tmp_path / "gone")])
    with pytest.raises(SystemExit, match="gone has no tokens/train-0: give the folder of a run"):
        storyteller.main(["skills", str(tmp_path / "gone")])


def test_judge_prints_shares_with_intervals(finished, home, capsys):
    storyteller.main(["judge", "--model", str(finished / "run"), "--n", "5"])
    out = capsys.readouterr().out
    figures = {line[:62].strip(): line[63:] for line in out.splitlines()}
    assert figures["sampled stories without a problem (temperature 0.8)"] == "100.0 % (56.6 to 100.0), n = 5"
    assert figures["sampled stories without a problem (temperature 0.3)"] == "100.0 % (56.6 to 100.0), n = 5"
    assert figures["held-out beginnings that get the ending they ask for"] == "20.0 % (3.6 to 62.4), n = 5"
    assert figures["held-out loss, 200 stories"] == "2.000 nats a token, 0.700 bits a byte"
    assert not (home / "judged.json").exists()  # it is not the storyteller that was judged


def test_judge_names_the_problems_and_shows_stories(finished, home, capsys, monkeypatch):
    monkeypatch.setattr(storyteller, "tell_stories", lambda *_, **__: ["Fish the of.", "Fish of the."])
    storyteller.main(["judge", "--model", str(finished / "run"), "--n", "2", "--show", "1"])
    out = capsys.readouterr().out
    assert 'with the problem "unknown sentence"' in out and "2 of 2" in out
    assert "\nFish the of.\n\n    unknown sentence: 'Fish the of.'; no ending" in out and "\nFish of the." not in out


def test_the_card_has_the_figures_of_the_files(finished, home, capsys):
    page = home.parent / "README.md"
    page.write_text("# Data\n")
    storyteller.main(["pack", str(finished / "run")])
    with pytest.raises(SystemExit, match="README.md lacks the marks <!-- figures: .*put them where the figures go"):
        storyteller.main(["card"])
    storyteller.main(["judge", "--n", "5"])
    storyteller.write_rows(home / "table.json", [{
        "parameters": 1234, "tokens": 5678, "seconds": 9, "loss": 2.0, "bits_per_byte": 0.7, "consistent": 0.25,
        "consistent_low": 0.1, "consistent_high": 0.5, "consistent_n": 8, "ending": 0.5, "ending_low": 0.2,
        "ending_high": 0.8, "ending_n": 8}])
    page.write_text("before\n" + "\nold\n".join(storyteller.MARKS) + "\nafter\n")
    for _ in range(2):
        storyteller.main(["card"])
        text = page.read_text()
        assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
        assert text.count("| held-out loss, 200 stories | 2.000 nats a token, 0.700 bits a byte |") == 1
        assert "| 1,234 | 5,678 | 9 | 2.000 | 0.700 | 25 % (10 to 50, n = 8) | 50 % (20 to 80, n = 8) |" in text
        assert "| training | 6 steps of 4 stories: " in text and "d_model 16, 2 heads, 1 layers, context 1024" in text


def test_the_card_has_the_sibling_s_figures_too(finished, home):
    page, small = home.parent / "README.md", home.parent / storyteller.SIBLING
    small.mkdir()
    shutil.copy(finished / "run.toml", small)
    for target in (home, small):
        storyteller.main(["pack", str(finished / "run"), "--to", str(target)])
    storyteller.main(["judge", "--model", storyteller.SIBLING, "--n", "5", "--to", str(small / "judged.json")])
    page.write_text("\n".join(storyteller.MARKS) + "\n")
    with pytest.raises(SystemExit, match="lacks the marks <!-- figures of the sibling: .*put them where"):
        storyteller.main(["card"])
    assert page.read_text() == "\n".join(storyteller.MARKS) + "\n"  # all or nothing
    page.write_text("\n".join((*storyteller.MARKS, "between", *storyteller.SIBLING_MARKS)) + "\n")
    storyteller.main(["card"])
    first, second = page.read_text().split("between")
    assert first.count("| tokenizer | byte-pair encoding of 400 tokens") == 1 and "held-out loss" not in first
    assert second.count("| tokenizer | byte-pair encoding of 400 tokens") == 1
    assert "| held-out loss, 200 stories | 2.000 nats a token, 0.700 bits a byte |" in second


def test_another_size_of_a_llama_keeps_its_proportions(tmp_path):
    base = {"model": {"kind": "llama", "d_model": 256, "n_heads": 4, "n_layers": 4, "n_kv_heads": 4, "d_hidden": 704},
            "training": {"batch_size": 8}}
    model = storyteller.recipe(base, (80, 4, 3), tmp_path, 100)["model"]
    assert model == {"kind": "llama", "d_model": 80, "n_heads": 4, "n_layers": 3, "n_kv_heads": 4, "d_hidden": 224}


def test_skills_are_measured_once_for_each_checkpoint(finished, home, monkeypatch):
    storyteller.main(["skills", str(finished / "run"), "--n", "4"])
    frame = corpora.storyteller_skills()
    tokens, _ = storyteller.tokens_of(finished / "run")
    assert list(frame.index) == [round(step * 4 * tokens / 20) for step in (3, 6)]
    assert list(frame["grammar"]) == [1.0, 1.0] and list(frame["grammar_of"]) == [4, 4]
    monkeypatch.setattr(storyteller, "story_skills", None)  # nothing is measured again
    storyteller.main(["skills", str(finished / "run"), "--n", "4"])


def test_a_skill_that_no_story_shows_has_no_share(home):
    (home / "skills.json").write_text('[{"step": 1, "tokens": 9, "n": 2, "grammar": [1, 2], "sums": [0, 0]}]')
    frame = corpora.storyteller_skills()
    assert frame.loc[9, "grammar"] == 0.5 and frame["sums"].isna().all() and frame.loc[9, "sums_of"] == 0


def test_the_table_has_a_row_for_each_size_and_budget_and_goes_on(finished, home, tmp_path, monkeypatch):
    storyteller.main(["pack", str(finished / "run")])
    monkeypatch.setattr(data, "HELD_OUT_STORIES", 4)
    work, sizes, run = tmp_path / "work", ((8, 2, 1), (16, 2, 1)), finished / "run"
    budgets, trained = (4e3, storyteller.tokens_read(run)), []

    def broken(arguments):
        trained.append(arguments[3].rsplit("/", 1)[-1])
        return 130 if len(trained) == 3 else llmbook(arguments)

    monkeypatch.setattr(storyteller, "llmbook", broken)
    with pytest.raises(SystemExit, match="did not end: the same command goes on from its checkpoint"):
        storyteller.table(work, home / "table.json", sizes, budgets, 3, run)
    assert len(json.loads((work / "cells.json").read_text())) == 2
    rows = storyteller.table(work, home / "table.json", sizes, budgets, 3, run)
    assert trained == ["8x1-3", "16x1-3", "8x1-6", "8x1-6"]
    assert len(rows) == 4 and [row["d_model"] for row in rows] == [8, 8, 16, 16]  # the run is the largest cell
    frame = corpora.storyteller_table()
    assert list(frame["consistent"]) == [1.0] * 4 and list(frame["ending_n"]) == [3] * 4
    assert ((frame["tokens"] - 4e3).abs() < 1500).sum() == 2 and (frame["seconds"] >= 0).all()
    assert frame["parameters"].is_monotonic_increasing
    rows = storyteller.table(tmp_path / "other", home / "table.json", sizes, (4e3,), 3, run)
    assert trained[4:] == ["8x1-3", "16x1-3"] and len(rows) == 3  # a run of another length is a row of its own


def test_what_the_storyteller_lacks_is_said(home):
    for missing in (corpora.storyteller_table, corpora.storyteller_skills, corpora.storyteller_log):
        with pytest.raises(FileNotFoundError, match="is missing: install llmbook again, or make it with tools"):
            missing()


def test_the_recipe_in_the_data_is_one_that_the_command_takes(tmp_path, capsys):
    code = llmbook(["pretrain", str(ROOT / "data" / "storyteller" / "run.toml"), "--out", str(tmp_path / "run"),
                    "--max-steps", "0"])
    assert code == 2 and "max_steps" in capsys.readouterr().err  # all but that is good
