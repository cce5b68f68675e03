"""tools/storyteller_chat.py: what the second stage learns from, that it goes on, and what comes with the book."""

import json
from types import SimpleNamespace

import pytest
import torch

from llmbook.book.story_tasks import answer_tasks, right_by_kind
from llmbook.files import data_folder
from llmbook.open_weights import load_pretrained
from llmbook.storyworld import tasks
from llmbook.storyworld.tasks import KINDS
from llmbook.training import load_model
from tools import storyteller_chat as tool


@pytest.fixture(scope="module")
def base():
    return load_pretrained("storyteller", device="cpu")


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data folder of its own for what is packed; the storyteller is still the book's."""
    brought = data_folder
    monkeypatch.setattr("llmbook.formats.shipped.data_folder",
                        lambda: tmp_path if (tmp_path / tool.NAME).is_dir() else brought())
    return tmp_path


def test_it_learns_conversations_and_single_wishes_which_are_stories(base):
    _, tokenizer = base
    data = tool.rows(6, 10, tokenizer, 512)
    texts = [tokenizer.decode(ids.tolist()) for ids, _ in data.rows]
    assert len(texts) == 16
    assert max(text.count("Q:") for text in texts[:6]) > 1
    assert all(text.count("Q:") == 1 for text in texts[6:])
    assert all(int(own.sum()) > 25 for _, own in data.rows[6:])  # at least the end of a story


def test_training_goes_on_and_packing_gives_the_model_its_name(data, capsys):
    command = ["train", "--out", str(data / "run"), "--talks", "6", "--wishes", "4"]
    tool.main(command)
    trained = load_model(data / "run" / "model", "cpu")
    untouched, _ = load_pretrained("storyteller", torch.float32, "cpu")
    assert not torch.equal(next(trained.parameters()), next(untouched.parameters()))
    tool.main(command)  # from the last checkpoint on: nothing is left to do
    again = load_model(data / "run" / "model", "cpu")
    assert all(map(torch.equal, trained.parameters(), again.parameters()))
    for _ in range(2):
        tool.main(["pack", "--run", str(data / "run"), "--to", str(data / tool.NAME)])
    model, tokenizer = load_pretrained(tool.NAME, torch.float32, "cpu")
    assert all(torch.equal(packed, exact.bfloat16().float())
               for packed, exact in zip(model.parameters(), trained.parameters(), strict=True))
    assert tokenizer.n_vocab == model.config.vocab_size
    assert len(list((data / tool.NAME).glob("model-*"))) == 1
    assert "MB" in capsys.readouterr().out


def test_every_token_is_learned_and_an_interrupted_run_is_told(monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setattr(tool, "finetune_instructions", lambda model, rows, **settings: asked.update(settings)
                        or SimpleNamespace(steps=[{}]))
    with pytest.raises(SystemExit, match="interrupted: the same command goes on from the checkpoint"):
        tool.main(["train", "--out", str(tmp_path), "--talks", "9", "--wishes", "1"])
    assert asked["mask_prompt"] is False and not (tmp_path / "model").exists()


def test_what_is_no_finished_run_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="gone has no model yet: wait until the run is complete"):
        tool.main(["pack", "--run", str(tmp_path / "gone"), "--to", str(tmp_path / "to")])
    assert not (tmp_path / "to").exists()


def test_the_figures_are_those_of_the_answers(base, tmp_path, monkeypatch, capsys):
    right, wrong = list(tasks(5, 4, kinds=("where",))), list(tasks(6, 3, kinds=("felt",)))
    monkeypatch.setattr(tool, "test_tasks", lambda: {"right": right, "kept_out": wrong})
    monkeypatch.setattr(tool, "answer_tasks", lambda model, tokenizer, asked: [
        task.answer if task.kind == "where" and place else "No." for place, task in enumerate(asked)])
    monkeypatch.setattr(tool, "story_loss", lambda *_: (0.31254, 0.1))
    tool.judge(*base, tmp_path / "judged.json")
    assert json.loads((tmp_path / "judged.json").read_text()) == {
        "right": {"where": [3, 4]}, "kept_out": {"felt": [0, 3]}, "story_loss": 0.3125}
    assert "75.0 %" in capsys.readouterr().out


def test_the_model_that_comes_with_the_book_answers():
    model, tokenizer = load_pretrained(tool.NAME, torch.float32, "cpu")
    folder = data_folder() / tool.NAME
    assert sum(path.stat().st_size for path in folder.iterdir()) < 10_000_000
    asked = list(tasks(77, 40, "test", kinds=tuple(kind for kind in KINDS if kind not in ("tell", "continue"))))
    shares = right_by_kind(asked, answer_tasks(model, tokenizer, asked))
    assert sum(share.right for share in shares.values()) >= 34
