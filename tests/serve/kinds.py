"""A small model of each kind that the server answers with, and what it answers to one request alone and to several."""

import threading
import time

import torch

from llmbook.experts import ExpertsConfig, ExpertsLlama
from llmbook.gemma import Gemma, GemmaConfig
from llmbook.generation import generate
from llmbook.gpt import GPT, GPTConfig
from llmbook.llama import Llama, LlamaConfig
from llmbook.sequence_mixers import HybridConfig, HybridLlama
from llmbook.serve.answers import Ended
from llmbook.serve.engine import Engine, Request

LLAMA = dict(vocab_size=300, context_length=96, d_model=32, n_heads=4, n_kv_heads=2, n_layers=2, d_hidden=64)


def _hybrid(*mixers: str, **changes):
    return lambda: HybridLlama(HybridConfig(**{**LLAMA, "window": 7, "chunk": 8, "mixers": mixers, **changes}))


ATTENTION = {
    "gpt": lambda: GPT(GPTConfig(300, 96, 32, 4, 2)),  # positions are added, and left in training mode: dropout
    "llama": lambda: Llama(LlamaConfig(**LLAMA)),
    "window": lambda: Llama(LlamaConfig(**LLAMA, window=7)),
    "gemma": lambda: Gemma(GemmaConfig(**{**LLAMA, "d_head": 8}, window=5)),
}
STATES = {
    "linear": _hybrid("linear"),
    "delta": _hybrid("delta"),
    "gated delta": _hybrid("gated delta"),
    "only windows": _hybrid("window"),
    "a window of one token": _hybrid("window", "linear", window=1),
    "hybrid": _hybrid("gated delta", "gated delta", "gated delta", "attention", n_layers=4),
    "all mixers": _hybrid("attention", "window", "linear", "delta", "gated delta", n_layers=5),
    "experts": lambda: ExpertsLlama(ExpertsConfig(**LLAMA, mixers=("gated delta", "attention"), n_experts=4,
                                                  d_expert=24, d_shared=16)),
}
MODELS = {**ATTENTION, **STATES}


def shaken(kind: str):
    """Its weights drawn so that every one counts."""
    torch.manual_seed(0)
    model = MODELS[kind]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


def prompts(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 300, (length,), generator=generator).tolist() for length in lengths]


def alone(model, request: Request) -> tuple[int, ...]:
    sampling = request.sampling
    ids = generate(model, torch.tensor([request.ids]), request.max_new_tokens, sampling.temperature, sampling.top_k,
                   sampling.top_p, request.ends, request.seed)[0].tolist()
    new = ids[len(request.ids) :]
    ends = [place for place, token in enumerate(new) if token in request.ends]
    return tuple(new[: ends[0] + 1] if ends else new)


class Told:
    """Collects a request's events."""

    def __init__(self):
        self.events, self.over = [], threading.Event()

    def __call__(self, event):
        self.events.append(event)
        if isinstance(event, Ended):
            self.over.set()

    @property
    def ended(self) -> Ended:
        assert self.over.wait(30), "no end came"
        return self.events[-1]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events[:-1])


def together(engine: Engine, requests: list[Request], space: float = 0.0) -> list[Told]:
    told = [Told() for _ in requests]
    for request, listener in zip(requests, told):
        engine.submit(request, listener)
        time.sleep(space)  # so that some join while others are on their way; equal in every case
    assert all(one.ended for one in told)
    return told
