"""For the appendix on adapters: training one on a classifier, what training keeps in memory, and the stored study."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

from ..classification import ClassificationLoss, PreparedTexts, TextClassifier, config_for, text_loader
from ..extras import load_extra
from ..lora import FourBitLinear
from ..protocols import LossFunction
from ..training import History, train
from .figures import BLUE, ORANGE
from .storytelling import Share
from .studies import STUDENT

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TABLE_NAME", "count_weights", "draw_runs", "draw_study", "lora_study", "right_share", "study_summary",
           "train_adapter", "training_memory"]

TABLE_NAME = "lora.json"  # tools/lora.py writes it


def train_adapter(classifier: TextClassifier, training: PreparedTexts, epochs: int, learning_rate: float, seed: int = 0,
                  **settings: Any) -> History:
    """Train what is trainable in a classifier, in place, by `llmbook.training.train`; the settings are those of
    `finetune_classifier`, which would choose itself what is trainable."""
    loader = text_loader(training.inputs, training.targets, 16, True, seed)
    loss = ClassificationLoss(training.blocks)
    return train(classifier, loader, loss, config_for(loader, epochs, learning_rate, **settings))


def training_memory(model: nn.Module, loss_fn: LossFunction, batch: Sequence[Tensor],
                    part: nn.Module | None = None) -> dict[str, int]:
    """Bytes that a training step needs, counted, not measured: what they are spent on -> bytes.

    Weights of `part` (all of the model if None), gradients and AdamW's two numbers for each trainable one of them, and
    what the forward pass keeps for the backward pass, weights left out.
    """
    part = model if part is None else part
    weights = [*part.parameters(), *part.buffers()]
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = loss_fn(model, *batch)
    trained = sum(p.numel() * p.element_size() for p in part.parameters() if p.requires_grad)
    del loss
    return {"weights": sum(tensor.numel() * tensor.element_size() for tensor in weights), "gradients": trained,
            "AdamW": 2 * trained, "kept for the backward pass": sum(kept.values())}


def count_weights(model: nn.Module) -> tuple[int, int]:
    """How many weights a model has that are trainable, and how many in all, those of 4 bits included."""
    packed = sum(2 * module.packed.numel() for module in model.modules() if isinstance(module, FourBitLinear))
    return (sum(p.numel() for p in model.parameters() if p.requires_grad),
            sum(p.numel() for p in model.parameters()) + packed)


def lora_study() -> pd.DataFrame:
    """The runs of tools/lora.py, one a row: method, seed, learning_rate, trained, seconds, n, right, loss. Raises
    FileNotFoundError if it has not been run."""
    table = resources.files(__package__).joinpath(TABLE_NAME)
    if not table.is_file():
        raise FileNotFoundError(f"{table} is missing: make it with `python tools/lora.py`, some minutes of one core")
    return load_extra("pandas").DataFrame(json.loads(table.read_text(encoding="utf-8"))["runs"])


def study_summary() -> pd.DataFrame:
    """The stored study, one row for each way to fine-tune, by trainable weights: how many are trained, the learning
    rate, the seeds, the mean share right in % with half of its 95 % interval over the seeds, and the worst seed."""
    study = lora_study()
    study["share"] = 100 * study["right"] / study["n"]
    groups = study.groupby("method")
    seeds, worst = groups["seed"].count(), study.loc[groups["right"].idxmin()].set_index("method")["seed"]
    return load_extra("pandas").DataFrame({
        "trained": groups["trained"].first(), "rate": groups["learning_rate"].first(), "seeds": seeds,
        "right, %": groups["share"].mean(), "± (95%, t)": groups["share"].std() * seeds.map(STUDENT) / seeds**0.5,
        "worst seed": worst}).sort_values("trained")


def draw_study() -> Axes:
    """Draw the share of test messages right by trainable weights: a dot for each seed, a bar at the mean. Adapters are
    orange and named by their rank; the head, the last block and the last two blocks trained whole are blue."""
    _, ax = plt.subplots(figsize=(5.5, 3.6))
    study = lora_study()
    for method, points in study.groupby("method"):
        colour = ORANGE if method.startswith("rank") else BLUE
        shares = 100 * points["right"] / points["n"]
        ax.plot(points["trained"], shares, "o", color=colour, alpha=0.4)
        ax.plot(points["trained"].iloc[0], shares.mean(), "_", color=colour, markersize=16)
        ax.annotate(method.removeprefix("rank ").split(" ")[0], (points["trained"].iloc[0], 98.2), ha="center",
                    color=colour)
    ax.set(xscale="log", xlabel="trainable weights", ylabel="test messages right, %", ylim=(90, 99.2),
           title="Adapters by rank (orange), others (blue)")
    return ax


def draw_runs(runs: Mapping[str, History]) -> Axes:
    """Draw the training loss of two runs by step, the first blue, the second orange."""
    _, ax = plt.subplots(figsize=(5.5, 3))
    for (name, history), colour in zip(runs.items(), (BLUE, ORANGE), strict=True):
        ax.plot([step["step"] for step in history.steps], [step["loss"] for step in history.steps], color=colour,
                label=name)
    ax.set(title="Training loss, one run each: it falls", xlabel="step", ylabel="loss of one batch, nats")
    ax.legend()
    return ax


def right_share(right: Tensor) -> Share:
    """How many of some cases are right, of one boolean for each."""
    return Share(int(right.sum()), len(right))
