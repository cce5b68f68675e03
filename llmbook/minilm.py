"""MiniLM, a published encoder of sentences, in the reader's own `Encoder`."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from .assets import fetch
from .encoder import Encoder, EncoderConfig

__all__ = ["load_minilm"]


def load_minilm(folder: Path | None = None) -> tuple[Encoder, Tokenizer]:
    """An `Encoder` with the weights of MiniLM, and its WordPiece tokenizer, which pads.

    folder: with config.json, model.safetensors and tokenizer.json of a BERT; by default what
        `fetch("minilm-l6")` brings. The vector of BERT's first segment is added to each position's.

    Source: Wang et al., "MiniLM" (2020); trained further for sentences as in Reimers and Gurevych,
        "Sentence-BERT" (2019).
    """
    folder = fetch("minilm-l6") if folder is None else folder
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    theirs = load_file(folder / "model.safetensors")
    sizes = [settings[name] for name in ("vocab_size", "max_position_embeddings", "hidden_size",
                                         "num_attention_heads", "num_hidden_layers")]
    model = Encoder(EncoderConfig(*sizes, norm_eps=settings["layer_norm_eps"]))
    first = theirs["embeddings.token_type_embeddings.weight"][0]
    ours = {"token_embedding.weight": theirs["embeddings.word_embeddings.weight"],
            "position_embedding.weight": theirs["embeddings.position_embeddings.weight"] + first}
    parts = {"attention.out": "attention.output.dense", "feed_forward.expand": "intermediate.dense",
             "attention_norm": "attention.output.LayerNorm",
             "feed_forward.contract": "output.dense", "feed_forward_norm": "output.LayerNorm"}
    for kind in ("weight", "bias"):
        ours[f"embedding_norm.{kind}"] = theirs[f"embeddings.LayerNorm.{kind}"]
        for layer in range(model.config.n_layers):
            block, place = f"blocks.{layer}", f"encoder.layer.{layer}"
            ours[f"{block}.attention.qkv.{kind}"] = torch.cat(
                [theirs[f"{place}.attention.self.{name}.{kind}"]
                 for name in ("query", "key", "value")])
            for name, name_there in parts.items():
                ours[f"{block}.{name}.{kind}"] = theirs[f"{place}.{name_there}.{kind}"]
    model.load_state_dict(ours)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding(pad_id=model.config.pad_id)
    return model.eval(), tokenizer
