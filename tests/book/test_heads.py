"""The attention weights that chapter 3 reads from a trained model are those with which the model computes."""

import pytest
import torch
from torch import nn

from llmbook.book.heads import attention_maps, noun_weights, subject_sentences, word_attention
from llmbook.gpt import GPT, GPTConfig
from llmbook.llama import Llama, LlamaConfig

IDS = [3, 1, 4, 1, 5, 9]
LLAMA = LlamaConfig(vocab_size=11, context_length=16, d_model=24, n_heads=6, n_kv_heads=2, n_layers=2, d_hidden=32)
WINDOW = LlamaConfig(vocab_size=11, context_length=16, d_model=24, n_heads=6, n_kv_heads=2, n_layers=2, d_hidden=32,
                     window=3, qk_norm=True)


@pytest.mark.parametrize("make", [lambda: GPT(GPTConfig(11, 16, 24, 6, 2, dropout=0.5)), lambda: Llama(LLAMA),
                                  lambda: Llama(WINDOW)], ids=["gpt", "llama", "window and norms"])
def test_the_weights_times_the_values_are_what_each_layer_gives(make):
    torch.manual_seed(0)
    model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    seen = []

    def check(layer: nn.Module, inputs: tuple, options: dict, output: torch.Tensor) -> None:
        value = layer.project(inputs[0])[2]  # the rotation does not touch it: (1, n_kv_heads, tokens, d_head)
        seen.append((value.repeat_interleave(layer.n_heads // layer.n_kv_heads, dim=1), layer.out, output))

    maps = attention_maps(model, IDS)
    assert maps.shape == (2, 6, 6, 6) and model.training  # dropout was off only while it looked
    model.eval()
    for block in model.blocks:
        block.attention.register_forward_hook(check, with_kwargs=True)
    with torch.no_grad():
        model.hidden_states(torch.tensor([IDS]))
    for layer_maps, (value, out, output) in zip(maps, seen, strict=True):
        context = (layer_maps @ value[0]).transpose(0, 1).flatten(1)
        torch.testing.assert_close(out(context), output[0])
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 6, 6))
    assert not maps.triu(1).any()


def test_no_hook_stays_behind():
    model = Llama(LLAMA)
    attention_maps(model, IDS)
    assert not any(block.attention._forward_pre_hooks for block in model.blocks)


class Pieces:
    """A tokenizer that cuts words after three characters."""

    def encode(self, text: str) -> list[int]:
        self.pieces = []
        for number, word in enumerate(text.split(" ")):
            word = " " * bool(number) + word
            self.pieces += [word[start : start + 4] for start in range(0, len(word), 4)]
        return list(range(len(self.pieces)))

    def decode(self, ids: list[int]) -> str:
        return "".join(self.pieces[token] for token in ids)


def test_pieces_of_a_word_are_taken_together():
    torch.manual_seed(0)
    model, tokenizer = Llama(LLAMA), Pieces()
    words, found = word_attention(model, tokenizer, "a kettle it")
    assert tokenizer.pieces == ["a", " ket", "tle", " it"]
    maps = attention_maps(model, range(4))
    assert words == ["a", "kettle", "it"] and found.shape == (2, 6, 3, 3)
    torch.testing.assert_close(found[:, :, 2, 1], maps[:, :, 3, 1] + maps[:, :, 3, 2])
    torch.testing.assert_close(found[:, :, 1, 0], maps[:, :, 2, 0])
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 6, 3))


def test_weights_to_the_two_nouns():
    torch.manual_seed(0)
    model, tokenizer = Llama(LlamaConfig(64, 64, 24, 6, 2, 2, 32)), Pieces()
    sentences = subject_sentences("choose")[:2]
    subject, other = noun_weights(model, tokenizer, sentences, attending="because")
    assert subject.shape == other.shape == (2, 2, 6)
    words, maps = word_attention(model, tokenizer, sentences[1].text)
    torch.testing.assert_close(subject[1], maps[:, :, words.index("because"), words.index(sentences[1].subject)])
    torch.testing.assert_close(other[1], maps[:, :, words.index("because"), words.index(sentences[1].other)])


def test_sentences_to_choose_with_and_to_measure_on_share_no_subject():
    choose, measure = subject_sentences("choose"), subject_sentences("measure")
    assert len(choose) == len(measure) == 20
    assert not {sentence.subject for sentence in choose} & {sentence.subject for sentence in measure}
    for sentence in choose + measure:
        words = sentence.text.split(" ")
        assert words.count(sentence.subject) == words.count(sentence.other) == words.count("it") == 1
        assert max(words.index(sentence.subject), words.index(sentence.other)) < words.index("it")
    first = [s.text.index(s.subject) < s.text.index(s.other) for s in choose]
    assert sum(first) == 10  # the place of a word does not tell which one is the subject
    with pytest.raises(ValueError, match="part is 'test': it must be \"choose\" or \"measure\""):
        subject_sentences("test")
