"""The model families that the book knows: one entry each, read by everything that saves, loads, converts or names them.

An entry names its classes as "module:name", and they are imported when they are needed and not before. So this module
stands below all models, and `import llmbook` stays quick. Nothing but what stands here is ever imported for a file.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

__all__ = ["Family", "family_named", "family_of", "family_of_kind", "has_plain_head", "known_families",
           "register_family"]


@dataclass(frozen=True)
class Family:
    """One kind of model.

    Args:
        name: the class's name, as `config.json` of a saved model has it: "GPT".
        model, config: where the two classes are, "module:name". `model(config)` builds one, or
            `model.from_config(config)` where it has that.
        kind: the word for it in the command's settings: "gpt". "" for models that write no text.
        layout: where the `llmbook.formats.layouts.Layout` is, which says how other programs store such a model;
            None if none does.
        hugging_face: the values of `model_type` in a Hugging Face config.json that are of this family.
        gguf: the values of `general.architecture` in a GGUF file that are.
        plain_head: whether `lm_head` is the product with the weight of `output`, or with that of `token_embedding`
            where `output` is None or missing, and nothing else. (`llmbook.head_loss` then need not call it.)
        loss: what pretraining lowers, "module:name": a `llmbook.protocols.LossFunction`, or a class of such that needs
            no arguments.
    """

    name: str
    model: str
    config: str
    kind: str = ""
    layout: str | None = None
    hugging_face: tuple[str, ...] = ()
    gguf: tuple[str, ...] = ()
    plain_head: bool = False
    loss: str = "llmbook.training:next_token_loss"

    @property
    def model_class(self) -> type[nn.Module]:
        return _find(self.model)

    @property
    def config_class(self) -> type:
        return _find(self.config)

    @property
    def loss_function(self) -> Callable[..., torch.Tensor]:
        found = _find(self.loss)
        return found() if isinstance(found, type) else found

    def build(self, config: Any) -> nn.Module:
        """A new model of this family."""
        return getattr(self.model_class, "from_config", self.model_class)(config)

    def find_layout(self) -> Any:
        """The family's `Layout`. Raises ValueError if it has none."""
        if self.layout is None:
            raise ValueError(f"no other program's format is known for the family {self.name}: save it with "
                             "layout='llmbook'")
        return _find(self.layout)


def _find(place: str) -> Any:
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)


_FAMILIES: dict[str, Family] = {family.name: family for family in (
    Family("GPT", "llmbook.gpt:GPT", "llmbook.gpt:GPTConfig", "gpt", "llmbook.formats.gpt2:LAYOUT",
           hugging_face=("gpt2",), gguf=("gpt2",), plain_head=True),
    Family("Llama", "llmbook.llama:Llama", "llmbook.llama:LlamaConfig", "llama", "llmbook.formats.llama:LAYOUT",
           hugging_face=("llama", "mistral", "qwen2", "qwen3", "smollm3"), gguf=("llama", "qwen2", "qwen3", "smollm3"),
           plain_head=True),
    Family("Gemma", "llmbook.gemma:Gemma", "llmbook.gemma:GemmaConfig", "gemma", "llmbook.formats.gemma:LAYOUT",
           hugging_face=("gemma3_text",), gguf=("gemma3",), plain_head=True),
    Family("HybridLlama", "llmbook.sequence_mixers:HybridLlama", "llmbook.sequence_mixers:HybridConfig", "hybrid",
           plain_head=True),
    Family("ExpertsLlama", "llmbook.experts:ExpertsLlama", "llmbook.experts:ExpertsConfig", "experts",
           plain_head=True, loss="llmbook.experts:ExpertLoss"),
    Family("TextClassifier", "llmbook.classification:TextClassifier", "llmbook.classification:ClassifierConfig"),
    Family("Translator", "llmbook.encoder_decoder:Translator", "llmbook.encoder_decoder:TranslatorConfig"),
    Family("Encoder", "llmbook.encoder:Encoder", "llmbook.encoder:EncoderConfig"),
)}


def known_families() -> tuple[Family, ...]:
    """All entries, in the order in which they were registered."""
    return tuple(_FAMILIES.values())


def register_family(family: Family) -> None:
    """Add an entry, or replace the one of the same name. From then on `save_model`, `load_model`, `load_pretrained`,
    the exporter and the command know it."""
    _FAMILIES[family.name] = family


def family_named(name: str) -> Family:
    """The entry whose class has this name. Raises ValueError that lists the known ones."""
    if name not in _FAMILIES:
        raise ValueError(f"no model family {name!r}: known are {', '.join(_FAMILIES)} (see register_family)")
    return _FAMILIES[name]


def family_of(model: nn.Module) -> Family:
    """The entry of a model's class, or of the nearest class that it derives from."""
    for kind in type(model).__mro__:
        if kind.__name__ in _FAMILIES:
            return _FAMILIES[kind.__name__]
    raise ValueError(f"the class {type(model).__name__} is not known: register_family(Family(...)) first")


@torch.compiler.assume_constant_result
def has_plain_head(kind: type) -> bool:
    """Whether a class computes its logits as a family with a plain head does, with the very same `lm_head`."""
    for base in kind.__mro__:
        family = _FAMILIES.get(base.__name__)
        if family is not None and family.plain_head:
            return getattr(kind, "lm_head", None) is family.model_class.lm_head
    return False


def family_of_kind(kind: str, of: str = "kind") -> Family:
    """The entry for a word of a settings file (`of` = "kind"), of a Hugging Face config.json ("hugging_face") or of a
    GGUF file ("gguf"). Raises ValueError that lists what is known there."""
    known: dict[str, Family] = {}
    for family in _FAMILIES.values():
        words = getattr(family, of)
        known.update(dict.fromkeys([words] if isinstance(words, str) else words, family))
    known.pop("", None)
    if kind not in known:
        raise ValueError(f"models of the family {kind!r} are not supported: known are {', '.join(known)}")
    return known[kind]
