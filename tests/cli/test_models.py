"""Which model and tokenizer a name means, and which do not belong together."""


import json
import shutil

import tokenizers as hub
from filelock import FileLock

from llmbook.classification import TextClassifier
from llmbook.llama import Llama, LlamaConfig
from llmbook.text import save_tokenizer, train_bpe
from llmbook.training import load_model, save_model
from tests.cli.helpers import FOUR, STORY, pretrain, tree


def pretrained_folder(folder):
    """A tiny Hugging Face folder, with a tokenizer that only `tokenizers` can run."""
    tokenizer = hub.Tokenizer(hub.models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = hub.normalizers.Replace(" ", "\u2581")
    tokenizer.decoder = hub.decoders.Sequence([hub.decoders.Replace("\u2581", " "), hub.decoders.ByteFallback(),
                                               hub.decoders.Fuse(), hub.decoders.Strip(" ", 1, 0)])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "<|endoftext|>"]
    tokenizer.train_from_iterator([STORY], hub.trainers.BpeTrainer(vocab_size=600, special_tokens=special,
                                                                   show_progress=False))
    size = tokenizer.get_vocab_size()
    save_model(Llama(LlamaConfig(size, 256, 16, 2, 1, 2, 32)), folder, layout="huggingface")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "bos_token": "<s>"}))
    return folder


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


