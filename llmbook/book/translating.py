"""Chapter 10's helpers: PyTorch's transformer with our weights, baselines, scores with intervals, pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import tiktoken
import torch
from matplotlib.axes import Axes
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor, nn

from llmbook.encoder_decoder import Translator, translate
from llmbook.files import data_folder
from llmbook.training import History, load_model
from llmbook.translation_parts import END, START, encode_source
from llmbook.translations import Pair

from .figures import BLUE, GREY, ORANGE, heatmap
from .studies import read_study

__all__ = ["STUDY_FILE", "as_torch_transformer", "draw_alignment", "draw_schedules", "draw_training",
           "follow_attention", "kept_scores", "load_translator", "measure_translations", "nearest_translations",
           "score_table"]

STUDY_FILE = "translating.json"  # tools/translator.py writes it
SAMPLES = 1000  # of a bootstrap
METRICS = ("BLEU", "chrF")


@torch.no_grad()
def as_torch_transformer(ours: Translator) -> nn.Transformer:
    """PyTorch's transformer with the weights of ours. It adds a norm after its last blocks, which the paper does not
    have; these are taken off."""
    config = ours.config
    theirs = nn.Transformer(config.d_model, config.n_heads, config.n_layers, config.n_layers, 4 * config.d_model,
                            dropout=0.0, batch_first=True).eval()
    theirs.encoder.norm = theirs.decoder.norm = None
    for blocks, layers in ((ours.encoder, theirs.encoder.layers), (ours.blocks, theirs.decoder.layers)):
        for block, layer in zip(blocks, layers, strict=True):
            norms = [block.attention_norm, block.feed_forward_norm]
            attentions = [(layer.self_attn, [block.attention.qkv], block.attention.out)]
            cross = getattr(block, "cross_attention", None)
            if cross is not None:  # the notebook has a class of its own, so no isinstance
                norms.insert(1, block.cross_attention_norm)
                attentions.append((layer.multihead_attn, [cross.query, cross.key_value], cross.out))
            for number, norm in enumerate(norms, 1):
                getattr(layer, f"norm{number}").load_state_dict(norm.state_dict())
            for attention, parts, out in attentions:
                attention.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
                attention.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
                attention.out_proj.load_state_dict(out.state_dict())
            layer.linear1.load_state_dict(block.feed_forward.expand.state_dict())
            layer.linear2.load_state_dict(block.feed_forward.contract.state_dict())
    return theirs


def nearest_translations(known: Sequence[Pair], sentences: Sequence[str]) -> list[str]:
    """For each English sentence the German of the known English sentence that is most similar to it: by the cosine of
    their counts of 2 to 4 letters in a row, the rarer the weightier."""
    counts = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
    table = counts.fit_transform([pair.english for pair in known])
    return [known[int(place)].german for place in (counts.transform(sentences) @ table.T).toarray().argmax(axis=1)]


def measure_translations(outputs: Mapping[str, Sequence[str]], references: Sequence[str],
                         baseline: str) -> list[dict[str, Any]]:
    """BLEU and chrF of several systems on the same sentences, a row for each: the score, half of its 95 % interval over
    1,000 bootstrap samples of the sentences, and the p value of the paired bootstrap test against `baseline`, None for
    the baseline itself.

    Raises ValueError if no system is called so.

    Source: Papineni et al. (2002); Popović (2015); Post, "A Call for Clarity in Reporting BLEU Scores" (2018), whose
        sacrebleu computes all of it; the test: Koehn (2004).
    """
    if baseline not in outputs:
        raise ValueError(f"baseline is {baseline!r}: choose one of {', '.join(outputs)}")
    systems = [(name, list(outputs[name])) for name in sorted(outputs, key=baseline.__ne__)]  # the baseline first
    test = PairedTest(systems, {"BLEU": BLEU(), "chrF": CHRF()}, [list(references)], "bs", SAMPLES)
    found = {name.split("2")[0]: dict(zip([name for name, _ in systems], column, strict=True))
             for name, column in test()[1].items() if name != "System"}
    rows = []
    for name in outputs:
        row: dict[str, Any] = {"system": name}
        for metric in METRICS:
            result = found[metric][name]
            row |= {metric: round(float(result.score), 2), f"{metric}_half": round(float(result.ci), 2),
                    f"{metric}_p": None if name == baseline else round(float(result.p_value), 4)}
        rows.append(row)
    return rows


def score_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows of `measure_translations`, to be read."""
    def cells(row: Mapping[str, Any], metric: str) -> dict[str, str]:
        p = row[f"{metric}_p"]
        return {metric: f"{row[metric]:.1f} ± {row[f'{metric}_half']:.1f}",
                f"p of {metric}": "" if p is None else f"{p:.3f}"}

    return pd.DataFrame({row["system"]: {**cells(row, "BLEU"), **cells(row, "chrF")} for row in rows}).T


