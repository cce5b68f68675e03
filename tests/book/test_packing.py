"""Packing a model into the book's data: what is there afterwards, and after a packing that was cut off."""

import pytest
import torch

from llmbook.book import packing
from llmbook.open_weights import load_pretrained
from llmbook.text import load_tokenizer
from llmbook.training import load_model
from tests.support.small_models import small_model


@pytest.fixture(scope="module")
def words():
    return load_pretrained("storyteller", device="cpu")[1]


def test_the_new_model_takes_the_place_of_the_old_one(tmp_path, words):
    for spread in (0.1, 0.2):  # other weights, so another name for their file
        model = small_model("GPT", 16, 32, spread)
        packing.pack_model(model, words, tmp_path / "packed")
    found = load_model(tmp_path / "packed", "cpu", torch.float32)
    assert all(map(torch.equal, found.state_dict().values(), model.float().state_dict().values()))
    assert len(list((tmp_path / "packed").glob("model-*.safetensors"))) == 1
    assert load_tokenizer(tmp_path / "packed" / "tokenizer.json").n_vocab == words.n_vocab


@pytest.mark.parametrize("end", ["config.json", ".safetensors"])
def test_until_it_is_complete_the_old_model_can_be_loaded(tmp_path, words, monkeypatch, end):
    old = small_model("GPT", 16, 32, 0.1)
    packing.pack_model(old, words, tmp_path)
    write = packing.replace_file

    def cut_off(path, content):
        if path.name.endswith(end):
            raise OSError("the disk is full")
        write(path, content)

    monkeypatch.setattr(packing, "replace_file", cut_off)
    with pytest.raises(OSError, match="full"):
        packing.pack_model(small_model("GPT", 16, 32, 0.2), words, tmp_path)
    found = load_model(tmp_path, "cpu", torch.float32)
    assert all(map(torch.equal, found.state_dict().values(), old.float().state_dict().values()))