def test_a_tuned_models_folder_has_the_tokenizer_itself(chat_model, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    FOUR.to_json("train.json", orient="records")
    other = pretrained_folder(tmp_path / "other")
    arguments = ("--data", "train.json", "--validation", "train.json", "--max-steps", "1", "--style", "alpaca")
    code, _, err = call("finetune", *arguments, "--model", other, "--out", "one")
    assert code == 0, err
    assert not (tmp_path / "one" / "model" / "tokenizer_of.json").exists()
    wanted = call("generate", "--model", "one", "The sea", "--max-new-tokens", 3, "--temperature", 0)
    assert wanted[0] == 0 and wanted[1].startswith("The sea")
    shutil.rmtree(other)
    (tmp_path / "one" / "model").rename("moved")
    assert call("generate", "--model", "moved", "The sea", "--max-new-tokens", 3, "--temperature", 0)[1] == wanted[1]


def test_a_folder_of_the_first_edition_finds_its_tokenizer(chat_model, call, tmp_path):
    save_model(load_model(chat_model), tmp_path / "tuned")
    (tmp_path / "tuned" / "tokenizer_of.json").write_text(json.dumps({"model": str(chat_model)}))
    code, out, err = call("generate", "--model", tmp_path / "tuned", "The sea", "--max-new-tokens", 3)
    assert code == 0 and out.startswith("The sea"), err


def test_a_name_that_is_a_folder_here_is_that_folder(place, call):
    assert pretrain(call, out="gpt2")[0] == 0
    code, out, err = call("generate", "--model", "gpt2", "The", "--max-new-tokens", 2)
    assert code == 0 and out.startswith("The"), err
    (place / "gpt2-large").mkdir()
    code, out, err = call("generate", "--model", "gpt2-large", "The")
    assert (code, out) == (1, "") and "gpt2-large" in err and err.count("\n") == 1


def test_the_newest_checkpoint_of_a_run_that_goes_on_can_write(place, call):
    given = ("--set", "checkpoints.every_steps=2", "--set", 'checkpoints.allow=["max_steps"]')
    assert pretrain(call, *given)[0] == 0
    finished = call("generate", "--model", "out", "The", "--temperature", 0)[1]
    shutil.rmtree(place / "out" / "model")
    note = json.loads((place / "out" / "run.json").read_text())
    (place / "out" / "run.json").write_text(json.dumps({**note, "finished": None}))
    with FileLock(place / "out" / ".lock"), FileLock(place / "out" / "checkpoints" / ".lock"):
        before = tree(place)
        code, out, err = call("generate", "--model", "out", "The", "--temperature", 0)
        assert (code, out) == (0, finished), err
        assert "the model after step 4, from a checkpoint" in err
        name = "out/checkpoints/step-00000002"
        code, out, err = call("generate", "--model", name, "The", "--temperature", 0)
        assert code == 0 and "the model after step 2, from a checkpoint" in err
        assert tree(place) == before
    shutil.rmtree(place / "out" / "checkpoints")
    code, out, err = call("generate", "--model", "out", "The")
    assert (code, out) == (1, "") and "neither a model nor a checkpoint yet" in err and "wait" in err


def test_spare_ids_of_a_vocabulary_are_never_written(place, call, monkeypatch):
    from llmbook.formats.decoding import TextStream

    seen, push = [], TextStream.push
    monkeypatch.setattr(TextStream, "push", lambda stream, token: seen.append(token) or push(stream, token))
    assert pretrain(call, "--set", "model.vocab_size=2000", "--set", "data.tokenizer=257")[0] == 0
    code, out, err = call("generate", "--model", "out", "The", "--max-new-tokens", 60, "--temperature", 3, "--seed", 1)
    assert (code, err) == (0, "") and out.startswith("The")
    assert len(seen) > 20 and max(seen) < 257


def test_another_models_tokenizer_is_refused(place, call, tokenizer):
    assert pretrain(call)[0] == 0
    save_tokenizer(train_bpe(STORY, 280), "smaller.json")
    save_tokenizer(train_bpe(STORY[::-1], 300), "other.json")
    for name in ("smaller.json", "other.json"):
        code, out, err = call("generate", "--model", "out", "--tokenizer", name, "The")
        assert (code, out) == (1, "") and err.count("\n") == 1
        assert f"--tokenizer {name} is not the tokenizer" in err and "leave --tokenizer out" in err
    assert call("generate", "--model", "out", "--tokenizer", "tokenizer.json", "The", "--max-new-tokens", 2)[0] == 0
    (place / "out" / "model" / "tokenizer.json").unlink()  # its fingerprint is still beside the model
    code, _, err = call("generate", "--model", "out/model", "--tokenizer", "smaller.json", "The")
    assert code == 1 and "is not the tokenizer" in err
    assert call("generate", "--model", "out/model", "--tokenizer", "tokenizer.json", "The")[0] == 0


def test_a_device_and_a_number_format_are_chosen_or_refused(chat_model, call):
    given = ("generate", "--model", chat_model, "The", "--max-new-tokens", 3)
    assert call(*given, "--device", "cpu", "--dtype", "bfloat16")[0] == 0
    for device in ("gpu", "cuda:99", "meta", "cpu:x"):
        code, out, err = call(*given, "--device", device)
        assert (code, out) == (2, "") and err.count("\n") == 1
        assert repr(device) in err and "cpu, cuda or mps" in err
    code, _, err = call(*given, "--dtype", "int3")
    assert code == 2 and "'int3'" in err and "bfloat16" in err


def test_a_model_that_comes_with_the_package_is_known_by_its_name(chat_model, call, tmp_path, monkeypatch):
    monkeypatch.setattr("llmbook.formats.shipped.data_folder", lambda: tmp_path)
    code, _, err = call("generate", "--model", "storyteller", "x")
    assert code == 1 and "storyteller holds no model: install llmbook again" in err and err.count("\n") == 1
    chat_model.rename(tmp_path / "storyteller")
    code, out, err = call("generate", "--model", "storyteller", "--max-new-tokens", 3, "Tell")
    assert code == 0 and out.startswith("Tell"), err
    FOUR.to_json(tmp_path / "four.json", orient="records")
    code, _, err = call("finetune", "--model", "storyteller", "--data", tmp_path / "four.json", "--out",
                        tmp_path / "run", "--validation", "0.5", "--max-steps", 1)
    assert code == 0, err
    monkeypatch.chdir(tmp_path)  # a folder of that name is a path, as everywhere in the command
    assert call("generate", "--model", "storyteller", "--max-new-tokens", 0, "Tell")[:2] == (0, "Tell\n")
