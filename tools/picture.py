"""Draw the README's picture from a model trained on the book's story: `python tools/picture.py` (a minute or two)."""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

from llmbook.book.corpora import data_folder
from llmbook.book.figures import BLUE, ORANGE, heatmap, token_strip, use_style
from llmbook.gpt import GPT, GPTConfig
from llmbook.text import make_dataloader, read_text, train_bpe
from llmbook.training import TrainingConfig, next_token_loss, train

SENTENCE = "The tide comes to the Dip first and leaves it last."


def attention_weights(model: GPT, ids: torch.Tensor, layer: int) -> torch.Tensor:
    """The weights of every head of one layer, (n_heads, tokens, tokens), computed by hand from its queries and keys."""
    seen = {}
    attention = model.blocks[layer].attention
    handle = attention.qkv.register_forward_hook(lambda module, inputs, output: seen.update(qkv=output))
    with torch.no_grad():
        model(ids)
    handle.remove()
    query, key, _ = seen["qkv"][0].unflatten(-1, (3, attention.n_heads, -1)).permute(1, 2, 0, 3)
    scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5  # (n_heads, tokens, tokens)
    future = torch.ones_like(scores[0], dtype=torch.bool).triu(1)
    return scores.masked_fill(future, float("-inf")).softmax(dim=-1)


def main() -> None:
    use_style()
    torch.manual_seed(0)
    text = read_text(data_folder() / "twenty_in_hand.txt")
    cut = text.index("\n", int(0.9 * len(text)))
    tokenizer = train_bpe(text[:cut], vocab_size=768)
    train_ids, val_ids = tokenizer.encode(text[:cut]), tokenizer.encode(text[cut:])
    model = GPT(GPTConfig(tokenizer.n_vocab, context_length=64, d_model=128, n_heads=4, n_layers=3, dropout=0.0))
    loader = make_dataloader(train_ids, 64, batch_size=16, stride=32, seed=0)
    config = TrainingConfig(max_steps=500, learning_rate=2e-3, warmup_steps=30, eval_every=20)
    history = train(model, loader, next_token_loss, config, make_dataloader(val_ids, 64, 4, seed=0)).to_frame()
    model.eval()

    ids = tokenizer.encode(SENTENCE)
    pieces = [tokenizer.decode([token]) for token in ids]
    figure = plt.figure(figsize=(11, 4.9))
    grid = figure.add_gridspec(2, 2, height_ratios=(0.5, 4), width_ratios=(1.15, 1))
    token_strip(pieces, ids, "1  A text becomes tokens", per_line=80, ax=figure.add_subplot(grid[0, :]))
    weights = attention_weights(model, torch.tensor([ids]), layer=1)
    head = weights[:, 1:, 0].mean(dim=1).argmin()  # many heads rest on the first token; show one that searches
    labels = [piece.replace(" ", "·") for piece in pieces]
    ax = heatmap(weights[head], labels, labels, "2  Each token looks at the ones before it", "looked at",
                 "looking", form=None, limits=(0, 1), colorbar=False, ax=figure.add_subplot(grid[1, 0]))
    ax.tick_params(axis="x", rotation=70)
    ax = figure.add_subplot(grid[1, 1])
    ax.plot(history["loss"].rolling(5, min_periods=1).mean(), color=BLUE, label="text it trains on")
    val = history["val_loss"].dropna()
    ax.plot(val.index, val, color=ORANGE, marker="o", markersize=3, label="text held out")
    ax.set(title="3  A small GPT learns a story by heart", xlabel="training step",
           ylabel="loss (nats a token)", ylim=(0, None))
    ax.legend()
    path = Path(__file__).resolve().parents[1] / "docs" / "overview.png"
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
