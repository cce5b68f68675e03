"""The command: models."""



from llmbook.classification import TextClassifier
from llmbook.text import save_tokenizer, train_bpe
from llmbook.training import load_model, save_model
from tests.cli.helpers import FOUR, STORY


def test_models_that_cannot_write_are_refused(chat_model, call, tmp_path):
    model = load_model(chat_model)
    save_model(TextClassifier(model, 2), tmp_path / "classifier")
    assert "is a TextClassifier, which writes no text" in call("generate", "--model", tmp_path / "classifier", "x")[2]
    save_model(model, tmp_path / "alone")
    assert "alone has no tokenizer: give --tokenizer" in call("generate", "--model", tmp_path / "alone", "x")[2]
    given = ("--tokenizer", chat_model / "tokenizer.json", "--max-new-tokens", 2)
    assert call("generate", "--model", tmp_path / "alone", *given, "x")[0] == 0
    save_tokenizer(train_bpe(STORY, 400), tmp_path / "large.json")
    code, _, err = call("generate", "--model", tmp_path / "alone", "--tokenizer", tmp_path / "large.json", "x")
    assert code == 1 and "the tokenizer has 400 tokens" in err


def test_a_tokenizer_that_cannot_be_copied_is_found_again(chat_model, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    FOUR.to_json("train.json", orient="records")

    def refuse(*_):
        raise ValueError("the ids of tokenizer have gaps: it cannot be saved")

    monkeypatch.setattr("llmbook.text.save_tokenizer", refuse)
    arguments = ("--data", "train.json", "--validation", "train.json", "--max-steps", "1")
    assert call("finetune", *arguments, "--model", "chat", "--out", "one")[0] == 0
    assert call("finetune", *arguments, "--model", "one", "--out", "two")[0] == 0
    assert not (tmp_path / "two" / "model" / "tokenizer.json").exists()
    code, out, _ = call("generate", "--model", "two", "The sea", "--max-new-tokens", 3)
    assert code == 0 and out.startswith("The sea")