def kept_scores() -> pd.DataFrame:
    """The scores on the test sentences that tools/translator.py has kept, as `score_table` writes them."""
    return score_table(read_study(STUDY_FILE, "python tools/translator.py")["test"])


def load_translator() -> Translator:
    """The translator that tools/translator.py trained for longer. It comes with the book (`data/translator`), and reads
    the ids of the tokenizer that the chapter learns."""
    return load_model(data_folder() / "translator", "cpu", torch.float32)


@torch.no_grad()
def follow_attention(model: Translator, tokenizer: tiktoken.Encoding, english: str
                     ) -> tuple[str, Tensor, list[str], list[str]]:
    """A translation, its cross-attention weights in the last block, the mean over the heads (written tokens, source
    tokens), and the pieces of both."""
    german = translate(model, tokenizer, [english])[0]
    source = encode_source(tokenizer, [english])
    start_id, end_id = (tokenizer.encode_single_token(token) for token in (START, END))
    ids = [*tokenizer.encode_ordinary(german), end_id]
    memory, mask = model.encode(source)
    x = model.embed(torch.tensor([[start_id, *ids[:-1]]]))
    for block in model.blocks:
        key, value = block.cross_attention.read(memory)
        weights = block.cross_attention.weights(block.attend(x), key, mask)[0].mean(dim=0)
        x = block(x, key, value, mask)
    pieces = [[tokenizer.decode([token]) for token in row] for row in (ids, source[0].tolist())]
    return german, weights, *pieces


def draw_alignment(weights: Tensor, translation: Sequence[str], source: Sequence[str]) -> Axes:
    """Cross-attention weights, (translation tokens, source tokens), one row for each written token."""
    return heatmap(weights, list(translation), list(source), "cross-attention weights")


def draw_schedules(rates: Mapping[str, Sequence[float]]) -> Axes:
    """The learning rate of each step, under several schedules."""
    _, ax = plt.subplots(figsize=(5.2, 2.8))
    for (label, row), colour in zip(rates.items(), (BLUE, ORANGE, GREY)):
        ax.plot(range(len(row)), row, color=colour, label=label)
    ax.set(xlabel="step", ylabel="learning rate", title="Learning rates")
    ax.legend()
    return ax


def draw_training(history: History) -> Axes:
    """The training loss, as a mean over the last 30 steps, and the validation loss where it was measured. Both with
    label smoothing."""
    frame = history.to_frame().reset_index()
    _, ax = plt.subplots(figsize=(5.2, 2.8))
    ax.plot(frame["step"], frame["loss"].rolling(30, min_periods=1).mean(), color=GREY, label="training")
    if "val_loss" in frame:
        measured = frame.dropna(subset=["val_loss"])
        ax.plot(measured["step"], measured["val_loss"], "o-", color=BLUE, label="validation")
    ax.set(xlabel="step", ylabel="loss, nats per token", title="Smoothed loss while the translator learns")
    ax.legend()
    return ax
