"""The settings of `llmbook.reasoning.grpo`, and what its samples and rewards must be."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .diagnosis import check_token_ids
from .training_run import TrainingConfig

__all__ = ["GRPOConfig", "Reward", "Writer", "ask_reward", "check_prompts"]

Reward = Callable[[Sequence[int], Sequence[Tensor]], Sequence[float]]
"""`reward(places, responses)`: a number for each response, ids (tokens,), to the prompt at that place in the list."""

Writer = Callable[[Any, Sequence[Tensor]], Sequence[tuple[Tensor, Tensor]]]
"""`write(model, prompts)`: for each prompt, ids (tokens,), the whole text (tokens,) and which of its tokens the model
chose (tokens,), bool."""


@dataclass(frozen=True)
class GRPOConfig(TrainingConfig):
    """How `llmbook.reasoning.grpo` trains: the settings of a `TrainingConfig`, some with other defaults, and these.

    Args:
        prompts_per_step, group_size: prompts of a step, and samples of each.
        max_new_tokens, stop_tokens, temperature: of the sampling, as in `llmbook.generation.generate`.
        updates: optimizer steps with each batch of samples; a step counts in `max_steps`.
        clip: how far the ratio of new to old probability may move an update, from 1 - clip to 1 + clip.
        kl: weight of the distance to the model at the start; 0 needs no copy of it.
        by_std: divide a group's advantages by their standard deviation.
        by_length: divide a response's sum over tokens by its own length, not by `max_new_tokens`.
        seed: of the order of the prompts. What is sampled depends on PyTorch's random state.

    Raises ValueError for a number out of range.

    Source: Shao et al., "DeepSeekMath" (2024), section 4.1, where both divisions are made; Liu et al., "Understanding
        R1-Zero-Like Training" (2025), section 3, leaves both out.
    """

    learning_rate: float = 1e-3
    warmup_steps: int = 5
    final_fraction: float = 0.3
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    precision: str = "float32"
    prompts_per_step: int = 24
    group_size: int = 16
    max_new_tokens: int = 64
    stop_tokens: tuple[int, ...] = ()
    temperature: float = 1.0
    updates: int = 1
    clip: float = 0.2
    kl: float = 0.0
    by_std: bool = False
    by_length: bool = False
    seed: int = 0

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "stop_tokens", tuple(int(token) for token in self.stop_tokens))  # frozen
        least = {"prompts_per_step": 1, "group_size": 2, "max_new_tokens": 1, "updates": 1}
        for name, smallest in least.items():
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, int) or number < smallest:
                why = ": one sample has nothing to be compared with" if name == "group_size" else ""
                raise ValueError(f"{name} is {number!r}: give a whole number from {smallest} on{why}")
        for name, above in (("temperature", 0.0), ("clip", 0.0), ("kl", None)):
            number = getattr(self, name)
            if not math.isfinite(number) or number < 0 or number == above:
                raise ValueError(f"{name} is {number!r}: give a finite number "
                                 f"{'above 0' if above == 0.0 else 'from 0 on'}")


def check_prompts(prompts: Sequence[Tensor], config: GRPOConfig, model_config: Any) -> list[Tensor]:
    """The prompts as tensors of ids, each (tokens,). Raises ValueError, with its place from 0, for one that is empty,
    holds an unknown id or leaves no room for `max_new_tokens` in the context; and if there is none."""
    checked = [torch.as_tensor(prompt) for prompt in prompts]
    if not checked:
        raise ValueError("there is no prompt: give at least one")
    room = model_config.context_length - config.max_new_tokens
    for place, prompt in enumerate(checked):
        if not 0 < prompt.numel() <= room:
            raise ValueError(f"prompt {place} has {prompt.numel()} tokens: the context of "
                             f"{model_config.context_length} and max_new_tokens ({config.max_new_tokens}) leave room "
                             f"for 1 to {max(room, 0)}")
        try:
            check_token_ids(prompt[None], model_config.vocab_size, model_config.context_length)
        except ValueError as problem:
            raise ValueError(f"prompt {place}: {problem}") from None
    return checked


def ask_reward(reward: Reward, places: Sequence[int], responses: Sequence[Tensor]) -> Tensor:
    """The rewards (responses,), float64. Raises ValueError for a wrong number of them and for one that is not finite,
    RuntimeError if the reward raises: the line names the kind of error and the prompts."""
    try:
        given = reward(places, responses)
        rewards = torch.as_tensor([float(value) for value in given], dtype=torch.float64)
    except Exception as error:
        raise RuntimeError(f"the reward failed with {type(error).__name__}: {error}. It was asked about responses to "
                           f"the prompts {min(places)} to {max(places)}; the model is as it was before") from error
    if len(rewards) != len(responses):
        raise ValueError(f"the reward gave {len(rewards)} numbers for {len(responses)} responses: give one for each")
    if not bool(rewards.isfinite().all()):
        bad = int((~rewards.isfinite()).nonzero()[0])
        raise ValueError(f"a reward for prompt {places[bad]} is {rewards[bad].item()}: it must be finite")
    return rewards
